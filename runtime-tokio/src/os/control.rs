//! The line between the supervisor and a worker: a pair of sequenced-packet Unix sockets (unix(7)). One
//! message is one packet; a deal has its connection attached (SCM_RIGHTS).

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use pounce_core::protocol::{FromWorker, MAX_PACKET, ToWorker};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Sleep;

use super::lazy_fd::register;
use super::listener::OsSocket;
use crate::listener::Accepted;
use crate::seldom::Seldom;
use crate::worker_host::{Order, Orders};

/// The environment variable that tells a worker process the number of its end of the line.
pub const CONTROL_FD: &str = "POUNCE_CONTROL_FD";

/// How long to wait when the kernel has no room for a packet and will not say when it has.
const RETRY: Duration = Duration::from_millis(10);

/// A line: the supervisor's end and the worker's end, both non-blocking and closed on exec.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// A packet on its way out.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) fd: Option<OwnedFd>,
}

/// A packet that came in, its bytes at the beginning of the buffer given.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) length: usize,
    pub(super) fd: Option<OwnedFd>,
}

/// Room for the longest packet and one more byte.
pub(super) fn packet_buffer() -> Box<[u8]> {
    vec![0; MAX_PACKET + 1].into_boxed_slice()
}

/// Takes the next packet without waiting. `None`: the other side is gone and everything that it sent was
/// read.
///
/// # Errors
/// `AGAIN` if there is none; otherwise as recvmsg(2). `TOOBIG`: a packet longer than [`MAX_PACKET`], which is
/// lost. `MFILE`: an attached descriptor was lost because this process may not have more.
pub(super) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<Incoming>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match rustix::net::recvmsg(fd, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags) {
            Ok(received) => break received,
            // The other side closed its end with packets of ours unread. The kernel says so once; what it had
            // sent before can still be read, and then comes the end.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(error) => return Err(error),
        }
    };
    let mut attached = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            // A packet has one at most. More would be closed here, not leaked.
            attached = fds.last();
        }
    }
    // No message is empty, so an empty packet is the end of the stream.
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.contains(ReturnFlags::TRUNC) || received.bytes > MAX_PACKET {
        return Err(Errno::TOOBIG);
    }
    if received.flags.contains(ReturnFlags::CTRUNC) && attached.is_none() {
        return Err(Errno::MFILE);
    }
    Ok(Some(Incoming { length: received.bytes, fd: attached }))
}

