//! The supervisor, one rule at a time.

use std::time::Duration;

use pounce_core::connection::Phase;
use pounce_core::event::{ExitStatus, Signal};
use pounce_core::policy::{KILL_GRACE, Policy, PolicySettings};
use pounce_core::protocol::{FromWorker, ToWorker, VERSION};
use pounce_core::supervisor::{Input, Output, Placement, State, Supervisor, WorkerId, exit};
use pounce_core::{Event, Instant};

struct Server {
    now: Instant,
    machine: Supervisor,
    timeout: Option<Instant>,
    said: Vec<Output>,
}

impl Server {
    fn new(workers: u32, change: impl Fn(&mut PolicySettings)) -> Server {
        let mut settings = PolicySettings { shutdown_timeout: 10.0, ..PolicySettings::default() };
        change(&mut settings);
        let now = Instant::from_millis(1000);
        let policy = Policy::new(settings).expect("the policy of the test is valid");
        let mut server =
            Server { now, machine: Supervisor::new(policy, workers, now), timeout: None, said: Vec::new() };
        server.obey();
        server
    }

    /// A server whose workers all serve.
    fn started(workers: u32, change: impl Fn(&mut PolicySettings)) -> Server {
        let mut server = Server::new(workers, change);
        (1..=u64::from(workers)).for_each(|worker| server.ready(worker));
        server.said.clear();
        server
    }

    fn obey(&mut self) {
        loop {
            match self.machine.poll_output() {
                Output::Timeout(at) => return self.timeout = at,
                output => self.said.push(output),
            }
        }
    }

    fn feed(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        self.obey();
    }

    fn signal(&mut self, signal: Signal) {
        self.feed(Input::Signal(signal));
    }

    fn says(&mut self, worker: WorkerId, message: FromWorker) {
        self.feed(Input::Worker { worker, message });
    }

    fn ready(&mut self, worker: WorkerId) {
        self.says(worker, FromWorker::Hello { version: VERSION });
        self.says(worker, FromWorker::Ready);
    }

    fn stops(&mut self, worker: WorkerId) {
        self.says(worker, FromWorker::Stopped { cut: 0, requests: 0, clean: true });
        self.dies(worker, ExitStatus::Code(0));
    }

    fn dies(&mut self, worker: WorkerId, status: ExitStatus) {
        self.feed(Input::Exited { worker, status, undelivered: 0 });
    }

    fn accept(&mut self) -> Placement {
        let placement = self.machine.on_accepted(self.now);
        self.obey();
        placement
    }

    /// Time passes, and every timer on the way fires.
    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.timeout.filter(|at| *at <= until) {
            self.now = at;
            self.feed(Input::Timeout);
            assert!(self.timeout.is_none_or(|next| next > at), "a timer in the past fires for ever");
        }
        self.now = until;
    }

    fn spawned(&self) -> Vec<WorkerId> {
        let spawn = |output: &Output| match output {
            Output::Spawn { worker, .. } => Some(*worker),
            _ => None,
        };
        self.said.iter().filter_map(spawn).collect()
    }

    fn has_said(&self, output: &Output) -> bool {
        self.said.contains(output)
    }
}

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

#[test]
fn connections_wait_until_every_worker_serves() {
    let mut server = Server::new(2, |_| {});
    server.ready(1);
    assert!(!server.machine.wants_accept(), "the first to be ready would get them all");
    server.ready(2);
    assert!(server.machine.wants_accept());
}

#[test]
fn eight_connections_on_four_workers_are_two_each() {
    let mut server = Server::started(4, |_| {});
    let mut placed: Vec<Placement> = (0..8).map(|_| server.accept()).collect();
    placed.sort_by_key(|p| format!("{p:?}"));
    let two_each = (1..=4).flat_map(|w| [Placement::Worker(w), Placement::Worker(w)]).collect::<Vec<_>>();
    assert_eq!(placed, two_each);
}

#[test]
fn connections_of_a_dead_worker_wait_for_its_replacement() {
    let mut server = Server::started(1, |_| {});
    assert_eq!(server.accept(), Placement::Worker(1));
    server.feed(Input::Exited { worker: 1, status: ExitStatus::Signal(9), undelivered: 1 });
    assert_eq!(server.accept(), Placement::Hold, "it was not served, so it need not fail");
    server.ready(2);
    assert_eq!(server.accept(), Placement::Worker(2));
}

