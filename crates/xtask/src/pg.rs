//! Which PostgreSQL: the majors meld is built for, and the one that is used here.
//!
//! Debian keeps each major in folders of its own. A major is *complete* when its server, its headers and `pg_config`
//! are there. `MELD_PG_MAJOR` names the major to use; otherwise it is 15 when that is complete, else the newest one.

use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

/// All majors meld is built for, oldest first.
pub const MAJORS: [u16; 4] = [15, 16, 17, 18];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Major(pub u16);

impl Major {
    /// The cargo feature, which is also pgrx' label.
    pub fn feature(self) -> String {
        format!("pg{}", self.0)
    }

    pub fn system_lib(self) -> PathBuf {
        PathBuf::from(format!("/usr/lib/postgresql/{}", self.0))
    }

    pub fn system_share(self) -> PathBuf {
        PathBuf::from(format!("/usr/share/postgresql/{}", self.0))
    }

    pub fn system_pg_config(self) -> PathBuf {
        self.system_lib().join("bin/pg_config")
    }

    pub fn has_server(self) -> bool {
        self.system_lib().join("bin/postgres").is_file()
    }

    pub fn has_headers(self) -> bool {
        let header = format!("/usr/include/postgresql/{}/server/postgres.h", self.0);
        self.system_pg_config().is_file() && PathBuf::from(header).is_file()
    }

    /// Arguments that make cargo build for this major. The same for every command, so that builds are shared.
    pub fn cargo_features(self, more: &[&str]) -> Vec<String> {
        let mut features = vec![self.feature()];
        features.extend(more.iter().map(|feature| (*feature).to_owned()));
        vec!["--no-default-features".into(), "--features".into(), features.join(" ")]
    }
}

/// The major that the user asked for.
pub fn wanted() -> Result<Option<Major>> {
    match std::env::var("MELD_PG_MAJOR") {
        Ok(text) if !text.is_empty() => {
            let major = text.parse().with_context(|| format!("MELD_PG_MAJOR is not a number: \"{text}\""))?;
            ensure!(MAJORS.contains(&major), "MELD_PG_MAJOR is {major}, but meld is built for {MAJORS:?}");
            Ok(Some(Major(major)))
        }
        _ => Ok(None),
    }
}

/// Chooses among majors of which some are usable: 15, the default feature, before the newest.
pub fn choose(usable: impl Fn(Major) -> bool) -> Option<Major> {
    let newest_first = MAJORS.iter().rev().map(|major| Major(*major));
    std::iter::once(Major(15)).chain(newest_first).find(|major| usable(*major))
}

/// The complete installation to work with.
pub fn installed() -> Result<Major> {
    let complete = |major: Major| major.has_server() && major.has_headers();
    match wanted()? {
        Some(major) if complete(major) => Ok(major),
        Some(major) => bail!("PostgreSQL {} or its headers are not installed: run `cargo x setup`", major.0),
        None => choose(complete).context("no PostgreSQL 15 to 18 with headers is installed: run `cargo x setup`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifteen_comes_first_and_then_the_newest() {
        assert_eq!(choose(|_| true), Some(Major(15)));
        assert_eq!(choose(|major| major.0 != 15), Some(Major(18)));
        assert_eq!(choose(|major| major.0 == 16), Some(Major(16)));
        assert_eq!(choose(|_| false), None);
    }

    #[test]
    fn features_exclude_the_default_major() {
        assert_eq!(Major(17).cargo_features(&["pg_test"]), ["--no-default-features", "--features", "pg17 pg_test"]);
    }
}
