//! What is known of one connection on both sides.

use std::sync::Mutex;

use crate::runtime::ConnectionInfo;
use crate::scope::Cache;

/// One per connection; every request of it holds it.
pub struct Connection {
    pub info: ConnectionInfo,
    /// Python objects that the requests of this connection have in common. Only touched with the GIL held.
    pub cache: Mutex<Option<Cache>>,
}

impl Connection {
    pub fn new(info: ConnectionInfo) -> Self {
        Self { info, cache: Mutex::new(None) }
    }
}
