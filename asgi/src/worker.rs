//! The Python class behind `pounce._worker` and the event loop's selector.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pounce_core::Policy;
use pounce_runtime_tokio::logging;
use pounce_runtime_tokio::os::process::HELD_BACK;
use pounce_settings::Settings;
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use rustix::event::epoll::{self, EventData, EventFlags};
use tokio::signal::unix::{SignalKind, signal};

use crate::bridge::{Bridge, Objects};
use crate::driver::{Driver, Event};
#[cfg(not(Py_LIMITED_API))]
use crate::first_step::LateTasks;
use crate::heap;
use crate::poller::Descriptors;
use crate::request::Done;
use crate::runtime::{self, HostCommand, StartInfo, WorkerHandle};
use crate::scope::Scopes;
use crate::service::Asgi;
use crate::task_set::TaskSet;

/// How long Python may take to notice that the process is to end, before it is ended without it.
const EXIT_NOTICE: Duration = Duration::from_millis(100);

/// How long Python's own ending may take (cancelled tasks, executors, atexit) before the process is ended.
const EXIT_TIME: Duration = Duration::from_secs(2);

/// How long the message about a failed start may take to be read.
const START_FAILED_TIME: Duration = Duration::from_secs(2);

const EVENT_READ: u32 = 1;
const EVENT_WRITE: u32 = 2;

/// The worker's end of the control socket, and what drives everything.
#[pyclass(frozen, module = "pounce._pounce")]
pub struct Worker {
    driver: Arc<Driver>,
    handle: WorkerHandle,
    info: StartInfo,
    settings: Settings,
    policy: Policy,
    descriptors: Mutex<Option<Arc<Descriptors>>>,
    bridge: Arc<Bridge>,
    exit: Arc<ExitState>,
    /// Kept between turns for its memory.
    events: Mutex<Vec<Event>>,
}

#[pymethods]
impl Worker {
    /// Takes the control socket, and waits until the supervisor says what to serve.
    #[new]
    fn new(py: Python<'_>, control_fd: RawFd) -> PyResult<Self> {
        if control_fd < 3 {
            return Err(PyOSError::new_err(format!(
                "{control_fd} is not the descriptor of a control socket"
            )));
        }
        // SAFETY: the supervisor made the descriptor for this process and nobody else here knows of it.
        let control = unsafe { OwnedFd::from_raw_fd(control_fd) };
        heap::keep_freed_blocks();
        let driver = Driver::start()?;
        let descriptors = Descriptors::new(driver.handle())?;
        let ((handle, info), mut terminate) = py.detach(|| {
            driver.block_on(async {
                // Before anything else: when they are let through, signals must not kill the worker.
                let terminate = signal(SignalKind::terminate())?;
                for other in HELD_BACK.into_iter().filter(|number| *number != libc::SIGTERM) {
                    // The handler stays, and nobody listens.
                    drop(signal(SignalKind::from_raw(other))?);
                }
                std::io::Result::Ok((runtime::connect(control).await?, terminate))
            })
        })?;

        let settings: Settings = serde_json::from_str(&info.settings)
            .map_err(|error| PyRuntimeError::new_err(format!("the settings from the supervisor: {error}")))?;
        logging::init(settings.log_format.into(), settings.log_level.into());
        let policy = settings.policy().map_err(|error| PyRuntimeError::new_err(error.to_string()))?;

        let retire = handle.clone();
        driver.handle().spawn(async move {
            while terminate.recv().await.is_some() {
                retire.retire_me();
            }
        });
        let exit = Arc::new(ExitState::default());
        let host = Host { driver: Arc::clone(&driver), exit: Arc::clone(&exit) };
        handle.set_host(move |command| host.command(command));
        Ok(Self {
            bridge: Arc::new(Bridge::new(Arc::clone(&driver))),
            driver,
            handle,
            info,
            settings,
            policy,
            descriptors: Mutex::new(Some(Arc::new(descriptors))),
            exit,
            events: Mutex::default(),
        })
    }

