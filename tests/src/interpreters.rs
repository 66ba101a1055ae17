//! The Python interpreters on this machine.

use std::env;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The minor versions of Python 3 that PyO3 builds for.
const MINORS: RangeInclusive<u32> = 10..=15;

/// A CPython that pounce can be built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `3.11`; with a `t` if it is free-threaded: `3.14t`.
    pub version: String,
    pub path: PathBuf,
}

/// What `python` is; `Err` is why it is no CPython that runs.
///
/// # Errors
/// It does not start, or is another implementation, or broken.
pub fn version_of(python: &Path) -> Result<String, String> {
    let code = "import sys, sysconfig; assert sys.implementation.name == 'cpython'; \
        print('%d.%d%s' % (*sys.version_info[:2], 't' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''))";
    let output = Command::new(python).args(["-c", code]).output().map_err(|error| error.to_string())?;
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said.trim().to_owned()) } else { Err(complaint.trim().to_owned()) }
}

/// Every interpreter that pounce can be built for, one for each version: those that `POUNCE_TEST_PYTHONS` names (paths,
/// separated by colons), `python3.*` in `$PATH`, and pyenv's.
///
/// # Panics
/// If `POUNCE_TEST_PYTHONS` names something that is none.
pub fn all() -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let named = env::var("POUNCE_TEST_PYTHONS").unwrap_or_default();
    for path in named.split(':').filter(|path| !path.is_empty()).map(PathBuf::from) {
        let version = version_of(&path)
            .unwrap_or_else(|error| panic!("{}, of POUNCE_TEST_PYTHONS: {error}", path.display()));
        found.push(Found { version, path });
    }
    for path in on_path().into_iter().chain(of_pyenv()).filter(|path| path.is_file()) {
        // A shim of pyenv's for a version that is not active, an old Python, a PyPy.
        let Ok(version) = version_of(&path) else { continue };
        let minor = version.trim_end_matches('t').strip_prefix("3.").and_then(|minor| minor.parse().ok());
        if minor.is_some_and(|minor| MINORS.contains(&minor))
            && found.iter().all(|other| other.version != version)
        {
            found.push(Found { version, path });
        }
    }
    found
}

/// Files called `python3.11`, `python3.14t` and the like, in the order of `$PATH`.
fn on_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found = Vec::new();
    for directory in env::split_paths(&path) {
        let names = fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut names: Vec<_> = names.filter(|name| name.to_str().is_some_and(is_versioned)).collect();
        names.sort();
        found.extend(names.into_iter().map(|name| directory.join(name)));
    }
    found
}

/// `python3.14`, `python3.14t` (CPython's own name for a free-threaded one) and `python3.14-nogil` (Debian's); not
/// `python3.14-config`.
fn is_versioned(name: &str) -> bool {
    let Some(version) = name.strip_prefix("python3.") else { return false };
    let minor = version.strip_suffix("-nogil").or_else(|| version.strip_suffix('t')).unwrap_or(version);
    !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit())
}

fn of_pyenv() -> Vec<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".pyenv"));
    let root = env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(home);
    let versions = root.and_then(|root| fs::read_dir(root.join("versions")).ok());
    let mut found: Vec<_> =
        versions.into_iter().flatten().flatten().map(|version| version.path().join("bin/python3")).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interpreters_are_told_from_those_of_their_tools() {
        for (name, expected) in [
            ("python3.14", true),
            ("python3.14t", true),
            ("python3.13-nogil", true),
            ("python3", false),
            ("python3.", false),
            ("python3.t", false),
            ("python3.11-config", false),
            ("python3.14t-config", false),
            ("python3.11-dbg", false),
        ] {
            assert_eq!(is_versioned(name), expected, "{name}");
        }
    }
}
