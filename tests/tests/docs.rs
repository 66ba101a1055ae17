//! The commands of the documentation do what it says they do.
//!
//! To see this fail: change a command or what stands below it in docs/deploy.md.

use std::path::Path;
use std::process::Command;

use pounce_tests::{binary, ports, skip};

const DEPLOY: &str = include_str!("../../docs/deploy.md");

/// The lines of the first block of that kind.
fn block(text: &'static str, kind: &str) -> Vec<&'static str> {
    let begin = format!("```{kind}");
    let lines = text.lines().skip_while(|line| *line != begin).skip(1);
    lines.take_while(|line| *line != "```").collect()
}

#[test]
fn the_session_of_the_deployment_page_is_what_happens() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skip::skipped("docs/deploy.md's session: curl is not installed");
    }
    let session = block(DEPLOY, "console");
    let (commands, said): (Vec<&str>, Vec<&str>) = session.iter().partition(|line| line.starts_with("$ "));
    let port = ports::free_port().to_string();
    let script: Vec<String> = commands.iter().map(|line| line[2..].replace("8000", &port)).collect();
    let script = format!("set -m\n{}\n", script.join("\n"))
        .replace("pounce demo", &format!("pounce demo --port {port}"));
    let directory = tempfile::tempdir().unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(directory.path())
        .env("PATH", format!("{}:{path}", binary::pounce().parent().unwrap_or(Path::new("/")).display()))
        .output()
        .unwrap();
    let seen = String::from_utf8_lossy(&output.stdout);
    // Two answers without a line end may share a line.
    let flat = |text: &str| text.replace('\n', "");
    assert_eq!(flat(&seen), flat(&said.concat()), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_kubernetes_example_keeps_its_own_rule() {
    let yaml = block(DEPLOY, "yaml").join("\n");
    let number_after = |key: &str| -> u64 {
        let rest = yaml.split_once(key).unwrap_or_else(|| panic!("{key} is gone")).1;
        rest.chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .unwrap()
    };
    let needed = number_after("--drain-delay") + number_after("--shutdown-timeout") + 1;
    assert!(number_after("terminationGracePeriodSeconds:") >= needed);
}
