//! What one run knows: its scenario, its trace, its ledger of requests, its server instances.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::http1::Failure;
use crate::instance::Instance;
use crate::net::{ConnId, HostId};
use crate::scenario::Scenario;
use crate::trace::Trace;

/// One try of one request.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub id: u64,
    pub client: usize,
    /// Which of the client's requests.
    pub request: u32,
    pub start_ms: u64,
    pub end_ms: u64,
    pub pod: Option<HostId>,
    pub conn: Option<ConnId>,
    /// The connection had carried another request before.
    pub reused: bool,
    /// Bytes sent on the connection before this request.
    pub offset: u64,
    pub duration_ms: u64,
    /// Sent in one piece with the one before it on its connection.
    pub pipelined: bool,
    pub result: Option<Result<(), Failure>>,
    /// The answer announced the connection's end.
    pub close: bool,
    /// Not the client's last try.
    pub retried: bool,
}

/// What the applications saw of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    pub starts: u32,
    pub process: u64,
    /// When the response head was given to the server, and whether it was draining then.
    pub head: Option<(u64, bool)>,
}

/// What one run knows.
#[derive(Debug)]
pub struct World {
    pub scenario: Scenario,
    pub trace: Trace,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    attempts: Vec<Attempt>,
    served: BTreeMap<u64, Served>,
    instances: Vec<Arc<Instance>>,
    next_process: u64,
    problems: Vec<String>,
    probes: Vec<Probe>,
}

/// A readiness probe with an answer.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub pod: HostId,
    pub sent_ms: u64,
    pub answered_ms: u64,
    pub ready: bool,
    /// Not for a fault of the connection's: the answer was 503.
    pub refused: bool,
}

impl World {
    pub fn new(scenario: Scenario, trace: Trace) -> World {
        World { scenario, trace, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now_ms(&self) -> u64 {
        self.trace.now_ms()
    }

    /// A number for a process, unique in the run.
    pub fn process_id(&self) -> u64 {
        let mut inner = self.inner();
        inner.next_process += 1;
        inner.next_process
    }

    pub fn add_instance(&self, instance: Arc<Instance>) {
        self.inner().instances.push(instance);
    }

    pub fn instances(&self) -> Vec<Arc<Instance>> {
        self.inner().instances.clone()
    }

    /// Something that must never happen did.
    pub fn problem(&self, what: impl Into<String>) {
        let what = what.into();
        self.trace.say("ORACLE", what.clone());
        self.inner().problems.push(what);
    }

    pub fn take_problems(&self) -> Vec<String> {
        std::mem::take(&mut self.inner().problems)
    }

    /// Opens an attempt and returns its id, which is its index.
    pub fn begin(&self, mut attempt: Attempt) -> u64 {
        let mut inner = self.inner();
        attempt.id = inner.attempts.len() as u64;
        attempt.start_ms = self.trace.now_ms();
        let id = attempt.id;
        inner.attempts.push(attempt);
        id
    }

    pub fn change(&self, id: u64, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.inner().attempts.get_mut(id as usize) {
            change(attempt);
        }
    }

    pub fn end(&self, id: u64, result: Result<bool, Failure>) {
        let now = self.trace.now_ms();
        let line = {
            let mut inner = self.inner();
            let Some(attempt) = inner.attempts.get_mut(id as usize) else { return };
            attempt.end_ms = now;
            let pod = attempt.pod.map_or_else(|| "no pod".to_owned(), |pod| format!("pod-{pod}"));
            let kind = if attempt.reused { "kept connection" } else { "new connection" };
            let outcome = match &result {
                Ok(close) => {
                    attempt.close = *close;
                    if *close { "✓ and close".to_owned() } else { "✓".to_owned() }
                }
                Err(failure) => format!("✗ {failure:?}"),
            };
            attempt.result = Some(result.map(|_| ()));
            (format!("client-{}", attempt.client), format!("r{id} to {pod}, {kind}: {outcome}"))
        };
        self.trace.say(line.0, line.1);
    }

    pub fn attempts(&self) -> Vec<Attempt> {
        self.inner().attempts.clone()
    }

    pub fn started(&self, id: u64, process: u64) {
        let mut inner = self.inner();
        let served = inner.served.entry(id).or_default();
        served.starts += 1;
        served.process = process;
    }

    pub fn head(&self, id: u64, draining: bool) {
        let now = self.trace.now_ms();
        self.inner().served.entry(id).or_default().head = Some((now, draining));
    }

    pub fn served(&self) -> BTreeMap<u64, Served> {
        self.inner().served.clone()
    }

    pub fn probed(&self, probe: Probe) {
        self.inner().probes.push(probe);
    }

    pub fn probes(&self) -> Vec<Probe> {
        self.inner().probes.clone()
    }
}
