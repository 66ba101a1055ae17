//! The worker, one rule at a time.

use std::time::Duration;

use pounce_core::Instant;
use pounce_core::connection::Phase;
use pounce_core::policy::{ABORT_GRACE, CLOSE_ALL_GRACE, Policy};
use pounce_core::protocol::{FromWorker, ToWorker};
use pounce_core::worker::{EXIT_FORCED, Input, Output, State, Worker};

const NOW: Instant = Instant::from_millis(1000);

fn feed(worker: &mut Worker, now: Instant, input: Input) -> Vec<Output> {
    worker.handle(now, input);
    let mut outputs = Vec::new();
    loop {
        match worker.poll_output() {
            Output::Timeout(_) => return outputs,
            output => outputs.push(output),
        }
    }
}

fn order(message: ToWorker) -> Input {
    Input::Order { message, active: 0 }
}

fn drain(seconds: u64) -> Input {
    order(ToWorker::Drain { remaining: Duration::from_secs(seconds) })
}

/// A worker that serves `open` connections.
fn serving(open: u64) -> Worker {
    let mut worker = Worker::new(Policy::default(), NOW);
    feed(&mut worker, NOW, Input::Ready);
    (0..open).for_each(|_| drop(feed(&mut worker, NOW, Input::Opened)));
    worker
}

fn stopped(cut: u64, clean: bool) -> Output {
    Output::Send(FromWorker::Stopped { cut, requests: 0, clean })
}

#[test]
fn it_does_not_stop_while_a_connection_may_still_be_dealt_to_it() {
    let mut worker = serving(0);
    feed(&mut worker, NOW, drain(10));
    assert_eq!(worker.state(), State::Draining);
    assert_eq!(feed(&mut worker, NOW, order(ToWorker::LastDeal)), [Output::StopHost]);
}

#[test]
fn the_application_is_stopped_when_the_last_connection_closes() {
    let mut worker = serving(1);
    feed(&mut worker, NOW, drain(10));
    feed(&mut worker, NOW, order(ToWorker::LastDeal));
    assert!(feed(&mut worker, NOW, Input::Closed { cut: 0 }).contains(&Output::StopHost));
    assert!(feed(&mut worker, NOW, Input::HostStopped).contains(&stopped(0, true)));
}

#[test]
fn a_second_order_never_extends_the_deadline() {
    let mut worker = serving(1);
    feed(&mut worker, NOW, drain(1));
    feed(&mut worker, NOW, drain(10));
    assert_eq!(worker.deadline(), Some(NOW + Duration::from_secs(1)));
}

#[test]
fn at_the_deadline_it_aborts_by_itself() {
    let mut worker = serving(1);
    feed(&mut worker, NOW, drain(1));
    let said = feed(&mut worker, NOW + Duration::from_secs(1), Input::Timeout);
    assert_eq!(said, [Output::Phase(Phase::Aborting)]);
}

#[test]
fn a_late_order_does_not_shorten_the_grace() {
    let mut worker = serving(1);
    feed(&mut worker, NOW, order(ToWorker::Abort));
    feed(&mut worker, NOW, order(ToWorker::Drain { remaining: Duration::from_millis(10) }));
    assert_eq!(worker.deadline(), Some(NOW + ABORT_GRACE));
}

#[test]
fn requests_cut_when_everything_is_closed_are_counted_before_it_says_that_it_stopped() {
    let mut worker = serving(1);
    feed(&mut worker, NOW, order(ToWorker::Abort));
    assert_eq!(feed(&mut worker, NOW + ABORT_GRACE, Input::Timeout), [Output::CloseAll]);
    let said = feed(&mut worker, NOW + ABORT_GRACE, Input::Closed { cut: 1 });
    assert_eq!(said, [stopped(1, false), Output::Exit { code: EXIT_FORCED }]);
}

#[test]
fn a_connection_that_does_not_close_holds_it_for_a_bounded_time() {
    let mut worker = serving(1);
    feed(&mut worker, NOW, order(ToWorker::Abort));
    feed(&mut worker, NOW + ABORT_GRACE, Input::Timeout);
    feed(&mut worker, NOW + ABORT_GRACE + CLOSE_ALL_GRACE, Input::Timeout);
    assert_eq!(worker.state(), State::Stopped);
}

#[test]
fn an_application_whose_shutdown_is_cut_is_not_a_clean_end() {
    let mut worker = serving(0);
    feed(&mut worker, NOW, drain(1));
    feed(&mut worker, NOW, order(ToWorker::LastDeal));
    assert!(feed(&mut worker, NOW + Duration::from_secs(1), Input::Timeout).contains(&stopped(0, false)));
}

#[test]
fn told_to_stop_before_it_is_ready_it_leaves_at_once() {
    let mut worker = Worker::new(Policy::default(), NOW);
    let said = feed(&mut worker, NOW, drain(10));
    assert!(said.ends_with(&[stopped(0, true), Output::Exit { code: 0 }]));
}

#[test]
fn without_its_supervisor_it_drains_and_leaves() {
    let mut worker = serving(0);
    let said = feed(&mut worker, NOW, Input::SupervisorGone { active: 0 });
    assert!(said.contains(&Output::StopHost));
    assert_eq!(feed(&mut worker, NOW, Input::HostStopped), [Output::Exit { code: 0 }]);
}

#[test]
fn a_sigterm_of_its_own_is_passed_on() {
    let mut worker = serving(0);
    assert_eq!(feed(&mut worker, NOW, Input::Terminated), [Output::Send(FromWorker::RetireMe)]);
}

fn retire(seconds: u64) -> Input {
    order(ToWorker::Retire { remaining: Duration::from_secs(seconds) })
}

#[test]
fn a_worker_that_retires_alone_is_ready_as_before() {
    let mut worker = serving(1);
    let said = feed(&mut worker, NOW, retire(10));
    assert!(said.contains(&Output::Phase(Phase::Draining)));
    assert!(!said.contains(&Output::NotReady));
}

#[test]
fn a_worker_that_retires_is_not_ready_once_its_server_leaves() {
    for news in [drain(10), order(ToWorker::LameDuck), Input::SupervisorGone { active: 0 }] {
        let mut worker = serving(1);
        feed(&mut worker, NOW, retire(10));
        assert_eq!(feed(&mut worker, NOW, news), [Output::NotReady]);
        assert_eq!(worker.ignored(), 0);
    }
}

#[test]
fn readiness_goes_before_everything_else() {
    for news in [drain(10), order(ToWorker::LameDuck), order(ToWorker::Abort)] {
        let mut worker = serving(1);
        assert_eq!(feed(&mut worker, NOW, news).first(), Some(&Output::NotReady));
    }
}

#[test]
fn the_drain_of_the_server_gives_a_worker_that_retires_no_more_time() {
    let mut worker = serving(1);
    feed(&mut worker, NOW, retire(5));
    feed(&mut worker, NOW, drain(10));
    assert_eq!(worker.deadline(), Some(NOW + Duration::from_secs(5)));
}

#[test]
fn a_closed_connection_is_told_in_one_message_with_its_requests() {
    let later = NOW + Duration::from_secs(1);
    let mut worker = serving(1);
    assert_eq!(feed(&mut worker, later, Input::Requests { requests: 7 }), []);
    let told = Output::Send(FromWorker::Status { closed: 1, requests: 7 });
    assert_eq!(feed(&mut worker, later, Input::Closed { cut: 0 }), [told]);
}
