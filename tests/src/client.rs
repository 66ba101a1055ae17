//! A raw HTTP/1.1 client on blocking sockets. It does nothing on its own, and says exactly what it saw.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::outcome::{Outcome, Refusal};
use crate::request::Request;
use crate::response::ResponseReader;

/// How long a client waits for the server before it gives up; far longer than anything that passes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl Address {
    pub(crate) fn sock_addr(&self) -> SockAddr {
        match self {
            Self::Tcp(address) => (*address).into(),
            Self::Unix(path) => SockAddr::unix(path).expect("a path that fits a socket address"),
        }
    }

    pub(crate) fn domain(&self) -> Domain {
        match self {
            Self::Tcp(address) => Domain::for_address(*address),
            Self::Unix(_) => Domain::UNIX,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How a connection ended, or did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// FIN.
    Fin,
    /// RST.
    Reset,
    /// Still open.
    StillOpen,
    /// Bytes arrived that nobody asked for.
    Data,
}

/// One connection. Dropping it closes the socket.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    /// Read past the previous response.
    surplus: Vec<u8>,
    /// Bytes sent since the last complete response.
    sent: usize,
    write_failed: bool,
    /// How long one read of a response, or one write, may take.
    pub patience: Duration,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`Outcome::RefusedBeforeSending`], [`Outcome::TimedOut`] or [`Outcome::Reset`].
    pub fn open(address: &Address) -> Result<Self, Outcome> {
        Self::open_with(address, |_| Ok(()))
    }

    /// Connects with a small receive buffer, so that the server soon has to wait for this reader.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn open_with_receive_buffer(address: &Address, bytes: usize) -> Result<Self, Outcome> {
        Self::open_with(address, |socket| socket.set_recv_buffer_size(bytes))
    }

    fn open_with(
        address: &Address,
        prepare: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> Result<Self, Outcome> {
        let socket = Socket::new(address.domain(), Type::STREAM, None).expect("a socket");
        prepare(&socket).expect("socket options");
        // A blocking connect of a Unix socket has no timeout of its own; SO_SNDTIMEO gives it one.
        socket.set_write_timeout(Some(PATIENCE)).expect("SO_SNDTIMEO");
        let connected = match address {
            Address::Tcp(_) => socket.connect_timeout(&address.sock_addr(), PATIENCE),
            Address::Unix(_) => socket.connect(&address.sock_addr()),
        };
        connected.map_err(|error| connect_failure(&error))?;
        if matches!(address, Address::Tcp(_)) {
            socket.set_tcp_nodelay(true).expect("TCP_NODELAY");
        }
        Ok(Self { socket, surplus: Vec::new(), sent: 0, write_failed: false, patience: PATIENCE })
    }

    /// Sends bytes. A failure is remembered, and told by the next [`Connection::read_response`]: the server
    /// may well have answered before it stopped reading.
    pub fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        let deadline = Instant::now() + self.patience;
        while !rest.is_empty() && !self.write_failed {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_write_timeout(Some(left)).expect("SO_SNDTIMEO");
            match self.socket.write(rest) {
                Ok(n) => {
                    self.sent += n;
                    rest = &rest[n..];
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.write_failed = true,
            }
        }
    }

    /// Sends bytes in pieces of `piece` bytes with a pause between them.
    pub fn send_slowly(&mut self, bytes: &[u8], piece: usize, pause: Duration) {
        for (i, part) in bytes.chunks(piece).enumerate() {
            if i > 0 {
                std::thread::sleep(pause);
            }
            self.send(part);
        }
    }

    /// A write failed: the server does not read any more.
    pub fn write_failed(&self) -> bool {
        self.write_failed
    }

    /// Sends a request and reads its response. If the server has closed the connection before, nothing is
    /// sent.
    pub fn request(&mut self, request: &Request) -> Outcome {
        match self.state() {
            Close::StillOpen => {}
            Close::Fin => return Outcome::RefusedBeforeSending(Refusal::ClosedWhileIdle),
            Close::Reset => return Outcome::Reset { sent: 0, received: 0 },
            Close::Data => return Outcome::Malformed("bytes before the request was sent".into()),
        }
        self.send(&request.encode());
        self.read_response(request.method())
    }

    /// Sends bytes, in pieces, while the response to them is already being read: for services that answer while they
    /// still read.
    pub fn send_while_reading(&mut self, bytes: &[u8], piece: usize, method: &str) -> Outcome {
        let socket = self.socket.try_clone().expect("a second handle of the socket");
        let piece = piece.max(1);
        self.sent += bytes.len();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for part in bytes.chunks(piece) {
                    // The reader tells what became of the request.
                    if (&socket).write_all(part).is_err() {
                        return;
                    }
                }
            });
            self.read_response(method)
        })
    }

    /// Sends as much as is taken without waiting; the number of bytes.
    pub fn send_what_is_taken(&mut self, bytes: &[u8]) -> usize {
        self.socket.set_nonblocking(true).expect("O_NONBLOCK");
        let mut taken = 0;
        while taken < bytes.len() {
            match self.socket.write(&bytes[taken..]) {
                Ok(n) => taken += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.write_failed = true;
                    break;
                }
            }
        }
        self.socket.set_nonblocking(false).expect("O_NONBLOCK");
        self.sent += taken;
        taken
    }

    /// Reads one response to a request with this method.
    pub fn read_response(&mut self, method: &str) -> Outcome {
        self.read_response_slowly(method, usize::MAX, Duration::ZERO)
    }

    /// Reads one response, at most `piece` bytes at a time with a pause after each.
    pub fn read_response_slowly(&mut self, method: &str, piece: usize, pause: Duration) -> Outcome {
        let mut reader = ResponseReader::new(method, std::mem::take(&mut self.surplus));
        let mut buffer = vec![0; piece.min(256 * 1024)];
        let mut deadline = Instant::now() + self.patience;
        loop {
            match reader.poll() {
                Ok(None) => {}
                Ok(Some(answer)) => {
                    self.surplus = reader.into_surplus();
                    self.sent = 0;
                    return Outcome::Answered(answer);
                }
                Err(why) => return Outcome::Malformed(why),
            }
            let (sent, received) = (self.sent, reader.received());
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Outcome::TimedOut { sent, received };
            }
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).expect("SO_RCVTIMEO");
            match self.socket.read(&mut buffer) {
                Ok(0) if self.write_failed && received == 0 => return Outcome::Reset { sent, received },
                Ok(0) => return reader.at_eof(sent),
                Ok(n) => {
                    reader.push(&buffer[..n]);
                    if !pause.is_zero() {
                        std::thread::sleep(pause);
                        deadline += pause;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Outcome::TimedOut { sent, received };
                }
                Err(_) => return Outcome::Reset { sent, received },
            }
        }
    }

    /// Reads whatever is there until the connection ends or `within` is over; returns the bytes and how it
    /// ended.
    pub fn read_to_end(&mut self, within: Duration) -> (Vec<u8>, Close) {
        let mut bytes = std::mem::take(&mut self.surplus);
        let deadline = Instant::now() + within;
        let mut buffer = [0; 16 * 1024];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (bytes, Close::StillOpen);
            }
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).expect("SO_RCVTIMEO");
            match self.socket.read(&mut buffer) {
                Ok(0) => return (bytes, Close::Fin),
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return (bytes, Close::Reset),
            }
        }
    }

    /// Reads at least one more byte of the response that is on its way, without interpreting it.
    ///
    /// # Panics
    /// If none comes in time.
    pub fn wait_for_first_byte(&mut self) {
        self.wait_for_bytes(1);
    }

    /// Reads until `count` bytes wait to be interpreted by [`Connection::read_response`].
    ///
    /// # Panics
    /// If they do not come in time.
    pub fn wait_for_bytes(&mut self, count: usize) {
        self.socket.set_read_timeout(Some(self.patience)).expect("SO_RCVTIMEO");
        let mut buffer = [0; 4096];
        while self.surplus.len() < count {
            match self.socket.read(&mut buffer) {
                Ok(0) => panic!("the connection ended after {} of {count} bytes", self.surplus.len()),
                Ok(n) => self.surplus.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => panic!("{e} after {} of {count} bytes", self.surplus.len()),
            }
        }
    }

    /// What the socket says now, without waiting and without consuming anything.
    pub fn state(&self) -> Close {
        if !self.surplus.is_empty() {
            return Close::Data;
        }
        peek(&self.socket)
    }

    /// Waits until the connection is not idle any more, or `within` is over.
    pub fn wait_for_close(&self, within: Duration) -> Close {
        let deadline = Instant::now() + within;
        loop {
            let state = self.state();
            if state != Close::StillOpen || Instant::now() >= deadline {
                return state;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends the sending direction: the server reads end-of-file, this side still reads.
    pub fn half_close(&mut self) {
        // Fails only if the connection is gone, which the next read tells.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Closes with RST (`SO_LINGER` 0).
    pub fn reset(self) {
        self.socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// Our port, to tell connections apart; 0 on a Unix socket.
    pub fn local_port(&self) -> u16 {
        let local = self.socket.local_addr().expect("a local address");
        local.as_socket().map_or(0, |address| address.port())
    }
}

/// What a socket says now, without waiting and without consuming anything.
pub(crate) fn peek(socket: &Socket) -> Close {
    loop {
        return match recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) => Close::Fin,
            Ok(_) => Close::Data,
            Err(rustix::io::Errno::AGAIN) => Close::StillOpen,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => Close::Reset,
        };
    }
}

/// What a failed `connect` means.
pub(crate) fn connect_failure(error: &io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => Outcome::RefusedBeforeSending(Refusal::Connect),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Outcome::TimedOut { sent: 0, received: 0 },
        ErrorKind::ConnectionReset => Outcome::Reset { sent: 0, received: 0 },
        _ => Outcome::Malformed(format!("connect: {error}")),
    }
}

/// A client that keeps its connection, as browsers, pools and proxies do: it honours `Connection: close`, and
/// takes a new connection when it sees, *before* it sends, that the server closed the old one. Once a byte is
/// sent it does not retry.
#[derive(Debug)]
pub struct Session {
    address: Address,
    connection: Option<Connection>,
    /// How long one request may take.
    pub patience: Duration,
}

impl Session {
    /// A session without a connection yet.
    pub fn new(address: &Address) -> Self {
        Self { address: address.clone(), connection: None, patience: PATIENCE }
    }

    /// Sends one request, on the kept connection if there is one.
    pub fn request(&mut self, request: &Request) -> Outcome {
        if let Some(kept) = &self.connection
            && kept.state() == Close::Fin
        {
            self.connection = None;
        }
        let mut connection = match self.connection.take() {
            Some(kept) => kept,
            None => match Connection::open(&self.address) {
                Ok(fresh) => fresh,
                Err(outcome) => return outcome,
            },
        };
        connection.patience = self.patience;
        let outcome = connection.request(request);
        if matches!(&outcome, Outcome::Answered(answer) if !answer.connection_close) {
            self.connection = Some(connection);
        }
        outcome
    }

    /// `GET target`.
    pub fn get(&mut self, target: &str) -> Outcome {
        self.request(&Request::get(target))
    }

    /// The connection that is kept, if any.
    pub fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }
}

/// One request on a connection of its own.
pub fn once(address: &Address, request: &Request) -> Outcome {
    match Connection::open(address) {
        Ok(mut connection) => connection.request(request),
        Err(outcome) => outcome,
    }
}

/// `GET target` on a connection of its own.
pub fn get(address: &Address, target: &str) -> Outcome {
    once(address, &Request::get(target))
}
