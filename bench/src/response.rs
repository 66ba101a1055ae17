//! Reads responses as they come in pieces: status and body length, and not a byte more work than that.

/// One response on its way.
#[derive(Debug, Default)]
pub struct ResponseReader {
    part: Part,
    /// The head's bytes, where it came in more than one piece.
    head: Vec<u8>,
    pub status: u16,
    /// Body bytes so far, without the framing.
    pub body_bytes: u64,
    pub announces_close: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Head,
    /// A body of known length: bytes left.
    Bytes(u64),
    /// The hexadecimal length of a chunk, as far as it came; `in_extension` after a `;`.
    ChunkLength {
        length: u64,
        in_extension: bool,
    },
    ChunkBytes(u64),
    /// The line end after a chunk's bytes.
    ChunkEnd,
    /// Lines after the last chunk: bytes in the present one.
    Trailer(usize),
}

/// A response that breaks the protocol, or that this reader does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a malformed response: {}", self.0)
    }
}

/// How far [`ResponseReader::read`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// All bytes are taken and there must come more.
    More,
    /// The response ended after so many of the bytes.
    Ended(usize),
}

impl ResponseReader {
    /// Gets ready for the next response.
    pub fn reset(&mut self) {
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        *self = ResponseReader { head, ..ResponseReader::default() };
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn read(&mut self, piece: &[u8]) -> Result<Read, Malformed> {
        let mut at = 0;
        while at < piece.len() {
            let rest = &piece[at..];
            match self.part {
                Part::Head => {
                    at += self.read_head(rest)?;
                    if self.part == Part::Bytes(0) {
                        return Ok(Read::Ended(at));
                    }
                }
                Part::Bytes(left) | Part::ChunkBytes(left) => {
                    let take = left.min(rest.len() as u64);
                    at += usize::try_from(take).unwrap_or(usize::MAX);
                    self.body_bytes += take;
                    match (self.part, left == take) {
                        (Part::Bytes(_), true) => return Ok(Read::Ended(at)),
                        (Part::Bytes(_), false) => self.part = Part::Bytes(left - take),
                        (_, true) => self.part = Part::ChunkEnd,
                        (_, false) => self.part = Part::ChunkBytes(left - take),
                    }
                }
                Part::ChunkLength { length, in_extension } => {
                    at += 1;
                    self.part = match rest[0] {
                        b'\n' if length == 0 => Part::Trailer(0),
                        b'\n' => Part::ChunkBytes(length),
                        b'\r' => self.part,
                        _ if in_extension => self.part,
                        b';' => Part::ChunkLength { length, in_extension: true },
                        digit => {
                            let digit =
                                char::from(digit).to_digit(16).ok_or(Malformed("a chunk's length"))?;
                            if length >> 32 != 0 {
                                return Err(Malformed("a chunk's length"));
                            }
                            Part::ChunkLength { length: length * 16 + u64::from(digit), in_extension }
                        }
                    };
                }
                Part::ChunkEnd => {
                    at += 1;
                    match rest[0] {
                        b'\r' => {}
                        b'\n' => self.part = Part::ChunkLength { length: 0, in_extension: false },
                        _ => return Err(Malformed("a chunk longer than it says")),
                    }
                }
                Part::Trailer(length) => {
                    at += 1;
                    match rest[0] {
                        b'\r' => {}
                        b'\n' if length == 0 => return Ok(Read::Ended(at)),
                        b'\n' => self.part = Part::Trailer(0),
                        _ => self.part = Part::Trailer(length + 1),
                    }
                }
            }
        }
        Ok(Read::More)
    }

    /// Takes bytes of the head, and returns how many of the piece's those are.
    fn read_head(&mut self, piece: &[u8]) -> Result<usize, Malformed> {
        if self.head.is_empty() {
            if let Some(end) = memchr::memmem::find(piece, b"\r\n\r\n") {
                self.parse_head(&piece[..end + 2])?;
                return Ok(end + 4);
            }
            self.head.extend_from_slice(piece);
            return Ok(piece.len());
        }
        let before = self.head.len();
        let mut head = std::mem::take(&mut self.head);
        head.extend_from_slice(piece);
        let Some(end) = memchr::memmem::find(&head[before.saturating_sub(3)..], b"\r\n\r\n") else {
            self.head = head;
            return Ok(piece.len());
        };
        let end = before.saturating_sub(3) + end;
        self.parse_head(&head[..end + 2])?;
        head.clear();
        self.head = head;
        Ok(end + 4 - before)
    }

    /// `head`: lines, each with its end.
    fn parse_head(&mut self, head: &[u8]) -> Result<(), Malformed> {
        let status = head.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.and_then(number).ok_or(Malformed("the status line"))?;
        self.status = u16::try_from(status).map_err(|_| Malformed("the status line"))?;
        let mut length = None;
        let mut chunked = false;
        for newline in memchr::memchr_iter(b'\n', head) {
            let line = &head[newline + 1..];
            match line.first() {
                Some(b'c' | b'C') => {
                    if let Some(value) = field(line, b"content-length:") {
                        length = Some(number(value).ok_or(Malformed("content-length"))?);
                    } else if let Some(value) = field(line, b"connection:") {
                        self.announces_close |= value.eq_ignore_ascii_case(b"close");
                    }
                }
                Some(b't' | b'T') => {
                    if let Some(value) = field(line, b"transfer-encoding:") {
                        chunked = value.eq_ignore_ascii_case(b"chunked");
                    }
                }
                _ => {}
            }
        }
        self.part = match (chunked, length) {
            (true, _) => Part::ChunkLength { length: 0, in_extension: false },
            (false, Some(length)) => Part::Bytes(length),
            (false, None) => return Err(Malformed("neither content-length nor chunked")),
        };
        Ok(())
    }
}

/// The value of the field at the start of `line`, if that is its name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let start = line.get(..name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    let value = &line[name.len()..];
    let end = memchr::memchr(b'\r', value).unwrap_or(value.len());
    Some(value[..end].trim_ascii())
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Type: a\r\ncontent-length: 5\r\nConnection: close\r\n\r\nhello";
    const CHUNKED: &[u8] =
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1A;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nT: 1\r\n\r\n";

    #[test]
    fn a_response_cut_anywhere_reads_the_same() {
        for (response, status, length) in [(PLAIN, 200, 5), (CHUNKED, 201, 31)] {
            for cut in 1..response.len() {
                let mut reader = ResponseReader::default();
                assert_eq!(reader.read(&response[..cut]), Ok(Read::More), "cut at {cut}");
                let rest = [&response[cut..], b"HTTP"].concat();
                assert_eq!(reader.read(&rest), Ok(Read::Ended(response.len() - cut)), "cut at {cut}");
                assert_eq!((reader.status, reader.body_bytes), (status, length));
            }
        }
    }

    #[test]
    fn a_reset_reader_reads_the_next_response() {
        let mut reader = ResponseReader::default();
        let _ = reader.read(&PLAIN[..20]);
        let _ = reader.read(&PLAIN[20..]);
        assert!(reader.announces_close);
        reader.reset();
        assert_eq!(reader.read(CHUNKED), Ok(Read::Ended(CHUNKED.len())));
        assert!(!reader.announces_close);
    }

    #[test]
    fn a_response_without_a_length_is_refused() {
        let mut reader = ResponseReader::default();
        assert!(reader.read(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn a_body_that_is_longer_than_its_chunk_is_refused() {
        let mut reader = ResponseReader::default();
        assert!(reader.read(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab").is_err());
    }
}
