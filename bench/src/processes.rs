//! What /proc says of a server: the processes that it is made of, their CPU time, memory and context switches.
//!
//! proc(5): `/proc/PID/stat` has the parent, `/proc/PID/task/TID/schedstat` the time on a CPU in nanoseconds (user and
//! system together), `smaps_rollup` the memory. `stat` has user and system time apart, in ticks of 10 ms.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde::{Deserialize, Serialize};

/// Totals of a tree of processes since their start.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Of each thread that is alive, in ns.
    threads: BTreeMap<(u32, u32), u64>,
    /// Of all threads, those that ended too, in ticks.
    user_ticks: u64,
    system_ticks: u64,
    switches: u64,
    /// Those of `threads` that are named [`STANDBY`].
    standby: BTreeSet<(u32, u32)>,
}

/// The name of the thread in a pounce worker that takes over when Python does not come back.
const STANDBY: &str = "pounce-standby";

/// What was used between two [`Usage`]s.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Used {
    /// User and system time, in µs.
    pub cpu_us: f64,
    /// System time as a share of both, from the coarse counters.
    pub system_share: f64,
    /// Voluntary and involuntary context switches.
    pub switches: u64,
    /// Of the workers that have a standby thread; `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Standby>,
}

/// What standby threads used, and what they are a part of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standby {
    /// The standby threads alone, in µs.
    pub thread_us: f64,
    /// All threads of their processes, in µs.
    pub worker_us: f64,
}

/// Memory of one server, in KiB.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Of the largest process: the worker.
    pub worker_pss_kib: u64,
    pub worker_rss_kib: u64,
    /// What no other process has a part in ("USS").
    #[serde(default)]
    pub worker_uss_kib: u64,
    /// Of all processes.
    pub total_pss_kib: u64,
}

impl Usage {
    /// Reads the counters of these processes.
    pub fn of(processes: &BTreeSet<u32>) -> Usage {
        let mut usage = Usage::default();
        for &pid in processes {
            if let Some(stat) = stat(pid) {
                usage.user_ticks += stat.user_ticks;
                usage.system_ticks += stat.system_ticks;
            }
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                let path = task.path();
                let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
                if let Some(ns) = read("schedstat").split(' ').next().and_then(|ns| ns.parse().ok()) {
                    usage.threads.insert((pid, tid), ns);
                }
                let status = read("status");
                usage.switches += context_switches(&status);
                if thread_name(&status) == STANDBY {
                    usage.standby.insert((pid, tid));
                }
            }
        }
        usage
    }

    /// What was used from `earlier` to here. A thread that ended in between is missing from the fine counters, so the
    /// coarse ones are taken if they say clearly more.
    pub fn since(&self, earlier: &Usage) -> Used {
        let ns: u64 = self.threads.keys().map(|thread| self.ns_since(earlier, *thread)).sum();
        let user = self.user_ticks.saturating_sub(earlier.user_ticks);
        let system = self.system_ticks.saturating_sub(earlier.system_ticks);
        let fine_us = ns as f64 / 1e3;
        let coarse_us = (user + system) as f64 * 1e4;
        let cpu_us = if coarse_us > fine_us * 1.1 + 30_000.0 { coarse_us } else { fine_us };
        Used {
            cpu_us,
            system_share: system as f64 / ((user + system) as f64).max(1.0),
            switches: self.switches.saturating_sub(earlier.switches),
            standby: self.standby_since(earlier),
        }
    }

    fn ns_since(&self, earlier: &Usage, thread: (u32, u32)) -> u64 {
        let of = |usage: &Usage| usage.threads.get(&thread).copied().unwrap_or(0);
        of(self).saturating_sub(of(earlier))
    }

    fn standby_since(&self, earlier: &Usage) -> Option<Standby> {
        let workers: BTreeSet<u32> = self.standby.iter().map(|(pid, _)| *pid).collect();
        let us = |threads: &mut dyn Iterator<Item = &(u32, u32)>| {
            threads.map(|thread| self.ns_since(earlier, *thread) as f64 / 1e3).sum()
        };
        (!workers.is_empty()).then(|| Standby {
            thread_us: us(&mut self.standby.iter()),
            worker_us: us(&mut self.threads.keys().filter(|(pid, _)| workers.contains(pid))),
        })
    }
}

