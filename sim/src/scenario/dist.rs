//! Durations by chance.

use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// A duration by chance, in whole milliseconds, always bounded: what is right can then be decided.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", deny_unknown_fields)]
pub enum Dist {
    Fixed {
        ms: u64,
    },
    Uniform {
        min_ms: u64,
        max_ms: u64,
    },
    Exponential {
        mean_ms: u64,
        max_ms: u64,
    },
    LogNormal {
        median_ms: u64,
        sigma: f64,
        max_ms: u64,
    },
    /// Mostly `short_ms`; `long_ms` in so many of 100.
    Bimodal {
        short_ms: u64,
        long_ms: u64,
        long_percent: u64,
    },
}

impl Dist {
    pub const ZERO: Dist = Dist::Fixed { ms: 0 };

    /// Never longer than this.
    pub fn max_ms(&self) -> u64 {
        match *self {
            Dist::Fixed { ms } => ms,
            Dist::Uniform { max_ms, .. }
            | Dist::Exponential { max_ms, .. }
            | Dist::LogNormal { max_ms, .. } => max_ms,
            Dist::Bimodal { short_ms, long_ms, long_percent } => {
                if long_percent == 0 {
                    short_ms
                } else {
                    short_ms.max(long_ms)
                }
            }
        }
    }

    /// One value, in milliseconds.
    pub fn draw(&self, rng: &mut Rng) -> u64 {
        match *self {
            Dist::Fixed { ms } => ms,
            Dist::Uniform { min_ms, max_ms } => rng.between(min_ms.min(max_ms), max_ms),
            Dist::Exponential { mean_ms, max_ms } => {
                ((-(1.0 - rng.unit()).ln() * mean_ms as f64) as u64).min(max_ms)
            }
            Dist::LogNormal { median_ms, sigma, max_ms } => {
                // Box and Muller.
                let (u, v) = (1.0 - rng.unit(), rng.unit());
                let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
                ((median_ms as f64 * (sigma * normal).exp()) as u64).min(max_ms)
            }
            Dist::Bimodal { short_ms, long_ms, long_percent } => {
                if rng.chance(long_percent) {
                    long_ms
                } else {
                    short_ms
                }
            }
        }
    }
}
