//! A server without worker processes: any hyper or tower service, in the process that it is part of, with the same
//! supervisor, the same drain and the same exit codes.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use pounce_core::Policy;
use pounce_core::event::ExitStatus;

use crate::app::App;
use crate::line::{SupervisorEnd, line};
use crate::listener::{Accepted, Listener, Socket};
use crate::shared::ServeOptions;
use crate::supervisor::{self, Observer, Parts, Signals};
use crate::worker::{HostCommand, Spawn, connect};
use crate::worker_host::{HostEvent, WorkerHost, WorkerId};
use pounce_core::protocol::{FromWorker, ToWorker};

/// Serves `app` on `listeners` until a signal from `signals` has ended it, and returns the exit code (see
/// [`pounce_core::supervisor::exit`]). `spawn` starts tasks on the caller's runtime.
pub async fn serve<L, A, S, O>(
    listeners: Vec<L>,
    app: A,
    policy: Policy,
    options: ServeOptions,
    signals: S,
    observer: O,
    spawn: Spawn,
) -> i32
where
    L: Listener,
    A: App + Clone,
    S: Signals,
    O: Observer,
{
    let start = {
        let options = options.clone();
        let spawn = Arc::clone(&spawn);
        move |end, exited: Exits, worker| {
            let (app, options, spawn, task_spawn) =
                (app.clone(), options.clone(), Arc::clone(&spawn), Arc::clone(&spawn));
            spawn(Box::pin(async move {
                match connect(end, task_spawn).await {
                    Ok((handle, _)) => {
                        let host = handle.clone();
                        handle.set_host(move |command| match command {
                            HostCommand::Stop => host.host_stopped(),
                            HostCommand::Exit { code } => exited.push(worker, ExitStatus::Code(code)),
                        });
                        handle.serve(app, policy, options);
                    }
                    Err(error) => {
                        tracing::error!("the worker could not start: {error}");
                        exited.push(worker, ExitStatus::NotStarted);
                    }
                }
            }));
        }
    };
    let host = InProcess { workers: BTreeMap::new(), exits: Exits::default(), start: Box::new(start) };
    supervisor::run(Parts {
        policy,
        options,
        workers: 1,
        settings: String::new(),
        listeners,
        host,
        signals,
        observer,
        spawn,
    })
    .await
}

type Start<Io> = Box<dyn Fn(crate::line::WorkerEnd<Io>, Exits, WorkerId) + Send>;

/// Workers that are tasks of this process.
struct InProcess<Io> {
    workers: BTreeMap<WorkerId, SupervisorEnd<Io>>,
    exits: Exits,
    start: Start<Io>,
}

/// Workers that have ended, until the supervisor is told.
#[derive(Clone, Default)]
struct Exits(Arc<Mutex<ExitQueue>>);

#[derive(Default)]
struct ExitQueue {
    ended: VecDeque<(WorkerId, ExitStatus)>,
    waker: Option<Waker>,
}

impl Exits {
    fn push(&self, worker: WorkerId, status: ExitStatus) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.ended.push_back((worker, status));
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<(WorkerId, ExitStatus)> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.ended.pop_front() {
            Some(exit) => Poll::Ready(exit),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<Io: Socket> WorkerHost for InProcess<Io> {
    type Io = Io;

    fn spawn(&mut self, worker: WorkerId, _number: u32, _generation: u32) -> io::Result<()> {
        let (supervisor_end, worker_end) = line();
        self.workers.insert(worker, supervisor_end);
        (self.start)(worker_end, self.exits.clone(), worker);
        Ok(())
    }

    fn tell(&mut self, worker: WorkerId, message: &ToWorker) {
        if let Some(end) = self.workers.get(&worker) {
            end.tell(message);
        }
    }

    fn deal(&mut self, worker: WorkerId, connection: Accepted<Io>) -> Result<(), Accepted<Io>> {
        match self.workers.get(&worker) {
            Some(end) => {
                end.deal(connection);
                Ok(())
            }
            None => Err(connection),
        }
    }

    /// A task of our own cannot be killed; it is left behind, and the process is about to leave.
    fn kill(&mut self, worker: WorkerId) {
        self.exits.push(worker, ExitStatus::Signal(9));
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<HostEvent<Io>> {
        for (&worker, end) in &self.workers {
            let report: Poll<FromWorker> = end.poll_report(cx);
            if let Poll::Ready(message) = report {
                return Poll::Ready(HostEvent::Message { worker, message });
            }
        }
        while let Poll::Ready((worker, status)) = self.exits.poll(cx) {
            if let Some(end) = self.workers.remove(&worker) {
                return Poll::Ready(HostEvent::Exited { worker, status, undelivered: end.undelivered() });
            }
        }
        Poll::Pending
    }
}
