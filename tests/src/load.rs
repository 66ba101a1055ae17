//! Load: many clients on one thread and one epoll, so that the load costs the machine little and the server is
//! what is measured.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use socket2::{Socket, Type};

use crate::client::{Address, Close, connect_failure, peek};
use crate::ledger::Ledger;
use crate::outcome::{Answer, Outcome, Refusal};
use crate::request::Request;
use crate::response::ResponseReader;

/// Looks at a complete answer; an error makes it [`Outcome::Malformed`].
pub type Check = fn(&Answer) -> Result<(), String>;

/// A client that was refused, or answered otherwise than 200, waits this long before it goes on: what a client
/// does that is not an attack.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(20);

#[derive(Debug, Clone)]
struct Plan {
    address: Address,
    requests: Vec<Request>,
    patience: Duration,
    pause_after_refusal: Duration,
    check: Check,
}

impl Plan {
    fn new(address: &Address) -> Self {
        Self {
            address: address.clone(),
            requests: vec![Request::get("/")],
            patience: Duration::from_secs(30),
            pause_after_refusal: PAUSE_AFTER_REFUSAL,
            check: |_| Ok(()),
        }
    }
}

/// Keep-alive clients that send the next request as soon as they have an answer.
#[derive(Debug, Clone)]
pub struct KeepAliveLoad {
    plan: Plan,
    clients: usize,
}

/// One new connection per request, at a fixed rate, however many are still unanswered.
#[derive(Debug, Clone)]
pub struct FreshLoad {
    plan: Plan,
    interval: Duration,
}

impl KeepAliveLoad {
    /// `clients` keep-alive clients that ask for `/`.
    pub fn new(address: &Address, clients: usize) -> Self {
        Self { plan: Plan::new(address), clients }
    }

    /// Other requests than `GET /`, sent in turn.
    #[must_use]
    pub fn requests(mut self, requests: Vec<Request>) -> Self {
        self.plan.requests = requests;
        self
    }

    /// Looks at every answer.
    #[must_use]
    pub fn check(mut self, check: Check) -> Self {
        self.plan.check = check;
        self
    }

    /// Clients that come again at once also when they were refused, or answered otherwise than 200.
    #[must_use]
    pub fn impatient(mut self) -> Self {
        self.plan.pause_after_refusal = Duration::ZERO;
        self
    }

    /// Starts.
    pub fn start(self) -> RunningLoad {
        let clients = self.clients;
        RunningLoad::start(self.plan, Mode::KeepAlive { clients })
    }
}

impl FreshLoad {
    /// `per_second` connections a second that each ask for `/` with `Connection: close`.
    pub fn new(address: &Address, per_second: u32) -> Self {
        let mut plan = Plan::new(address);
        plan.requests = vec![Request::get("/").close()];
        Self { plan, interval: Duration::from_secs(1) / per_second }
    }

    /// Other requests than `GET /`, sent in turn.
    #[must_use]
    pub fn requests(mut self, requests: Vec<Request>) -> Self {
        self.plan.requests = requests;
        self
    }

    /// Looks at every answer.
    #[must_use]
    pub fn check(mut self, check: Check) -> Self {
        self.plan.check = check;
        self
    }

    /// Starts.
    pub fn start(self) -> RunningLoad {
        let interval = self.interval;
        RunningLoad::start(self.plan, Mode::Fresh { interval })
    }
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    KeepAlive { clients: usize },
    Fresh { interval: Duration },
}

/// A load that is on. Dropping it lets its thread end without its books being read.
#[derive(Debug)]
pub struct RunningLoad {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Ledger>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    ok: AtomicU64,
    refused: AtomicU64,
}

impl RunningLoad {
    fn start(plan: Plan, mode: Mode) -> Self {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || Engine::new(plan, mode, of_thread).run());
        Self { shared, thread: Some(thread) }
    }

    /// Requests answered with 200 so far.
    pub fn ok(&self) -> u64 {
        self.shared.ok.load(Ordering::Relaxed)
    }

    /// Connections refused so far.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Waits until `count` more requests were answered with 200.
    ///
    /// # Panics
    /// If that takes more than a minute.
    #[track_caller]
    pub fn wait_for_ok(&self, count: u64) {
        let goal = self.ok() + count;
        crate::processes::wait_until("the load is served", Duration::from_secs(60), || self.ok() >= goal);
    }

    /// No request is begun any more; those that are under way are brought to their end. Then the books.
    ///
    /// # Panics
    /// If the load's thread did.
    pub fn stop(mut self) -> Ledger {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("stopped once").join().expect("the load's thread")
    }
}

