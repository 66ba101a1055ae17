//! One server: production's supervisor and workers, in simulated processes of one pod.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use pounce_core::Event;
use pounce_core::event::{ExitStatus, Signal};
use pounce_core::protocol::{FromWorker, ToWorker};
use pounce_core::supervisor::Notify;
use pounce_runtime_tokio::ServeOptions;
use pounce_runtime_tokio::listener::{Accepted, Listener, Socket};
use pounce_runtime_tokio::supervisor::{self, Observer, Parts, Signals};
use pounce_runtime_tokio::worker::{HostCommand, connect};
use pounce_runtime_tokio::worker_host::{HostEvent, Order, Orders, WorkerHost, WorkerId};

use crate::app::SimApp;
use crate::channel::Channel;
use crate::lock::lock;
use crate::net::HostId;
use crate::process::Process;
use crate::rng::Rng;
use crate::world::World;

/// One server, from its start to its end.
#[derive(Debug)]
pub struct Instance {
    pub pod: HostId,
    pub supervisor: Process,
    signals: Channel<Signal>,
    world: Arc<World>,
    history: Mutex<History>,
    ended: tokio::sync::Notify,
}

/// What became of it. Times in milliseconds of the run.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub started: u64,
    /// Every worker was ready.
    pub ready: Option<u64>,
    /// The first signal that asked for the end.
    pub stop: Option<u64>,
    /// The supervisor read it. Its budget begins here: a process without CPU cannot know since when a signal waits.
    pub heard: Option<u64>,
    /// A signal asked for a hurried end.
    pub hurried: Option<u64>,
    /// The supervisor said that it shuts down.
    pub drain: Option<u64>,
    /// The supervisor said that all workers have stopped.
    pub all_stopped: Option<u64>,
    /// The deadline came, or somebody's patience ended.
    pub forced: Option<u64>,
    /// A reload, or a worker's retirement, began.
    pub retired: Option<u64>,
    pub gave_up: Option<u64>,
    /// The code it left with.
    pub exited: Option<(u64, i32)>,
    /// SIGKILL from the platform, or a fault.
    pub killed: Option<u64>,
    pub workers: Vec<WorkerRecord>,
    pub frozen: Vec<(u64, u64)>,
    pub no_worker: Option<u64>,
    pub too_many: Option<u64>,
    pub log: Vec<(u64, Event)>,
}

/// One worker process.
#[derive(Clone)]
pub struct WorkerRecord {
    pub number: u32,
    pub generation: u32,
    pub process: Process,
    pub started: u64,
    /// It said that it drains.
    pub draining: Option<u64>,
    /// The deadline that it was told.
    pub drains_until: Option<u64>,
    /// It will never get ready.
    pub hangs: bool,
    pub ended: Option<(u64, WorkerEnd)>,
    /// SIGTERM to it alone.
    terminate: Arc<dyn Fn() + Send + Sync>,
    /// SIGKILL.
    kill: Arc<dyn Fn(WorkerEnd) + Send + Sync>,
}

impl std::fmt::Debug for WorkerRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "worker {} {:?}", self.number, self.ended)
    }
}

/// How a worker process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerEnd {
    Exited(i32),
    KilledBySupervisor,
    KilledByFault,
    KilledByPlatform,
}

/// What workers are to do wrong when they start. Shared by all instances of a pod.
#[derive(Debug, Default)]
pub struct BootFaults {
    pub crashes: u32,
    pub hangs: u32,
    /// No process can be started.
    pub no_descriptors: bool,
}

