//! Finding the Python interpreter that the workers run, and telling whether the extension module fits it.

use pounce_settings::Settings;
use serde::Deserialize;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The oldest Python that pounce runs on.
pub const OLDEST: (u32, u32) = (3, 10);

/// The oldest free-threaded Python that PyO3 builds for.
const OLDEST_FREE_THREADED: (u32, u32) = (3, 14);

/// An interpreter that was started once and described itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Interpreter {
    /// `sys.executable`: an absolute path.
    pub executable: PathBuf,
    /// `(major, minor, micro)`
    pub version: (u32, u32, u32),
    /// `sys.implementation.name`: `cpython`, `pypy`.
    pub implementation: String,
    /// `EXT_SUFFIX`, the end of an extension module's file name: `.cpython-311-x86_64-linux-gnu.so`.
    pub extension_suffix: String,
    /// Built without the global interpreter lock.
    pub free_threaded: bool,
    /// The package `pounce` is installed for it, with an extension module that it can load.
    #[serde(default)]
    pub installed: bool,
}

/// What the extension module was compiled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuiltFor {
    /// One minor version of CPython.
    Exactly {
        /// `(major, minor)`
        version: (u32, u32),
        /// Without the global interpreter lock.
        free_threaded: bool,
    },
    /// The stable ABI: every CPython from [`OLDEST`] on that has the global interpreter lock.
    StableAbi,
}

/// Where an interpreter is looked for, in order of precedence, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// A path, or a name to look up in `$PATH`.
    pub program: PathBuf,
    /// Completes "`program`, ...": `named by the flag --python`.
    pub reason: String,
}

/// Why there is no interpreter to run. `Display` says what to do about it.
#[derive(Debug)]
pub enum InterpreterError {
    /// It cannot be started.
    NotStarted(Candidate, io::Error),
    /// It started and is no Python, or one that cannot run.
    NotPython(Candidate, String),
    /// It is older than [`OLDEST`].
    TooOld(Interpreter),
    /// The extension module was built for another one.
    DoesNotFit(Interpreter, BuiltFor),
    /// There is no checkout whose extension module it could load, and no package is installed for it.
    NotInstalled(Interpreter),
    /// The extension module of the checkout cannot be read, or is none.
    NotAModule(PathBuf, String),
}

/// Decides which interpreter to use: the one asked for (`--python`, `$POUNCE_PYTHON`; `reason` says where), else
/// `$VIRTUAL_ENV/bin/python`, else the one of the virtual environment that `own_executable` is installed in, else `python3`.
pub fn choose(
    asked: Option<(&Path, String)>,
    virtual_env: Option<&OsStr>,
    own_executable: Option<&Path>,
) -> Candidate {
    if let Some((program, reason)) = asked {
        return Candidate { program: program.to_owned(), reason: format!("named by {reason}") };
    }
    if let Some(directory) = virtual_env.filter(|directory| !directory.is_empty()) {
        return Candidate {
            program: Path::new(directory).join("bin/python"),
            reason: "of the virtual environment that $VIRTUAL_ENV names".into(),
        };
    }
    // `/srv/venv/bin/pounce` without activating anything: its package is in that environment and nowhere else.
    let scripts = own_executable.and_then(Path::parent);
    let home = scripts.and_then(Path::parent).filter(|home| home.join("pyvenv.cfg").is_file());
    if let (Some(scripts), Some(_)) = (scripts, home) {
        let reason = "of the virtual environment that pounce is installed in".into();
        return Candidate { program: scripts.join("python"), reason };
    }
    Candidate { program: "python3".into(), reason: "found in $PATH".into() }
}

/// Chooses the interpreter for `settings` in the environment of this process, and asks it what it is.
///
/// # Errors
///
/// There is none, or it is no Python or too old.
pub fn of_settings(settings: &Settings) -> Result<Interpreter, InterpreterError> {
    let asked = settings.python.as_deref().map(|path| (path, settings.origin("python").to_string()));
    let own_executable = std::env::current_exe().ok();
    describe(&choose(asked, std::env::var_os("VIRTUAL_ENV").as_deref(), own_executable.as_deref()))
}

