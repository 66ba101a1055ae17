//! The first step of a request, and the task that the request becomes if one step is not enough.
//!
//! Most handlers of a fast application end in their first step: they await nothing that is not ready. An `asyncio.Task`
//! for one that is over when it is made costs as much as the handler itself. So the first step runs without one, in the context
//! that its task would have; a task is made when the handler awaits something, and takes over with what is awaited as
//! its own first step. Whoever asks for the task during the first step (`asyncio.current_task()`, and with it timeouts,
//! task groups, anyio) gets it made at that moment: `pounce._tasks` sees to that.

use std::thread::{self, ThreadId};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use crate::bridge::{Bridge, Objects};
use crate::request::Request;

/// What making tasks late needs of asyncio.
pub struct LateTasks {
    /// `asyncio.tasks._enter_task` and `_leave_task`: which task asyncio takes for the running one.
    pub enter: Py<PyAny>,
    pub leave: Py<PyAny>,
}

/// The first step that runs now.
pub struct FirstStep {
    request: Py<Request>,
    context: Py<PyAny>,
    thread: ThreadId,
    /// Made when somebody asked for it.
    task: Option<Unstarted>,
    /// asyncio takes it for the running one.
    entered: bool,
}

/// A task, and what has to be called for its first step.
struct Unstarted {
    task: Py<PyAny>,
    step: Py<PyAny>,
}

impl Bridge {
    /// Runs the first step of `request`. Returns its task, if it needed one.
    ///
    /// # Errors
    /// What Python raised that is not the application's own.
    pub fn first_step<'py>(
        &self,
        py: Python<'py>,
        objects: &Objects,
        late: &LateTasks,
        request: &Bound<'py, Request>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        // SAFETY: attached; a new reference, or NULL with an error set.
        let context = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }?;
        let now = FirstStep {
            request: request.clone().unbind(),
            context: context.clone().unbind(),
            thread: thread::current().id(),
            task: None,
            entered: false,
        };
        // There is one outside only if the handler runs the loop itself, which asyncio forbids and patches to it allow.
        let outer = self.tasks().first_step.replace(now);
        let stepped = in_context(&context, || request.get().step(py));
        let ended = std::mem::replace(&mut self.tasks().first_step, outer);
        let stepped = stepped?;
        if let Some(FirstStep { task: Some(Unstarted { task, step }), entered, .. }) = ended {
            if entered {
                late.leave.call1(py, (&objects.event_loop, &task))?;
            }
            request.get().set_aside(stepped);
            call_in(&context, step.bind(py))?;
            return Ok(Some(task.into_bound(py)));
        }
        match stepped {
            Ok(Some(awaited)) => {
                request.get().set_aside(Ok(Some(awaited)));
                self.take_over(py, objects, request, &context).map(Some)
            }
            // Its end is dealt with. An error that is left (it cancelled itself) would be its task's.
            Ok(None) | Err(_) => Ok(None),
        }
    }

    /// The task of the first step that runs now on this thread, made now if there is none yet. With `enter` it becomes the
    /// current one; that needs that no other is, and nothing is returned if it was before.
    ///
    /// # Errors
    /// Whatever making a task raises.
    pub fn task_of_first_step(
        &self,
        py: Python<'_>,
        event_loop: Option<&Bound<'_, PyAny>>,
        enter: bool,
    ) -> PyResult<Option<Py<PyAny>>> {
        // Before the application is bound there are no requests.
        let Ok(objects) = self.objects(py) else { return Ok(None) };
        let Some(late) = &objects.late_tasks else { return Ok(None) };
        if event_loop.is_some_and(|event_loop| !event_loop.is(&objects.event_loop)) {
            return Ok(None);
        }
        let (made, request, context) = match &self.tasks().first_step {
            Some(now) if !now.entered && now.thread == thread::current().id() => {
                let made = now.task.as_ref().map(|made| made.task.clone_ref(py));
                (made, now.request.clone_ref(py), now.context.clone_ref(py))
            }
            _ => return Ok(None),
        };
        let task = match made {
            Some(task) => task,
            None => {
                let made = self.unstarted(py, objects, request.bind(py), context.bind(py))?;
                let task = made.task.clone_ref(py);
                if let Some(now) = &mut self.tasks().first_step {
                    now.task = Some(made);
                }
                task
            }
        };
        if enter {
            late.enter.call1(py, (&objects.event_loop, &task))?;
            if let Some(now) = &mut self.tasks().first_step {
                now.entered = true;
            }
        }
        Ok(Some(task))
    }

    /// A task that awaits what the request's first step awaits.
    fn take_over<'py>(
        &self,
        py: Python<'py>,
        objects: &Objects,
        request: &Bound<'py, Request>,
        context: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(eager) = &objects.eager_task_arguments {
            let arguments = eager.bind(py).copy()?;
            arguments.set_item(intern!(py, "context"), context)?;
            return objects.task_type.bind(py).call((request,), Some(&arguments));
        }
        let Unstarted { task, step } = self.unstarted(py, objects, request, context)?;
        call_in(context, step.bind(py))?;
        Ok(task.into_bound(py))
    }

    /// A task whose first step, for which it asks the loop, is left to the caller.
    fn unstarted(
        &self,
        py: Python<'_>,
        objects: &Objects,
        request: &Bound<'_, Request>,
        context: &Bound<'_, PyAny>,
    ) -> PyResult<Unstarted> {
        let arguments = objects.task_arguments.bind(py).copy()?;
        arguments.set_item(intern!(py, "context"), context)?;
        let (task, captured) = self.new_task(py, objects, request, &arguments)?;
        if let Some((step, _)) = captured {
            return Ok(Unstarted { task: task.unbind(), step });
        }
        let ready = objects.ready.bind(py);
        for at in (0..ready.len()?).rev() {
            let handle = ready.get_item(at)?;
            let step = handle.getattr(intern!(py, "_callback"))?;
            if step.getattr(intern!(py, "__self__")).is_ok_and(|owner| owner.is(&task)) {
                ready.del_item(at)?;
                return Ok(Unstarted { task: task.unbind(), step: step.unbind() });
            }
        }
        Err(PyRuntimeError::new_err("asyncio's queue lacks the first step of a new task"))
    }
}

/// `context.run(step)`.
fn call_in(context: &Bound<'_, PyAny>, step: &Bound<'_, PyAny>) -> PyResult<()> {
    in_context(context, || step.call0())?.map(drop)
}

/// Calls `inside` with `context` as the current one.
fn in_context<T>(context: &Bound<'_, PyAny>, inside: impl FnOnce() -> T) -> PyResult<T> {
    let fetched = || PyErr::fetch(context.py());
    // SAFETY: attached; a context, which is owned by the caller until after it is left.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(fetched());
    }
    let output = inside();
    // SAFETY: as above, and it was entered.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } != 0 {
        return Err(fetched());
    }
    Ok(output)
}
