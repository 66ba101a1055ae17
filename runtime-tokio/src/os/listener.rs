//! Listening TCP and Unix sockets.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, SockAddr, SockFilter, SockRef, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::lazy_fd::LazyFd;
use crate::listener::{Accepted, Listener, Socket, Stream};

/// Where to listen, as people write it.
///
/// | written | means |
/// |---|---|
/// | `127.0.0.1:8000`, `localhost:8000`, `[::1]:8000` | that address |
/// | `:8000` | port 8000 on every IPv4 interface |
/// | `8000` | port 8000 on 127.0.0.1 |
/// | `unix:/run/pounce.sock` | a Unix socket |
/// | `fd://3` | a listening socket that this process inherited |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindAddress {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
    Fd(RawFd),
}

impl FromStr for BindAddress {
    type Err = BindAddressError;

    fn from_str(text: &str) -> Result<BindAddress, BindAddressError> {
        let wrong = |why: &str| BindAddressError { text: text.to_owned(), why: why.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(wrong("the path of the socket is missing"));
            }
            return Ok(BindAddress::Unix(path.into()));
        }
        if let Some(number) = text.strip_prefix("fd://").or_else(|| text.strip_prefix("fd:")) {
            let number = number.parse::<RawFd>().ok().filter(|n| *n >= 0);
            return number
                .map(BindAddress::Fd)
                .ok_or_else(|| wrong("the descriptor is not a number of 0 or more"));
        }
        let port_of = |port: &str| {
            port.parse::<u16>().map_err(|_| wrong(&format!("{port:?} is not a port from 0 to 65535")))
        };
        if text.parse::<u64>().is_ok() {
            return Ok(BindAddress::Tcp { host: Ipv4Addr::LOCALHOST.to_string(), port: port_of(text)? });
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (host, after) = rest.split_once(']').ok_or_else(|| wrong("the `]` is missing"))?;
            let port = after.strip_prefix(':').ok_or_else(|| wrong("the port is missing"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(wrong("what stands in brackets is not an IPv6 address"));
            }
            return Ok(BindAddress::Tcp { host: host.to_owned(), port: port_of(port)? });
        }
        match text.rsplit_once(':') {
            None => Err(wrong("the port is missing")),
            Some((host, _)) if host.contains(':') => Err(wrong("an IPv6 address needs brackets")),
            Some(("", port)) => {
                Ok(BindAddress::Tcp { host: Ipv4Addr::UNSPECIFIED.to_string(), port: port_of(port)? })
            }
            Some((host, port)) => Ok(BindAddress::Tcp { host: host.to_owned(), port: port_of(port)? }),
        }
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindAddress::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            BindAddress::Tcp { host, port } => write!(f, "{host}:{port}"),
            BindAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            BindAddress::Fd(number) => write!(f, "fd://{number}"),
        }
    }
}

/// Text that is not a [`BindAddress`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindAddressError {
    text: String,
    why: String,
}

impl fmt::Display for BindAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot listen on {:?}: {}; write HOST:PORT, [IPV6]:PORT, :PORT, PORT, unix:PATH or fd://NUMBER",
            self.text, self.why
        )
    }
}

impl std::error::Error for BindAddressError {}

/// A connection at rest: the descriptor and what kind of socket it is. Non-blocking, closed on exec.
#[derive(Debug)]
pub struct OsSocket {
    fd: OwnedFd,
    family: Family,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Tcp,
    Unix,
}

impl OsSocket {
    /// A connection whose addresses are known, as it comes out of a `Deal`: TCP if either is there, else
    /// Unix.
    pub(super) fn with_addresses(
        fd: OwnedFd,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> OsSocket {
        let family = if peer.is_some() || local.is_some() { Family::Tcp } else { Family::Unix };
        OsSocket { fd, family }
    }
}

impl AsFd for OsSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OsSocket> for OwnedFd {
    fn from(socket: OsSocket) -> OwnedFd {
        socket.fd
    }
}

impl From<std::net::TcpStream> for OsSocket {
    fn from(stream: std::net::TcpStream) -> OsSocket {
        // A blocking socket would block the runtime. The call can fail only on a descriptor that is not open.
        let _ = stream.set_nonblocking(true);
        OsSocket { fd: stream.into(), family: Family::Tcp }
    }
}

impl From<std::os::unix::net::UnixStream> for OsSocket {
    fn from(stream: std::os::unix::net::UnixStream) -> OsSocket {
        // As above.
        let _ = stream.set_nonblocking(true);
        OsSocket { fd: stream.into(), family: Family::Unix }
    }
}

impl Socket for OsSocket {
    type Stream = OsStream;

