//! A pod: a supervisor and its workers, each the real machine with what its driver does around it.

use std::collections::VecDeque;
use std::time::Duration;

use pounce_core::connection::{Phase, Role};
use pounce_core::event::{ExitStatus, Signal};
use pounce_core::invariants::{
    SupervisorObserver, Violation, WorkerObserver, check_supervisor, check_worker,
};
use pounce_core::protocol::{FromWorker, ToWorker};
use pounce_core::supervisor::{Input, Output, Placement, exit};
use pounce_core::worker::{Input as WorkerInput, Output as WorkerOutput};
use pounce_core::{Instant, Supervisor, Worker};

use super::ledger::Cause;
use super::plan::{Strategy, Trouble};
use super::socket::{Down, Place, Why};
use super::traffic::CONNECT_TIMEOUT;
use super::world::{Event, PodId, SocketId, World};

/// How long a message between supervisor and worker takes at most.
const CONTROL_DELAY_MAX: Duration = Duration::from_micros(200);
/// Whether the core's invariants are watched at every step: in every build but the fast one.
const OBSERVED: bool = cfg!(debug_assertions);
/// The number of the invariant that the server leaves in time.
const LEAVES_IN_TIME: u8 = 17;
/// Turns that a driver takes at one instant before it is called a livelock.
const MOST_TURNS: u32 = 10_000;
/// From a process's end to the moment its parent hears of it.
const REAP_DELAY: Duration = Duration::from_micros(100);

/// What the container of a pod does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    /// Not started yet.
    Pending,
    /// Started; nothing listens yet.
    Starting,
    Running,
    Exited,
}

/// The port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Closed,
    Open,
    /// SYNs are dropped.
    Refusing,
}

#[derive(Debug)]
pub(crate) struct Pod {
    pub new: bool,
    pub container: Container,
    // What the platform knows.
    pub ready_at: Option<Instant>,
    pub deleted_at: Option<Instant>,
    pub probed: u32,
    // What the node does.
    pub term_at: Option<Instant>,
    pub kill_at: Option<Instant>,
    // The server.
    pub supervisor: Option<Supervisor>,
    observer: Option<SupervisorObserver>,
    /// It was told something since its last word.
    told: bool,
    pub workers: Vec<WorkerProcess>,
    pub port: Port,
    accept_queue: VecDeque<SocketId>,
    /// Accepted, and nobody can take them for the moment.
    held: VecDeque<SocketId>,
    pub signals: VecDeque<Signal>,
    front_desk: Vec<SocketId>,
    front_phase: Phase,
    refused_closed: u32,
    armed: Option<Instant>,
    woken: bool,
    pub exit_code: Option<i32>,
    pub exited_at: Option<Instant>,
    // Faults.
    frozen_until: Instant,
    was_frozen: Duration,
    pub stalled_until: Instant,
    no_accept_until: Instant,
    /// SIGINT or SIGQUIT cut its shutdown short.
    pub cut_short: bool,
    boot_crashes: u32,
    boot_hangs: u32,
}

#[derive(Debug)]
pub(crate) struct WorkerProcess {
    id: u64,
    number: u32,
    machine: Option<Worker>,
    observer: Option<WorkerObserver>,
    told: bool,
    alive: bool,
    reaped: bool,
    /// When its end is heard of, and how it ended.
    ended: Option<(Instant, ExitStatus)>,
    inbox: VecDeque<(Instant, Order)>,
    outbox: VecDeque<(Instant, FromWorker)>,
    connections: Vec<SocketId>,
    phase: Phase,
    pub requests: u64,
    mail: Vec<WorkerInput>,
    armed: Option<Instant>,
    woken: bool,
    frozen_until: Instant,
    boot: Boot,
}

/// What becomes of a worker that is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Boot {
    Succeeds,
    Crashes,
    Hangs,
}

#[derive(Clone, Debug)]
enum Order {
    Message(ToWorker),
    Deal(SocketId),
}

