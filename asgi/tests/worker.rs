//! Runs tests/python against the built extension module, in the interpreter that it was built for.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use pounce_tests::interpreters::{self, Found};

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

const MODULES: [&str; 12] = [
    "test_scope",
    "test_lifespan",
    "test_loading",
    "test_sending",
    "test_receiving",
    "test_driving",
    "test_loop",
    "test_first_step",
    "test_task_factories",
    "test_signals",
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
fn the_first_step_of_a_handler_is_as_any_other() {
    run("test_first_step");
}

#[test]
fn a_task_factory_of_the_application_makes_the_tasks_of_requests() {
    run("test_task_factories");
}

#[test]
fn signals_mean_the_same_to_a_worker_whatever_the_application_did_with_them() {
    run("test_signals");
}

#[test]
fn libraries_that_know_asyncio_find_nothing_unusual() {
    run("test_libraries");
}

#[test]
fn python_finds_and_runs_the_executable() {
    run("test_package");
}

/// The minor versions that the extension module can be built for.
const KNOWN: [&str; 7] = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.14t", "3.15"];

/// As many modules run at a time: they sleep most of the time.
const AT_A_TIME: usize = 4;

/// Builds the module with an interpreter, for itself or for the stable ABI; its path.
fn build(name: &str, python: &str, features: &[&str]) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = here.join("../target/interpreters");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "pounce-asgi", "--target-dir"])
        // One for all: only what depends on Python is built again for the next one.
        .arg(target.join("build"))
        .args(features)
        .current_dir(here)
        .env("PYO3_PYTHON", python)
        .status()
        .expect("cargo starts");
    assert!(built.success(), "the extension module could not be built with {python}");
    let extension = target.join(format!("pounce-{name}.so"));
    std::fs::copy(target.join("build/debug/libpounce_asgi.so"), &extension).expect("it was built");
    extension
}

/// Everything above, with the module built for each other interpreter on the machine.
#[test]
fn other_interpreters_behave_the_same() {
    let (mut tested, mut missing) =
        (vec![format!("{} (all other tests)", pounce_asgi::BUILT_FOR)], Vec::new());
    let mut jobs = Vec::new();
    let found = interpreters::all();
    for Found { version, path } in &found {
        if version == pounce_asgi::BUILT_FOR {
            continue;
        }
        if version == "3.13t" {
            missing.push("3.13t (found, but PyO3 builds for free-threaded Python from 3.14 on)".to_owned());
            continue;
        }
        let python = path.to_str().expect("UTF-8");
        let extension = build(version, python, &[]);
        tested.push(format!("{version} ({python})"));
        jobs.extend(MODULES.map(|module| (python, extension.clone(), module)));
    }
    // The other way to build it: one module for all of them.
    let stable = build("abi3", &python(), &["--features", "abi3"]);
    for Found { path, .. } in found.iter().filter(|found| !found.version.ends_with('t')) {
        jobs.extend(
            ["test_sending", "test_loop", "test_first_step"]
                .map(|module| (path.to_str().expect("UTF-8"), stable.clone(), module)),
        );
    }
    missing.extend(
        KNOWN
            .into_iter()
            .filter(|known| {
                *known != pounce_asgi::BUILT_FOR && found.iter().all(|found| found.version != *known)
            })
            .map(|known| format!("{known} (not on this machine)")),
    );
    let said = format!("\n*** TESTED on Python {}; NOT on {} ***\n", tested.join(", "), missing.join(", "));
    let _ = std::io::stderr().write_all(said.as_bytes());
    let jobs = Mutex::new(jobs);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let Some((python, extension, module)) = jobs.lock().ok().and_then(|mut jobs| jobs.pop())
                    else {
                        return;
                    };
                    run_with(python, &extension, module);
                }
            });
        }
    });
}
