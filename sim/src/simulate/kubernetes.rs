//! A Kubernetes Deployment.

use std::time::Duration;

use super::command_line::{self, Variable, Word};
use super::facts::{Facts, Firmness, Value};
use super::problem::Problem;
use super::tree::{self, Node, Place};

const KUBERNETES: &str = "default of Kubernetes";

/// Kinds that make pods and are not rolled out as a Deployment is.
const OTHER_KINDS: &[&str] = &["StatefulSet", "DaemonSet", "ReplicaSet", "Pod", "Job", "CronJob"];

/// Reads the Deployment of a file. `name` and `container` choose where there are several; `command` is how pounce is
/// started where the file does not say it.
///
/// # Errors
/// What is wrong with the file, with the line.
pub fn read(
    file: &str,
    text: &str,
    name: Option<&str>,
    container: Option<&str>,
    command: Option<&str>,
    facts: &mut Facts,
) -> Result<(), Problem> {
    let documents = tree::read(file, text)?;
    let deployment = find(file, &documents, name)?;
    let spec = deployment.need("spec")?;
    let known = [
        "replicas",
        "selector",
        "template",
        "strategy",
        "minReadySeconds",
        "revisionHistoryLimit",
        "paused",
        "progressDeadlineSeconds",
    ];
    spec.keys(&known, true)?;
    let replicas = match spec.get("replicas") {
        Some(place) => {
            let replicas = place.whole("", 0)? as u32;
            facts.said("replicas", Value::Count(replicas), place.origin());
            replicas
        }
        None => {
            facts.set("replicas", Value::Count(1), KUBERNETES, Firmness::Default);
            1
        }
    };
    strategy(&spec, replicas, facts)?;
    seconds(&spec, "minReadySeconds", "min_ready", 0, facts)?;
    let pod = spec.need("template")?.need("spec")?;
    let known = [
        "terminationGracePeriodSeconds",
        "containers",
        "initContainers",
        "restartPolicy",
        "activeDeadlineSeconds",
        "nodeSelector",
        "serviceAccountName",
        "readinessGates",
    ];
    pod.keys(&known, false)?;
    seconds(&pod, "terminationGracePeriodSeconds", "grace", 30, facts)?;
    let container = choose(&pod.need("containers")?, container)?;
    let known = [
        "name",
        "image",
        "command",
        "args",
        "env",
        "envFrom",
        "ports",
        "lifecycle",
        "readinessProbe",
        "livenessProbe",
        "startupProbe",
        "resources",
        "volumeMounts",
        "workingDir",
        "securityContext",
    ];
    container.keys(&known, false)?;
    lifecycle(&container, facts)?;
    probe(&container, facts)?;
    settings(&container, command, facts)?;
    facts.otherwise("deploy", Value::Word("rolling"), KUBERNETES, Firmness::Default);
    facts.otherwise(
        "term_to_all",
        Value::Word("no"),
        "Kubernetes signals the first process",
        Firmness::Default,
    );
    Ok(())
}

fn find<'a>(file: &'a str, documents: &'a [Node], name: Option<&str>) -> Result<Place<'a>, Problem> {
    let mut places = Vec::new();
    for document in documents {
        let root = Place::root(file, document);
        match root.get("items").filter(|_| root.get("kind").is_some_and(|kind| kind.text() == Ok("List"))) {
            Some(items) => places.extend(items.list()?),
            None => places.push(root),
        }
    }
    let kind =
        |place: &Place<'_>| place.get("kind").and_then(|kind| kind.text().ok()).unwrap_or("").to_owned();
    let named = |place: &Place<'_>| {
        let found = place.get("metadata").and_then(|m| m.get("name"));
        found.and_then(|name| name.text().ok()).unwrap_or("").to_owned()
    };
    let found: Vec<&Place<'_>> = places
        .iter()
        .filter(|place| kind(place) == "Deployment" && name.is_none_or(|name| named(place) == name))
        .collect();
    match found[..] {
        [one] => Ok(one.clone()),
        [] => {
            let kinds: Vec<String> = places.iter().map(kind).filter(|kind| !kind.is_empty()).collect();
            let line = places.first().map_or(1, |place| place.node.line);
            let mut what = match name {
                Some(name) => format!("there is no Deployment named {name}"),
                None => "there is no Deployment in it".to_owned(),
            };
            if let Some(other) = kinds.iter().find(|kind| OTHER_KINDS.contains(&kind.as_str())) {
                what += &format!("; a {other} is not rolled out as a Deployment is, and is not simulated");
            } else if !kinds.is_empty() {
                what += &format!("; it has: {}", kinds.join(", "));
            } else {
                what += "; nothing in it has a `kind`";
            }
            Err(Problem::at(file, line, what))
        }
        _ => {
            let names: Vec<String> = found.iter().map(|place| named(place)).collect();
            Err(Problem(format!(
                "{file}: it has several Deployments; choose one with --name: {}",
                names.join(", ")
            )))
        }
    }
}