impl Pod {
    pub fn new(new: bool) -> Pod {
        Pod {
            new,
            container: Container::Pending,
            ready_at: None,
            deleted_at: None,
            probed: 0,
            term_at: None,
            kill_at: None,
            supervisor: None,
            observer: None,
            told: false,
            workers: Vec::new(),
            port: Port::Closed,
            accept_queue: VecDeque::new(),
            held: VecDeque::new(),
            signals: VecDeque::new(),
            front_desk: Vec::new(),
            front_phase: Phase::Serving,
            refused_closed: 0,
            armed: None,
            woken: false,
            exit_code: None,
            exited_at: None,
            frozen_until: Instant::ZERO,
            was_frozen: Duration::ZERO,
            stalled_until: Instant::ZERO,
            no_accept_until: Instant::ZERO,
            cut_short: false,
            boot_crashes: 0,
            boot_hangs: 0,
        }
    }

    /// Nothing is left to happen to it before the world may end.
    pub fn is_settled(&self) -> bool {
        self.deleted_at.is_none() || self.container == Container::Exited
    }

    fn freeze(&mut self, now: Instant, lasts: Duration) {
        self.frozen_until = self.frozen_until.max(now + lasts);
        self.was_frozen += lasts;
    }

    /// A request would be answered.
    pub fn serves(&self) -> bool {
        self.container == Container::Running
            && self.supervisor.as_ref().is_some_and(|s| s.wants_accept() && s.deadline().is_none())
    }
}