impl Drop for RunningLoad {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// One request under way.
#[derive(Debug)]
struct Flight {
    label: String,
    wire: Vec<u8>,
    sent: usize,
    write_failed: bool,
    reader: ResponseReader,
    deadline: Instant,
}

#[derive(Debug)]
struct Client {
    socket: Socket,
    connected: bool,
    flight: Flight,
}

struct Engine {
    plan: Plan,
    mode: Mode,
    shared: Arc<Shared>,
    ledger: Ledger,
    epoll: std::os::fd::OwnedFd,
    clients: HashMap<u64, Client>,
    next_key: u64,
    next_request: usize,
    /// When keep-alive clients that pause take a new connection.
    pausing: Vec<Instant>,
}

impl Engine {
    fn new(plan: Plan, mode: Mode, shared: Arc<Shared>) -> Self {
        Self {
            plan,
            mode,
            shared,
            ledger: Ledger::default(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll_create"),
            clients: HashMap::new(),
            next_key: 0,
            next_request: 0,
            pausing: Vec::new(),
        }
    }

    fn run(mut self) -> Ledger {
        let mut next_fresh = Instant::now();
        if let Mode::KeepAlive { clients } = self.mode {
            self.pausing = vec![Instant::now(); clients];
        }
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let now = Instant::now();
            if self.shared.stop.load(Ordering::Relaxed) {
                self.pausing.clear();
                if self.clients.is_empty() {
                    return self.ledger;
                }
            } else {
                match self.mode {
                    Mode::KeepAlive { .. } => {
                        let due = self.pausing.iter().filter(|at| **at <= now).count();
                        self.pausing.retain(|at| *at > now);
                        for _ in 0..due {
                            self.connect();
                        }
                    }
                    Mode::Fresh { interval } => {
                        while next_fresh <= now {
                            next_fresh += interval;
                            self.connect();
                        }
                    }
                }
            }
            for key in self.wait() {
                self.advance(key, &mut buffer);
            }
            let now = Instant::now();
            let late: Vec<u64> =
                self.clients.iter().filter(|(_, c)| c.flight.deadline < now).map(|(key, _)| *key).collect();
            for key in late {
                let client = self.clients.remove(&key).expect("listed");
                let received = client.flight.reader.received();
                self.enter(client.flight.label, Outcome::TimedOut { sent: client.flight.sent, received });
            }
        }
    }

