//! Starts the built `pounce`, watches what it says, signals it, and never leaves it behind.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::binary;
use crate::client::{Address, Connection, Session, get};
use crate::outcome::Outcome;
use crate::processes;
use crate::request::Request;

/// How long a server may take to start on a loaded machine, Python and framework included.
pub const START_PATIENCE: Duration = Duration::from_secs(60);

/// Slack for the machine on top of every deadline that is the product's own: scheduling, reaping, reading logs.
pub const SLACK: Duration = Duration::from_secs(3);

/// How a server is to be started.
#[derive(Debug)]
pub struct ServerBuilder {
    app: Option<OsString>,
    args: Vec<OsString>,
    bind: Option<OsString>,
    envs: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    wrapper: Vec<OsString>,
}

impl ServerBuilder {
    fn new(app: Option<&str>) -> Self {
        Self {
            app: app.map(Into::into),
            args: Vec::new(),
            bind: Some("127.0.0.1:0".into()),
            envs: Vec::new(),
            cwd: binary::workspace().join("tests/apps"),
            wrapper: Vec::new(),
        }
    }

    /// Adds arguments after the application's name.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// `--workers n`.
    #[must_use]
    pub fn workers(self, workers: u32) -> Self {
        self.args(["--workers".to_string(), workers.to_string()])
    }

    /// `--shutdown-timeout seconds`.
    #[must_use]
    pub fn shutdown_timeout(self, seconds: f64) -> Self {
        self.args(["--shutdown-timeout".to_string(), seconds.to_string()])
    }

    /// Another address than `127.0.0.1:0`.
    #[must_use]
    pub fn bind(mut self, bind: impl AsRef<OsStr>) -> Self {
        self.bind = Some(bind.as_ref().to_owned());
        self
    }

    /// No `--bind` at all.
    #[must_use]
    pub fn no_bind(mut self) -> Self {
        self.bind = None;
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Another working directory than `tests/apps`.
    #[must_use]
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.cwd = dir.as_ref().to_owned();
        self
    }

    /// Runs pounce by this command: its arguments are followed by the path of pounce and its arguments.
    #[must_use]
    pub fn wrapped(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(Into::into).collect();
        self
    }

    /// The command, for a test that must start it in its own way. It is a process group of its own.
    pub fn command(&self) -> Command {
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, args)) => {
                let mut command = Command::new(wrapper);
                command.args(args).arg(binary::pounce());
                command
            }
            None => Command::new(binary::pounce()),
        };
        command.args(&self.app).args(&self.args);
        if let Some(bind) = &self.bind {
            command.arg("--bind").arg(bind);
        }
        for (name, _) in std::env::vars_os() {
            let of_pounce = name.to_str().is_some_and(|name| {
                name.starts_with("POUNCE_") && name != "POUNCE_PYTHON" && name != "POUNCE_EXTENSION"
            });
            if of_pounce {
                command.env_remove(name);
            }
        }
        for name in ["SHUTDOWN_TIMEOUT", "PORT", "WEB_CONCURRENCY", "NOTIFY_SOCKET", "WATCHDOG_USEC"] {
            command.env_remove(name);
        }
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.cwd).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts it without waiting for anything.
    ///
    /// # Panics
    /// If it cannot be executed.
    #[track_caller]
    pub fn spawn(&self) -> Server {
        Server::spawn_command(self.command())
    }

    /// Starts it and waits until it says where it serves.
    ///
    /// # Panics
    /// With its log, if it ends or does not serve in time.
    #[track_caller]
    pub fn start(&self) -> Server {
        let mut server = self.spawn();
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(address) = server.log.lines().iter().find_map(|line| address_in(line)) {
                server.address = Some(address);
                return server;
            }
            if let Some(status) = server.try_wait() {
                panic!("pounce ended at start-up with {status}\n{}", server.log_text());
            }
            assert!(Instant::now() < deadline, "pounce does not serve\n{}", server.log_text());
            server.log.wait(Duration::from_millis(50));
        }
    }
}

/// A running pounce, in a process group of its own. Dropping it kills the group.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
    address: Option<Address>,
    status: Option<ExitStatus>,
}

impl Server {
    /// The built-in demo service.
    pub fn demo() -> ServerBuilder {
        ServerBuilder::new(Some("demo"))
    }

