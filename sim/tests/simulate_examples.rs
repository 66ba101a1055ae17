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

// ---- What people have in their folders -----------------------------------------------------------------------------

/// A Deployment with one container.
fn deployment(container: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: shop}}
spec:
  replicas: 3
  template:
    metadata: {{labels: {{app: shop}}}}
    spec:
      containers:
      - {container}
"
    )
}

const SHOP: &str =
    "{name: shop, image: x, command: [pounce, main:app], envFrom: [{configMapRef: {name: shop-env}}]}";

/// The whole report, with few rollouts.
fn reported(name: &str, content: &str, flags: &str) -> String {
    let answer = on(name, content, &format!("{KNOWN} --rollouts 5 {flags}"));
    assert_eq!((answer.code, answer.stderr.as_str()), (0, ""), "{content}");
    answer.stdout
}

/// What is said instead of a report.
fn instead(name: &str, content: &str, flags: &str) -> String {
    let answer = on(name, content, &format!("{KNOWN} {flags}"));
    assert_eq!((answer.code, answer.stdout.as_str()), (2, ""), "{content}");
    answer.stderr
}

#[track_caller]
fn has(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is not in\n{text}");
}

#[test]
fn a_config_map_of_the_same_file_sets_variables() {
    let maps = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: shop-env}
data:
  SHUTDOWN_TIMEOUT: \"25\"
  WEB_CONCURRENCY: \"3\"
";
    let report = reported("shop.yaml", &(deployment(SHOP) + maps), "");
    has(&report, "shutdown_timeout     25 s      shop.yaml:16 SHUTDOWN_TIMEOUT");
    has(&report, "workers              3         shop.yaml:17 WEB_CONCURRENCY");
    let one = "{name: shop, image: x, command: [pounce, main:app], env: [{name: SHUTDOWN_TIMEOUT, \
               valueFrom: {configMapKeyRef: {name: shop-env, key: SHUTDOWN_TIMEOUT}}}]}";
    has(&reported("shop.yaml", &(deployment(one) + maps), ""), "shutdown_timeout     25 s");
    has(&instead("shop.yaml", &deployment(one), ""), "SHUTDOWN_TIMEOUT comes from elsewhere (shop.yaml:10)");
}

#[test]
fn a_config_map_that_is_elsewhere_is_named() {
    has(
        &reported("shop.yaml", &deployment(SHOP), ""),
        "note: the ConfigMap shop-env (shop.yaml:10) is not in the file",
    );
}

#[test]
fn a_merge_key_brings_in_what_its_anchor_has() {
    let text = "x-common: &common\n  env: [{name: WEB_CONCURRENCY, value: \"2\"}]\n  image: a\n".to_owned()
        + &deployment("<<: *common\n        image: b\n        command: [pounce, main:app]");
    has(&reported("shop.yaml", &text, ""), "workers              2         shop.yaml:2 WEB_CONCURRENCY");
    has(&instead("shop.yaml", &deployment("<<: 3"), ""), "shop.yaml:10: <<: must be an alias of a map");
}

#[test]
fn a_disruption_budget_is_told_apart_from_a_rollout() {
    let budget = |spec: &str| {
        let text = deployment("{name: shop, image: x, command: [pounce, main:app]}");
        text + "---\nkind: PodDisruptionBudget\nmetadata: {name: keep}\nspec:\n  "
            + spec
            + "\n  selector: {matchLabels: {app: shop}}\n"
    };
    let none = reported("shop.yaml", &budget("minAvailable: 100%"), "");
    has(
        &none,
        "PodDisruptionBudget keep (shop.yaml:12) binds evictions, such as a node's drain, and no rollout",
    );
    has(&none, "of 3 pods it lets none be evicted");
    has(&reported("shop.yaml", &budget("maxUnavailable: 1"), ""), "of 3 pods it lets 1 be evicted at a time");
    has(&instead("shop.yaml", &budget("minAvailable: all"), ""), "shop.yaml:15: spec.minAvailable: must be");
}

