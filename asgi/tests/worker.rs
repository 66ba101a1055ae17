//! Runs tests/python against the built extension module, in the interpreter that it was built for.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The module that cargo built beside this test.
fn extension() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let directory = test.parent().expect("it is in a directory");
    let extension = directory.join("libpounce_asgi.so");
    assert!(extension.is_file(), "{} was not built", extension.display());
    extension
}

fn python() -> String {
    let version = pounce_asgi::BUILT_FOR;
    let named = std::env::var("PYO3_PYTHON").ok();
    let candidates = named.into_iter().chain(["python3".to_owned(), format!("python{version}")]);
    let fits = |python: &String| {
        let code = "import sys; print('%d.%d' % sys.version_info[:2])";
        let output = Command::new(python).args(["-c", code]).output();
        output.is_ok_and(|output| {
            version.starts_with("abi3") || String::from_utf8_lossy(&output.stdout).trim() == version
        })
    };
    candidates.into_iter().find(fits).unwrap_or_else(|| panic!("there is no Python {version} on $PATH"))
}

const MODULES: [&str; 9] = [
    "test_scope",
    "test_lifespan",
    "test_loading",
    "test_sending",
    "test_receiving",
    "test_driving",
    "test_loop",
    "test_libraries",
    "test_package",
];

fn settings() -> String {
    let sources = pounce_settings::Sources::default();
    let settings = pounce_settings::resolve(&sources).expect("the defaults are valid");
    serde_json::to_string(&settings).expect("settings are JSON")
}

fn run(module: &str) {
    run_with(&python(), &extension(), module);
}

fn run_with(python: &str, extension: &Path, module: &str) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(python)
        .args(["-X", "dev", "-m", "unittest", "-v", module])
        .current_dir(here.join("tests/python"))
        .env("PYTHONPATH", here.join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("POUNCE_EXTENSION", extension)
        .env("CARGO_TARGET_TMPDIR", env!("CARGO_TARGET_TMPDIR"))
        .env("POUNCE_TEST_SETTINGS", settings())
        .output()
        .expect("Python starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{python}: {text}\n{}", String::from_utf8_lossy(&output.stdout));
    if text.contains("skipped=") {
        // Not by `eprintln!`, which the test harness captures; and nobody to tell if stderr is closed.
        let _ = std::io::stderr().write_all(format!("\n*** SKIPPED in {module}: {text} ***\n").as_bytes());
    }
}

#[test]
fn an_application_sees_the_request_as_it_was() {
    run("test_scope");
}

#[test]
fn lifespan_begins_before_the_first_request_and_ends_after_the_last() {
    run("test_lifespan");
}

#[test]
fn an_application_that_cannot_be_loaded_is_told_why() {
    run("test_loading");
}

#[test]
fn responses_reach_the_client_whole_or_visibly_cut() {
    run("test_sending");
}

#[test]
fn request_bodies_reach_the_application_and_clients_that_leave_are_told() {
    run("test_receiving");
}

#[test]
fn the_worker_serves_while_python_is_busy_and_leaves_when_told() {
    run("test_driving");
}

#[test]
fn the_event_loop_is_asyncios_to_the_application() {
    run("test_loop");
}

#[test]
fn libraries_that_know_asyncio_find_nothing_unusual() {
    run("test_libraries");
}

#[test]
fn python_finds_and_runs_the_executable() {
    run("test_package");
}

/// `POUNCE_TEST_PYTHONS`: interpreters, separated by colons. The module is built for each, and everything above runs on it.
#[test]
fn other_interpreters_behave_the_same() {
    let Ok(named) = std::env::var("POUNCE_TEST_PYTHONS") else { return };
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for python in named.split(':').filter(|python| !python.is_empty()) {
        let code = "import sysconfig; print(sysconfig.get_config_var('SOABI'))";
        let abi = Command::new(python).args(["-c", code]).output().expect("the interpreter starts").stdout;
        let abi = String::from_utf8_lossy(&abi).trim().to_owned();
        let target = here.join("../target/interpreters").join(abi);
        let built = Command::new(env!("CARGO"))
            .args(["build", "--package", "pounce-asgi", "--target-dir"])
            .arg(&target)
            .current_dir(here)
            .env("PYO3_PYTHON", python)
            .status()
            .expect("cargo starts");
        assert!(built.success(), "the extension module could not be built for {python}");
        for module in MODULES {
            run_with(python, &target.join("debug/libpounce_asgi.so"), module);
        }
    }
}
