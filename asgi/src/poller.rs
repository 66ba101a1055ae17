//! What asyncio waits for besides requests: its own descriptors and its next timer.
//!
//! asyncio's descriptors (its self-pipe, the application's sockets) are in an epoll instance of their own, which is one
//! descriptor to tokio. tokio's timers have a granularity of a millisecond, so asyncio's next deadline is a timerfd.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

/// A timer that is set this close to the wanted time is left as it is: asyncio's arithmetic jitters by microseconds.
const TIMER_TOLERANCE_NS: i128 = 20_000;

/// When several timers are set, the next one goes off at a multiple of this: those that are close to each other then cost one
/// wake-up. asyncio's own selector rounds up to whole milliseconds, uvloop's timers have a resolution of one.
const TIMER_GRID_NS: i128 = 125_000;

/// asyncio's epoll instance and timer, as seen by the runtime.
pub struct Descriptors {
    epoll: AsyncFd<OwnedFd>,
    timer: AsyncFd<OwnedFd>,
    /// When the timer is set to go off, on CLOCK_MONOTONIC, in ns; `None` when it is not set.
    timer_at: Mutex<Option<i128>>,
}

impl Descriptors {
    /// Creates both and registers them with the runtime.
    ///
    /// # Errors
    /// Whatever epoll_create1(2), timerfd_create(2) or epoll_ctl(2) report (no descriptors left).
    pub fn new(runtime: &Handle) -> io::Result<Self> {
        let _context = runtime.enter();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` is one open descriptor for as long as it lives, and `AsyncFd` owns it.
        let epoll = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }?;
        // SAFETY: as above.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        Ok(Self { epoll, timer, timer_at: Mutex::new(None) })
    }

    /// Sets the timer to `timeout` from now; `None` leaves it alone (it then may wake a turn once for nothing). `several`: it is
    /// not the only one that asyncio waits for.
    ///
    /// # Errors
    /// Whatever timerfd_settime(2) reports.
    pub fn set_timer(&self, timeout: Option<Duration>, several: bool) -> io::Result<()> {
        let mut timer_at = self.timer_at.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(timeout) = timeout else {
            *timer_at = None;
            return Ok(());
        };
        let now = clock_gettime(ClockId::Monotonic);
        let mut at = i128::from(now.tv_sec) * 1_000_000_000
            + i128::from(now.tv_nsec)
            // A zero value would disarm the timer.
            + i128::try_from(timeout.as_nanos().max(1)).unwrap_or(i128::MAX / 2);
        if several {
            at = (at + TIMER_GRID_NS - 1) / TIMER_GRID_NS * TIMER_GRID_NS;
        }
        if timer_at.is_some_and(|set| (set - at).abs() < TIMER_TOLERANCE_NS) {
            return Ok(());
        }
        let value = Timespec {
            tv_sec: i64::try_from(at / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (at % 1_000_000_000) as _,
        };
        let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = Itimerspec { it_interval: interval, it_value: value };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &setting)?;
        *timer_at = Some(at);
        Ok(())
    }

    /// Whether one of asyncio's descriptors may be ready; registers the task otherwise. Stays true until
    /// [`Descriptors::collect`] found none.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> bool {
        match self.epoll.poll_read_ready(cx) {
            Poll::Ready(Ok(guard)) => {
                drop(guard);
                true
            }
            // An error (the runtime is shutting down) is reported by `collect`.
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    /// Whether the timer went off; registers the task otherwise.
    pub fn poll_timer(&self, cx: &mut Context<'_>) -> bool {
        loop {
            let Poll::Ready(Ok(mut guard)) = self.timer.poll_read_ready(cx) else { return false };
            let mut expirations = [0; 8];
            let read = rustix::io::read(self.timer.get_ref(), &mut expirations);
            guard.clear_ready();
            if read.is_ok() {
                let mut timer_at = self.timer_at.lock().unwrap_or_else(PoisonError::into_inner);
                if timer_at.take().is_some() {
                    return true;
                }
            }
        }
    }

    /// The descriptors that are ready now, up to the room in `events`. Does not block.
    ///
    /// # Errors
    /// Whatever epoll_wait(2) reports.
    pub fn collect(&self, events: &mut [epoll::Event; 64]) -> io::Result<usize> {
        let waker = std::task::Waker::noop();
        let mut cx = Context::from_waker(waker);
        // The guard first, then the look: readiness that comes after the look is not cleared away.
        let guard = self.epoll.poll_read_ready(&mut cx);
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = match epoll::wait(&self.epoll, events.as_mut_slice(), Some(&zero)) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        if count == 0
            && let Poll::Ready(Ok(mut guard)) = guard
        {
            guard.clear_ready();
        }
        Ok(count)
    }

    /// Adds a descriptor.
    ///
    /// # Errors
    /// As epoll_ctl(2): the descriptor is closed, already there, or a kind that cannot be waited for.
    pub fn add(&self, fd: RawFd, flags: EventFlags) -> io::Result<()> {
        let (fd, data) = borrow(fd)?;
        Ok(epoll::add(&self.epoll, fd, data, flags)?)
    }

    /// Changes what is waited for.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn modify(&self, fd: RawFd, flags: EventFlags) -> io::Result<()> {
        let (fd, data) = borrow(fd)?;
        Ok(epoll::modify(&self.epoll, fd, data, flags)?)
    }

    /// Takes a descriptor out.
    ///
    /// # Errors
    /// As epoll_ctl(2): it was closed already.
    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        let (fd, _) = borrow(fd)?;
        Ok(epoll::delete(&self.epoll, fd)?)
    }
}

fn borrow<'a>(fd: RawFd) -> io::Result<(BorrowedFd<'a>, EventData)> {
    let number = u64::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: not -1 (checked above), and only used for epoll_ctl(2), which reports a closed descriptor as an error.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok((fd, EventData::new_u64(number)))
}
