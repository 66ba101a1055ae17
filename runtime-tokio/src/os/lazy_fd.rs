use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor made before there is a runtime, which registers with the one that first uses it. Readability
/// only.
#[derive(Debug)]
pub(super) struct LazyFd {
    // Exactly one of the two is there.
    resting: Option<OwnedFd>,
    registered: Option<AsyncFd<OwnedFd>>,
}

impl LazyFd {
    pub(super) fn new(fd: OwnedFd) -> LazyFd {
        LazyFd { resting: Some(fd), registered: None }
    }

    /// # Errors
    /// The runtime could not take it; it can be tried again.
    pub(super) fn get(&mut self) -> io::Result<&AsyncFd<OwnedFd>> {
        if let Some(fd) = self.resting.take() {
            match register(fd, Interest::READABLE) {
                Ok(fd) => self.registered = Some(fd),
                Err((fd, error)) => {
                    self.resting = Some(fd);
                    return Err(error);
                }
            }
        }
        self.registered.as_ref().ok_or_else(|| io::Error::other("the descriptor is gone"))
    }

    pub(super) fn borrow(&self) -> Option<BorrowedFd<'_>> {
        match (&self.resting, &self.registered) {
            (Some(fd), _) => Some(fd.as_fd()),
            (None, Some(fd)) => Some(fd.as_fd()),
            (None, None) => None,
        }
    }
}

/// Registers `fd` with the runtime of the caller.
///
/// # Errors
/// The runtime could not take it; the descriptor comes back.
pub(super) fn register(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>, (OwnedFd, io::Error)> {
    // SAFETY: an `OwnedFd` is open for as long as it lives and never names another descriptor.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(|error| error.into_parts())
}
