//! Where a request head ends, so that what follows it can be told apart.
//!
//! This is not a parser: hyper parses. Bytes that follow a head are a body or, without one, the next request that the
//! client sent without waiting ("pipelined"). A server that is about to announce the connection's end must know that
//! such a request is there, and hyper does not tell. So hyper is handed the bytes of one message at a time, and the rest
//! is held back. Being wrong here changes in which pieces hyper gets its bytes, never what they mean.

/// Finds the end of a head in pieces, and the one thing that hyper hides: a head with both framings.
#[derive(Debug, Default)]
pub struct HeadScanner {
    /// Bytes of the current line so far, without the line end.
    line: usize,
    last_was_cr: bool,
    /// A line that is not empty was seen. Empty lines before the request line are skipped (RFC 9112 §2.2).
    started: bool,
    /// The head's bytes, where it came in more than one piece.
    pieces: Vec<u8>,
    framings: Framings,
}

/// Which message framings a head names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Framings {
    content_length: bool,
    transfer_encoding: bool,
}

impl HeadScanner {
    /// Takes the next piece. Returns the number of its bytes that belong to the head, if the head ends in it.
    pub fn scan(&mut self, piece: &[u8]) -> Option<usize> {
        let whole_so_far = self.pieces.is_empty();
        let mut found = Framings::default();
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', piece) {
            let ends_in_cr = if end > from { piece[end - 1] == b'\r' } else { self.last_was_cr };
            let length = self.line + (end - from) - usize::from(ends_in_cr);
            self.line = 0;
            self.last_was_cr = false;
            if length > 0 {
                // A line of a piece that is not the first may have begun in an earlier one; those are looked at again.
                found.note(&piece[from..end]);
                self.started = true;
            } else if self.started {
                if !whole_so_far {
                    self.pieces.extend_from_slice(&piece[..=end]);
                    found = framings(&self.pieces);
                }
                *self = HeadScanner { framings: found, ..HeadScanner::default() };
                return Some(end + 1);
            }
            from = end + 1;
        }
        self.line += piece.len() - from;
        if let Some(last) = piece[from..].last() {
            self.last_was_cr = *last == b'\r';
        }
        self.pieces.extend_from_slice(piece);
        None
    }

    /// The last head that ended names both framings: a request that two servers may read as two different ones
    /// (RFC 9112 §6.1).
    pub fn both_framings(&self) -> bool {
        self.framings.content_length && self.framings.transfer_encoding
    }
}

impl Framings {
    /// Looks at one line. The request line is one too: no method has a colon.
    fn note(&mut self, line: &[u8]) {
        match line.first() {
            Some(b'c' | b'C') => self.content_length |= starts_with(line, b"content-length:"),
            Some(b't' | b'T') => self.transfer_encoding |= starts_with(line, b"transfer-encoding:"),
            _ => {}
        }
    }
}

fn framings(head: &[u8]) -> Framings {
    let mut found = Framings::default();
    head.split(|byte| *byte == b'\n').for_each(|line| found.note(line));
    found
}

fn starts_with(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";

    #[test]
    fn a_head_cut_at_any_byte_ends_where_it_ends() {
        for cut in 0..HEAD.len() {
            let mut scanner = HeadScanner::default();
            assert_eq!(scanner.scan(&HEAD[..cut]), None, "cut at {cut}");
            let rest = [&HEAD[cut..], b"abcGET"].concat();
            assert_eq!(scanner.scan(&rest), Some(HEAD.len() - cut), "cut at {cut}");
            assert_eq!(scanner.framings, Framings { content_length: true, transfer_encoding: false });
        }
    }

    #[test]
    fn lines_may_end_without_a_carriage_return() {
        assert_eq!(HeadScanner::default().scan(b"GET / HTTP/1.1\nHost: a\n\nrest"), Some(24));
    }

    #[test]
    fn the_framing_that_the_parser_drops_is_seen_in_either_order() {
        for head in [
            &b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-LENGTH: 3\r\n\r\n"[..],
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            let mut scanner = HeadScanner::default();
            assert_eq!(scanner.scan(head), Some(head.len()));
            assert_eq!(scanner.framings, Framings { content_length: true, transfer_encoding: true });
        }
    }

    #[test]
    fn a_second_head_is_scanned_from_scratch() {
        let mut scanner = HeadScanner::default();
        scanner.scan(HEAD);
        assert_eq!(scanner.scan(b"\r\n\r\n"), None, "empty lines before a request line are no head");
        let get = b"GET / HTTP/1.1\r\n\r\n";
        assert_eq!(scanner.scan(get), Some(get.len()));
        assert_eq!(scanner.framings, Framings::default());
    }
}
