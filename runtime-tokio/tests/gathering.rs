//! When the supervisor lets connections gather.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pounce_core::event::Signal;
use pounce_core::policy::Policy;
use pounce_core::protocol::{FromWorker, ToWorker, VERSION};
use pounce_runtime_tokio::ServeOptions;
use pounce_runtime_tokio::listener::Accepted;
use pounce_runtime_tokio::supervisor::{Parts, run};
use pounce_runtime_tokio::worker::tokio_spawn;
use pounce_runtime_tokio::worker_host::{HostEvent, WorkerHost, WorkerId};

mod support;
use support::{Pipe, Queue, Told};

/// Workers that are ready at once and count what they are dealt.
#[derive(Clone, Default)]
struct Host {
    events: Queue<HostEvent<Pipe>>,
    dealt: Arc<AtomicUsize>,
    gathered: Arc<AtomicUsize>,
}

impl WorkerHost for Host {
    type Io = Pipe;

    fn spawn(&mut self, worker: WorkerId, _number: u32, _generation: u32) -> io::Result<()> {
        for message in [FromWorker::Hello { version: VERSION }, FromWorker::Ready] {
            self.events.put(HostEvent::Message { worker, message });
        }
        Ok(())
    }

    fn tell(&mut self, _worker: WorkerId, _message: &ToWorker) {}

    fn deal(&mut self, _worker: WorkerId, _connection: Accepted<Pipe>) -> Result<(), Accepted<Pipe>> {
        self.dealt.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn kill(&mut self, _worker: WorkerId) {}

    fn gather(&mut self) {
        self.gathered.fetch_add(1, Ordering::Relaxed);
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<HostEvent<Pipe>> {
        self.events.poll(cx)
    }
}

/// Lets `connections` come at once, `times` times; how often the supervisor waited for more.
async fn gathered(connections: usize, times: usize) -> usize {
    let (host, listener) = (Host::default(), Queue::default());
    let told = Told::default();
    tokio::spawn(run(Parts {
        policy: Policy::default(),
        options: ServeOptions::default(),
        workers: 1,
        settings: String::new(),
        listeners: vec![listener.clone()],
        host: host.clone(),
        signals: Queue::<Signal>::default(),
        observer: told.clone(),
        spawn: tokio_spawn(),
    }));
    told.ready().await;
    for turn in 1..=times {
        for _ in 0..connections {
            listener.put(Pipe(tokio::io::duplex(1).0));
        }
        while host.dealt.load(Ordering::Relaxed) < turn * connections {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    host.gathered.load(Ordering::Relaxed)
}

#[tokio::test]
async fn connections_that_come_at_once_are_worth_waiting_for_more() {
    assert_eq!(gathered(3, 5).await, 5);
}

#[tokio::test]
async fn a_single_connection_never_waits_for_another() {
    assert_eq!(gathered(1, 5).await, 0);
}
