//! The driver of one worker: takes orders and connections, serves them, reports.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use pounce_core::connection::Role;
use pounce_core::invariants::check_worker;
use pounce_core::protocol::{ToWorker, VERSION};
use pounce_core::worker::{Input, Output};
use pounce_core::{Policy, Worker};

use crate::app::App;
use crate::clock::Clock;
use crate::connection;
use crate::listener::{Accepted, Socket};
use crate::shared::{ServeOptions, Serving, Shared};
use crate::timer::Timer;
use crate::worker_host::{Order, Orders};

/// Starts a task on the runtime that the worker runs on.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// `tokio::spawn`.
pub fn tokio_spawn() -> Spawn {
    Arc::new(|task| {
        tokio::spawn(task);
    })
}

/// What the start message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartInfo {
    /// The worker's number in the log, from 1.
    pub worker: u32,
    pub generation: u32,
    /// The settings, as the supervisor wrote them.
    pub settings: String,
}

/// What the process that hosts the worker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCommand {
    /// The last request has ended: run the application's shutdown, then call [`WorkerHandle::host_stopped`].
    Stop,
    /// Everything is said and sent: leave the process with this code.
    Exit { code: i32 },
}

type Host = Arc<dyn Fn(HostCommand) + Send + Sync>;
type Serve<Io> = Arc<
    dyn Fn(<Io as Socket>::Stream, Arc<Shared>) -> Pin<Box<dyn Future<Output = u32> + Send>> + Send + Sync,
>;

/// Speaks to a worker's driver, from any thread. Cheap to clone.
pub struct WorkerHandle<Io: Socket> {
    inner: Arc<Inner<Io>>,
}

impl<Io: Socket> Clone for WorkerHandle<Io> {
    fn clone(&self) -> Self {
        WorkerHandle { inner: Arc::clone(&self.inner) }
    }
}

impl<Io: Socket> std::fmt::Debug for WorkerHandle<Io> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerHandle").finish_non_exhaustive()
    }
}

struct Inner<Io: Socket> {
    mail: Mutex<Mail<Io>>,
}

struct Mail<Io: Socket> {
    inputs: Vec<Input>,
    waker: Option<Waker>,
    host: Option<Host>,
    /// Said before the host was there to hear it.
    unheard: Vec<HostCommand>,
    serving: Option<(Arc<Serving>, Serve<Io>)>,
    /// The policy of [`WorkerHandle::serve`], until the driver took it.
    policy: Option<Policy>,
    worker: u32,
    clock: Clock,
}

impl<Io: Socket> Inner<Io> {
    fn mail(&self) -> MutexGuard<'_, Mail<Io>> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, input: Input) {
        let mut mail = self.mail();
        mail.inputs.push(input);
        if let Some(waker) = &mail.waker {
            waker.wake_by_ref();
        }
    }

    fn command(&self, command: HostCommand) {
        let host = {
            let mut mail = self.mail();
            if mail.host.is_none() {
                mail.unheard.push(command);
            }
            mail.host.clone()
        };
        if let Some(host) = host {
            host(command);
        }
    }
}

impl<Io: Socket> WorkerHandle<Io> {
    /// The application is started: connections may come.
    pub fn serve<A: App>(&self, app: A, policy: Policy, options: ServeOptions) {
        let mut mail = self.inner.mail();
        let serving = Serving::new(policy, options, mail.clock, Some(mail.worker));
        let app = Arc::new(app);
        let serve: Serve<Io> =
            Arc::new(move |stream, shared| Box::pin(connection::serve(stream, shared, &*app)));
        mail.serving = Some((serving, serve));
        mail.policy = Some(policy);
        drop(mail);
        self.inner.post(Input::Ready);
    }

    /// The application did not start. `message` is for people, with the traceback.
    pub fn start_failed(&self, message: String) {
        self.inner.post(Input::StartFailed { message });
    }

