//! A request as Python sees it: the coroutine that its task runs, and what `receive` and `send` return.

use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Method, Uri};
use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use pyo3::{ffi, pyclass};

use crate::bridge::{Bridge, coroutine};
use crate::exchange::{Exchange, Finished, Received, SendError, Sent};
use crate::message::{self, Message};
use crate::pieces::Pieces;
#[cfg(not(Py_LIMITED_API))]
use crate::send_slot::{Step, Steps};

/// Wraps the application's coroutine, so that its end is seen without a done-callback (which costs a turn of the loop);
/// the methods `receive` and `respond` are the application's `receive` and `send`.
#[pyclass(frozen, module = "pounce._pounce", weakref)]
pub struct Request {
    exchange: Arc<Exchange>,
    bridge: Arc<Bridge>,
    method: Method,
    uri: Uri,
    handler: Mutex<Handler>,
}

#[derive(Default)]
struct Handler {
    /// What the application is called with, until the first step does it.
    call: Option<Call>,
    /// What the application's call returned, until it ends.
    coroutine: Option<Py<PyAny>>,
    /// How a step went that was made before there was a task: the task's first step gets this.
    aside: Option<Stepped>,
}

/// The arguments of the application's call. The call is a part of the first step: an application need not be an `async def`,
/// and one that is not sets context variables or asks for its task before it returns something to await.
pub struct Call {
    pub scope: Py<PyDict>,
    pub receive: Py<PyAny>,
    pub send: Py<PyAny>,
}

/// What a step led to: something that is awaited, the end, or an error that is the task's.
type Stepped = PyResult<Option<Py<PyAny>>>;

impl Request {
    pub fn new(exchange: Arc<Exchange>, bridge: Arc<Bridge>, method: Method, uri: Uri) -> Self {
        Self { exchange, bridge, method, uri, handler: Mutex::default() }
    }

    fn handler(&self) -> MutexGuard<'_, Handler> {
        self.handler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what the application is to be called with.
    pub fn set_call(&self, call: Call) {
        self.handler().call = Some(call);
    }

    /// Keeps how the first step went for the task that is made now.
    pub fn set_aside(&self, stepped: Stepped) {
        self.handler().aside = Some(stepped);
    }

    fn taken(&self) -> (Option<Stepped>, Option<Call>) {
        let mut handler = self.handler();
        (handler.aside.take(), handler.call.take())
    }

    fn coroutine(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.handler().coroutine.as_ref().map(|it| it.clone_ref(py))
    }

    /// Whether the application's coroutine has ended.
    pub fn finished(&self) -> bool {
        let handler = self.handler();
        handler.coroutine.is_none() && handler.call.is_none()
    }

    /// Calls the application: its coroutine.
    fn begin(&self, py: Python<'_>, call: &Call) -> PyResult<Py<PyAny>> {
        let objects = self.bridge.objects(py)?;
        let awaitable = objects.application.bind(py).call1((&call.scope, &call.receive, &call.send))?;
        let coroutine = coroutine(py, objects, awaitable)?.unbind();
        self.handler().coroutine = Some(coroutine.clone_ref(py));
        Ok(coroutine)
    }

    fn running(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.coroutine(py).ok_or_else(|| PyRuntimeError::new_err("cannot reuse already awaited coroutine"))
    }

