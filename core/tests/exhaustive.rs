//! Every state that a small server can reach, by every interleaving of messages, clients, signals, crashes and timers.
//!
//! Two workers and three connections are enough for a lost message to have somebody to be lost between. Each state is
//! checked against every invariant as it is reached, and from each state of a shutdown the exit must be reachable.

#![allow(clippy::disallowed_methods, reason = "it says how long it took")]
#![allow(clippy::disallowed_types, reason = "its map of states is never iterated")]

mod cluster;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use cluster::{Action, Budget, Cluster, Setup};
use pounce_core::policy::{Policy, PolicySettings};

/// Folded multiplication, 64 bits: a few million states collide with a chance of one in a million.
#[derive(Clone, Copy)]
struct Fold(u64);

impl Default for Fold {
    fn default() -> Self {
        Fold(0x243f_6a88_85a3_08d3)
    }
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }

    fn write_u64(&mut self, n: u64) {
        let product = u128::from(self.0 ^ n ^ 0x9e37_79b9_7f4a_7c15) * u128::from(0xd6e8_feb8_6659_fd93_u64);
        self.0 = (product as u64) ^ ((product >> 64) as u64).rotate_left(29);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The hash of a state is a good hash already.
#[derive(Clone, Copy, Default)]
struct Same(u64);

impl Hasher for Same {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn fingerprint(cluster: &Cluster) -> u64 {
    let mut hasher = Fold::default();
    cluster.fingerprint(&mut hasher);
    hasher.finish()
}

/// One state as the search remembers it: how it was reached first.
struct Seen {
    parent: u32,
    action: Action,
    exited: bool,
}

struct Search {
    first: Cluster,
    seen: Vec<Seen>,
    index: HashMap<u64, u32, BuildHasherDefault<Same>>,
    /// Transitions, from and to.
    edges: Vec<(u32, u32)>,
}

/// Which of the known states is looked at next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The newest: few states wait at a time, which keeps the search small.
    DepthFirst,
    /// The oldest: what is found is found by a shortest way.
    BreadthFirst,
}

impl Search {
    /// Visits every state that is reachable from `first`.
    ///
    /// # Errors
    /// What went wrong, and how to get there.
    fn run(first: Cluster, order: Order) -> Result<Search, String> {
        let mut search =
            Search { first: first.clone(), seen: Vec::new(), index: HashMap::default(), edges: Vec::new() };
        search.seen.push(Seen { parent: 0, action: Action::Tick, exited: false });
        search.index.insert(fingerprint(&first), 0);
        let mut waiting = VecDeque::from([(0_u32, first)]);
        while let Some((at, cluster)) = match order {
            Order::DepthFirst => waiting.pop_back(),
            Order::BreadthFirst => waiting.pop_front(),
        } {
            let actions = cluster.actions();
            if actions.is_empty() && cluster.exit.is_none() {
                let what = "nothing can happen any more, and the server has not left";
                return Err(format!("{what}\n{}", search.story(at, None)));
            }
            for action in actions {
                let mut after = cluster.clone();
                if let Err(violation) = after.apply(action) {
                    return Err(format!("{violation}\n{}", search.story(at, Some(action))));
                }
                let new = search.seen.len() as u32;
                let to = *search.index.entry(fingerprint(&after)).or_insert(new);
                search.edges.push((at, to));
                if to == new {
                    search.seen.push(Seen { parent: at, action, exited: after.exit.is_some() });
                    waiting.push_back((to, after));
                }
            }
        }
        Ok(search)
    }

    fn path(&self, mut at: u32) -> Vec<Action> {
        let mut path = Vec::new();
        while at != 0 {
            let seen = &self.seen[at as usize];
            path.push(seen.action);
            at = seen.parent;
        }
        path.reverse();
        path
    }

    /// The way to state `at`, one line for each step.
    fn story(&self, at: u32, then: Option<Action>) -> String {
        let mut cluster = self.first.clone();
        let mut out = String::new();
        for action in self.path(at).into_iter().chain(then) {
            out.push_str(&format!("{}  {action:?}\n", cluster.now));
            if cluster.apply(action).is_err() {
                break;
            }
        }
        out.push_str(&format!("{cluster:#?}"));
        out
    }

    /// From every state the exit can be reached.
    fn check_that_every_state_can_end(&self) {
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); self.seen.len()];
        for &(from, to) in &self.edges {
            before[to as usize].push(from);
        }
        let mut ends = vec![false; self.seen.len()];
        let mut todo: Vec<u32> =
            (0..self.seen.len() as u32).filter(|i| self.seen[*i as usize].exited).collect();
        while let Some(at) = todo.pop() {
            if !std::mem::replace(&mut ends[at as usize], true) {
                todo.extend(&before[at as usize]);
            }
        }
        if let Some(stuck) = ends.iter().position(|ends| !ends) {
            panic!("from here the server can never leave\n{}", self.story(stuck as u32, None));
        }
    }

    fn report(&self, name: &str) {
        let exits = self.seen.iter().filter(|s| s.exited).count();
        println!("{name}: {} states, {} transitions, {exits} ends", self.seen.len(), self.edges.len());
    }
}

