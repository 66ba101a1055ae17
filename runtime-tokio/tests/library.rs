//! Rust services in this process: hyper's and tower's, with the same drain.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use pounce_runtime_tokio::{RequestBody, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn slow_hello(_request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}

/// Sends a request, then this process a SIGTERM while it runs; the answer and the exit code.
async fn across_sigterm(server: Server, serve: impl AsyncFnOnce(Server) -> i32) -> (String, i32) {
    let address = server.local_addr().unwrap();
    let client = async {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        text
    };
    let both = async { tokio::join!(client, serve(server)) };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("it ends")
}

/// One test, one after the other: a SIGTERM reaches every server of this process.
#[tokio::test]
async fn hyper_and_tower_services_finish_what_they_have_at_sigterm() {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let hyper = async |server: Server| server.serve(hyper::service::service_fn(slow_hello)).await;
    let (text, code) = across_sigterm(server, hyper).await;
    assert!(text.ends_with("hello"), "{text:?}");
    assert_eq!(code, 0);

    let server = Server::bind("127.0.0.1:0").unwrap();
    let service = hyper_util::service::TowerToHyperService::new(tower::service_fn(slow_hello));
    let (text, code) = across_sigterm(server, async |server: Server| server.serve(service).await).await;
    assert!(text.ends_with("hello"), "{text:?}");
    assert_eq!(code, 0);
}
