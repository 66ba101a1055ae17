//! The extension module of the worker processes: asyncio on a selector that drives tokio and hyper.
//!
//! Built as a cdylib it is the Python module `pounce._pounce`. As an rlib it has one thing to offer, [`BUILT_FOR`], so that
//! the `pounce` executable can depend on it (cargo then builds the cdylib too) without being linked to Python.
//!
//! Where things are:
//! [`driver`] the runtime, and which thread drives it · [`poller`] asyncio's descriptors and timers ·
//! [`exchange`] a request between both sides, [`connection`] what its connection has, [`pieces`] bytes that wait · [`service`] hyper's side · [`bridge`], [`first_step`], [`request`], `send_slot` asyncio's side ·
//! [`scope`], [`message`] what the ASGI specification asks for · [`heap`] what malloc keeps · [`task_set`] asyncio's list of tasks, faster · [`worker`] the Python class that holds it together.

#![allow(missing_debug_implementations, reason = "all of it is private: the rlib offers one constant")]

mod bridge;
mod connection;
mod driver;
mod exchange;
#[cfg(not(Py_LIMITED_API))]
mod first_step;
mod heap;
mod message;
mod pieces;
mod poller;
mod request;
mod runtime;
mod scope;
#[cfg(not(Py_LIMITED_API))]
mod send_slot;
mod service;
mod task_set;
mod worker;

/// The interpreter the module is built for: `"3.11"` (CPython of that version only), `"3.14t"` (free-threaded) or
/// `"abi3>=3.10"`.
pub const BUILT_FOR: &str = env!("POUNCE_BUILT_FOR");

/// The same for who has the file and must not load it into another interpreter: the supervisor looks for it.
#[unsafe(no_mangle)]
// SAFETY: nothing else has this name.
pub static POUNCE_BUILT_FOR: &str = concat!("pounce-built-for=", env!("POUNCE_BUILT_FOR"), ";");

/// `pounce._pounce`. It does not need the GIL: what threads share is behind locks that are held for moments and never while
/// Python runs, a header's address identifies it because it is kept alive, and a request's first step is nobody's but its own
/// thread's. What is caught or replaced of asyncio without a look at the thread (a task's `call_soon`, the list of tasks) is so
/// only before Python 3.12, which always has the GIL.
#[pyo3::pymodule(gil_used = false)]
mod _pounce {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::request::{Done, Refused, Request, Waiter};
    #[pymodule_export]
    use crate::worker::Worker;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        #[cfg(not(Py_LIMITED_API))]
        {
            crate::send_slot::install::<Request>(module.py());
            crate::send_slot::install::<Done>(module.py());
            crate::send_slot::install::<Waiter>(module.py());
        }
        module.add("BUILT_FOR", crate::BUILT_FOR)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
