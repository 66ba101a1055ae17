//! `am_send` for the classes that asyncio and `await` step.
//!
//! Without the slot a result that is not `None` has to be raised as `StopIteration`, and every step looks up methods.
//! PyO3 has no name for the slot, so it is written into the finished type. The stable ABI has no access to it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::PyClass;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi::{PyObject, PySendResult};
use pyo3::prelude::*;

/// What stepping leads to.
pub enum Step {
    /// To be awaited by whoever drives the coroutine.
    Awaits(Py<PyAny>),
    Returned(Py<PyAny>),
}

/// Something that can be stepped without a `StopIteration`.
pub trait Steps: PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync {
    /// One step; `value` is what was sent.
    fn step_with(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Step>;
}

/// Gives `T` the slot.
pub fn install<T: Steps>(py: Python<'_>) {
    let class = T::type_object(py).as_type_ptr();
    // SAFETY: attached; a type made by PyO3 is a heap type, which has its own, writable PyAsyncMethods. Nothing has made
    // an instance yet.
    unsafe {
        if let Some(methods) = (*class).tp_as_async.as_mut() {
            methods.am_send = Some(send::<T>);
        }
    }
}

unsafe extern "C" fn send<T: Steps>(
    object: *mut PyObject,
    value: *mut PyObject,
    result: *mut *mut PyObject,
) -> PySendResult {
    Python::attach(|py| {
        let step = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: CPython calls the slot with an instance of the type (or of a subclass; these have none).
            let object = unsafe { Bound::from_borrowed_ptr(py, object).cast_into_unchecked::<T>() };
            // SAFETY: and with what was sent, never NULL.
            let value = unsafe { Bound::from_borrowed_ptr(py, value) };
            object.get().step_with(py, &value)
        }));
        let (sent, to) = match step {
            Ok(Ok(Step::Awaits(awaited))) => (PySendResult::PYGEN_NEXT, awaited.into_ptr()),
            Ok(Ok(Step::Returned(value))) => (PySendResult::PYGEN_RETURN, value.into_ptr()),
            Ok(Err(error)) => {
                error.restore(py);
                (PySendResult::PYGEN_ERROR, ptr::null_mut())
            }
            Err(_) => {
                PyRuntimeError::new_err("a bug in pounce: it panicked").restore(py);
                (PySendResult::PYGEN_ERROR, ptr::null_mut())
            }
        };
        // SAFETY: CPython gives a place for the result.
        unsafe { *result = to };
        sent
    })
}