#[test]
fn connections_still_spread_when_every_worker_asked_to_retire() {
    let mut server = Server::started(2, |_| {});
    server.says(1, FromWorker::RetireMe);
    server.says(2, FromWorker::RetireMe);
    assert_ne!(server.accept(), server.accept());
}

#[test]
fn those_who_are_refused_do_not_count_as_connections_that_are_too_many() {
    let mut server = Server::started(1, |p| p.max_connections = Some(1));
    assert_eq!(server.accept(), Placement::Worker(1));
    assert!(matches!(server.accept(), Placement::Refuse(_)));
    server.says(1, FromWorker::Status { closed: 1, requests: 1 });
    assert_eq!(server.accept(), Placement::Worker(1));
}

#[test]
fn a_clean_drain_exits_at_once_with_0() {
    let mut server = Server::started(1, |_| {});
    server.signal(Signal::Term);
    server.feed(Input::AcceptBlocked);
    server.stops(1);
    server.wait(seconds(0.1));
    server.feed(Input::AcceptBlocked);
    assert_eq!(server.machine.exit_code(), Some(exit::CLEAN));
}

#[test]
fn listeners_are_not_closed_before_a_last_look_into_the_accept_queue() {
    let mut server = Server::started(1, |_| {});
    server.signal(Signal::Term);
    server.feed(Input::AcceptBlocked);
    server.stops(1);
    server.feed(Input::AcceptBlocked);
    server.wait(seconds(0.2));
    assert!(server.machine.wants_backlog_empty());
    assert!(!server.has_said(&Output::CloseListeners), "what came after the first look would be reset");
}

#[test]
fn another_sigterm_does_not_move_the_deadline() {
    let mut server = Server::started(1, |_| {});
    server.signal(Signal::Term);
    let deadline = server.machine.deadline();
    server.wait(seconds(3.0));
    server.signal(Signal::Term);
    assert_eq!(server.machine.deadline(), deadline);
}

#[test]
fn sigint_during_a_drain_forces_and_a_further_one_kills() {
    let mut server = Server::started(1, |_| {});
    server.signal(Signal::Int);
    server.signal(Signal::Int);
    assert_eq!(server.machine.state(), State::Forcing);
    assert!(!server.has_said(&Output::Kill { worker: 1 }));
    server.signal(Signal::Int);
    assert!(server.has_said(&Output::Kill { worker: 1 }));
}

#[test]
fn sigquit_with_a_replacement_due_leaves_no_timer_behind() {
    let mut server = Server::started(1, |_| {});
    for worker in 1..=3 {
        server.dies(worker, ExitStatus::Signal(9));
        server.wait(seconds(0.09));
    }
    server.signal(Signal::Quit);
    server.wait(seconds(1.0));
    assert!(server.machine.exit_code().is_some());
}

#[test]
fn nobody_waits_for_the_end_of_the_delay_when_the_last_worker_is_dead() {
    let mut server = Server::started(1, |settings| settings.drain_delay = 10.0);
    server.signal(Signal::Term);
    server.dies(1, ExitStatus::Signal(9));
    assert!(server.machine.wants_accept());
    assert!(matches!(server.accept(), Placement::Refuse(_)));
    assert_eq!(server.machine.state(), State::LameDuck);
}

#[test]
fn sigquit_during_the_delay_leaves_no_timer_behind() {
    let mut server = Server::started(1, |p| p.drain_delay = 0.2);
    server.signal(Signal::Term);
    server.signal(Signal::Quit);
    server.wait(seconds(0.5));
    assert_eq!(server.machine.state(), State::Forcing);
}

#[test]
fn a_worker_that_survives_sigkill_does_not_hold_the_server() {
    let mut server = Server::started(1, |_| {});
    server.signal(Signal::Term);
    server.feed(Input::AcceptBlocked);
    server.wait(seconds(11.0));
    assert_eq!(server.machine.exit_code(), Some(exit::FORCED));
}

#[test]
fn a_worker_has_its_own_grace_before_it_is_killed() {
    let mut server = Server::started(1, |_| {});
    server.signal(Signal::Term);
    server.wait(seconds(10.0));
    assert!(server.has_said(&Output::Tell { worker: 1, message: ToWorker::Abort }));
    assert!(!server.has_said(&Output::Kill { worker: 1 }));
    server.wait(KILL_GRACE);
    assert!(server.has_said(&Output::Kill { worker: 1 }));
}