    /// Runs the coroutine to its next suspension: what it awaits, or `None` at its end.
    pub fn step(&self, py: Python<'_>) -> Stepped {
        let (aside, call) = self.taken();
        if let Some(stepped) = aside {
            return stepped;
        }
        let coroutine = match call {
            Some(call) => match self.begin(py, &call) {
                Ok(coroutine) => coroutine,
                Err(error) => {
                    self.end(py, Some(error))?;
                    return Ok(None);
                }
            },
            None => self.running(py)?,
        };
        let mut result = ptr::null_mut();
        // SAFETY: attached; `coroutine` is a coroutine or an iterator (checked when it was set) and owned here.
        let sent = unsafe { ffi::PyIter_Send(coroutine.as_ptr(), ffi::Py_None(), &raw mut result) };
        match sent {
            ffi::PySendResult::PYGEN_NEXT => {
                // SAFETY: PyIter_Send returned a new reference.
                Ok(Some(unsafe { Bound::from_owned_ptr(py, result) }.unbind()))
            }
            ffi::PySendResult::PYGEN_RETURN => {
                // SAFETY: as above.
                drop(unsafe { Bound::from_owned_ptr(py, result) });
                self.end(py, None)?;
                Ok(None)
            }
            ffi::PySendResult::PYGEN_ERROR => {
                self.end(py, Some(PyErr::fetch(py)))?;
                Ok(None)
            }
        }
    }

    /// What a method of the coroutine did: it awaits something (`Ok`), has ended (`StopIteration`) or failed.
    fn stepped(&self, py: Python<'_>, result: PyResult<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let error = match result {
            Ok(awaited) => return Ok(awaited),
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => None,
            Err(error) => Some(error),
        };
        self.end(py, error)?;
        Err(PyStopIteration::new_err(py.None()))
    }

    /// The application's coroutine ended, with `error` if it raised. Cancellation goes on to the task; everything else
    /// is answered and logged here.
    pub fn end(&self, py: Python<'_>, error: Option<PyErr>) -> PyResult<()> {
        let coroutine = self.handler().coroutine.take();
        if let Some(slot) = self.exchange.take_slot() {
            self.bridge.remove_task(slot);
        }
        let finished = self.exchange.finish();
        drop(coroutine);
        let ended = match error {
            None => {
                match finished {
                    Finished::Complete | Finished::Closed => {}
                    Finished::NoHead => {
                        self.log(py, "the application returned without sending a response", None)
                    }
                    Finished::NoBody => {
                        self.log(py, "the application returned without sending a response body", None);
                    }
                    Finished::Cut => {
                        self.log(py, "the application returned without finishing the response body", None);
                    }
                }
                Ok(())
            }
            Some(error) if self.bridge.is_cancelled_error(py, &error) => {
                if !matches!(finished, Finished::Complete | Finished::Closed) {
                    self.log(py, "the application's handler was cancelled", None);
                }
                Err(error)
            }
            Some(error) => {
                if finished != Finished::Closed || !self.bridge.is_disconnect(py, &error) {
                    self.log(py, "exception in the application", Some(error.into_value(py).bind(py)));
                }
                Ok(())
            }
        };
        self.bridge.request_ended();
        ended
    }

    fn log(&self, py: Python<'_>, what: &str, error: Option<&Bound<'_, PyBaseException>>) {
        let path = self.uri.path();
        self.bridge.log(py, &format!("{} {path}: {what}", self.method), error);
    }
}

#[pymethods]
impl Request {
    /// `receive()`: the next message from the client.
    fn receive(slf: Bound<'_, Self>) -> Waiter {
        Waiter { request: slf.unbind(), kind: Kind::Receive, waiting: Mutex::new(None) }
    }