    /// A Python application, looked up from `tests/apps`.
    pub fn app(name: &str) -> ServerBuilder {
        ServerBuilder::new(Some(name))
    }

    /// Arguments only.
    pub fn bare() -> ServerBuilder {
        ServerBuilder::new(None).no_bind()
    }

    /// Starts a command that [`ServerBuilder::command`] made.
    ///
    /// # Panics
    /// If it cannot be executed.
    #[track_caller]
    pub fn spawn_command(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the pounce executable can be started");
        let log = Arc::new(Log::default());
        let stdout = child.stdout.take().expect("piped");
        let stderr = child.stderr.take().expect("piped");
        let readers = vec![log.read_from(stderr, Stream::Err), log.read_from(stdout, Stream::Out)];
        Self { child, log, readers, address: None, status: None }
    }

    /// Where it serves.
    ///
    /// # Panics
    /// If it was not [`ServerBuilder::start`]ed.
    pub fn address(&self) -> &Address {
        self.address.as_ref().expect("a server that was started, not only spawned")
    }

    /// Its port.
    ///
    /// # Panics
    /// If it serves a Unix socket.
    pub fn port(&self) -> u16 {
        match self.address() {
            Address::Tcp(address) => address.port(),
            Address::Unix(path) => panic!("{} has no port", path.display()),
        }
    }

    /// The supervisor's pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The workers' pids, in the order of their numbers (they are started in that order).
    pub fn workers(&self) -> Vec<u32> {
        processes::children(self.pid())
    }

    /// A keep-alive client.
    pub fn session(&self) -> Session {
        Session::new(self.address())
    }

    /// `GET target` on a connection of its own.
    pub fn get(&self, target: &str) -> Outcome {
        get(self.address(), target)
    }

    /// A new connection.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::open(self.address()).unwrap_or_else(|outcome| panic!("a new connection was {outcome}"))
    }

    /// A new connection on which this request was sent.
    #[track_caller]
    pub fn send(&self, request: &Request) -> Connection {
        let mut connection = self.connect();
        connection.send(&request.encode());
        connection
    }

    /// SIGTERM to the supervisor, and the wait for the line that says that it was noticed.
    #[track_caller]
    pub fn begin_shutdown(&self) {
        self.signal(Signal::TERM);
        self.wait_for_line("Received SIGTERM");
    }

    /// SIGTERM to the supervisor, and the wait until new connections get a 503.
    #[track_caller]
    pub fn begin_drain(&self) {
        self.begin_shutdown();
        self.wait_until_new_connections_get_503();
    }

    /// Waits for that. Those that came in time for being served may wait for a worker that is busy: they are given up.
    #[track_caller]
    pub fn wait_until_new_connections_get_503(&self) {
        processes::wait_until("new connections get 503", START_PATIENCE, || {
            let mut connection = self.connect();
            connection.patience = Duration::from_secs(1);
            let outcome = connection.request(&Request::get("/"));
            matches!(outcome, Outcome::Answered(answer) if answer.status == 503)
        });
    }

    /// Signals the supervisor only.
    pub fn signal(&self, signal: Signal) {
        signal_process(self.pid(), signal);
    }

    /// Signals the whole process group, as a terminal's Ctrl-C does.
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(pid(self.pid()), signal).expect("the process group can be signalled");
    }

    /// The exit status, if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("waitpid");
            if self.status.is_some() {
                // Whatever it wrote is in the pipe; workers that outlive it would keep the pipe open, so this
                // is bounded.
                let deadline = Instant::now() + SLACK;
                while self.readers.iter().any(|reader| !reader.is_finished()) && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
        self.status
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// With its log, if it has not ended `within`.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            assert!(Instant::now() < deadline, "pounce still runs after {within:?}\n{}", self.log_text());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for the end, by itself and not by a signal.
    ///
    /// # Panics
    /// With its log, if it has not ended `within`, or a signal ended it.
    #[track_caller]
    pub fn exit_code(&mut self, within: Duration) -> i32 {
        let status = self.wait(within);
        match (status.code(), status.signal()) {
            (Some(code), _) => code,
            (None, signal) => panic!("pounce was killed by signal {signal:?}\n{}", self.log_text()),
        }
    }

    /// Waits for the end and checks the exit code.
    ///
    /// # Panics
    /// With its log, if it has not ended `within`, or with another code.
    #[track_caller]
    pub fn assert_exit(&mut self, code: i32, within: Duration) {
        let actual = self.exit_code(within);
        assert_eq!(actual, code, "exit code\n{}", self.log_text());
    }

    /// Lines on stderr so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Lines on stdout so far.
    pub fn stdout(&self) -> Vec<String> {
        self.log.stdout()
    }

    /// stderr as one text, for messages.
    pub fn log_text(&self) -> String {
        format!("--- stderr of pounce ---\n{}\n---", self.log.lines().join("\n"))
    }

    /// The line's text without the time stamp, for every line.
    pub fn messages(&self) -> Vec<String> {
        self.log()
            .iter()
            .map(|line| line.split_once("] ").map_or(line.as_str(), |(_, m)| m).to_string())
            .collect()
    }

    /// Number of lines that contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.log().iter().filter(|line| line.contains(text)).count()
    }

    /// Waits for a line that contains `text`.
    ///
    /// # Panics
    /// With the log, if none comes within [`START_PATIENCE`].
    #[track_caller]
    pub fn wait_for_line(&self, text: &str) -> String {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(line) = self.log().into_iter().find(|line| line.contains(text)) {
                return line;
            }
            assert!(Instant::now() < deadline, "no line with {text:?}\n{}", self.log_text());
            self.log.wait(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The group outlives its leader as long as a worker is left, and its id cannot be taken by another
        // before the leader is reaped below or while a member is left.
        if self.status.is_none() || processes::group_exists(self.pid()) {
            let _ = kill_process_group(pid(self.pid()), Signal::KILL);
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log_text());
        }
    }
}