    /// The settings, as JSON.
    #[getter]
    fn settings(&self) -> &str {
        &self.info.settings
    }

    /// Writes to the log; `level` is `error` or `debug`.
    fn log(&self, py: Python<'_>, level: &str, message: &str) {
        // Writing may have to wait for whoever reads the log.
        py.detach(|| match level {
            "debug" => tracing::debug!("{message}"),
            _ => tracing::error!("{message}"),
        });
    }

    /// The number of the worker, from 1.
    #[getter]
    fn number(&self) -> u32 {
        self.info.worker
    }

    /// The generation of the worker.
    #[getter]
    fn generation(&self) -> u32 {
        self.info.generation
    }

    /// Tells the supervisor that the application cannot be served, and returns when that was said.
    fn start_failed(&self, py: Python<'_>, message: String) {
        self.handle.start_failed(message);
        py.detach(|| {
            self.driver.block_on(async {
                let told = async {
                    while !self.exit.ordered.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                // The supervisor may have nothing more to say.
                let _ = tokio::time::timeout(START_FAILED_TIME, told).await;
            });
        });
    }

    /// Says what is served, and on which loop; the loop has this object as its selector.
    #[pyo3(signature = (application, event_loop, *, state, log, on_stop, on_exit, disconnected))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments, called once")]
    fn bind(
        &self,
        py: Python<'_>,
        application: Py<PyAny>,
        event_loop: Bound<'_, PyAny>,
        state: Py<PyDict>,
        log: Py<PyAny>,
        on_stop: Py<PyAny>,
        on_exit: Py<PyAny>,
        disconnected: Py<PyAny>,
    ) -> PyResult<()> {
        let asyncio = py.import("asyncio")?;
        let eager = py.version_info() >= (3, 12);
        let task_arguments = PyDict::new(py);
        task_arguments.set_item("loop", &event_loop)?;
        task_arguments.set_item("name", PyString::intern(py, "pounce-request"))?;
        let eager_task_arguments = if eager {
            let arguments = task_arguments.copy()?;
            arguments.set_item("eager_start", true)?;
            Some(arguments.unbind())
        } else {
            None
        };
        let task_type = asyncio.getattr("Task")?;
        let task_step_type = if eager { None } else { task_step_type(py, &task_type, &event_loop)? };
        if task_step_type.is_some() {
            TaskSet::install(py)?;
        }
        let objects = Objects {
            application,
            scopes: Scopes::new(&self.settings, state),
            ready: event_loop.getattr("_ready")?.unbind(),
            plain_call_soon: event_loop.getattr("call_soon")?.unbind(),
            log,
            on_stop,
            on_exit,
            disconnected,
            cancelled_error: asyncio.getattr("CancelledError")?.unbind(),
            coroutine_type: py.import("types")?.getattr("CoroutineType")?.unbind(),
            #[cfg(not(Py_LIMITED_API))]
            late_tasks: late_tasks(py, &task_type)?,
            task_type: task_type.unbind(),
            task_arguments: task_arguments.unbind(),
            eager_task_arguments,
            task_step_type: task_step_type.map(Bound::unbind),
            handle_type: py.import("asyncio.events")?.getattr("Handle")?.unbind(),
            done: Py::new(py, Done)?,
            event_loop: event_loop.unbind(),
        };
        self.bridge.bind(py, objects)
    }

    /// Tells the supervisor that the worker is ready, and serves.
    fn serve(&self) {
        let _context = self.driver.handle().enter();
        let app = Asgi { driver: Arc::clone(&self.driver) };
        self.handle.serve(app, self.policy, (&self.settings).into());
    }

    /// Whether the first step of a task is to be had by way of `call_soon` (see there).
    #[getter]
    fn catches_call_soon(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.bridge.objects(py)?.task_step_type.is_some())
    }