fn seconds(
    place: &Place<'_>,
    field: &str,
    fact: &'static str,
    otherwise: u64,
    facts: &mut Facts,
) -> Result<(), Problem> {
    match place.get(field) {
        Some(place) => {
            let seconds = place.whole(" of seconds", 0)?;
            facts.said(fact, Value::Time(Duration::from_secs(seconds)), place.origin());
        }
        None => facts.set(fact, Value::Time(Duration::from_secs(otherwise)), KUBERNETES, Firmness::Default),
    }
    Ok(())
}

fn strategy(spec: &Place<'_>, replicas: u32, facts: &mut Facts) -> Result<(), Problem> {
    let strategy = spec.get("strategy");
    let mut rolling = None;
    if let Some(strategy) = &strategy {
        strategy.keys(&["type", "rollingUpdate"], true)?;
        if let Some(kind) = strategy.get("type") {
            match kind.text()? {
                "RollingUpdate" => facts.said("deploy", Value::Word("rolling"), kind.origin()),
                "Recreate" => facts.said("deploy", Value::Word("recreate"), kind.origin()),
                other => {
                    return Err(kind.problem(format!("must be RollingUpdate or Recreate; got {other:?}")));
                }
            }
        }
        rolling = strategy.get("rollingUpdate");
    }
    if let Some(rolling) = &rolling {
        rolling.keys(&["maxSurge", "maxUnavailable"], true)?;
    }
    let mut both = [("maxSurge", "max_surge", true, 0), ("maxUnavailable", "max_unavailable", false, 0)];
    let mut origins = Vec::new();
    for (field, _, round_up, value) in &mut both {
        let place = rolling.as_ref().and_then(|rolling| rolling.get(field));
        *value = match &place {
            Some(place) => amount(place, replicas, *round_up)?,
            None => percent(25, replicas, *round_up),
        };
        let rounding = if *round_up { "up" } else { "down" };
        origins.push(match &place {
            Some(place) => (place.origin(), Firmness::Said),
            None => (format!("{KUBERNETES}: 25%, rounded {rounding}"), Firmness::Default),
        });
    }
    if both.iter().all(|(.., value)| *value == 0) {
        // The API server refuses two zeros that were written; two that were rounded become one unavailable.
        let written = rolling.as_ref().and_then(|rolling| rolling.get("maxUnavailable"));
        if let Some(place) = written.filter(|place| place.text() == Ok("0") || place.text() == Ok("0%")) {
            return Err(place.problem("must not be 0 while maxSurge is 0: the rollout could not move"));
        }
        both[1].3 = 1;
        origins[1].0 += ", and at least 1 of the two";
    }
    for ((_, fact, _, value), (origin, firmness)) in both.into_iter().zip(origins) {
        facts.set(fact, Value::Count(value), origin, firmness);
    }
    Ok(())
}

fn percent(percent: u64, replicas: u32, round_up: bool) -> u32 {
    let product = percent * u64::from(replicas);
    (if round_up { product.div_ceil(100) } else { product / 100 }) as u32
}

