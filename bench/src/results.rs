//! The raw data of a run, and the figures that are made of it.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::processes::{Memory, Used};

/// One turn of one server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Turn {
    pub workload: String,
    pub workers: usize,
    pub concurrency: usize,
    pub server: String,
    /// What was chosen for it, where there was a choice.
    pub settings: Option<String>,
    /// Also the number of the A/B/A/B round: turns of the same round are compared with each other.
    pub round: usize,
    /// Requests, or chunks.
    pub units: f64,
    pub seconds: f64,
    pub used: Used,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

/// A server that has nothing to do, after it was loaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Idle {
    pub workload: String,
    pub workers: usize,
    pub server: String,
    pub seconds: f64,
    pub used: Used,
    /// Before the first load.
    pub memory_fresh: Memory,
    /// After the last.
    pub memory_loaded: Memory,
}

/// A configuration that was tried to find the best.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tried {
    pub workload: String,
    pub workers: usize,
    pub concurrency: usize,
    pub settings: String,
    pub cpu_us_per_unit: f64,
    pub chosen: bool,
}

/// A server that could not be measured, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub workload: String,
    pub workers: usize,
    pub server: String,
    pub message: String,
}

/// Everything that one run measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// Machine and versions.
    pub facts: Vec<(String, String)>,
    pub rounds: usize,
    pub seconds: f64,
    pub turns: Vec<Turn>,
    pub idle: Vec<Idle>,
    pub tried: Vec<Tried>,
    pub failures: Vec<Failure>,
}

/// The turns of one server at one workload and concurrency.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a> {
    pub workload: &'a str,
    pub workers: usize,
    pub concurrency: usize,
}

impl Turn {
    pub fn cpu_us_per_unit(&self) -> f64 {
        self.used.cpu_us / self.units.max(1.0)
    }

    pub fn units_per_second(&self) -> f64 {
        self.units / self.seconds
    }

    /// Whether a latency was seen at all; without one its figures are 0 and mean nothing.
    pub fn has_latency(&self) -> bool {
        self.max_us > 0.0
    }
}

impl Results {
    pub fn new(facts: Vec<(String, String)>, rounds: usize, seconds: f64) -> Results {
        Results {
            facts,
            rounds,
            seconds,
            turns: Vec::new(),
            idle: Vec::new(),
            tried: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// # Errors
    /// The file cannot be read, or is not what [`Results::save`] wrote.
    pub fn load(path: &Path) -> Result<Results, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        let text = serde_json::to_string(self).map_err(|error| error.to_string())?;
        // One turn a line: it can be read and compared.
        let text = text.replace("},{\"workload\"", "},\n{\"workload\"").replace("\":[{", "\":[\n{");
        fs::write(path, text + "\n").map_err(failed)
    }

    /// The turns of one server, in the order of the rounds.
    pub fn turns<'a>(&'a self, cell: Cell<'a>, server: &'a str) -> impl Iterator<Item = &'a Turn> {
        self.turns.iter().filter(move |turn| {
            turn.server == server
                && turn.workload == cell.workload
                && turn.workers == cell.workers
                && turn.concurrency == cell.concurrency
        })
    }

    /// The median of `figure` over the rounds.
    pub fn median(&self, cell: Cell, server: &str, figure: impl Fn(&Turn) -> f64) -> Option<f64> {
        median(self.turns(cell, server).map(figure).collect())
    }

    /// The ratio within each round in which both have the figure: one of 0 was not seen.
    pub fn ratios(&self, cell: Cell, server: &str, to: &str, figure: impl Fn(&Turn) -> f64) -> Vec<f64> {
        let ratios = self.turns(cell, server).filter_map(|turn| {
            let other = self.turns(cell, to).find(|other| other.round == turn.round)?;
            let (ours, theirs) = (figure(turn), figure(other));
            (ours > 0.0 && theirs > 0.0).then(|| ours / theirs)
        });
        ratios.collect()
    }

    /// The median over the rounds of the ratio within a round.
    pub fn ratio(&self, cell: Cell, server: &str, to: &str, figure: impl Fn(&Turn) -> f64) -> Option<f64> {
        median(self.ratios(cell, server, to, figure))
    }

    /// What was chosen for `server`, where there was a choice.
    pub fn settings(&self, cell: Cell, server: &str) -> Option<String> {
        self.turns(cell, server).find_map(|turn| turn.settings.clone())
    }

    /// How many rounds there were with so many workers.
    pub fn rounds_with(&self, workers: usize) -> usize {
        let rounds = self.turns.iter().filter(|turn| turn.workers == workers).map(|turn| turn.round + 1);
        rounds.max().unwrap_or(0)
    }

    /// The values of `key` in the order in which they came first.
    pub fn distinct<T: PartialEq>(&self, key: impl Fn(&Turn) -> T) -> Vec<T> {
        let mut found = Vec::new();
        for turn in &self.turns {
            let value = key(turn);
            if !found.contains(&value) {
                found.push(value);
            }
        }
        found
    }
}

/// A figure over the rounds: the median, and between what the rounds lie. Of eight rounds and more, an eighth at each end is
/// left out, so that one disturbed round does not stand for many good ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub low: f64,
    pub middle: f64,
    pub high: f64,
}

impl Spread {
    /// `None` without a value.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let outermost = values.len() / 8;
        Some(Spread {
            low: values[outermost],
            middle: f64::midpoint(values[last / 2], values[last.div_ceil(2)]),
            high: values[last - outermost],
        })
    }
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: Vec<f64>) -> Option<f64> {
    Spread::of(values).map(|spread| spread.middle)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A turn of hello at 16 connections, of one request.
    pub fn turn(server: &str, round: usize, cpu_us: f64) -> Turn {
        Turn {
            workload: "hello".into(),
            workers: 1,
            concurrency: 16,
            server: server.into(),
            settings: None,
            round,
            units: 1.0,
            seconds: 1.0,
            used: Used { cpu_us, ..Used::default() },
            p50_us: 0.0,
            p99_us: 0.0,
            max_us: 0.0,
        }
    }

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn of_few_rounds_every_one_counts_and_of_many_not_the_outermost() {
        let spread = |low, middle, high| Some(Spread { low, middle, high });
        assert_eq!(Spread::of(vec![100.0, 3.0, 2.0, 4.0, 1.0]), spread(1.0, 3.0, 100.0));
        assert_eq!(Spread::of(vec![100.0, 3.0, 2.0, 4.0, 1.0, 5.0, 6.0, 0.1]), spread(1.0, 3.5, 6.0));
    }

    #[test]
    fn a_round_without_the_figure_has_no_ratio() {
        let mut results = Results::new(Vec::new(), 2, 1.0);
        for (round, theirs) in [(0, 0.0), (1, 5.0)] {
            results.turns.push(turn("a", round, 10.0));
            results.turns.push(turn("b", round, theirs));
        }
        let cell = Cell { workload: "hello", workers: 1, concurrency: 16 };
        assert_eq!(results.ratios(cell, "a", "b", Turn::cpu_us_per_unit), [2.0]);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut results = Results::new(Vec::new(), 3, 1.0);
        // The machine was twice as slow in the second round.
        for (round, slow) in [(0, 1.0), (1, 2.0), (2, 1.0)] {
            results.turns.push(turn("a", round, 10.0 * slow));
            results.turns.push(turn("b", round, 5.0 * slow));
        }
        let cell = Cell { workload: "hello", workers: 1, concurrency: 16 };
        assert_eq!(results.ratio(cell, "a", "b", Turn::cpu_us_per_unit), Some(2.0));
    }
}