#[test]
fn a_worker_that_is_done_may_let_its_executor_threads_finish() {
    let mut server = Server::started(1, |_| {});
    server.signal(Signal::Term);
    server.says(1, FromWorker::Stopped { cut: 0, requests: 0, clean: true });
    server.wait(seconds(2.4));
    assert!(!server.has_said(&Output::Kill { worker: 1 }));
    server.wait(seconds(0.1));
    assert!(server.has_said(&Output::Kill { worker: 1 }));
}

#[test]
fn a_worker_whose_last_word_is_heard_late_is_not_killed_for_it() {
    let mut server = Server::started(1, |_| {});
    server.signal(Signal::Term);
    server.now = server.now + seconds(10.0) + KILL_GRACE;
    server.says(1, FromWorker::Stopped { cut: 0, requests: 0, clean: true });
    assert!(!server.has_said(&Output::Kill { worker: 1 }));
}

#[test]
fn a_worker_that_aborts_by_its_own_clock_is_reported_as_forced() {
    let mut server = Server::started(1, |_| {});
    server.signal(Signal::Term);
    server.now = server.now + seconds(10.0);
    server.says(1, FromWorker::Stopped { cut: 1, requests: 1, clean: false });
    let forced = Event::WorkerForced { worker: 1, timeout: seconds(10.0) };
    assert!(server.has_said(&Output::Report(forced)));
}

#[test]
fn readiness_is_false_from_the_signal_on() {
    let mut server = Server::started(1, |p| p.drain_delay = 5.0);
    server.signal(Signal::Term);
    assert!(!server.machine.is_ready());
    assert!(server.has_said(&Output::Phase(Phase::LameDuck)));
    assert!(server.machine.wants_accept(), "new work is still taken");
}

#[test]
fn sigterm_while_nothing_is_ready_exits_with_0() {
    let mut server = Server::new(1, |_| {});
    server.says(1, FromWorker::Hello { version: VERSION });
    server.signal(Signal::Term);
    server.feed(Input::AcceptBlocked);
    server.stops(1);
    server.wait(seconds(0.1));
    server.feed(Input::AcceptBlocked);
    assert_eq!(server.machine.exit_code(), Some(exit::CLEAN));
}

#[test]
fn a_worker_that_became_ready_as_it_was_told_to_stop_may_shut_its_application_down() {
    let mut server = Server::new(1, |_| {});
    server.says(1, FromWorker::Hello { version: VERSION });
    server.signal(Signal::Term);
    server.says(1, FromWorker::Ready);
    server.wait(seconds(5.0));
    assert!(!server.has_said(&Output::Kill { worker: 1 }));
}

#[test]
fn an_application_that_does_not_start_is_exit_code_3() {
    let mut server = Server::new(1, |_| {});
    server.says(1, FromWorker::Hello { version: VERSION });
    server.says(1, FromWorker::StartFailed { message: "ImportError".into() });
    server.dies(1, ExitStatus::Code(3));
    server.wait(seconds(0.1));
    server.feed(Input::AcceptBlocked);
    assert_eq!(server.machine.exit_code(), Some(exit::START_FAILED));
}

#[test]
fn a_worker_that_cannot_leave_after_a_failed_start_is_killed() {
    let mut server = Server::new(1, |_| {});
    server.says(1, FromWorker::Hello { version: VERSION });
    server.says(1, FromWorker::StartFailed { message: "ImportError".into() });
    server.wait(KILL_GRACE);
    assert!(server.has_said(&Output::Kill { worker: 1 }));
}

#[test]
fn a_start_that_hangs_has_failed() {
    let mut server = Server::new(1, |p| p.startup_timeout = Some(30.0));
    server.says(1, FromWorker::Hello { version: VERSION });
    server.wait(seconds(29.9));
    assert!(!server.has_said(&Output::Kill { worker: 1 }));
    server.wait(seconds(0.1));
    let said = Event::WorkerStartTimedOut { worker: 1, timeout: seconds(30.0) };
    assert!(server.has_said(&Output::Report(said)));
    assert!(server.has_said(&Output::Kill { worker: 1 }));
    server.dies(1, ExitStatus::Signal(9));
    server.wait(seconds(0.1));
    server.feed(Input::AcceptBlocked);
    assert_eq!(server.machine.exit_code(), Some(exit::START_FAILED));
}