fn amount(place: &Place<'_>, replicas: u32, round_up: bool) -> Result<u32, Problem> {
    if let Ok(text) = place.text()
        && let Some(number) = text.strip_suffix('%')
    {
        let value = number.parse().ok().filter(|n: &u64| *n <= 100);
        let value =
            value.ok_or_else(|| place.problem("must be from 0% to 100%, or a whole number of pods"))?;
        return Ok(percent(value, replicas, round_up));
    }
    Ok(place.whole(" of pods, or a percentage", 0)? as u32)
}

fn choose<'a>(containers: &Place<'a>, wanted: Option<&str>) -> Result<Place<'a>, Problem> {
    let all = containers.list()?;
    let name = |place: &Place<'_>| {
        place.get("name").and_then(|name| name.text().ok()).unwrap_or("(no name)").to_owned()
    };
    let names = || all.iter().map(name).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = wanted {
        let found = all.iter().find(|place| name(place) == wanted);
        return found.cloned().ok_or_else(|| {
            containers.problem(format!("there is no container {wanted}; there are: {}", names()))
        });
    }
    let mut found = Vec::new();
    for place in &all {
        if command_line::arguments(&words(place)?).is_some() {
            found.push(place.clone());
        }
    }
    match (&all[..], &found[..]) {
        ([one], _) | (_, [one]) => Ok(one.clone()),
        ([], _) => Err(containers.problem("must have a container")),
        _ => Err(containers.problem(format!(
            "cannot tell which container runs pounce; choose with --container: {}",
            names()
        ))),
    }
}

/// The words of `command` and `args`.
fn words(container: &Place<'_>) -> Result<Vec<Word>, Problem> {
    let mut words = Vec::new();
    for field in ["command", "args"] {
        if let Some(list) = container.get(field) {
            for place in list.list()? {
                words.push(Word { text: place.text()?.to_owned(), origin: place.origin() });
            }
        }
    }
    Ok(words)
}

fn settings(container: &Place<'_>, command: Option<&str>, facts: &mut Facts) -> Result<(), Problem> {
    let mut variables = Vec::new();
    if let Some(list) = container.get("env") {
        for place in list.list()? {
            place.keys(&["name", "value", "valueFrom"], true)?;
            let name = place.need("name")?.text()?.to_owned();
            match place.get("value") {
                Some(value) => {
                    variables.push(Variable {
                        name,
                        value: value.text()?.to_owned(),
                        origin: value.origin(),
                    });
                }
                None if place.get("valueFrom").is_some() && fact_of(&name).is_some() => {
                    let what =
                        format!("{name} comes from elsewhere ({}): what is its value?", place.origin());
                    facts.ask("--set NAME=VALUE", fact_of(&name), what);
                }
                None => {}
            }
        }
    }
    if let Some(place) = container.get("envFrom") {
        facts.notes.push(format!("variables from envFrom ({}) are not seen", place.origin()));
    }
    let given = words(container)?;
    let arguments = match command {
        Some(command) => command_line::arguments(&command_line::split(command, "the flag --command")),
        None => command_line::arguments(&given).or_else(|| {
            // With `args` alone the image's entry point is in front of them.
            (container.get("command").is_none() && container.get("args").is_some()).then(|| given.clone())
        }),
    };
    match arguments {
        Some(arguments) => command_line::read(&arguments, &variables, facts),
        None => {
            let origin = container.origin();
            facts.ask(
                "--command",
                None,
                format!("how pounce is started is not in the file ({origin}); \"pounce main:app\" if the image gives no flags"),
            );
            Ok(())
        }
    }
}

/// The fact that a variable of pounce's sets, if the simulation needs it.
fn fact_of(variable: &str) -> Option<&'static str> {
    let name = match variable {
        "SHUTDOWN_TIMEOUT" => "shutdown_timeout".to_owned(),
        "WEB_CONCURRENCY" => "workers".to_owned(),
        other => other.strip_prefix("POUNCE_")?.to_lowercase(),
    };
    super::facts::key(&name).map(|key| key.name)
}