/// Prints what [`Interpreter`] holds. It has to run on every Python, so that one that is too old can say so.
const DESCRIBE: &str = "\
import json, os, sys, sysconfig
try:
    from importlib import machinery, util
    places = util.find_spec('pounce').submodule_search_locations
    files = [os.path.join(place, '_pounce' + end) for place in places for end in machinery.EXTENSION_SUFFIXES]
except Exception:
    files = []
print(json.dumps({
    'executable': sys.executable,
    'version': tuple(sys.version_info[:3]),
    'implementation': getattr(getattr(sys, 'implementation', None), 'name', 'python2'),
    'extension_suffix': sysconfig.get_config_var('EXT_SUFFIX') or '',
    'free_threaded': bool(sysconfig.get_config_var('Py_GIL_DISABLED')),
    'installed': any(os.path.isfile(file) for file in files),
}))";

/// Starts `candidate` once and asks it what it is.
///
/// # Errors
///
/// It does not start, is no Python, or is too old.
pub fn describe(candidate: &Candidate) -> Result<Interpreter, InterpreterError> {
    let output = Command::new(&candidate.program)
        .args(["-c", DESCRIBE])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| InterpreterError::NotStarted(candidate.clone(), error))?;
    // A sitecustomize that prints something comes before our line.
    let said = String::from_utf8_lossy(&output.stdout);
    let described = said.lines().next_back().and_then(|line| serde_json::from_str::<Interpreter>(line).ok());
    let Some(interpreter) = described.filter(|_| output.status.success()) else {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let last = complaint.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned);
        let problem = last.unwrap_or_else(|| format!("it ended with {}", output.status));
        return Err(InterpreterError::NotPython(candidate.clone(), problem));
    };
    if (interpreter.version.0, interpreter.version.1) < OLDEST {
        return Err(InterpreterError::TooOld(interpreter));
    }
    Ok(interpreter)
}

/// In front of what an extension module was built for, in its file (asgi/src/lib.rs).
const MARK: &[u8] = b"pounce-built-for=";

impl BuiltFor {
    /// What the extension module in this file was built for: `3.11`, `3.14t` or `abi3>=3.10` there.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not pounce's extension module.
    pub fn of_module(path: &Path) -> Result<BuiltFor, InterpreterError> {
        let none = |problem: String| InterpreterError::NotAModule(path.to_owned(), problem);
        let file = std::fs::read(path).map_err(|error| none(error.to_string()))?;
        let marked = memchr::memmem::find(&file, MARK).map(|at| &file[at + MARK.len()..]);
        let text = marked.and_then(|text| text.split(|byte| *byte == b';').next());
        let text = text.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
        if text.starts_with("abi3") {
            return Ok(BuiltFor::StableAbi);
        }
        let version = text.strip_suffix('t').unwrap_or(text);
        let (major, minor) = version.split_once('.').unwrap_or_default();
        match (major.parse(), minor.parse()) {
            (Ok(major), Ok(minor)) => {
                Ok(BuiltFor::Exactly { version: (major, minor), free_threaded: version != text })
            }
            _ => Err(none("it is not pounce's extension module".to_owned())),
        }
    }
}

/// Checks that the package is installed for `interpreter`.
///
/// # Errors
///
/// It is not, or its extension module is for another interpreter.
pub fn check_installed(interpreter: Interpreter) -> Result<Interpreter, InterpreterError> {
    if interpreter.installed { Ok(interpreter) } else { Err(InterpreterError::NotInstalled(interpreter)) }
}

/// Checks that the extension module can be loaded by `interpreter`.
///
/// # Errors
///
/// It was built for another version or kind of Python.
pub fn check(interpreter: Interpreter, built_for: BuiltFor) -> Result<Interpreter, InterpreterError> {
    let (major, minor, _) = interpreter.version;
    let fits = interpreter.implementation == "cpython"
        && match built_for {
            BuiltFor::Exactly { version, free_threaded } => {
                (major, minor) == version && interpreter.free_threaded == free_threaded
            }
            BuiltFor::StableAbi => !interpreter.free_threaded,
        };
    if fits { Ok(interpreter) } else { Err(InterpreterError::DoesNotFit(interpreter, built_for)) }
}