    /// Who is told what the process is to do. Called from whichever thread drives the runtime; must not block.
    pub fn set_host(&self, host: impl Fn(HostCommand) + Send + Sync + 'static) {
        let host: Host = Arc::new(host);
        let unheard = {
            let mut mail = self.inner.mail();
            mail.host = Some(Arc::clone(&host));
            std::mem::take(&mut mail.unheard)
        };
        unheard.into_iter().for_each(|command| host(command));
    }

    /// The application's shutdown is done.
    pub fn host_stopped(&self) {
        self.inner.post(Input::HostStopped);
    }

    /// This process got a SIGTERM of its own.
    pub fn retire_me(&self) {
        self.inner.post(Input::Terminated);
    }
}

/// Waits for the start message and starts the worker's driver, with `spawn`.
///
/// # Errors
/// The supervisor is gone, its first message is not `Start`, or it speaks another version of the protocol.
pub async fn connect<O>(mut orders: O, spawn: Spawn) -> io::Result<(WorkerHandle<O::Io>, StartInfo)>
where
    O: Orders<Io: Socket>,
{
    let first = std::future::poll_fn(|cx| orders.poll_recv(cx)).await?;
    let Some(Order::Message(ToWorker::Start { version, worker, generation, settings })) = first else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the supervisor's first message is not a start message",
        ));
    };
    if version != VERSION {
        let message = format!(
            "the supervisor speaks version {version} of the control protocol, this worker {VERSION}: executable and \
             extension are not of one build; build or install both again"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let clock = Clock::new();
    let mail = Mail {
        inputs: Vec::new(),
        waker: None,
        host: None,
        unheard: Vec::new(),
        serving: None,
        policy: None,
        worker,
        clock,
    };
    let inner = Arc::new(Inner { mail: Mutex::new(mail) });
    let driver = Driver {
        inner: Arc::clone(&inner),
        orders,
        machine: Worker::new(Policy::default(), clock.now()),
        clock,
        spawn: Arc::clone(&spawn),
        timer: Timer::default(),
        supervisor_gone: false,
        exit: None,
    };
    spawn(Box::pin(driver));
    Ok((WorkerHandle { inner }, StartInfo { worker, generation, settings }))
}

struct Driver<O: Orders<Io: Socket>> {
    inner: Arc<Inner<O::Io>>,
    orders: O,
    machine: Worker,
    clock: Clock,
    spawn: Spawn,
    timer: Timer,
    supervisor_gone: bool,
    exit: Option<i32>,
}

// Nothing in it is pinned in place.
impl<O: Orders<Io: Socket>> Unpin for Driver<O> {}

impl<O: Orders<Io: Socket>> Driver<O> {
    fn serving(&self) -> Option<(Arc<Serving>, Serve<O::Io>)> {
        self.inner.mail().serving.clone()
    }

    /// A connection dealt to this worker.
    fn open(&mut self, connection: Accepted<O::Io>) {
        let Some((serving, serve)) = self.serving() else {
            // Dealt before this worker was ready: it never is.
            tracing::error!("a connection came before the application was started");
            return;
        };
        let now = self.clock.now();
        if pounce_core::planted!(LateDealDropped)
            && self.machine.state() == pounce_core::worker::State::Draining
        {
            return;
        }
        self.machine.handle(now, Input::Opened);
        let stream = match connection.io.into_stream() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("a connection could not be taken: {error}");
                return self.machine.handle(now, Input::Closed { cut: 0 });
            }
        };
        let shared = serving.register(Role::Serve, connection.peer.into(), connection.local.into());
        let task = serve(stream, Arc::clone(&shared));
        let inner = Arc::clone(&self.inner);
        (self.spawn)(Box::pin(async move {
            let guard = Forget { inner, shared, cut: 1 };
            let cut = task.await;
            guard.closed(cut);
        }));
    }

    fn counts(&self) -> (u64, u64) {
        self.serving().map_or((0, 0), |(serving, _)| (serving.counts().1, serving.requests()))
    }

    /// Takes what has come. Returns whether anything had.
    fn take_inputs(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        let inputs = {
            let mut mail = self.inner.mail();
            if !mail.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                mail.waker = Some(cx.waker().clone());
            }
            if let Some(policy) = mail.policy.take() {
                self.machine.set_policy(policy);
            }
            std::mem::take(&mut mail.inputs)
        };
        if inputs.iter().any(|input| matches!(input, Input::Closed { .. })) {
            // It reports what it knows when a connection closes.
            let requests = self.serving().map_or(0, |(serving, _)| serving.requests());
            self.machine.handle(self.clock.now(), Input::Requests { requests });
        }
        for input in inputs {
            any = true;
            self.machine.handle(self.clock.now(), input);
        }
        while !self.supervisor_gone {
            match self.orders.poll_recv(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(Order::Deal(connection)))) => self.open(connection),
                Poll::Ready(Ok(Some(Order::Lost))) => {
                    tracing::error!(
                        "a connection is lost because this worker's application opened as many files as the worker may \
                         have; raise the limit (`ulimit -n`, LimitNOFILE= in systemd)"
                    );
                    let now = self.clock.now();
                    self.machine.handle(now, Input::Opened);
                    self.machine.handle(now, Input::Closed { cut: 1 });
                }
                Poll::Ready(Ok(Some(Order::Message(message)))) => {
                    let (active, _) = self.counts();
                    self.machine.handle(self.clock.now(), Input::Order { message, active });
                }
                Poll::Ready(Ok(None)) => self.lost_supervisor(),
                Poll::Ready(Err(error)) => {
                    tracing::error!("the line to the supervisor is broken: {error}");
                    self.lost_supervisor();
                }
            }
            any = true;
        }
        any
    }

    fn lost_supervisor(&mut self) {
        self.supervisor_gone = true;
        let (active, _) = self.counts();
        self.machine.handle(self.clock.now(), Input::SupervisorGone { active });
    }

    /// Carries out what the machine wants, until it waits.
    fn obey(&mut self, cx: &mut Context<'_>) {
        loop {
            match self.machine.poll_output() {
                Output::Send(message) => self.orders.send(&message),
                Output::NotReady => {
                    if let Some((serving, _)) = self.serving() {
                        serving.set_not_ready();
                    }
                }
                Output::Phase(phase) => {
                    if let Some((serving, _)) = self.serving() {
                        serving.set_phase(phase);
                    }
                }
                Output::StopHost => self.inner.command(HostCommand::Stop),
                Output::CloseAll => {
                    if let Some((serving, _)) = self.serving() {
                        serving.close_all();
                    }
                }
                Output::Exit { code } => self.exit = Some(code),
                Output::Timeout(at) => {
                    debug_assert_eq!(check_worker(&self.machine), Ok(()));
                    if !self.timer.has_come(at, self.clock, cx) {
                        return;
                    }
                    self.machine.handle(self.clock.now(), Input::Timeout);
                }
            }
        }
    }
}

impl<O: Orders<Io: Socket>> Future for Driver<O> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let took = this.take_inputs(cx);
            this.obey(cx);
            if !took {
                break;
            }
        }
        let flushed = this.orders.poll_flush(cx).is_ready();
        match this.exit {
            Some(code) if flushed || this.supervisor_gone => {
                this.inner.command(HostCommand::Exit { code });
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }
}

/// Says that a connection is closed however its task ends: a service that panics ends it too.
struct Forget<Io: Socket> {
    inner: Arc<Inner<Io>>,
    shared: Arc<Shared>,
    cut: u64,
}

impl<Io: Socket> Forget<Io> {
    fn closed(mut self, cut: u32) {
        self.cut = u64::from(cut);
    }
}

impl<Io: Socket> Drop for Forget<Io> {
    fn drop(&mut self) {
        self.shared.serving.forget(&self.shared);
        self.inner.post(Input::Closed { cut: self.cut });
    }
}