    fn into_stream(self) -> io::Result<OsStream> {
        match self.family {
            Family::Tcp => TcpStream::from_std(self.fd.into()).map(OsStream::Tcp),
            Family::Unix => UnixStream::from_std(self.fd.into()).map(OsStream::Unix),
        }
    }
}

/// A connection in the process that serves it.
#[derive(Debug)]
pub enum OsStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsFd for OsStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            OsStream::Tcp(stream) => stream.as_fd(),
            OsStream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream for OsStream {
    fn readable_now(&self) -> bool {
        let mut byte = [0];
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        // Bytes, the peer's end and an error are all something that a read would find.
        !matches!(rustix::net::recv(self, &mut byte, flags), Err(Errno::AGAIN))
    }

    fn unsent_bytes(&self) -> Option<u64> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open while `self` lives, and TIOCOUTQ (SIOCOUTQ, tcp(7) and unix(7)) writes one int
        // to the address of one.
        let result = unsafe { libc::ioctl(self.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        (result == 0).then(|| u64::try_from(bytes).ok()).flatten()
    }

    fn reset_on_drop(&self) {
        if let OsStream::Tcp(stream) = self
            && let Err(error) = SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO))
        {
            tracing::debug!("a cut response ends without a reset: {error}");
        }
    }
}

impl AsyncRead for OsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            OsStream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            OsStream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for OsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            OsStream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            OsStream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            OsStream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            OsStream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            OsStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            OsStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A listening socket. Made without a runtime; registers itself with the one that first polls it.
#[derive(Debug)]
pub struct OsListener {
    fd: LazyFd,
    address: ListenAddress,
    /// Whoever handed the socket over keeps it open, for the server after this one.
    kept_elsewhere: bool,
}

#[derive(Debug)]
enum ListenAddress {
    /// Bound to one address: every connection's local address is this one.
    Tcp(SocketAddr),
    /// Bound to every address of the machine: each connection is asked.
    TcpWildcard(SocketAddr),
    Unix {
        name: String,
        file: Option<SocketFile>,
    },
}

/// The file of a Unix socket that we bound, to be removed only while it is still ours. The bound socket keeps
/// the inode alive, so its number cannot come back for another file while we compare.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn remove_if_ours(&self) {
        let Ok(now) = fs::symlink_metadata(&self.path) else { return };
        if (now.dev(), now.ino()) != (self.device, self.inode) {
            tracing::debug!("{} belongs to another server by now and is left alone", self.path.display());
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!("could not remove {}: {error}", self.path.display());
        }
    }
}

impl OsListener {
    /// Listens where `address` says. `backlog` is the longest accept queue, in connections; the kernel caps
    /// it at `net.core.somaxconn`.
    ///
    /// # Errors
    /// As [`OsListener::tcp`], [`OsListener::unix`] and [`OsListener::inherited`].
    pub fn bind(address: &BindAddress, backlog: u32) -> io::Result<OsListener> {
        match address {
            BindAddress::Tcp { host, port } => OsListener::tcp(host, *port, backlog),
            BindAddress::Unix(path) => OsListener::unix(path, backlog),
            BindAddress::Fd(number) => OsListener::inherited(*number),
        }
    }

    /// [`OsListener::bind`] to an address as people write it, see [`BindAddress`].
    ///
    /// # Errors
    /// `InvalidInput` if it is not an address; otherwise as `bind`.
    pub fn bind_str(address: &str, backlog: u32) -> io::Result<OsListener> {
        let address: BindAddress =
            address.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        OsListener::bind(&address, backlog)
    }

