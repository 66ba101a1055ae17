//! The executable's answers to command lines that start no server.

use std::process::{Command, Output};

/// Runs `pounce` in an empty directory, with no variables but `PATH` and `variables`.
fn pounce(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    Command::new(env!("CARGO_BIN_EXE_pounce"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir(directory.path())
        .output()
        .expect("pounce runs")
}

fn shown(output: &Output) -> String {
    let code = output.status.code().map_or("killed".into(), |code| format!("exit {code}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{code}\nstdout: {out}\nstderr: {err}")
}

#[test]
fn without_an_application_the_first_things_to_try_are_shown() {
    insta::assert_snapshot!(shown(&pounce(&[], &[])));
}

#[test]
fn a_bad_setting_ends_with_code_2_and_names_it() {
    insta::assert_snapshot!(shown(&pounce(&["main:app"], &[("POUNCE_SHUTDOWN_TIMEOUT", "-5")])));
}

#[test]
fn an_unknown_flag_ends_with_code_2_and_the_nearest_one() {
    insta::assert_snapshot!(shown(&pounce(&["main:app", "--shutdown-timout", "3"], &[])));
}

#[test]
fn a_second_application_is_not_dropped_in_silence() {
    let output = pounce(&["main:app", "other:app"], &[]);
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
}

#[test]
fn version_is_printed_to_stdout() {
    let output = pounce(&["--version"], &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), concat!("pounce ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn help_is_printed_to_stdout_and_is_no_failure() {
    let output = pounce(&["--help"], &[("COLUMNS", "100")]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("--shutdown-timeout <DURATION>"),
        "{}",
        shown(&output)
    );
    assert!(output.stderr.is_empty());
}
