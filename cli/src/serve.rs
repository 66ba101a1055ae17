//! From settings to a running server.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use pounce_core::supervisor::{Notify, exit};
use pounce_core::{Event, Policy};
use pounce_runtime_tokio::listener::Listener;
use pounce_runtime_tokio::logging;
use pounce_runtime_tokio::os::listener::{BindAddress, OsListener};
use pounce_runtime_tokio::os::process::OsWorkerHost;
use pounce_runtime_tokio::os::signals::Signals;
use pounce_runtime_tokio::supervisor::{self, Observer, Parts};
use pounce_runtime_tokio::worker::tokio_spawn;
use pounce_settings::{Bind, Settings, Target};

use crate::interpreter::{self, BuiltFor, Interpreter};
use crate::pid_file::PidFile;
use crate::{args, systemd};

/// Why a server did not start, and the code to exit with.
struct Refused {
    message: String,
    code: i32,
}

fn refused(code: i32) -> impl Fn(String) -> Refused {
    move |message| Refused { message, code }
}

/// Serves `app` until it is told to stop.
pub fn serve(settings: Settings, app: Target, signals: Signals) -> ExitCode {
    logging::init(settings.log_format.into(), settings.log_level.into());
    match start(settings, &app, signals) {
        Ok(code) => exit_code(code),
        Err(Refused { message, code }) => {
            tracing::error!("{message}");
            exit_code(code)
        }
    }
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn start(settings: Settings, app: &Target, signals: Signals) -> Result<i32, Refused> {
    let policy = settings.policy().map_err(|error| refused(exit::USAGE)(error.to_string()))?;
    let program = Program::of(&settings, app)?;
    let listeners = settings
        .binds
        .iter()
        .map(|bind| OsListener::bind(&bind_address(bind), settings.backlog))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|error| refused(exit::INTERNAL)(error.to_string()))?;
    let pid_file = settings.pid_file.as_deref().map(PidFile::create).transpose();
    let _pid_file = pid_file.map_err(|error| refused(exit::INTERNAL)(error.to_string()))?;
    let json = serde_json::to_string(&settings);
    let json =
        json.map_err(|error| refused(exit::INTERNAL)(format!("settings cannot be passed on: {error}")))?;
    let observer = Told {
        serving: Some(serving_line(&settings, app, &program, &policy, &listeners)),
        workers: settings.workers,
    };
    let host = OsWorkerHost::new(move |_number, _generation| program.command());
    let host =
        host.map_err(|error| refused(exit::INTERNAL)(format!("workers cannot be watched: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| refused(exit::INTERNAL)(format!("no runtime: {error}")))?;
    let parts = Parts {
        policy,
        options: (&settings).into(),
        workers: settings.workers,
        settings: json,
        listeners,
        host,
        signals,
        observer,
        spawn: tokio_spawn(),
    };
    Ok(runtime.block_on(async { supervisor::run(parts).await }))
}

fn bind_address(bind: &Bind) -> BindAddress {
    match bind {
        Bind::Tcp { host, port } => BindAddress::Tcp { host: host.clone(), port: *port },
        Bind::Unix(path) => BindAddress::Unix(path.clone()),
        Bind::Descriptor(number) => BindAddress::Fd(*number),
    }
}

/// What a worker process runs.
#[derive(Debug)]
enum Program {
    Demo { executable: PathBuf },
    Python { interpreter: Interpreter, place: Place },
}

/// Where the `pounce` package is.
#[derive(Debug)]
enum Place {
    /// Installed for the interpreter.
    Installed,
    /// In the checkout that this executable was built from, with the extension module beside the executable.
    Checkout { package: PathBuf, extension: PathBuf },
}

impl Place {
    /// Cargo puts the extension module, a dependency of this executable, into `deps` beside it.
    fn find(executable: &Path) -> Place {
        let extension = |directory: &Path| {
            ["deps/libpounce_asgi.so", "libpounce_asgi.so"]
                .iter()
                .map(|name| directory.join(name))
                .find(|p| p.is_file())
        };
        let package = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../asgi/python"));
        let extension = std::env::var_os("POUNCE_EXTENSION")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .or_else(|| executable.parent().and_then(extension));
        match (extension, package.canonicalize()) {
            (Some(extension), Ok(package)) => Place::Checkout { package, extension },
            _ => Place::Installed,
        }
    }
}

impl Program {
    fn of(settings: &Settings, app: &Target) -> Result<Program, Refused> {
        let executable = std::env::current_exe().map_err(|error| {
            refused(exit::INTERNAL)(format!("pounce cannot find its own executable: {error}"))
        })?;
        if *app == Target::Demo {
            return Ok(Program::Demo { executable });
        }
        let place = Place::find(&executable);
        let interpreter = interpreter::of_settings(settings).and_then(|found| match &place {
            Place::Installed => interpreter::check_installed(found),
            Place::Checkout { extension, .. } => interpreter::check(found, BuiltFor::of_module(extension)?),
        });
        let interpreter = interpreter.map_err(|error| refused(exit::USAGE)(error.to_string()))?;
        Ok(Program::Python { interpreter, place })
    }

    fn command(&self) -> Command {
        let mut command = match self {
            Program::Demo { executable } => {
                let mut command = Command::new(executable);
                command.arg(args::DEMO_WORKER);
                command
            }
            Program::Python { interpreter, place } => {
                let mut command = Command::new(&interpreter.executable);
                command.args(["-m", "pounce._worker"]);
                if let Place::Checkout { package, extension } = place {
                    command.env("PYTHONPATH", before(package, std::env::var_os("PYTHONPATH")));
                    command.env("POUNCE_EXTENSION", extension);
                }
                command
            }
        };
        for variable in systemd::OWN_VARIABLES {
            command.env_remove(variable);
        }
        command
    }

    fn name(&self) -> String {
        match self {
            Program::Demo { .. } => "no interpreter".to_owned(),
            Program::Python { interpreter, .. } => {
                let (major, minor, micro) = interpreter.version;
                format!("{} (CPython {major}.{minor}.{micro})", interpreter.executable.display())
            }
        }
    }
}

/// `package` in front of what was there: the worker must find our package, the application its own.
fn before(package: &Path, path: Option<OsString>) -> OsString {
    let mut joined = OsString::from(package);
    if let Some(path) = path.filter(|path| !path.is_empty()) {
        joined.push(":");
        joined.push(path);
    }
    joined
}

fn serving_line(
    settings: &Settings,
    app: &Target,
    program: &Program,
    policy: &Policy,
    listeners: &[OsListener],
) -> String {
    let addresses: Vec<String> = listeners.iter().map(Listener::name).collect();
    format!(
        "pounce {} serving {app} at {} with {} worker(s), {}, shutdown budget {:.1}s",
        env!("CARGO_PKG_VERSION"),
        addresses.join(", "),
        settings.workers,
        program.name(),
        policy.budget().as_secs_f64(),
    )
}

/// Tells the log and the service manager.
struct Told {
    /// The start-up line, until it is said.
    serving: Option<String>,
    workers: u32,
}

impl Observer for Told {
    fn event(&mut self, event: &Event) {
        logging::lifecycle(event);
    }

    fn notify(&mut self, notify: &Notify) {
        let told = match notify {
            Notify::Ready => {
                if let Some(line) = self.serving.take() {
                    tracing::info!("{line}");
                }
                systemd::ready(&format!("Serving with {} worker(s)", self.workers))
            }
            Notify::Reloading => systemd::reloading(),
            Notify::Stopping => systemd::stopping("Shutting down"),
            Notify::ExtendTimeout(more) => systemd::extend_timeout(*more),
            Notify::Status { workers, connections } => {
                systemd::status(&format!("{workers} worker(s) ready, {connections} connection(s) open"))
            }
        };
        if let Err(error) = told {
            tracing::debug!("the service manager could not be told: {error}");
        }
    }
}
