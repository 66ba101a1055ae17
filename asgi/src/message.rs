//! What the application gives to `send()`: checked here, so that nothing wrong reaches the wire.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyInt, PyList, PyMemoryView, PyString, PyTuple};

use crate::exchange::body_less;

/// Bodies below this are copied; larger ones stay in Python's memory until they are written.
const COPY_BYTES: usize = 4096;

/// Header fields that a response can have. An `http::HeaderMap` panics when it gets more than 24,576, and the server adds
/// some of its own.
const MOST_FIELDS: usize = 16_384;

/// A message of the application.
pub enum Message {
    Head { status: StatusCode, headers: HeaderMap, content_length: Option<u64> },
    Body { body: Bytes, more: bool },
}

/// Reads a message. `room`: for how many fields a head should have room.
///
/// # Errors
/// `TypeError`, `ValueError` or `RuntimeError`, for the application, with what is wrong and what is expected.
pub fn parse(message: &Bound<'_, PyAny>, known: &KnownHeaders, room: usize) -> PyResult<Message> {
    let message = message.cast::<PyDict>().map_err(|_| {
        PyTypeError::new_err(format!("send() takes a dict with the key 'type', not {}", type_name(message)))
    })?;
    let entries = Entries::of(message);
    let kind = entries.kind.as_ref();
    let kind = kind.ok_or_else(|| PyValueError::new_err("the message for send() has no 'type'"))?;
    let kind = kind.cast::<PyString>().map_err(|_| {
        PyTypeError::new_err(format!("the 'type' of a message is a str, not {}", type_name(kind)))
    })?;
    match kind.to_str()? {
        "http.response.body" => body(&entries),
        "http.response.start" => head(&entries, known, room),
        other => Err(PyRuntimeError::new_err(format!(
            "unexpected ASGI message {other:?}: for HTTP it is 'http.response.start' or 'http.response.body'"
        ))),
    }
}

/// The entries of a message that have a meaning. One look at each of the few costs less than a search for each name.
#[derive(Default)]
struct Entries<'py> {
    kind: Option<Bound<'py, PyAny>>,
    status: Option<Bound<'py, PyAny>>,
    headers: Option<Bound<'py, PyAny>>,
    body: Option<Bound<'py, PyAny>>,
    more_body: Option<Bound<'py, PyAny>>,
}

impl<'py> Entries<'py> {
    fn of(message: &Bound<'py, PyDict>) -> Self {
        let py = message.py();
        let mut entries = Self::default();
        for (key, value) in message {
            // Keys written in Python code are interned, and so the same objects as ours.
            let entry = if key.is(intern!(py, "type")) {
                &mut entries.kind
            } else if key.is(intern!(py, "body")) {
                &mut entries.body
            } else if key.is(intern!(py, "more_body")) {
                &mut entries.more_body
            } else if key.is(intern!(py, "status")) {
                &mut entries.status
            } else if key.is(intern!(py, "headers")) {
                &mut entries.headers
            } else {
                match key.cast::<PyString>().ok().and_then(|key| key.to_str().ok()) {
                    Some("type") => &mut entries.kind,
                    Some("body") => &mut entries.body,
                    Some("more_body") => &mut entries.more_body,
                    Some("status") => &mut entries.status,
                    Some("headers") => &mut entries.headers,
                    _ => continue,
                }
            };
            *entry = Some(value);
        }
        entries
    }
}

fn body(entries: &Entries<'_>) -> PyResult<Message> {
    let body = match &entries.body {
        None => Bytes::new(),
        Some(body) => match body.cast::<PyBytes>() {
            Ok(body) => bytes(body),
            Err(_) if body.is_instance_of::<PyByteArray>() || body.is_instance_of::<PyMemoryView>() => {
                // A copy: the application may change it while it is being written.
                bytes(body.py().get_type::<PyBytes>().call1((body,))?.cast::<PyBytes>()?)
            }
            Err(_) => {
                return Err(PyTypeError::new_err(format!(
                    "the 'body' of 'http.response.body' is bytes, not {}",
                    type_name(body)
                )));
            }
        },
    };
    let more = match &entries.more_body {
        None => false,
        Some(more) => more.is_truthy()?,
    };
    Ok(Message::Body { body, more })
}

fn bytes(body: &Bound<'_, PyBytes>) -> Bytes {
    if body.as_bytes().len() < COPY_BYTES {
        Bytes::copy_from_slice(body.as_bytes())
    } else {
        Bytes::from_owner(PyBackedBytes::from(body.clone()))
    }
}

fn head(entries: &Entries<'_>, known: &KnownHeaders, room: usize) -> PyResult<Message> {
    let status = entries.status.as_ref();
    let status = status.ok_or_else(|| PyValueError::new_err("'http.response.start' has no 'status'"))?;
    if !status.is_instance_of::<PyInt>() {
        return Err(PyTypeError::new_err(format!(
            "the 'status' of 'http.response.start' is an int, not {}",
            type_name(status)
        )));
    }
    let status = status
        .extract::<u16>()
        .ok()
        .filter(|status| (200..=999).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| {
            PyValueError::new_err(format!("the 'status' of a response is between 200 and 999, not {status}"))
        })?;
    let mut headers = HeaderMap::new();
    let mut content_length = None;
    if let Some(pairs) = &entries.headers {
        if let Ok(pairs) = pairs.cast::<PyList>() {
            headers.reserve(pairs.len().max(room).min(MOST_FIELDS));
            for pair in pairs.iter() {
                add_header(&mut headers, &mut content_length, &pair, known)?;
            }
        } else {
            let pairs = pairs.try_iter().map_err(|_| {
                PyTypeError::new_err(format!(
                    "the 'headers' of 'http.response.start' are a list of (name, value) pairs, not {}",
                    type_name(pairs)
                ))
            })?;
            for pair in pairs {
                add_header(&mut headers, &mut content_length, &pair?, known)?;
            }
        }
    }
    if status == StatusCode::NO_CONTENT {
        // RFC 9110 §8.6: it must not have one.
        headers.remove(header::CONTENT_LENGTH);
        content_length = None;
    }
    if body_less(status) {
        content_length = None;
    }
    Ok(Message::Head { status, headers, content_length })
}