#[test]
fn what_stands_in_front_of_the_pods_helps_to_answer_the_question_for_the_balancer() {
    let text = deployment("{name: shop, image: x, command: [pounce, main:app]}")
        + "---\nkind: Ingress\nmetadata: {name: shop}\n";
    let answer = on("shop.yaml", &text, "--request-duration 1s --propagation 1s");
    has(&answer.stderr, "the file has an Ingress (shop.yaml:12): l7 if the requests come through it");
}

#[test]
fn a_service_that_publishes_what_is_not_ready_makes_the_probe_meaningless() {
    let text = deployment(
        "{name: shop, image: x, command: [pounce, main:app], readinessProbe: {tcpSocket: {port: 1}}}",
    ) + "---\nkind: Service\nspec:\n  publishNotReadyAddresses: true\n  selector: {app: shop}\n";
    has(
        &reported("shop.yaml", &text, ""),
        "readiness            none      publishNotReadyAddresses, shop.yaml:14",
    );
}

#[test]
fn a_settings_file_in_the_container_is_asked_for_and_taken() {
    let copy = std::env::temp_dir().join(format!("sim-simulate-{}.toml", std::process::id()));
    std::fs::write(&copy, "workers = 5\n").expect("there is room");
    let flag = format!("--config {}", copy.display());
    for container in [
        "{name: shop, image: x, command: [pounce, main:app, --config, /etc/p.toml]}",
        "{name: shop, image: x, command: [pounce, main:app, --config=/etc/p.toml]}",
        "{name: shop, image: x, command: [pounce, -c, /etc/p.toml, main:app]}",
        "{name: shop, image: x, command: [pounce, main:app], env: [{name: POUNCE_CONFIG, value: /etc/p.toml}]}",
    ] {
        let text = deployment(container);
        has(
            &instead("shop.yaml", &text, ""),
            "--config FILE            pounce reads settings from /etc/p.toml (shop.yaml:10)",
        );
        has(&reported("shop.yaml", &text, &flag), "workers              5 ");
    }
    std::fs::remove_file(&copy).expect("it was written");
}

#[test]
fn another_server_is_called_by_its_name() {
    for (command, name) in [
        ("[gunicorn, -k, uvicorn.workers.UvicornWorker, main:app]", "gunicorn"),
        ("[python, -m, uvicorn, main:app]", "uvicorn"),
        ("[sh, -c, \"exec hypercorn main:app\"]", "hypercorn"),
    ] {
        let text = deployment(&format!("{{name: shop, image: x, command: {command}}}"));
        has(&instead("shop.yaml", &text, ""), &format!("{name} is started (shop.yaml:10)"));
        has(&instead("shop.yaml", &text, "--command uvicorn"), "--command \"uvicorn\": must start pounce");
    }
}

#[test]
fn a_shell_puts_in_the_variables_that_the_file_has() {
    let shop = |script: &str, env: &str| {
        deployment(&format!("{{name: shop, image: x, command: [sh, -c, '{script}'], env: [{env}]}}"))
    };
    let three = "{name: N, value: \"3\"}";
    for script in
        ["pounce main:app --workers $N", "pounce main:app --workers=${N}", "pounce main:app -w ${M:-3}"]
    {
        has(&reported("shop.yaml", &shop(script, three), ""), "workers              3 ");
    }
    let unknown = instead("shop.yaml", &shop("pounce main:app --workers $M", three), "");
    has(&unknown, "shop.yaml:10: $M: the value of $M is not in the file");
}

#[test]
fn a_shell_that_stays_in_front_of_pounce_is_pointed_out() {
    let shop = |script: &str| deployment(&format!("{{name: shop, image: x, command: [sh, -c, '{script}']}}"));
    let note = "that stays its parent and keeps SIGTERM for itself: write `exec pounce`";
    has(&reported("shop.yaml", &shop("migrate && pounce main:app"), ""), note);
    for script in ["pounce main:app", "migrate && exec pounce main:app"] {
        let report = reported("shop.yaml", &shop(script), "");
        assert!(!report.contains(note), "{report}");
    }
}

