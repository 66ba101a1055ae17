//! What turmoil-net lacks and the pump of `sim::networks::turmoil_net` does in its place, shown on turmoil-net alone. A test here that
//! fails says that turmoil-net has learned it: take the stand-in out of the pump.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use turmoil_net::shim::tokio::net::{TcpListener, TcpStream};
use turmoil_net::{EnterGuard, HostId, Net, Packet, Transport};

/// A server's stack and a client's, and a wire without latency.
struct Two {
    stacks: EnterGuard,
    server: HostId,
    client: HostId,
}

fn server() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 8000))
}

fn poll<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn now<T>(future: impl Future<Output = io::Result<T>>) -> T {
    match poll(future) {
        Poll::Ready(result) => result.expect("it works"),
        Poll::Pending => panic!("it should not have to wait"),
    }
}

impl Two {
    fn new() -> Two {
        let mut net = Net::new();
        let (server, client) = (net.add_host("10.0.0.1"), net.add_host("10.0.0.2"));
        Two { stacks: net.enter(), server, client }
    }

    /// What the stacks have to say now.
    fn produced(&self) -> Vec<Packet> {
        let mut packets = Vec::new();
        self.stacks.egress_all(&mut packets);
        packets
    }

    /// Carries packets until nobody has anything to say.
    fn settle(&self) {
        loop {
            let packets = self.produced();
            if packets.is_empty() {
                return;
            }
            packets.into_iter().for_each(|packet| self.stacks.deliver(packet));
        }
    }

    /// A listener, and both sides of a connection to it.
    fn connected(&self) -> (TcpListener, TcpStream, TcpStream) {
        self.stacks.set_current(self.server);
        let listener = now(TcpListener::bind(server()));
        self.stacks.set_current(self.client);
        let mut connect = Box::pin(TcpStream::connect(server()));
        assert!(poll(connect.as_mut()).is_pending());
        self.settle();
        self.stacks.set_current(self.client);
        let client = now(connect);
        self.stacks.set_current(self.server);
        let (accepted, _) = now(listener.accept());
        (listener, client, accepted)
    }

    /// Sockets have to be closed on their own hosts.
    fn close<T>(&self, host: HostId, socket: T) {
        self.stacks.set_current(host);
        drop(socket);
        self.settle();
    }
}

/// Stands where tokio has `SO_LINGER`. A method of the stream's own would be called in its place, and not compile.
trait NoLinger {
    fn set_linger(&self, _: Option<Duration>) -> Missing {
        Missing
    }

    fn set_zero_linger(&self) -> Missing {
        Missing
    }
}

impl NoLinger for TcpStream {}

#[derive(Debug, PartialEq)]
struct Missing;

#[test]
fn it_cannot_reset_a_connection_on_purpose() {
    let two = Two::new();
    let (listener, client, accepted) = two.connected();
    assert_eq!(accepted.set_linger(Some(Duration::ZERO)), Missing);
    assert_eq!(accepted.set_zero_linger(), Missing);
    two.stacks.set_current(two.server);
    accepted.try_write(b"half an ans").expect("there is room");
    two.close(two.server, accepted);
    two.stacks.set_current(two.client);
    let mut bytes = [0; 64];
    assert_eq!(client.try_read(&mut bytes).expect("the bytes"), 11);
    assert_eq!(client.try_read(&mut bytes).expect("an orderly end"), 0);
    two.close(two.client, client);
    two.close(two.server, listener);
}

#[test]
fn it_takes_bytes_for_a_socket_that_is_closed() {
    let two = Two::new();
    let (listener, client, accepted) = two.connected();
    two.close(two.server, accepted);
    two.stacks.set_current(two.client);
    client.try_write(b"GET / HTTP/1.1\r\n").expect("there is room");
    two.settle();
    two.stacks.set_current(two.client);
    // Linux has sent a reset by now, which destroys whatever this side has not read yet.
    assert_eq!(client.try_read(&mut [0; 64]).expect("no reset"), 0);
    two.close(two.client, client);
    two.close(two.server, listener);
}

#[test]
fn it_sends_a_lost_syn_again_by_count_and_not_by_time() {
    let two = Two::new();
    two.stacks.set_current(two.client);
    let mut connect = Box::pin(TcpStream::connect(server()));
    assert!(poll(connect.as_mut()).is_pending());
    let syn = |packets: Vec<Packet>| {
        packets.iter().any(|packet| matches!(&packet.payload, Transport::Tcp(segment) if segment.flags.syn))
    };
    assert!(syn(two.produced()));
    // No time has passed.
    assert!((0..10).any(|_| syn(two.produced())));
    two.close(two.client, connect);
}

#[test]
fn it_never_opens_a_window_again_that_is_read_in_small_pieces() {
    let two = Two::new();
    let (listener, client, accepted) = two.connected();
    two.stacks.set_current(two.client);
    let mut sent = 0;
    while let Ok(written) = client.try_write(&[b'.'; 16 * 1024]) {
        sent += written;
        two.settle();
        two.stacks.set_current(two.client);
        assert!(sent < 1024 * 1024, "no window at all");
    }
    let mut read = 0;
    for _ in 0..1000 {
        two.stacks.set_current(two.server);
        if let Ok(bytes) = accepted.try_read(&mut [0; 4096]) {
            read += bytes;
        }
        two.settle();
    }
    assert!(read < sent, "all of {sent} bytes came, {read} were read");
    two.close(two.client, client);
    two.close(two.server, (accepted, listener));
}

#[test]
fn it_cannot_listen_again_while_a_connection_of_the_server_before_lives() {
    let two = Two::new();
    let (listener, client, accepted) = two.connected();
    two.close(two.server, listener);
    two.stacks.set_current(two.server);
    let again = poll(TcpListener::bind(server()));
    assert!(matches!(again, Poll::Ready(Err(error)) if error.kind() == ErrorKind::AddrInUse));
    two.close(two.client, client);
    two.close(two.server, accepted);
}