    /// Listens on a TCP port. A name is resolved and its first IPv4 address taken, or else its first IPv6
    /// address. `::` takes IPv4 connections too. Port 0 lets the kernel choose; [`OsListener::local_addr`]
    /// tells which.
    ///
    /// # Errors
    /// The name does not resolve, the address is in use or not of this machine, or the port is privileged;
    /// the text says what to do.
    pub fn tcp(host: &str, port: u16, backlog: u32) -> io::Result<OsListener> {
        let shown = BindAddress::Tcp { host: host.to_owned(), port };
        let mut addresses = (host, port)
            .to_socket_addrs()
            .map_err(|error| {
                explain(error, format_args!("cannot listen on {shown}: the name {host:?} does not resolve"))
            })?
            .collect::<Vec<_>>();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let address = addresses.into_iter().next().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("cannot listen on {shown}: the name {host:?} has no address"),
            )
        })?;
        OsListener::tcp_at(address, backlog).map_err(|error| explain_bind(error, &shown))
    }

    fn tcp_at(address: SocketAddr, backlog: u32) -> io::Result<OsListener> {
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(socket2::Protocol::TCP),
        )?;
        // A restart must not wait for the old connections' TIME_WAIT. SO_REUSEPORT would let a second server
        // in silently.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() && address.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&SockAddr::from(address))?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        OsListener::from_fd(socket.into())
    }

    /// Listens on a Unix socket at `path`. The file of a dead server is replaced. The umask decides the
    /// permissions.
    ///
    /// # Errors
    /// A live server listens there, something there is not a socket, or the path is too long or not writable.
    pub fn unix(path: impl AsRef<Path>, backlog: u32) -> io::Result<OsListener> {
        let path = path.as_ref();
        let name = format!("unix:{}", path.display());
        let address = SockAddr::unix(path).map_err(|error| {
            explain(error, format_args!("cannot listen on {name}: a socket's path has at most 107 bytes"))
        })?;
        remove_stale(path, &address, &name)?;
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        socket.bind(&address).map_err(|error| match error.raw_os_error() {
            Some(libc::EADDRINUSE) => live(&name),
            Some(libc::ENOENT) => {
                explain(error, format_args!("cannot listen on {name}: its directory does not exist"))
            }
            _ => explain(error, format_args!("cannot listen on {name}")),
        })?;
        // Before listen(): no client can have come in by the time this fails.
        let file = fs::symlink_metadata(path)?;
        let file = SocketFile {
            // The working directory may be another one when the file is removed.
            path: std::path::absolute(path)?,
            device: file.dev(),
            inode: file.ino(),
        };
        if let Err(error) = socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX)) {
            file.remove_if_ours();
            return Err(explain(error, format_args!("cannot listen on {name}")));
        }
        Ok(OsListener {
            fd: LazyFd::new(socket.into()),
            address: ListenAddress::Unix { name, file: Some(file) },
            kept_elsewhere: false,
        })
    }

    /// Takes over the listening socket that this process inherited as descriptor `number` (systemd, circus, a
    /// parent process). The number itself is closed, so that no child inherits it.
    ///
    /// # Errors
    /// The descriptor is not open, or as [`OsListener::from_fd`].
    pub fn inherited(number: RawFd) -> io::Result<OsListener> {
        if number < 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot listen on fd://{number}: a descriptor's number is 0 or more"),
            ));
        }
        // SAFETY: borrowed only for the calls below, which report EBADF when nothing is open under the
        // number; whoever passes the number says that it is ours to use.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let whose = format!("fd://{number}");
        check_listening(borrowed, &whose)?;
        // A fresh number: naming the same descriptor twice then finds it closed, instead of two owners of
        // one.
        let fd = rustix::io::fcntl_dupfd_cloexec(borrowed, 10)
            .map_err(|error| explain(error.into(), format_args!("cannot listen on {whose}")))?;
        // SAFETY: the check has just shown an open listening socket under this number, which nothing in this
        // process owns: it was inherited and whoever passes the number hands it over.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
        let mut listener = OsListener::from_fd(fd)?;
        listener.kept_elsewhere = true;
        // What another program, or a pounce before this one, left on the socket would hold for us too.
        if let Some(fd) = listener.fd.borrow() {
            let _ = SockRef::from(&fd).detach_filter();
        }
        Ok(listener)
    }

    /// Takes over a socket that is bound and listening already.
    ///
    /// # Errors
    /// It is not a listening stream socket, or of a family other than IPv4, IPv6 and Unix.
    pub fn from_fd(fd: OwnedFd) -> io::Result<OsListener> {
        let whose = format!("descriptor {}", fd.as_raw_fd());
        check_listening(fd.as_fd(), &whose)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        let socket = SockRef::from(&fd);
        let bound = socket.local_addr()?;
        let address = match bound.as_socket() {
            Some(address) => {
                // Connections inherit it from the listening socket (Linux copies the socket): one call
                // instead of one for each.
                socket.set_tcp_nodelay(true)?;
                if address.ip().is_unspecified() {
                    ListenAddress::TcpWildcard(address)
                } else {
                    ListenAddress::Tcp(canonical(address))
                }
            }
            None => {
                let name = match bound.as_pathname() {
                    Some(path) => format!("unix:{}", path.display()),
                    None => "unix:(unnamed)".to_owned(),
                };
                // Whoever made the file also removes it.
                ListenAddress::Unix { name, file: None }
            }
        };
        Ok(OsListener { fd: LazyFd::new(fd), address, kept_elsewhere: false })
    }

    /// The TCP address that it is bound to, with the real port. `None` on a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.address {
            ListenAddress::Tcp(address) | ListenAddress::TcpWildcard(address) => Some(*address),
            ListenAddress::Unix { .. } => None,
        }
    }
}

