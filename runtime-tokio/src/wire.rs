//! The I/O tap under hyper: hands it one message at a time, and ends an idle connection at the one instant at which
//! that loses nothing.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pounce_core::Instant;
use pounce_core::connection::ReadVerdict;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::chunks::ChunkScanner;
use crate::head::HeadScanner;
use crate::listener::Stream;
use crate::shared::{BodyLeft, ConnectionState, Reading, Shared};

/// Most bytes that are read ahead of hyper while a request runs, in bytes. A client that sends more than this without
/// waiting for its answers waits for them.
const HELD_MAX: usize = 64 * 1024;

/// Below this many bytes a head and its body are copied together: one piece costs the kernel less than a list of them.
const JOIN_MAX: usize = 1024;

/// The stream as hyper sees it.
pub(crate) struct Wire<St> {
    shared: Arc<Shared>,
    input: Input<St>,
    write_blocked: bool,
    /// Bytes in the socket that the peer had not taken when last looked at.
    unsent: Option<u64>,
}

/// What reading needs besides the state that is shared.
struct Input<St> {
    stream: St,
    scanner: HeadScanner,
    chunks: ChunkScanner,
    /// Bytes read that belong to the next message.
    held: Vec<u8>,
}

impl<St: Stream> Wire<St> {
    pub fn new(stream: St, shared: Arc<Shared>) -> Wire<St> {
        let input = Input {
            stream,
            scanner: HeadScanner::default(),
            chunks: ChunkScanner::default(),
            held: Vec::new(),
        };
        Wire { shared, input, write_blocked: false, unsent: None }
    }

    pub fn into_stream(self) -> St {
        self.input.stream
    }
}

