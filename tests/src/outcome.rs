//! What became of one request, seen from the client's side of the socket.

use std::fmt;

/// A complete response: its framing (RFC 9112 §6) says that nothing is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code of the final response.
    pub status: u16,
    /// Header fields in wire order; names as sent, values without surrounding white space.
    pub headers: Vec<(String, String)>,
    /// The content, chunk framing removed.
    pub body: Vec<u8>,
    /// Status codes of the interim (1xx) responses that came first.
    pub interim: Vec<u16>,
    /// The server said that this response is the last on the connection.
    pub connection_close: bool,
    /// The end of the body is told by the end of the connection, so that a cut could not be noticed.
    pub ends_with_connection: bool,
}

impl Answer {
    /// The first header field called `name` (any case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The body as text, for messages and comparisons.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is not JSON: the test that asked for it has failed.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("the body is not JSON ({e}): {:?}", self.text()))
    }
}

/// What became of one request. Only the first two are acceptable to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A complete response arrived.
    Answered(Answer),
    /// Nothing was sent: the server refused the connection, or had closed the kept-alive connection with FIN
    /// strictly before the first byte of this request was written. A client may always retry.
    RefusedBeforeSending(Refusal),
    /// The request was sent (wholly or in part) and the connection ended cleanly without a byte of response.
    Unanswered {
        /// Bytes of the request that the kernel took.
        sent: usize,
    },
    /// The response began and ended short.
    Truncated {
        /// Bytes of the response that arrived, head included.
        received: usize,
        /// What was missing.
        missing: String,
    },
    /// The connection was reset (`ECONNRESET`, `EPIPE`).
    Reset {
        /// Bytes of the request that the kernel took.
        sent: usize,
        /// Bytes of the response that arrived before.
        received: usize,
    },
    /// Nothing (more) came in time.
    TimedOut {
        /// Bytes of the request that the kernel took; 0 if even the connection was not established.
        sent: usize,
        /// Bytes of the response that arrived.
        received: usize,
    },
    /// What arrived is not an HTTP/1.1 response, or not the one that was asked for.
    Malformed(String),
}

/// How a request was refused before it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `ECONNREFUSED`, or the Unix socket's path does not exist.
    Connect,
    /// FIN on the idle connection.
    ClosedWhileIdle,
}

impl Outcome {
    /// The answer.
    ///
    /// # Panics
    /// If the request was not answered.
    #[track_caller]
    pub fn answer(self) -> Answer {
        match self {
            Self::Answered(answer) => answer,
            other => panic!("expected an answer, the request was {other}"),
        }
    }

    /// The answer, which must have this status.
    ///
    /// # Panics
    /// If the request was not answered, or with another status.
    #[track_caller]
    pub fn status(self, status: u16) -> Answer {
        let answer = self.answer();
        assert_eq!(answer.status, status, "status of {:?} with body {:?}", answer.headers, answer.text());
        answer
    }

    /// The request reached the server, or might have, and has no complete answer.
    pub fn is_lost(&self) -> bool {
        !matches!(self, Self::Answered(_) | Self::RefusedBeforeSending(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(a) => write!(f, "answered {} ({} bytes of body)", a.status, a.body.len()),
            Self::RefusedBeforeSending(Refusal::Connect) => write!(f, "refused: could not connect"),
            Self::RefusedBeforeSending(Refusal::ClosedWhileIdle) => {
                write!(f, "refused: the idle connection was closed before the request was sent")
            }
            Self::Unanswered { sent } => {
                write!(f, "UNANSWERED: {sent} bytes sent, clean end, not a byte back")
            }
            Self::Truncated { received, missing } => {
                write!(f, "TRUNCATED: {received} bytes of the response arrived, missing: {missing}")
            }
            Self::Reset { sent, received } => {
                write!(f, "RESET: {sent} bytes sent, {received} bytes of the response arrived")
            }
            Self::TimedOut { sent, received } => {
                write!(f, "TIMED OUT: {sent} bytes sent, {received} bytes of the response arrived")
            }
            Self::Malformed(why) => write!(f, "MALFORMED: {why}"),
        }
    }
}
