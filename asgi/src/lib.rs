//! The extension module of the worker processes: asyncio on a selector that drives tokio and hyper.
//!
//! Built as a cdylib it is the Python module `pounce._pounce`. As an rlib it has one thing to offer, [`BUILT_FOR`], so that
//! the `pounce` executable can depend on it (cargo then builds the cdylib too) without being linked to Python.
//!
//! Where things are:
//! [`driver`] the runtime, and which thread drives it · [`poller`] asyncio's descriptors and timers ·
//! [`exchange`] a request between both sides · [`service`] hyper's side · [`bridge`], [`first_step`], [`request`], `send_slot` asyncio's side ·
//! [`scope`], [`message`] what the ASGI specification asks for · [`task_set`] asyncio's list of tasks, faster · [`worker`] the Python class that holds it together.

#![allow(missing_debug_implementations, reason = "all of it is private: the rlib offers one constant")]

mod bridge;
mod connection;
mod driver;
mod exchange;
#[cfg(not(feature = "abi3"))]
mod first_step;
mod message;
mod poller;
mod request;
mod runtime;
mod scope;
#[cfg(not(feature = "abi3"))]
mod send_slot;
mod service;
mod task_set;
mod worker;

/// The interpreter the module is built for: `"3.11"` (CPython of that version only) or `"abi3>=3.10"`.
pub const BUILT_FOR: &str = env!("POUNCE_BUILT_FOR");

/// `pounce._pounce`.
#[pyo3::pymodule]
mod _pounce {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::request::{Done, Request, Waiter};
    #[pymodule_export]
    use crate::worker::Worker;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        #[cfg(not(feature = "abi3"))]
        {
            crate::send_slot::install::<Request>(module.py());
            crate::send_slot::install::<Done>(module.py());
            crate::send_slot::install::<Waiter>(module.py());
        }
        module.add("BUILT_FOR", crate::BUILT_FOR)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
