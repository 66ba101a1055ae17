//! The parts of the runtime crate that the bridge uses.

pub use crate::standin::{
    App, ConnectionInfo, Ending, HostCommand, PeerAddr, RequestBody, StartInfo, WorkerHandle, connect,
};
