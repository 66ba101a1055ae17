//! Every state × edge of every machine, as a snapshot and as a page of the documentation. Both are printed from the
//! tables that the machines move by.

#![allow(clippy::disallowed_methods, reason = "UPDATE comes from the environment")]

use std::path::Path;

use pounce_core::table::{diagram, matrix};
use pounce_core::{connection, supervisor, worker};

/// The four tables: name, what it is, matrix, diagram.
fn tables() -> [(&'static str, &'static str, String, String); 4] {
    macro_rules! table {
        ($name:literal, $about:literal, $State:path, $Edge:path) => {{
            use $Edge as E;
            use $State as S;
            ($name, $about, matrix(S::ALL, E::ALL, S::next), diagram(S::ALL, E::ALL, S::next))
        }};
    }
    [
        table!(
            "Connection",
            "One HTTP/1.1 connection, in the process that serves it.",
            connection::State,
            connection::Edge
        ),
        table!("Worker", "One worker process, as it knows itself.", worker::State, worker::Edge),
        table!("Supervisor", "The whole server.", supervisor::State, supervisor::Edge),
        table!(
            "Supervisor's worker",
            "One worker process, as the supervisor knows it.",
            supervisor::WorkerState,
            supervisor::WorkerEdge
        ),
    ]
}

#[test]
fn connection_matrix() {
    insta::assert_snapshot!(tables()[0].2);
}

#[test]
fn worker_matrix() {
    insta::assert_snapshot!(tables()[1].2);
}

#[test]
fn supervisor_matrix() {
    insta::assert_snapshot!(tables()[2].2);
}

#[test]
fn supervisors_worker_matrix() {
    insta::assert_snapshot!(tables()[3].2);
}

fn page() -> String {
    let mut page = String::from(
        "# The state machines\n\n\
         Generated from the tables in `core/src`; do not edit. `UPDATE=1 cargo test -p pounce-core --test matrix` writes \
         this file anew.\n\n\
         `·` is an edge that makes no sense in that state: it is ignored, and counted.\n",
    );
    for (name, about, matrix, diagram) in tables() {
        page.push_str(&format!("\n## {name}\n\n{about}\n\n```mermaid\n{diagram}```\n\n{matrix}"));
    }
    page
}

#[test]
fn the_documentation_shows_the_machines_as_they_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/state-machines.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().expect("docs/ is a directory")).expect("docs/ can be made");
        std::fs::write(&path, page()).expect("the page can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page(),
        "docs/state-machines.md is not what the tables say: run UPDATE=1 cargo test -p pounce-core --test matrix"
    );
}