    /// `send(message)`: a message to the client. It is taken at the call, which costs less than at the `await`: messages go
    /// out in the order of the calls, also of those that nobody awaits. What is wrong with one is raised where it is
    /// awaited, as by a coroutine function.
    fn respond<'py>(slf: &Bound<'py, Self>, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        match this.take(message) {
            Ok(Sent::Done) => Ok(this.bridge.done(py)),
            Ok(Sent::Full) => {
                let waiter =
                    Waiter { request: slf.clone().unbind(), kind: Kind::Send, waiting: Mutex::new(None) };
                Ok(Bound::new(py, waiter)?.into_any())
            }
            Err(error) => Ok(Bound::new(py, Refused(Mutex::new(Some(error))))?.into_any()),
        }
    }

    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.step(py)
    }

    fn send(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        if value.is_none() {
            return self.step(py)?.ok_or_else(|| PyStopIteration::new_err(py.None()));
        }
        if self.handler().call.is_some() {
            return Err(PyTypeError::new_err("can't send non-None value to a just-started coroutine"));
        }
        let result = self.running(py)?.call_method1(py, intern!(py, "send"), (value,));
        self.stepped(py, result)
    }

    #[pyo3(signature = (*exception))]
    fn throw(&self, py: Python<'_>, exception: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        let (aside, call) = self.taken();
        if call.is_some() {
            // Cancelled before it began.
            return self.stepped(py, Err(PyErr::from_value(exception.get_item(0)?)));
        }
        match aside {
            // The task was cancelled in the handler's first step, and finds out that there is something to cancel.
            Some(Ok(Some(awaited))) if cancelled(py, &awaited, &exception.get_item(0)?) => {
                return Ok(awaited);
            }
            Some(Ok(Some(_))) => {}
            Some(Ok(None)) => return Err(PyErr::from_value(exception.get_item(0)?)),
            Some(Err(error)) => return Err(error),
            None => {}
        }
        let result = self.running(py)?.call_method1(py, intern!(py, "throw"), exception);
        self.stepped(py, result)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let (aside, call) = self.taken();
        drop(aside);
        if call.is_some() {
            return self.end(py, None);
        }
        let Some(coroutine) = self.coroutine(py) else { return Ok(()) };
        let closed = if coroutine.bind(py).hasattr(intern!(py, "close"))? {
            coroutine.call_method0(py, intern!(py, "close")).map(drop)
        } else {
            Ok(())
        };
        self.end(py, closed.err())
    }

    #[getter(__name__)]
    fn name(&self) -> &'static str {
        "request"
    }

    /// What asyncio and others call a task's coroutine when they tell of it.
    #[getter(__qualname__)]
    fn qualname(&self) -> &'static str {
        "pounce.request"
    }

    #[getter]
    fn cr_frame(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.of_coroutine(py, "cr_frame")
    }

    #[getter]
    fn cr_await(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.of_coroutine(py, "cr_await")
    }

    #[getter]
    fn cr_code(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.of_coroutine(py, "cr_code")
    }

    #[getter]
    fn cr_running(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.of_coroutine(py, "cr_running")
    }

    #[getter]
    fn cr_suspended(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.of_coroutine(py, "cr_suspended")
    }

    fn __repr__(&self) -> String {
        format!("<pounce request {} {}>", self.method, self.uri.path())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Locked only for moments and never across Python code, in which a collection could begin.
        if let Ok(handler) = self.handler.try_lock() {
            visit.call(&handler.coroutine)?;
            if let Some(call) = &handler.call {
                visit.call(&call.scope)?;
                visit.call(&call.receive)?;
                visit.call(&call.send)?;
            }
            if let Some(Ok(awaited)) = &handler.aside {
                visit.call(awaited)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let Handler { call, coroutine, aside } = std::mem::take(&mut *self.handler());
        drop(aside);
        if coroutine.is_some() || call.is_some() {
            // Nobody can resume it any more: end the response so that the client can tell.
            self.exchange.finish();
            // There is still a task if the application's task factory made one that never ran it.
            if let Some(slot) = self.exchange.take_slot() {
                self.bridge.remove_task(slot);
                self.bridge.request_ended();
            }
        }
    }
}

#[cfg(not(Py_LIMITED_API))]
impl Steps for Request {
    fn step_with(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Step> {
        if value.is_none() {
            return Ok(self.step(py)?.map_or_else(|| Step::Returned(py.None()), Step::Awaits));
        }
        match self.send(py, value) {
            Ok(awaited) => Ok(Step::Awaits(awaited)),
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => Ok(Step::Returned(py.None())),
            Err(error) => Err(error),
        }
    }
}

impl Request {
    fn of_coroutine(&self, py: Python<'_>, name: &str) -> PyResult<Py<PyAny>> {
        match self.coroutine(py) {
            Some(coroutine) => coroutine.getattr(py, name),
            None => Ok(py.None()),
        }
    }

    fn take(&self, message: &Bound<'_, PyAny>) -> PyResult<Sent> {
        let sent = match message::parse(message, &self.bridge.known_headers, self.exchange.request_fields)? {
            Message::Body { body, more } => self.exchange.send_body(body, more),
            Message::Head { status, headers, content_length } => {
                self.exchange.send_head(status, headers, content_length).map(|()| Sent::Done)
            }
        };
        sent.map_err(|error| self.send_error(message.py(), error))
    }

    fn send_error(&self, py: Python<'_>, error: SendError) -> PyErr {
        match error {
            SendError::Protocol(message) => PyRuntimeError::new_err(message),
            SendError::Disconnected => self.bridge.disconnected(py),
        }
    }
}

/// An awaitable that is done.
#[pyclass(frozen, module = "pounce._pounce")]
pub struct Done;

#[pymethods]
impl Done {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self) -> Option<Py<PyAny>> {
        None
    }

    fn send(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyStopIteration::new_err(py.None()))
    }

    #[pyo3(signature = (kind, value = None, _traceback = None))]
    fn throw(
        &self,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Err(thrown(kind, value))
    }

    fn close(&self) {}
}

