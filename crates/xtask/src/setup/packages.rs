//! System packages: what is missing, and `apt-get` to install it.
//!
//! What is looked for are files, not packages, so that a server from another archive or a compiler built by hand
//! counts. Installing a server package makes Debian start a cluster `main`; nobody asked for one, so that is turned
//! off, unless the package is there already and its configuration is the user's.

use crate::pg::{self, MAJORS, Major};
use crate::run::{self, have_program};
use anyhow::{Result, bail};
use nix::unistd::geteuid;
use std::fs;
use std::path::Path;
use std::process::Command;

const CLUSTER_CONFIG: &str = "/etc/postgresql-common/createcluster.conf";

/// Something that is needed: what for, the package that has it, and whether it is there.
struct Need {
    what: &'static str,
    package: &'static str,
    there: fn() -> bool,
}

const NEEDS: [Need; 7] = [
    Need { what: "a C compiler", package: "gcc", there: || have_program("cc") },
    Need { what: "the C library's headers", package: "libc6-dev", there: || is_file("/usr/include/stdio.h") },
    Need { what: "make", package: "make", there: || have_program("make") },
    Need { what: "pkg-config", package: "pkg-config", there: || have_program("pkg-config") },
    Need { what: "libclang, for bindgen", package: "libclang-dev", there: has_libclang },
    Need { what: "libpq with headers", package: "libpq-dev", there: || is_file("/usr/include/postgresql/libpq-fe.h") },
    Need { what: "OpenSSL with headers, for cargo-pgrx", package: "libssl-dev", there: has_openssl },
];

pub fn install_missing() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !(need.there)()).collect();
    let server_is_there = pg::installed().is_ok();
    if missing.is_empty() && server_is_there {
        return Ok(());
    }
    if !Path::new("/etc/debian_version").exists() || !have_program("apt-get") {
        bail!("{}", by_hand(&missing, server_is_there));
    }
    eprintln!("setup: fetching the lists of packages");
    apt_get(&["update"])?;
    let mut packages: Vec<String> = missing.iter().map(|need| need.package.to_owned()).collect();
    for need in &missing {
        eprintln!("setup: missing: {} (package {})", need.what, need.package);
    }
    if !server_is_there {
        let Major(major) = major_to_install()?;
        eprintln!("setup: missing: PostgreSQL {major} with server headers (postgresql-{major}, -server-dev-{major})");
        packages.extend([format!("postgresql-{major}"), format!("postgresql-server-dev-{major}")]);
        prevent_main_cluster()?;
    }
    eprintln!("setup: installing {}", packages.join(" "));
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages.iter().map(String::as_str));
    apt_get(&arguments)
}

/// The major to install: the one asked for or, of those that the archive has, 15 and else the newest.
fn major_to_install() -> Result<Major> {
    let available = |major: Major| {
        let package = format!("postgresql-server-dev-{}", major.0);
        run::capture(Command::new("apt-cache").args(["show", "--no-all-versions", &package])).is_ok()
    };
    let found = match pg::wanted()? {
        Some(major) => Some(major).filter(|major| available(*major)),
        None => pg::choose(available),
    };
    match found {
        Some(major) => Ok(major),
        None => bail!(
            "this system's archive has no {}; add PostgreSQL's own one and run `cargo x setup` again:\n    \
             apt-get install postgresql-common ca-certificates\n    \
             /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y",
            match pg::wanted()? {
                Some(major) => format!("PostgreSQL {}", major.0),
                None => format!("PostgreSQL {} to {}", MAJORS[0], MAJORS[MAJORS.len() - 1]),
            }
        ),
    }
}

/// What a user of another system has to see to.
fn by_hand(missing: &[&Need], server_is_there: bool) -> String {
    let mut text = "packages are installed on Debian and Ubuntu only; here you need to install:".to_owned();
    for need in missing {
        text += &format!("\n    {} (Debian: {})", need.what, need.package);
    }
    if !server_is_there {
        text += "\n    PostgreSQL 15 to 18, laid out as on Debian in /usr/lib/postgresql/NN and /usr/share/postgresql/NN, \
                 with server headers";
    }
    text
}

/// Turns the making of a cluster off, if the package that would make it is not there yet.
fn prevent_main_cluster() -> Result<()> {
    if Path::new("/usr/bin/pg_createcluster").exists() || Path::new(CLUSTER_CONFIG).exists() {
        return Ok(());
    }
    eprintln!("setup: writing {CLUSTER_CONFIG}, so that no server is started by the installation");
    let line = "create_main_cluster = false";
    let script = format!("mkdir -p /etc/postgresql-common && echo '{line}' >{CLUSTER_CONFIG}");
    run::run_interactive(&mut as_root("sh", &["-c", &script])?)
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    // No questions: neither debconf's nor ucf's, which would ask about the file written above.
    let mut words = vec!["DEBIAN_FRONTEND=noninteractive", "UCF_FORCE_CONFFOLD=1", "apt-get", "--quiet"];
    words.extend(arguments);
    run::run_interactive(&mut as_root("env", &words)?)
}

fn as_root(program: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = if geteuid().is_root() {
        Command::new(program)
    } else if have_program("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.arg(program);
        sudo
    } else {
        bail!("this needs root, and there is no sudo; as root run:\n    {program} {}", arguments.join(" "));
    };
    command.args(arguments);
    Ok(command)
}

fn is_file(path: &str) -> bool {
    Path::new(path).is_file()
}

fn has_openssl() -> bool {
    run::capture(Command::new("pkg-config").args(["--exists", "openssl"])).is_ok()
}

/// bindgen loads libclang when it runs: somewhere below the folders in which distributions keep it, or where asked to.
fn has_libclang() -> bool {
    let named = std::env::var_os("LIBCLANG_PATH").map(std::path::PathBuf::from);
    let libraries = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(std::path::PathBuf::from);
    let below = ["/usr/lib"].into_iter().flat_map(folders_below);
    let folders = named.into_iter().chain(libraries).chain(below.flat_map(|folder| [folder.join("lib"), folder]));
    folders.flat_map(files_in).any(|name| name.starts_with("libclang.so") || name.starts_with("libclang-"))
}

fn folders_below(folder: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn files_in(folder: std::path::PathBuf) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name.contains(".so")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_by_hand_is_named() {
        let text = by_hand(&[&NEEDS[2]], false);
        assert!(text.contains("make (Debian: make)") && text.contains("PostgreSQL 15 to 18"), "{text}");
        assert!(!by_hand(&[&NEEDS[2]], true).contains("PostgreSQL"));
    }
}