impl World<'_> {
    pub fn pod_name(&self, pod: PodId) -> String {
        format!("pod-{}", pod + 1)
    }

    /// Until when the pod stands still, if it does.
    pub fn frozen(&self, pod: PodId) -> Option<Instant> {
        let until = self.pods[pod as usize].frozen_until;
        (until > self.now).then_some(until)
    }

    /// The same for one worker.
    pub fn frozen_worker(&self, pod: PodId, worker: u32) -> Option<Instant> {
        let until = self.pods[pod as usize].workers[worker as usize].frozen_until;
        (until > self.now).then_some(until)
    }

    /// The container's process is up: its port listens, the workers are started.
    pub fn start_process(&mut self, pod: PodId) {
        let (policy, workers, now) = (self.plan.policy, self.plan.workers, self.now);
        let state = &mut self.pods[pod as usize];
        if state.container != Container::Starting {
            return;
        }
        state.container = Container::Running;
        state.port = Port::Open;
        state.supervisor = Some(Supervisor::new(policy, workers, now));
        state.observer = OBSERVED.then(|| SupervisorObserver::new(now));
        state.accept_queue.extend(self.kept.drain(..));
        for socket in &state.accept_queue {
            self.sockets[*socket as usize].pod = pod;
        }
        self.line(|| (format!("pod-{}", pod + 1), format!("listens, {workers} worker(s) start")));
        self.wake(pod);
    }

    /// A SYN reaches the pod.
    pub fn syn(&mut self, id: SocketId) {
        let pod = self.sockets[id as usize].pod;
        let state = &mut self.pods[pod as usize];
        if state.stalled_until > self.now {
            let at = state.stalled_until;
            return self.at(at, Event::Syn(id));
        }
        match state.port {
            Port::Open => {
                state.accept_queue.push_back(id);
                self.sockets[id as usize].place = Place::AcceptQueue;
                let back = self.latency();
                self.after(back, Event::Connected(id));
                self.wake(pod);
            }
            Port::Refusing => {
                // The client's kernel sends it again after 1, 2, 4 s (tcp(7), tcp_syn_retries).
                let socket = &mut self.sockets[id as usize];
                let again = Duration::from_secs(1 << socket.syns.min(6));
                socket.syns += 1;
                if socket.syns == 1 {
                    self.after(CONNECT_TIMEOUT, Event::ConnectTimeout(id));
                }
                self.after(again, Event::Syn(id));
            }
            Port::Closed if self.plan.socket_activation => {
                self.kept.push_back(id);
                self.sockets[id as usize].place = Place::AcceptQueue;
                let back = self.latency();
                self.after(back, Event::Connected(id));
            }
            Port::Closed => {
                let back = self.latency();
                self.after(back, Event::Refused(id));
            }
        }
    }

    /// Wakes the supervisor's task.
    pub fn wake(&mut self, pod: PodId) {
        if let Some(thaw) = self.frozen(pod) {
            let state = &mut self.pods[pod as usize];
            if !state.woken {
                state.woken = true;
                self.at(thaw, Event::Wake(pod));
            }
            return;
        }
        let now = self.now;
        let state = &mut self.pods[pod as usize];
        state.woken = false;
        if state.armed.is_some_and(|at| at <= now) {
            state.armed = None;
        }
        let Some(mut machine) = state.supervisor.take() else { return };
        if state.exit_code.is_some() {
            state.supervisor = Some(machine);
            return;
        }
        for turn in 0.. {
            if turn > MOST_TURNS {
                self.broken(|| format!("the supervisor of pod-{} does not come to rest", pod + 1));
                break;
            }
            let took = self.take_inputs(pod, &mut machine);
            let did = self.obey(pod, &mut machine);
            if self.pods[pod as usize].exit_code.is_some() {
                break;
            }
            if !took && !did {
                break;
            }
        }
        self.check(pod, &machine);
        self.pods[pod as usize].supervisor = Some(machine);
        if let Some(code) = self.pods[pod as usize].exit_code {
            self.exited(pod, code);
        }
    }

    fn take_inputs(&mut self, pod: PodId, machine: &mut Supervisor) -> bool {
        let now = self.now;
        let mut any = false;
        if let Some(signal) = self.pods[pod as usize].signals.pop_front() {
            // What a signal calls for is done before the next one is told: of a SIGHUP and a SIGTERM that come at once, the
            // reload's workers would else be started after the shutdown began.
            self.tell_supervisor(pod, machine, Input::Signal(signal));
            return true;
        }
        for index in 0..self.pods[pod as usize].workers.len() {
            loop {
                let worker = &mut self.pods[pod as usize].workers[index];
                if worker.reaped {
                    break;
                }
                if worker.outbox.front().is_some_and(|(at, _)| *at <= now)
                    && let Some((_, message)) = worker.outbox.pop_front()
                {
                    let input = Input::Worker { worker: worker.id, message };
                    self.tell_supervisor(pod, machine, input);
                    any = true;
                    continue;
                }
                match worker.ended {
                    Some((at, status)) if at <= now && worker.outbox.is_empty() => {
                        worker.reaped = true;
                        let id = worker.id;
                        let undelivered: Vec<SocketId> = std::mem::take(&mut worker.inbox)
                            .into_iter()
                            .filter_map(|(_, order)| match order {
                                Order::Deal(socket) => Some(socket),
                                Order::Message(_) => None,
                            })
                            .collect();
                        let input =
                            Input::Exited { worker: id, status, undelivered: undelivered.len() as u64 };
                        self.tell_supervisor(pod, machine, input);
                        undelivered.into_iter().for_each(|socket| self.place(pod, machine, socket));
                        any = true;
                    }
                    _ => {}
                }
                break;
            }
        }
        for _ in 0..std::mem::take(&mut self.pods[pod as usize].refused_closed) {
            self.tell_supervisor(pod, machine, Input::RefusedClosed);
            any = true;
        }
        any | self.accept(pod, machine)
    }

    fn accept(&mut self, pod: PodId, machine: &mut Supervisor) -> bool {
        if !machine.wants_accept() {
            return false;
        }
        let pause = self.pods[pod as usize].no_accept_until;
        if pause > self.now {
            self.at(pause, Event::Wake(pod));
            return false;
        }
        let to_the_end = machine.wants_backlog_empty();
        let held = std::mem::take(&mut self.pods[pod as usize].held);
        let mut any = !held.is_empty();
        held.into_iter().for_each(|socket| self.place(pod, machine, socket));
        while let Some(socket) = self.pods[pod as usize].accept_queue.pop_front() {
            self.place(pod, machine, socket);
            any = true;
        }
        if to_the_end {
            self.tell_supervisor(pod, machine, Input::AcceptBlocked);
            any = true;
        }
        any
    }

    fn place(&mut self, pod: PodId, machine: &mut Supervisor, socket: SocketId) {
        let mut placement = machine.on_accepted(self.now);
        loop {
            self.observe(pod, |observer| observer.placed(machine, placement));
            match placement {
                Placement::Worker(id) => {
                    let index = self.pods[pod as usize].workers.iter().position(|w| w.id == id && !w.reaped);
                    match index {
                        Some(index) => {
                            self.sockets[socket as usize].place = Place::Dealt;
                            self.post(pod, index as u32, Order::Deal(socket));
                            return;
                        }
                        None => {
                            self.observe(pod, |observer| {
                                observer.deal_failed(id);
                                Ok(())
                            });
                            placement = machine.on_deal_failed(self.now, id);
                        }
                    }
                }
                Placement::Hold => return self.pods[pod as usize].held.push_back(socket),
                Placement::Refuse(why) => {
                    self.sockets[socket as usize].refusal = Some(why);
                    self.pods[pod as usize].front_desk.push(socket);
                    let phase = self.pods[pod as usize].front_phase;
                    self.register(socket, Place::FrontDesk, Role::Refuse, phase);
                    return;
                }
            }
        }
    }

    /// Puts a message into the line to a worker, where order is kept.
    fn post(&mut self, pod: PodId, worker: u32, order: Order) {
        let delay = Duration::from_nanos(self.rng.below(CONTROL_DELAY_MAX.as_nanos() as u64));
        let at = self.now + delay;
        let line = &mut self.pods[pod as usize].workers[worker as usize];
        let at = line.inbox.back().map_or(at, |(last, _)| at.max(*last));
        line.inbox.push_back((at, order));
        self.at(at, Event::WakeWorker(pod, worker));
    }

    fn send(&mut self, pod: PodId, worker: u32, message: FromWorker) {
        let delay = Duration::from_nanos(self.rng.below(CONTROL_DELAY_MAX.as_nanos() as u64));
        let at = self.now + delay;
        let line = &mut self.pods[pod as usize].workers[worker as usize];
        let at = line.outbox.back().map_or(at, |(last, _)| at.max(*last));
        line.outbox.push_back((at, message));
        self.at(at, Event::Wake(pod));
    }

    fn obey(&mut self, pod: PodId, machine: &mut Supervisor) -> bool {
        let now = self.now;
        let mut did = false;
        loop {
            let output = machine.poll_output();
            // What is due is told to the machine below; only what it says then is its last word. It is not asked twice.
            let last_word = match output {
                Output::Timeout(at) => {
                    at.is_none_or(|at| at > now) && std::mem::take(&mut self.pods[pod as usize].told)
                }
                _ => true,
            };
            if last_word {
                self.observe(pod, |observer| observer.output(machine, now, &output));
            }
            did |= !matches!(output, Output::Timeout(_));
            match output {
                Output::Spawn { worker, number, .. } => {
                    let state = &mut self.pods[pod as usize];
                    let index = state.workers.len() as u32;
                    let boot = if state.boot_crashes > 0 {
                        state.boot_crashes -= 1;
                        Boot::Crashes
                    } else if state.boot_hangs > 0 {
                        state.boot_hangs -= 1;
                        Boot::Hangs
                    } else {
                        Boot::Succeeds
                    };
                    self.pods[pod as usize].workers.push(WorkerProcess {
                        id: worker,
                        number,
                        machine: None,
                        observer: None,
                        told: false,
                        alive: true,
                        reaped: false,
                        ended: None,
                        inbox: VecDeque::new(),
                        outbox: VecDeque::new(),
                        connections: Vec::new(),
                        phase: Phase::Serving,
                        requests: 0,
                        mail: Vec::new(),
                        armed: None,
                        woken: false,
                        frozen_until: Instant::ZERO,
                        boot,
                    });
                    self.at(self.now, Event::WorkerStart(pod, index));
                }
                Output::Tell { worker, message } => {
                    if let Some(index) = self.index(pod, worker) {
                        self.post(pod, index, Order::Message(message));
                    }
                }
                Output::Kill { worker } => {
                    if let Some(index) = self.index(pod, worker) {
                        let cause = if self.pods[pod as usize].cut_short {
                            Cause::CutShort
                        } else {
                            Cause::AbortedAtDeadline
                        };
                        self.end_worker(pod, index, ExitStatus::Signal(9), cause);
                    }
                }
                Output::RefuseNew => self.pods[pod as usize].port = Port::Refusing,
                Output::CloseListeners => self.close_port(pod, Why::QueueReset),
                Output::Phase(phase) => {
                    self.pods[pod as usize].front_phase = self.pods[pod as usize].front_phase.max(phase);
                    for socket in self.pods[pod as usize].front_desk.clone() {
                        self.tell_phase(socket, phase);
                    }
                }
                Output::Notify(_) => {}
                Output::Report(event) => self.line(|| (format!("pod-{}", pod + 1), event.to_string())),
                Output::Exit { code } => self.pods[pod as usize].exit_code = Some(code),
                Output::Timeout(None) => return did,
                Output::Timeout(Some(at)) if at <= now => {
                    self.tell_supervisor(pod, machine, Input::Timeout);
                    return true;
                }
                Output::Timeout(Some(at)) => {
                    let state = &mut self.pods[pod as usize];
                    if state.armed.is_none_or(|armed| at < armed) {
                        state.armed = Some(at);
                        self.at(at, Event::Wake(pod));
                    }
                    return did;
                }
            }
        }
    }

    fn tell_supervisor(&mut self, pod: PodId, machine: &mut Supervisor, input: Input) {
        let now = self.now;
        self.pods[pod as usize].told = true;
        self.observe(pod, |observer| observer.input(machine, now, &input));
        machine.handle(now, input);
    }

    fn observe(&mut self, pod: PodId, check: impl FnOnce(&mut SupervisorObserver) -> Result<(), Violation>) {
        let held_up = !self.pods[pod as usize].was_frozen.is_zero();
        if let Some(observer) = &mut self.pods[pod as usize].observer
            && let Err(violation) = check(observer)
            // Who stood still past a deadline is late, and not by its own doing.
            && !(violation.number == LEAVES_IN_TIME && held_up)
        {
            self.broken(|| format!("pod-{}: {violation}", pod + 1));
        }
    }

    fn observe_worker(
        &mut self,
        pod: PodId,
        worker: u32,
        check: impl FnOnce(&mut WorkerObserver) -> Result<(), Violation>,
    ) {
        if let Some(observer) = &mut self.pods[pod as usize].workers[worker as usize].observer
            && let Err(violation) = check(observer)
        {
            self.broken(|| format!("worker of pod-{}: {violation}", pod + 1));
        }
    }

    fn index(&self, pod: PodId, id: u64) -> Option<u32> {
        self.pods[pod as usize].workers.iter().position(|w| w.id == id && !w.reaped).map(|i| i as u32)
    }

    /// What the machine promises at any time.
    fn check(&mut self, pod: PodId, machine: &Supervisor) {
        self.observe(pod, |_| check_supervisor(machine));
        let state = &self.pods[pod as usize];
        let late = machine
            .deadline()
            .filter(|_| state.was_frozen.is_zero())
            .is_some_and(|at| self.now > at + Duration::from_secs(1) && state.exit_code.is_none());
        if late {
            self.broken(|| format!("pod-{} is still there a second after its deadline", pod + 1));
        }
        let reloads = self.plan.strategy == Strategy::Reload && self.rolling && !self.rolled;
        if reloads && machine.is_ready() {
            self.check_reload(pod, machine);
        }
    }

    fn close_port(&mut self, pod: PodId, why: Why) {
        let state = &mut self.pods[pod as usize];
        state.port = Port::Closed;
        let queued = std::mem::take(&mut state.accept_queue);
        if self.plan.socket_activation {
            return self.kept.extend(queued);
        }
        for socket in queued {
            self.sockets[socket as usize].why = why;
            self.shut_with_reset(socket);
        }
    }

    fn shut_with_reset(&mut self, socket: SocketId) {
        if self.sockets[socket as usize].place != Place::Gone {
            self.sockets[socket as usize].place = Place::Gone;
            self.send_down(socket, Down::Rst);
        }
    }

    /// The supervisor's process left.
    fn exited(&mut self, pod: PodId, code: i32) {
        let now = self.now;
        let state = &mut self.pods[pod as usize];
        if state.exited_at.is_some() {
            return;
        }
        state.exited_at = Some(now);
        let alive = state.workers.iter().filter(|w| w.alive).count();
        let listening = state.port != Port::Closed;
        let queued = state.accept_queue.len();
        let front = state.front_desk.len();
        let cut_short = state.cut_short;
        let after = state.term_at.map(|at| now.since(at));
        let bound = self.plan.policy.budget() + Duration::from_secs(1) + state.was_frozen;
        let name = self.pod_name(pod);
        if code == exit::CLEAN && (alive > 0 || listening || front > 0) {
            self.broken(|| {
                format!("{name} exited as clean with {alive} worker(s), {front} connection(s), port open: {listening}")
            });
        }
        if queued > 0 && code == exit::CLEAN {
            self.broken(|| format!("{name} exited as clean with {queued} connection(s) in its accept queue"));
        }
        if after.is_some_and(|after| after > bound) {
            self.broken(|| format!("{name} left {after:?} after SIGTERM, later than {bound:?}"));
        }
        self.line(|| (name, format!("exit code {code}")));
        let cause = if cut_short { Cause::CutShort } else { Cause::AbortedAtDeadline };
        self.container_ends(pod, cause);
    }

    /// Every process of the container is gone, whatever it was doing.
    pub fn container_ends(&mut self, pod: PodId, cause: Cause) {
        let state = &mut self.pods[pod as usize];
        if state.container == Container::Exited {
            return;
        }
        state.container = Container::Exited;
        state.exit_code.get_or_insert(137);
        state.exited_at.get_or_insert(self.now);
        let front = std::mem::take(&mut state.front_desk);
        let held = std::mem::take(&mut state.held);
        for index in 0..self.pods[pod as usize].workers.len() {
            self.end_worker(pod, index as u32, ExitStatus::Signal(9), cause);
            // Connections on their way to a worker die with both ends of the line.
            let inbox = std::mem::take(&mut self.pods[pod as usize].workers[index].inbox);
            for (_, order) in inbox {
                if let Order::Deal(socket) = order {
                    self.sockets[socket as usize].why = Why::Killed(cause);
                    self.shut_with_reset(socket);
                }
            }
        }
        for socket in front.into_iter().chain(held) {
            self.sockets[socket as usize].why = Why::Killed(cause);
            self.shut(socket);
        }
        self.close_port(pod, Why::Killed(cause));
        self.pod_gone(pod);
    }

    pub fn front_desk_closed(&mut self, pod: PodId, socket: SocketId) {
        let state = &mut self.pods[pod as usize];
        state.front_desk.retain(|other| *other != socket);
        state.refused_closed += 1;
        if !state.woken {
            state.woken = true;
            self.at(self.now, Event::Wake(pod));
        }
    }

    // The worker.

    pub fn start_worker(&mut self, pod: PodId, worker: u32) {
        let now = self.now;
        let policy = self.plan.policy;
        let process = &mut self.pods[pod as usize].workers[worker as usize];
        if !process.alive {
            return;
        }
        process.machine = Some(Worker::new(policy, now));
        process.observer = OBSERVED.then(|| WorkerObserver::new(now));
        let boot = self.plan.boot.draw(&mut self.rng);
        self.after(boot, Event::Booted(pod, worker));
        self.wake_worker(pod, worker);
    }

    pub fn booted(&mut self, pod: PodId, worker: u32) {
        match self.pods[pod as usize].workers[worker as usize].boot {
            Boot::Succeeds => self.mail(pod, worker, WorkerInput::Ready),
            Boot::Crashes => self.end_worker(pod, worker, ExitStatus::Signal(11), Cause::WorkerCrash),
            Boot::Hangs => {}
        }
    }

    pub fn app_stopped(&mut self, pod: PodId, worker: u32) {
        self.mail(pod, worker, WorkerInput::HostStopped);
    }

    pub fn mail(&mut self, pod: PodId, worker: u32, input: WorkerInput) {
        let process = &mut self.pods[pod as usize].workers[worker as usize];
        if process.alive {
            process.mail.push(input);
            if !process.woken {
                process.woken = true;
                self.at(self.now, Event::WakeWorker(pod, worker));
            }
        }
    }

    pub fn connection_closed(&mut self, pod: PodId, worker: u32, socket: SocketId, cut: u32) {
        let process = &mut self.pods[pod as usize].workers[worker as usize];
        process.connections.retain(|other| *other != socket);
        self.mail(pod, worker, WorkerInput::Closed { cut: u64::from(cut) });
    }

    /// Wakes a worker's task.
    pub fn wake_worker(&mut self, pod: PodId, worker: u32) {
        if let Some(thaw) = self.frozen_worker(pod, worker) {
            self.at(thaw, Event::WakeWorker(pod, worker));
            return;
        }
        let now = self.now;
        let process = &mut self.pods[pod as usize].workers[worker as usize];
        process.woken = false;
        if process.armed.is_some_and(|at| at <= now) {
            process.armed = None;
        }
        let Some(mut machine) = process.machine.take() else { return };
        for turn in 0.. {
            if turn > MOST_TURNS {
                self.broken(|| format!("a worker of pod-{} does not come to rest", pod + 1));
                break;
            }
            let took = self.take_worker_inputs(pod, worker, &mut machine);
            let again = self.obey_worker(pod, worker, &mut machine);
            let gone = !self.pods[pod as usize].workers[worker as usize].alive;
            if gone || (!took && !again) {
                break;
            }
        }
        self.observe_worker(pod, worker, |_| check_worker(&machine));
        self.pods[pod as usize].workers[worker as usize].machine = Some(machine);
    }

    fn take_worker_inputs(&mut self, pod: PodId, worker: u32, machine: &mut Worker) -> bool {
        let now = self.now;
        let process = &mut self.pods[pod as usize].workers[worker as usize];
        let mut any = false;
        if !process.mail.is_empty() {
            any = true;
            let requests = process.requests;
            for input in std::mem::take(&mut process.mail) {
                if matches!(input, WorkerInput::Closed { .. }) {
                    self.tell_worker(pod, worker, machine, WorkerInput::Requests { requests });
                }
                self.tell_worker(pod, worker, machine, input);
            }
        }
        loop {
            let process = &mut self.pods[pod as usize].workers[worker as usize];
            if process.inbox.front().is_none_or(|(at, _)| *at > now) {
                return any;
            }
            any = true;
            match process.inbox.pop_front() {
                Some((_, Order::Deal(socket))) => {
                    process.connections.push(socket);
                    let phase = process.phase;
                    self.tell_worker(pod, worker, machine, WorkerInput::Opened);
                    self.register(socket, Place::Worker(worker), Role::Serve, phase);
                }
                Some((_, Order::Message(message))) => {
                    let open = &process.connections;
                    let active = open.iter().filter(|id| self.sockets[**id as usize].is_active()).count();
                    let input = WorkerInput::Order { message, active: active as u64 };
                    self.tell_worker(pod, worker, machine, input);
                }
                None => return any,
            }
        }
    }

    fn tell_worker(&mut self, pod: PodId, worker: u32, machine: &mut Worker, input: WorkerInput) {
        let now = self.now;
        self.pods[pod as usize].workers[worker as usize].told = true;
        self.observe_worker(pod, worker, |observer| observer.input(machine, now, &input));
        machine.handle(now, input);
    }

    fn obey_worker(&mut self, pod: PodId, worker: u32, machine: &mut Worker) -> bool {
        let now = self.now;
        loop {
            let output = machine.poll_output();
            let last_word = match output {
                WorkerOutput::Timeout(at) => {
                    let process = &mut self.pods[pod as usize].workers[worker as usize];
                    at.is_none_or(|at| at > now) && std::mem::take(&mut process.told)
                }
                _ => true,
            };
            if last_word {
                self.observe_worker(pod, worker, |observer| observer.output(machine, now, &output));
            }
            match output {
                WorkerOutput::Send(message) => self.send(pod, worker, message),
                // Probes here ask the pod as a whole.
                WorkerOutput::NotReady => {}
                WorkerOutput::Phase(phase) => {
                    let process = &mut self.pods[pod as usize].workers[worker as usize];
                    process.phase = process.phase.max(phase);
                    for socket in process.connections.clone() {
                        self.tell_phase(socket, phase);
                    }
                }
                WorkerOutput::StopHost => {
                    let takes = self.plan.app_shutdown.draw(&mut self.rng);
                    self.after(takes, Event::AppStopped(pod, worker));
                }
                WorkerOutput::CloseAll => {
                    for socket in self.pods[pod as usize].workers[worker as usize].connections.clone() {
                        self.sockets[socket as usize].close_all = true;
                        self.poll(socket);
                    }
                }
                WorkerOutput::Exit { code } => {
                    self.end_worker(pod, worker, ExitStatus::Code(code), Cause::AbortedAtDeadline);
                    return false;
                }
                WorkerOutput::Timeout(at) => {
                    let Some(at) = at else { return false };
                    if at > self.now {
                        let process = &mut self.pods[pod as usize].workers[worker as usize];
                        if process.armed.is_none_or(|armed| at < armed) {
                            process.armed = Some(at);
                            self.at(at, Event::WakeWorker(pod, worker));
                        }
                        return false;
                    }
                    self.tell_worker(pod, worker, machine, WorkerInput::Timeout);
                }
            }
        }
    }

    /// The worker's process is gone: its sockets close, what it sent still arrives.
    fn end_worker(&mut self, pod: PodId, worker: u32, status: ExitStatus, cause: Cause) {
        let now = self.now;
        let process = &mut self.pods[pod as usize].workers[worker as usize];
        if !process.alive {
            return;
        }
        process.alive = false;
        process.mail.clear();
        let last = process.outbox.back().map_or(now, |(at, _)| *at);
        let heard = last.max(now + REAP_DELAY);
        process.ended = Some((heard, status));
        let (number, left) = (process.number, std::mem::take(&mut process.connections));
        if status == ExitStatus::Code(0) && !left.is_empty() {
            let left = left.len();
            self.broken(|| {
                format!("worker {number} of pod-{} exited as clean with {left} connection(s)", pod + 1)
            });
        }
        for socket in left {
            let socket_state = &mut self.sockets[socket as usize];
            if socket_state.why == Why::Open {
                socket_state.why = Why::Killed(cause);
            }
            self.shut(socket);
        }
        self.at(heard, Event::Wake(pod));
    }

    // Faults.

    pub fn strike(&mut self, index: u32) {
        let fault = self.plan.faults[index as usize];
        let pod = fault.pod;
        if pod as usize >= self.pods.len() || self.pods[pod as usize].container == Container::Exited {
            return;
        }
        self.line(|| ("fault".into(), format!("pod-{}: {:?}", pod + 1, fault.what)));
        let now = self.now;
        let running = self.pods[pod as usize].container == Container::Running;
        let state = &mut self.pods[pod as usize];
        match fault.what {
            Trouble::KillWorker { worker } => {
                if (worker as usize) < state.workers.len() {
                    self.end_worker(pod, worker, ExitStatus::Signal(9), Cause::WorkerCrash);
                }
            }
            Trouble::TermWorker { worker } => {
                if (worker as usize) < state.workers.len() {
                    self.mail(pod, worker, WorkerInput::Terminated);
                }
            }
            Trouble::KillContainer => {
                if state.container != Container::Pending {
                    self.container_ends(pod, Cause::Sigkill);
                }
            }
            Trouble::Freeze { lasts } => {
                state.freeze(now, lasts);
                for worker in &mut state.workers {
                    worker.frozen_until = worker.frozen_until.max(now + lasts);
                }
            }
            Trouble::FreezeWorker { worker, lasts } => {
                if let Some(worker) = state.workers.get_mut(worker as usize) {
                    worker.frozen_until = worker.frozen_until.max(now + lasts);
                }
            }
            Trouble::FreezeSupervisor { lasts } => state.freeze(now, lasts),
            Trouble::Signal(signal) if running => {
                state.signals.push_back(signal);
                state.cut_short |= matches!(signal, Signal::Int | Signal::Quit);
                self.wake(pod);
            }
            Trouble::Signal(_) => {}
            Trouble::BootCrash { times } => state.boot_crashes += times,
            Trouble::BootHang { times } => state.boot_hangs += times,
            Trouble::NoAccept { lasts } => {
                state.no_accept_until = state.no_accept_until.max(now + lasts);
                state.was_frozen += lasts;
            }
            Trouble::StallLink { lasts } => state.stalled_until = state.stalled_until.max(now + lasts),
        }
    }
}
