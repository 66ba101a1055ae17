//! What has to be there before anything can be measured: a release build of pounce and the other servers.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where things are.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The checkout.
    pub root: PathBuf,
    pub pounce: PathBuf,
    /// Another build of pounce to measure beside it.
    pub baseline: Option<PathBuf>,
    /// The interpreter that `baseline` was built for, if it is another one.
    pub baseline_python: Option<PathBuf>,
    pub bare_hyper: PathBuf,
    /// The `bin` of the virtual environment.
    pub venv: PathBuf,
    pub logs: PathBuf,
}

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("bench/ is in the checkout").to_owned()
}

/// The interpreter that everything is built for, installed for and measured with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interpreter {
    python: OsString,
    /// For PyO3, which looks for an interpreter of its own accord where none is named.
    pyo3_python: Option<OsString>,
}

impl Interpreter {
    /// `variable` reads the environment. `POUNCE_PYTHON` is what pounce itself goes by, `PYO3_PYTHON` what builds its module.
    fn chosen(variable: impl Fn(&str) -> Option<OsString>) -> Interpreter {
        let named = variable("POUNCE_PYTHON").filter(|name| !name.is_empty());
        match named.or_else(|| variable("PYO3_PYTHON")) {
            Some(python) => Interpreter { pyo3_python: Some(python.clone()), python },
            None => Interpreter { python: "python3".into(), pyo3_python: None },
        }
    }
}

/// Builds and installs what is missing.
///
/// # Errors
/// The command that failed, with what it printed.
pub fn prepare(baseline: Option<PathBuf>, baseline_python: Option<PathBuf>) -> Result<Environment, String> {
    let root = root();
    let (baseline, baseline_python) = (baseline.map(from_here), baseline_python.map(from_here));
    let interpreter = Interpreter::chosen(|name| std::env::var_os(name));
    let own = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let profile = own.parent().expect("an executable is in a directory");
    let target = profile.parent().expect("target/release").to_owned();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    eprintln!("building pounce");
    for package in [&["-p", "pounce"][..], &["-p", "bench", "--bin", "bare-hyper"]] {
        let mut build = Command::new(&cargo);
        build
            .args(["build", "--release", "--quiet", "--target-dir"])
            .arg(&target)
            .args(package)
            .current_dir(&root)
            .envs(interpreter.pyo3_python.iter().map(|python| ("PYO3_PYTHON", python)));
        let status = build.status();
        if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
            return Err(format!("cargo build --release {} failed ({status:?})", package.join(" ")));
        }
    }
    let release = target.join("release");
    let logs = target.join("bench-logs");
    fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let venv =
        make_venv(&interpreter.python, &root.join("bench/requirements.txt"), &target.join("bench-venv"))?;
    Ok(Environment {
        pounce: release.join("pounce"),
        bare_hyper: release.join("bare-hyper"),
        baseline,
        baseline_python,
        venv,
        logs,
        root,
    })
}

/// A path that means the same in another directory: the servers are started in that of the applications. A name without
/// a directory stays one that is looked for on `$PATH`.
fn from_here(path: PathBuf) -> PathBuf {
    if path.components().count() > 1 { std::path::absolute(&path).unwrap_or(path) } else { path }
}

/// Makes the environment, unless it is there with the same interpreter and the same requirements.
fn make_venv(python: &OsStr, requirements: &Path, dir: &Path) -> Result<PathBuf, String> {
    let wanted =
        fs::read_to_string(requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
    let version = run(Command::new(python).args(["-c", "import sys; print(sys.version)"]))?;
    let stamp = format!("{version}{wanted}");
    if fs::read_to_string(dir.join("stamp")).is_ok_and(|made| made == stamp) {
        return Ok(dir.join("bin"));
    }
    eprintln!("making {} with {}", dir.display(), version.trim());
    let _ = fs::remove_dir_all(dir);
    run(Command::new(python).args(["-m", "venv"]).arg(dir))?;
    run(Command::new(dir.join("bin/python"))
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            "--requirement",
        ])
        .arg(requirements))?;
    fs::write(dir.join("stamp"), stamp).map_err(|error| format!("{}: {error}", dir.display()))?;
    Ok(dir.join("bin"))
}

