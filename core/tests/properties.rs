//! Random inputs for each machine and for a whole server, every step checked against the invariants.
//!
//! The seed is fixed, so that a run says the same on every machine. For a search of new ground:
//! `PROPTEST_SEED=7 PROPTEST_CASES=100000 cargo test -p pounce-core --test properties`.

#![allow(clippy::disallowed_methods, reason = "the seed may come from the environment")]

mod cluster;

use std::time::Duration;

use cluster::{Action, Budget, Cluster, Outcome, Setup};
use pounce_core::connection::{Connection, Phase, Role};
use pounce_core::event::{ExitStatus, Signal};
use pounce_core::invariants::{ConnectionInput, ConnectionObserver, SupervisorObserver, WorkerObserver};
use pounce_core::policy::{Policy, PolicySettings};
use pounce_core::protocol::{FromWorker, ToWorker, VERSION};
use pounce_core::supervisor::{self, Supervisor};
use pounce_core::worker::{self, Worker};
use pounce_core::{Instant, connection};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}: it must be a whole number")))
}

/// Runs `test` on `cases` values (or `PROPTEST_CASES`), from a fixed seed (or `PROPTEST_SEED`).
fn check<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let cases = number("PROPTEST_CASES").map_or(cases, |n| n as u32);
    // Nothing is read from or written to a file of past failures: a test that passes here passes everywhere.
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number("PROPTEST_SEED").unwrap_or(0x70_6f75_6e63).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    match TestRunner::new_with_rng(config, rng).run(&strategy, test) {
        Ok(()) => {}
        Err(TestError::Fail(reason, value)) => panic!("{reason}\nsmallest input: {value:#?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

fn failed(violation: impl std::fmt::Display) -> TestCaseError {
    TestCaseError::fail(violation.to_string())
}

fn policy() -> impl Strategy<Value = Policy> {
    let delay = prop_oneof![Just(0.0), Just(0.2), Just(3.0)];
    let linger = prop_oneof![Just(0.0), Just(0.1), Just(0.5), Just(4.0)];
    let timeout = prop_oneof![Just(0.01), Just(0.3), Just(2.0), Just(20.0)];
    let request_timeout = prop_oneof![Just(None), Just(Some(0.2)), Just(Some(5.0))];
    let limit = prop_oneof![3 => Just(None), 1 => (1..4_u32).prop_map(Some)];
    let startup = prop_oneof![2 => Just(None), 1 => Just(Some(0.3)), 1 => Just(Some(4.0))];
    (timeout, delay, linger, request_timeout, limit, startup).prop_map(
        |(
            shutdown_timeout,
            drain_delay,
            keepalive_linger,
            request_timeout,
            max_connections,
            startup_timeout,
        )| {
            let settings = PolicySettings {
                shutdown_timeout,
                startup_timeout,
                drain_delay,
                keepalive_linger,
                request_timeout,
                max_connections,
                keep_alive_timeout: 3.0,
                header_timeout: 1.0,
                body_timeout: 1.5,
                write_timeout: 1.0,
            };
            Policy::new(settings).expect("the policy of the test is valid")
        },
    )
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![Just(Phase::Serving), Just(Phase::LameDuck), Just(Phase::Draining), Just(Phase::Aborting)]
}

/// Mostly none, sometimes a little, now and then a lot.
fn pause() -> impl Strategy<Value = Duration> {
    prop_oneof![
        6 => Just(Duration::ZERO),
        3 => (1..50_u64).prop_map(Duration::from_millis),
        2 => (50..1200_u64).prop_map(Duration::from_millis),
        1 => (1200..30_000_u64).prop_map(Duration::from_millis),
    ]
}

fn connection_input() -> impl Strategy<Value = ConnectionInput> {
    use ConnectionInput as In;
    prop_oneof![
        4 => Just(In::HeadBytes),
        4 => any::<(bool, bool)>().prop_map(|(has_body, client_close)| In::Request { has_body, client_close }),
        1 => Just(In::BodyBlocked),
        1 => Just(In::BodyProgress),
        1 => Just(In::BodyEnd),
        1 => Just(In::CloseAnnounced),
        4 => any::<bool>().prop_map(|pipelined| In::ResponseHead { pipelined }),
        4 => Just(In::ResponseEnd),
        4 => Just(In::Flushed),
        1 => Just(In::WriteBlocked),
        1 => Just(In::WriteProgress),
        1 => any::<bool>().prop_map(|took| In::WriteProbe { took }),
        4 => Just(In::ReadBlocked),
        1 => Just(In::Finished),
        1 => Just(In::CloseAll),
        1 => Just(In::Closed),
        2 => phase().prop_map(In::Phase),
        6 => Just(In::Poll),
    ]
}

#[test]
fn connection_keeps_the_invariants_whatever_comes() {
    let role = prop_oneof![Just(Role::Serve), Just(Role::Refuse)];
    let inputs = prop::collection::vec((pause(), connection_input()), 0..60);
    check(3000, (policy(), role, phase(), inputs), |(policy, role, phase, inputs)| {
        let mut now = Instant::from_millis(10_000);
        let mut machine = Connection::new(&policy, role, phase, now);
        let mut observer = ConnectionObserver::new(phase, now);
        for (pause, input) in inputs {
            now = now + pause;
            observer.step(&mut machine, now, input).map_err(failed)?;
        }
        Ok(())
    });
}

/// What a connection must have become, by the simplest account of it: the requests one after the other.
#[test]
fn connection_agrees_with_a_list_of_requests() {
    let requests = prop::collection::vec((any::<bool>(), any::<bool>(), pause()), 1..8);
    check(2000, (policy(), requests, 0..8_usize), |(policy, requests, drain_at)| {
        let mut now = Instant::from_millis(10_000);
        let mut machine = Connection::new(&policy, Role::Serve, Phase::Serving, now);
        let mut answered = 0;
        let mut announced = false;
        for (i, (pipelined, asks_for_close, pause)) in requests.iter().copied().enumerate() {
            if i == drain_at {
                machine.on_phase(now, Phase::Draining);
            }
            machine.on_head_bytes(now);
            machine.on_request(now, false, asks_for_close);
            now = now + pause.min(Duration::from_millis(100));
            let _ = machine.on_response_head(now, pipelined);
            machine.on_response_end(now);
            machine.on_flushed(now);
            if !announced {
                answered += 1;
                announced = i >= drain_at && !pipelined;
            }
        }
        prop_assert_eq!(machine.requests(), answered);
        prop_assert_eq!(machine.close_announced(), announced);
        prop_assert_eq!(machine.state() == connection::State::Closing, announced);
        Ok(())
    });
}

fn worker_input() -> impl Strategy<Value = worker::Input> {
    use worker::Input as In;
    let remaining = (0..3000_u64).prop_map(Duration::from_millis);
    let order = prop_oneof![
        1 => Just(ToWorker::LameDuck),
        3 => remaining.clone().prop_map(|remaining| ToWorker::Drain { remaining }),
        2 => remaining.prop_map(|remaining| ToWorker::Retire { remaining }),
        3 => Just(ToWorker::LastDeal),
        1 => Just(ToWorker::Abort),
    ];
    prop_oneof![
        3 => Just(In::Ready),
        1 => Just(In::StartFailed { message: "no".into() }),
        5 => (order, 0..3_u64).prop_map(|(message, active)| In::Order { message, active }),
        1 => Just(In::SupervisorGone { active: 1 }),
        5 => Just(In::Opened),
        5 => (0..2_u64).prop_map(|cut| In::Closed { cut }),
        2 => (0..9_u64).prop_map(|requests| In::Requests { requests }),
        4 => Just(In::HostStopped),
        1 => Just(In::Terminated),
        3 => Just(In::Timeout),
    ]
}

#[test]
fn worker_keeps_the_invariants_whatever_comes() {
    let inputs = prop::collection::vec((pause(), worker_input()), 0..50);
    check(3000, (policy(), inputs), |(policy, inputs)| {
        let mut now = Instant::from_millis(10_000);
        let mut machine = Worker::new(policy, now);
        let mut observer = WorkerObserver::new(now);
        let mut timeout = None;
        let mut last_deal = false;
        for (pause, input) in inputs {
            let until = now + pause;
            let mut due = Vec::new();
            // The timer never fires late: between two inputs it fires as often as it is due.
            while let Some(at) = timeout.filter(|at| *at <= until) {
                now = at;
                timeout = feed_worker(&mut machine, &mut observer, now, worker::Input::Timeout)?;
                due.push(at);
                prop_assert!(due.len() < 50, "a timer that never comes to rest: {due:?}");
            }
            now = until;
            last_deal |= matches!(
                input,
                worker::Input::SupervisorGone { .. }
                    | worker::Input::Order { message: ToWorker::LastDeal | ToWorker::Abort, .. }
            );
            // The protocol's promise: no connection follows the last deal.
            if !(last_deal && input == worker::Input::Opened) {
                timeout = feed_worker(&mut machine, &mut observer, now, input)?;
            }
        }
        Ok(())
    });
}

fn feed_worker(
    machine: &mut Worker,
    observer: &mut WorkerObserver,
    now: Instant,
    input: worker::Input,
) -> Result<Option<Instant>, TestCaseError> {
    observer.input(machine, now, &input).map_err(failed)?;
    machine.handle(now, input);
    loop {
        let output = machine.poll_output();
        observer.output(machine, now, &output).map_err(failed)?;
        if let worker::Output::Timeout(at) = output {
            return Ok(at);
        }
    }
}

#[derive(Clone, Debug)]
enum ServerStep {
    Input(supervisor::Input),
    Accept,
    DealFailed(u64),
}

fn server_step() -> impl Strategy<Value = ServerStep> {
    use supervisor::Input as In;
    let signal = prop_oneof![
        3 => Just(Signal::Term),
        2 => Just(Signal::Int),
        1 => Just(Signal::Quit),
        3 => Just(Signal::Hup),
    ];
    let message = prop_oneof![
        6 => Just(FromWorker::Hello { version: VERSION }),
        1 => Just(FromWorker::Hello { version: VERSION + 1 }),
        8 => Just(FromWorker::Ready),
        1 => Just(FromWorker::StartFailed { message: "no".into() }),
        3 => (0..5_u64, 0..9_u64).prop_map(|(closed, requests)| FromWorker::Status { closed, requests }),
        2 => (0..3_u64).prop_map(|active| FromWorker::Draining { active }),
        1 => Just(FromWorker::RetireMe),
        2 => any::<bool>().prop_map(|clean| FromWorker::Stopped { cut: u64::from(!clean), requests: 3, clean }),
    ];
    let status =
        prop_oneof![Just(ExitStatus::Code(0)), Just(ExitStatus::Code(4)), Just(ExitStatus::Signal(9))];
    let worker = 1..12_u64;
    prop_oneof![
        2 => signal.prop_map(|s| ServerStep::Input(In::Signal(s))),
        12 => (worker.clone(), message)
            .prop_map(|(worker, message)| ServerStep::Input(In::Worker { worker, message })),
        4 => (worker.clone(), status, 0..2_u64).prop_map(|(worker, status, undelivered)| {
            ServerStep::Input(In::Exited { worker, status, undelivered })
        }),
        1 => worker.clone().prop_map(|worker| ServerStep::Input(In::SpawnFailed { worker })),
        2 => Just(ServerStep::Input(In::AcceptBlocked)),
        2 => Just(ServerStep::Input(In::RefusedClosed)),
        1 => Just(ServerStep::Input(In::Timeout)),
        4 => Just(ServerStep::Accept),
        1 => worker.prop_map(ServerStep::DealFailed),
    ]
}

#[test]
fn supervisor_keeps_the_invariants_whatever_comes() {
    let steps = prop::collection::vec((pause(), server_step()), 0..80);
    check(3000, (policy(), 1..4_u32, steps), |(policy, workers, steps)| {
        let mut now = Instant::from_millis(10_000);
        let mut server = WatchedServer::new(policy, workers, now)?;
        for (pause, step) in steps {
            let until = now + pause;
            let mut fired = 0;
            while let Some(at) = server.timeout.filter(|at| *at <= until) {
                now = at;
                server.feed(now, supervisor::Input::Timeout)?;
                fired += 1;
                prop_assert!(fired < 400, "a timer that never comes to rest");
            }
            now = until;
            match step {
                ServerStep::Input(input) => server.feed(now, input)?,
                ServerStep::Accept => server.accept(now)?,
                ServerStep::DealFailed(worker) => server.deal_failed(now, worker)?,
            }
        }
        Ok(())
    });
}

struct WatchedServer {
    machine: Supervisor,
    observer: SupervisorObserver,
    timeout: Option<Instant>,
    dealt: Vec<u64>,
}

impl WatchedServer {
    fn new(policy: Policy, workers: u32, now: Instant) -> Result<WatchedServer, TestCaseError> {
        let mut this = WatchedServer {
            machine: Supervisor::new(policy, workers, now),
            observer: SupervisorObserver::new(now),
            timeout: None,
            dealt: Vec::new(),
        };
        this.obey(now)?;
        Ok(this)
    }

    fn feed(&mut self, now: Instant, input: supervisor::Input) -> Result<(), TestCaseError> {
        self.observer.input(&self.machine, now, &input).map_err(failed)?;
        self.machine.handle(now, input);
        self.obey(now)
    }

    fn obey(&mut self, now: Instant) -> Result<(), TestCaseError> {
        loop {
            let output = self.machine.poll_output();
            self.observer.output(&self.machine, now, &output).map_err(failed)?;
            if let supervisor::Output::Timeout(at) = output {
                self.timeout = at;
                return Ok(());
            }
        }
    }

    fn accept(&mut self, now: Instant) -> Result<(), TestCaseError> {
        if !self.machine.wants_accept() {
            return Ok(());
        }
        let placement = self.machine.on_accepted(now);
        self.placed(now, placement)
    }

    /// Only what was dealt can come back.
    fn deal_failed(&mut self, now: Instant, worker: u64) -> Result<(), TestCaseError> {
        if self.dealt.last() != Some(&worker) {
            return Ok(());
        }
        self.dealt.pop();
        self.observer.deal_failed(worker);
        let placement = self.machine.on_deal_failed(now, worker);
        self.placed(now, placement)
    }

    fn placed(&mut self, now: Instant, placement: supervisor::Placement) -> Result<(), TestCaseError> {
        self.observer.placed(&self.machine, placement).map_err(failed)?;
        if let supervisor::Placement::Worker(worker) = placement {
            self.dealt.push(worker);
        }
        self.obey(now)
    }
}

fn budget() -> impl Strategy<Value = Budget> {
    let few = || prop_oneof![3 => Just(0_u8), 2 => Just(1), 1 => Just(2)];
    (few(), few(), few(), few(), 0..8_u8, few(), few(), few()).prop_map(
        |(term, int, quit, hup, crash, boot_failure, retire, half_head)| Budget {
            term,
            int,
            quit: quit / 2,
            hup,
            crash: crash.saturating_sub(3),
            boot_failure,
            retire,
            half_head,
        },
    )
}

fn setup(budget: impl Strategy<Value = Budget>) -> impl Strategy<Value = Setup> {
    (policy(), 1..4_u32, 1..6_u8, budget, any::<bool>()).prop_map(
        |(policy, workers, clients, budget, eager_clients)| Setup {
            policy,
            workers,
            clients,
            budget,
            eager_clients,
        },
    )
}

/// Something that the server itself has to do.
fn is_work(action: &Action) -> bool {
    !matches!(
        action,
        Action::Tick
            | Action::Connect(_)
            | Action::Send(_)
            | Action::SendHalf(_)
            | Action::Signal(_)
            | Action::Terminated(_)
            | Action::Crash(_)
    )
}

/// Lets `choices` decide what happens next, with `prompt` so that nothing takes time but the clients; what remains of the budgets is then taken away, and everybody does what a
/// healthy peer does until the server has left.
fn run(setup: Setup, choices: &[u16], prompt: bool) -> Result<Cluster, TestCaseError> {
    let mut cluster = Cluster::new(setup).map_err(failed)?;
    for choice in choices {
        let mut actions = cluster.actions();
        if prompt && actions.iter().any(is_work) {
            actions.retain(|action| *action != Action::Tick);
        }
        if actions.is_empty() {
            break;
        }
        cluster.apply(actions[usize::from(*choice) % actions.len()]).map_err(failed)?;
    }
    cluster.budget = Budget { term: 1, ..Budget::default() };
    for _ in 0..5000 {
        let actions = cluster.actions();
        let heals = |a: &&Action| !matches!(a, Action::Tick | Action::Connect(_) | Action::Signal(_));
        // A signal first, if none was; time goes on only when nobody has anything to do.
        let signal = actions.iter().find(|a| matches!(a, Action::Signal(_)) && !cluster.shutting_down());
        let next = signal
            .or_else(|| actions.iter().find(heals))
            .or_else(|| actions.iter().find(|a| matches!(a, Action::Tick)));
        match next.copied() {
            Some(action) => cluster.apply(action).map_err(failed)?,
            None => break,
        }
    }
    prop_assert!(cluster.exit.is_some(), "a healed server leaves: {cluster:#?}");
    Ok(cluster)
}

#[test]
fn server_keeps_the_invariants_whatever_happens() {
    let choices = prop::collection::vec(any::<u16>(), 0..150);
    check(3000, (setup(budget()), choices), |(setup, choices)| run(setup, &choices, false).map(drop));
}

#[test]
fn nothing_is_lost_when_nobody_fails_and_nobody_hurries() {
    let choices = prop::collection::vec(any::<u16>(), 0..150);
    let budget = (0..3_u8, 0..3_u8).prop_map(|(hup, retire)| Budget { hup, retire, ..Budget::default() });
    check(3000, (setup(budget), choices), |(setup, choices)| {
        let cluster = run(setup, &choices, true)?;
        let lost = cluster.outcomes().contains(&Outcome::Lost);
        prop_assert!(!lost, "a request was lost: {:?}", cluster.outcomes());
        Ok(())
    });
}