/// A response header, checked.
#[derive(Clone)]
struct Header {
    name: HeaderName,
    value: HeaderValue,
    /// The value, when it is a content-length.
    content_length: Option<u64>,
}

/// Headers that applications keep as constants are checked once: a tuple of two `bytes` cannot change.
#[derive(Default)]
pub struct KnownHeaders(Mutex<Vec<Option<Known>>>);

type Known = (Py<PyTuple>, Header);

impl KnownHeaders {
    /// Each pair has one place, by its address.
    const PLACES: usize = 64;
    /// Longer ones are not worth their memory.
    const VALUE_BYTES: usize = 256;

    fn place(pair: &Bound<'_, PyAny>) -> usize {
        // Objects are aligned to 16 bytes.
        (pair.as_ptr() as usize >> 4) % Self::PLACES
    }

    fn get(&self, pair: &Bound<'_, PyAny>) -> Option<Header> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).get(Self::place(pair)) {
            Some(Some((known, header))) if known.is(pair) => Some(header.clone()),
            _ => None,
        }
    }

    fn insert(&self, pair: &Bound<'_, PyAny>, header: &Header) {
        let Ok(tuple) = pair.cast_exact::<PyTuple>() else { return };
        let fixed = tuple.iter_borrowed().all(|part| part.is_exact_instance_of::<PyBytes>());
        if !fixed || header.value.len() > Self::VALUE_BYTES {
            return;
        }
        let replaced = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if places.is_empty() {
                places.resize_with(Self::PLACES, || None);
            }
            places
                .get_mut(Self::place(pair))
                .and_then(|place| place.replace((tuple.clone().unbind(), header.clone())))
        };
        drop(replaced);
    }
}

fn add_header(
    headers: &mut HeaderMap,
    content_length: &mut Option<u64>,
    pair: &Bound<'_, PyAny>,
    known: &KnownHeaders,
) -> PyResult<()> {
    let header = match known.get(pair) {
        Some(header) => header,
        None => {
            let header = checked_header(pair)?;
            known.insert(pair, &header);
            header
        }
    };
    if header.name == header::TRANSFER_ENCODING {
        // The server frames the body; the specification has applications' own ignored.
        return Ok(());
    }
    if let Some(length) = header.content_length {
        match *content_length {
            Some(other) if other != length => {
                return Err(PyValueError::new_err(format!(
                    "two different content-lengths: {other} and {length}"
                )));
            }
            Some(_) => return Ok(()),
            None => *content_length = Some(length),
        }
    }
    if headers.len() >= MOST_FIELDS {
        return Err(PyValueError::new_err(format!("a response has at most {MOST_FIELDS} header fields")));
    }
    headers.append(header.name, header.value);
    Ok(())
}

fn checked_header(pair: &Bound<'_, PyAny>) -> PyResult<Header> {
    let (name, value) = name_and_value(pair)?;
    let (name_bytes, value_bytes) = (part("name", &name)?.as_bytes(), part("value", &value)?.as_bytes());
    let name = HeaderName::from_bytes(name_bytes).map_err(|_| {
        PyValueError::new_err(format!(
            "invalid response header name {}: letters, digits and !#$%&'*+-.^_`|~ are allowed",
            printed(name_bytes)
        ))
    })?;
    // hyper parses a length, and takes digits only.
    let value_bytes = if name == header::CONTENT_LENGTH { value_bytes.trim_ascii() } else { value_bytes };
    let value = HeaderValue::from_bytes(value_bytes).map_err(|_| {
        PyValueError::new_err(format!(
            "invalid value {} of the response header {name}: line breaks and control characters are not allowed",
            printed(value_bytes)
        ))
    })?;
    let mut content_length = None;
    if name == header::CONTENT_LENGTH {
        let length = std::str::from_utf8(value_bytes)
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| {
                PyValueError::new_err(format!("invalid content-length {}: digits only", printed(value_bytes)))
            })?;
        content_length = Some(length);
    }
    Ok(Header { name, value, content_length })
}

fn name_and_value<'py>(pair: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    if let Ok(pair) = pair.cast::<PyTuple>() {
        if pair.len() == 2 {
            return Ok((pair.get_item(0)?, pair.get_item(1)?));
        }
    } else if let Ok(pair) = pair.cast::<PyList>()
        && pair.len() == 2
    {
        return Ok((pair.get_item(0)?, pair.get_item(1)?));
    }
    Err(PyTypeError::new_err(format!(
        "a response header is a pair (name, value) of bytes, not {}",
        shown(pair)
    )))
}

fn part<'a, 'py>(what: &str, part: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyBytes>> {
    part.cast::<PyBytes>().map_err(|_| {
        PyTypeError::new_err(format!(
            "the {what} of a response header is bytes, not {}: {}",
            type_name(part),
            shown(part)
        ))
    })
}

fn printed(bytes: &[u8]) -> String {
    format!("b\"{}\"", bytes[..bytes.len().min(200)].escape_ascii())
}

fn shown(object: &Bound<'_, PyAny>) -> String {
    object.repr().map_or_else(|_| type_name(object), |repr| repr.to_string().chars().take(200).collect())
}

fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "an unknown type".to_owned(), |name| name.to_string())
}
