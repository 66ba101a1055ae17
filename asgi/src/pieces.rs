//! Bytes that wait for the other side.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Pieces below this are joined with those beside them.
const SMALL_BYTES: usize = 4096;

/// A queue of pieces whose memory is proportional to its bytes, however small the pieces are: the limits on what waits count
/// bytes. A piece of one byte is an entry of the queue and a block of memory, or it keeps the whole buffer into which the
/// connection was read, so small ones do not stay as they came. Where they end means nothing to either side.
#[derive(Default)]
pub struct Pieces {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// The last piece was joined here of small ones, and takes further ones.
    joined: bool,
}

impl Pieces {
    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.bytes += piece.len();
        let joins = piece.len() < SMALL_BYTES
            && self.pieces.back().is_some_and(|last| self.joined || last.len() < SMALL_BYTES);
        if joins && let Some(last) = self.pieces.pop_back() {
            let mut joined = last.try_into_mut().unwrap_or_else(|last| {
                let mut copy = BytesMut::with_capacity(2 * (last.len() + piece.len()));
                copy.extend_from_slice(&last);
                copy
            });
            joined.extend_from_slice(&piece);
            self.pieces.push_back(joined.freeze());
        } else {
            self.pieces.push_back(piece);
        }
        self.joined = joins;
    }

    /// The first piece.
    pub fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.len();
        self.joined &= !self.pieces.is_empty();
        Some(piece)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// All of it in one piece.
    pub fn into_bytes(mut self) -> Bytes {
        if self.pieces.len() <= 1 {
            return self.pieces.pop_front().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(self.bytes);
        for piece in self.pieces {
            whole.extend_from_slice(&piece);
        }
        whole.freeze()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lengths: &[usize]) -> Pieces {
        let mut pieces = Pieces::default();
        for (number, length) in lengths.iter().enumerate() {
            pieces.push(Bytes::from(vec![number as u8; *length]));
        }
        pieces
    }

    fn lengths(pieces: &Pieces) -> Vec<usize> {
        pieces.iter().map(Bytes::len).collect()
    }

    #[test]
    fn small_pieces_become_one_and_large_ones_stay() {
        assert_eq!(lengths(&of(&[1, 2, 0, 3])), [6]);
        assert_eq!(lengths(&of(&[4096, 1, 2, 4096, 4095, 4095, 1])), [4096, 3, 4096, 8191]);
        assert_eq!(lengths(&of(&[65536, 65536])), [65536, 65536]);
    }

    #[test]
    fn bytes_come_out_in_the_order_in_which_they_went_in_and_are_counted() {
        let mut pieces = of(&[2, 1, 5000, 1, 1]);
        assert_eq!(pieces.bytes(), 5005);
        assert_eq!(pieces.pop().unwrap(), [0, 0, 1][..]);
        assert_eq!(pieces.bytes(), 5002);
        let mut rest = vec![2; 5000];
        rest.extend([3, 4]);
        assert_eq!(pieces.take().into_bytes(), rest);
        assert!(pieces.is_empty() && pieces.pop().is_none());
    }

    #[test]
    fn a_small_piece_does_not_keep_the_buffer_that_it_was_read_into() {
        let mut pieces = of(&[1]);
        let buffer = Bytes::from(vec![7; 8192]);
        pieces.push(buffer.slice(..1));
        assert!(buffer.is_unique());
    }

    #[test]
    fn a_piece_that_somebody_else_has_too_is_not_changed() {
        let shared = Bytes::from_static(b"shared");
        let copy = shared.clone();
        let mut pieces = Pieces::default();
        pieces.push(shared);
        pieces.push(Bytes::from_static(b" and more"));
        assert_eq!((pieces.into_bytes(), copy), ("shared and more".into(), "shared".into()));
    }
}
