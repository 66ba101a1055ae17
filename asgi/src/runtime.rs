//! The parts of the runtime crate that the bridge uses, for connections that were dealt by the supervisor.

use std::io;
use std::os::fd::OwnedFd;

pub use pounce_runtime_tokio::worker::{HostCommand, StartInfo};
pub use pounce_runtime_tokio::{App, ConnectionInfo, Ending, PeerAddr, RequestBody};

use pounce_runtime_tokio::os::control::OsOrders;
use pounce_runtime_tokio::os::listener::OsSocket;
use pounce_runtime_tokio::worker;

/// The worker's driver.
pub type WorkerHandle = worker::WorkerHandle<OsSocket>;

/// Takes the worker's end of the control line and waits for the start message.
///
/// # Errors
/// The descriptor is no control line, the supervisor is gone, or it is of another build.
pub async fn connect(control: OwnedFd) -> io::Result<(WorkerHandle, StartInfo)> {
    worker::connect(OsOrders::new(control)?, worker::tokio_spawn()).await
}