#[cfg(not(Py_LIMITED_API))]
impl Steps for Done {
    fn step_with(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<Step> {
        Ok(Step::Returned(py.None()))
    }
}

/// What `send()` returns for a message that it does not take: a coroutine that raises why.
#[pyclass(frozen, module = "pounce._pounce")]
pub struct Refused(Mutex<Option<PyErr>>);

impl Refused {
    fn error(&self) -> Option<PyErr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Refused {
    fn drop(&mut self) {
        if let Some(error) = self.error() {
            // Nobody awaited it. Python has a place for errors that nobody sees.
            Python::attach(|py| error.write_unraisable(py, None));
        }
    }
}

#[pymethods]
impl Refused {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self) -> PyResult<Option<Py<PyAny>>> {
        Err(self.error().unwrap_or_else(|| PyRuntimeError::new_err("cannot reuse already awaited coroutine")))
    }

    fn send(&self, _value: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        self.__next__()
    }

    #[pyo3(signature = (kind, value = None, _traceback = None))]
    fn throw(
        &self,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.close();
        Err(thrown(kind, value))
    }

    fn close(&self) {
        drop(self.error());
    }
}

/// Whether `awaited` is a future and could be cancelled with `error`'s message.
fn cancelled(py: Python<'_>, awaited: &Py<PyAny>, error: &Bound<'_, PyAny>) -> bool {
    let cancelled = || {
        let message = error.getattr(intern!(py, "args"))?.cast_into::<PyTuple>()?;
        awaited.getattr(py, intern!(py, "cancel"))?.call1(py, message)?.is_truthy(py)
    };
    cancelled().unwrap_or(false)
}

/// The arguments of `throw()` as an error.
fn thrown(kind: &Bound<'_, PyAny>, value: Option<&Bound<'_, PyAny>>) -> PyErr {
    match value {
        Some(value) if value.is_instance_of::<PyBaseException>() => PyErr::from_value(value.clone()),
        _ => PyErr::from_value(kind.clone()),
    }
}

/// The pieces as one `bytes`, copied once.
fn bytes_of<'py>(py: Python<'py>, pieces: &Pieces) -> PyResult<Bound<'py, PyBytes>> {
    let mut rest = pieces.iter();
    if let (Some(piece), None) = (rest.next(), rest.next()) {
        return Ok(PyBytes::new(py, piece));
    }
    PyBytes::new_with_writer(py, pieces.bytes(), |writer| {
        pieces.iter().try_for_each(|piece| writer.write_bytes(piece))
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Receive,
    Send,
}

/// What `receive()` returns, and `send()` when the client is slower than the application: a coroutine that waits on an
/// asyncio future only if it has to.
#[pyclass(frozen, module = "pounce._pounce")]
pub struct Waiter {
    request: Py<Request>,
    kind: Kind,
    /// The future and its iterator, while it waits.
    waiting: Mutex<Option<(Py<PyAny>, Py<PyAny>)>>,
}

impl Waiter {
    /// The result, if it is there. Raising is part of it.
    fn poll(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let request = self.request.get();
        match self.kind {
            Kind::Send => match request.exchange.poll_sendable() {
                Ok(true) => Ok(Some(py.None())),
                Ok(false) => Ok(None),
                Err(error) => Err(request.send_error(py, error)),
            },
            Kind::Receive => {
                let Some(received) = request.exchange.poll_receive() else { return Ok(None) };
                let message = PyDict::new(py);
                match received {
                    Received::Disconnect => {
                        message.set_item(intern!(py, "type"), intern!(py, "http.disconnect"))?;
                    }
                    Received::Request { body, more } => {
                        message.set_item(intern!(py, "type"), intern!(py, "http.request"))?;
                        message.set_item(intern!(py, "body"), bytes_of(py, &body)?)?;
                        message.set_item(intern!(py, "more_body"), more)?;
                    }
                }
                Ok(Some(message.into_any().unbind()))
            }
        }
    }

    /// `Ok(Ok(awaited))` or `Ok(Err(result))`.
    fn step(&self, py: Python<'_>) -> PyResult<Result<Py<PyAny>, Py<PyAny>>> {
        let request = self.request.get();
        loop {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((future, iterator)) = waiting {
                let mut result = ptr::null_mut();
                // SAFETY: attached; the iterator of a future, owned here.
                match unsafe { ffi::PyIter_Send(iterator.as_ptr(), ffi::Py_None(), &raw mut result) } {
                    ffi::PySendResult::PYGEN_NEXT => {
                        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some((future, iterator));
                        // SAFETY: PyIter_Send returned a new reference.
                        return Ok(Ok(unsafe { Bound::from_owned_ptr(py, result) }.unbind()));
                    }
                    // SAFETY: as above.
                    ffi::PySendResult::PYGEN_RETURN => drop(unsafe { Bound::from_owned_ptr(py, result) }),
                    ffi::PySendResult::PYGEN_ERROR => {
                        request.exchange.forget(&future);
                        return Err(PyErr::fetch(py));
                    }
                }
            }
            if let Some(result) = self.poll(py)? {
                return Ok(Err(result));
            }
            let future = request.bridge.new_future(py)?;
            let waits = match self.kind {
                Kind::Receive => request.exchange.wait_to_receive(future.clone_ref(py)),
                Kind::Send => request.exchange.wait_to_send(future.clone_ref(py)),
            };
            // False: it came between the look and the registration.
            if waits {
                let iterator = future.call_method0(py, intern!(py, "__await__"))?;
                *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some((future, iterator));
            }
        }
    }
}

#[pymethods]
impl Waiter {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match self.step(py)? {
            Ok(awaited) => Ok(Some(awaited)),
            Err(result) if self.kind == Kind::Send => {
                drop(result);
                Ok(None)
            }
            Err(result) => Err(PyStopIteration::new_err(result)),
        }
    }

    fn send(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.step(py)?.map_err(PyStopIteration::new_err)
    }

    #[pyo3(signature = (kind, value = None, _traceback = None))]
    fn throw(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.close(py);
        Err(thrown(kind, value))
    }

    fn close(&self, _py: Python<'_>) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((future, _)) = waiting {
            self.request.get().exchange.forget(&future);
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.request)?;
        if let Ok(waiting) = self.waiting.try_lock()
            && let Some((future, iterator)) = &*waiting
        {
            visit.call(future)?;
            visit.call(iterator)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        // Dropped after the lock is: it may run Python.
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(waiting);
    }
}

#[cfg(not(Py_LIMITED_API))]
impl Steps for Waiter {
    fn step_with(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<Step> {
        Ok(match self.step(py)? {
            Ok(awaited) => Step::Awaits(awaited),
            Err(result) => Step::Returned(result),
        })
    }
}
