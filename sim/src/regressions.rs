//! Scenarios that once failed, as files: what was found is run again in every test, whatever the generator draws by then.

use std::io;
use std::path::{Path, PathBuf};

use crate::engine::{self, Outcome};
use crate::scenario::Scenario;

/// Where they are kept in a checkout.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions")
}

/// Writes `scenario`, in which `problem` was seen, to a file of its own in `folder`, and says which. A scenario that is
/// there already is not written twice.
///
/// # Errors
/// The folder is not there, or cannot be written to.
pub fn store(folder: &Path, scenario: &Scenario, problem: &str) -> io::Result<PathBuf> {
    // Without the particulars of one request.
    let problem = problem.lines().next().unwrap_or_default();
    let problem = problem.split_once(" (sent from").map_or(problem, |(before, _)| before);
    let mut scenario = scenario.clone();
    if scenario.about.is_empty() {
        scenario.about = format!("Found by seed {} and shrunk: {problem}", scenario.seed);
    }
    let seed = scenario.seed;
    let text = format!(
        "# Found by seed {seed}, then shrunk; it no longer is what the seed draws.\n\
         # Problem: {problem}\n\
         # Timeline: cargo run --release -p sim -- run sim/regressions/NAME\n\n{}",
        scenario.to_toml()
    );
    for nth in 1.. {
        let name = if nth == 1 { format!("seed-{seed}.toml") } else { format!("seed-{seed}-{nth}.toml") };
        let path = folder.join(&name);
        let text = text.replace("NAME", &name);
        match std::fs::read_to_string(&path) {
            Ok(there) if there == text => return Ok(path),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::write(&path, text)?;
                return Ok(path);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// [`store`], and a line for the terminal: where the file is, or the scenario itself if it cannot be written.
pub fn keep(folder: &Path, scenario: &Scenario, problem: &str) -> String {
    match store(folder, scenario, problem) {
        Ok(path) => format!("shrunk, and kept as {}: commit it with the fix", path.display()),
        Err(error) => format!(
            "shrunk; {} cannot take it ({error}). Keep it there by hand:\n{}",
            folder.display(),
            scenario.to_toml()
        ),
    }
}

/// Every file of `folder` in the order of their names, with its scenario and what came of it.
///
/// # Errors
/// The folder or a file cannot be read, or a file is no scenario; with the path.
pub fn run_all(folder: &Path) -> Result<Vec<(PathBuf, Scenario, Outcome)>, String> {
    let mut paths = Vec::new();
    for entry in folder.read_dir().map_err(|error| format!("{}: {error}", folder.display()))? {
        paths.push(entry.map_err(|error| format!("{}: {error}", folder.display()))?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let run = |path: PathBuf| {
        let of = |error: String| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|error| of(error.to_string()))?;
        let scenario = Scenario::from_toml(&text).map_err(of)?;
        let outcome = engine::run(&scenario);
        Ok((path, scenario, outcome))
    };
    paths.into_iter().map(run).collect()
}
