//! Where a chunked body ends, so that what follows it can be told apart.
//!
//! As with [`crate::head`], hyper parses. This only follows along, byte for byte in hyper's own states, so that hyper is
//! never handed bytes of the next request: in its buffer nobody sees them, and a connection that ends there loses them.
//! What hyper refuses is not looked at any further.

/// Finds the end of a chunked body in pieces (RFC 9112 §7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkScanner {
    at: At,
    /// The size of this chunk so far, or what is left of its bytes.
    left: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before the first digit of a chunk's size.
    #[default]
    Start,
    Size,
    /// Between the size and the end of its line.
    Extension,
    SizeLf,
    Bytes,
    BytesCr,
    BytesLf,
    /// At the start of a line after the last chunk: a trailer field, or the empty line that ends the body.
    Trailer,
    InTrailer,
    TrailerLf,
    EndLf,
    /// This is no chunked body; hyper says so.
    Broken,
}

impl ChunkScanner {
    /// Takes the next piece. Returns the number of its bytes that belong to the body, if the body ends in it.
    pub fn scan(&mut self, piece: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(&byte) = piece.get(at) {
            self.at = match (self.at, byte) {
                (At::Broken, _) => return None,
                (At::Bytes, _) => {
                    let here = (piece.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                    self.left -= here as u64;
                    at += here;
                    if self.left == 0 {
                        self.at = At::BytesCr;
                    }
                    continue;
                }
                (At::Start | At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                    let digit = u64::from(char::from(byte).to_digit(16).unwrap_or(0));
                    match self.left.checked_mul(16).and_then(|size| size.checked_add(digit)) {
                        Some(size) => {
                            self.left = size;
                            At::Size
                        }
                        None => At::Broken,
                    }
                }
                (At::Size | At::Extension, b'\r') => At::SizeLf,
                (At::Size, b';' | b' ' | b'\t') => At::Extension,
                (At::Extension, byte) if byte != b'\n' => At::Extension,
                (At::SizeLf, b'\n') if self.left == 0 => At::Trailer,
                (At::SizeLf, b'\n') => At::Bytes,
                (At::BytesCr, b'\r') => At::BytesLf,
                (At::BytesLf, b'\n') => At::Start,
                (At::Trailer, b'\r') => At::EndLf,
                (At::InTrailer, b'\r') => At::TrailerLf,
                (At::Trailer | At::InTrailer, _) => At::InTrailer,
                (At::TrailerLf, b'\n') => At::Trailer,
                (At::EndLf, b'\n') => {
                    *self = ChunkScanner::default();
                    return Some(at + 1);
                }
                _ => At::Broken,
            };
            at += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"3\r\nabc\r\n0A;x=\"0\" \r\n0\r\n\r\n0\r\n\r\n\r\n00\r\nX-T: 0\r\n\r\n";

    #[test]
    fn a_body_cut_at_any_byte_ends_where_it_ends() {
        for cut in 0..BODY.len() {
            let mut scanner = ChunkScanner::default();
            assert_eq!(scanner.scan(&BODY[..cut]), None, "cut at {cut}");
            let rest = [&BODY[cut..], BODY].concat();
            assert_eq!(scanner.scan(&rest), Some(BODY.len() - cut), "cut at {cut}");
            assert_eq!(scanner, ChunkScanner::default(), "the next body is scanned from scratch");
        }
    }

    #[test]
    fn what_the_parser_refuses_has_no_end() {
        for broken in [
            &b"\r\n0\r\n\r\n"[..],
            b"0\n\n0\r\n\r\n",
            b"3\r\nabcd0\r\n\r\n",
            b"0;a\nb\r\n\r\n",
            b"10000000000000000\r\n0\r\n\r\n",
            b"-0\r\n\r\n",
        ] {
            assert_eq!(ChunkScanner::default().scan(broken), None, "{:?}", String::from_utf8_lossy(broken));
        }
    }
}
