//! What the parts of one connection share, and what all connections of one server share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use http::StatusCode;
use pounce_core::connection::{Connection, Ending, Phase, Role, State};
use pounce_core::{Instant, Policy};

use crate::app::PeerAddr;
use crate::clock::Clock;

/// How a server answers, apart from its policy.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The path that is answered here, without the application: 200 while serving, 503 from the signal on.
    pub health_check_path: Option<String>,
    /// One line for each response.
    pub access_log: bool,
    /// Longest request body, in bytes. `None`: no limit.
    pub max_body_size: Option<u64>,
    /// Most header fields of a request.
    pub max_headers: usize,
    /// Longest request head, in bytes.
    pub max_header_size: usize,
    /// Whether responses get a `Date`. A simulator says no: it is the one place where hyper reads the wall clock.
    pub date_header: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        ServeOptions {
            health_check_path: None,
            access_log: false,
            max_body_size: None,
            max_headers: 100,
            max_header_size: 64 * 1024,
            date_header: true,
        }
    }
}

/// What all connections of one worker share. Also of the supervisor, for those it answers itself.
pub(crate) struct Serving {
    pub policy: Policy,
    pub options: ServeOptions,
    pub clock: Clock,
    /// The number in the log; `None` in the supervisor.
    pub worker: Option<u32>,
    /// Requests so far.
    pub requests: AtomicU64,
    /// The server leaves, and not this worker alone.
    not_ready: AtomicBool,
    registry: Mutex<Registry>,
}

struct Registry {
    phase: Phase,
    next: u64,
    connections: BTreeMap<u64, Arc<Shared>>,
}

impl Serving {
    pub fn new(policy: Policy, options: ServeOptions, clock: Clock, worker: Option<u32>) -> Arc<Serving> {
        let registry = Registry { phase: Phase::Serving, next: 0, connections: BTreeMap::new() };
        Arc::new(Serving {
            policy,
            options,
            clock,
            worker,
            requests: AtomicU64::new(0),
            not_ready: AtomicBool::new(false),
            registry: Mutex::new(registry),
        })
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection. In the same lock as [`Serving::set_phase`], so that no phase passes it by.
    pub fn register(self: &Arc<Serving>, role: Role, peer: PeerAddr, local: PeerAddr) -> Arc<Shared> {
        let now = self.clock.now();
        let mut registry = self.registry();
        let id = registry.next;
        registry.next += 1;
        let machine = Connection::new(&self.policy, role, registry.phase, now);
        let shared = Arc::new(Shared {
            id,
            peer,
            local,
            serving: Arc::clone(self),
            state: Mutex::new(ConnectionState {
                machine,
                now,
                polling: false,
                waker: None,
                ending: None,
                fault: None,
                peer_ended: false,
                swallowed: false,
                held: false,
                body_left: BodyLeft::None,
                both_framings: false,
                cut_unframed: false,
                probe_write: false,
                close_all: false,
            }),
        });
        registry.connections.insert(id, Arc::clone(&shared));
        shared
    }

    /// Forgets a closed connection.
    pub fn forget(&self, shared: &Shared) {
        self.registry().connections.remove(&shared.id);
    }

    /// The server leaves: readiness says no from here on.
    pub fn set_not_ready(&self) {
        self.not_ready.store(true, Ordering::Relaxed);
    }

    /// Whether this is a worker, of a server that stays.
    pub fn is_ready(&self) -> bool {
        self.worker.is_some() && !self.not_ready.load(Ordering::Relaxed)
    }

    /// Tells every connection of `phase`, those to come too.
    pub fn set_phase(&self, phase: Phase) {
        let now = self.clock.now();
        let mut registry = self.registry();
        registry.phase = registry.phase.max(phase);
        for shared in registry.connections.values() {
            if pounce_core::planted!(LostWakeup) {
                shared.lock().machine.on_phase(now, phase);
                continue;
            }
            shared.change(|state| state.machine.on_phase(now, phase));
        }
    }

    /// Closes every connection that is left.
    pub fn close_all(&self) {
        for shared in self.registry().connections.values() {
            shared.change(|state| state.close_all = true);
        }
    }

    /// Connections that are open, and those of them on which a request is under way.
    pub fn counts(&self) -> (u64, u64) {
        let registry = self.registry();
        let active = registry.connections.values().filter(|shared| shared.lock().machine.is_active()).count();
        (registry.connections.len() as u64, active as u64)
    }

    pub fn phase(&self) -> Phase {
        self.registry().phase
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// What hyper, the application and the connection's task share of one connection.
pub(crate) struct Shared {
    id: u64,
    pub peer: PeerAddr,
    pub local: PeerAddr,
    pub serving: Arc<Serving>,
    state: Mutex<ConnectionState>,
}

pub(crate) struct ConnectionState {
    pub machine: Connection,
    /// The time of the poll that runs; see [`Shared::now`].
    now: Instant,
    /// The connection's task is being polled and will look at the machine afterwards.
    pub polling: bool,
    waker: Option<Waker>,
    /// Why the running request was ended by the server.
    pub ending: Option<Ending>,
    /// The request's body cannot be read on; the answer is this.
    pub fault: Option<StatusCode>,
    pub peer_ended: bool,
    /// A read between messages took bytes, or the peer's end, that hyper has not seen.
    pub swallowed: bool,
    /// Bytes of a further request are held back.
    pub held: bool,
    pub body_left: BodyLeft,
    /// The head of the running request names both message framings, of which hyper shows one.
    pub both_framings: bool,
    /// A response was cut whose end the client could only have told by the connection's.
    pub cut_unframed: bool,
    /// The machine wants to know whether the peer takes bytes that the socket has already.
    pub probe_write: bool,
    pub close_all: bool,
}

/// What is left to be read of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLeft {
    None,
    Bytes(u64),
    /// Chunked, and its last chunk or trailer is not wholly read.
    Chunked,
}

/// What a read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Head,
    Body,
    /// A request runs and all of it was read.
    Nothing,
    /// The connection is over.
    Over,
}

impl ConnectionState {
    /// Whether a further request may be there already, so that this response must not be the last.
    pub fn pipelined(&self) -> bool {
        self.held
    }

    pub fn reading(&self) -> Reading {
        let body = self.body_left != BodyLeft::None;
        match self.machine.state() {
            State::Fresh | State::Idle | State::ReadingHead => Reading::Head,
            State::InFlight | State::Streaming if body => Reading::Body,
            State::InFlight | State::Streaming => Reading::Nothing,
            State::Flushing if body => Reading::Body,
            State::Flushing => Reading::Head,
            State::Closing | State::Closed => Reading::Over,
        }
    }
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time: that of the poll that runs, or, outside of one, the clock's.
    pub fn now(&self, state: &ConnectionState) -> Instant {
        if state.polling { state.now } else { self.serving.clock.now() }
    }

    /// Changes the state from outside the connection's task, which then looks at it.
    pub fn change(&self, change: impl FnOnce(&mut ConnectionState)) {
        let mut state = self.lock();
        change(&mut state);
        if let (false, Some(waker)) = (state.polling, &state.waker) {
            waker.wake_by_ref();
        }
    }

    /// Returns the time, and whether the server closes everything.
    pub fn begin_poll(&self, waker: &Waker) -> (Instant, bool) {
        let now = self.serving.clock.now();
        let mut state = self.lock();
        state.now = now;
        state.polling = true;
        if !state.waker.as_ref().is_some_and(|w| w.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        (now, state.close_all)
    }

    /// A change from here on wakes the task.
    pub fn end_poll(&self) {
        self.lock().polling = false;
    }
}
