//! Which core runs what.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of a run.
#[derive(Clone, Debug)]
pub struct Cores {
    pub server: Vec<usize>,
    pub load: Vec<usize>,
}

impl Cores {
    /// With one worker the server has the first core and the load the last; with more, both have all of them.
    pub fn for_workers(workers: usize) -> Cores {
        let all = allowed();
        match (workers, all.as_slice()) {
            (1, [first, .., last]) => Cores { server: vec![*first], load: vec![*last] },
            _ => Cores { server: all.clone(), load: all },
        }
    }
}

/// The cores that this process was given, before it pinned itself anywhere.
fn allowed() -> Vec<usize> {
    static ALL: std::sync::OnceLock<Vec<usize>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| {
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
    })
    .clone()
}

/// Keeps the calling thread, and every process that it starts from here on, on these cores.
pub fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().for_each(|cpu| set.set(*cpu));
    if let Err(error) = sched_setaffinity(None, &set) {
        eprintln!("cannot pin to {cores:?}: {error}; the figures will be noisier");
    }
}
