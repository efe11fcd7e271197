//! How far a node keeps an ordinary sequence ahead of another node's, so that it repeats nothing when it takes over.
//!
//! Between two looks at the other node it may draw on. So a copy is put ahead by a safety distance of what was drawn
//! there: at least [`MIN_DISTANCE`] values, and more the more was drawn since the last look. It is moved again once less
//! than half of that is left, so that a sequence which rests is never written.

/// In values, not in numbers: a sequence may step by more than one.
pub const MIN_DISTANCE: i64 = 1000;

/// Of what was drawn between two looks, so often as much may be drawn until the next one.
const FACTOR: i64 = 4;

/// A sequence of the other node, and what is here of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    pub increment: i64,
    /// The last value that was drawn there, now and at the look before.
    pub drawn: i64,
    pub drawn_before: Option<i64>,
    /// The last value here, and the bound in the direction in which it goes.
    pub here: i64,
    pub bound: i64,
}

/// To where the sequence here is to be moved, if it has to be.
pub fn target(look: Look) -> Option<i64> {
    let step = i128::from(look.increment);
    if step == 0 {
        return None;
    }
    let ahead = |of: i64, than: i64| (i128::from(of) - i128::from(than)) * step.signum();
    let drawn = look.drawn_before.map_or(0, |before| ahead(look.drawn, before).max(0) / step.abs());
    let distance = (drawn * i128::from(FACTOR)).max(i128::from(MIN_DISTANCE)) * step.abs();
    if ahead(look.here, look.drawn) >= distance / 2 {
        return None;
    }
    let wanted = i128::from(look.drawn) + distance * step.signum();
    let bound = i128::from(look.bound);
    let target = if step > 0 { wanted.min(bound) } else { wanted.max(bound) };
    let target = i64::try_from(target).unwrap_or(look.bound);
    (ahead(target, look.here) > 0).then_some(target)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(drawn: i64, drawn_before: Option<i64>, here: i64) -> Look {
        Look { increment: 1, drawn, drawn_before, here, bound: i64::MAX }
    }

    #[test]
    fn a_copy_is_moved_when_less_than_half_of_the_distance_is_left() {
        assert_eq!(target(look(100, None, 1)), Some(1100));
        assert_eq!(target(look(100, None, 1100)), None);
        assert_eq!(target(look(600, Some(600), 1100)), None);
        assert_eq!(target(look(601, Some(600), 1100)), Some(1601));
        assert_eq!(target(look(5601, Some(601), 1601)), Some(25_601), "four times what was drawn");
        assert_eq!(target(look(100, None, i64::MAX)), None);
    }

    #[test]
    fn steps_and_bounds_count() {
        let down = Look { increment: -5, drawn: -10, drawn_before: None, here: -1, bound: -3000 };
        assert_eq!(target(down), Some(-3000));
        assert_eq!(target(Look { bound: i64::MIN, ..down }), Some(-5010));
        assert_eq!(target(Look { here: -3000, ..down }), None);
        assert_eq!(target(Look { increment: i64::MIN, bound: i64::MIN, ..down }), Some(i64::MIN));
        assert_eq!(target(Look { increment: 2, drawn: 10, drawn_before: None, here: 1, bound: 300 }), Some(300));
    }

    proptest! {
        /// A copy never moves back, and is ahead of what was drawn unless there is no room.
        #[test]
        fn ahead_or_at_the_bound(
            increment in any::<i64>(), drawn in any::<i64>(), before in any::<Option<i64>>(), here in any::<i64>(),
        ) {
            let bound = if increment > 0 { i64::MAX } else { i64::MIN };
            let moved = target(Look { increment, drawn, drawn_before: before, here, bound });
            let now = moved.unwrap_or(here);
            if increment > 0 {
                prop_assert!(now >= here && (now > drawn || now == bound));
            } else if increment < 0 {
                prop_assert!(now <= here && (now < drawn || now == bound));
            }
        }
    }
}
