//! The one transition table of a machine, and its renderings.
//!
//! [`machine!`](crate::machine) makes a state enum, an edge enum and the function `State::next` from one list. A
//! machine moves only through `next`; the tests print the list as a matrix, the documentation as a diagram. With the
//! feature `coverage`, every step is counted (see `coverage.rs`).

/// Declares the states and edges of a machine:
///
/// ```text
/// machine! {
///     pub enum State { Open, Shut }
///     pub enum Edge {
///         /// The door was pushed.
///         Push: Open => Shut,
///         Pull: Shut => Open,
///     }
/// }
/// ```
#[macro_export]
macro_rules! machine {
    (
        $(#[$state_meta:meta])* pub enum $State:ident { $( $(#[$s_meta:meta])* $s:ident ),+ $(,)? }
        $(#[$edge_meta:meta])* pub enum $Edge:ident {
            $( $(#[$e_meta:meta])* $e:ident : $($from:ident)|+ => $to:ident ),+ $(,)?
        }
    ) => {
        $(#[$state_meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $State { $( $(#[$s_meta])* $s ),+ }

        $(#[$edge_meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $Edge { $( $(#[$e_meta])* $e ),+ }

        impl $State {
            /// Every state, in the order of declaration.
            pub const ALL: &'static [$State] = &[$( $State::$s ),+];

            /// The state after `edge`, or `None` where the edge makes no sense in this state.
            pub const fn next(self, edge: $Edge) -> Option<$State> {
                match (self, edge) {
                    $( ($( $State::$from )|+, $Edge::$e) => Some($State::$to), )+
                    #[allow(unreachable_patterns)]
                    _ => None,
                }
            }

            /// [`Self::next`] of a machine that moves, which the feature `coverage` counts.
            pub(crate) fn step(self, edge: $Edge) -> Option<$State> {
                #[cfg(feature = "coverage")]
                Self::steps(|counts| {
                    let cell = &counts[self as usize * $Edge::ALL.len() + edge as usize];
                    cell.set(cell.get() + 1);
                });
                self.next(edge)
            }

            /// How often this thread's machines took each edge in each state, states outermost.
            #[cfg(feature = "coverage")]
            pub(crate) fn steps<T>(with: impl FnOnce(&[std::cell::Cell<u64>]) -> T) -> T {
                const CELLS: usize = $State::ALL.len() * $Edge::ALL.len();
                thread_local! {
                    static COUNTS: [std::cell::Cell<u64>; CELLS] =
                        const { [const { std::cell::Cell::new(0) }; CELLS] };
                }
                COUNTS.with(|counts| with(counts))
            }
        }

        impl $Edge {
            /// Every edge, in the order of declaration.
            pub const ALL: &'static [$Edge] = &[$( $Edge::$e ),+];
        }
    };
}

/// The whole state × edge matrix as a Markdown table, one row per edge; `·` is an edge that makes no sense there.
pub fn matrix<S: Copy + std::fmt::Debug, E: Copy + std::fmt::Debug>(
    states: &[S],
    edges: &[E],
    next: impl Fn(S, E) -> Option<S>,
) -> String {
    let header: Vec<String> = states.iter().map(|s| format!("{s:?}")).collect();
    let mut rows = vec![("edge".to_string(), header)];
    for &edge in edges {
        let cells =
            states.iter().map(|&s| next(s, edge).map_or("·".to_string(), |to| format!("{to:?}"))).collect();
        rows.push((format!("{edge:?}"), cells));
    }
    let first = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..states.len())
        .map(|i| rows.iter().map(|(_, cells)| cells[i].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for (row, (name, cells)) in rows.iter().enumerate() {
        out.push_str(&format!("| {name:first$} |"));
        for (cell, width) in cells.iter().zip(&widths) {
            out.push_str(&format!(" {cell:width$} |"));
        }
        out.push('\n');
        if row == 0 {
            out.push_str(&format!("|{}|", "-".repeat(first + 2)));
            widths.iter().for_each(|width| out.push_str(&format!("{}|", "-".repeat(width + 2))));
            out.push('\n');
        }
    }
    out
}

/// The table as a Mermaid state diagram, edges between the same two states joined.
pub fn diagram<S: Copy + PartialEq + std::fmt::Debug, E: Copy + std::fmt::Debug>(
    states: &[S],
    edges: &[E],
    next: impl Fn(S, E) -> Option<S>,
) -> String {
    let mut out = String::from("stateDiagram-v2\n");
    if let Some(first) = states.first() {
        out.push_str(&format!("    [*] --> {first:?}\n"));
    }
    for &from in states {
        for &to in states {
            let labels: Vec<String> =
                edges.iter().filter(|&&e| next(from, e) == Some(to)).map(|e| format!("{e:?}")).collect();
            if !labels.is_empty() && from != to {
                out.push_str(&format!("    {from:?} --> {to:?}: {}\n", labels.join(", ")));
            }
        }
    }
    out
}