    fn wait(&self) -> Vec<u64> {
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 256];
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok(count) => events[..count].iter().map(|event| event.data.u64()).collect(),
            Err(rustix::io::Errno::INTR) => Vec::new(),
            Err(error) => panic!("epoll_wait: {error}"),
        }
    }

    fn flight(&mut self) -> Flight {
        let request = &self.plan.requests[self.next_request % self.plan.requests.len()];
        self.next_request += 1;
        Flight {
            label: format!("request {} ({} {})", self.next_request, request.method(), request.target()),
            wire: request.encode(),
            sent: 0,
            write_failed: false,
            reader: ResponseReader::new(request.method(), Vec::new()),
            deadline: Instant::now() + self.plan.patience,
        }
    }

    fn connect(&mut self) {
        let flight = self.flight();
        let socket = Socket::new(self.plan.address.domain(), Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("O_NONBLOCK");
        if matches!(self.plan.address, Address::Tcp(_)) {
            socket.set_tcp_nodelay(true).expect("TCP_NODELAY");
        }
        match socket.connect(&self.plan.address.sock_addr()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(e) => {
                self.enter(flight.label, connect_failure(&e));
                return;
            }
        }
        self.next_key += 1;
        let key = self.next_key;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(key), flags).expect("epoll_ctl");
        self.clients.insert(key, Client { socket, connected: false, flight });
    }

    fn advance(&mut self, key: u64, buffer: &mut [u8]) {
        let Some(mut client) = self.clients.remove(&key) else { return };
        loop {
            let Some(outcome) = client.step(buffer) else {
                self.clients.insert(key, client);
                return;
            };
            let next = self.flight();
            let flight = std::mem::replace(&mut client.flight, next);
            let keep = match &outcome {
                Outcome::Answered(answer) => answer.status == 200 && !answer.connection_close,
                _ => false,
            };
            let keep_alive = matches!(self.mode, Mode::KeepAlive { .. });
            let stopping = self.shared.stop.load(Ordering::Relaxed);
            let calm = matches!(&outcome, Outcome::Answered(answer) if answer.status == 200);
            let surplus = flight.reader.received_after_answer();
            self.enter_and_pace(flight.label, outcome, keep_alive && !keep && !stopping, calm);
            if !keep || !keep_alive || stopping {
                self.next_request -= 1;
                return;
            }
            if surplus > 0 {
                let label = std::mem::take(&mut client.flight.label);
                self.enter(label, Outcome::Malformed(format!("{surplus} bytes after the response")));
                return;
            }
            // Strict: only an end that is there before the first byte is sent is a refusal.
            match peek(&client.socket) {
                Close::StillOpen => {}
                Close::Fin => {
                    let label = std::mem::take(&mut client.flight.label);
                    self.enter(label, Outcome::RefusedBeforeSending(Refusal::ClosedWhileIdle));
                    return;
                }
                Close::Reset | Close::Data => {
                    let label = std::mem::take(&mut client.flight.label);
                    self.enter(label, Outcome::Reset { sent: 0, received: 0 });
                    return;
                }
            }
        }
    }

    /// Enters an outcome; a keep-alive client that goes on afterwards takes a new connection.
    fn enter(&mut self, label: String, outcome: Outcome) {
        let keep_alive = matches!(self.mode, Mode::KeepAlive { .. });
        self.enter_and_pace(label, outcome, keep_alive, false);
    }

    fn enter_and_pace(&mut self, label: String, outcome: Outcome, reconnect: bool, at_once: bool) {
        let outcome = match outcome {
            Outcome::Answered(answer) => match (self.plan.check)(&answer) {
                Ok(()) => Outcome::Answered(answer),
                Err(why) => Outcome::Malformed(why),
            },
            other => other,
        };
        match &outcome {
            Outcome::Answered(answer) if answer.status == 200 => {
                self.shared.ok.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::RefusedBeforeSending(_) => {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        self.ledger.record(label, &outcome);
        if reconnect {
            let pause = if at_once { Duration::ZERO } else { self.plan.pause_after_refusal };
            self.pausing.push(Instant::now() + pause);
        }
    }
}

impl Client {
    /// Goes on as far as the socket allows; the outcome when the request came to its end.
    fn step(&mut self, buffer: &mut [u8]) -> Option<Outcome> {
        if !self.connected {
            match self.socket.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Some(connect_failure(&error)),
            }
            match self.socket.peer_addr() {
                Ok(_) => self.connected = true,
                Err(_) => return None,
            }
        }
        let flight = &mut self.flight;
        while flight.sent < flight.wire.len() && !flight.write_failed {
            match self.socket.write(&flight.wire[flight.sent..]) {
                Ok(n) => flight.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => flight.write_failed = true,
            }
        }
        loop {
            match flight.reader.poll() {
                Ok(None) => {}
                Ok(Some(answer)) => return Some(Outcome::Answered(answer)),
                Err(why) => return Some(Outcome::Malformed(why)),
            }
            let (sent, received) = (flight.sent, flight.reader.received());
            match self.socket.read(buffer) {
                Ok(0) if flight.write_failed && received == 0 => {
                    return Some(Outcome::Reset { sent, received });
                }
                Ok(0) => {
                    let reader =
                        std::mem::replace(&mut flight.reader, ResponseReader::new("GET", Vec::new()));
                    return Some(reader.at_eof(sent));
                }
                Ok(n) => flight.reader.push(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Some(Outcome::Reset { sent, received }),
            }
        }
    }
}
