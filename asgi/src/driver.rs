//! The tokio runtime of a worker, and who drives it.
//!
//! The runtime is a current-thread one: hyper's connections are tasks on it, and whichever thread is inside
//! `block_on` runs them. That is nearly always the thread of the asyncio loop, from inside `select()`, with the GIL
//! released ([`Driver::turn`]). While that thread is busy in Python, nobody drives: that is what makes a request cheap.
//! Only when Python has not come back for [`PATIENCE`] does the standby thread take the runtime over, so that
//! health checks, deadlines, the drain and responses already produced go on; it hands it back as soon as Python asks.
//!
//! What one side has for the other goes through [`Shared`], one short lock:
//! * to Python: [`Event`]s, taken in batches at the end of a turn;
//! * to the runtime: wakers. Waking a task from outside the runtime costs a lock and a write to an eventfd; so while
//!   nobody drives, wakers are kept and woken by the next driver from inside, which costs neither.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use pyo3::{Py, PyAny};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::exchange::Exchange;
use crate::heap;
use crate::poller::Descriptors;

/// How long Python may keep the loop's thread before the standby thread drives the runtime (it may take up to twice that).
const PATIENCE: Duration = Duration::from_millis(10);

/// After so many looks without a turn the standby thread sleeps until it is woken: an idle server uses no CPU.
const IDLE_LOOKS: u32 = 5;

/// Without a request for so long, the worker gives back memory that it does not need.
const QUIET: Duration = Duration::from_secs(1);

/// Something that Python has to do, in the order in which it came up.
pub enum Event {
    /// Start the application for this request.
    Request(Arc<Exchange>),
    /// Set the result of this asyncio future: what it waited for may be there.
    Wake(Py<PyAny>),
    /// Cancel the task that handles this request (timeout or forced stop, not a client that left).
    Cancel(Arc<Exchange>),
    /// The last request of a drain is over: run the lifespan shutdown.
    Stop,
    /// Leave the process with this code.
    Exit(i32),
}

/// Drives the runtime; one per worker process, never dropped before the process ends.
pub struct Driver {
    runtime: Runtime,
    /// Even: the loop's thread drives the runtime. Odd: it runs Python. Changes only under `shared`.
    turn: AtomicU64,
    standby_parked: AtomicBool,
    standby: OnceLock<Thread>,
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    events: Vec<Event>,
    /// Wakers of runtime tasks that Python made ready while nobody drove.
    wakers: Vec<Waker>,
    /// The turn that is waiting for an event.
    turn_waker: Option<Waker>,
    loop_drives: bool,
    standby_drives: bool,
    /// Python wants the runtime back from the standby thread.
    released: bool,
    release_waker: Option<Waker>,
}

impl Driver {
    /// Builds the runtime and starts the standby thread, which drives until the first [`Driver::turn`].
    ///
    /// # Errors
    /// When the operating system refuses an epoll instance or a thread.
    pub fn start() -> io::Result<Arc<Self>> {
        let driver = Arc::new(Self {
            runtime: Builder::new_current_thread().enable_all().build()?,
            turn: AtomicU64::new(1),
            standby_parked: AtomicBool::new(false),
            standby: OnceLock::new(),
            shared: Mutex::default(),
        });
        let for_standby = Arc::clone(&driver);
        let thread = thread::Builder::new()
            .name("pounce-standby".to_owned())
            .stack_size(1 << 20)
            .spawn(move || for_standby.stand_by())?;
        // The thread was just started and nobody else sets it.
        let _ = driver.standby.set(thread.thread().clone());
        Ok(driver)
    }

    /// For spawning onto the runtime and for entering its context.
    pub fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // Nothing panics while the lock is held; if it ever did, the queues are still whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands `event` to Python, at the end of the present turn or of the next one.
    pub fn push(&self, event: Event) {
        self.push_all(std::iter::once(event));
    }

