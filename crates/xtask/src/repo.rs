//! Where things are: the repository, and the work folder outside it.
//!
//! The work folder holds the private server tree, the clusters of tests and the demo. It is not inside the repository,
//! because servers run as an ordinary OS user who may not be able to read a checkout (one below `/root`, say).
//! `MELD_WORK` names another folder.

use anyhow::{Context, Result, ensure};
use nix::unistd::geteuid;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The repository's top folder.
pub fn root() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.ancestors().nth(2).expect("crates/xtask lies two levels below the top").to_path_buf()
}

/// The work folder, made if it is not there.
pub fn work() -> Result<PathBuf> {
    let work = match std::env::var_os("MELD_WORK").filter(|value| !value.is_empty()) {
        Some(named) => std::path::absolute(named)?,
        None => PathBuf::from(format!("/var/tmp/meld-{:08x}", fnv1a(root().as_os_str().as_encoded_bytes()))),
    };
    fs::create_dir_all(&work).with_context(|| format!("could not make the work folder {}", work.display()))?;
    // Its default place is a folder that everyone may write to: a folder that someone else put there is not ours.
    let owner = fs::symlink_metadata(&work)?;
    ensure!(
        owner.is_dir() && owner.uid() == geteuid().as_raw(),
        "the work folder {} belongs to someone else; set MELD_WORK to another one",
        work.display()
    );
    Ok(work)
}

/// FNV-1a, 32 bits: a short name for a path that stays the same from build to build.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_holds_the_workspace() {
        assert!(root().join("meld.control").is_file());
    }

    #[test]
    fn fnv1a_gives_its_published_values() {
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"a"), 0xe40c_292c);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
    }
}
