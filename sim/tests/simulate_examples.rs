//! The `simulate` command on the example deployments, with fixed seeds.

use sim::simulate::{Answer, answer};

/// Runs the command as if `name` had this content.
fn on(name: &str, content: &str, flags: &str) -> Answer {
    let args: Vec<String> =
        std::iter::once(name).chain(flags.split_whitespace()).map(str::to_owned).collect();
    answer(&args, |_| Ok(content.to_owned()))
}

/// The report on an example of docs/examples.
fn example(name: &str, flags: &str) -> Answer {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/").to_owned() + name;
    let content = std::fs::read_to_string(&path).expect("the example is there");
    on(name, &content, &format!("--rollouts 200 {flags}"))
}

/// An example with one piece of its text replaced.
fn changed(name: &str, from: &str, to: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/").to_owned() + name;
    let content = std::fs::read_to_string(&path).expect("the example is there");
    assert!(content.contains(from), "{name} has {from:?}");
    content.replace(from, to)
}

/// A report without what moves with every change of the machines: figures that chance made, and the timeline.
fn settled(report: &str) -> String {
    let mut sections = Vec::new();
    for section in report.split("\n\n") {
        let head = section.lines().next().unwrap_or_default();
        let by_chance = ["simulated rollouts", "The worst rollout", "Which settings matter"];
        if let Some(what) = by_chance.iter().find(|what| head.contains(**what)) {
            sections.push(format!("[{what}]"));
        } else {
            let lines = section.lines().filter(|line| !line.contains("rollouts with them"));
            sections.push(lines.collect::<Vec<_>>().join("\n"));
        }
    }
    sections.join("\n\n")
}

const KNOWN: &str = "--request-duration 10s --propagation 5s --balancer l7 --balancer-idle 60s";

#[test]
fn a_safe_deployment_is_proven_and_drops_nothing() {
    let answer = example("safe.yaml", &format!("{KNOWN} --max-dropped 0"));
    insta::assert_snapshot!("safe", settled(&answer.stdout));
    assert!(answer.stdout.contains("worst 0, mean 0.000"), "{}", answer.stdout);
    assert_eq!((answer.code, answer.stderr.as_str()), (0, ""));
}

#[test]
fn a_risky_deployment_is_told_what_to_change() {
    let answer = example("risky.yaml", &format!("{KNOWN} --max-dropped 0"));
    insta::assert_snapshot!("risky", settled(&answer.stdout));
    assert_eq!(answer.code, 1, "{}", answer.stderr);
    for part in [
        "  refused-503-while-draining\n",
        "The worst rollout (seed ",
        "SIGTERM to pod-",
        "\n  drain_delay 0 s -> 10 s ",
        "\n  200 rollouts with them: 0 dropped",
    ] {
        assert!(answer.stdout.contains(part), "{part:?} in\n{}", answer.stdout);
    }
}

#[test]
fn an_unknown_that_matters_is_asked_for_and_not_guessed() {
    let answer = example("hook.yaml", "");
    insta::assert_snapshot!("hook", answer.stderr);
    assert_eq!((answer.code, answer.stdout.as_str()), (2, ""));
}

#[test]
fn the_answer_to_every_question_makes_it_go_on() {
    let answer = example("hook.yaml", &format!("{KNOWN} --pre-stop 12s --set shutdown_timeout=15s"));
    assert_eq!((answer.code, answer.stderr.as_str()), (0, ""));
    assert!(answer.stdout.contains("pre_stop             12 s"), "{}", answer.stdout);
}

#[test]
fn a_restart_of_a_unit_leaves_a_gap_and_a_reload_does_not() {
    let restart = example("pounce.service", "--request-duration 2s --balancer l7");
    insta::assert_snapshot!("unit", settled(&restart.stdout));
    let reload =
        example("pounce.service", "--request-duration 2s --balancer l7 --deploy reload --max-dropped 1");
    assert_eq!(reload.code, 0, "{}", reload.stdout);
}

#[test]
fn a_task_definition_is_read() {
    let answer = example(
        "ecs.json",
        "--replicas 2 --request-duration 2s --propagation 10s --balancer l7 --pre-stop 30s",
    );
    insta::assert_snapshot!("ecs", settled(&answer.stdout));
}

