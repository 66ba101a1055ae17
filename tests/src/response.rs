//! Reads one HTTP/1.1 response out of bytes that arrive in any pieces. Strict: what a lenient parser would
//! mend is exactly what these tests look for.

use crate::outcome::{Answer, Outcome};

/// A response being read. No I/O: the blocking client and the load generators both feed it.
#[derive(Debug)]
pub struct ResponseReader {
    head_only: bool,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are done with.
    at: usize,
    interim: Vec<u16>,
    state: State,
}

#[derive(Debug)]
enum State {
    Head,
    Sized { answer: Answer, length: usize },
    Chunked { answer: Answer },
    UntilEnd { answer: Answer },
}

impl ResponseReader {
    /// A reader for the response to a request with this method. `surplus` is what was read past the
    /// previous response.
    pub fn new(method: &str, surplus: Vec<u8>) -> Self {
        Self { head_only: method == "HEAD", buffer: surplus, at: 0, interim: Vec::new(), state: State::Head }
    }

    /// Takes bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that arrived so far, surplus included.
    pub fn received(&self) -> usize {
        self.buffer.len()
    }

    /// Interim responses so far.
    pub fn interim(&self) -> &[u16] {
        &self.interim
    }

    /// Bytes that arrived after the response, once it is complete.
    pub fn received_after_answer(&self) -> usize {
        self.buffer.len() - self.at
    }

    /// What arrived after the response; for the next one on the connection.
    pub fn into_surplus(mut self) -> Vec<u8> {
        self.buffer.split_off(self.at)
    }

    /// The response, once it is complete.
    ///
    /// # Errors
    /// A sentence about what is not HTTP/1.1.
    pub fn poll(&mut self) -> Result<Option<Answer>, String> {
        loop {
            match std::mem::replace(&mut self.state, State::Head) {
                State::Head => {
                    let Some(end) = find(&self.buffer[self.at..], b"\r\n\r\n") else { return Ok(None) };
                    let head = &self.buffer[self.at..self.at + end];
                    let answer = parse_head(head)?;
                    self.at += end + 4;
                    if (100..200).contains(&answer.status) && answer.status != 101 {
                        self.interim.push(answer.status);
                        continue;
                    }
                    if let Some(done) = self.choose_framing(answer)? {
                        return Ok(Some(done));
                    }
                }
                State::Sized { mut answer, length } => {
                    if self.buffer.len() - self.at < length {
                        self.state = State::Sized { answer, length };
                        return Ok(None);
                    }
                    answer.body = self.buffer[self.at..self.at + length].to_vec();
                    self.at += length;
                    return Ok(Some(self.finish(answer)));
                }
                State::Chunked { mut answer } => match self.next_chunk(&mut answer.body)? {
                    Chunk::Incomplete => {
                        self.state = State::Chunked { answer };
                        return Ok(None);
                    }
                    Chunk::Data => self.state = State::Chunked { answer },
                    Chunk::Last => return Ok(Some(self.finish(answer))),
                },
                State::UntilEnd { answer } => {
                    self.state = State::UntilEnd { answer };
                    return Ok(None);
                }
            }
        }
    }

    /// The connection ended cleanly: what that makes of a response that [`ResponseReader::poll`] did not
    /// find complete. `sent` is the number of bytes of the request that were sent.
    pub fn at_eof(mut self, sent: usize) -> Outcome {
        let received = self.received();
        if received == 0 {
            return Outcome::Unanswered { sent };
        }
        let missing = match std::mem::replace(&mut self.state, State::Head) {
            State::Head if self.interim.is_empty() => "the rest of the head".to_string(),
            State::Head => format!("the final response, after interim {:?}", self.interim),
            State::Sized { length, .. } => {
                format!("{} of {length} bytes of the body", length - (received - self.at))
            }
            State::Chunked { answer } => format!("the last chunk, after {} bytes of body", answer.body.len()),
            State::UntilEnd { mut answer } => {
                answer.body = self.buffer.split_off(self.at);
                answer.interim = self.interim;
                return Outcome::Answered(answer);
            }
        };
        Outcome::Truncated { received, missing }
    }

    fn finish(&mut self, mut answer: Answer) -> Answer {
        answer.interim = std::mem::take(&mut self.interim);
        answer
    }

