//! The listener on real sockets.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the real operating system is what is tested"
)]

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::task::Poll;
use std::time::Duration;

use pounce_runtime_tokio::listener::{Accepted, Listener, Socket};
use pounce_runtime_tokio::os::listener::{BindAddress, OsListener, OsSocket};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("took too long") })
}

async fn accept(listener: &mut OsListener) -> Accepted<OsSocket> {
    poll_fn(|cx| listener.poll_accept(cx)).await.unwrap()
}

/// Whether the accept queue is empty, as the listener says.
async fn is_empty(listener: &mut OsListener) -> bool {
    poll_fn(|cx| Poll::Ready(listener.poll_accept(cx).is_pending())).await
}

fn tcp() -> (OsListener, SocketAddr) {
    let listener = OsListener::tcp("127.0.0.1", 0, 128).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// How a connection attempt that does not block has ended, or `None` if it has not after `patience`.
fn outcome(attempt: &socket2::Socket, patience: Duration) -> Option<io::Result<()>> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let patience = Timespec::try_from(patience).unwrap();
    let mut fds = [PollFd::new(attempt, PollFlags::OUT)];
    if poll(&mut fds, Some(&patience)).unwrap() == 0 {
        return None;
    }
    Some(attempt.take_error().unwrap().map_or(Ok(()), Err))
}

fn begin_connecting(to: SocketAddr) -> socket2::Socket {
    let domain = socket2::Domain::for_address(to);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking(), None).unwrap();
    let error = socket.connect(&to.into()).expect_err("a connection attempt that does not block");
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS), "{error}");
    socket
}

#[test]
fn a_connection_arrives_with_both_addresses_and_without_nagle() {
    let (mut listener, address) = tcp();
    let client = TcpStream::connect(address).unwrap();
    let accepted = run(accept(&mut listener));
    assert_eq!(accepted.peer, Some(client.local_addr().unwrap()));
    assert_eq!(accepted.local, Some(address));
    assert!(SockRef::from(&accepted.io.as_fd()).tcp_nodelay().unwrap());
    let flags = rustix::io::fcntl_getfd(&accepted.io).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn behind_a_wildcard_the_local_address_is_the_one_the_client_connected_to() {
    let mut listener = OsListener::tcp("0.0.0.0", 0, 128).unwrap();
    let port = listener.local_addr().unwrap().port();
    let _client = TcpStream::connect(("127.0.0.2", port)).unwrap();
    let accepted = run(accept(&mut listener));
    assert_eq!(accepted.local, Some(SocketAddr::from(([127, 0, 0, 2], port))));
    assert_eq!(listener.name(), format!("http://0.0.0.0:{port}"));
}

#[test]
fn the_ipv6_wildcard_takes_ipv4_clients_and_shows_them_as_such() {
    let mut listener = match OsListener::tcp("::", 0, 128) {
        Ok(listener) => listener,
        Err(error) => return eprintln!("skipped: this machine has no IPv6: {error}"),
    };
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let accepted = run(accept(&mut listener));
    assert_eq!(accepted.peer, Some(client.local_addr().unwrap()));
    assert_eq!(accepted.local, Some(client.peer_addr().unwrap()));
}

#[test]
fn a_stream_carries_bytes_both_ways_and_writes_vectors() {
    run(async {
        let (mut listener, address) = tcp();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"ping").unwrap();
        let mut stream = accept(&mut listener).await.io.into_stream().unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        assert!(stream.is_write_vectored());
        let parts = [io::IoSlice::new(&bytes), io::IoSlice::new(b"-pong")];
        assert_eq!(stream.write_vectored(&parts).await.unwrap(), 9);
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ping-pong");
    });
}

#[test]
fn pending_means_that_the_queue_is_empty_at_this_moment() {
    let (mut listener, address) = tcp();
    run(async {
        assert!(is_empty(&mut listener).await);
        for _ in 0..100 {
            // The runtime has not looked for events since, so no readiness is recorded.
            let _client = TcpStream::connect(address).unwrap();
            assert!(!is_empty(&mut listener).await);
            assert!(is_empty(&mut listener).await);
        }
    });
}

