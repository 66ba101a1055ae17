//! Finds the `pounce` executable under test, and makes sure that it is not stale.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The checkout.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// The executable under test: `$POUNCE_BIN`, else the one that `cargo build -p pounce` makes in the profile
/// and target directory of this test. Cargo builds another package's executable only for that package's own
/// tests, so it is asked here, once per test process.
pub fn pounce() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match env::var_os("POUNCE_BIN") {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "POUNCE_BIN={} is not a file", path.display());
            path
        }
        None => build(),
    })
}

/// `target/`, as this test was built into it.
pub fn target_dir() -> PathBuf {
    profile_dir().parent().expect("a profile directory lies in the target directory").to_path_buf()
}

/// `target/<profile>/`: the test executable is `target/<profile>/deps/name-hash`.
fn profile_dir() -> PathBuf {
    let exe = env::current_exe().expect("the path of this test");
    exe.parent().and_then(Path::parent).expect("the test lies in target/<profile>/deps").to_path_buf()
}

fn build() -> PathBuf {
    let profile_dir = profile_dir();
    let target_dir = target_dir();
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    // Cargo locks the build directory itself; this lock only keeps its "Blocking waiting" noise out of logs.
    let lock = File::create(target_dir.join("pounce-tests.lock")).expect("a lock file in target/");
    lock.lock().expect("the lock on target/pounce-tests.lock");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
        .args(["build", "--quiet", "--package", "pounce", "--profile", profile, "--target-dir"])
        .arg(&target_dir);
    for (name, _) in env::vars_os() {
        // What Cargo set for this test must not look like a change of the environment to build scripts.
        let of_this_test = name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "POUNCE_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        });
        if of_this_test {
            cargo.env_remove(name);
        }
    }
    cargo.env_remove("LD_LIBRARY_PATH");
    let output = cargo.output().expect("cargo can be started");
    assert!(
        output.status.success(),
        "`cargo build --package pounce` failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let path = profile_dir.join("pounce");
    assert!(path.is_file(), "cargo built no {}", path.display());
    path
}