/// What the measurement was made with and on, for the report.
pub fn describe(environment: &Environment) -> Vec<(String, String)> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(':').nth(1));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let python = run(Command::new(environment.venv.join("python")).arg("--version")).unwrap_or_default();
    let packages = run(Command::new(environment.venv.join("python")).args(["-m", "pip", "freeze"]));
    let commit = run(Command::new("git").args([
        "-C",
        &environment.root.to_string_lossy(),
        "describe",
        "--always",
        "--dirty",
    ]));
    let mut facts = vec![
        ("command".to_owned(), command(|name| std::env::var(name).ok(), std::env::args().skip(1))),
        ("cpu".to_owned(), format!("{} × {}", num_cpus(&cpu), model.unwrap_or("unknown").trim())),
        ("kernel".to_owned(), kernel.trim().to_owned()),
        ("load average before".to_owned(), load.split(' ').take(3).collect::<Vec<_>>().join(" ")),
        ("python".to_owned(), python.trim().to_owned()),
        ("commit".to_owned(), commit.unwrap_or_default().trim().to_owned()),
    ];
    let shown =
        ["granian", "uvicorn", "uvloop", "httptools", "hypercorn", "gunicorn", "starlette", "uvicorn-worker"];
    for line in packages.unwrap_or_default().lines() {
        if let Some((name, version)) = line.split_once("==")
            && shown.contains(&name.to_lowercase().as_str())
        {
            facts.push((name.to_lowercase(), version.to_owned()));
        }
    }
    facts
}

/// What makes the same table, in a shell.
fn command(
    variable: impl Fn(&str) -> Option<String>,
    arguments: impl ExactSizeIterator<Item = String>,
) -> String {
    let quoted = |word: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    let mut command = String::new();
    for name in ["POUNCE_PYTHON", "PYO3_PYTHON"] {
        if let Some(python) = variable(name) {
            command += &format!("{name}={} ", quoted(python));
        }
    }
    command += "cargo run --release -p bench";
    if arguments.len() > 0 {
        command += " --";
    }
    arguments.for_each(|argument| command = format!("{command} {}", quoted(argument)));
    format!("`{command}`")
}

fn num_cpus(cpuinfo: &str) -> usize {
    cpuinfo.lines().filter(|line| line.starts_with("processor")).count()
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{command:?} failed:\n{}{}", text(&output.stdout), text(&output.stderr)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_built_for_the_interpreter_that_is_named() {
        let chosen = |set: &'static [(&str, &str)]| {
            Interpreter::chosen(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
        };
        let both = |python: &str| Interpreter { python: python.into(), pyo3_python: Some(python.into()) };
        assert_eq!(chosen(&[("POUNCE_PYTHON", "python3.13")]), both("python3.13"));
        assert_eq!(chosen(&[("PYO3_PYTHON", "python3.12")]), both("python3.12"));
        assert_eq!(
            chosen(&[("PYO3_PYTHON", "python3.12"), ("POUNCE_PYTHON", "python3.13")]),
            both("python3.13")
        );
        assert_eq!(chosen(&[]), Interpreter { python: "python3".into(), pyo3_python: None });
    }

    #[test]
    fn a_baseline_is_found_from_where_it_was_named() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(from_here("target/abi3/release/pounce".into()), here.join("target/abi3/release/pounce"));
        assert_eq!(from_here("python3.13".into()), Path::new("python3.13"));
    }

    #[test]
    fn the_command_in_the_table_can_be_given_to_a_shell() {
        let set = |name: &str| (name == "POUNCE_PYTHON").then(|| "/opt/my python".to_owned());
        let arguments = ["--seconds", "0.5"].map(str::to_owned);
        assert_eq!(
            command(set, arguments.into_iter()),
            "`POUNCE_PYTHON='/opt/my python' cargo run --release -p bench -- --seconds 0.5`"
        );
        assert_eq!(command(|_| None, std::iter::empty()), "`cargo run --release -p bench`");
    }
}
