//! The servers, and what each of them is given.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::affinity::{self, Cores};
use crate::environment::Environment;
use crate::load::INTERRUPTED;
use crate::processes;
use crate::workload::Workload;

/// How long a server may take to give its first answer.
const START: Duration = Duration::from_secs(30);

/// How long a server may take to leave.
const STOP: Duration = Duration::from_secs(3);

/// A server as it can be asked for on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: &'static str,
    pub program: Program,
    /// Runs without being asked for.
    pub by_default: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    BareHyper,
    PounceDemo { baseline: bool },
    Pounce { baseline: bool },
    Granian(Granian),
    Uvicorn { http: &'static str, event_loop: &'static str },
    Hypercorn,
    Gunicorn { worker_class: &'static str },
}

/// What of granian is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Granian {
    pub event_loop: &'static str,
    pub runtime_mode: &'static str,
    pub runtime_threads: u32,
}

impl Granian {
    /// The configurations among which the best is looked for, for each workload and concurrency.
    pub fn candidates() -> Vec<Granian> {
        let mut candidates = Vec::new();
        for event_loop in ["uvloop", "asyncio"] {
            for (runtime_mode, runtime_threads) in [("st", 1), ("mt", 1), ("mt", 2), ("st", 2)] {
                candidates.push(Granian { event_loop, runtime_mode, runtime_threads });
            }
        }
        candidates
    }

    /// As in the report.
    pub fn title(self) -> String {
        format!("{} {}{}", self.event_loop, self.runtime_mode, self.runtime_threads)
    }
}

impl Server {
    /// All of them. The first is what the others are compared with.
    pub fn all() -> Vec<Server> {
        let server = |name, program, by_default| Server { name, program, by_default };
        let uvicorn = |http, event_loop| Program::Uvicorn { http, event_loop };
        vec![
            server("bare-hyper", Program::BareHyper, true),
            server("pounce-demo", Program::PounceDemo { baseline: false }, true),
            server("pounce", Program::Pounce { baseline: false }, true),
            server("granian", Program::Granian(Granian::candidates()[0]), true),
            server("uvicorn", uvicorn("httptools", "uvloop"), true),
            server("hypercorn", Program::Hypercorn, true),
            server("gunicorn", Program::Gunicorn { worker_class: "uvicorn_worker.UvicornWorker" }, true),
            server("uvicorn-h11", uvicorn("h11", "asyncio"), false),
            server("gunicorn-asgi", Program::Gunicorn { worker_class: "asgi" }, false),
            server("baseline-demo", Program::PounceDemo { baseline: true }, false),
            server("baseline", Program::Pounce { baseline: true }, false),
        ]
    }

    /// Another server for Python applications, that pounce is compared with.
    pub fn is_competitor(&self) -> bool {
        matches!(
            self.program,
            Program::Granian(_) | Program::Uvicorn { .. } | Program::Hypercorn | Program::Gunicorn { .. }
        )
    }