impl fmt::Display for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, micro) = self.version;
        let name = match self.implementation.as_str() {
            "cpython" | "python2" => "Python",
            "pypy" => "PyPy",
            other => other,
        };
        let threads = if self.free_threaded { ", free-threaded" } else { "" };
        write!(f, "{name} {major}.{minor}.{micro} ({}{threads})", self.executable.display())
    }
}

impl fmt::Display for BuiltFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuiltFor::Exactly { version: (major, minor), free_threaded: false } => {
                write!(f, "CPython {major}.{minor}")
            }
            BuiltFor::Exactly { version: (major, minor), free_threaded: true } => {
                write!(f, "free-threaded CPython {major}.{minor}")
            }
            BuiltFor::StableAbi => write!(f, "CPython {}.{} and later with the GIL", OLDEST.0, OLDEST.1),
        }
    }
}

impl fmt::Display for InterpreterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = OLDEST;
        match self {
            InterpreterError::NotStarted(candidate, error) if error.kind() == io::ErrorKind::NotFound => {
                let program = candidate.program.display();
                match candidate.program.components().count() {
                    1 => write!(f, "there is no {program} in $PATH")?,
                    _ => write!(f, "there is no {program}, {}", candidate.reason)?,
                }
                write!(f, "\n  install Python {major}.{minor} or later, or name one with --python PATH")
            }
            InterpreterError::NotStarted(candidate, error) => {
                write!(f, "{}, {}, does not start: {error}", candidate.program.display(), candidate.reason)?;
                write!(f, "\n  name a Python {major}.{minor} or later with --python PATH")
            }
            InterpreterError::NotPython(candidate, problem) => {
                write!(
                    f,
                    "{}, {}, is no working Python: {problem}",
                    candidate.program.display(),
                    candidate.reason
                )?;
                write!(f, "\n  name a Python {major}.{minor} or later with --python PATH")
            }
            InterpreterError::TooOld(interpreter) => {
                write!(f, "{interpreter} is too old: pounce needs Python {major}.{minor} or later")?;
                write!(f, "\n  name another one with --python PATH")
            }
            InterpreterError::DoesNotFit(interpreter, built_for) => {
                write!(
                    f,
                    "{interpreter} cannot load pounce's extension module, which was built for {built_for}"
                )?;
                mend(f, interpreter)
            }
            InterpreterError::NotInstalled(interpreter) => {
                write!(
                    f,
                    "there is no pounce package for {interpreter} with an extension module that it can load"
                )?;
                mend(f, interpreter)
            }
            InterpreterError::NotAModule(path, problem) => {
                write!(f, "pounce's extension module {}: {problem}", path.display())?;
                write!(f, "\n  in a checkout, build it: cargo build --release")
            }
        }
    }
}

/// The commands after which `interpreter` can be used.
fn mend(f: &mut fmt::Formatter<'_>, interpreter: &Interpreter) -> fmt::Result {
    let (major, minor) = OLDEST;
    let path = quoted(&interpreter.executable);
    if interpreter.implementation != "cpython" {
        return write!(f, "\n  name a CPython {major}.{minor} or later with --python PATH");
    }
    if interpreter.free_threaded && (interpreter.version.0, interpreter.version.1) < OLDEST_FREE_THREADED {
        let (major, minor) = OLDEST_FREE_THREADED;
        return write!(
            f,
            "\n  name a free-threaded CPython {major}.{minor} or later, or one with the GIL, with --python PATH"
        );
    }
    write!(
        f,
        "\n  in a checkout, build for it: PYO3_PYTHON={path} cargo build --release; then run target/release/pounce"
    )?;
    write!(f, "\n  or install pounce there, in a checkout: {path} -m pip install .")?;
    write!(f, "\n  or name an interpreter that fits with --python PATH")
}

