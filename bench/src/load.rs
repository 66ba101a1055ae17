//! The load: a fixed number of connections, each of which sends its next request when it has read the answer to the last
//! one ("closed loop"). One thread, epoll, a few hundred nanoseconds of its own per request; every response is checked.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use socket2::{Domain, Socket, Type};

use crate::response::{Malformed, Read, ResponseReader};

/// A request that takes longer counts among the latencies even if it began before the window, or was still under way at
/// its end. The moment in which /proc is read at the edges is nothing to it, and without those a server that takes half a
/// second would have none but its fastest answers counted.
const LONG: Duration = Duration::from_millis(100);

/// Nothing came for so long: the server is stuck.
const STUCK: Duration = Duration::from_secs(15);

/// Set by ctrl-c.
pub static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// What is sent to whom, and what must come back.
#[derive(Clone, Debug)]
pub struct Load {
    pub port: u16,
    pub request: Vec<u8>,
    pub response_bytes: u64,
    pub units_per_response: u64,
    pub reconnect: bool,
    pub connections: usize,
}

/// What happened inside of the window.
#[derive(Debug)]
pub struct Outcome {
    pub units: f64,
    pub elapsed: Duration,
    /// In ns: of the requests that began and ended inside of the window, of those that began before and took longer than
    /// [`LONG`], and the window's length for each that was under way all the time.
    pub latency: Histogram<u64>,
}

/// The window begins or ends now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    Begin,
    End,
}

/// Why a measurement is worth nothing.
#[derive(Debug)]
pub enum LoadError {
    Io(io::Error),
    Malformed(Malformed),
    /// Another status, or another body length, than there has to be.
    Wrong {
        status: u16,
        body_bytes: u64,
        expected_bytes: u64,
    },
    /// The connection ended and the response was not complete.
    CutOff,
    /// Bytes after the response.
    Surplus,
    Stuck,
    Interrupted,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Io(error) => error.fmt(f),
            LoadError::Malformed(malformed) => malformed.fmt(f),
            LoadError::Wrong { status, body_bytes, expected_bytes } => {
                write!(
                    f,
                    "a wrong answer: status {status} with {body_bytes} bytes, not 200 with {expected_bytes}"
                )
            }
            LoadError::CutOff => f.write_str("a connection ended before its response was complete"),
            LoadError::Surplus => f.write_str("bytes came after the end of a response"),
            LoadError::Stuck => write!(f, "no answer for {} s", STUCK.as_secs()),
            LoadError::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for LoadError {}

impl From<io::Error> for LoadError {
    fn from(error: io::Error) -> LoadError {
        LoadError::Io(error)
    }
}

impl From<rustix::io::Errno> for LoadError {
    fn from(error: rustix::io::Errno) -> LoadError {
        LoadError::Io(error.into())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A request is under way.
    Asked,
    /// The response is complete and the server is about to close.
    AwaitingEnd,
    /// Nothing more is asked here.
    Over,
}

struct Connection {
    stream: TcpStream,
    stage: Stage,
    reader: ResponseReader,
    /// Bytes of the request that are sent.
    sent: usize,
    wants_write: bool,
    began: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Window,
    /// What is under way is read to its end.
    Finishing,
}

struct Run<'a> {
    load: &'a Load,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    phase: Phase,
    window_began: Instant,
    responses: u64,
    body_bytes: u64,
    latency: Histogram<u64>,
    open: usize,
    buffer: Vec<u8>,
}

impl Load {
    /// Loads the server for `warm_up`, then for `window`, which is what is reported. `at_edge` is called where the window
    /// begins and ends, with requests under way; short requests that wait meanwhile are not in the latencies.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn run(
        &self,
        warm_up: Duration,
        window: Duration,
        mut at_edge: impl FnMut(Edge),
    ) -> Result<Outcome, LoadError> {
        let now = Instant::now();
        let mut run = Run {
            load: self,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: Vec::with_capacity(self.connections),
            phase: Phase::WarmUp,
            window_began: now,
            responses: 0,
            body_bytes: 0,
            latency: Histogram::new_with_max(120_000_000_000, 3).expect("bounds that are in order"),
            open: self.connections,
            buffer: vec![0; 256 * 1024],
        };
        for id in 0..self.connections {
            let connection = Connection::open(self.port)?;
            run.register(&connection, id)?;
            run.connections.push(connection);
            run.ask(id, Instant::now())?;
        }
        let begin = now + warm_up;
        let mut end = begin + window;
        let mut elapsed = window;
        let mut events: Vec<Event> = Vec::with_capacity(256);
        let mut last_event = Instant::now();
        while run.open > 0 {
            events.clear();
            let timeout = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            match epoll::wait(&run.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            match run.phase {
                Phase::WarmUp if now >= begin => {
                    at_edge(Edge::Begin);
                    run.phase = Phase::Window;
                    run.window_began = Instant::now();
                    end = run.window_began + window;
                }
                Phase::Window if now >= end => {
                    at_edge(Edge::End);
                    elapsed = now - run.window_began;
                    run.record_unanswered(elapsed);
                    run.phase = Phase::Finishing;
                }
                _ => {}
            }
            if INTERRUPTED.load(Ordering::Relaxed) {
                return Err(LoadError::Interrupted);
            }
            if !events.is_empty() {
                last_event = now;
            } else if now - last_event > STUCK {
                return Err(LoadError::Stuck);
            }
            for event in &events {
                let flags = event.flags;
                let id = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
                if flags.contains(EventFlags::OUT) {
                    run.write(id)?;
                }
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                    run.read(id)?;
                }
            }
        }
        let units = if self.units_per_response > 1 {
            run.body_bytes as f64 * self.units_per_response as f64 / self.response_bytes as f64
        } else {
            run.responses as f64
        };
        Ok(Outcome { units, elapsed, latency: run.latency })
    }
}

