//! The ASGI connection scope.
//!
//! Most of it is the same for every request of a connection, and often the headers are too; so each connection keeps a
//! template, its last request target and its last header pairs, and a request makes only what differs.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use pounce_settings::{Bind, Settings};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::connection::Connection;
use crate::runtime::PeerAddr;

/// Header names that are kept as Python objects, per worker; clients can send any number of different ones.
const NAMES: usize = 512;

/// What the scopes of a worker have in common.
pub struct Scopes {
    root_path: String,
    /// The Unix socket that is listened on; `None` when there is none, or may be more than one.
    unix_path: Option<String>,
    state: Py<PyDict>,
    names: Mutex<HashMap<HeaderName, Py<PyBytes>>>,
}

/// What the scopes of a connection have in common. Nothing in it is a part of a request as it was read: that would keep the
/// buffer that it was read into, and hyper, which uses its buffer again when nobody does, would need a new one for each
/// request.
pub struct Cache {
    /// The versions; copied for every request, which may do with its scope what it likes.
    asgi: Py<PyDict>,
    /// No value in it can be changed.
    template: Py<PyDict>,
    /// The target of the last request; `template` has what follows from it.
    target: Option<String>,
    headers: Vec<(HeaderName, Box<[u8]>, Py<PyTuple>)>,
}

impl Scopes {
    /// `state`: the lifespan state, copied for every request.
    pub fn new(settings: &Settings, state: Py<PyDict>) -> Self {
        let mut others = settings.binds.iter().filter(|bind| !matches!(bind, Bind::Tcp { .. }));
        let unix_path = match (others.next(), others.next()) {
            (Some(Bind::Unix(path)), None) => Some(path.to_string_lossy().into_owned()),
            _ => None,
        };
        Self { root_path: settings.root_path.clone(), unix_path, state, names: Mutex::default() }
    }

    /// The scope of a request.
    ///
    /// # Errors
    /// When Python is out of memory.
    pub fn build<'py>(
        &self,
        py: Python<'py>,
        connection: &Connection,
        request: &http::request::Parts,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mut cache = connection.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let cache = match &mut *cache {
            Some(cache) => cache,
            empty => empty.insert(self.cache(py, connection)?),
        };
        let template = cache.template.bind(py);
        let asterisk = const { PathAndQuery::from_static("/") };
        let target = request.uri.path_and_query().unwrap_or(&asterisk);
        if cache.target.as_deref().is_none_or(|last| last != target.as_str()) {
            cache.target = None;
            // The asterisk is the server as a whole (RFC 9110 §7.1), not something under the prefix.
            let root_path = if target.path() == "*" { "" } else { &self.root_path };
            let decoded = percent_decoded(target.path());
            let path = PyString::new(py, &format!("{root_path}{decoded}"));
            let raw_path = PyBytes::new(py, format!("{root_path}{}", target.path()).as_bytes());
            let query = PyBytes::new(py, target.query().unwrap_or("").as_bytes());
            template.set_item(intern!(py, "path"), path)?;
            template.set_item(intern!(py, "raw_path"), raw_path)?;
            template.set_item(intern!(py, "query_string"), query)?;
            cache.target = Some(target.as_str().to_owned());
        }
        let scope = template.copy()?;
        if request.version != Version::HTTP_11 {
            let version = match request.version {
                Version::HTTP_09 | Version::HTTP_10 => intern!(py, "1.0"),
                _ => intern!(py, "2"),
            };
            scope.set_item(intern!(py, "http_version"), version)?;
        }
        if request.method != Method::GET {
            scope.set_item(intern!(py, "method"), method(py, &request.method))?;
        }