impl Memory {
    /// Reads the memory of `root` and everything below it.
    pub fn of(root: u32) -> Memory {
        let mut memory = Memory::default();
        for pid in tree(root) {
            let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
            let pss = kib(&rollup, "Pss:");
            memory.total_pss_kib += pss;
            if pss > memory.worker_pss_kib {
                memory.worker_pss_kib = pss;
                memory.worker_rss_kib = kib(&rollup, "Rss:");
                memory.worker_uss_kib = kib(&rollup, "Private_Clean:") + kib(&rollup, "Private_Dirty:");
            }
        }
        memory
    }
}

/// `root` and all its descendants.
pub fn tree(root: u32) -> BTreeSet<u32> {
    below(root, &parents())
}

/// As [`tree`], for several, with one look at /proc.
pub fn trees(roots: impl IntoIterator<Item = u32>) -> Vec<BTreeSet<u32>> {
    let parents = parents();
    roots.into_iter().map(|root| below(root, &parents)).collect()
}

/// Every process of the machine, with its parent.
fn parents() -> Vec<(u32, u32)> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && let Some(stat) = stat(pid)
        {
            parents.push((pid, stat.parent));
        }
    }
    parents
}

fn below(root: u32, parents: &[(u32, u32)]) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        let children = parents.iter().filter(|(_, parent)| found.contains(parent));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        found.extend(children);
        if found.len() == before {
            return found;
        }
    }
}

struct Stat {
    parent: u32,
    user_ticks: u64,
    system_ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name may hold spaces and parentheses; the fields begin after the last one.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        user_ticks: fields.get(11)?.parse().ok()?,
        system_ticks: fields.get(12)?.parse().ok()?,
    })
}

/// `status`: of a thread, whose first line has its name.
fn thread_name(status: &str) -> &str {
    status.lines().next().and_then(|line| line.strip_prefix("Name:")).unwrap_or_default().trim()
}

fn context_switches(status: &str) -> u64 {
    status
        .lines()
        .filter(|line| line.contains("voluntary_ctxt_switches"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

fn kib(rollup: &str, field: &str) -> u64 {
    let line = rollup.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_a_parenthesis_does_not_shift_the_fields() {
        let stat = parse_stat("7 (a) b (c) S 3 7 7 0 -1 4194304 1 2 3 4 50 60 7 8 20 0 1 0 9 9 9").unwrap();
        assert_eq!((stat.parent, stat.user_ticks, stat.system_ticks), (3, 50, 60));
    }

    #[test]
    fn grandchildren_belong_to_a_tree_and_neighbours_do_not() {
        assert_eq!(below(5, &[(9, 7), (7, 5), (5, 1), (6, 1)]), BTreeSet::from([5, 7, 9]));
    }

    #[test]
    fn a_standby_thread_is_told_from_the_rest_of_its_worker() {
        let usage = |supervisor: u64, main: u64, standby: u64| Usage {
            threads: BTreeMap::from([((1, 1), supervisor), ((2, 2), main), ((2, 3), standby)]),
            standby: BTreeSet::from([(2, 3)]),
            ..Usage::default()
        };
        let used = usage(9_000, 50_000, 3_000).since(&usage(1_000, 10_000, 1_000));
        assert_eq!(used.standby, Some(Standby { thread_us: 2.0, worker_us: 42.0 }));
        assert_eq!(Usage::default().since(&Usage::default()).standby, None);
    }

    #[test]
    fn a_thread_of_this_program_is_found_by_its_name() {
        let (tell, wait) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name(STANDBY.to_owned()).spawn(move || {
            begun.send(()).unwrap();
            let _ = wait.recv();
        });
        begins.recv().unwrap();
        let usage = Usage::of(&BTreeSet::from([std::process::id()]));
        drop(tell);
        thread.unwrap().join().unwrap();
        assert_eq!(usage.standby.len(), 1);
    }

    #[test]
    fn both_kinds_of_context_switches_are_counted() {
        assert_eq!(
            context_switches("a:\t1\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t7\n"),
            12
        );
    }

    #[test]
    fn memory_is_read_from_its_field() {
        assert_eq!(kib("00-ff r\nRss:    10 kB\nPss:    7 kB\nPss_Dirty: 3 kB\n", "Pss:"), 7);
    }
}