/// Timers that the search does not mean to try are years away.
fn policy(change: impl Fn(&mut PolicySettings)) -> Policy {
    let forever = 300.0 * 24.0 * 3600.0;
    let mut settings = PolicySettings {
        shutdown_timeout: 2.0,
        startup_timeout: None,
        keepalive_linger: 0.5,
        keep_alive_timeout: forever,
        header_timeout: forever,
        body_timeout: forever,
        write_timeout: forever,
        ..PolicySettings::default()
    };
    change(&mut settings);
    Policy::new(settings).expect("the policy of the test is valid")
}

fn explore(name: &str, first: Cluster) {
    let started = std::time::Instant::now();
    let search = match Search::run(first.clone(), Order::DepthFirst) {
        Ok(search) => search,
        Err(found) => panic!("{}", Search::run(first, Order::BreadthFirst).err().unwrap_or(found)),
    };
    search.report(name);
    search.check_that_every_state_can_end();
    println!("{name}: {:?}", Duration::from_millis(started.elapsed().as_millis() as u64));
}

fn setup(workers: u32, clients: u8, budget: Budget) -> Setup {
    Setup { policy: policy(|_| {}), workers, clients, budget, eager_clients: true }
}

#[test]
fn drain_of_two_workers_with_three_connections() {
    let setup = setup(2, 3, Budget { term: 1, ..Budget::default() });
    explore("drain", Cluster::started(setup).expect("it starts"));
}

#[test]
fn impatient_operator() {
    let setup = setup(1, 2, Budget { term: 1, int: 2, quit: 1, ..Budget::default() });
    explore("signals", Cluster::started(setup).expect("it starts"));
}

#[test]
fn worker_that_crashes() {
    let setup = setup(2, 1, Budget { term: 1, crash: 1, ..Budget::default() });
    explore("crash", Cluster::started(setup).expect("it starts"));
}

#[test]
fn signal_during_start_up() {
    let setup = setup(2, 1, Budget { term: 1, boot_failure: 1, ..Budget::default() });
    explore("start-up", Cluster::new(setup).expect("it starts"));
}

#[test]
fn reload_that_may_fail() {
    let setup = setup(1, 1, Budget { term: 1, hup: 1, boot_failure: 1, ..Budget::default() });
    explore("reload", Cluster::started(setup).expect("it starts"));
}

#[test]
fn start_that_hangs() {
    let policy = policy(|p| p.startup_timeout = Some(1.0));
    let setup = Setup { policy, ..setup(2, 1, Budget { term: 1, ..Budget::default() }) };
    explore("start that hangs", Cluster::new(setup).expect("it starts"));
}

#[test]
fn reload_that_hangs() {
    let policy = policy(|p| p.startup_timeout = Some(1.0));
    let setup = Setup { policy, ..setup(1, 0, Budget { term: 1, hup: 1, crash: 1, ..Budget::default() }) };
    explore("reload that hangs", Cluster::started(setup).expect("it starts"));
}

#[test]
fn reload_after_one_that_failed() {
    let setup = setup(1, 0, Budget { term: 1, hup: 2, boot_failure: 1, ..Budget::default() });
    explore("two reloads", Cluster::started(setup).expect("it starts"));
}

#[test]
fn crash_during_a_reload() {
    let setup = setup(1, 0, Budget { term: 1, hup: 1, crash: 1, ..Budget::default() });
    explore("reload and crash", Cluster::started(setup).expect("it starts"));
}

#[test]
fn delayed_drain_with_slow_clients() {
    let policy = policy(|p| p.drain_delay = 1.0);
    let budget = Budget { term: 1, half_head: 1, ..Budget::default() };
    let setup = Setup { policy, eager_clients: false, ..setup(1, 2, budget) };
    explore("delay", Cluster::started(setup).expect("it starts"));
}

#[test]
fn worker_that_is_told_to_stop_by_itself() {
    let setup = setup(1, 1, Budget { term: 1, retire: 1, boot_failure: 1, ..Budget::default() });
    explore("retire", Cluster::started(setup).expect("it starts"));
}
