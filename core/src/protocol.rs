//! What the supervisor and a worker say to each other, and how it is written.
//!
//! One message is one packet of a sequenced-packet socket (unix(7), SOCK_SEQPACKET), so there is no framing: the first
//! byte is the kind, then the fields in order, integers in little-endian, text as the rest of the packet. A
//! [`ToWorker::Deal`] has the connection's descriptor attached by the driver (SCM_RIGHTS). Because deals and orders
//! share the socket, a worker that reads `LastDeal` has read every connection that was ever meant for it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Version of the messages. Supervisor and workers are built together; a mismatch means that the installed extension
/// and the executable are not of one build, and is refused by name.
pub const VERSION: u16 = 2;

/// Longest packet, in bytes. Settings are the only message that could come near it.
pub const MAX_PACKET: usize = 64 * 1024;

/// From the supervisor to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ToWorker {
    /// The first message: who the worker is and, as JSON, what it is to do.
    Start { version: u16, worker: u32, generation: u32, settings: String },
    /// A connection, its descriptor attached. Addresses are `None` on Unix sockets.
    Deal { peer: Option<SocketAddr>, local: Option<SocketAddr> },
    /// The server leaves, but not yet: still serve, say no to readiness, and announce the close on every response. To a
    /// worker that retires already it is only the news that the server follows.
    LameDuck,
    /// The server leaves. Finish what is there; everything has to be over after `remaining`.
    Drain { remaining: Duration },
    /// This worker leaves and the server stays, so it is ready as before. Otherwise as `Drain`, which may follow.
    Retire { remaining: Duration },
    /// No connection follows.
    LastDeal,
    /// The deadline: 503 to those who wait for a response, cut the others, leave.
    Abort,
}

/// From a worker to the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FromWorker {
    /// The worker's process runs and speaks this version; the application is not loaded yet.
    Hello { version: u16 },
    /// The application is started; connections may come.
    Ready,
    /// The application did not start. Nothing but the process's end follows.
    StartFailed { message: String },
    /// Counts since the start, sent when they changed.
    Status { closed: u64, requests: u64 },
    /// Answer to the first `Drain`, `Retire` or `Abort`: connections on which a request is under way at this moment.
    Draining { active: u64 },
    /// Somebody sent this worker a SIGTERM of its own.
    RetireMe,
    /// Every connection and the application are done. `cut` requests did not get their whole answer.
    Stopped { cut: u64, requests: u64, clean: bool },
}

/// A packet that is not a message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DecodeError {
    /// Shorter than its kind needs.
    Truncated { kind: u8 },
    /// Longer than its kind allows.
    Trailing { kind: u8 },
    /// Not a kind that this version knows.
    UnknownKind { kind: u8 },
    /// A packet of no bytes.
    Empty,
    /// Text that is not UTF-8.
    NotText { kind: u8 },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Truncated { kind } => write!(f, "control message of kind {kind} is too short"),
            DecodeError::Trailing { kind } => write!(f, "control message of kind {kind} is too long"),
            DecodeError::UnknownKind { kind } => write!(f, "control message of unknown kind {kind}"),
            DecodeError::Empty => f.write_str("control message without a byte"),
            DecodeError::NotText { kind } => {
                write!(f, "control message of kind {kind} holds text that is not UTF-8")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

impl ToWorker {
    /// Writes the message at the end of `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            ToWorker::Start { version, worker, generation, settings } => {
                out.push(1);
                out.extend_from_slice(&version.to_le_bytes());
                out.extend_from_slice(&worker.to_le_bytes());
                out.extend_from_slice(&generation.to_le_bytes());
                out.extend_from_slice(settings.as_bytes());
            }
            ToWorker::Deal { peer, local } => {
                out.push(2);
                encode_address(*peer, out);
                encode_address(*local, out);
            }
            ToWorker::LameDuck => out.push(3),
            ToWorker::Drain { remaining } => {
                out.push(4);
                encode_duration(*remaining, out);
            }
            ToWorker::LastDeal => out.push(5),
            ToWorker::Abort => out.push(6),
            ToWorker::Retire { remaining } => {
                out.push(7);
                encode_duration(*remaining, out);
            }
        }
    }

    /// Reads one packet.
    ///
    /// # Errors
    /// The packet is not a message of this version.
    pub fn decode(packet: &[u8]) -> Result<ToWorker, DecodeError> {
        let mut r = Reader::new(packet)?;
        let message = match r.kind {
            1 => ToWorker::Start {
                version: r.u16()?,
                worker: r.u32()?,
                generation: r.u32()?,
                settings: r.text()?,
            },
            2 => ToWorker::Deal { peer: r.address()?, local: r.address()? },
            3 => ToWorker::LameDuck,
            4 => ToWorker::Drain { remaining: r.duration()? },
            5 => ToWorker::LastDeal,
            6 => ToWorker::Abort,
            7 => ToWorker::Retire { remaining: r.duration()? },
            kind => return Err(DecodeError::UnknownKind { kind }),
        };
        r.end(message)
    }
}