impl Listener for OsListener {
    type Io = OsSocket;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted<OsSocket>>> {
        let OsListener { fd, address, .. } = self;
        let fd = fd.get()?;
        // Errors of a single connection are skipped, but not for ever: a filter that refuses accept4 itself
        // looks the same.
        let mut skipped = 0;
        // Whether accept4 has said in this very call that the queue is empty, which `Pending` promises.
        let mut empty = false;
        loop {
            // The waker is registered before the queue is looked at, so that nothing arrives unseen in
            // between.
            let guard = match fd.poll_read_ready(cx) {
                Poll::Ready(guard) => Some(guard?),
                Poll::Pending if empty => return Poll::Pending,
                Poll::Pending => None,
            };
            match rustix::net::acceptfrom_with(fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((io, peer)) => return Poll::Ready(Ok(accepted(address, io, peer))),
                Err(Errno::AGAIN) => {
                    empty = true;
                    match guard {
                        Some(mut guard) => guard.clear_ready(),
                        None => return Poll::Pending,
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) if concerns_one_connection(error) && skipped < 64 => {
                    skipped += 1;
                    tracing::debug!("a connection ended before it was accepted: {error}");
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn refuse_new(&mut self) {
        match &self.address {
            // The filter belongs to the socket and not to the descriptor: it would outlive this process and keep
            // every connection from the next one. What comes now waits in the queue for that.
            ListenAddress::Tcp(_) | ListenAddress::TcpWildcard(_) if self.kept_elsewhere => {}
            ListenAddress::Tcp(_) | ListenAddress::TcpWildcard(_) => {
                let Some(fd) = self.fd.borrow() else { return };
                if let Err(error) = SockRef::from(&fd).attach_filter(&drop_connection_attempts()) {
                    tracing::debug!("{} goes on taking connections until it is closed: {error}", self.name());
                }
            }
            ListenAddress::Unix { file, .. } => {
                // Without the file nobody finds the socket any more; a connect() gets ENOENT instead of a
                // lost connection.
                if let Some(file) = file {
                    file.remove_if_ours();
                }
            }
        }
    }

    fn name(&self) -> String {
        match &self.address {
            ListenAddress::Tcp(address) | ListenAddress::TcpWildcard(address) => format!("http://{address}"),
            ListenAddress::Unix { name, .. } => name.clone(),
        }
    }
}

impl Drop for OsListener {
    fn drop(&mut self) {
        // The fields drop afterwards: while the socket is open, its inode number cannot belong to another
        // file.
        if let ListenAddress::Unix { file: Some(file), .. } = &self.address {
            file.remove_if_ours();
        }
    }
}

fn accepted(
    address: &ListenAddress,
    io: OwnedFd,
    peer: Option<rustix::net::SocketAddrAny>,
) -> Accepted<OsSocket> {
    let family = match address {
        ListenAddress::Unix { .. } => Family::Unix,
        ListenAddress::Tcp(_) | ListenAddress::TcpWildcard(_) => Family::Tcp,
    };
    let as_socket = |address: rustix::net::SocketAddrAny| SocketAddr::try_from(address).ok().map(canonical);
    let (peer, local) = match address {
        ListenAddress::Tcp(local) => (peer.and_then(as_socket), Some(*local)),
        ListenAddress::TcpWildcard(bound) => {
            let local = rustix::net::getsockname(&io).ok().and_then(as_socket);
            (peer.and_then(as_socket), local.or(Some(*bound)))
        }
        ListenAddress::Unix { .. } => (None, None),
    };
    Accepted { io: OsSocket { fd: io, family }, peer, local }
}

/// An IPv4 client of an IPv6 socket is shown as an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The errors that accept(2) passes on from the network of the connection that it would have returned.
fn concerns_one_connection(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNABORTED
            | Errno::PROTO
            | Errno::NETDOWN
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
            | Errno::PERM
    )
}

/// A classic BPF program for a listening TCP socket that drops the packets that ask for a new connection (SYN
/// without ACK). The kernel shows it packets from the TCP header on; the flags are byte 13 (RFC 9293 §3.1).
/// The last packet of a handshake under way passes, so it still ends in the accept queue.
fn drop_connection_attempts() -> [SockFilter; 5] {
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let op = |parts: &[u32]| parts.iter().fold(0, |code, part| code | *part) as u16;
    let load_byte = op(&[libc::BPF_LD, libc::BPF_B, libc::BPF_ABS]);
    let and = op(&[libc::BPF_ALU, libc::BPF_AND, libc::BPF_K]);
    let jump_if_equal = op(&[libc::BPF_JMP, libc::BPF_JEQ, libc::BPF_K]);
    let ret = op(&[libc::BPF_RET, libc::BPF_K]);
    [
        SockFilter::new(load_byte, 0, 0, 13),
        SockFilter::new(and, 0, 0, SYN | ACK),
        SockFilter::new(jump_if_equal, 0, 1, SYN),
        SockFilter::new(ret, 0, 0, 0),
        SockFilter::new(ret, 0, 0, u32::MAX),
    ]
}

fn check_listening(fd: BorrowedFd<'_>, whose: &str) -> io::Result<()> {
    let not = |why: &str| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "cannot listen on {whose}: {why}; hand over a socket that is bound and listening (stream; IPv4, \
                 IPv6 or Unix)"
            ),
        )
    };
    let of = |error: Errno| match error {
        Errno::BADF => not("no such descriptor is open"),
        Errno::NOTSOCK => not("it is not a socket"),
        error => explain(error.into(), format_args!("cannot listen on {whose}")),
    };
    use rustix::net::{AddressFamily, SocketType, sockopt};
    if sockopt::socket_type(fd).map_err(of)? != SocketType::STREAM {
        return Err(not("it is not a stream socket"));
    }
    if !sockopt::socket_acceptconn(fd).map_err(of)? {
        return Err(not("it does not listen"));
    }
    match sockopt::socket_domain(fd).map_err(of)? {
        AddressFamily::INET | AddressFamily::INET6 | AddressFamily::UNIX => Ok(()),
        family => Err(not(&format!("its address family is {}", family.as_raw()))),
    }
}

/// Clears `path` of what a dead server left there. A connection attempt tells dead (refused) from live.
fn remove_stale(path: &Path, address: &SockAddr, name: &str) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(explain(error, format_args!("cannot listen on {name}"))),
    };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "cannot listen on {name}: there is something that is not a socket; it is left alone. Remove it or \
                 choose another path"
            ),
        ));
    }
    let probe = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match probe.connect(address) {
        // A full accept queue (EAGAIN) is as alive as an accepted connection.
        Ok(()) => Err(live(name)),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Err(live(name)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => {
            tracing::debug!("{name} was left behind by a server that is gone; replacing it");
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(explain(
                    error,
                    format_args!("cannot listen on {name}: a stale socket is there and cannot be removed"),
                )),
                _ => Ok(()),
            }
        }
        Err(error) => Err(explain(
            error,
            format_args!(
                "cannot listen on {name}: a socket is there, and whether a server uses it cannot be told"
            ),
        )),
    }
}

fn live(name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::AddrInUse,
        format!(
            "cannot listen on {name}: the address is in use, a server answers there. Stop it or choose another \
             path"
        ),
    )
}

/// The error in words that name the address and what to do about it.
fn explain_bind(error: io::Error, address: &BindAddress) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => match address {
            BindAddress::Tcp { port, .. } => format!(
                "the address is in use by another process. Stop it (`ss -ltnp 'sport = :{port}'` shows it) or \
                 choose another port"
            ),
            _ => "the address is in use by another process. Stop it or choose another address".to_owned(),
        },
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address. Use one of its own, or 0.0.0.0 for all of them".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted. Ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one".to_owned()
        }
        _ => return explain(error, format_args!("cannot listen on {address}")),
    };
    io::Error::new(error.kind(), format!("cannot listen on {address}: {advice}"))
}

fn explain(error: io::Error, what: fmt::Arguments<'_>) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