/// `path` as a POSIX shell reads it as one word.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,:@%".contains(&byte);
    if path.bytes().all(plain) { path.into_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

impl std::error::Error for InterpreterError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn asked(program: impl Into<PathBuf>) -> Candidate {
        Candidate { program: program.into(), reason: "named by the flag --python".into() }
    }

    fn cpython(version: (u32, u32, u32), free_threaded: bool) -> Interpreter {
        Interpreter {
            executable: "/usr/bin/python3".into(),
            version,
            implementation: "cpython".into(),
            extension_suffix: ".so".into(),
            free_threaded,
            installed: false,
        }
    }

    /// The message about a program whose source is `script`, with the temporary directory cut from it.
    fn complaint(script: &str) -> String {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let program = directory.path().join("python");
        std::fs::write(&program, script).expect("a script");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
            .expect("an executable script");
        let error = loop {
            match describe(&asked(&program)) {
                // Another thread of this test run forked while the script was open for writing.
                Err(InterpreterError::NotStarted(_, error))
                    if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                outcome => break outcome.expect_err("no good interpreter"),
            }
        };
        error.to_string().replace(&*directory.path().to_string_lossy(), "DIR")
    }

    #[test]
    fn an_interpreter_that_was_asked_for_beats_the_environment_beats_the_path() {
        let installed = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(installed.path().join("pyvenv.cfg"), "").expect("the mark of a virtual environment");
        let own = installed.path().join("bin/pounce");
        let chosen = |flag, venv: Option<&str>, own| choose(flag, venv.map(OsStr::new), own).program;
        let flag = Some((Path::new("p"), "a flag".into()));
        assert_eq!(chosen(flag, Some("/v"), Some(&own)), Path::new("p"));
        assert_eq!(chosen(None, Some("/v"), Some(&own)), Path::new("/v/bin/python"));
        assert_eq!(chosen(None, Some(""), Some(&own)), installed.path().join("bin/python"));
        assert_eq!(chosen(None, None, Some(Path::new("/usr/bin/pounce"))), Path::new("python3"));
    }

    #[test]
    fn a_real_interpreter_describes_itself() {
        if Command::new("python3").arg("--version").output().is_err() {
            eprintln!("SKIPPED: no python3 in PATH");
            return;
        }
        let interpreter = describe(&asked("python3")).expect("python3 is good enough");
        assert!(interpreter.executable.is_absolute());
        assert!(interpreter.extension_suffix.ends_with(".so"), "{interpreter:?}");
    }

    #[test]
    fn a_line_printed_at_python_start_up_does_not_hide_the_description() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let description = r#"{"executable": "/p", "version": [3, 12, 1], "implementation": "cpython", "extension_suffix": "", "free_threaded": false}"#;
        let script = directory.path().join("description");
        std::fs::write(&script, format!("hello\n{description}\n")).expect("a file");
        // `cat -c` is an error, `sh -c` with a script that ignores Python's is not: `env` makes one of it.
        let program = directory.path().join("python");
        std::fs::write(&program, format!("#!/bin/sh\ncat {}\n", script.display())).expect("a script");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
            .expect("an executable script");
        let interpreter = loop {
            match describe(&asked(&program)) {
                Err(InterpreterError::NotStarted(_, error))
                    if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                outcome => break outcome.expect("a description"),
            }
        };
        assert_eq!(interpreter.to_string(), "Python 3.12.1 (/p)");
    }

    #[test]
    fn a_program_that_is_no_usable_python_is_named_with_what_it_said_and_what_to_do() {
        insta::assert_snapshot!([
            complaint("#!/bin/sh\necho broken install >&2; exit 1\n"),
            complaint("#!/bin/sh\nexit 7\n"),
            complaint("#!/bin/sh\necho hello\n"),
            complaint("#!/bin/sh\necho '{\"executable\": \"/p\", \"version\": [3, 9, 2], \"implementation\": \"cpython\", \"extension_suffix\": \"\", \"free_threaded\": false}'\n"),
            describe(&asked("/nowhere/python")).expect_err("there is none").to_string(),
            describe(&asked("python-of-nobody")).expect_err("there is none").to_string(),
            describe(&asked("/")).expect_err("a directory").to_string(),
        ]
        .join("\n\n"));
    }

    #[test]
    fn the_extension_is_never_loaded_into_an_interpreter_it_was_not_built_for() {
        let exactly = |minor, free_threaded| BuiltFor::Exactly { version: (3, minor), free_threaded };
        for (interpreter, built_for, fits) in [
            (cpython((3, 11, 7), false), exactly(11, false), true),
            (cpython((3, 12, 0), false), exactly(11, false), false),
            (cpython((3, 13, 0), true), exactly(13, true), true),
            (cpython((3, 13, 0), true), exactly(13, false), false),
            (cpython((3, 13, 0), false), exactly(13, true), false),
            (cpython((3, 13, 0), false), BuiltFor::StableAbi, true),
            (cpython((3, 13, 0), true), BuiltFor::StableAbi, false),
            (
                Interpreter { implementation: "pypy".into(), ..cpython((3, 11, 7), false) },
                exactly(11, false),
                false,
            ),
        ] {
            let shown = format!("{interpreter} {built_for}");
            assert_eq!(check(interpreter, built_for).is_ok(), fits, "{shown}");
        }
    }

    #[test]
    fn a_mismatch_is_told_with_the_commands_that_mend_it() {
        let built_for = BuiltFor::Exactly { version: (3, 11), free_threaded: false };
        let told =
            |interpreter| check(interpreter, built_for.clone()).expect_err("another version").to_string();
        // Nothing can be built for the second.
        insta::assert_snapshot!(
            [told(cpython((3, 14, 0), true)), told(cpython((3, 13, 0), true))].join("\n\n")
        );
    }

    /// The words of the command that follows `introduction` in `message`, as a shell tells them apart.
    fn words(message: &str, introduction: &str) -> String {
        let (_, rest) = message.split_once(introduction).expect("the command is told");
        let command =
            rest.lines().next().and_then(|line| line.split("; then run").next()).unwrap_or_default();
        let shell = Command::new("/bin/sh").arg("-c").arg(format!("printf '%s|' {command}")).output();
        String::from_utf8_lossy(&shell.expect("a shell").stdout).into_owned()
    }

    #[test]
    fn a_shell_takes_the_commands_as_they_are_meant_whatever_the_path_of_the_interpreter() {
        for path in ["/usr/bin/python3", "/a b/python", "/it's $HOME; `x` \"y\" \\ & *~#(1)/é"] {
            let interpreter = Interpreter { executable: path.into(), ..cpython((3, 13, 0), false) };
            let message = check_installed(interpreter).expect_err("it is not installed").to_string();
            let build = words(&message, "build for it: ");
            assert_eq!(build, format!("PYO3_PYTHON={path}|cargo|build|--release|"));
            assert_eq!(words(&message, "in a checkout: "), format!("{path}|-m|pip|install|.|"));
        }
    }

    #[test]
    fn without_a_checkout_the_package_has_to_be_installed_for_the_interpreter() {
        let error = check_installed(cpython((3, 13, 0), false)).expect_err("it is not");
        insta::assert_snapshot!(error);
        assert!(check_installed(Interpreter { installed: true, ..cpython((3, 13, 0), false) }).is_ok());
    }

    #[test]
    fn the_file_of_the_extension_module_says_what_it_was_built_for() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("module.so");
        let built_for = |content: &str| {
            std::fs::write(&file, content).expect("a file");
            BuiltFor::of_module(&file)
                .map_err(|error| error.to_string().replace(&*file.to_string_lossy(), "FILE"))
        };
        let exactly = |minor, free_threaded| Ok(BuiltFor::Exactly { version: (3, minor), free_threaded });
        assert_eq!(built_for("\x7fELF pounce-built-for=3.11;3.12"), exactly(11, false));
        assert_eq!(built_for("pounce-built-for=3.14t;"), exactly(14, true));
        assert_eq!(built_for("pounce-built-for=abi3>=3.10;"), Ok(BuiltFor::StableAbi));
        let error = "pounce's extension module FILE: it is not pounce's extension module\n  in a checkout, build it: cargo build --release";
        assert_eq!(built_for("\x7fELF"), Err(error.to_owned()));
        assert_eq!(built_for("pounce-built-for=?;"), Err(error.to_owned()));
    }
}
