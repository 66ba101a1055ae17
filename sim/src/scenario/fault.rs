//! What goes wrong, and when.

use serde::{Deserialize, Serialize};

/// Something that goes wrong at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub at_ms: u64,
    /// The pod it happens to, by the order in which pods were made, from 0. No such pod: nothing happens.
    pub pod: u32,
    #[serde(flatten)]
    pub what: FaultKind,
}

/// What goes wrong. Workers are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum FaultKind {
    /// SIGKILL, or the OOM killer.
    KillWorker {
        worker: u32,
    },
    /// The worker gets no CPU (SIGSTOP, throttling, a stuck application).
    FreezeWorker {
        worker: u32,
        for_ms: u64,
    },
    FreezeSupervisor {
        for_ms: u64,
    },
    KillSupervisor,
    /// SIGTERM to one worker.
    TermWorker {
        worker: u32,
    },
    /// A signal to the supervisor.
    Term,
    Int,
    Quit,
    Hup,
    /// Workers started from here on, so many of them, end before they are ready.
    BootCrash {
        times: u32,
    },
    /// Workers started from here on, so many of them, never get ready.
    BootHang {
        times: u32,
    },
    /// Segments to and from the pod wait.
    StallLink {
        for_ms: u64,
    },
    /// The pod's processes can open no descriptor.
    OutOfDescriptors {
        for_ms: u64,
    },
}

impl FaultKind {
    /// Not a request may fail because of it, where everything else is right.
    pub fn is_harmless(self) -> bool {
        matches!(self, FaultKind::BootCrash { .. } | FaultKind::BootHang { .. })
    }

    pub fn name(self) -> &'static str {
        match self {
            FaultKind::KillWorker { .. } => "kill-worker",
            FaultKind::FreezeWorker { .. } => "freeze-worker",
            FaultKind::FreezeSupervisor { .. } => "freeze-supervisor",
            FaultKind::KillSupervisor => "kill-supervisor",
            FaultKind::TermWorker { .. } => "term-worker",
            FaultKind::Term => "term",
            FaultKind::Int => "int",
            FaultKind::Quit => "quit",
            FaultKind::Hup => "hup",
            FaultKind::BootCrash { .. } => "boot-crash",
            FaultKind::BootHang { .. } => "boot-hang",
            FaultKind::StallLink { .. } => "stall-link",
            FaultKind::OutOfDescriptors { .. } => "out-of-descriptors",
        }
    }
}
