//! The driver of the supervisor: accepts, deals, starts and ends workers, answers those that no worker takes.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pounce_core::connection::Role;
use pounce_core::event::Signal;
use pounce_core::invariants::check_supervisor;
use pounce_core::protocol::{ToWorker, VERSION};
use pounce_core::supervisor::{Input, Notify, Output, Placement};
use pounce_core::{Event, Policy, Supervisor};
use tokio::time::Sleep;

use crate::app::{App, BoxError, ConnectionInfo};
use crate::clock::Clock;
use crate::connection;
use crate::exchange::RequestBody;
use crate::listener::{Accepted, Listener, Socket};
use crate::seldom::Seldom;
use crate::shared::{ServeOptions, Serving};
use crate::timer::Timer;
use crate::worker::Spawn;
use crate::worker_host::{HostEvent, WorkerHost};

/// Where signals come from.
pub trait Signals: Send + 'static {
    fn poll_signal(&mut self, cx: &mut Context<'_>) -> Poll<Signal>;
}

/// Who is told about the server.
pub trait Observer: Send + 'static {
    fn event(&mut self, event: &Event);
    fn notify(&mut self, notify: &Notify);
}

/// Out of descriptors: how long to wait before the next accept. There is nothing to be woken by.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Most connections accepted in a row from one listener before everything else has its turn.
const ACCEPT_BATCH: usize = 64;

/// From so many connections in one turn on, the next ones are worth waiting a moment for ([`WorkerHost::gather`]).
const GATHER_FROM: usize = 3;

/// What a server is made of.
#[allow(missing_debug_implementations, reason = "its parts are the caller's")]
pub struct Parts<L, H, S, O> {
    pub policy: Policy,
    /// How connections are answered that no worker takes.
    pub options: ServeOptions,
    pub workers: u32,
    /// Handed to each worker in its start message.
    pub settings: String,
    pub listeners: Vec<L>,
    pub host: H,
    pub signals: S,
    pub observer: O,
    pub spawn: Spawn,
}

/// Runs a server to its end and returns the exit code. Must be polled inside a tokio runtime.
pub fn run<L, H, S, O>(parts: Parts<L, H, S, O>) -> impl Future<Output = i32> + Send
where
    L: Listener,
    H: WorkerHost<Io = L::Io>,
    S: Signals,
    O: Observer,
{
    let clock = Clock::new();
    let front_desk = Serving::new(parts.policy, parts.options, clock, None);
    Driver {
        machine: Supervisor::new(parts.policy, parts.workers, clock.now()),
        clock,
        front_desk,
        closed: Arc::default(),
        settings: parts.settings,
        listeners: parts.listeners,
        host: parts.host,
        signals: parts.signals,
        observer: parts.observer,
        spawn: parts.spawn,
        timer: Timer::default(),
        held: VecDeque::new(),
        pause: None,
        accept_fails: Seldom::default(),
        accepted: 0,
        exit: None,
    }
}

struct Driver<L: Listener, H, S, O> {
    machine: Supervisor,
    clock: Clock,
    /// The connections that the supervisor itself answers.
    front_desk: Arc<Serving>,
    closed: Arc<Closed>,
    settings: String,
    listeners: Vec<L>,
    host: H,
    signals: S,
    observer: O,
    spawn: Spawn,
    timer: Timer,
    /// Connections that nobody can take for the moment, in order. They come before the accept queue.
    held: VecDeque<Accepted<L::Io>>,
    /// Set while accept waits for descriptors.
    pause: Option<Pin<Box<Sleep>>>,
    accept_fails: Seldom,
    /// Connections accepted in this turn.
    accepted: usize,
    exit: Option<i32>,
}

// Nothing in it is pinned in place.
impl<L: Listener, H, S, O> Unpin for Driver<L, H, S, O> {}

/// How many connections of the front desk were closed since the driver last looked.
#[derive(Default)]
struct Closed(Mutex<(u64, Option<Waker>)>);

