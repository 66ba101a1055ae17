//! Leaks of the outside world into a run, planted to see that the determinism test catches them.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::world::World;

/// A way in which the same seed gives another run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leak {
    /// `tokio::sync::watch` wakes its receivers in an order that the thread's random numbers choose.
    Watch,
    /// The order of a `HashMap` with the standard library's keys.
    HashOrder,
    /// hyper's `Date` header is the wall clock.
    Date,
    /// `std::time::Instant` is not the paused clock.
    StdInstant,
}

thread_local! {
    static PLANTED: Cell<Option<Leak>> = const { Cell::new(None) };
}

/// Plants a leak on this thread until it is dropped.
#[derive(Debug)]
pub struct Planted(());

impl Planted {
    pub fn new(leak: Leak) -> Planted {
        PLANTED.set(Some(leak));
        Planted(())
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        PLANTED.set(None);
    }
}

/// Whether responses carry hyper's `Date`.
pub fn date_header() -> bool {
    PLANTED.get() == Some(Leak::Date)
}

/// Lets the planted leak, if any, into a run.
#[allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "they are what is planted")]
pub fn spring(world: &Arc<World>) {
    match PLANTED.get() {
        Some(Leak::Watch) => {
            let (sender, receiver) = tokio::sync::watch::channel(0);
            for index in 0..32 {
                let (mut receiver, world) = (receiver.clone(), Arc::clone(world));
                tokio::spawn(async move {
                    let _ = receiver.changed().await;
                    world.trace.say("leak", format!("receiver {index} woke"));
                });
            }
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                let _ = sender.send(1);
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            });
        }
        Some(Leak::HashOrder) => {
            let map: HashMap<u32, ()> = (0..16).map(|key| (key, ())).collect();
            for key in map.keys() {
                world.trace.say("leak", format!("key {key}"));
            }
        }
        Some(Leak::StdInstant) => {
            let began = std::time::Instant::now();
            let spent = std::hint::black_box((0..1000u64).sum::<u64>());
            world.trace.say("leak", format!("{spent} took {:?}", began.elapsed()));
        }
        Some(Leak::Date) | None => {}
    }
}
