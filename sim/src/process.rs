//! A simulated process: its tasks, which end together when it is killed and stand still while it is frozen.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use pounce_runtime_tokio::worker::Spawn;

use crate::lock::lock;
use crate::rng::Rng;

thread_local! {
    static CURRENT: Cell<Option<u64>> = const { Cell::new(None) };
    static KILLING: Cell<bool> = const { Cell::new(false) };
}

/// The process whose task is being polled.
pub fn current() -> Option<u64> {
    CURRENT.get()
}

/// Whether what is being dropped belongs to a process that is being killed.
pub fn killing() -> bool {
    KILLING.get()
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A process. Cheap to clone; it ends by [`Process::kill`] or [`Process::exit`], not by being dropped.
#[derive(Clone)]
pub struct Process(Arc<Inner>);

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Process({})", self.0.id)
    }
}

struct Inner {
    id: u64,
    state: Mutex<State>,
}

struct State {
    alive: bool,
    frozen: bool,
    thaw: Vec<Waker>,
    tasks: BTreeMap<u64, Arc<Slot>>,
    next_task: u64,
    /// In so many of 100 polls the task has to wait for another turn.
    shuffle_percent: u64,
    rng: Rng,
}

struct Slot {
    /// Empty while it is polled.
    task: Mutex<Option<Task>>,
    waker: Mutex<Option<Waker>>,
}

impl Process {
    /// `id` must be unique in a run.
    pub fn new(id: u64, seed: u64, shuffle_percent: u64) -> Process {
        let state = State {
            alive: true,
            frozen: false,
            thaw: Vec::new(),
            tasks: BTreeMap::new(),
            next_task: 0,
            shuffle_percent,
            rng: Rng::fork(seed, 1000 + id),
        };
        Process(Arc::new(Inner { id, state: Mutex::new(state) }))
    }

    pub fn id(&self) -> u64 {
        self.0.id
    }

    pub fn is_alive(&self) -> bool {
        lock(&self.0.state).alive
    }

    /// Starts a task of this process on the runtime of the calling one.
    pub fn spawn(&self, task: Task) {
        let slot = Arc::new(Slot { task: Mutex::new(Some(task)), waker: Mutex::new(None) });
        let id = {
            let mut state = lock(&self.0.state);
            if !state.alive {
                return;
            }
            let id = state.next_task;
            state.next_task += 1;
            state.tasks.insert(id, Arc::clone(&slot));
            id
        };
        tokio::spawn(Running { process: self.clone(), id, slot });
    }

    /// For the drivers.
    pub fn spawner(&self) -> Spawn {
        let process = self.clone();
        Arc::new(move |task| process.spawn(task))
    }

    /// The process leaves: every task ends, every descriptor is closed. Nothing if it is gone already.
    pub fn exit(&self) {
        self.end(false);
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.end(true);
    }

    fn end(&self, killed: bool) {
        let slots = {
            let mut state = lock(&self.0.state);
            if !state.alive {
                return;
            }
            state.alive = false;
            state.thaw.drain(..).for_each(Waker::wake);
            std::mem::take(&mut state.tasks)
        };
        let tasks: Vec<Task> = slots.values().filter_map(|slot| lock(&slot.task).take()).collect();
        let before = KILLING.replace(killed);
        drop(tasks);
        KILLING.set(before);
        for slot in slots.values() {
            if let Some(waker) = lock(&slot.waker).take() {
                waker.wake();
            }
        }
    }

    /// SIGSTOP, or no CPU for it.
    pub fn freeze(&self) {
        lock(&self.0.state).frozen = true;
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        let mut state = lock(&self.0.state);
        state.frozen = false;
        state.thaw.drain(..).for_each(Waker::wake);
    }
}

struct Running {
    process: Process,
    id: u64,
    slot: Arc<Slot>,
}

impl Future for Running {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        {
            let mut state = lock(&self.process.0.state);
            if !state.alive {
                return Poll::Ready(());
            }
            if state.frozen {
                state.thaw.push(cx.waker().clone());
                return Poll::Pending;
            }
            let percent = state.shuffle_percent;
            if percent > 0 && state.rng.chance(percent) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let Some(mut task) = lock(&self.slot.task).take() else { return Poll::Ready(()) };
        *lock(&self.slot.waker) = Some(cx.waker().clone());
        let before = CURRENT.replace(Some(self.process.0.id));
        let polled = task.as_mut().poll(cx);
        CURRENT.set(before);
        let mut state = lock(&self.process.0.state);
        if polled.is_ready() {
            state.tasks.remove(&self.id);
        }
        let alive = state.alive;
        drop(state);
        if polled.is_pending() && alive {
            *lock(&self.slot.task) = Some(task);
            return Poll::Pending;
        }
        drop(task);
        Poll::Ready(())
    }
}