#[test]
fn a_waiting_accept_is_woken_by_every_connection() {
    let (mut listener, address) = tcp();
    let clients = std::thread::spawn(move || {
        // One at a time, each after the one before was accepted: an event that got lost would end this.
        for _ in 0..200 {
            let mut client = TcpStream::connect(address).unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
    });
    run(async {
        for _ in 0..200 {
            let mut stream = accept(&mut listener).await.io.into_stream().unwrap();
            stream.write_all(b"x").await.unwrap();
        }
    });
    clients.join().unwrap();
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let (_listener, address) = tcp();
    let error = OsListener::tcp("127.0.0.1", address.port(), 128).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(text.contains(&format!("127.0.0.1:{}", address.port())), "{text}");
    assert!(text.contains("in use") && text.contains("choose another port"), "{text}");
}

#[test]
fn a_restart_is_not_held_up_by_connections_of_the_server_before() {
    let (mut listener, address) = tcp();
    let client = TcpStream::connect(address).unwrap();
    // The server closes first, so the connection stays in TIME_WAIT on its side.
    drop(run(accept(&mut listener)));
    drop(listener);
    drop(client);
    OsListener::tcp("127.0.0.1", address.port(), 128).unwrap();
}

#[test]
fn a_name_that_does_not_resolve_is_named() {
    let text = OsListener::tcp("no-such-host.invalid", 80, 128).unwrap_err().to_string();
    assert!(text.contains("no-such-host.invalid"), "{text}");
}

#[test]
fn a_name_is_resolved() {
    let listener = OsListener::tcp("localhost", 0, 128).unwrap();
    assert!(listener.local_addr().unwrap().ip().is_loopback());
}

#[test]
fn while_new_connections_are_refused_the_queue_is_served_and_attempts_get_no_answer() {
    let (mut listener, address) = tcp();
    let mut queued = TcpStream::connect(address).unwrap();
    listener.refuse_new();

    let attempt = begin_connecting(address);
    // An open listener answers on loopback within microseconds; the filter never lets it.
    assert!(outcome(&attempt, Duration::from_millis(300)).is_none());

    queued.write_all(b"x").unwrap();
    run(async {
        let mut stream = accept(&mut listener).await.io.into_stream().unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        assert!(is_empty(&mut listener).await);
    });

    // The client's next try, a second later, finds a closed port.
    drop(listener);
    let error = outcome(&attempt, PATIENCE).expect("an answer to a repeated SYN").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_handshake_under_way_ends_in_the_queue_though_new_connections_are_refused() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    // The kernel keeps such a handshake open on the server's side until the client's first bytes.
    let seconds: libc::c_int = 20;
    // SAFETY: the option's value is an int that lives across the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
    socket.listen(16).unwrap();
    let mut listener = OsListener::from_fd(socket.into()).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();

    run(async {
        assert!(is_empty(&mut listener).await);
        listener.refuse_new();
        client.write_all(b"x").unwrap();
        let accepted = accept(&mut listener).await;
        assert_eq!(accepted.peer, Some(client.local_addr().unwrap()));
    });
}

#[test]
fn a_socket_of_systemd_takes_connections_after_the_server_that_used_it() {
    use std::os::fd::IntoRawFd;
    // What the service manager holds, and what each service gets of it.
    let kept = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hand_over = || OsListener::inherited(kept.try_clone().unwrap().into_raw_fd()).unwrap();
    let mut first = hand_over();
    first.refuse_new();
    drop(first);

    let attempt = begin_connecting(kept.local_addr().unwrap());
    outcome(&attempt, PATIENCE).expect("an answer to the SYN").unwrap();
    run(accept(&mut hand_over()));
}

#[test]
fn an_ipv6_listener_refuses_new_connections_too() {
    let mut listener = match OsListener::tcp("::1", 0, 128) {
        Ok(listener) => listener,
        Err(error) => return eprintln!("skipped: this machine has no IPv6: {error}"),
    };
    listener.refuse_new();
    let attempt = begin_connecting(listener.local_addr().unwrap());
    assert!(outcome(&attempt, Duration::from_millis(300)).is_none());
}

#[test]
fn a_unix_socket_serves_and_its_file_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pounce.sock");
    let mut listener = OsListener::unix(&path, 128).unwrap();
    assert_eq!(listener.name(), format!("unix:{}", path.display()));
    let mut client = UnixStream::connect(&path).unwrap();
    run(async {
        let accepted = accept(&mut listener).await;
        assert_eq!((accepted.peer, accepted.local), (None, None));
        let mut stream = accepted.io.into_stream().unwrap();
        stream.write_all(b"x").await.unwrap();
    });
    client.read_exact(&mut [0]).unwrap();
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn a_refusing_unix_socket_cannot_be_found_but_serves_its_queue() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pounce.sock");
    let mut listener = OsListener::unix(&path, 128).unwrap();
    let _queued = UnixStream::connect(&path).unwrap();
    listener.refuse_new();
    assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    run(accept(&mut listener));
}