fn transmit(fd: BorrowedFd<'_>, packet: &Packet) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let attached = packet.fd.as_ref().map(AsFd::as_fd);
    if let Some(attached) = &attached {
        ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(attached)));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match rustix::net::sendmsg(fd, &[IoSlice::new(&packet.bytes)], &mut ancillary, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// One end of a line, registered with the runtime, with the packets that the socket has not taken yet.
#[derive(Debug)]
pub(super) struct Line {
    /// Registered for what comes in only: each packet that the other side takes makes room, and would wake us.
    fd: AsyncFd<OwnedFd>,
    /// The same socket, registered for room, while packets wait for it.
    room: Option<AsyncFd<OwnedFd>>,
    queue: VecDeque<Packet>,
    /// The other side closed its end.
    gone: bool,
    /// Runs while the kernel is short of something that is not this socket's buffer.
    retry: Option<Pin<Box<Sleep>>>,
    /// Who to wake when a packet is kept, because only polling gets it out.
    waker: Option<Waker>,
}

impl Line {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Line> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        let fd = register(fd, Interest::READABLE).map_err(|(_, error)| error)?;
        Ok(Line { fd, room: None, queue: VecDeque::new(), gone: false, retry: None, waker: None })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Nothing more can be sent.
    pub(super) fn is_broken(&self) -> bool {
        self.gone
    }

    /// Packets that the socket has not taken.
    pub(super) fn take_queue(&mut self) -> VecDeque<Packet> {
        std::mem::take(&mut self.queue)
    }

    pub(super) fn send(&mut self, packet: Packet) {
        if self.queue.is_empty() && !self.gone {
            match transmit(self.fd.as_fd(), &packet) {
                Ok(()) => return,
                Err(error) => self.trouble(error, &packet),
            }
        }
        self.queue.push_back(packet);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn trouble(&mut self, error: Errno, packet: &Packet) {
        match error {
            Errno::AGAIN => {}
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => self.gone = true,
            // The limits on descriptors in flight and on memory for packets are not this socket's own:
            // nothing reports when there is room again.
            Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM => {
                self.retry = Some(Box::pin(tokio::time::sleep(RETRY)));
            }
            error => {
                let (kind, length) = (packet.bytes.first(), packet.bytes.len());
                tracing::error!("control message of kind {kind:?}, {length} bytes, cannot be sent: {error}");
                self.gone = true;
            }
        }
    }

    fn watch_for_room(&mut self) {
        let room = rustix::io::fcntl_dupfd_cloexec(self.fd.get_ref(), 0).map_err(io::Error::from);
        match room.and_then(|fd| register(fd, Interest::WRITABLE).map_err(|(_, error)| error)) {
            Ok(room) => self.room = Some(room),
            // Most likely no descriptor is left.
            Err(_) => self.retry = Some(Box::pin(tokio::time::sleep(RETRY))),
        }
    }

    /// Moves kept packets on. Ready when there are none, or the other side is gone (its packets stay in the
    /// queue).
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.gone {
            let Some(packet) = self.queue.front() else { break };
            if let Some(retry) = &mut self.retry {
                ready!(retry.as_mut().poll(cx));
                self.retry = None;
            }
            let room = match &self.room {
                None => None,
                Some(room) => match ready!(room.poll_write_ready(cx)) {
                    Ok(room) => Some(room),
                    Err(error) => {
                        tracing::error!("the control socket cannot be written: {error}");
                        self.gone = true;
                        break;
                    }
                },
            };
            match (transmit(self.fd.as_fd(), packet), room) {
                (Ok(()), _) => {
                    self.queue.pop_front();
                }
                (Err(Errno::AGAIN), Some(mut room)) => room.clear_ready(),
                (Err(Errno::AGAIN), None) => self.watch_for_room(),
                (Err(error), _) => {
                    if let Some(packet) = self.queue.pop_front() {
                        self.trouble(error, &packet);
                        self.queue.push_front(packet);
                    }
                }
            }
        }
        self.room = None;
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
        Poll::Ready(())
    }

    /// The next packet; `None` when the other side is gone and everything that it sent was read.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<Option<Incoming>, Errno>> {
        loop {
            let mut guard = match ready!(self.fd.poll_read_ready(cx)) {
                Ok(guard) => guard,
                // The runtime is shutting down.
                Err(_) => return Poll::Ready(Err(Errno::CANCELED)),
            };
            match receive(self.fd.as_fd(), buffer) {
                Err(Errno::AGAIN) => guard.clear_ready(),
                other => return Poll::Ready(other),
            }
        }
    }
}

/// A packet to a worker.
pub(super) fn encode_to_worker(message: &ToWorker, fd: Option<OwnedFd>) -> Packet {
    let mut bytes = Vec::with_capacity(64);
    message.encode(&mut bytes);
    Packet { bytes, fd }
}

/// Reads a packet to a worker.
///
/// # Errors
/// Not a message of this version, or a deal without its connection.
pub(super) fn decode_to_worker(bytes: &[u8], fd: Option<OwnedFd>) -> io::Result<Order<OsSocket>> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    match ToWorker::decode(bytes).map_err(|error| invalid(error.to_string()))? {
        ToWorker::Deal { peer, local } => {
            let fd = fd.ok_or_else(|| invalid("a connection was dealt without its descriptor".to_owned()))?;
            Ok(Order::Deal(Accepted { io: OsSocket::with_addresses(fd, peer, local), peer, local }))
        }
        message => Ok(Order::Message(message)),
    }
}

/// A worker's end of the line.
#[derive(Debug)]
pub struct OsOrders {
    line: Line,
    buffer: Box<[u8]>,
    room: Room,
}

/// Whether this process may have one more descriptor. A packet that is taken without room for its descriptor loses it,
/// and a client its connection, so the worker leaves it in the socket until there is room.
#[derive(Debug)]
struct Room {
    /// RLIMIT_NOFILE: descriptors are numbered below it.
    limit: u64,
    /// The highest number that a descriptor came with. The kernel gives the lowest that is free, so as long as none came
    /// close to the limit there is no need to ask. A low one says nothing later on: it may be the only one that was free.
    highest: u64,
    /// Runs while there was no room.
    wait: Option<Pin<Box<Sleep>>>,
    /// Under load there is room, and none, a thousand times a second.
    is_full: Seldom,
}

