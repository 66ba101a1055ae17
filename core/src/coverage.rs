//! Which cells of the transition tables were reached. Compiled only with the feature `coverage`, which only the simulator
//! asks for.
//!
//! A table that was never walked through may be wrong, or say what cannot happen. Each step of a machine is counted on its
//! thread; [`take`] collects the counts.

use std::collections::BTreeMap;
use std::fmt;

use crate::{connection, supervisor, worker};

/// One cell of a machine's table: an edge, in a state where it makes sense.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// As in `docs/state-machines.md`.
    pub machine: &'static str,
    pub state: String,
    pub edge: String,
}

/// `Supervisor: Forcing, Abandon`.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, {}", self.machine, self.state, self.edge)
    }
}

/// How often each cell was reached. Every cell that a table has is in it.
pub type Counts = BTreeMap<Cell, u64>;

/// What the machines of this thread reached since the last call.
pub fn take() -> Counts {
    let mut counts = Counts::new();
    macro_rules! collect {
        ($machine:literal, $State:ty, $Edge:ty) => {
            <$State>::steps(|cells| {
                for state in <$State>::ALL {
                    for edge in <$Edge>::ALL {
                        let count = cells[*state as usize * <$Edge>::ALL.len() + *edge as usize].take();
                        if state.next(*edge).is_some() {
                            let (state, edge) = (format!("{state:?}"), format!("{edge:?}"));
                            counts.insert(Cell { machine: $machine, state, edge }, count);
                        }
                    }
                }
            });
        };
    }
    collect!("Connection", connection::State, connection::Edge);
    collect!("Worker", worker::State, worker::Edge);
    collect!("Supervisor", supervisor::State, supervisor::Edge);
    collect!("Supervisor's worker", supervisor::WorkerState, supervisor::WorkerEdge);
    counts
}