fn lifecycle(container: &Place<'_>, facts: &mut Facts) -> Result<(), Problem> {
    let none = || (Value::Time(Duration::ZERO), "there is no preStop hook");
    let Some(lifecycle) = container.get("lifecycle") else {
        let (value, origin) = none();
        facts.set("pre_stop", value, origin, Firmness::Default);
        return Ok(());
    };
    lifecycle.keys(&["preStop", "postStart", "stopSignal"], true)?;
    if let Some(signal) = lifecycle.get("stopSignal")
        && !matches!(signal.text()?, "SIGTERM" | "SIGINT")
    {
        return Err(signal.problem("pounce drains on SIGTERM and SIGINT only"));
    }
    let Some(hook) = lifecycle.get("preStop") else {
        let (value, origin) = none();
        facts.set("pre_stop", value, origin, Firmness::Default);
        return Ok(());
    };
    hook.keys(&["exec", "httpGet", "sleep", "tcpSocket"], true)?;
    if let Some(sleep) = hook.get("sleep") {
        sleep.keys(&["seconds"], true)?;
        let seconds = sleep.need("seconds")?;
        facts.said(
            "pre_stop",
            Value::Time(Duration::from_secs(seconds.whole(" of seconds", 0)?)),
            seconds.origin(),
        );
        return Ok(());
    }
    if let Some(exec) = hook.get("exec") {
        exec.keys(&["command"], true)?;
        let mut words = Vec::new();
        for place in exec.need("command")?.list()? {
            words.push(Word { text: place.text()?.to_owned(), origin: place.origin() });
        }
        if let Some((seconds, origin)) = sleeps(&words) {
            facts.said("pre_stop", Value::Time(seconds), origin);
            return Ok(());
        }
        let shown: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        facts.ask(
            "--pre-stop",
            Some("pre_stop"),
            format!("how long the preStop hook takes ({}: {})", exec.origin(), shown.join(" ")),
        );
        return Ok(());
    }
    facts.ask("--pre-stop", Some("pre_stop"), format!("how long the preStop hook takes ({})", hook.origin()));
    Ok(())
}

/// A command that only sleeps: `sleep 15`, also through a shell.
fn sleeps(words: &[Word]) -> Option<(Duration, String)> {
    let first = words.first()?;
    let base = first.text.rsplit('/').next()?;
    if matches!(base, "sh" | "bash" | "dash" | "ash") {
        let script = words.iter().skip(1).find(|word| !word.text.starts_with('-'))?;
        return sleeps(&command_line::split(&script.text, &script.origin));
    }
    let [_, time] = words else { return None };
    let seconds: f64 = time.text.trim_end_matches('s').parse().ok()?;
    let seconds = Duration::try_from_secs_f64(seconds).ok()?;
    (base == "sleep").then(|| (seconds, time.origin.clone()))
}

fn probe(container: &Place<'_>, facts: &mut Facts) -> Result<(), Problem> {
    let Some(probe) = container.get("readinessProbe") else {
        facts.set("readiness", Value::Word("none"), "there is no readinessProbe", Firmness::Default);
        return Ok(());
    };
    let known = [
        "httpGet",
        "tcpSocket",
        "exec",
        "grpc",
        "initialDelaySeconds",
        "periodSeconds",
        "timeoutSeconds",
        "successThreshold",
        "failureThreshold",
        "terminationGracePeriodSeconds",
    ];
    probe.keys(&known, true)?;
    let connects = probe.get("tcpSocket").is_some();
    facts.said("readiness", Value::Word(if connects { "connect" } else { "http" }), probe.origin());
    seconds(&probe, "periodSeconds", "readiness_period", 10, facts)?;
    if facts.time("readiness_period").is_zero() {
        return Err(probe.need("periodSeconds")?.problem("must be a whole number of seconds, 1 or more"));
    }
    seconds(&probe, "initialDelaySeconds", "readiness_delay", 0, facts)?;
    match probe.get("successThreshold") {
        Some(place) => {
            facts.said("readiness_successes", Value::Count(place.whole("", 1)? as u32), place.origin());
        }
        None => facts.set("readiness_successes", Value::Count(1), KUBERNETES, Firmness::Default),
    }
    Ok(())
}
