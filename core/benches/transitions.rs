//! What a decision costs. The figure to reach: 50 ns for a transition.
//!
//! `cargo bench -p pounce-core`

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pounce_core::connection::{Connection, Output, Phase, Role};
use pounce_core::protocol::{FromWorker, VERSION};
use pounce_core::supervisor::{self, Supervisor};
use pounce_core::worker::{self, Worker};
use pounce_core::{Instant, Policy};

const NOW: Instant = Instant::from_millis(1000);

/// The edges of one keep-alive request, as the taps under hyper report them: seven calls.
fn request_on_a_connection(c: &mut Criterion) {
    let mut group = c.benchmark_group("connection");
    group.throughput(Throughput::Elements(7));
    let mut connection = Connection::new(&Policy::default(), Role::Serve, Phase::Serving, NOW);
    let mut now = NOW;
    group.bench_function("request (7 edges)", |b| {
        b.iter(|| {
            now = now + Duration::from_micros(10);
            connection.on_head_bytes(now);
            connection.on_request(now, false, false);
            let verdict = connection.on_response_head(now, false);
            connection.on_response_end(now);
            connection.on_flushed(now);
            let read = connection.on_read_blocked(now);
            let next = connection.poll_output(now);
            debug_assert!(matches!(next, Output::Timeout(_)));
            black_box((verdict, read, next))
        });
    });
    group.finish();
}

fn drain_worker(worker: &mut Worker) {
    while !matches!(worker.poll_output(), worker::Output::Timeout(_)) {}
}

/// A connection opens and closes.
fn connection_on_a_worker(c: &mut Criterion) {
    let mut group = c.benchmark_group("worker");
    group.throughput(Throughput::Elements(2));
    let mut worker = Worker::new(Policy::default(), NOW);
    worker.handle(NOW, worker::Input::Ready);
    drain_worker(&mut worker);
    group.bench_function("open and close (2 inputs)", |b| {
        b.iter(|| {
            worker.handle(NOW, worker::Input::Opened);
            drain_worker(&mut worker);
            worker.handle(NOW, worker::Input::Closed { cut: 0 });
            drain_worker(&mut worker);
        });
    });
    group.finish();
}

fn drain_supervisor(supervisor: &mut Supervisor) {
    while !matches!(supervisor.poll_output(), supervisor::Output::Timeout(_)) {}
}

fn running(workers: u32) -> Supervisor {
    let mut supervisor = Supervisor::new(Policy::default(), workers, NOW);
    for worker in 1..=u64::from(workers) {
        for message in [FromWorker::Hello { version: VERSION }, FromWorker::Ready] {
            supervisor.handle(NOW, supervisor::Input::Worker { worker, message });
        }
    }
    drain_supervisor(&mut supervisor);
    supervisor
}

fn placement(c: &mut Criterion) {
    let mut group = c.benchmark_group("supervisor");
    for workers in [1, 4, 16] {
        let mut supervisor = running(workers);
        group.bench_function(format!("placement on {workers} worker(s)"), |b| {
            b.iter(|| black_box(supervisor.on_accepted(black_box(NOW))));
        });
    }
    group.finish();
}

/// What the supervisor does with a report of one of four workers.
fn status(c: &mut Criterion) {
    let mut supervisor = running(4);
    let mut requests = 0;
    c.bench_function("supervisor/status of one of 4 workers", |b| {
        b.iter_batched(
            || {
                requests += 1;
                FromWorker::Status { closed: 0, requests }
            },
            |message| {
                supervisor.handle(NOW, supervisor::Input::Worker { worker: 2, message });
                drain_supervisor(&mut supervisor);
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, request_on_a_connection, connection_on_a_worker, placement, status);
criterion_main!(benches);
