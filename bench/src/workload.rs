//! What is asked of a server, and what it must answer.

use std::fmt::Write as _;

/// One kind of load.
#[derive(Clone, Debug)]
pub struct Workload {
    /// As on the command line.
    pub name: &'static str,
    /// As in the table.
    pub title: &'static str,
    /// `module:attribute` of the Python application.
    pub application: &'static str,
    /// The path for servers that have all workloads in one: bare hyper.
    pub path: &'static str,
    /// The path of `pounce demo` that gives the same bytes, if it has one.
    pub demo_path: Option<&'static str>,
    /// Everything after the path.
    rest_of_request: Vec<u8>,
    method: &'static str,
    /// Length of the response body in bytes.
    pub response_bytes: u64,
    /// The whole response body, where it is short.
    pub response_body: Option<Vec<u8>>,
    /// Units in one response body.
    pub units_per_response: u64,
    /// Each request has a connection of its own.
    pub reconnect: bool,
}

/// In `apps/bench_app.py` too.
const HELLO: &[u8] = b"Hello from pounce\n";
const CHUNKS: u64 = 2_000;
const CHUNK_BYTES: u64 = 100;
const UPLOAD_BYTES: usize = 1024 * 1024;

impl Workload {
    /// All of them, in the order of the table.
    pub fn all() -> Vec<Workload> {
        let simple = Workload {
            name: "hello",
            title: "hello",
            application: "bench_app:hello",
            path: "/",
            demo_path: Some("/"),
            rest_of_request: b" HTTP/1.1\r\nhost: bench\r\n\r\n".to_vec(),
            method: "GET",
            response_bytes: HELLO.len() as u64,
            response_body: Some(HELLO.to_vec()),
            units_per_response: 1,
            reconnect: false,
        };
        let document = json_document();
        let upload = format!(" HTTP/1.1\r\nhost: bench\r\ncontent-length: {UPLOAD_BYTES}\r\n\r\n");
        let uploaded = format!("{UPLOAD_BYTES}\n").into_bytes();
        vec![
            simple.clone(),
            Workload {
                name: "echo",
                title: "20 headers, 1 KB JSON echo",
                application: "bench_app:echo",
                path: "/echo",
                demo_path: Some("/echo"),
                method: "POST",
                rest_of_request: echo_request(&document),
                response_bytes: document.len() as u64,
                response_body: Some(document),
                ..simple.clone()
            },
            Workload {
                name: "sleep",
                title: "`asyncio.sleep(0.001)`",
                application: "bench_app:sleep",
                path: "/sleep",
                demo_path: None,
                ..simple.clone()
            },
            Workload {
                name: "starlette",
                title: "Starlette, one route",
                application: "starlette_app:app",
                demo_path: None,
                ..simple.clone()
            },
            Workload {
                name: "large",
                title: "100 KB response",
                application: "bench_app:large",
                path: "/large",
                demo_path: None,
                response_bytes: 102_400,
                response_body: None,
                ..simple.clone()
            },
            Workload {
                name: "upload",
                title: "1 MB upload",
                application: "bench_app:upload",
                path: "/upload",
                demo_path: None,
                method: "POST",
                rest_of_request: [upload.into_bytes(), vec![b'u'; UPLOAD_BYTES]].concat(),
                response_bytes: uploaded.len() as u64,
                response_body: Some(uploaded),
                ..simple.clone()
            },
            Workload {
                name: "connect",
                title: "new connection per request",
                rest_of_request: b" HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n".to_vec(),
                reconnect: true,
                ..simple.clone()
            },
            Workload {
                name: "stream",
                title: "stream of 100-byte chunks",
                application: "bench_app:stream",
                path: "/stream",
                demo_path: None,
                response_bytes: CHUNKS * CHUNK_BYTES,
                response_body: None,
                units_per_response: CHUNKS,
                ..simple
            },
        ]
    }

    /// The request's bytes.
    pub fn request(&self, path: &str) -> Vec<u8> {
        [self.method.as_bytes(), b" ", path.as_bytes(), &self.rest_of_request].concat()
    }
}

/// 1 KB that `json.dumps` writes as it is here.
fn json_document() -> Vec<u8> {
    let mut text = String::from(r#"{"id":12345,"name":"pounce","tags":["a","b","c"],"items":["#);
    for i in 0..20 {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(text, r#"{comma}{{"sku":"SKU-{i:04}","count":{i},"price":1.5}}"#);
    }
    text.push_str(r#"],"note":""#);
    while text.len() < 1022 {
        text.push('n');
    }
    text.push_str("\"}");
    text.into_bytes()
}

fn echo_request(document: &[u8]) -> Vec<u8> {
    let mut head = format!(
        " HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
         accept: application/json, text/plain;q=0.9, */*;q=0.8\r\naccept-language: en-US,en;q=0.5\r\n\
         accept-encoding: gzip, deflate, br, zstd\r\nreferer: https://shop.example/basket\r\n\
         origin: https://shop.example\r\ncookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
         authorization: Bearer 0123456789abcdef0123456789abcdef\r\nsec-fetch-dest: empty\r\n\
         sec-fetch-mode: cors\r\nsec-fetch-site: same-origin\r\npriority: u=0\r\ncache-control: no-cache\r\n",
        document.len(),
    );
    let so_far = head.matches("\r\n").count() - 1;
    for i in so_far..20 {
        let _ = write!(head, "x-forwarded-{i}: 203.0.113.{i}\r\n");
    }
    head.push_str("\r\n");
    [head.as_bytes(), document].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_echo_request_has_20_fields_and_1_kb() {
        let workload = Workload::all().into_iter().find(|w| w.name == "echo").unwrap();
        let request = workload.request("/echo");
        let end = memchr::memmem::find(&request, b"\r\n\r\n").unwrap();
        assert_eq!(memchr::memchr_iter(b'\n', &request[..end]).count(), 20);
        assert_eq!(request.len() - end - 4, 1024);
        assert_eq!(workload.response_bytes, 1024);
    }
}