    /// Becomes `loop.call_soon` before Python 3.12.
    #[pyo3(signature = (callback, *args, context = None))]
    fn call_soon<'py>(
        &self,
        py: Python<'py>,
        callback: &Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.bridge.call_soon(py, callback, args, context)
    }

    /// The loop's debug mode was switched.
    fn set_debug(&self, enabled: bool) {
        self.bridge.debug.store(enabled, Ordering::Relaxed);
    }

    /// Whether tasks of requests are to be made by `loop.create_task`.
    fn use_task_factory(&self, wanted: bool) {
        self.bridge.task_factory.store(wanted, Ordering::Relaxed);
    }

    /// Asks the supervisor to have this worker replaced.
    fn retire_me(&self) {
        self.handle.retire_me();
    }

    /// The task of the request whose first step runs now, if asyncio does not take it for the current one yet.
    /// `event_loop`: whose task is meant. `enter`: it becomes the current one.
    #[pyo3(signature = (event_loop = None, *, enter = true))]
    fn task_of_first_step(
        &self,
        py: Python<'_>,
        event_loop: Option<&Bound<'_, PyAny>>,
        enter: bool,
    ) -> PyResult<Option<Py<PyAny>>> {
        #[cfg(not(Py_LIMITED_API))]
        return self.bridge.task_of_first_step(py, event_loop, enter);
        #[cfg(Py_LIMITED_API)]
        return Ok(event_loop.filter(|_| enter).and(None).map(|()| py.None()));
    }

    /// The application's shutdown is done.
    fn host_stopped(&self) {
        self.handle.host_stopped();
    }

    /// Python has begun to end the process.
    fn exit_noticed(&self) {
        self.exit.noticed.store(true, Ordering::Relaxed);
    }

    /// A future that is done when no request runs any more; `None` when none does.
    fn wait_until_idle(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.bridge.wait_until_idle(py)
    }

    // --- what the selector of the loop is made of -----------------------------------------------------------------

    fn add(&self, fd: RawFd, events: u32) -> PyResult<()> {
        Ok(self.descriptors()?.add(fd, flags(events))?)
    }

    fn modify(&self, fd: RawFd, events: u32) -> PyResult<()> {
        Ok(self.descriptors()?.modify(fd, flags(events))?)
    }

    fn remove(&self, fd: RawFd) -> PyResult<()> {
        Ok(self.descriptors()?.remove(fd)?)
    }

    fn close(&self) {
        self.bridge.closed.store(true, Ordering::Relaxed);
        self.descriptors.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// `selectors.BaseSelector.select`: serves until asyncio has something to do. `keys`: from descriptor to `SelectorKey`.
    #[pyo3(signature = (keys, timeout = None))]
    fn select<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyDict>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let descriptors = self.descriptors()?;
        let block = timeout.is_none_or(|timeout| timeout > 0.0);
        let timers = if block { self.bridge.timers(py)? } else { Default::default() };
        if block {
            let timeout = timeout.map(|seconds| Duration::from_secs_f64(seconds.min(86_400.0)));
            descriptors.set_timer(timeout, timers.several())?;
        }
        let mut events = std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner));
        loop {
            let woken = py.detach(|| self.driver.turn(&descriptors, block, &mut events));
            let some = !events.is_empty();
            let mut failed = None;
            for event in events.drain(..) {
                // Every one of them: an error of one must not lose the others.
                if let Err(error) = self.bridge.dispatch(py, event) {
                    failed = Some(error);
                }
            }
            let found = if woken.descriptors { collect(py, &descriptors, keys)? } else { None };
            if found.is_some()
                || failed.is_some()
                || !block
                || woken.timer
                || (some && self.bridge.loop_has_work(py, timers)?)
            {
                *self.events.lock().unwrap_or_else(PoisonError::into_inner) = events;
                return match (failed, found) {
                    (Some(error), _) => Err(error),
                    (None, Some(found)) => Ok(found.into_any()),
                    (None, None) => Ok(PyTuple::empty(py).into_any()),
                };
            }
        }
    }
}

impl Worker {
    fn descriptors(&self) -> PyResult<Arc<Descriptors>> {
        self.descriptors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(|| PyRuntimeError::new_err("the selector is closed"))
    }
}

/// What the runtime asks of Python.
struct Host {
    driver: Arc<Driver>,
    exit: Arc<ExitState>,
}

