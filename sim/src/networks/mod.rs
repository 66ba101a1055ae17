//! The networks that a scenario can run on, both written by other people.
//!
//! The same scenario has to come to the same kind of end on each, or one of them is not what we think it is
//! (`tests/cross_check.rs`). `sim run FILE --engine turmoil` asks for the second by name.

pub mod turmoil_net;
pub mod turmoil_sim;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::net::{ConnId, Ended, Facts};
use crate::process;

/// What happened to connections, kept by the wrappers around a network that does not tell by itself.
#[derive(Clone, Debug, Default)]
struct Book(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    ids: BTreeMap<(SocketAddr, SocketAddr), ConnId>,
    facts: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    server: SocketAddr,
    facts: Facts,
    /// The server's socket is closed, not only shut down.
    closed: bool,
}

impl Book {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection between these two ends; the first to ask makes it.
    fn id(&self, client: SocketAddr, server: SocketAddr) -> ConnId {
        let mut entries = self.entries();
        let next = entries.facts.len() as ConnId;
        let id = *entries.ids.entry((client, server)).or_insert(next);
        if id == next {
            entries.facts.push(Entry { server, facts: Facts::default(), closed: false });
        }
        id
    }

    fn facts(&self, id: ConnId) -> Option<Facts> {
        self.entries().facts.get(id as usize).map(|entry| entry.facts)
    }

    /// The handshake ended, now if not before.
    fn queued(&self, id: ConnId) {
        if let Some(entry) = self.entries().facts.get_mut(id as usize)
            && entry.facts.ended.is_none()
        {
            entry.facts.queued.get_or_insert_with(Instant::now);
        }
    }

    /// The process that is running has it.
    fn owned(&self, id: ConnId) {
        if let Some(entry) = self.entries().facts.get_mut(id as usize) {
            entry.facts.owner = process::current();
        }
    }

    /// Bytes for the server. False if nobody is there to read them.
    fn delivered(&self, id: ConnId, bytes: usize) -> bool {
        let mut entries = self.entries();
        let Some(entry) = entries.facts.get_mut(id as usize) else { return true };
        if !entry.closed {
            entry.facts.delivered += bytes as u64;
        }
        !entry.closed
    }

    /// The server's side ends.
    fn end(&self, id: ConnId, reset: bool, closed: bool) {
        if let Some(entry) = self.entries().facts.get_mut(id as usize) {
            entry.end(reset, closed);
        }
    }

    /// A listener is gone: so is whatever nobody had accepted.
    fn end_unaccepted(&self, server: SocketAddr) {
        let mut entries = self.entries();
        for entry in entries.facts.iter_mut().filter(|e| e.server == server && e.facts.owner.is_none()) {
            if entry.facts.ended.is_none() {
                crate::marks::hit(match entry.facts.queued {
                    Some(_) => "a listener closed with a connection in its accept queue",
                    None => "a handshake ended at a closed listener",
                });
            }
            entry.end(true, true);
        }
    }

    /// Whether a connection waits to be accepted.
    fn waits(&self, server: SocketAddr) -> bool {
        self.entries().facts.iter().any(|e| {
            let facts = &e.facts;
            e.server == server && facts.queued.is_some() && facts.owner.is_none() && facts.ended.is_none()
        })
    }
}

impl Entry {
    fn end(&mut self, reset: bool, closed: bool) {
        self.closed |= closed;
        if self.facts.ended.is_none() {
            let (at, delivered) = (Instant::now(), self.facts.delivered);
            self.facts.ended = Some(Ended { at, delivered, reset, killed: process::killing() });
        }
    }
}
