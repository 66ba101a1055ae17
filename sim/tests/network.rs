//! The network that everything is simulated on, by itself: what production relies on of a TCP, the pump's own part included.

use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use pounce_runtime_tokio::listener::{Listener, Socket, Stream};
use sim::net::SimNet;
use sim::networks::turmoil_net::{NetListener, NetStream, TurmoilNet};
use sim::platform::FIRST_POD;
use sim::scenario::{Dist, Profile, Scenario};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const LATENCY_MS: u64 = 10;

/// Runs `test` on a network where every way takes as long.
fn on_a_network<F: Future<Output = ()>>(test: impl FnOnce(TurmoilNet) -> F) {
    let mut scenario = Scenario::draw_as(Profile::Lite, 1);
    scenario.network.latency = Dist::Fixed { ms: LATENCY_MS };
    let net = TurmoilNet::new(&scenario);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("it needs nothing");
    runtime.block_on(async {
        tokio::spawn(net.pump());
        test(net.clone()).await;
    });
    drop(runtime);
    net.end();
}

async fn accept(listener: &mut NetListener) -> NetStream {
    let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.expect("a connection");
    accepted.io.into_stream().expect("it is a stream already")
}

async fn pair(net: &TurmoilNet) -> (NetListener, NetStream, NetStream) {
    let mut listener = net.bind(FIRST_POD).await.expect("a free port");
    let client = net.connect(1, FIRST_POD).await.expect("somebody listens");
    let server = accept(&mut listener).await;
    (listener, client, server)
}

async fn read(stream: &mut NetStream) -> Result<usize, ErrorKind> {
    stream.read(&mut [0; 1024]).await.map_err(|error| error.kind())
}

async fn later() {
    tokio::time::sleep(Duration::from_millis(10 * LATENCY_MS)).await;
}

#[test]
fn a_response_that_is_cut_ends_with_a_reset() {
    on_a_network(|net| async move {
        let (_listener, mut client, mut server) = pair(&net).await;
        server.write_all(b"half").await.expect("there is room");
        server.reset_on_drop();
        drop(server);
        later().await;
        assert_eq!(read(&mut client).await, Err(ErrorKind::ConnectionReset));
        let ended = net
            .conn(&client)
            .and_then(|conn| net.facts(conn))
            .and_then(|facts| facts.ended)
            .expect("it ended");
        assert!(ended.reset);
    });
}

#[test]
fn bytes_for_a_server_that_has_closed_destroy_its_last_answer() {
    on_a_network(|net| async move {
        let (_listener, mut client, mut server) = pair(&net).await;
        server.write_all(b"an answer").await.expect("there is room");
        drop(server);
        client.write_all(b"more").await.expect("there is room");
        later().await;
        assert_eq!(read(&mut client).await, Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn bytes_for_a_client_that_has_left_end_the_servers_side() {
    on_a_network(|net| async move {
        let (_listener, client, mut server) = pair(&net).await;
        drop(client);
        later().await;
        assert_eq!(read(&mut server).await, Ok(0));
        server.write_all(b"an answer").await.expect("there is room");
        later().await;
        assert_eq!(read(&mut server).await, Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn a_close_with_unread_bytes_is_a_reset_and_one_without_is_none() {
    on_a_network(|net| async move {
        let (mut listener, mut client, server) = pair(&net).await;
        client.write_all(b"unread").await.expect("there is room");
        later().await;
        drop(server);
        assert_eq!(read(&mut client).await, Err(ErrorKind::ConnectionReset));
        let mut client = net.connect(1, FIRST_POD).await.expect("somebody listens");
        drop(accept(&mut listener).await);
        assert_eq!(read(&mut client).await, Ok(0));
    });
}

#[test]
fn what_waits_in_the_accept_queue_is_reset_with_its_listener() {
    on_a_network(|net| async move {
        let listener = net.bind(FIRST_POD).await.expect("a free port");
        let mut client = net.connect(1, FIRST_POD).await.expect("it is queued");
        later().await;
        drop(listener);
        assert_eq!(read(&mut client).await, Err(ErrorKind::ConnectionReset));
        let refused = net.connect(1, FIRST_POD).await.map_err(|error| error.kind());
        assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused));
    });
}

#[test]
fn a_syn_that_is_dropped_comes_again_after_a_second_and_is_refused_then() {
    on_a_network(|net| async move {
        let mut listener = net.bind(FIRST_POD).await.expect("a free port");
        listener.refuse_new();
        let begin = Instant::now();
        let connect = tokio::spawn({
            let net = net.clone();
            async move { net.connect(1, FIRST_POD).await.map(|_| ()).map_err(|error| error.kind()) }
        });
        later().await;
        drop(listener);
        assert_eq!(connect.await.expect("no panic"), Err(ErrorKind::ConnectionRefused));
        assert_eq!(begin.elapsed(), Duration::from_millis(1000 + 2 * LATENCY_MS));
    });
}

#[test]
fn nobody_waits_for_ever_for_an_answer_to_a_syn() {
    on_a_network(|net| async move {
        let mut listener = net.bind(FIRST_POD).await.expect("a free port");
        listener.refuse_new();
        let error = net.connect(1, FIRST_POD).await.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    });
}
