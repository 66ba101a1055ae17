//! A real second Python, and the extension module that was built for the first one.
//!
//! To see this fail: leave the look at the module out (the worker crashes, or cannot import it), or print the interpreter's
//! path without quotes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pounce_tests::binary::{target_dir, workspace};
use pounce_tests::interpreters::{self, Found};
use pounce_tests::venv::base_python;
use pounce_tests::{Server, skip};

/// One that the module beside the executable is not for, and that another can be built for.
fn another() -> Option<(String, Found)> {
    let own = interpreters::version_of(Path::new(&base_python())).expect("the Python of all other tests");
    let found =
        interpreters::all().into_iter().find(|found| found.version != own && found.version != "3.13t")?;
    Some((own, found))
}

/// Runs `command` in a shell, as it is, except that a `cargo build --release` in it makes the module alone, unoptimised and
/// beside those of the other tests.
fn run_in_a_shell(command: &str, target: &Path) {
    let cargo = r#"cargo() {
        test "$*" = "build --release" || exit 9
        export PYO3_PYTHON
        "$CARGO" build --quiet --package pounce-asgi --target-dir "$TARGET"
    }"#;
    let output = Command::new("/bin/sh")
        .args(["-e", "-c", &format!("{cargo}\n{command}")])
        .env("CARGO", env!("CARGO"))
        .env("TARGET", target)
        .current_dir(workspace())
        .output()
        .expect("a shell");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_python_that_the_module_does_not_fit_is_refused_and_the_told_command_mends_it() {
    let Some((own, Found { version, path })) = another() else {
        skip::skipped(
            "no Python beside the one that pounce was built for is on this machine: \
            what is said to it, and the command that mends it, are NOT tested",
        );
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let python = directory.path().join("it's a python");
    symlink(&path, &python).unwrap();

    let server = || Server::app("plain:app").args([Path::new("--python"), &python]);
    let mut refused = server().env("POUNCE_EXTENSION", "").spawn();
    refused.assert_exit(2, Duration::from_secs(30));
    let said = refused.log_text();
    assert!(
        said.contains(&format!("cannot load pounce's extension module, which was built for CPython {own}")),
        "{said}"
    );

    let (_, command) = said.split_once("build for it: ").expect("the command is told");
    let (command, _) = command.split_once("; then run ").expect("and what to do then");
    let target = target_dir().join("interpreters/build");
    run_in_a_shell(command, &target);
    let module = directory.path().join("libpounce_asgi.so");
    fs::copy(target.join("debug/libpounce_asgi.so"), &module).unwrap();

    let served = server().env("POUNCE_EXTENSION", &module).start();
    served.wait_for_line(&format!("(CPython {version}"));
    served.get("/").status(200);
}
