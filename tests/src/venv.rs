//! A Python environment with the frameworks that `tests/requirements.txt` pins, made once per checkout.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::binary::{target_dir, workspace};

/// The interpreter that pounce would take by itself on this machine; the environment is made from it, so that
/// the extension module fits both.
pub fn base_python() -> String {
    env::var("POUNCE_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// The environment's interpreter; `None`, with the reason on stderr, if no package index can be reached.
///
/// # Panics
/// If the environment cannot be made for any other reason.
pub fn python_with_frameworks() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON.get_or_init(make).as_deref()
}

fn make() -> Option<PathBuf> {
    let requirements = workspace().join("tests/requirements.txt");
    let wanted = fs::read_to_string(&requirements).expect("tests/requirements.txt");
    let version = run(Command::new(base_python()).args(["-c", "import sys; print(sys.version)"])).unwrap();
    let stamp = format!("{version}{wanted}");
    let dir = target_dir().join("test-venv");
    let lock = File::create(target_dir().join("test-venv.lock")).expect("a lock file in target/");
    lock.lock().expect("the lock on target/test-venv.lock");
    let python = dir.join("bin/python");
    if fs::read_to_string(dir.join("stamp")).is_ok_and(|made| made == stamp) {
        return Some(python);
    }
    let _ = fs::remove_dir_all(&dir);
    run(Command::new(base_python()).args(["-m", "venv"]).arg(&dir))
        .unwrap_or_else(|e| panic!("python3 -m venv failed (is python3-venv installed?):\n{e}"));
    let installed = run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--retries", "3", "--requirement"])
        .arg(&requirements));
    match installed {
        Ok(_) => {
            fs::write(dir.join("stamp"), stamp).expect("target/test-venv/stamp");
            Some(python)
        }
        Err(output) if index_is_unreachable(&output) => {
            crate::skip::skipped(&format!(
                "no package index can be reached, the framework apps are NOT tested\n{output}"
            ));
            None
        }
        Err(output) => panic!("pip install -r tests/requirements.txt failed:\n{output}"),
    }
}

/// What pip prints when there is no network; a bad pin or a broken package prints none of these.
fn index_is_unreachable(output: &str) -> bool {
    ["NewConnectionError", "NameResolutionError", "ConnectTimeout", "ProxyError", "Max retries exceeded"]
        .iter()
        .any(|sign| output.contains(sign))
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}{}", text(&output.stdout), text(&output.stderr)))
    }
}