impl Instance {
    /// Starts a server on `listener`.
    pub fn start<L: Listener>(
        world: &Arc<World>,
        pod: HostId,
        listener: L,
        boot_faults: Arc<Mutex<BootFaults>>,
    ) -> Arc<Instance> {
        let seed = world.scenario.seed.0;
        let shuffle = if seed.is_multiple_of(3) { 15 } else { 0 };
        let supervisor = Process::new(world.process_id(), seed, shuffle);
        let instance = Arc::new(Instance {
            pod,
            supervisor: supervisor.clone(),
            signals: Channel::default(),
            world: Arc::clone(world),
            history: Mutex::new(History { started: world.now_ms(), ..History::default() }),
            ended: tokio::sync::Notify::new(),
        });
        world.add_instance(Arc::clone(&instance));
        world.trace.say(format!("pod-{pod}"), "the server starts");
        let policy = world.scenario.server.policy().unwrap_or_default();
        let host = SimHost {
            instance: Arc::clone(&instance),
            workers: BTreeMap::new(),
            exits: Channel::default(),
            rng: Rng::fork(seed, 5000 + supervisor.id()),
            boot_faults,
            shuffle,
        };
        let run = supervisor::run(Parts {
            policy,
            options: options(),
            workers: world.scenario.server.workers,
            settings: String::new(),
            listeners: vec![listener],
            host,
            signals: SimSignals(instance.signals.clone()),
            observer: Log(Arc::clone(&instance)),
            spawn: supervisor.spawner(),
        });
        let this = Arc::clone(&instance);
        supervisor.spawn(Box::pin(async move {
            let code = run.await;
            this.exited(code);
        }));
        instance
    }

    fn say(&self, what: impl Into<String>) {
        self.world.trace.say(format!("pod-{}", self.pod), what);
    }

    fn exited(&self, code: i32) {
        let now = self.world.now_ms();
        let mut history = lock(&self.history);
        if history.killed.is_none() {
            history.exited = Some((now, code));
            drop(history);
            self.say(format!("the server exits with {code}"));
        } else {
            drop(history);
        }
        self.supervisor.exit();
        self.ended.notify_waiters();
    }

    /// Waits for its end, whichever.
    pub async fn wait(&self) {
        loop {
            let notified = self.ended.notified();
            if self.is_over() {
                return;
            }
            notified.await;
        }
    }

    pub fn is_over(&self) -> bool {
        let history = lock(&self.history);
        history.exited.is_some() || history.killed.is_some()
    }

    pub fn history(&self) -> History {
        lock(&self.history).clone()
    }

    pub fn signal(&self, signal: Signal) {
        let now = self.world.now_ms();
        let mut history = lock(&self.history);
        if history.exited.is_some() || history.killed.is_some() {
            return;
        }
        match signal {
            Signal::Term | Signal::Int => {
                // It shuts down by itself when a worker never gets ready.
                if signal == Signal::Int && (history.stop.is_some() || history.drain.is_some()) {
                    history.hurried.get_or_insert(now);
                }
                history.stop.get_or_insert(now);
            }
            Signal::Quit => {
                history.stop.get_or_insert(now);
                history.hurried.get_or_insert(now);
            }
            Signal::Hup => {}
        }
        drop(history);
        self.say(format!("gets {signal}"));
        self.signals.push(signal, 0);
    }

    fn worker(&self, number: u32) -> Option<WorkerRecord> {
        lock(&self.history).workers.iter().rfind(|w| w.number == number && w.process.is_alive()).cloned()
    }

    /// SIGTERM to one worker.
    pub fn terminate_worker(&self, number: u32) {
        if let Some(worker) = self.worker(number) {
            let now = self.world.now_ms();
            lock(&self.history).retired.get_or_insert(now);
            self.say(format!("worker {number} gets SIGTERM"));
            (worker.terminate)();
        }
    }

    /// SIGTERM to every worker: a control group's.
    pub fn terminate_workers(&self) {
        for number in 1..=self.world.scenario.server.workers {
            self.terminate_worker(number);
        }
    }

    /// SIGKILL to one worker.
    pub fn kill_worker(&self, number: u32) {
        if let Some(worker) = self.worker(number) {
            self.say(format!("worker {number} gets SIGKILL"));
            (worker.kill)(WorkerEnd::KilledByFault);
        }
    }

    /// Changes what is known of the worker in `process`.
    fn record(&self, process: &Process, change: impl FnOnce(&mut WorkerRecord)) {
        let mut history = lock(&self.history);
        if let Some(record) = history.workers.iter_mut().find(|w| w.process.id() == process.id()) {
            change(record);
        }
    }

    /// Nobody is left in it but workers that will never get ready.
    pub fn hangs(&self) -> bool {
        let history = lock(&self.history);
        let mut alive = history.workers.iter().filter(|w| w.ended.is_none()).peekable();
        alive.peek().is_some() && alive.all(|w| w.hangs)
    }