impl<L, H, S, O> Driver<L, H, S, O>
where
    L: Listener,
    H: WorkerHost<Io = L::Io>,
    S: Signals,
    O: Observer,
{
    fn handle(&mut self, input: Input) {
        self.machine.handle(self.clock.now(), input);
    }

    fn place(&mut self, connection: Accepted<L::Io>) {
        let mut placement = self.machine.on_accepted(self.clock.now());
        let mut connection = connection;
        while let Placement::Worker(worker) = placement {
            match self.host.deal(worker, connection) {
                Ok(()) => return,
                Err(back) => {
                    connection = back;
                    placement = self.machine.on_deal_failed(self.clock.now(), worker);
                }
            }
        }
        match placement {
            Placement::Hold => self.held.push_back(connection),
            Placement::Worker(_) | Placement::Refuse(_) => self.refuse(connection),
        }
    }

    /// Answers a connection that no worker takes.
    fn refuse(&mut self, connection: Accepted<L::Io>) {
        let closed = Arc::clone(&self.closed);
        let stream = match connection.io.into_stream() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("a connection could not be answered: {error}");
                return self.handle(Input::RefusedClosed);
            }
        };
        let shared = self.front_desk.register(Role::Refuse, connection.peer.into(), connection.local.into());
        let task = connection::serve(stream, Arc::clone(&shared), &Nothing);
        let front_desk = Arc::clone(&self.front_desk);
        (self.spawn)(Box::pin(async move {
            task.await;
            front_desk.forget(&shared);
            let mut closed = closed.0.lock().unwrap_or_else(PoisonError::into_inner);
            closed.0 += 1;
            if let Some(waker) = closed.1.take() {
                waker.wake();
            }
        }));
    }

    /// Takes what has come. Returns whether anything had.
    fn take_inputs(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        // One at a time: what follows from it is carried out before the next is heard, or a reload would start workers after
        // the shutdown that came right behind it.
        if let Poll::Ready(signal) = self.signals.poll_signal(cx) {
            self.handle(Input::Signal(signal));
            return true;
        }
        while let Poll::Ready(event) = self.host.poll_event(cx) {
            any = true;
            match event {
                HostEvent::Message { worker, message } => self.handle(Input::Worker { worker, message }),
                HostEvent::Exited { worker, status, undelivered } => {
                    self.handle(Input::Exited { worker, status, undelivered: undelivered.len() as u64 });
                    if !pounce_core::planted!(UndeliveredDropped) {
                        undelivered.into_iter().for_each(|connection| self.place(connection));
                    }
                }
            }
        }
        let closed = {
            let mut closed = self.closed.0.lock().unwrap_or_else(PoisonError::into_inner);
            closed.1 = Some(cx.waker().clone());
            std::mem::take(&mut closed.0)
        };
        for _ in 0..closed {
            self.handle(Input::RefusedClosed);
            any = true;
        }
        any | self.accept(cx)
    }

    fn accept(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.pause = None;
        }
        if !self.machine.wants_accept() {
            return false;
        }
        let to_the_end = self.machine.wants_backlog_empty();
        let mut any = !self.held.is_empty();
        for connection in std::mem::take(&mut self.held) {
            self.place(connection);
        }
        let mut listeners = std::mem::take(&mut self.listeners);
        for listener in &mut listeners {
            let mut accepted = 0;
            while to_the_end || accepted < ACCEPT_BATCH {
                match listener.poll_accept(cx) {
                    Poll::Ready(Ok(connection)) => {
                        self.place(connection);
                        accepted += 1;
                        any = true;
                    }
                    Poll::Pending => break,
                    Poll::Ready(Err(error)) => {
                        if self.accept_fails.is_worth_saying() {
                            tracing::warn!("{}: accept failed: {error}", listener.name());
                        }
                        let mut pause = Box::pin(tokio::time::sleep(ACCEPT_PAUSE));
                        if pause.as_mut().poll(cx).is_pending() {
                            self.pause = Some(pause);
                        }
                        break;
                    }
                }
            }
            self.accepted += accepted;
            if accepted == ACCEPT_BATCH && !to_the_end {
                cx.waker().wake_by_ref();
            }
        }
        self.listeners = listeners;
        if to_the_end && self.pause.is_none() {
            self.handle(Input::AcceptBlocked);
            any = true;
        }
        any
    }

    /// Carries out what the machine wants, until it waits. Returns whether it did anything: then there may be news, of a
    /// worker that was just started or of the accept queue that the machine now wants to know about.
    fn obey(&mut self, cx: &mut Context<'_>) -> bool {
        let mut did = false;
        // What is said waits for what is done: who reads the log may rely on it.
        let mut said = Vec::new();
        let at = loop {
            let output = self.machine.poll_output();
            did |= !matches!(output, Output::Timeout(_));
            match output {
                Output::Spawn { worker, number, generation } => {
                    match self.host.spawn(worker, number, generation) {
                        Ok(()) => {
                            let settings = self.settings.clone();
                            let start =
                                ToWorker::Start { version: VERSION, worker: number, generation, settings };
                            self.host.tell(worker, &start);
                        }
                        Err(error) => {
                            tracing::error!("worker {number} could not be started: {error}");
                            self.handle(Input::SpawnFailed { worker });
                        }
                    }
                }
                Output::Tell { worker, message } => self.host.tell(worker, &message),
                Output::Kill { worker } => self.host.kill(worker),
                Output::RefuseNew => self.listeners.iter_mut().for_each(Listener::refuse_new),
                Output::CloseListeners => self.listeners.clear(),
                Output::Phase(phase) => self.front_desk.set_phase(phase),
                words @ (Output::Notify(_) | Output::Report(_)) => said.push(words),
                Output::Exit { code } => self.exit = Some(code),
                Output::Timeout(at) => break at,
            }
        };
        for words in said {
            match words {
                Output::Notify(notify) => self.observer.notify(&notify),
                Output::Report(event) => self.observer.event(&event),
                _ => {}
            }
        }
        debug_assert_eq!(check_supervisor(&self.machine), Ok(()));
        let due = self.timer.has_come(at, self.clock, cx);
        if due {
            self.handle(Input::Timeout);
        }
        did | due
    }
}

impl<L, H, S, O> Future for Driver<L, H, S, O>
where
    L: Listener,
    H: WorkerHost<Io = L::Io>,
    S: Signals,
    O: Observer,
{
    type Output = i32;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<i32> {
        let this = &mut *self;
        this.accepted = 0;
        loop {
            let took = this.take_inputs(cx);
            let did = this.obey(cx);
            if let Some(code) = this.exit {
                return Poll::Ready(code);
            }
            if !took && !did {
                break;
            }
        }
        if this.accepted >= GATHER_FROM {
            this.host.gather();
        }
        Poll::Pending
    }
}

/// The application of those whom no worker takes. It is never called: the role of their connections says 503.
struct Nothing;

impl App for Nothing {
    type Body = http_body_util::Empty<bytes::Bytes>;
    type Service = Nothing;

    fn serve_connection(&self, _connection: ConnectionInfo) -> Nothing {
        Nothing
    }
}

impl hyper::service::Service<http::Request<RequestBody>> for Nothing {
    type Response = http::Response<http_body_util::Empty<bytes::Bytes>>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Self::Response, BoxError>>;

    fn call(&self, _request: http::Request<RequestBody>) -> Self::Future {
        std::future::ready(Err("no application answers here".into()))
    }
}
