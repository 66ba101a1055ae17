//! A Rust service with the drain of pounce:
//!
//! ```text
//! cargo run --release -p pounce-runtime-tokio --example rust_service
//! ```

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use pounce_runtime_tokio::{RequestBody, Server, logging};

async fn hello(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = format!("Hello from Rust, {}\n", request.uri().path());
    Ok(Response::new(Full::new(Bytes::from(text))))
}

fn main() -> std::io::Result<()> {
    logging::init(logging::Format::Text, logging::Level::Info);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let code = runtime.block_on(async {
        let server = Server::bind(&address)?;
        if let Some(address) = server.local_addr() {
            eprintln!("serving at http://{address}");
        }
        std::io::Result::Ok(server.serve(service_fn(hello)).await)
    })?;
    std::process::exit(code)
}