    fn end_worker(&self, process: &Process, end: WorkerEnd) {
        let now = self.world.now_ms();
        self.record(process, |record| {
            record.ended.get_or_insert((now, end));
        });
        let mut history = lock(&self.history);
        let anyone = history.workers.iter().any(|w| w.ended.is_none());
        if !anyone {
            history.no_worker.get_or_insert(now);
        }
    }

    /// No CPU for a worker (`Some`) or the supervisor, for a while.
    pub fn freeze(&self, worker: Option<u32>, for_ms: u64) {
        let process = match worker {
            Some(number) => self.worker(number).map(|w| w.process),
            None => Some(self.supervisor.clone()),
        };
        let Some(process) = process else { return };
        let now = self.world.now_ms();
        lock(&self.history).frozen.push((now, now + for_ms));
        self.say(format!(
            "{} gets no CPU for {for_ms} ms",
            worker.map_or("the supervisor".to_owned(), |n| format!("worker {n}"))
        ));
        process.freeze();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(for_ms)).await;
            process.thaw();
        });
    }

    /// SIGKILL to the supervisor. In a container the workers die with it; elsewhere they see the end of the line.
    pub fn kill(&self, and_workers: bool) {
        let now = self.world.now_ms();
        {
            let mut history = lock(&self.history);
            if history.exited.is_some() || history.killed.is_some() {
                return;
            }
            history.killed = Some(now);
        }
        self.say("the server gets SIGKILL");
        self.supervisor.kill();
        if and_workers {
            for worker in self.history().workers {
                (worker.kill)(WorkerEnd::KilledByPlatform);
            }
        }
        self.ended.notify_waiters();
    }
}

/// How the simulated server answers.
pub fn options() -> ServeOptions {
    ServeOptions {
        health_check_path: Some("/health".to_owned()),
        date_header: crate::leaks::date_header(),
        ..ServeOptions::default()
    }
}

struct SimSignals(Channel<Signal>);

