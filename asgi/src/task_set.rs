//! `asyncio.all_tasks()` before Python 3.12, kept in native code.
//!
//! asyncio enters each new task into a `WeakSet`, which is written in Python and costs more than making the task. The set
//! stays what it is, with all that belongs to it; only its `add` (an attribute of this one object) and the callback of its
//! weak references do the same in native code. Whenever somebody iterates over it, `WeakSet`'s own methods are used.

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PySet};

/// The parts of a `WeakSet`.
#[pyclass(frozen, module = "pounce._pounce")]
pub struct TaskSet {
    /// The weak references.
    data: Py<PySet>,
    /// Not empty while somebody iterates.
    iterating: Py<PySet>,
    /// References that died meanwhile.
    pending_removals: Py<PyList>,
    /// `WeakSet.add` of the set.
    plain_add: Py<PyAny>,
    /// The set's own callback.
    plain_remove: Py<PyAny>,
}

impl TaskSet {
    /// Makes `add` of asyncio's set native, unless it is not built as expected or was replaced already.
    pub fn install(py: Python<'_>) -> PyResult<()> {
        let set = py.import("asyncio.tasks")?.getattr("_all_tasks")?;
        if !set.get_type().is(py.import("weakref")?.getattr("WeakSet")?) {
            return Ok(());
        }
        let part = |name: &str| set.getattr(name);
        let found = || -> PyResult<Self> {
            Ok(Self {
                data: part("data")?.cast_into_exact::<PySet>()?.unbind(),
                iterating: part("_iterating")?.cast_into_exact::<PySet>()?.unbind(),
                pending_removals: part("_pending_removals")?.cast_into_exact::<PyList>()?.unbind(),
                plain_add: part("add")?.unbind(),
                plain_remove: part("_remove")?.unbind(),
            })
        };
        // Another Python's WeakSet: it works as it is.
        let Ok(parts) = found() else { return Ok(()) };
        let ours = Bound::new(py, parts)?;
        set.setattr("add", ours.getattr("add")?)?;
        set.setattr("_remove", ours.getattr("remove")?)
    }
}

#[pymethods]
impl TaskSet {
    /// `WeakSet.add`.
    #[pyo3(signature = (item, /))]
    fn add(slf: &Bound<'_, Self>, item: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !this.pending_removals.bind(py).is_empty() {
            return this.plain_add.call1(py, (item,)).map(drop);
        }
        let callback = slf.getattr(intern!(py, "remove"))?;
        // SAFETY: attached; both are objects. NULL with an error set if `item` cannot be referred to weakly.
        let reference = unsafe {
            Bound::from_owned_ptr_or_err(py, ffi::PyWeakref_NewRef(item.as_ptr(), callback.as_ptr()))
        }?;
        this.data.bind(py).add(reference)
    }

    /// `WeakSet._remove`: the callback of the references.
    #[pyo3(signature = (reference, /))]
    fn remove(&self, py: Python<'_>, reference: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.iterating.bind(py).is_empty() {
            return self.data.bind(py).discard(reference).map(drop);
        }
        self.plain_remove.call1(py, (reference,)).map(drop)
    }
}