impl Connection {
    fn open(port: u16) -> io::Result<Connection> {
        let began = Instant::now();
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
        socket.set_tcp_nodelay(true)?;
        // On the loopback interface the handshake is done when this returns, unless the accept queue is full. Then the kernel
        // sends the SYN again after a second (tcp(7), `tcp_syn_retries`), which must not keep the other connections.
        match socket.connect(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let stream = TcpStream::from(socket);
        Ok(Connection {
            stream,
            stage: Stage::Asked,
            reader: ResponseReader::default(),
            sent: 0,
            wants_write: false,
            began,
        })
    }
}

impl Run<'_> {
    fn register(&self, connection: &Connection, id: usize) -> io::Result<()> {
        epoll::add(&self.epoll, &connection.stream, EventData::new_u64(id as u64), EventFlags::IN)?;
        Ok(())
    }

    /// Sends the next request.
    fn ask(&mut self, id: usize, now: Instant) -> Result<(), LoadError> {
        let connection = &mut self.connections[id];
        connection.reader.reset();
        connection.stage = Stage::Asked;
        connection.sent = 0;
        connection.began = now;
        self.write(id)
    }

    fn write(&mut self, id: usize) -> Result<(), LoadError> {
        let connection = &mut self.connections[id];
        while connection.sent < self.load.request.len() {
            match connection.stream.write(&self.load.request[connection.sent..]) {
                Ok(0) => return Err(LoadError::CutOff),
                Ok(written) => connection.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let wants_write = connection.sent < self.load.request.len();
        if wants_write != connection.wants_write {
            connection.wants_write = wants_write;
            let flags = if wants_write { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(&self.epoll, &connection.stream, EventData::new_u64(id as u64), flags)?;
        }
        Ok(())
    }

    fn read(&mut self, id: usize) -> Result<(), LoadError> {
        let connection = &mut self.connections[id];
        let count = match connection.stream.read(&mut self.buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) if connection.stage == Stage::AwaitingEnd => 0,
            Err(error) => return Err(error.into()),
        };
        if count == 0 {
            return match connection.stage {
                Stage::Asked => Err(LoadError::CutOff),
                Stage::AwaitingEnd => self.reconnect(id),
                Stage::Over => Ok(()),
            };
        }
        if connection.stage != Stage::Asked {
            return Err(LoadError::Surplus);
        }
        let before = connection.reader.body_bytes;
        let read = connection.reader.read(&self.buffer[..count]).map_err(LoadError::Malformed)?;
        if self.phase == Phase::Window {
            self.body_bytes += connection.reader.body_bytes - before;
        }
        match read {
            Read::More => Ok(()),
            Read::Ended(end) if end < count => Err(LoadError::Surplus),
            Read::Ended(_) => self.answered(id),
        }
    }

    fn answered(&mut self, id: usize) -> Result<(), LoadError> {
        let now = Instant::now();
        let connection = &mut self.connections[id];
        let (status, body_bytes) = (connection.reader.status, connection.reader.body_bytes);
        if status != 200 || body_bytes != self.load.response_bytes {
            return Err(LoadError::Wrong { status, body_bytes, expected_bytes: self.load.response_bytes });
        }
        match self.phase {
            Phase::WarmUp => {}
            Phase::Window => {
                self.responses += 1;
                let took = now - connection.began;
                if connection.began >= self.window_began || took > LONG {
                    self.latency.saturating_record(nanoseconds(took));
                }
            }
            Phase::Finishing => {
                connection.stage = Stage::Over;
                self.open -= 1;
                epoll::delete(&self.epoll, &connection.stream)?;
                return Ok(connection.stream.shutdown(std::net::Shutdown::Both).or_else(already_closed)?);
            }
        }
        // Hypercorn ends a connection after 1,000 requests of its own accord.
        if self.load.reconnect || connection.reader.announces_close {
            connection.stage = Stage::AwaitingEnd;
            return Ok(());
        }
        self.ask(id, now)
    }

    /// The window ends. What has been under way since before it began takes at least that long.
    fn record_unanswered(&mut self, window: Duration) {
        let asked = self.connections.iter().filter(|connection| connection.stage == Stage::Asked);
        let all_along = asked.filter(|connection| connection.began < self.window_began).count();
        record_all_along(&mut self.latency, window, all_along);
    }

    fn reconnect(&mut self, id: usize) -> Result<(), LoadError> {
        if self.phase == Phase::Finishing {
            self.open -= 1;
            self.connections[id].stage = Stage::Over;
            epoll::delete(&self.epoll, &self.connections[id].stream)?;
            return Ok(());
        }
        let connection = Connection::open(self.load.port)?;
        self.register(&connection, id)?;
        let began = connection.began;
        // The old one leaves the epoll instance with its descriptor.
        self.connections[id] = connection;
        self.ask(id, began)
    }
}

fn record_all_along(latency: &mut Histogram<u64>, window: Duration, requests: usize) {
    // A value that is recorded 0 times would still be the maximum.
    if window > LONG && requests > 0 {
        latency.saturating_record_n(nanoseconds(window), requests as u64);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn already_closed(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    fn server(response: &'static [u8]) -> u16 {
        answering(response, Duration::ZERO)
    }

    fn slow_server(delay: Duration) -> u16 {
        answering(OK, delay)
    }

    /// Answers every request, on one connection after the other, with `response` after `delay`.
    fn answering(response: &'static [u8], delay: Duration) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 1024];
                while stream.read(&mut request).is_ok_and(|count| count > 0) {
                    thread::sleep(delay);
                    if stream.write_all(response).is_err() {
                        break;
                    }
                }
            }
        });
        port
    }

    fn load(port: u16) -> Load {
        Load {
            port,
            request: b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
            response_bytes: 2,
            units_per_response: 1,
            reconnect: false,
            connections: 1,
        }
    }

    #[test]
    fn answered_requests_are_counted_and_timed() {
        let load = load(server(OK));
        let mut edges = Vec::new();
        let outcome =
            load.run(Duration::from_millis(5), Duration::from_millis(300), |edge| edges.push(edge)).unwrap();
        assert_eq!(edges, [Edge::Begin, Edge::End]);
        assert!(outcome.units >= 1.0 && !outcome.latency.is_empty());
    }

    /// Listens with the smallest backlog and accepts only when told to.
    fn full_listener() -> (Socket, u16, Vec<TcpStream>) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        socket.listen(1).unwrap();
        let port = socket.local_addr().unwrap().as_socket_ipv4().unwrap().port();
        // listen(2): a backlog of 1 takes 2 on Linux; more only wait for the SYN to be sent again.
        let fillers = (0..2).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap()).collect();
        (socket, port, fillers)
    }

    #[test]
    fn a_connection_that_the_kernel_keeps_waiting_does_not_stop_the_load() {
        let (_socket, port, _fillers) = full_listener();
        // A blocking connect would be in here for minutes, and fail.
        let connection = Connection::open(port).unwrap();
        assert!(connection.stream.peer_addr().is_err(), "the accept queue took it");
    }

    #[test]
    fn an_answer_that_takes_longer_than_the_window_is_among_the_latencies() {
        let port = slow_server(Duration::from_millis(700));
        let outcome = load(port).run(Duration::ZERO, Duration::from_millis(200), |_| ()).unwrap();
        assert!(outcome.latency.max() >= 200_000_000, "{}", outcome.latency.max());
    }

    #[test]
    fn a_long_answer_that_began_before_the_window_is_among_the_latencies() {
        let port = slow_server(Duration::from_millis(700));
        let (warm_up, window) = (Duration::from_millis(300), Duration::from_millis(900));
        let outcome = load(port).run(warm_up, window, |_| ()).unwrap();
        assert!(outcome.latency.max() >= 700_000_000, "{}", outcome.latency.max());
    }

    #[test]
    fn the_window_is_no_latency_where_every_request_was_answered() {
        let mut latency = Histogram::new(3).unwrap();
        record_all_along(&mut latency, Duration::from_secs(1), 0);
        assert_eq!(latency.max(), 0);
    }

    #[test]
    fn a_wrong_answer_fails_the_run() {
        for wrong in [
            &b"HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\nok"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\noky",
        ] {
            let result = load(server(wrong)).run(Duration::ZERO, Duration::from_secs(5), |_| ());
            assert!(matches!(result, Err(LoadError::Wrong { .. })), "{result:?}");
        }
    }
}