/// Signals one process.
///
/// # Panics
/// If it does not exist.
pub fn signal_process(process: u32, signal: Signal) {
    kill_process(pid(process), signal).unwrap_or_else(|e| panic!("process {process}: {e}"));
}

fn pid(process: u32) -> Pid {
    i32::try_from(process).ok().and_then(Pid::from_raw).expect("a pid")
}

/// Finds `http://HOST:PORT` or `unix:PATH` in the start-up line.
fn address_in(line: &str) -> Option<Address> {
    if !line.contains(" serving ") {
        return None;
    }
    if let Some((_, rest)) = line.split_once("http://") {
        let end = rest.find(|c: char| c.is_whitespace() || c == ',' || c == '/').unwrap_or(rest.len());
        return rest[..end].parse().ok().map(Address::Tcp);
    }
    let (_, rest) = line.split_once("unix:")?;
    let end = rest.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(rest.len());
    Some(Address::Unix(rest[..end].into()))
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Out,
    Err,
}

#[derive(Debug, Default)]
struct Log {
    lines: Mutex<(Vec<String>, Vec<String>)>,
    arrived: Condvar,
}

impl Log {
    fn read_from(
        self: &Arc<Self>,
        source: impl std::io::Read + Send + 'static,
        stream: Stream,
    ) -> JoinHandle<()> {
        let log = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line).into_owned();
                let mut lines = log.lines.lock().unwrap_or_else(PoisonError::into_inner);
                match stream {
                    Stream::Err => lines.0.push(line),
                    Stream::Out => lines.1.push(line),
                }
                log.arrived.notify_all();
            }
        })
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn stdout(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Waits until a line arrives, or `within` is over.
    fn wait(&self, within: Duration) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.arrived.wait_timeout(lines, within));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_the_start_up_line() {
        let line = "[2026-11-29 12:00:00] pounce 0.1.0 serving examples.hello:app at http://127.0.0.1:8000 with 4 worker(s)";
        assert_eq!(address_in(line), Some(Address::Tcp("127.0.0.1:8000".parse().unwrap())));
        let line = "pounce 0.1.0 serving demo at http://[::1]:80, unix:/x with 1 worker(s)";
        assert_eq!(address_in(line), Some(Address::Tcp("[::1]:80".parse().unwrap())));
        let line = "pounce 0.1.0 serving demo at unix:/tmp/a.sock with 1 worker(s)";
        assert_eq!(address_in(line), Some(Address::Unix("/tmp/a.sock".into())));
        assert_eq!(address_in("see http://127.0.0.1:1 for help"), None);
    }
}
