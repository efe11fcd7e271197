//! The private server tree: a copy of the system's PostgreSQL into which the extension may be installed freely.
//!
//! Debian's PostgreSQL finds its folders relative to its own binaries, so a copy of `/usr/lib/postgresql/NN` and
//! `/usr/share/postgresql/NN` side by side is a whole installation: its `pg_config`, `initdb` and `postgres` use the
//! copy. Tests and the demo install the extension there and never into the system (docs/decisions/0001).
//!
//! A tree is made anew when the system's server is another one than the copy was made from. It is built beside its
//! place and then renamed, so that an interrupted copy never looks whole.

use crate::pg::Major;
use crate::repo;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// The file inside a tree that says what the tree was copied from.
const SOURCE_FILE: &str = "copied-from";

pub struct Tree {
    /// The folder called R in the documents.
    pub dir: PathBuf,
    pub major: Major,
}

impl Tree {
    /// The tree called `name` (`pg15`, say) in the work folder, made or made anew as needed.
    pub fn ready(major: Major, name: &str) -> Result<Tree> {
        let tree = Tree { dir: repo::work()?.join(name), major };
        let source = source_of(major)?;
        if fs::read_to_string(tree.dir.join(SOURCE_FILE)).is_ok_and(|made_from| made_from == source) {
            return Ok(tree);
        }
        eprintln!("copying PostgreSQL {} to {}", major.0, tree.dir.display());
        let beside = tree.dir.with_file_name(format!("{name}.new.{}", std::process::id()));
        let _ = fs::remove_dir_all(&beside);
        copy_server(major, &beside)?;
        fs::write(beside.join(SOURCE_FILE), source)?;
        // Servers that still run from an old tree keep their open files.
        if tree.dir.exists() {
            fs::remove_dir_all(&tree.dir)?;
        }
        fs::rename(&beside, &tree.dir)?;
        Ok(tree)
    }

    pub fn bin(&self) -> PathBuf {
        self.lib().join("bin")
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.bin().join(name)
    }

    pub fn pg_config(&self) -> PathBuf {
        self.program("pg_config")
    }

    /// Takes the extension's files away, as new files must not be written into those that a running server has mapped.
    pub fn remove_extension(&self) -> Result<()> {
        let folders = [self.lib().join("lib"), self.dir.join(self.relative_share()).join("extension")];
        for folder in folders {
            for entry in fs::read_dir(&folder).with_context(|| format!("could not read {}", folder.display()))? {
                let path = entry?.path();
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                if name == "meld.so" || name == "meld.control" || (name.starts_with("meld--") && name.ends_with(".sql"))
                {
                    fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }

    fn lib(&self) -> PathBuf {
        self.dir.join(format!("usr/lib/postgresql/{}", self.major.0))
    }

    fn relative_share(&self) -> PathBuf {
        PathBuf::from(format!("usr/share/postgresql/{}", self.major.0))
    }
}

/// What identifies the system's server: its version line, and when and how large its binary is.
fn source_of(major: Major) -> Result<String> {
    let postgres = major.system_lib().join("bin/postgres");
    let file = fs::metadata(&postgres).with_context(|| format!("could not read {}", postgres.display()))?;
    Ok(format!("PostgreSQL {} {} bytes, changed {}.{}\n", major.0, file.len(), file.mtime(), file.mtime_nsec()))
}

fn copy_server(major: Major, to: &Path) -> Result<()> {
    let lib = to.join(format!("usr/lib/postgresql/{}", major.0));
    let share = to.join(format!("usr/share/postgresql/{}", major.0));
    copy_folder(&major.system_lib(), &lib)?;
    copy_folder(&major.system_share(), &share)?;
    // Headers are only read: one link serves `pg_config --includedir-server`.
    symlink("/usr/include", to.join("usr/include"))?;
    ensure!(lib.join("bin/postgres").is_file(), "the copy in {} has no server", to.display());
    Ok(())
}

/// Copies a folder with all below it, following symbolic links (Debian's point to `/etc` and `/usr/share`).
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("could not read {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match fs::metadata(&source) {
            Ok(kind) if kind.is_dir() => copy_folder(&source, &target)?,
            Ok(_) => {
                fs::copy(&source, &target).with_context(|| format!("could not copy {}", source.display()))?;
            }
            // A dangling link (to documents that were left out of the installation) is not missed.
            Err(_) if entry.file_type()?.is_symlink() => {}
            Err(error) => return Err(error).with_context(|| format!("could not read {}", source.display())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_follow_links_and_leave_dangling_ones_out() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("sub/file"), "text").unwrap();
        symlink(from.join("sub/file"), from.join("link")).unwrap();
        symlink(from.join("absent"), from.join("dangling")).unwrap();
        copy_folder(&from, &to).unwrap();
        assert!(!to.join("link").is_symlink());
        assert_eq!(fs::read_to_string(to.join("link")).unwrap(), "text");
        assert_eq!(fs::read_to_string(to.join("sub/file")).unwrap(), "text");
        assert!(!to.join("dangling").exists());
    }
}
