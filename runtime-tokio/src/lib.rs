//! Drives the machines of `pounce-core` with tokio and hyper.
//!
//! The drivers hold no policy: they tell a machine what happened, take its outputs and carry them out. They are generic
//! over where connections, workers and orders come from ([`listener`], [`worker_host`]); the real sources are
//! in [`os`], the simulator has its own.

mod answer;
pub mod app;
mod chunks;
pub mod clock;
mod connection;
mod exchange;
mod head;
pub mod in_process;
pub mod line;
pub mod listener;
pub mod logging;
pub mod os;
mod seldom;
pub mod server;
#[cfg(feature = "settings")]
mod settings;
mod shared;
pub mod supervisor;
mod timer;
mod wire;
pub mod worker;
pub mod worker_host;

pub use app::{App, BoxError, ConnectionInfo, Ending, PeerAddr};
pub use exchange::{RequestBody, RequestBodyError};
pub use server::Server;
pub use shared::ServeOptions;