#[test]
fn a_stale_socket_file_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pounce.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _listener = OsListener::unix(&path, 128).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_live_socket_is_not_taken_from_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pounce.sock");
    let other = UnixListener::bind(&path).unwrap();
    let error = OsListener::unix(&path, 128).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    other.set_nonblocking(true).unwrap();
    other.accept().expect("the question whether it lives");
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_live_socket_whose_queue_is_full_is_not_taken_from_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pounce.sock");
    let other = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let address = socket2::SockAddr::unix(&path).unwrap();
    other.bind(&address).unwrap();
    other.listen(0).unwrap();
    let mut clients = Vec::new();
    loop {
        let client =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM.nonblocking(), None).unwrap();
        if client.connect(&address).is_err() {
            break;
        }
        clients.push(client);
    }
    assert_eq!(OsListener::unix(&path, 128).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn a_file_that_is_not_a_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pounce.sock");
    std::fs::write(&path, "precious").unwrap();
    let text = OsListener::unix(&path, 128).unwrap_err().to_string();
    assert!(text.contains("not a socket"), "{text}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_socket_file_that_is_another_server_s_by_now_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pounce.sock");
    let listener = OsListener::unix(&path, 128).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(listener);
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_path_too_long_for_a_socket_says_so() {
    let text = OsListener::unix("/tmp/".to_owned() + &"x".repeat(200), 128).unwrap_err().to_string();
    assert!(text.contains("107 bytes"), "{text}");
}

#[test]
fn an_inherited_socket_is_served() {
    let inherited = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = inherited.local_addr().unwrap();
    let mut listener = OsListener::from_fd(inherited.into()).unwrap();
    let client = TcpStream::connect(address).unwrap();
    let accepted = run(accept(&mut listener));
    assert_eq!(accepted.peer, Some(client.local_addr().unwrap()));
    assert!(SockRef::from(&accepted.io.as_fd()).tcp_nodelay().unwrap());
}

#[test]
fn an_inherited_unix_socket_file_is_left_to_who_made_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("systemd.sock");
    let inherited = UnixListener::bind(&path).unwrap();
    drop(OsListener::from_fd(inherited.into()).unwrap());
    assert!(path.exists());
}

#[test]
fn what_does_not_listen_is_refused_with_the_reason() {
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let udp: OwnedFd = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into();
    let (stream, _other) = UnixStream::pair().unwrap();
    for (fd, reason) in
        [(file, "not a socket"), (udp, "not a stream socket"), (stream.into(), "does not listen")]
    {
        let text = OsListener::from_fd(fd).unwrap_err().to_string();
        assert!(text.contains(reason), "{text}");
    }
}

#[test]
fn a_descriptor_number_that_is_not_open_is_refused() {
    let text = OsListener::bind_str("fd://9999", 128).unwrap_err().to_string();
    assert!(text.contains("fd://9999") && text.contains("no such descriptor is open"), "{text}");
}

#[test]
fn addresses_mean_what_people_write() {
    let tcp = |host: &str, port| BindAddress::Tcp { host: host.to_owned(), port };
    for (text, address, shown) in [
        ("127.0.0.1:8000", tcp("127.0.0.1", 8000), "127.0.0.1:8000"),
        ("[::1]:80", tcp("::1", 80), "[::1]:80"),
        ("localhost:0", tcp("localhost", 0), "localhost:0"),
        (":8000", tcp("0.0.0.0", 8000), "0.0.0.0:8000"),
        ("8000", tcp("127.0.0.1", 8000), "127.0.0.1:8000"),
        ("unix:/run/a.sock", BindAddress::Unix("/run/a.sock".into()), "unix:/run/a.sock"),
        ("unix:///run/a.sock", BindAddress::Unix("/run/a.sock".into()), "unix:/run/a.sock"),
        ("fd://3", BindAddress::Fd(3), "fd://3"),
    ] {
        let parsed: BindAddress = text.parse().unwrap();
        assert_eq!(parsed, address, "{text}");
        assert_eq!(parsed.to_string(), shown);
    }
}

#[test]
fn what_is_not_an_address_is_refused_with_the_reason() {
    for (text, reason) in [
        ("localhost", "port is missing"),
        ("", "port is missing"),
        ("localhost:http", "\"http\" is not a port"),
        ("99999", "\"99999\" is not a port"),
        ("::1:80", "brackets"),
        ("[::1", "`]` is missing"),
        ("[::1]", "port is missing"),
        ("[name]:80", "not an IPv6 address"),
        ("unix:", "path of the socket is missing"),
        ("fd://-1", "descriptor is not a number"),
        ("fd://three", "descriptor is not a number"),
    ] {
        let error = text.parse::<BindAddress>().unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(&format!("{text:?}")), "{error}");
    }
}

#[test]
fn accepting_ends_with_an_error_and_not_in_a_loop_when_descriptors_run_out() {
    // The limit is the process's: in one of its own.
    if std::env::var_os("POUNCE_TEST_ROLE").is_none() {
        let name = "accepting_ends_with_an_error_and_not_in_a_loop_when_descriptors_run_out";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact"])
            .env("POUNCE_TEST_ROLE", "few descriptors")
            .status()
            .unwrap();
        return assert!(status.success());
    }
    let (mut listener, address) = tcp();
    let _client = TcpStream::connect(address).unwrap();
    run(async {
        let highest = std::fs::File::open("/dev/null").unwrap();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let tight = rustix::process::Rlimit { current: Some(highest.as_raw_fd() as u64), ..limit };
        assert!(is_registered(&mut listener).await);
        drop(highest);
        rustix::process::setrlimit(rustix::process::Resource::Nofile, tight).unwrap();
        let error = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        // The connection is still there when there is room again.
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        accept(&mut listener).await;
    });
}

/// Registers the listener with the runtime by taking one connection.
async fn is_registered(listener: &mut OsListener) -> bool {
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    accept(listener).await.local.is_some()
}