#[test]
fn files_that_are_not_what_they_should_be_explain_themselves() {
    let shop = deployment("{name: shop, image: x, command: [pounce, main:app]}");
    let refused = [
        (String::new(), "shop.yaml:1: the file is empty"),
        ("---\n---\n".to_owned(), "the file is empty"),
        (shop.replace("  replicas", "\treplicas"), "shop.yaml:5: no YAML: tabs disallowed"),
        (shop.replace("  replicas", "\treplicas"), "indent with blanks"),
        (shop.replace("replicas: 3", "replicas: \"3\""), "got the text \"3\": leave the quotes out"),
        (
            shop.replace("main:app]", "main:app, --workers, 2]"),
            "command[3]: must be text, in quotes: \"2\"; got 2",
        ),
        (
            shop.replace("main:app]", "main:app], env: [{name: A, value: yes}]"),
            "env[0].value: must be text, in quotes: \"yes\"; got yes",
        ),
        (shop.replace("replicas: 3", "replicas: ${N}"), "got ${N}: fill in the variables first"),
        (shop.replace("shop}", "{{ .Values.name }}}"), "it looks like a template; render it first"),
        (
            shop.replace("replicas: 3", "terminationGracePeriodSeconds: 9"),
            "shop.yaml:5: spec.terminationGracePeriodSeconds: belongs in spec.template.spec",
        ),
        (shop.replace("Deployment", "Kustomization"), "kubectl kustomize FOLDER | sim simulate -"),
        ("services: {web: {image: x}}".to_owned(), "a compose file says nothing of rollouts"),
        (shop.replace("Deployment", "StatefulSet"), "a StatefulSet is not rolled out as a Deployment is"),
    ];
    for (text, part) in &refused {
        has(&instead("shop.yaml", text, ""), part);
    }
}

#[test]
fn a_name_that_is_not_there_gets_those_that_are() {
    let text = deployment("{name: shop, image: x, command: [pounce, main:app]}");
    has(&instead("shop.yaml", &text, "--name shpo"), "there is no Deployment named shpo; there are: shop");
    has(&instead("shop.json", "{\"kind\": ]", ""), "shop.json:1: no JSON");
}

#[test]
fn an_autoscaler_says_how_many_there_are_at_least() {
    let text = deployment("{name: shop, image: x, command: [pounce, main:app]}")
        .replace("  replicas: 3\n", "")
        + "---\nkind: HorizontalPodAutoscaler\nspec: {minReplicas: 2, scaleTargetRef: {kind: Deployment, name: shop}}\n";
    has(&reported("shop.yaml", &text, ""), "replicas             2         shop.yaml:12");
}

#[test]
fn what_comes_by_a_pipe_is_known_by_its_content() {
    let read = |content: &str| {
        let answer = on("-", content, &format!("{KNOWN} --replicas 2 --rollouts 5"));
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        answer.stdout
    };
    has(&read(&deployment("{name: shop, image: x, command: [pounce, main:app]}")), "stdin: rolling of");
    has(&read("[Service]\nExecStart=pounce main:app\n"), "default of systemd");
    let task = r#"{"containerDefinitions": [{"name": "shop", "command": ["pounce", "main:app"]}]}"#;
    has(&read(task), "default of ECS");
}

const UNIT: &str =
    "[Service]\nExecStart=/usr/bin/pounce main:app\nTimeoutStopSec=45\nEnvironment=WEB_CONCURRENCY=2\n";

