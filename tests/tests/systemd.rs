//! `Type=notify` (sd_notify(3)) against a real notify socket, and socket activation (sd_listen_fds(3)).
//!
//! To see these fail: send READY=1 when the listeners are bound, or STOPPING=1 at the signal although the drain is
//! still delayed.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use pounce_tests::server::SLACK;
use pounce_tests::{Request, Server, Signal, with_both};
use tempfile::TempDir;

/// A service manager's end of the notify socket.
struct Manager {
    dir: TempDir,
    socket: UnixDatagram,
    /// Assignments so far, with the time of their arrival.
    told: Vec<(Instant, String)>,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        Self { dir, socket, told: Vec::new() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("notify")
    }

    /// Reads what is there, waiting at most `within` for the first.
    fn read(&mut self, within: Duration) {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut buffer = [0; 4096];
        if let Ok(n) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            self.told.extend(text.lines().map(|line| (Instant::now(), line.to_string())));
        }
    }

    /// Waits for an assignment that begins like this; when it came.
    #[track_caller]
    fn wait_for(&mut self, prefix: &str) -> Instant {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some((at, _)) = self.told.iter().find(|(_, line)| line.starts_with(prefix)) {
                return *at;
            }
            assert!(Instant::now() < deadline, "no {prefix}: {:?}", self.lines());
            self.read(Duration::from_millis(100));
        }
    }

    fn drain(&mut self) {
        let mut count = usize::MAX;
        while count != self.told.len() {
            count = self.told.len();
            self.read(Duration::from_millis(20));
        }
    }

    fn lines(&self) -> Vec<&str> {
        self.told.iter().map(|(_, line)| line.as_str()).collect()
    }

    fn has(&self, prefix: &str) -> bool {
        self.lines().iter().any(|line| line.starts_with(prefix))
    }
}

#[test]
fn ready_comes_when_every_worker_serves_and_not_before() {
    let mut manager = Manager::new();
    let begin = Instant::now();
    let server = Server::app("one_slow_start:app")
        .workers(2)
        .env("MARK", manager.dir.path().join("mark"))
        .env("NOTIFY_SOCKET", manager.path())
        .start();
    let ready = manager.wait_for("READY=1");
    assert!(ready - begin >= Duration::from_secs(2), "READY=1 after {:?}", ready - begin);
    for _ in 0..4 {
        server.get("/").status(200);
    }
}

#[test]
fn a_drain_says_stopping_tells_its_counts_and_asks_for_time() {
    with_both(|kind| {
        let mut manager = Manager::new();
        let mut server = kind.server().env("NOTIFY_SOCKET", manager.path()).start();
        manager.wait_for("READY=1");
        assert!(!manager.has("STOPPING=1"));
        let mut running = server.send(&Request::get("/stream?n=40&gap=0.1"));
        running.wait_for_first_byte();
        server.signal(Signal::TERM);
        manager.wait_for("STOPPING=1");
        running.read_response("GET").status(200);
        server.assert_exit(0, Duration::from_secs(2) + SLACK);
        manager.drain();
        assert!(manager.has("EXTEND_TIMEOUT_USEC="), "{:?}", manager.lines());
        let counts = manager.lines().iter().any(|line| line.starts_with("STATUS=") && line.contains('1'));
        assert!(counts, "no STATUS with a count: {:?}", manager.lines());
    });
}

#[test]
fn stopping_is_said_when_the_drain_begins_and_not_during_the_delay() {
    with_both(|kind| {
        let mut manager = Manager::new();
        let mut server =
            kind.server().args(["--drain-delay", "2"]).env("NOTIFY_SOCKET", manager.path()).start();
        manager.wait_for("READY=1");
        server.signal(Signal::TERM);
        let signalled = Instant::now();
        let stopping = manager.wait_for("STOPPING=1");
        assert!(
            stopping - signalled >= Duration::from_millis(1900),
            "STOPPING=1 after {:?}",
            stopping - signalled
        );
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
    });
}

#[test]
fn a_failed_start_is_never_ready() {
    for app in ["import_fails:app", "startup_fails:app", "missing:app"] {
        let mut manager = Manager::new();
        let mut server = Server::app(app).workers(2).env("NOTIFY_SOCKET", manager.path()).spawn();
        server.assert_exit(3, Duration::from_secs(30));
        manager.drain();
        assert!(!manager.has("READY=1"), "{app}: {:?}", manager.lines());
    }
}

#[test]
fn a_socket_of_systemds_is_served_without_a_flag() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // bash gives the socket its number (dash takes only numbers below 10) and puts its own pid, soon pounce's, into LISTEN_PID.
    let script = "exec 3<&\"$0\"; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    let number = listener.as_raw_fd().to_string();
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let mut server = Server::demo().no_bind().wrapped(&["bash", "-c", script, &number]).start();
    drop(listener);
    assert_eq!(server.address(), &pounce_tests::Address::Tcp(address));
    server.get("/").status(200);
    server.signal(Signal::TERM);
    server.assert_exit(0, Duration::from_secs(1) + SLACK);
}

#[test]
fn an_inherited_socket_is_served() {
    with_both(|kind| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
        let number = listener.as_raw_fd().to_string();
        let mut server = kind.server().no_bind().args(["--fd", &number]).start();
        drop(listener);
        assert_eq!(server.address(), &pounce_tests::Address::Tcp(address));
        let mut running = server.send(&Request::get("/slow?s=1"));
        thread::sleep(Duration::from_millis(200));
        server.signal(Signal::TERM);
        running.read_response("GET").status(200);
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
    });
}