    /// As [`Driver::push`], for several.
    pub fn push_all(&self, events: impl IntoIterator<Item = Event>) {
        let waker = {
            let mut shared = self.shared();
            shared.events.extend(events);
            shared.turn_waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes a task of the runtime, from any thread.
    pub fn wake(&self, waker: Waker) {
        {
            let mut shared = self.shared();
            if !shared.loop_drives && !shared.standby_drives {
                shared.wakers.push(waker);
                return;
            }
        }
        waker.wake();
    }

    /// Runs `future` on the calling thread together with the runtime's tasks. For start-up; not from Python callbacks.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let wakers = self.begin_driving();
        for waker in wakers {
            waker.wake();
        }
        let output = self.runtime.block_on(future);
        self.end_driving();
        output
    }

    /// Drives the runtime until there is an event for Python, one of asyncio's descriptors is ready or its timer
    /// has run out; with `block` false only as long as there is something to do. Events are appended to `events`.
    pub fn turn(&self, descriptors: &Descriptors, block: bool, events: &mut Vec<Event>) -> Woken {
        let wakers = self.begin_driving();
        let woken = self.runtime.block_on(Turn {
            driver: self,
            descriptors,
            block,
            wakers,
            events,
            timer: false,
            first_poll: true,
        });
        self.end_driving();
        woken
    }

    fn begin_driving(&self) -> Vec<Waker> {
        let mut shared = self.shared();
        self.turn.fetch_add(1, Ordering::SeqCst);
        shared.loop_drives = true;
        if shared.standby_drives {
            shared.released = true;
            let waker = shared.release_waker.take();
            let wakers = std::mem::take(&mut shared.wakers);
            drop(shared);
            if let Some(waker) = waker {
                waker.wake();
            }
            return wakers;
        }
        std::mem::take(&mut shared.wakers)
    }

    fn end_driving(&self) {
        let mut shared = self.shared();
        shared.loop_drives = false;
        shared.turn_waker = None;
        self.turn.fetch_add(1, Ordering::SeqCst);
        drop(shared);
        // Pairs with the store in `stand_by`: either it sees the new turn or this sees it parked.
        if self.standby_parked.load(Ordering::SeqCst)
            && let Some(standby) = self.standby.get()
        {
            standby.unpark();
        }
    }

    fn stand_by(&self) {
        let mut idle_looks = 0;
        loop {
            let seen = self.turn.load(Ordering::SeqCst);
            if is_driving(seen) && idle_looks >= IDLE_LOOKS {
                self.standby_parked.store(true, Ordering::SeqCst);
                if self.turn.load(Ordering::SeqCst) == seen {
                    thread::park_timeout(QUIET);
                }
                if self.turn.load(Ordering::SeqCst) == seen {
                    heap::give_back();
                    thread::park();
                }
                self.standby_parked.store(false, Ordering::SeqCst);
                idle_looks = 0;
                continue;
            }
            thread::sleep(PATIENCE);
            let now = self.turn.load(Ordering::SeqCst);
            if now != seen {
                idle_looks = 0;
            } else if is_driving(seen) {
                idle_looks += 1;
            } else {
                self.stand_in(seen);
            }
        }
    }

    /// Drives the runtime in place of the loop's thread, unless that thread is no longer at turn `seen`.
    fn stand_in(&self, seen: u64) {
        let wakers = {
            let mut shared = self.shared();
            if self.turn.load(Ordering::SeqCst) != seen {
                return;
            }
            shared.standby_drives = true;
            shared.released = false;
            std::mem::take(&mut shared.wakers)
        };
        self.runtime.block_on(async {
            for waker in wakers {
                waker.wake();
            }
            std::future::poll_fn(|cx| {
                let mut shared = self.shared();
                if shared.released {
                    return Poll::Ready(());
                }
                set_waker(&mut shared.release_waker, cx);
                Poll::Pending
            })
            .await;
        });
        self.shared().standby_drives = false;
    }
}

/// Whether the loop's thread drives the runtime at this turn; see [`Driver::turn`].
fn is_driving(turn: u64) -> bool {
    turn.is_multiple_of(2)
}

/// Why a turn ended, besides its events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Woken {
    /// At least one of asyncio's descriptors may be ready.
    pub descriptors: bool,
    /// The time asyncio asked for has passed.
    pub timer: bool,
}

struct Turn<'a> {
    driver: &'a Driver,
    descriptors: &'a Descriptors,
    block: bool,
    wakers: Vec<Waker>,
    events: &'a mut Vec<Event>,
    /// Whether the timer went off at an earlier poll: it says so only once.
    timer: bool,
    first_poll: bool,
}

impl Future for Turn<'_> {
    type Output = Woken;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Woken> {
        let this = &mut *self;
        for waker in this.wakers.drain(..) {
            waker.wake();
        }
        let descriptors = this.descriptors.poll_ready(cx);
        this.timer |= this.descriptors.poll_timer(cx);
        let mut shared = this.driver.shared();
        let something = !this.block || descriptors || this.timer || !shared.events.is_empty();
        if something && !this.first_poll {
            this.events.append(&mut shared.events);
            return Poll::Ready(Woken { descriptors, timer: this.timer });
        }
        if something {
            // Never back to Python before the tasks woken above (responses to write) and the sockets had a turn.
            cx.waker().wake_by_ref();
        } else {
            set_waker(&mut shared.turn_waker, cx);
        }
        this.first_poll = false;
        Poll::Pending
    }
}

/// Stores the waker of `cx`, unless what is stored wakes the same task.
pub fn set_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}