    /// RFC 9112 §6.3.
    fn choose_framing(&mut self, mut answer: Answer) -> Result<Option<Answer>, String> {
        if self.head_only || matches!(answer.status, 101 | 204 | 304) {
            return Ok(Some(self.finish(answer)));
        }
        let lengths: Vec<String> = fields(&answer, "content-length");
        let codings: Vec<String> = fields(&answer, "transfer-encoding");
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => {
                if !answer.connection_close {
                    return Err(format!("no framing and no `Connection: close`: {:?}", answer.headers));
                }
                answer.ends_with_connection = true;
                self.state = State::UntilEnd { answer };
            }
            ([length], []) => {
                let length =
                    length.parse().map_err(|_| format!("Content-Length {length:?} is not a number"))?;
                self.state = State::Sized { answer, length };
            }
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => {
                self.state = State::Chunked { answer }
            }
            _ => {
                return Err(format!(
                    "contradicting framing: content-length {lengths:?}, transfer-encoding {codings:?}"
                ));
            }
        }
        Ok(None)
    }

    /// RFC 9112 §7.1, without consuming an incomplete chunk.
    fn next_chunk(&mut self, body: &mut Vec<u8>) -> Result<Chunk, String> {
        let rest = &self.buffer[self.at..];
        let Some(line_end) = find(rest, b"\r\n") else {
            if rest.len() > 64 {
                return Err(format!("no end of the chunk size line in {:?}", lossy(&rest[..64])));
            }
            return Ok(Chunk::Incomplete);
        };
        let line =
            std::str::from_utf8(&rest[..line_end]).map_err(|_| "chunk size is not text".to_string())?;
        let digits = line.split(';').next().unwrap_or("").trim_end();
        let size =
            usize::from_str_radix(digits, 16).map_err(|_| format!("chunk size {line:?} is not a number"))?;
        let data = line_end + 2;
        if size == 0 {
            // The trailer section ends with an empty line; usually it is nothing but that.
            if rest[data..].starts_with(b"\r\n") {
                self.at += data + 2;
                return Ok(Chunk::Last);
            }
            return match find(&rest[data..], b"\r\n\r\n") {
                Some(end) => {
                    self.at += data + end + 4;
                    Ok(Chunk::Last)
                }
                None => Ok(Chunk::Incomplete),
            };
        }
        if rest.len() < data + size + 2 {
            return Ok(Chunk::Incomplete);
        }
        if &rest[data + size..data + size + 2] != b"\r\n" {
            return Err(format!("no CRLF after a chunk of {size} bytes"));
        }
        body.extend_from_slice(&rest[data..data + size]);
        self.at += data + size + 2;
        Ok(Chunk::Data)
    }
}

enum Chunk {
    Incomplete,
    Data,
    Last,
}

fn fields(answer: &Answer, name: &str) -> Vec<String> {
    answer.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone()).collect()
}

fn parse_head(head: &[u8]) -> Result<Answer, String> {
    let text = std::str::from_utf8(head).map_err(|_| format!("the head is not text: {:?}", lossy(head)))?;
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or("");
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| status_line.strip_prefix("HTTP/1.0 "))
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse::<u16>().ok())
        .ok_or_else(|| format!("not a status line: {status_line:?}"))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("not a header field: {line:?}"))?;
        if name.is_empty() || name.contains([' ', '\t', '\r', '\n']) || value.contains(['\r', '\n', '\0']) {
            return Err(format!("not a header field: {line:?}"));
        }
        headers.push((name.to_string(), value.trim_matches([' ', '\t']).to_string()));
    }
    let said = |option: &str| {
        headers.iter().any(|(n, v): &(String, String)| {
            n.eq_ignore_ascii_case("connection")
                && v.split(',').any(|o| o.trim().eq_ignore_ascii_case(option))
        })
    };
    let connection_close = said("close") || (status_line.starts_with("HTTP/1.0") && !said("keep-alive"));
    Ok(Answer {
        status,
        headers,
        body: Vec::new(),
        interim: Vec::new(),
        connection_close,
        ends_with_connection: false,
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_in_pieces(method: &str, wire: &[u8], piece: usize) -> Result<Option<Answer>, String> {
        let mut reader = ResponseReader::new(method, Vec::new());
        for bytes in wire.chunks(piece) {
            reader.push(bytes);
            if let Some(answer) = reader.poll()? {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    #[test]
    fn pieces_of_any_size_give_the_same_answer() {
        let wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                     3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n";
        for piece in 1..=wire.len() {
            let answer = read_in_pieces("GET", wire, piece).unwrap().unwrap();
            assert_eq!((answer.status, answer.text().as_str(), &answer.interim), (200, "abcde", &vec![100]));
        }
    }

    #[test]
    fn surplus_is_kept_for_the_next_response() {
        let mut reader = ResponseReader::new("GET", Vec::new());
        reader.push(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 503");
        assert_eq!(reader.poll().unwrap().unwrap().body, b"ok");
        assert_eq!(reader.into_surplus(), b"HTTP/1.1 503");
    }

    #[test]
    fn a_body_after_head_is_not_read() {
        let answer = read_in_pieces("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 100).unwrap();
        assert_eq!(answer.unwrap().body, b"");
    }

    #[test]
    fn a_missing_last_chunk_is_truncation() {
        let mut reader = ResponseReader::new("GET", Vec::new());
        reader.push(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        assert_eq!(reader.poll().unwrap(), None);
        assert!(matches!(reader.at_eof(1), Outcome::Truncated { .. }));
    }

    #[test]
    fn a_body_without_framing_needs_connection_close() {
        assert!(read_in_pieces("GET", b"HTTP/1.1 200 OK\r\n\r\nhi", 100).is_err());
        let mut reader = ResponseReader::new("GET", Vec::new());
        reader.push(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi");
        assert_eq!(reader.poll().unwrap(), None);
        assert_eq!(reader.at_eof(1).answer().body, b"hi");
    }

    #[test]
    fn contradicting_or_broken_framing_is_malformed() {
        for wire in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "SSH-2.0\r\n\r\n",
        ] {
            assert!(read_in_pieces("GET", wire.as_bytes(), 7).is_err(), "{wire:?}");
        }
    }
}