impl<St: Stream> Input<St> {
    /// Bytes of a head: from what is held back, else from the socket.
    fn read_head(
        &mut self,
        shared: &Shared,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        state: &mut ConnectionState,
    ) -> Poll<io::Result<()>> {
        state.swallowed = false;
        let now = shared.now(state);
        if pounce_core::planted!(EofDespiteBytes)
            && state.machine.may_end(now)
            && state.machine.on_read_blocked(now) == ReadVerdict::Eof
        {
            return Poll::Ready(Ok(()));
        }
        if !self.held.is_empty() {
            let piece = &self.held[..self.held.len().min(buf.remaining())];
            let end = self.scanner.scan(piece);
            let take = end.unwrap_or(piece.len());
            state.both_framings = self.scanner.both_framings();
            buf.put_slice(&self.held[..take]);
            self.held.drain(..take);
        } else {
            let before = buf.filled().len();
            match Pin::new(&mut self.stream).poll_read(cx, buf)? {
                Poll::Pending => return self.read_blocked(now, state),
                Poll::Ready(()) if buf.filled().len() == before => {
                    state.peer_ended = true;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(()) => {
                    if let Some(take) = self.scanner.scan(&buf.filled()[before..]) {
                        self.hold_back(buf, before + take);
                        state.both_framings = self.scanner.both_framings();
                    }
                }
            }
        }
        state.held = !self.held.is_empty();
        state.machine.on_head_bytes(now);
        Poll::Ready(Ok(()))
    }

    /// The socket has nothing more: wait, or end here.
    fn read_blocked(&mut self, now: Instant, state: &mut ConnectionState) -> Poll<io::Result<()>> {
        if state.machine.may_end(now)
            && !self.stream.readable_now()
            && state.machine.on_read_blocked(now) == ReadVerdict::Eof
        {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// Bytes of a body, and not one of what follows it.
    fn read_body(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        state: &mut ConnectionState,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !self.held.is_empty() {
            let piece = &self.held[..self.held.len().min(buf.remaining())];
            let take = take_body(&mut self.chunks, &mut state.body_left, piece);
            buf.put_slice(&self.held[..take]);
            self.held.drain(..take);
        } else {
            match Pin::new(&mut self.stream).poll_read(cx, buf)? {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if buf.filled().len() == before => {
                    state.peer_ended = true;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(()) => {
                    let take = take_body(&mut self.chunks, &mut state.body_left, &buf.filled()[before..]);
                    self.hold_back(buf, before + take);
                }
            }
        }
        state.held = !self.held.is_empty();
        Poll::Ready(Ok(()))
    }

    /// A request runs. What comes is held back, an end is noted: a client that only closed its sending side still gets
    /// its answer.
    fn watch_peer(&mut self, cx: &mut Context<'_>, state: &mut ConnectionState) -> io::Result<()> {
        while self.held.len() < HELD_MAX && !state.peer_ended {
            let mut space = [MaybeUninit::uninit(); 2048];
            let mut buf = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf)? {
                Poll::Pending => break,
                Poll::Ready(()) if buf.filled().is_empty() => {
                    state.peer_ended = true;
                    // The application was polled before this, and is asked again.
                    cx.waker().wake_by_ref();
                }
                Poll::Ready(()) => self.held.extend_from_slice(buf.filled()),
            }
            state.swallowed = true;
            state.held = !self.held.is_empty();
        }
        Ok(())
    }

    fn hold_back(&mut self, buf: &mut ReadBuf<'_>, from: usize) {
        self.held.extend_from_slice(&buf.filled()[from..]);
        buf.set_filled(from);
    }
}

/// How many bytes of `piece` belong to the body of which `left` is left.
fn take_body(chunks: &mut ChunkScanner, left: &mut BodyLeft, piece: &[u8]) -> usize {
    let (take, rest) = match *left {
        BodyLeft::None => (0, BodyLeft::None),
        BodyLeft::Bytes(bytes) => {
            let take = piece.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            match bytes - take as u64 {
                0 => (take, BodyLeft::None),
                bytes => (take, BodyLeft::Bytes(bytes)),
            }
        }
        BodyLeft::Chunked => match chunks.scan(piece) {
            Some(take) => (take, BodyLeft::None),
            None => (piece.len(), BodyLeft::Chunked),
        },
    };
    *left = rest;
    take
}

impl<St: Stream> AsyncRead for Wire<St> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Wire { shared, input, .. } = self.get_mut();
        let mut state = shared.lock();
        match state.reading() {
            Reading::Head => input.read_head(shared, cx, buf, &mut state),
            Reading::Body => input.read_body(cx, buf, &mut state),
            Reading::Nothing => Poll::Pending,
            Reading::Over => Poll::Ready(Ok(())),
        }
    }
}

impl<St: Stream> Wire<St> {
    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending if !self.write_blocked => {
                self.write_blocked = true;
                self.unsent = self.input.stream.unsent_bytes();
                let mut state = self.shared.lock();
                let now = self.shared.now(&state);
                state.machine.on_write_blocked(now);
            }
            Poll::Pending => {
                let mut state = self.shared.lock();
                if std::mem::take(&mut state.probe_write) {
                    let before = std::mem::replace(&mut self.unsent, self.input.stream.unsent_bytes());
                    let took = matches!((before, self.unsent), (Some(before), Some(after)) if after < before);
                    let now = self.shared.now(&state);
                    state.machine.on_write_probe(now, took);
                }
            }
            Poll::Ready(Ok(_)) if self.write_blocked => {
                self.write_blocked = false;
                self.shared.lock().machine.on_write_progress();
            }
            _ => {}
        }
    }
}

impl<St: Stream> AsyncWrite for Wire<St> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.input.stream).poll_write(cx, buf);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = if bufs.iter().map(|piece| piece.len()).sum::<usize>() <= JOIN_MAX {
            let mut space = [MaybeUninit::uninit(); JOIN_MAX];
            let mut joined = ReadBuf::uninit(&mut space);
            bufs.iter().for_each(|piece| joined.put_slice(piece));
            Pin::new(&mut self.input.stream).poll_write(cx, joined.filled())
        } else {
            Pin::new(&mut self.input.stream).poll_write_vectored(cx, bufs)
        };
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.input.stream.is_write_vectored()
    }

    /// hyper flushes at the end of each of its turns, so this is also where a running request learns of its peer.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Wire { shared, input, .. } = self.get_mut();
        let flushed = Pin::new(&mut input.stream).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            let mut state = shared.lock();
            let now = shared.now(&state);
            state.machine.on_flushed(now);
            if state.reading() == Reading::Nothing {
                input.watch_peer(cx, &mut state)?;
            }
        }
        flushed
    }

    /// Not here: how the socket is closed is decided after hyper is done with it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