    /// The path that `workload` asks this server for; `None` if it does not have it.
    pub fn path(&self, workload: &Workload) -> Option<&'static str> {
        match &self.program {
            Program::BareHyper => Some(workload.path),
            Program::PounceDemo { .. } => workload.demo_path,
            _ => Some("/"),
        }
    }

    fn command(
        &self,
        environment: &Environment,
        workload: &Workload,
        port: u16,
        workers: usize,
    ) -> Result<Command, String> {
        let port_text = port.to_string();
        let workers_text = workers.to_string();
        let bind = format!("127.0.0.1:{port}");
        let application = workload.application;
        let pounce = |baseline: bool| match (baseline, &environment.baseline) {
            (false, _) => Ok(Command::new(&environment.pounce)),
            (true, Some(path)) => Ok(Command::new(path)),
            (true, None) => Err("--baseline PATH says which executable that is".to_owned()),
        };
        let venv = |program: &str| Command::new(environment.venv.join(program));
        let mut command = match &self.program {
            Program::BareHyper => {
                let mut command = Command::new(&environment.bare_hyper);
                command.args([&port_text, &workers_text]);
                command
            }
            Program::PounceDemo { baseline } => {
                let mut command = pounce(*baseline)?;
                command.args(["demo", "--log-level", "warning", "--bind", &bind, "--workers", &workers_text]);
                command
            }
            Program::Pounce { baseline } => {
                let mut command = pounce(*baseline)?;
                command
                    .args([
                        application,
                        "--log-level",
                        "warning",
                        "--bind",
                        &bind,
                        "--workers",
                        &workers_text,
                    ])
                    .arg("--python")
                    .arg(match (baseline, &environment.baseline_python) {
                        (true, Some(python)) => python.clone(),
                        _ => environment.venv.join("python"),
                    });
                command
            }
            Program::Granian(settings) => {
                let mut command = venv("granian");
                command
                    .args([
                        application,
                        "--interface",
                        "asgi",
                        "--http",
                        "1",
                        "--no-ws",
                        "--log-level",
                        "warning",
                    ])
                    .args(["--host", "127.0.0.1", "--port", &port_text, "--workers", &workers_text])
                    .args(["--loop", settings.event_loop, "--runtime-mode", settings.runtime_mode])
                    .args(["--runtime-threads", &settings.runtime_threads.to_string()]);
                command
            }
            Program::Uvicorn { http, event_loop } => {
                let mut command = venv("uvicorn");
                command
                    .args([application, "--http", http, "--loop", event_loop, "--ws", "none"])
                    .args(["--no-access-log", "--log-level", "warning", "--host", "127.0.0.1"])
                    .args(["--port", &port_text, "--workers", &workers_text]);
                command
            }
            Program::Hypercorn => {
                let mut command = venv("hypercorn");
                command.args([application, "--worker-class", "uvloop", "--log-level", "warning"]).args([
                    "--bind",
                    &bind,
                    "--workers",
                    &workers_text,
                ]);
                command
            }
            Program::Gunicorn { worker_class } => {
                let mut command = venv("gunicorn");
                command.args([application, "--worker-class", worker_class, "--log-level", "warning"]).args([
                    "--bind",
                    &bind,
                    "--workers",
                    &workers_text,
                ]);
                command
            }
        };
        let apps = environment.root.join("bench/apps");
        command.current_dir(&apps).env("PYTHONPATH", &apps).env_remove("PORT").env_remove("WEB_CONCURRENCY");
        Ok(command)
    }

    /// Starts it on a free port and waits for its first right answer.
    ///
    /// # Errors
    /// What went wrong, with the end of the server's log.
    pub fn start(
        &self,
        environment: &Environment,
        workload: &Workload,
        workers: usize,
    ) -> Result<Running, String> {
        let port = free_port()?;
        let log = environment.logs.join(format!("{}-{}.log", self.name, workload.name));
        let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let copy = file.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
        let mut command = self.command(environment, workload, port, workers)?;
        // A group of its own: ctrl-c on the terminal is for this program, which then stops them.
        command.stdin(Stdio::null()).stdout(copy).stderr(file).process_group(0);
        let cores = Cores::for_workers(workers);
        affinity::pin(&cores.server);
        let child = command.spawn();
        affinity::pin(&cores.load);
        let child = child.map_err(|error| format!("{command:?}: {error}"))?;
        let mut running = Running { server: self.clone(), child, port, leaving: None };
        let path = self.path(workload).unwrap_or("/");
        let deadline = Instant::now() + START;
        loop {
            let answer = first_answer(port, &workload.request(path));
            let complaint = match answer {
                Ok(response) => match check(&response, workload) {
                    Ok(()) => return Ok(running),
                    Err(complaint) => complaint,
                },
                Err(error) => error.to_string(),
            };
            let exited = running.child.try_wait().ok().flatten();
            if INTERRUPTED.load(Ordering::Relaxed) {
                return Err("interrupted".to_owned());
            }
            if exited.is_some() || Instant::now() > deadline {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(15).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                return Err(format!(
                    "{} gave no right answer: {complaint}; {exited:?}\n{}",
                    self.name,
                    tail.join("\n")
                ));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

/// A server that runs, until it is dropped.
#[derive(Debug)]
pub struct Running {
    pub server: Server,
    child: Child,
    pub port: u16,
    /// Set once it was asked to leave: its processes as they were then, before the orphans lost their parent.
    leaving: Option<BTreeSet<u32>>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it SIGTERM, once. Several that are asked before the first is dropped leave at the same time.
    pub fn ask_to_leave(&mut self) {
        if self.leaving.is_none() {
            self.leaving = Some(processes::tree(self.pid()));
            signal(self.pid(), Signal::TERM);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ask_to_leave();
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        for pid in self.leaving.take().unwrap_or_default() {
            // A number that somebody else has by now is not in our group.
            if Pid::from_raw(pid.cast_signed()).is_some_and(|pid| {
                rustix::process::getpgid(Some(pid))
                    .is_ok_and(|group| group.as_raw_nonzero().get() == self.child.id().cast_signed())
            }) {
                signal(pid, Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        // It may have left already.
        let _ = kill_process(pid, signal);
    }
}

fn free_port() -> Result<u16, String> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| format!("no free port: {error}"))?;
    listener.local_addr().map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}

/// Sends one request and reads what comes until the server has nothing more to say for a moment.
fn first_answer(port: u16, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(request)?;
    let mut response = Vec::new();
    let mut reader = crate::response::ResponseReader::default();
    let mut piece = [0; 65536];
    loop {
        let count = stream.read(&mut piece)?;
        response.extend_from_slice(&piece[..count]);
        match reader.read(&piece[..count]) {
            Ok(crate::response::Read::Ended(_)) => return Ok(response),
            Ok(_) if count > 0 => {}
            Ok(_) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Err(malformed) => return Err(std::io::Error::other(malformed.to_string())),
        }
    }
}

/// Compares a whole response, where the load only compares lengths.
fn check(response: &[u8], workload: &Workload) -> Result<(), String> {
    let text = || String::from_utf8_lossy(&response[..response.len().min(300)]).into_owned();
    if !response.starts_with(b"HTTP/1.1 200 ") {
        return Err(format!("a wrong answer: {}", text()));
    }
    match &workload.response_body {
        Some(body) if !response.ends_with(body) => Err(format!("a wrong body: {}", text())),
        _ => Ok(()),
    }
}
