//! The client's side of HTTP/1.1, strict: what is not a complete answer is told apart by how it is not.

use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use pounce_runtime_tokio::listener::Stream;
use tokio::io::ReadBuf;

use crate::net::{ConnId, HostId};

/// How an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The balancer knows no pod.
    NoEndpoint,
    Refused,
    /// No answer to any SYN.
    ConnectTimeout,
    /// An orderly end before the first byte of a response.
    Closed,
    /// A reset before the first byte of a response.
    Reset,
    /// The response began and did not end as it had announced.
    Truncated,
    /// The client lost patience.
    Timeout,
    /// The client went away on purpose.
    GaveUp,
    /// A complete answer that is not a success.
    Status(u16),
    /// An answer that no server of ours may give.
    Wrong(String),
}

/// The head of an answer whose body is still to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerHead {
    pub status: u16,
    /// It announced the connection's end.
    pub close: bool,
    /// Length of the body, unless it is chunked.
    length: Option<u64>,
    chunked: bool,
}

/// A complete answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// It announced the connection's end.
    pub close: bool,
    pub body: u64,
    /// Every byte of the body was this one.
    pub fill: Option<u8>,
}

/// A client's connection.
#[derive(Debug)]
pub struct HttpConn<St> {
    pub stream: St,
    pub conn: Option<ConnId>,
    pub pod: HostId,
    /// Responses read on it.
    pub answers: u32,
    /// Bytes written to it.
    pub sent: u64,
    buf: Vec<u8>,
    /// Bytes read since the last rest.
    since_rest: usize,
}

impl<St: Stream> HttpConn<St> {
    pub fn new(stream: St, conn: Option<ConnId>, pod: HostId) -> HttpConn<St> {
        HttpConn { stream, conn, pod, answers: 0, sent: 0, buf: Vec::new(), since_rest: 0 }
    }

    /// # Errors
    /// The connection is over.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let stream = &mut self.stream;
            let written = std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, bytes)).await;
            match written {
                Ok(written) => {
                    self.sent += written as u64;
                    bytes = &bytes[written..];
                }
                Err(_) => return Err(Failure::Reset),
            }
        }
        Ok(())
    }

    async fn fill(&mut self, most: usize) -> io::Result<usize> {
        let (stream, buf) = (&mut self.stream, &mut self.buf);
        std::future::poll_fn(|cx| {
            let mut space = vec![0; most];
            let mut read = ReadBuf::new(&mut space);
            match Pin::new(&mut *stream).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) => {
                    buf.extend_from_slice(read.filled());
                    Poll::Ready(Ok(read.filled().len()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Reads one answer; after each `piece` bytes of its body it rests for `pause`.
    ///
    /// # Errors
    /// The answer is not whole, or not one that a server may give.
    pub async fn read_answer(&mut self, piece: usize, pause: Duration) -> Result<Answer, Failure> {
        let head = self.read_head(piece).await?;
        self.read_body(head, piece, pause).await
    }

    /// Reads the head of an answer. At most `piece` bytes at a time.
    ///
    /// # Errors
    /// As [`HttpConn::read_answer`].
    pub async fn read_head(&mut self, piece: usize) -> Result<AnswerHead, Failure> {
        let head = loop {
            if let Some(end) = find(&self.buf, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buf[..end]).into_owned();
                self.buf.drain(..end + 4);
                if head.starts_with("HTTP/1.1 100") {
                    continue;
                }
                break head;
            }
            let begun = !self.buf.is_empty();
            match self.fill(piece).await {
                Ok(0) if begun => return Err(Failure::Truncated),
                Ok(0) => return Err(Failure::Closed),
                Ok(_) => {}
                Err(_) if begun => return Err(Failure::Truncated),
                Err(_) => return Err(Failure::Reset),
            }
        };
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 "))
            .and_then(|line| line.get(..3))
            .and_then(|code| code.parse::<u16>().ok())
            .ok_or_else(|| Failure::Wrong(format!("not a status line: {head:?}")))?;
        let (mut length, mut chunked, mut close) = (None, false, false);
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let (name, value) = (name.to_ascii_lowercase(), value.trim().to_ascii_lowercase());
            match name.as_str() {
                "content-length" => length = value.parse::<u64>().ok(),
                "transfer-encoding" => chunked = value.contains("chunked"),
                "connection" => close = value.contains("close"),
                _ => {}
            }
        }
        Ok(AnswerHead { status, close, length, chunked })
    }

    /// Reads the body that belongs to `head`, as [`HttpConn::read_answer`].
    ///
    /// # Errors
    /// As [`HttpConn::read_answer`].
    pub async fn read_body(
        &mut self,
        head: AnswerHead,
        piece: usize,
        pause: Duration,
    ) -> Result<Answer, Failure> {
        let AnswerHead { status, close, length, chunked } = head;
        let mut body = Filled::default();
        if chunked {
            loop {
                let line = self.line(piece, pause).await?;
                let size = u64::from_str_radix(line.trim(), 16)
                    .map_err(|_| Failure::Wrong(format!("not a chunk size: {line:?}")))?;
                self.body(size, &mut body, piece, pause).await?;
                if self.line(piece, pause).await?.trim() != "" {
                    return Err(Failure::Wrong("a chunk without its end".to_owned()));
                }
                if size == 0 {
                    break;
                }
            }
        } else {
            let length = length.ok_or_else(|| Failure::Wrong("a body without a framing".to_owned()))?;
            self.body(length, &mut body, piece, pause).await?;
        }
        self.answers += 1;
        Ok(Answer { status, close, body: body.bytes, fill: body.fill.filter(|_| !body.mixed) })
    }

    async fn more(&mut self, piece: usize, pause: Duration) -> Result<(), Failure> {
        if self.since_rest >= piece {
            self.since_rest = 0;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        match self.fill(piece - self.since_rest).await {
            Ok(0) | Err(_) => Err(Failure::Truncated),
            Ok(read) => {
                self.since_rest += read;
                Ok(())
            }
        }
    }

    async fn line(&mut self, piece: usize, pause: Duration) -> Result<String, Failure> {
        loop {
            if let Some(end) = find(&self.buf, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buf[..end]).into_owned();
                self.buf.drain(..end + 2);
                return Ok(line);
            }
            self.more(piece, pause).await?;
        }
    }

    async fn body(
        &mut self,
        mut length: u64,
        into: &mut Filled,
        piece: usize,
        pause: Duration,
    ) -> Result<(), Failure> {
        while length > 0 {
            if self.buf.is_empty() {
                self.more(piece, pause).await?;
            }
            let take = (self.buf.len() as u64).min(length);
            into.take(&self.buf[..take as usize]);
            self.buf.drain(..take as usize);
            length -= take;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Filled {
    bytes: u64,
    fill: Option<u8>,
    mixed: bool,
}

impl Filled {
    fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        for byte in bytes {
            self.mixed |= *self.fill.get_or_insert(*byte) != *byte;
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
