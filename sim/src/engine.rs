//! Runs one scenario to its end and judges it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::time::Instant;

use crate::net::SimNet;
use crate::networks::turmoil_net::TurmoilNet;
use crate::networks::turmoil_sim;
use crate::oracle::{self, Verdict};
use crate::platform::Cluster;
use crate::scenario::{FaultKind, PlatformKind, Scenario};
use crate::trace::{Line, Trace};
use crate::world::World;
use crate::{client, leaks, marks};

/// The networks that a scenario can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// The fast one: turmoil-net's stacks, with a pump of ours.
    TurmoilNet,
    /// The second, independent one: turmoil's `Sim`.
    Turmoil,
}

impl Engine {
    pub const ALL: [Engine; 2] = [Engine::TurmoilNet, Engine::Turmoil];

    pub fn name(self) -> &'static str {
        match self {
            Engine::TurmoilNet => "turmoil-net",
            Engine::Turmoil => "turmoil",
        }
    }

    /// The faults of `scenario` that this network does not know.
    pub fn cannot(self, scenario: &Scenario) -> Vec<FaultKind> {
        let of_the_network = |fault: &FaultKind| {
            matches!(fault, FaultKind::StallLink { .. } | FaultKind::OutOfDescriptors { .. })
        };
        match self {
            Engine::TurmoilNet => Vec::new(),
            Engine::Turmoil => {
                scenario.faults.iter().map(|fault| fault.what).filter(of_the_network).collect()
            }
        }
    }

    /// Runs `scenario` to its end and judges it.
    pub fn run(self, scenario: &Scenario) -> Outcome {
        match self {
            Engine::TurmoilNet => run(scenario),
            Engine::Turmoil => watched(|| turmoil_sim::run(scenario)),
        }
    }
}

impl std::str::FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Engine, String> {
        Engine::ALL
            .into_iter()
            .find(|engine| engine.name() == text)
            .ok_or_else(|| format!("there is no engine {text:?}: turmoil-net or turmoil"))
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub verdict: Verdict,
    pub lines: Vec<Line>,
    /// The log of each server, with the time of each line, in milliseconds.
    pub logs: Vec<(u32, Vec<(u64, String)>)>,
    /// Of everything that happened, packets included.
    pub hash: u64,
    pub simulated_ms: u64,
    pub marks: BTreeMap<&'static str, u64>,
}

impl Outcome {
    /// Nothing happened that must not.
    pub fn is_good(&self) -> bool {
        self.verdict.problems.is_empty()
    }
}

thread_local! {
    /// The panics of the run of this thread, while there is one.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Lets a panic inside a run be a finding of that run instead of text on the terminal.
fn collect_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let collected = PANICS.with_borrow_mut(|panics| match panics {
                Some(panics) => {
                    panics.push(info.to_string());
                    true
                }
                None => false,
            });
            if !collected {
                before(info);
            }
        }));
    });
    PANICS.set(Some(Vec::new()));
}

/// Runs `scenario` on the fast network.
pub fn run(scenario: &Scenario) -> Outcome {
    watched(|| {
        let net = TurmoilNet::new(scenario);
        let runtime = paused();
        let mut outcome = runtime.block_on(async {
            tokio::spawn(net.pump());
            whole(scenario, &net).await
        });
        drop(runtime);
        outcome.hash ^= net.hash().rotate_left(17);
        net.end();
        outcome
    })
}

/// A runtime whose clock moves when nothing else can.
///
/// # Panics
/// If it cannot be made: the machine is out of something.
fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing that could be missing")
}

/// A run with its marks and its panics in its outcome.
fn watched(run: impl FnOnce() -> Outcome) -> Outcome {
    marks::take();
    collect_panics();
    let mut outcome = run();
    let panics = PANICS.take().unwrap_or_default();
    outcome.verdict.problems.extend(panics.into_iter().map(|panic| format!("a panic: {panic}")));
    outcome
}

async fn whole<N: SimNet>(scenario: &Scenario, net: &N) -> Outcome {
    let world = Arc::new(World::new(scenario.clone(), Trace::begin()));
    drive(&world, net).await;
    conclude(&world, net)
}

/// The run itself, on whichever network.
pub async fn drive<N: SimNet>(world: &Arc<World>, net: &N) {
    leaks::spring(world);
    let cluster = Cluster::new(Arc::clone(world), net.clone());
    cluster.plan_faults();
    let up = cluster.bring_up().await;
    let harmless = world.scenario.faults.iter().all(|fault| fault.what.is_harmless());
    if !up && world.scenario.faults.is_empty() {
        world.problem("not everything came up");
    }
    let mut tasks = Vec::new();
    for (index, plan) in world.scenario.clients.iter().enumerate() {
        let (cluster, start_ms) = (Arc::clone(&cluster), plan.start_ms);
        tasks.push(tokio::spawn(async move {
            let now = cluster.world.now_ms();
            tokio::time::sleep(Duration::from_millis(start_ms.saturating_sub(now))).await;
            client::run(cluster, index).await;
        }));
    }
    let wait = world.scenario.platform.deploy_at_ms.saturating_sub(world.now_ms());
    tokio::time::sleep(Duration::from_millis(wait)).await;
    let deployed = cluster.deploy().await;
    for task in tasks {
        if task.await.is_err() {
            world.problem("a client panicked");
        }
    }
    let last_fault = world.scenario.faults.iter().map(|fault| fault.at_ms + 5000).max().unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(last_fault.saturating_sub(world.now_ms()))).await;
    // Safety first, then liveness: with the faults over, everything has to serve again.
    let restarts = world.scenario.platform.kind != PlatformKind::Bare;
    if restarts {
        if harmless && !deployed {
            world.problem("the deploy does not end");
        }
        if !cluster.heal().await {
            world.problem("after the last fault, not everything serves again");
        }
    }
    cluster.answer_all().await;
    cluster.shut_down().await;
    // Whatever still lingers ends.
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// Judges the run.
pub fn conclude<N: SimNet>(world: &Arc<World>, net: &N) -> Outcome {
    let verdict = oracle::judge(world, net);
    let logs = world
        .instances()
        .iter()
        .map(|i| (i.pod, i.history().log.iter().map(|(at, event)| (*at, event.to_string())).collect()))
        .collect();
    for cause in verdict.causes.keys() {
        marks::hit(cause.name());
    }
    Outcome {
        verdict,
        logs,
        hash: world.trace.hash(),
        lines: world.trace.take_lines(),
        simulated_ms: world.trace.ms(Instant::now()),
        marks: marks::take(),
    }
}
