//! A real second Python, and the extension module that was built for the first one.
//!
//! To see this fail: leave the look at the module out (the worker crashes, or cannot import it), or print the interpreter's
//! path without quotes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pounce_tests::binary::{pounce, target_dir, workspace};
use pounce_tests::interpreters::{self, Found};
use pounce_tests::{Server, skip};

/// What the module beside the executable was built for: `3.11`.
fn built_for() -> Option<String> {
    const MARK: &[u8] = b"pounce-built-for=";
    let module = fs::read(pounce().with_file_name("deps").join("libpounce_asgi.so")).ok()?;
    let at = module.windows(MARK.len()).position(|bytes| bytes == MARK)? + MARK.len();
    let version = module[at..].split(|byte| *byte == b';').next()?;
    String::from_utf8(version.to_vec()).ok()
}

/// One that this module is not for, and that another can be built for.
fn another(own: &str) -> Option<Found> {
    interpreters::all().into_iter().find(|found| found.version != own && found.version != "3.13t")
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
    let Some(own) = built_for().filter(|own| own.starts_with("3.") && !own.ends_with('t')) else {
        skip::skipped(
            "there is no module for one Python alone beside pounce: a Python that does not fit is NOT tested",
        );
        return;
    };
    let Some(Found { version, path }) = another(&own) else {
        skip::skipped(&format!(
            "there is no Python on this machine but {own}, which pounce was built for: \
            what is said to another, and the command that mends it, are NOT tested"
        ));
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