#[test]
fn a_process_that_does_not_even_say_hello_has_failed_to_start() {
    let mut server = Server::new(1, |p| p.startup_timeout = Some(30.0));
    server.wait(seconds(30.0));
    assert!(server.has_said(&Output::Kill { worker: 1 }));
}

#[test]
fn one_that_hangs_ends_the_start_of_the_others() {
    let mut server = Server::new(2, |p| p.startup_timeout = Some(30.0));
    server.ready(1);
    server.says(2, FromWorker::Hello { version: VERSION });
    server.wait(seconds(30.0));
    server.feed(Input::AcceptBlocked);
    server.dies(2, ExitStatus::Signal(9));
    server.stops(1);
    server.wait(seconds(0.1));
    server.feed(Input::AcceptBlocked);
    assert_eq!(server.machine.exit_code(), Some(exit::START_FAILED));
}

#[test]
fn a_worker_that_is_ready_in_time_is_never_killed_for_its_start() {
    let mut server = Server::new(1, |p| p.startup_timeout = Some(30.0));
    server.wait(seconds(29.9));
    server.ready(1);
    server.wait(seconds(100.0));
    assert!(!server.has_said(&Output::Kill { worker: 1 }));
}

#[test]
fn a_reload_that_hangs_has_failed_and_the_old_generation_serves_on() {
    let mut server = Server::started(2, |p| p.startup_timeout = Some(30.0));
    server.signal(Signal::Hup);
    server.ready(3);
    server.wait(seconds(30.0));
    assert!(
        server.has_said(&Output::Report(Event::ReloadFailed { generation: 2 })),
        "before its process is gone"
    );
    assert_eq!(server.machine.state(), State::Running);
    assert!(matches!(server.accept(), Placement::Worker(1 | 2)));
    // What hangs cannot stand in the way of the next one.
    server.signal(Signal::Hup);
    assert_eq!(server.machine.state(), State::Reloading);
}

#[test]
fn a_replacement_that_hangs_is_tried_again_after_a_pause() {
    let mut server = Server::started(2, |p| p.startup_timeout = Some(30.0));
    server.dies(1, ExitStatus::Signal(11));
    server.said.clear();
    server.wait(seconds(30.0));
    assert!(server.has_said(&Output::Kill { worker: 3 }));
    server.wait(seconds(1.0));
    assert_eq!(server.spawned(), [4]);
    assert_eq!(server.machine.state(), State::Running);
}

#[test]
fn a_crash_loop_ends_in_its_own_exit_code() {
    let mut server = Server::started(1, |_| {});
    for worker in 1..=8 {
        server.ready(worker);
        server.dies(worker, ExitStatus::Signal(11));
        server.wait(seconds(6.0));
    }
    server.feed(Input::AcceptBlocked);
    assert_eq!(server.machine.exit_code(), Some(exit::CRASH_LOOP));
}

/// A server of two workers, the first of which dies and cannot be replaced `times` times in a row.
fn with_one_place_that_stays_empty(times: u64) -> Server {
    let mut server = Server::started(2, |_| {});
    server.wait(seconds(11.0));
    server.dies(1, ExitStatus::Signal(9));
    for worker in 3..3 + times {
        server.wait(seconds(60.0));
        server.says(worker, FromWorker::Hello { version: VERSION });
        server.says(worker, FromWorker::StartFailed { message: "SyntaxError".into() });
        server.dies(worker, ExitStatus::Code(3));
    }
    server
}

#[test]
fn a_place_that_cannot_be_filled_does_not_take_those_who_serve_with_it() {
    let mut server = with_one_place_that_stays_empty(20);
    assert_eq!(server.machine.state(), State::Running);
    assert_eq!(server.accept(), Placement::Worker(2));
    server.said.clear();
    server.wait(seconds(60.0));
    assert_eq!(server.spawned().len(), 1, "it is tried again, and not too often");
}

#[test]
fn a_place_that_cannot_be_filled_ends_the_server_once_nobody_serves() {
    let mut server = with_one_place_that_stays_empty(8);
    server.dies(2, ExitStatus::Signal(9));
    for worker in 11..20 {
        server.dies(worker, ExitStatus::Code(3));
        server.wait(seconds(60.0));
    }
    server.feed(Input::AcceptBlocked);
    assert_eq!(server.machine.exit_code(), Some(exit::CRASH_LOOP));
}