#[test]
fn a_drop_in_wins_over_its_unit_and_is_named_as_the_origin() {
    let drop_in = "# /etc/systemd/system/shop.service.d/10-more.conf
[Service]
Environment=WEB_CONCURRENCY=4
TimeoutStopSec=
ExecStart=
ExecStart=/opt/pounce main:app --drain-delay 3s
";
    let report = reported("shop.service", &format!("{UNIT}{drop_in}"), "");
    has(&report, "workers              4         10-more.conf:2 WEB_CONCURRENCY");
    has(&report, "drain_delay          3 s       10-more.conf:5 --drain-delay");
    has(&report, "grace                90 s      default of systemd");
    let wrong = instead("shop.service", &format!("{UNIT}{drop_in}TimeoutStopSec=soon\n"), "");
    has(&wrong, "10-more.conf:6: TimeoutStopSec: must be a time span");
}

#[test]
fn an_endless_stop_says_what_it_is_taken_for() {
    let report = reported("shop.service", &UNIT.replace("45", "infinity"), "");
    has(&report, "shop.service:3: TimeoutStopSec=infinity, taken as a day");
}

#[test]
fn socket_activation_is_simulated() {
    let flags = "--rollouts 100 --set boot=1s";
    let without = reported("shop.service", UNIT, flags);
    let with = reported("shop.service", &format!("{UNIT}Sockets=shop.socket\n"), flags);
    has(&with, "socket_activation    yes       Sockets, shop.service:5");
    // Nobody is refused between the two servers, and whoever waits for the second is answered in the end.
    has(&without, "refused-before-listen");
    for refused in ["refused-before-listen", "refused-after-listener-close"] {
        assert!(!with.contains(refused), "{with}");
    }
    assert!(!with.contains("BUG"), "{with}");
}

const TASK: &str = r#"{"name": "shop", "command": ["pounce", "main:app"], "stopTimeout": 60, MORE},
    {"name": "envoy"}"#;

fn task(more: &str) -> String {
    format!("{{\"containerDefinitions\": [{}]}}", TASK.replace("MORE", more))
}

#[test]
fn a_secret_of_a_task_is_asked_for() {
    let text = task(r#""secrets": [{"name": "SHUTDOWN_TIMEOUT", "valueFrom": "arn"}]"#);
    has(&instead("task.json", &text, "--replicas 2"), "SHUTDOWN_TIMEOUT is a secret (task.json:1)");
    reported("task.json", &text, "--replicas 2 --set shutdown_timeout=20s");
    let number = task(r#""environment": [{"name": "WEB_CONCURRENCY", "value": 2}]"#);
    has(&instead("task.json", &number, "--replicas 2"), "environment[0].value: must be text, in quotes");
}

#[test]
fn what_aws_says_of_the_service_and_the_target_group_is_read() {
    let whole = format!(
        r#"{{"taskDefinition": {},
"services": [{{"desiredCount": 4, "deploymentConfiguration": {{"maximumPercent": 150, "minimumHealthyPercent": 75}}}}],
"TargetGroups": [{{"Protocol": "HTTP", "HealthCheckIntervalSeconds": 15, "HealthyThresholdCount": 3}}],
"Attributes": [{{"Key": "deregistration_delay.timeout_seconds", "Value": "45"}}]}}"#,
        task(r#""essential": true"#)
    );
    let report = reported("all.json", &whole, "");
    for part in [
        "replicas             4         all.json:3",
        "max_surge            2         all.json:3",
        "max_unavailable      1         all.json:3",
        "pre_stop             45 s      all.json:5",
        "readiness_period     15 s      all.json:4",
        "readiness_successes  3         all.json:4",
    ] {
        has(&report, part);
    }
    let stuck = whole.replace("150", "100").replace("75", "100");
    has(&instead("all.json", &stuck, ""), "nothing may be started and nothing stopped");
    let long = whole.replace("\"45\"", "\"4500\"");
    has(
        &instead("all.json", &long, ""),
        "Attributes[0].Value: must be a whole number of seconds, from 0 to 3600",
    );
}