        let headers = if request.headers.len() == request.headers.keys_len() {
            self.headers(py, cache, request.headers.iter())?
        } else {
            self.headers(py, cache, in_the_order_of_the_head(&request.headers))?
        };
        if let Some(authority) = request.uri.authority() {
            replace_host(&headers, authority)?;
        }
        scope.set_item(intern!(py, "headers"), headers)?;
        scope.set_item(intern!(py, "asgi"), cache.asgi.bind(py).copy()?)?;
        scope.set_item(intern!(py, "state"), self.state.bind(py).copy()?)?;
        scope.set_item(intern!(py, "extensions"), PyDict::new(py))?;
        Ok(scope)
    }

    /// The header fields, names in lower case, "in the order of the original HTTP request" (ASGI specification).
    fn headers<'py, 'a>(
        &self,
        py: Python<'py>,
        cache: &mut Cache,
        fields: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    ) -> PyResult<Bound<'py, PyList>> {
        let headers = PyList::empty(py);
        for (at, (name, value)) in fields.into_iter().enumerate() {
            if let Some((last_name, last_value, pair)) = cache.headers.get(at)
                && last_name == name
                && **last_value == *value.as_bytes()
            {
                headers.append(pair)?;
                continue;
            }
            let pair = PyTuple::new(
                py,
                [self.header_name(py, name).into_any(), PyBytes::new(py, value.as_bytes()).into_any()],
            )?;
            headers.append(&pair)?;
            let entry = (name.clone(), value.as_bytes().into(), pair.unbind());
            match cache.headers.get_mut(at) {
                Some(last) => *last = entry,
                None => cache.headers.push(entry),
            }
        }
        Ok(headers)
    }

    fn cache(&self, py: Python<'_>, connection: &Connection) -> PyResult<Cache> {
        let asgi = PyDict::new(py);
        asgi.set_item(intern!(py, "version"), "3.0")?;
        asgi.set_item(intern!(py, "spec_version"), "2.4")?;
        let template = PyDict::new(py);
        template.set_item(intern!(py, "type"), intern!(py, "http"))?;
        template.set_item(intern!(py, "asgi"), py.None())?;
        template.set_item(intern!(py, "http_version"), intern!(py, "1.1"))?;
        let server = match (connection.info.local(), &self.unix_path) {
            (PeerAddr::Unix, Some(path)) => (path, py.None()).into_pyobject(py)?.into_any(),
            (address, _) => tcp_address(py, address)?,
        };
        template.set_item(intern!(py, "server"), server)?;
        template.set_item(intern!(py, "client"), tcp_address(py, connection.info.peer())?)?;
        template.set_item(intern!(py, "scheme"), intern!(py, "http"))?;
        template.set_item(intern!(py, "method"), intern!(py, "GET"))?;
        template.set_item(intern!(py, "root_path"), &self.root_path)?;
        for key in ["path", "raw_path", "query_string", "headers", "state", "extensions"] {
            template.set_item(PyString::intern(py, key), py.None())?;
        }
        Ok(Cache { asgi: asgi.unbind(), template: template.unbind(), target: None, headers: Vec::new() })
    }

    fn header_name<'py>(&self, py: Python<'py>, name: &HeaderName) -> Bound<'py, PyBytes> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = names.get(name) {
            return bytes.bind(py).clone();
        }
        let bytes = PyBytes::new(py, name.as_str().as_bytes());
        if names.len() < NAMES {
            names.insert(name.clone(), bytes.clone().unbind());
        }
        bytes
    }
}

/// The fields as they came. A `HeaderMap` has all values of a name together, where the first of them was; but hyper cuts every
/// value from the one buffer that the head was read into, so where a value lies tells when it came.
fn in_the_order_of_the_head(headers: &HeaderMap) -> Vec<(&HeaderName, &HeaderValue)> {
    let mut fields: Vec<_> = headers.iter().collect();
    fields.sort_by_key(|(_, value)| value.as_bytes().as_ptr());
    fields
}

/// A target in absolute form names the host, and what came in `Host` is to be ignored (RFC 9112 §3.2.2). An application knows
/// of no host but that header.
fn replace_host(headers: &Bound<'_, PyList>, authority: &Authority) -> PyResult<()> {
    let py = headers.py();
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    let pair = PyTuple::new(py, [PyBytes::new(py, b"host"), PyBytes::new(py, host.as_bytes())])?;
    for (at, field) in headers.iter().enumerate() {
        if field.get_item(0)?.eq(pair.get_item(0)?)? {
            return headers.set_item(at, pair);
        }
    }
    headers.insert(0, pair)
}

fn method<'py>(py: Python<'py>, method: &Method) -> Bound<'py, PyString> {
    match *method {
        Method::POST => intern!(py, "POST").clone(),
        Method::PUT => intern!(py, "PUT").clone(),
        Method::HEAD => intern!(py, "HEAD").clone(),
        Method::PATCH => intern!(py, "PATCH").clone(),
        Method::DELETE => intern!(py, "DELETE").clone(),
        Method::OPTIONS => intern!(py, "OPTIONS").clone(),
        // "Unicode string HTTP method name, uppercased."
        _ => PyString::new(py, &method.as_str().to_ascii_uppercase()),
    }
}

fn tcp_address(py: Python<'_>, address: PeerAddr) -> PyResult<Bound<'_, PyAny>> {
    Ok(match address {
        PeerAddr::Tcp(address) => {
            (address.ip().to_canonical().to_string(), address.port()).into_pyobject(py)?.into_any()
        }
        PeerAddr::Unix => py.None().into_bound(py),
    })
}

/// `path` with its percent escapes replaced; bytes that are not UTF-8 become U+FFFD, as `urllib.parse.unquote` has it.
fn percent_decoded(path: &str) -> Cow<'_, str> {
    let bytes = path.as_bytes();
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(path);
    }
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}
