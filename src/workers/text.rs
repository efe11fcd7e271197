//! Text of bounded length that can lie in shared memory.

/// Up to `N` bytes of UTF-8; what is longer is cut at a character's end.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    length_bytes: u16,
    bytes: [u8; N],
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Text<N> {
        Text { length_bytes: 0, bytes: [0; N] }
    }
}

impl<const N: usize> Text<N> {
    pub fn cut(text: &str) -> Text<N> {
        let mut end = text.len().min(N).min(u16::MAX as usize);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = [0; N];
        bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        Text { length_bytes: end as u16, bytes }
    }

    /// The text, `None` if it is empty.
    pub fn get(&self) -> Option<String> {
        let bytes = &self.bytes[..usize::from(self.length_bytes).min(N)];
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    #[test]
    fn cuts_at_a_characters_end() {
        assert_eq!(Text::<6>::cut("aäöü").get().as_deref(), Some("aäö"));
        assert_eq!(Text::<5>::cut("123456").get().as_deref(), Some("12345"));
        assert_eq!(Text::<5>::cut("").get(), None);
        assert_eq!(Text::<2>::cut("€").get(), None);
    }
}