/// How far the end of the process has come.
#[derive(Default)]
struct ExitState {
    /// The runtime has said to leave.
    ordered: AtomicBool,
    /// Python is on its way out.
    noticed: AtomicBool,
}

impl Host {
    fn command(&self, command: HostCommand) {
        match command {
            HostCommand::Stop => self.driver.push(Event::Stop),
            HostCommand::Exit { code } => {
                self.exit.ordered.store(true, Ordering::Relaxed);
                self.driver.push(Event::Exit(code));
                let exit = Arc::clone(&self.exit);
                self.driver.handle().spawn(async move {
                    tokio::time::sleep(EXIT_NOTICE).await;
                    if exit.noticed.load(Ordering::Relaxed) {
                        tokio::time::sleep(EXIT_TIME - EXIT_NOTICE).await;
                    }
                    // SAFETY: ends the process at once; nothing of it is needed any more.
                    unsafe { libc::_exit(code) }
                });
            }
        }
    }
}

fn collect<'py>(
    py: Python<'py>,
    descriptors: &Descriptors,
    keys: &Bound<'py, PyDict>,
) -> PyResult<Option<Bound<'py, PyList>>> {
    let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 64];
    let count = descriptors.collect(&mut events)?;
    if count == 0 {
        return Ok(None);
    }
    let found = PyList::empty(py);
    for event in events.iter().take(count) {
        let (flags, data) = (event.flags, event.data);
        let Some(key) = keys.get_item(data.u64())? else { continue };
        // As `selectors.EpollSelector`: an error or a hang-up is both.
        let mut ready = 0;
        if flags.intersects(EventFlags::all() - EventFlags::IN) {
            ready |= EVENT_WRITE;
        }
        if flags.intersects(EventFlags::all() - EventFlags::OUT) {
            ready |= EVENT_READ;
        }
        let wanted: u32 = key.getattr(intern!(py, "events"))?.extract()?;
        if ready & wanted != 0 {
            found.append((key, ready & wanted))?;
        }
    }
    Ok(Some(found))
}

fn flags(events: u32) -> EventFlags {
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, events & EVENT_READ != 0);
    flags.set(EventFlags::OUT, events & EVENT_WRITE != 0);
    flags
}

/// What making tasks late needs; `None` where tasks cannot be given a context, or are not asyncio's native ones.
#[cfg(not(Py_LIMITED_API))]
fn late_tasks(py: Python<'_>, task_type: &Bound<'_, PyAny>) -> PyResult<Option<LateTasks>> {
    let native = task_type.getattr("__module__")?.eq("_asyncio")?;
    if !native || py.version_info() < (3, 11) {
        return Ok(None);
    }
    let tasks = py.import("asyncio.tasks")?;
    Ok(Some(LateTasks {
        enter: tasks.getattr("_enter_task")?.unbind(),
        leave: tasks.getattr("_leave_task")?.unbind(),
    }))
}

/// The type of what a task gives to `call_soon` for its first step; `None` when asyncio's tasks are not the C ones, whose
/// behaviour is relied upon.
fn task_step_type<'py>(
    py: Python<'py>,
    task_type: &Bound<'py, PyAny>,
    event_loop: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let code = c"
def step_type(task_type, real_loop):
    calls = []
    class Loop:
        def call_soon(self, callback, *args, context=None):
            calls.append((callback, args, context))
        def get_debug(self):
            return False
    async def nothing():
        pass
    coroutine = nothing()
    task = task_type(coroutine, loop=Loop())
    if len(calls) != 1:
        return None
    callback, args, context = calls[0]
    if args or context is None or getattr(callback, '__self__', None) is not task:
        return None
    if type(callback).__name__ != 'TaskStepMethWrapper':
        return None
    context.run(callback)
    return type(callback)
";
    let module = PyModule::from_code(py, code, c"pounce/_step_type.py", c"pounce._step_type")?;
    let found = module.getattr("step_type")?.call1((task_type, event_loop))?;
    Ok(if found.is_none() { None } else { Some(found) })
}
