//! What is known of one connection on both sides.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::exchange::Exchange;
use crate::runtime::ConnectionInfo;
use crate::scope::Cache;

/// One per connection; every request of it holds it.
pub struct Connection {
    pub info: ConnectionInfo,
    /// Python objects that the requests of this connection have in common. Only touched with the GIL held.
    pub cache: Mutex<Option<Cache>>,
    /// Requests whose application goes on after hyper was done with the response; `None` when the connection has ended.
    outlived: Mutex<Option<Vec<Weak<Exchange>>>>,
}

impl Connection {
    pub fn new(info: ConnectionInfo) -> Self {
        Self { info, cache: Mutex::new(None), outlived: Mutex::new(Some(Vec::new())) }
    }

    /// Calls [`Exchange::connection_ended`] when the time comes; false when it has come.
    pub fn tell_of_its_end(&self, exchange: &Arc<Exchange>) -> bool {
        let mut outlived = self.outlived.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(outlived) = &mut *outlived else { return false };
        if outlived.len() == outlived.capacity() {
            outlived.retain(|other| other.strong_count() > 0);
        }
        outlived.push(Arc::downgrade(exchange));
        true
    }

    /// The connection has ended.
    pub fn ended(&self) {
        let outlived = self.outlived.lock().unwrap_or_else(PoisonError::into_inner).take();
        for exchange in outlived.iter().flatten().filter_map(Weak::upgrade) {
            exchange.connection_ended();
        }
    }
}
