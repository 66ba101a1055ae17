//! Resolving settings as a command line in a directory with an environment would.

use pounce_settings::{Settings, SettingsError, Sources, flags, resolve};

/// `files` are names and contents in an otherwise empty working directory.
pub fn run(
    arguments: &[&str],
    environment: &[(&str, &str)],
    files: &[(&str, &str)],
) -> Result<Settings, SettingsError> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).expect("a file in it");
    }
    let matches = flags::command()
        .try_get_matches_from(std::iter::once("pounce").chain(arguments.iter().copied()))
        .unwrap_or_else(|error| panic!("clap refuses {arguments:?}: {error}"));
    let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
    resolve(&Sources { flags: Some(&matches), environment, directory: Some(directory.path()) })
}

/// Snapshots without the expression that made them: the inputs are in the snapshot itself.
#[allow(dead_code, reason = "not every test program has snapshots")]
pub fn bare_snapshots() -> insta::internals::SettingsBindDropGuard {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.bind_to_scope()
}
