//! What `tests/apps/plain.py` writes down about itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::processes::wait_until;

/// The file that `$EVENTS` names.
#[derive(Debug)]
pub struct Events {
    dir: TempDir,
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

impl Events {
    /// An empty one.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// For `$EVENTS`.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("events")
    }

    /// A directory for whatever else the test needs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// So far: the pid that wrote, and what.
    pub fn all(&self) -> Vec<(u32, String)> {
        let text = std::fs::read_to_string(self.path()).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(pid, event)| (pid.parse().expect("a pid"), event.to_string()))
            .collect()
    }

    /// How often this happened.
    pub fn count(&self, event: &str) -> usize {
        self.all().iter().filter(|(_, text)| text == event).count()
    }

    /// Waits until this happened `count` times.
    ///
    /// # Panics
    /// If it does not within half a minute.
    #[track_caller]
    pub fn wait_for(&self, event: &str, count: usize) {
        let what = format!("{count} x {event:?}");
        wait_until(&what, Duration::from_secs(30), || self.count(event) >= count);
    }
}