impl Room {
    /// Descriptors that the application may open between two looks.
    const MARGIN: u64 = 256;
    /// How often to look whether there is room again.
    const WAIT: Duration = Duration::from_millis(20);

    fn new(end: BorrowedFd<'_>) -> Room {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Room {
            limit: limit.unwrap_or(u64::MAX),
            highest: number(end),
            wait: None,
            is_full: Seldom::default(),
        }
    }

    fn is_there(&self, end: BorrowedFd<'_>) -> bool {
        self.highest.saturating_add(Room::MARGIN) < self.limit
            || !matches!(rustix::io::fcntl_dupfd_cloexec(end, 0), Err(Errno::MFILE | Errno::NFILE))
    }

    /// Ready when there is room, or the next packet needs none.
    fn poll(&mut self, cx: &mut Context<'_>, end: BorrowedFd<'_>, buffer: &mut [u8]) -> Poll<()> {
        while !self.is_there(end) {
            // Without room for control data, looking at a packet takes no descriptor.
            let next = rustix::net::recv(end, &mut *buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT);
            let length = next.map_or(0, |(length, _)| length);
            if !matches!(ToWorker::decode(&buffer[..length]), Ok(ToWorker::Deal { .. })) {
                return Poll::Ready(());
            }
            let wait = self.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(Room::WAIT)));
            if self.is_full.is_worth_saying() {
                tracing::warn!(
                    "connections wait because this worker may have no more than {} open files; raise the limit \
                     (`ulimit -n`, LimitNOFILE= in systemd) or set max_connections",
                    self.limit
                );
            }
            ready!(wait.as_mut().poll(cx));
            wait.set(tokio::time::sleep(Room::WAIT));
        }
        self.wait = None;
        Poll::Ready(())
    }
}

fn number(fd: BorrowedFd<'_>) -> u64 {
    u64::try_from(fd.as_raw_fd()).unwrap_or(0)
}

impl OsOrders {
    /// Takes the worker's end, inside the runtime that will poll it. It becomes non-blocking and closed on
    /// exec.
    ///
    /// # Errors
    /// Not a sequenced-packet socket, or the runtime could not take it.
    pub fn new(end: OwnedFd) -> io::Result<OsOrders> {
        let wrong = |what: &str| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the descriptor in {CONTROL_FD} {what}: a worker is started by `pounce`, not by hand"
                ),
            )
        };
        match rustix::net::sockopt::socket_type(&end) {
            Ok(SocketType::SEQPACKET) => {}
            Ok(_) => return Err(wrong("is another kind of socket")),
            Err(Errno::NOTSOCK) => return Err(wrong("is not a socket")),
            Err(error) => return Err(error.into()),
        }
        let room = Room::new(end.as_fd());
        Ok(OsOrders { line: Line::new(end)?, buffer: packet_buffer(), room })
    }
}

impl Orders for OsOrders {
    type Io = OsSocket;

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Order<OsSocket>>>> {
        // A driver that waits for orders also gets its own messages out.
        let _ = self.line.poll_flush(cx);
        ready!(self.room.poll(cx, self.line.as_fd(), &mut self.buffer));
        Poll::Ready(match ready!(self.line.poll_receive(cx, &mut self.buffer)) {
            Ok(None) => Ok(None),
            Ok(Some(incoming)) => {
                if let Some(fd) = &incoming.fd {
                    self.room.highest = self.room.highest.max(number(fd.as_fd()));
                }
                decode_to_worker(&self.buffer[..incoming.length], incoming.fd).map(Some)
            }
            Err(Errno::MFILE) => {
                self.room.highest = self.room.limit;
                Ok(Some(Order::Lost))
            }
            Err(error) => Err(error.into()),
        })
    }

    fn send(&mut self, message: &FromWorker) {
        if self.line.is_broken() {
            return;
        }
        let mut bytes = Vec::with_capacity(64);
        message.encode(&mut bytes);
        self.line.send(Packet { bytes, fd: None });
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.line.poll_flush(cx)
    }
}