#[test]
fn the_json_report_says_the_same() {
    let answer = example("risky.yaml", &format!("{KNOWN} --json --max-dropped 3"));
    let report: serde_json::Value = serde_json::from_str(&answer.stdout).expect("it is JSON");
    assert_eq!(report["exceeded"], true);
    assert_eq!(report["result"]["rollouts"], 200);
    assert!(report["result"]["worst"].as_u64() > Some(3));
    assert_eq!(report["remedy"]["result"]["dropped"], 0);
    assert_eq!(answer.code, 1);
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let report = || example("risky.yaml", &format!("{KNOWN} --seed 0x7")).stdout;
    assert_eq!(report(), report());
}

#[test]
fn what_the_command_advises_is_safe_by_its_own_measure() {
    let wrong =
        changed("risky.yaml", "--keep-alive-timeout=30s", "--keep-alive-timeout=61s --drain-delay=6s")
            .replace(
                "\"--keep-alive-timeout=61s --drain-delay=6s\"",
                "\"--keep-alive-timeout=61s\", \"--drain-delay=6s\"",
            );
    let right =
        wrong.replace("      containers:", "      terminationGracePeriodSeconds: 37\n      containers:");
    let answer = on("risky.yaml", &right, &format!("{KNOWN} --rollouts 500 --max-dropped 0"));
    assert_eq!(answer.code, 0, "{}", answer.stdout);
    assert!(!answer.stdout.contains("VIOLATED"), "{}", answer.stdout);
}

/// What is said about a bad file: everything that is wrong with one place of `safe.yaml`.
fn refused(from: &str, to: &str) -> String {
    let answer = on("safe.yaml", &changed("safe.yaml", from, to), KNOWN);
    assert_eq!((answer.code, answer.stdout.as_str()), (2, ""));
    answer.stderr
}

#[test]
fn bad_input_is_refused_with_line_field_and_what_is_allowed() {
    let cases = [
        ("maxSurge: 1", "maxSurge: lots"),
        ("maxSurge: 1", "maxSurge: 130%"),
        ("maxUnavailable: 0", "maxUnavailble: 0"),
        ("terminationGracePeriodSeconds: 40", "terminationGracePeriodSeconds: 40s"),
        ("terminationGracePeriodSeconds: 40", "terminationGracePeriodSecond: 40"),
        ("periodSeconds: 2", "periodSeconds: 0"),
        ("periodSeconds: 2", "period: 2"),
        ("kind: Deployment", "kind: StatefulSet"),
        ("replicas: 4", "replicas: 4\n  replicas: 5"),
        ("replicas: 4", "replicas: [4"),
        ("\"6s\"]", "\"soon\"]"),
        ("--drain-delay", "--drain-dealy"),
        ("value: \"20\"", "value: \"never\""),
        ("rollingUpdate:", "type: BlueGreen\n    rollingUpdate:"),
    ];
    let all: Vec<String> = cases.iter().map(|(from, to)| format!("{to:?}\n{}", refused(from, to))).collect();
    insta::assert_snapshot!("refused", all.join("\n"));
}

#[test]
fn bad_flags_are_refused_with_what_is_allowed() {
    let cases = [
        "--propagation soon",
        "--set drian_delay=3",
        "--set replicas=many",
        "--set drain_delay",
        "--balancer l8",
        "--rollouts 0",
        "--max-dropped none",
    ];
    let refuse =
        |flags: &&str| format!("{flags}\n{}", example("safe.yaml", &format!("{KNOWN} {flags}")).stderr);
    insta::assert_snapshot!("flags", cases.iter().map(refuse).collect::<Vec<_>>().join("\n"));
}

#[test]
fn percentages_are_rounded_as_kubernetes_rounds_them() {
    // 25 % of 10: 2.5 surges are 3, 2.5 unavailable are 2.
    let content = changed("safe.yaml", "maxSurge: 1", "maxSurge: 25%")
        .replace("maxUnavailable: 0", "maxUnavailable: 25%")
        .replace("replicas: 4", "replicas: 10");
    let answer = on("safe.yaml", &content, &format!("{KNOWN} --rollouts 1"));
    assert!(answer.stdout.contains("max_surge            3 "), "{}", answer.stdout);
    assert!(answer.stdout.contains("max_unavailable      2 "), "{}", answer.stdout);
}