impl Signals for SimSignals {
    fn poll_signal(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        match self.0.poll_pop(cx) {
            Poll::Ready(Some(signal)) => Poll::Ready(signal),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

struct Log(Arc<Instance>);

impl Observer for Log {
    fn event(&mut self, event: &Event) {
        let now = self.0.world.now_ms();
        self.0.say(event.to_string());
        crate::marks::hit(event.name());
        let mut history = lock(&self.0.history);
        match event {
            Event::ShutdownRequested { .. } => {
                history.heard.get_or_insert(now);
            }
            Event::ShuttingDown { .. } => {
                history.drain.get_or_insert(now);
            }
            Event::AllStopped => {
                history.all_stopped.get_or_insert(now);
            }
            Event::WorkerForced { .. } | Event::ShutdownCutShort { .. } | Event::KillRequested { .. } => {
                history.forced.get_or_insert(now);
            }
            Event::ReloadStarted { .. } | Event::WorkerRetiring { .. } => {
                history.retired.get_or_insert(now);
            }
            Event::CrashLoop { .. } | Event::WorkerStartFailed { .. } => {
                history.gave_up.get_or_insert(now);
            }
            Event::WorkerDiedStarting { .. } | Event::WorkerStartTimedOut { .. } => {
                history.gave_up.get_or_insert(now);
            }
            Event::TooManyConnections { .. } => {
                history.too_many.get_or_insert(now);
            }
            _ => {}
        }
        history.log.push((now, event.clone()));
    }

    fn notify(&mut self, notify: &Notify) {
        if *notify == Notify::Ready {
            let now = self.0.world.now_ms();
            lock(&self.0.history).ready.get_or_insert(now);
        }
    }
}

/// Starts workers as processes of the pod.
struct SimHost<Io> {
    instance: Arc<Instance>,
    workers: BTreeMap<WorkerId, SimWorker<Io>>,
    exits: Channel<(WorkerId, ExitStatus)>,
    rng: Rng,
    boot_faults: Arc<Mutex<BootFaults>>,
    shuffle: u64,
}

struct SimWorker<Io> {
    process: Process,
    orders: Channel<Order<Io>>,
    reports: Channel<FromWorker>,
    /// It is gone; said when its last message was handed out.
    ended: Option<ExitStatus>,
}

impl<Io> Drop for SimHost<Io> {
    fn drop(&mut self) {
        for worker in self.workers.values() {
            worker.orders.close();
        }
    }
}

/// A worker's end of the control socket.
struct SimOrders<Io> {
    instance: Arc<Instance>,
    process: Process,
    orders: Channel<Order<Io>>,
    reports: Channel<FromWorker>,
    rng: Rng,
}

impl<Io: Send + 'static> Orders for SimOrders<Io> {
    type Io = Io;

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Order<Io>>>> {
        let order = self.orders.poll_pop(cx);
        if let Poll::Ready(Some(Order::Message(message))) = &order
            && let ToWorker::Drain { remaining } | ToWorker::Retire { remaining } = message
        {
            let until = self.instance.world.now_ms() + remaining.as_millis() as u64;
            self.instance.record(&self.process, |record| {
                record.drains_until = Some(record.drains_until.map_or(until, |before| before.min(until)));
            });
        }
        order.map(Ok)
    }

    fn send(&mut self, message: &FromWorker) {
        if matches!(message, FromWorker::Draining { .. }) {
            let now = self.instance.world.now_ms();
            self.instance.record(&self.process, |record| {
                record.draining.get_or_insert(now);
            });
        }
        let delay = self.rng.below(2);
        self.reports.push(message.clone(), delay);
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

impl<Io: Socket> WorkerHost for SimHost<Io> {
    type Io = Io;

    fn spawn(&mut self, worker: WorkerId, number: u32, generation: u32) -> io::Result<()> {
        if lock(&self.boot_faults).no_descriptors {
            crate::marks::hit("a worker's process could not be started");
            // EMFILE
            return Err(io::Error::from_raw_os_error(24));
        }
        let world = Arc::clone(&self.instance.world);
        let seed = world.scenario.seed.0;
        let process = Process::new(world.process_id(), seed, self.shuffle);
        let (orders, reports) = (Channel::default(), Channel::default());
        let end = SimOrders {
            instance: Arc::clone(&self.instance),
            process: process.clone(),
            orders: orders.clone(),
            reports: reports.clone(),
            rng: Rng::fork(seed, 6000 + process.id()),
        };
        let terminated = Arc::new(tokio::sync::Notify::new());
        {
            let terminated = Arc::clone(&terminated);
            let (victim, exits, instance) = (process.clone(), self.exits.clone(), Arc::clone(&self.instance));
            let kill = move |by: WorkerEnd| {
                if victim.is_alive() {
                    instance.end_worker(&victim, by);
                    victim.kill();
                    exits.push((worker, ExitStatus::Signal(9)), 1);
                }
            };
            lock(&self.instance.history).workers.push(WorkerRecord {
                number,
                generation,
                process: process.clone(),
                started: world.now_ms(),
                draining: None,
                drains_until: None,
                hangs: false,
                ended: None,
                terminate: Arc::new(move || terminated.notify_one()),
                kill: Arc::new(kill),
            });
        }
        self.workers.insert(worker, SimWorker { process: process.clone(), orders, reports, ended: None });
        let leave = {
            let (process, exits, instance) =
                (process.clone(), self.exits.clone(), Arc::clone(&self.instance));
            move |code: i32| {
                instance.end_worker(&process, WorkerEnd::Exited(code));
                process.exit();
                exits.push((worker, ExitStatus::Code(code)), 1);
            }
        };
        let fork_ms = self.rng.between(1, 3);
        let boot_ms = world.scenario.app.boot.draw(&mut self.rng);
        let shutdown_ms = world.scenario.app.shutdown.draw(&mut self.rng);
        let (crashes, hangs) = {
            let mut faults = lock(&self.boot_faults);
            let crashes = faults.crashes > 0;
            let hangs = !crashes && faults.hangs > 0;
            faults.crashes = faults.crashes.saturating_sub(u32::from(crashes));
            faults.hangs = faults.hangs.saturating_sub(u32::from(hangs));
            (crashes, hangs)
        };
        let (policy, spawner) = (world.scenario.server.policy().unwrap_or_default(), process.spawner());
        let (me, instance) = (process.clone(), Arc::clone(&self.instance));
        process.spawn(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(fork_ms)).await;
            let (handle, _) = match connect(end, spawner).await {
                Ok(connected) => connected,
                Err(_) => return leave(1),
            };
            let (host, task_process, leave_now) = (handle.clone(), me.clone(), leave.clone());
            handle.set_host(move |command| match command {
                HostCommand::Stop => {
                    let host = host.clone();
                    task_process.spawn(Box::pin(async move {
                        tokio::time::sleep(Duration::from_millis(shutdown_ms)).await;
                        host.host_stopped();
                    }));
                }
                HostCommand::Exit { code } => leave_now(code),
            });
            let for_signals = handle.clone();
            me.spawn(Box::pin(async move {
                loop {
                    terminated.notified().await;
                    for_signals.retire_me();
                }
            }));
            if hangs {
                crate::marks::hit("a worker never got ready");
                instance.record(&me, |record| record.hangs = true);
                return;
            }
            tokio::time::sleep(Duration::from_millis(boot_ms)).await;
            // Of two applications that do not start, one says why.
            if crashes && Rng::fork(seed, 9000 + me.id()).chance(50) {
                crate::marks::hit("an application did not start");
                instance.say(format!("the application of worker {number} does not start"));
                return handle.start_failed("ImportError: no module named 'app'".to_owned());
            }
            if crashes {
                crate::marks::hit("a worker died while starting");
                instance.say(format!("worker {number} crashes while it starts"));
                return leave(1);
            }
            let world = Arc::clone(&instance.world);
            let app = SimApp { world, process: me.id() };
            handle.serve(app, policy, options());
        }));
        Ok(())
    }

    fn tell(&mut self, worker: WorkerId, message: &ToWorker) {
        let delay = self.rng.below(2);
        if let Some(to) = self.workers.get(&worker).filter(|w| w.process.is_alive()) {
            to.orders.push(Order::Message(message.clone()), delay);
        }
    }

    fn deal(&mut self, worker: WorkerId, connection: Accepted<Io>) -> Result<(), Accepted<Io>> {
        let delay = self.rng.below(2);
        // Into the socket of a process that is dead but not yet reaped it may still go, and come back with the exit.
        let reachable = |w: &&SimWorker<Io>| w.process.is_alive() || delay == 0;
        match self.workers.get(&worker).filter(reachable) {
            Some(to) => {
                to.orders.push(Order::Deal(connection), delay);
                Ok(())
            }
            None => {
                crate::marks::hit("a deal failed: the worker was gone");
                Err(connection)
            }
        }
    }

    fn kill(&mut self, worker: WorkerId) {
        let Some(id) = self.workers.get(&worker).map(|w| w.process.id()) else { return };
        if let Some(record) = self.instance.history().workers.iter().find(|w| w.process.id() == id) {
            (record.kill)(WorkerEnd::KilledBySupervisor);
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<HostEvent<Io>> {
        while let Poll::Ready(Some((worker, status))) = self.exits.poll_pop(cx) {
            if let Some(worker) = self.workers.get_mut(&worker) {
                worker.ended = Some(status);
            }
        }
        let mut gone = None;
        for (&id, worker) in &mut self.workers {
            if let Poll::Ready(Some(message)) = worker.reports.poll_pop(cx) {
                return Poll::Ready(HostEvent::Message { worker: id, message });
            }
            if worker.ended.is_some() && worker.reports.is_empty() {
                gone = gone.or(Some(id));
            }
        }
        if let Some(id) = gone
            && let Some(worker) = self.workers.remove(&id)
        {
            let undelivered: Vec<Accepted<Io>> = worker
                .orders
                .take_all()
                .into_iter()
                .filter_map(|order| match order {
                    Order::Deal(connection) => Some(connection),
                    Order::Message(_) | Order::Lost => None,
                })
                .collect();
            if !undelivered.is_empty() {
                crate::marks::hit("connections came back from a dead worker");
            }
            // Whoever did not say a code was killed.
            let status = worker.ended.unwrap_or(ExitStatus::Signal(9));
            return Poll::Ready(HostEvent::Exited { worker: id, status, undelivered });
        }
        Poll::Pending
    }
}
