//! A request that is on the wire when the drain begins is answered: the cases in which hyper's own graceful shutdown
//! loses one, over an in-memory pipe and over loopback TCP.
//!
//! To see these fail, let `Wire::read_blocked` return an end whenever the connection may end, or `Connection::
//! on_response_head` announce the close although a pipelined request is there.

mod support;

use std::time::Duration;

use pounce_core::event::Signal;
use pounce_core::policy::Policy;
use pounce_runtime_tokio::ServeOptions;
use pounce_runtime_tokio::os::listener::OsListener;
use support::{Pipe, Queue, policy, serve};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

/// Runs `case` over both kinds of connection, at an idle server whose signals it sends.
async fn over_both<F>(policy: Policy, case: F)
where
    F: AsyncFn(&mut dyn Wire, &dyn Fn()),
{
    let pipes = Queue::<Pipe>::default();
    let (mut client, end) = tokio::io::duplex(64 * 1024);
    let server = serve(pipes.clone(), policy, ServeOptions::default()).await;
    pipes.put(Pipe(end));
    case(&mut client, &|| server.signals.put(Signal::Term)).await;
    assert_eq!(within(server.exit).await.unwrap(), 0, "in memory");

    let listener = OsListener::tcp("127.0.0.1", 0, 16).unwrap();
    let address = listener.local_addr().unwrap();
    let server = serve(listener, policy, ServeOptions::default()).await;
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    case(&mut client, &|| server.signals.put(Signal::Term)).await;
    assert_eq!(within(server.exit).await.unwrap(), 0, "over TCP");
}

trait Wire: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it ends")
}

/// Everything that the server sends until it closes.
async fn rest(client: &mut dyn Wire) -> String {
    let mut bytes = Vec::new();
    within(client.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

/// One response without `Connection: close`, to its last byte.
async fn response(client: &mut dyn Wire, last: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(last.as_bytes()) {
        let read = within(client.read_buf(&mut bytes)).await.unwrap();
        assert_ne!(read, 0, "the connection ended after {:?}", String::from_utf8_lossy(&bytes));
    }
    String::from_utf8(bytes).unwrap()
}

fn assert_answered(text: &str, body: &str) {
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text:?}");
    assert!(text.contains("connection: close\r\n"), "{text:?}");
    assert!(text.ends_with(body), "{text:?}");
}

/// Lets the server read what was sent, and be about to wait.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn a_whole_request_unread_on_a_fresh_connection_is_answered() {
    over_both(Policy::default(), async |client, drain| {
        client.write_all(GET).await.unwrap();
        drain();
        assert_answered(&rest(client).await, "GET /a ");
    })
    .await;
}

#[tokio::test]
async fn half_a_head_on_a_fresh_connection_is_answered_when_the_rest_comes() {
    over_both(Policy::default(), async |client, drain| {
        client.write_all(&GET[..10]).await.unwrap();
        a_moment().await;
        drain();
        // Longer than the linger: a head under way is a request under way.
        tokio::time::sleep(Duration::from_millis(800)).await;
        client.write_all(&GET[10..]).await.unwrap();
        assert_answered(&rest(client).await, "GET /a ");
    })
    .await;
}

#[tokio::test]
async fn the_next_request_unread_on_an_idle_connection_is_answered() {
    over_both(Policy::default(), async |client, drain| {
        client.write_all(GET).await.unwrap();
        response(client, "GET /a ").await;
        client.write_all(GET).await.unwrap();
        drain();
        // Whether it is read before or after the drain begins is the scheduler's affair; that it is answered is ours.
        assert!(rest(client).await.ends_with("GET /a "));
    })
    .await;
}

#[tokio::test]
async fn half_of_the_next_head_is_answered_when_the_rest_comes() {
    over_both(Policy::default(), async |client, drain| {
        client.write_all(GET).await.unwrap();
        response(client, "GET /a ").await;
        client.write_all(&GET[..20]).await.unwrap();
        a_moment().await;
        drain();
        tokio::time::sleep(Duration::from_millis(800)).await;
        client.write_all(&GET[20..]).await.unwrap();
        assert_answered(&rest(client).await, "GET /a ");
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_linger_and_not_before() {
    over_both(policy(|p| p.keepalive_linger = 0.4), async |client, drain| {
        client.write_all(GET).await.unwrap();
        response(client, "GET /a ").await;
        a_moment().await;
        drain();
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.write_all(GET).await.unwrap();
        assert_answered(&rest(client).await, "GET /a ");
    })
    .await;
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_with_an_orderly_end() {
    over_both(policy(|p| p.keepalive_linger = 0.1), async |client, drain| {
        a_moment().await;
        drain();
        assert_eq!(rest(client).await, "");
    })
    .await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_the_last_announces_the_close() {
    over_both(Policy::default(), async |client, drain| {
        client.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nxyz").await.unwrap();
        client.write_all(GET).await.unwrap();
        a_moment().await;
        drain();
        let text = rest(client).await;
        assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{text:?}");
        assert_eq!(text.matches("connection: close\r\n").count(), 1, "{text:?}");
        assert!(text.contains("POST /b xyz"), "{text:?}");
        assert_answered(&text, "GET /a ");
    })
    .await;
}

#[tokio::test]
async fn a_request_pipelined_after_a_chunked_body_is_answered_too() {
    over_both(Policy::default(), async |client, drain| {
        let chunked = b"POST /slow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n";
        client.write_all(chunked).await.unwrap();
        a_moment().await;
        drain();
        let text = rest(client).await;
        assert!(text.contains("POST /slow abc"), "{text:?}");
        assert!(text.ends_with("GET /a "), "{text:?}");
    })
    .await;
}

#[tokio::test]
async fn requests_pipelined_after_a_chunked_body_are_answered_whatever_their_bodies() {
    over_both(Policy::default(), async |client, drain| {
        let chunked =
            "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let trailers = chunked.replace("0\r\n\r\n", "00;a=b\r\nX-T: c\r\n\r\n");
        let length = "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
        let first = chunked.replace("/b", "/slow");
        let all = [&first, chunked, &trailers, length, length, chunked, chunked].concat();
        client.write_all(all.as_bytes()).await.unwrap();
        a_moment().await;
        drain();
        let text = rest(client).await;
        assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 7, "{text:?}");
        assert_eq!(text.matches("connection: close\r\n").count(), 1, "{text:?}");
        assert!(text.ends_with("POST /b abc"), "{text:?}");
    })
    .await;
}

#[tokio::test]
async fn after_a_chunked_body_with_trailers_no_further_request_is_waited_for() {
    over_both(Policy::default(), async |client, drain| {
        let chunked =
            b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: c\r\n\r\n";
        client.write_all(chunked).await.unwrap();
        response(client, "POST /b abc").await;
        drain();
        assert_eq!(rest(client).await, "", "an orderly end, not a 408 after header_timeout");
    })
    .await;
}

#[tokio::test]
async fn a_client_that_only_closed_its_sending_side_gets_its_answer() {
    over_both(Policy::default(), async |client, drain| {
        client.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        a_moment().await;
        drain();
        assert!(rest(client).await.ends_with("GET /slow "));
    })
    .await;
}

#[tokio::test]
async fn a_body_half_sent_at_the_drain_is_completed() {
    over_both(Policy::default(), async |client, drain| {
        client.write_all(b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc").await.unwrap();
        a_moment().await;
        drain();
        tokio::time::sleep(Duration::from_millis(800)).await;
        client.write_all(b"def").await.unwrap();
        assert_answered(&rest(client).await, "POST /b abcdef");
    })
    .await;
}
