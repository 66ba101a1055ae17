//! The signals that a supervisor obeys.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use pounce_core::event::Signal;
use rustix::io::Errno;

use super::lazy_fd::LazyFd;

/// What is caught and what becomes of it. SIGCHLD is not here: [`super::process::OsWorkerHost`] has its own
/// handler.
const CAUGHT: [(i32, Caught); 7] = [
    (libc::SIGTERM, Caught::Order(Signal::Term)),
    (libc::SIGINT, Caught::Order(Signal::Int)),
    (libc::SIGQUIT, Caught::Order(Signal::Quit)),
    (libc::SIGHUP, Caught::Order(Signal::Hup)),
    // Deadly by default, and sent by people who are used to another server. A handler, not SIG_IGN: workers
    // would inherit that.
    (libc::SIGUSR1, Caught::Ignored("SIGUSR1")),
    (libc::SIGUSR2, Caught::Ignored("SIGUSR2")),
    (libc::SIGWINCH, Caught::Quietly),
];

#[derive(Clone, Copy, Debug)]
enum Caught {
    Order(Signal),
    /// Said in the log, so that the sender learns that it does nothing.
    Ignored(&'static str),
    /// A terminal sends it whenever its window changes.
    Quietly,
}

/// Signal handlers that write into a pipe. Installed before there is a runtime, polled inside one.
///
/// Signals come out in the order in which their handlers ran. A signal that comes again before it was polled
/// is one.
#[derive(Debug)]
pub struct Signals {
    pipe: LazyFd,
    /// For each of [`CAUGHT`]: its byte is in the pipe. At most one is, so that the pipe can never be full.
    waiting: Arc<[AtomicBool; CAUGHT.len()]>,
    read: VecDeque<u8>,
    handlers: Vec<signal_hook::SigId>,
}

impl Signals {
    /// Installs the handlers and lets the signals through if they were inherited as blocked; to be called
    /// before anything else, in the main thread. SIGHUP inherited as ignored (nohup(1)) stays ignored.
    /// SIGPIPE is ignored.
    ///
    /// # Errors
    /// No descriptors left for the pipe.
    pub fn install() -> io::Result<Signals> {
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (read, write) = rustix::pipe::pipe_with(flags)?;
        let write = Arc::new(write);
        let mut signals = Signals {
            pipe: LazyFd::new(read),
            waiting: Arc::new([const { AtomicBool::new(false) }; CAUGHT.len()]),
            read: VecDeque::new(),
            handlers: Vec::new(),
        };
        for (index, (number, _)) in CAUGHT.iter().enumerate() {
            if *number == libc::SIGHUP && is_ignored(*number) {
                continue;
            }
            let id = signals.catch(index, *number, Arc::clone(&write))?;
            signals.handlers.push(id);
        }
        // SAFETY: SIG_IGN refers to no code.
        if unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
        unblock();
        Ok(signals)
    }

    fn catch(&self, index: usize, number: i32, write: Arc<OwnedFd>) -> io::Result<signal_hook::SigId> {
        let waiting = Arc::clone(&self.waiting);
        let byte = [u8::try_from(index).unwrap_or(u8::MAX)];
        let handler = move || {
            if !waiting[index].swap(true, Ordering::AcqRel) && rustix::io::write(&write, &byte).is_err() {
                waiting[index].store(false, Ordering::Release);
            }
        };
        // SAFETY: the handler makes atomic operations and one write(2), all async-signal-safe, on what it
        // owns.
        unsafe { signal_hook::low_level::register(number, handler) }
    }

    /// The next signal that is an order.
    pub fn poll_signal(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        loop {
            while let Some(index) = self.read.pop_front() {
                let index = usize::from(index);
                // From here on the same signal counts anew.
                self.waiting[index].store(false, Ordering::Release);
                match CAUGHT[index].1 {
                    Caught::Order(signal) => return Poll::Ready(signal),
                    Caught::Ignored(name) => tracing::info!("Received {name} — ignored"),
                    Caught::Quietly => {}
                }
            }
            let fd = match self.pipe.get() {
                Ok(fd) => fd,
                Err(error) => {
                    tracing::error!("signals cannot be received: {error}");
                    return Poll::Pending;
                }
            };
            let Ok(mut guard) = ready!(fd.poll_read_ready(cx)) else { return Poll::Pending };
            let mut bytes = [0; CAUGHT.len()];
            match rustix::io::read(fd, &mut bytes) {
                Ok(count) => self.read.extend(&bytes[..count]),
                Err(Errno::INTR) => {}
                Err(_) => guard.clear_ready(),
            }
        }
    }
}

impl crate::supervisor::Signals for Signals {
    fn poll_signal(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        Signals::poll_signal(self, cx)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.handlers.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

fn is_ignored(number: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the structure is written by the call and read only where the call succeeded.
    unsafe {
        libc::sigaction(number, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init_ref().sa_sigaction == libc::SIG_IGN
    }
}

/// A blocked signal would never arrive; some parents leave signals blocked for their children.
fn unblock() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised by sigemptyset before it is used; the calls cannot fail with valid
    // arguments.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for (number, _) in CAUGHT {
            libc::sigaddset(set.as_mut_ptr(), number);
        }
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}
