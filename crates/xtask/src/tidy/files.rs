//! The files that the rules read: what git tracks or would track, below one folder.

use super::source::Source;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A text file with its path relative to the top, written with `/`.
pub struct Document {
    pub path: String,
    pub text: String,
}

pub struct Files {
    /// All Rust sources.
    pub rust: Vec<Source>,
    /// All text files, Rust included.
    pub documents: Vec<Document>,
    /// All paths, for the check of links.
    pub paths: Vec<String>,
}

impl Files {
    pub fn read(root: &Path) -> Result<Files> {
        let mut paths = match listed_by_git(root) {
            Some(paths) => paths,
            None => walked(root)?,
        };
        // A file that is deleted but not yet staged is still listed by git.
        paths.retain(|path| root.join(path).is_file());
        paths.sort();
        let mut files = Files { rust: Vec::new(), documents: Vec::new(), paths };
        for path in &files.paths {
            let bytes = fs::read(root.join(path)).with_context(|| format!("could not read {path}"))?;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            if path.ends_with(".rs") {
                files.rust.push(Source::new(path, &text));
            }
            files.documents.push(Document { path: path.clone(), text });
        }
        Ok(files)
    }

    pub fn document(&self, path: &str) -> Option<&Document> {
        self.documents.iter().find(|document| document.path == path)
    }

    /// Whether a path is a file or a folder of the tree.
    pub fn exists(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        self.paths.iter().any(|known| known == path || known.starts_with(&folder))
    }
}

/// None where this is not the top of a git working tree (a tarball, a test's folder) or git refuses it.
fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    if !root.join(".git").exists() {
        return None;
    }
    let mut command = Command::new("git");
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let output = command.output().ok().filter(|output| output.status.success())?;
    let names = String::from_utf8(output.stdout).ok()?;
    Some(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn walked(root: &Path) -> Result<Vec<String>> {
    let (mut paths, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("could not read {}", folder.display()))? {
            let path = entry?.path();
            let relative = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
            if path.is_dir() {
                if !matches!(relative.as_str(), ".git" | "target") {
                    folders.push(path);
                }
            } else {
                paths.push(relative);
            }
        }
    }
    Ok(paths)
}