#[test]
fn workers_that_all_keep_dying_are_a_crash_loop() {
    let mut server = Server::started(2, |_| {});
    for worker in (1..=16).step_by(2) {
        for worker in [worker, worker + 1] {
            server.ready(worker);
            server.wait(seconds(5.0));
        }
        server.dies(worker, ExitStatus::Signal(11));
        server.dies(worker + 1, ExitStatus::Signal(11));
        server.wait(seconds(60.0));
    }
    server.feed(Input::AcceptBlocked);
    assert_eq!(server.machine.exit_code(), Some(exit::CRASH_LOOP));
}

#[test]
fn one_worker_that_keeps_dying_does_not_delay_the_replacement_of_another() {
    let mut server = Server::started(2, |_| {});
    for worker in [1, 3, 4] {
        server.ready(worker);
        server.dies(worker, ExitStatus::Signal(11));
        server.wait(seconds(1.0));
    }
    server.said.clear();
    server.dies(2, ExitStatus::Signal(11));
    assert_eq!(server.spawned().len(), 1, "at once");
}

#[test]
fn a_reload_retires_the_old_generation_only_when_the_new_one_serves() {
    let mut server = Server::started(2, |_| {});
    server.signal(Signal::Hup);
    server.ready(3);
    let retire = |worker| Output::Tell { worker, message: ToWorker::Retire { remaining: seconds(10.0) } };
    assert!(!server.has_said(&retire(1)));
    server.ready(4);
    assert!(server.has_said(&retire(1)) && server.has_said(&retire(2)));
}

#[test]
fn a_worker_that_retires_hears_of_the_servers_drain_and_keeps_its_deadline() {
    let mut server = Server::started(1, |_| {});
    server.signal(Signal::Hup);
    server.ready(2);
    server.wait(seconds(4.0));
    server.signal(Signal::Term);
    let drain = ToWorker::Drain { remaining: seconds(6.0) };
    assert!(server.has_said(&Output::Tell { worker: 1, message: drain }));
}

#[test]
fn a_worker_that_retires_hears_that_readiness_is_over_before_the_drain_is() {
    let mut server = Server::started(1, |p| p.drain_delay = 3.0);
    server.signal(Signal::Hup);
    server.ready(2);
    server.signal(Signal::Term);
    assert!(server.has_said(&Output::Tell { worker: 1, message: ToWorker::LameDuck }));
}

#[test]
fn late_exits_of_a_failed_generation_do_not_fail_the_next_reload() {
    let mut server = Server::started(2, |_| {});
    server.signal(Signal::Hup);
    server.dies(3, ExitStatus::Code(3));
    server.signal(Signal::Hup);
    server.dies(4, ExitStatus::Signal(9));
    assert_eq!(server.machine.state(), State::Reloading);
}

#[test]
fn a_place_that_became_empty_during_a_failed_reload_is_filled() {
    let mut server = Server::started(2, |_| {});
    server.signal(Signal::Hup);
    server.dies(1, ExitStatus::Signal(9));
    server.said.clear();
    server.dies(3, ExitStatus::Code(3));
    assert_eq!(server.spawned().len(), 1);
    assert_eq!(server.machine.vacancies(), Vec::<u32>::new());
}

#[test]
fn sighup_during_a_drain_starts_nobody() {
    let mut server = Server::started(1, |_| {});
    server.signal(Signal::Term);
    server.signal(Signal::Hup);
    assert_eq!(server.spawned(), Vec::<u64>::new());
}

#[test]
fn a_worker_that_asks_to_retire_goes_when_its_place_is_taken() {
    let mut server = Server::started(1, |_| {});
    server.says(1, FromWorker::RetireMe);
    server.wait(seconds(0.2));
    assert_eq!(server.spawned(), [2]);
    assert_eq!(server.accept(), Placement::Worker(1), "until then it serves");
    server.ready(2);
    assert!(server.has_said(&Output::Tell { worker: 1, message: ToWorker::LastDeal }));
}

#[test]
fn the_exit_of_an_unknown_worker_changes_nothing() {
    let mut server = Server::started(1, |_| {});
    server.dies(77, ExitStatus::Code(0));
    assert_eq!((server.machine.state(), server.machine.ignored()), (State::Running, 1));
}
