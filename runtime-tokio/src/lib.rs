//! Drives the machines of `pounce-core` with tokio and hyper.
//!
//! The drivers hold no policy: they tell a machine what happened, take its outputs and carry them out. They are generic
//! over where connections, workers and orders come from ([`listener`], [`worker_host`]); the real sources are
//! in [`os`], the simulator has its own.

pub mod listener;
pub mod logging;
pub mod os;
pub mod worker_host;
