//! asyncio's side of the worker: starts a task for each request and ends what was waited for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Uri};
use pyo3::exceptions::{PyBaseException, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::driver::{Driver, Event};
use crate::exchange::Exchange;
#[cfg(not(Py_LIMITED_API))]
use crate::first_step::{FirstStep, LateTasks};
use crate::message::KnownHeaders;
use crate::request::{Call, Done, Request};
use crate::scope::Scopes;

/// One per worker.
pub struct Bridge {
    pub driver: Arc<Driver>,
    pub known_headers: KnownHeaders,
    python: PyOnceLock<Objects>,
    tasks: Mutex<Tasks>,
    /// The loop is in debug mode.
    pub debug: AtomicBool,
    /// The loop is closed.
    pub closed: AtomicBool,
    /// The application has set a task factory, which wants to see the tasks of requests, too.
    pub task_factory: AtomicBool,
}

/// What the bridge needs of Python; fixed once the application is served.
pub struct Objects {
    pub application: Py<PyAny>,
    pub event_loop: Py<PyAny>,
    pub scopes: Scopes,
    /// asyncio's queue of callbacks, the list of timers is looked up each time (asyncio replaces it).
    pub ready: Py<PyAny>,
    /// asyncio's own `call_soon`, bound to the loop.
    pub plain_call_soon: Py<PyAny>,
    pub log: Py<PyAny>,
    pub on_stop: Py<PyAny>,
    pub on_exit: Py<PyAny>,
    pub disconnected: Py<PyAny>,
    pub cancelled_error: Py<PyAny>,
    pub coroutine_type: Py<PyAny>,
    pub task_type: Py<PyAny>,
    pub task_arguments: Py<PyDict>,
    /// With `eager_start`, which Python has from 3.12 on.
    pub eager_task_arguments: Option<Py<PyDict>>,
    /// Tasks are made only for requests that need one; `None` where they cannot be given their context (Python 3.10).
    #[cfg(not(Py_LIMITED_API))]
    pub late_tasks: Option<LateTasks>,
    pub task_step_type: Option<Py<PyAny>>,
    pub handle_type: Py<PyAny>,
    pub done: Py<Done>,
}

/// The tasks that run now. asyncio itself holds them only weakly.
#[derive(Default)]
pub struct Tasks {
    /// The request whose first step runs now, without a task.
    #[cfg(not(Py_LIMITED_API))]
    pub first_step: Option<FirstStep>,
    entries: Vec<Option<(Py<PyAny>, Arc<Exchange>)>>,
    free: Vec<usize>,
    /// asyncio's own first step of a new task goes here instead of into its queue (Python 3.10 and 3.11).
    capturing: bool,
    captured: Option<Captured>,
    /// A future that waits until no request runs.
    idle: Vec<Py<PyAny>>,
}

impl Bridge {
    pub fn new(driver: Arc<Driver>) -> Self {
        Self {
            driver,
            known_headers: KnownHeaders::default(),
            python: PyOnceLock::new(),
            tasks: Mutex::default(),
            debug: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            task_factory: AtomicBool::new(false),
        }
    }

    /// Gives the bridge what it needs to start requests.
    pub fn bind(&self, py: Python<'_>, objects: Objects) -> PyResult<()> {
        self.python
            .set(py, objects)
            .map_err(|_| pyo3::exceptions::PyRuntimeError::new_err("bind() was called twice"))
    }

    /// Present after [`Bridge::bind`].
    pub fn objects(&self, py: Python<'_>) -> PyResult<&Objects> {
        self.python.get(py).ok_or_else(|| pyo3::exceptions::PyRuntimeError::new_err("bind() was not called"))
    }

    pub fn tasks(&self) -> std::sync::MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what an event asks for.
    ///
    /// # Errors
    /// What Python raised that is not the application's own: `MemoryError`, `SystemExit` from a callback.
    pub fn dispatch(self: &Arc<Self>, py: Python<'_>, event: Event) -> PyResult<()> {
        match event {
            Event::Request(exchange) => {
                if let Err(error) = self.start(py, Arc::clone(&exchange)) {
                    exchange.finish();
                    self.log(py, "a request could not be started", Some(error.value(py)));
                }
                Ok(())
            }
            Event::Wake(future) => {
                let future = future.bind(py);
                if !future.call_method0(intern!(py, "done"))?.is_truthy()? {
                    future.call_method1(intern!(py, "set_result"), (py.None(),))?;
                }
                Ok(())
            }
            Event::Cancel(exchange) => {
                let task = {
                    let tasks = self.tasks();
                    let slot = exchange.slot.load(Ordering::Relaxed);
                    match slot.checked_sub(1).and_then(|slot| tasks.entries.get(slot)) {
                        Some(Some((task, owner))) if Arc::ptr_eq(owner, &exchange) => {
                            Some(task.clone_ref(py))
                        }
                        _ => None,
                    }
                };
                if let Some(task) = task {
                    task.call_method0(py, intern!(py, "cancel"))?;
                }
                Ok(())
            }
            Event::Stop => self.objects(py)?.on_stop.call0(py).map(drop),
            Event::Exit(code) => match self.python.get(py) {
                Some(objects) => objects.on_exit.call1(py, (code,)).map(drop),
                None => Err(pyo3::exceptions::PySystemExit::new_err(code)),
            },
        }
    }

    fn start(self: &Arc<Self>, py: Python<'_>, exchange: Arc<Exchange>) -> PyResult<()> {
        let Some(parts) = exchange.take_request() else { return Ok(()) };
        if exchange.closed() {
            return Ok(());
        }
        let objects = self.objects(py)?;
        let scope = objects.scopes.build(py, &exchange.connection, &parts)?;
        let (method, uri): (Method, Uri) = (parts.method, parts.uri);
        let request = Bound::new(py, Request::new(Arc::clone(&exchange), Arc::clone(self), method, uri))?;
        let receive = request.getattr(intern!(py, "receive"))?;
        let send = request.getattr(intern!(py, "respond"))?;
        request.get().set_call(Call {
            scope: scope.unbind(),
            receive: receive.unbind(),
            send: send.unbind(),
        });

        // asyncio times what it calls itself, and this is inside its selector.
        let began = self.debug.load(Ordering::Relaxed).then(Instant::now);
        let task = self.task(py, objects, &request)?;
        if let Some(began) = began
            && let Err(error) = self.report_if_slow(py, objects, &request, began.elapsed())
        {
            error.write_unraisable(py, None);
        }
        let Some(task) = task else { return Ok(()) };
        if !request.get().finished() {
            let mut tasks = self.tasks();
            let slot = match tasks.free.pop() {
                Some(slot) => slot,
                None => {
                    tasks.entries.push(None);
                    tasks.entries.len() - 1
                }
            };
            exchange.slot.store(slot + 1, Ordering::Relaxed);
            if let Some(entry) = tasks.entries.get_mut(slot) {
                *entry = Some((task.unbind(), exchange));
            }
        }
        Ok(())
    }

    /// Says in debug mode what asyncio says there of a callback that kept the loop for long.
    fn report_if_slow(
        &self,
        py: Python<'_>,
        objects: &Objects,
        request: &Bound<'_, Request>,
        took: Duration,
    ) -> PyResult<()> {
        let limit: f64 = objects.event_loop.getattr(py, "slow_callback_duration")?.extract(py)?;
        let took = took.as_secs_f64();
        if took >= limit {
            let logger = py.import("asyncio.log")?.getattr("logger")?;
            logger.call_method1("warning", ("Executing %r (first step) took %.3f seconds", request, took))?;
        }
        Ok(())
    }

    /// Runs the first step of a request, or has the application's task factory see to it. Returns its task, if it has one.
    fn task<'py>(
        &self,
        py: Python<'py>,
        objects: &Objects,
        request: &Bound<'py, Request>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.task_factory.load(Ordering::Relaxed) {
            // Without a name: some versions hand it to factories that do not expect it.
            return objects
                .event_loop
                .bind(py)
                .call_method1(intern!(py, "create_task"), (request,))
                .map(Some);
        }
        #[cfg(not(Py_LIMITED_API))]
        if let Some(late) = &objects.late_tasks {
            return self.first_step(py, objects, late, request);
        }
        match &objects.eager_task_arguments {
            Some(eager) => objects.task_type.bind(py).call((request,), Some(eager.bind(py))).map(Some),
            None => self.start_captured(py, objects, request).map(Some),
        }
    }

    /// A real `asyncio.Task` whose first step runs now: before Python 3.12 it has no `eager_start`, but asks the loop to
    /// `call_soon` its first step; that call is caught and made here, in the task's context.
    fn start_captured<'py>(
        &self,
        py: Python<'py>,
        objects: &Objects,
        request: &Bound<'py, Request>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (task, captured) = self.new_task(py, objects, request, objects.task_arguments.bind(py))?;
        if let Some((step, Some(context))) = captured {
            context.call_method1(py, intern!(py, "run"), (step,))?;
        }
        Ok(task)
    }

    /// A new task, and its first step if that was caught and not given to the loop, with its context.
    pub fn new_task<'py>(
        &self,
        py: Python<'py>,
        objects: &Objects,
        request: &Bound<'py, Request>,
        arguments: &Bound<'py, PyDict>,
    ) -> PyResult<(Bound<'py, PyAny>, Option<Captured>)> {
        self.tasks().capturing = true;
        let task = objects.task_type.bind(py).call((request,), Some(arguments));
        let captured = {
            let mut tasks = self.tasks();
            tasks.capturing = false;
            tasks.captured.take()
        };
        let task = task?;
        let Some((step, context)) = captured else { return Ok((task, None)) };
        if step.getattr(py, intern!(py, "__self__"))?.is(&task) {
            return Ok((task, Some((step, context))));
        }
        // Somebody else's (a finaliser ran meanwhile): it goes where it wanted to.
        let context = context.as_ref().map(|context| context.bind(py));
        self.queue(py, objects, step.bind(py), PyTuple::empty(py), context)?;
        Ok((task, None))
    }

    /// `loop.call_soon`, as asyncio has it, except for the first step of a task that is being started. The checks of
    /// asyncio's own are made when they can fail.
    pub fn call_soon<'py>(
        &self,
        py: Python<'py>,
        callback: &Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let objects = self.objects(py)?;
        if self.capture(objects, callback, context) {
            return Ok(py.None().into_bound(py));
        }
        if !self.debug.load(Ordering::Relaxed) && !self.closed.load(Ordering::Relaxed) {
            return self.queue(py, objects, callback, args, context);
        }
        let mut positional = vec![callback.clone()];
        positional.extend(args.iter());
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "context"), context)?;
        objects.plain_call_soon.bind(py).call(PyTuple::new(py, positional)?, Some(&keywords))
    }

    fn capture(
        &self,
        objects: &Objects,
        callback: &Bound<'_, PyAny>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> bool {
        let mut tasks = self.tasks();
        let first_step = tasks.capturing
            && tasks.captured.is_none()
            && objects.task_step_type.as_ref().is_some_and(|step| callback.get_type().is(step));
        if first_step {
            tasks.captured =
                Some((callback.clone().unbind(), context.map(|context| context.clone().unbind())));
        }
        first_step
    }

    fn queue<'py>(
        &self,
        py: Python<'py>,
        objects: &Objects,
        callback: &Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let handle =
            objects.handle_type.bind(py).call1((callback, args, objects.event_loop.bind(py), context))?;
        objects.ready.bind(py).call_method1(intern!(py, "append"), (&handle,))?;
        Ok(handle)
    }

    /// The task of a request has ended.
    pub fn remove_task(&self, slot: usize) {
        let entry = {
            let mut tasks = self.tasks();
            let entry = tasks.entries.get_mut(slot).and_then(Option::take);
            if entry.is_some() {
                tasks.free.push(slot);
            }
            entry
        };
        // Outside the lock: it may run Python.
        drop(entry);
    }

    /// Called after each request; wakes who waits for the last one.
    pub fn request_ended(&self) {
        let idle = {
            let mut tasks = self.tasks();
            if tasks.idle.is_empty() || tasks.entries.len() != tasks.free.len() {
                return;
            }
            std::mem::take(&mut tasks.idle)
        };
        self.driver.push_all(idle.into_iter().map(Event::Wake));
    }

    /// A future that is done when no request runs any more; `None` when none does.
    pub fn wait_until_idle(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let future = self.new_future(py)?;
        let mut tasks = self.tasks();
        if tasks.entries.len() == tasks.free.len() {
            return Ok(None);
        }
        tasks.idle.push(future.clone_ref(py));
        Ok(Some(future))
    }

    /// Whether asyncio has something to do that it did not have when its timers were `timers`.
    pub fn loop_has_work(&self, py: Python<'_>, timers: Timers) -> PyResult<bool> {
        let Some(objects) = self.python.get(py) else { return Ok(true) };
        let event_loop = objects.event_loop.bind(py);
        Ok(objects.ready.bind(py).len()? > 0
            || event_loop.getattr(intern!(py, "_stopping"))?.is_truthy()?
            || self.timers(py)? != timers)
    }

    /// asyncio's timers, to see later whether the next one is still the same.
    pub fn timers(&self, py: Python<'_>) -> PyResult<Timers> {
        let Some(objects) = self.python.get(py) else { return Ok(Timers::default()) };
        let timers = objects.event_loop.bind(py).getattr(intern!(py, "_scheduled"))?;
        let count = timers.len()?;
        let next = if count == 0 { 0 } else { timers.get_item(0)?.as_ptr() as usize };
        Ok(Timers { count, next })
    }

    pub fn new_future(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.objects(py)?.event_loop.call_method0(py, intern!(py, "create_future"))
    }

    /// The awaitable that is done.
    pub fn done<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self.python.get(py) {
            Some(objects) => objects.done.bind(py).clone().into_any(),
            None => py.None().into_bound(py),
        }
    }

    pub fn is_cancelled_error(&self, py: Python<'_>, error: &PyErr) -> bool {
        self.python
            .get(py)
            .is_some_and(|objects| error.matches(py, &objects.cancelled_error).unwrap_or(false))
    }

    /// Whether an error is only the consequence of a client that left.
    pub fn is_disconnect(&self, py: Python<'_>, error: &PyErr) -> bool {
        let Some(objects) = self.python.get(py) else { return false };
        let mut next = Some(error.clone_ref(py));
        // Chains are short; a cycle must not hang the worker.
        for _ in 0..16 {
            let Some(error) = next else { return false };
            if error.matches(py, &objects.disconnected).unwrap_or(false) {
                return true;
            }
            next = error.cause(py).or_else(|| {
                let context = error.value(py).getattr(intern!(py, "__context__")).ok()?;
                if context.is_none() { None } else { Some(PyErr::from_value(context)) }
            });
        }
        false
    }

    /// The error for a `send()` to a client that is gone.
    pub fn disconnected(&self, py: Python<'_>) -> PyErr {
        match self
            .objects(py)
            .and_then(|objects| objects.disconnected.bind(py).call1(("the client is gone",)))
        {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        }
    }

    /// Writes a line, and the traceback of `error`, to the log.
    pub fn log(&self, py: Python<'_>, message: &str, error: Option<&Bound<'_, PyBaseException>>) {
        if let Ok(objects) = self.objects(py)
            && let Err(failed) = objects.log.bind(py).call1((message, error))
        {
            failed.write_unraisable(py, None);
        }
    }
}

/// The first step of a task, and the context to make it in.
pub type Captured = (Py<PyAny>, Option<Py<PyAny>>);

/// See [`Bridge::timers`]. Until asyncio looks at its timers again there can only be more of them (a cancelled one stays), so
/// an address that is used again comes with another count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    count: usize,
    next: usize,
}

impl Timers {
    /// More than one is set.
    pub fn several(self) -> bool {
        self.count > 1
    }
}

/// What the application's call returned, as something that can be stepped.
pub fn coroutine<'py>(
    py: Python<'py>,
    objects: &Objects,
    awaitable: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    if awaitable.get_type().is(&objects.coroutine_type) {
        return Ok(awaitable);
    }
    if awaitable.hasattr(intern!(py, "__await__"))? {
        return awaitable.call_method0(intern!(py, "__await__"));
    }
    Err(PyTypeError::new_err(format!(
        "the ASGI application returned {} where an awaitable was expected: is it `async def app(scope, receive, send)`?",
        awaitable.get_type().name().map_or_else(|_| "something".to_owned(), |name| name.to_string())
    )))
}