impl FromWorker {
    /// Writes the message at the end of `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            FromWorker::Hello { version } => {
                out.push(65);
                out.extend_from_slice(&version.to_le_bytes());
            }
            FromWorker::Ready => out.push(66),
            FromWorker::StartFailed { message } => {
                out.push(67);
                // A traceback can be longer than a packet; its end says most.
                let room = MAX_PACKET - 1;
                let mut from = message.len().saturating_sub(room);
                while !message.is_char_boundary(from) {
                    from += 1;
                }
                out.extend_from_slice(&message.as_bytes()[from..]);
            }
            FromWorker::Status { closed, requests } => {
                out.push(68);
                for count in [closed, requests] {
                    out.extend_from_slice(&count.to_le_bytes());
                }
            }
            FromWorker::Draining { active } => {
                out.push(69);
                out.extend_from_slice(&active.to_le_bytes());
            }
            FromWorker::RetireMe => out.push(70),
            FromWorker::Stopped { cut, requests, clean } => {
                out.push(71);
                out.extend_from_slice(&cut.to_le_bytes());
                out.extend_from_slice(&requests.to_le_bytes());
                out.push(u8::from(*clean));
            }
        }
    }

    /// Reads one packet.
    ///
    /// # Errors
    /// The packet is not a message of this version.
    pub fn decode(packet: &[u8]) -> Result<FromWorker, DecodeError> {
        let mut r = Reader::new(packet)?;
        let message = match r.kind {
            65 => FromWorker::Hello { version: r.u16()? },
            66 => FromWorker::Ready,
            67 => FromWorker::StartFailed { message: r.text()? },
            68 => FromWorker::Status { closed: r.u64()?, requests: r.u64()? },
            69 => FromWorker::Draining { active: r.u64()? },
            70 => FromWorker::RetireMe,
            71 => FromWorker::Stopped { cut: r.u64()?, requests: r.u64()?, clean: r.u8()? != 0 },
            kind => return Err(DecodeError::UnknownKind { kind }),
        };
        r.end(message)
    }
}

fn encode_duration(duration: Duration, out: &mut Vec<u8>) {
    out.extend_from_slice(&u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
}

fn encode_address(address: Option<SocketAddr>, out: &mut Vec<u8>) {
    match address {
        None => out.push(0),
        Some(SocketAddr::V4(a)) => {
            out.push(4);
            out.extend_from_slice(&a.ip().octets());
            out.extend_from_slice(&a.port().to_le_bytes());
        }
        Some(SocketAddr::V6(a)) => {
            out.push(6);
            out.extend_from_slice(&a.ip().octets());
            out.extend_from_slice(&a.port().to_le_bytes());
        }
    }
}

struct Reader<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(packet: &'a [u8]) -> Result<Reader<'a>, DecodeError> {
        let (&kind, rest) = packet.split_first().ok_or(DecodeError::Empty)?;
        Ok(Reader { kind, rest })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) =
            self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated { kind: self.kind })?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.take::<1>().map(|b| b[0])
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.take().map(u64::from_le_bytes)
    }

    fn duration(&mut self) -> Result<Duration, DecodeError> {
        self.u64().map(Duration::from_nanos)
    }

    fn address(&mut self) -> Result<Option<SocketAddr>, DecodeError> {
        let ip: IpAddr = match self.u8()? {
            0 => return Ok(None),
            4 => Ipv4Addr::from(self.take::<4>()?).into(),
            6 => Ipv6Addr::from(self.take::<16>()?).into(),
            _ => return Err(DecodeError::Truncated { kind: self.kind }),
        };
        Ok(Some(SocketAddr::new(ip, self.u16()?)))
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let text = std::str::from_utf8(self.rest).map_err(|_| DecodeError::NotText { kind: self.kind })?;
        self.rest = &[];
        Ok(text.to_owned())
    }

    fn end<M>(self, message: M) -> Result<M, DecodeError> {
        if self.rest.is_empty() { Ok(message) } else { Err(DecodeError::Trailing { kind: self.kind }) }
    }
}
