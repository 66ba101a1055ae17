//! Builds the bytes of a request. Nothing is checked: tests send wrong ones on purpose.

/// One HTTP/1.1 request.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    None,
    Sized(Vec<u8>),
    Chunked(Vec<Vec<u8>>),
}

impl Request {
    /// A request without a body. `Host: pounce.test` is added unless [`Request::header`] sets another.
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), headers: Vec::new(), body: Body::None }
    }

    /// `GET target`.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// `HEAD target`.
    pub fn head(target: &str) -> Self {
        Self::new("HEAD", target)
    }

    /// `POST target` with a body and its `Content-Length`.
    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Body::Sized(body.into()), ..Self::new("POST", target) }
    }

    /// `POST target` with `Transfer-Encoding: chunked`.
    pub fn post_chunked(target: &str, chunks: &[&[u8]]) -> Self {
        let chunks = chunks.iter().map(|c| c.to_vec()).collect();
        Self { body: Body::Chunked(chunks), ..Self::new("POST", target) }
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// `Connection: close`.
    #[must_use]
    pub fn close(self) -> Self {
        self.header("Connection", "close")
    }

    /// The method, which the reader of the response must know (HEAD).
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The target, for labels.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Request line and header section, with the empty line.
    pub fn encode_head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str("Host: pounce.test\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match &self.body {
            Body::None => {}
            Body::Sized(body) => head.push_str(&format!("Content-Length: {}\r\n", body.len())),
            Body::Chunked(_) => head.push_str("Transfer-Encoding: chunked\r\n"),
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// The body as it goes over the wire, chunk framing included.
    pub fn encode_body(&self) -> Vec<u8> {
        match &self.body {
            Body::None => Vec::new(),
            Body::Sized(body) => body.clone(),
            Body::Chunked(chunks) => {
                let mut wire = Vec::new();
                for chunk in chunks {
                    wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    wire.extend_from_slice(chunk);
                    wire.extend_from_slice(b"\r\n");
                }
                wire.extend_from_slice(b"0\r\n\r\n");
                wire
            }
        }
    }

    /// The whole request.
    pub fn encode(&self) -> Vec<u8> {
        let mut wire = self.encode_head();
        wire.extend_from_slice(&self.encode_body());
        wire
    }
}
