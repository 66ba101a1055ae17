//! A Kubernetes Deployment.

use std::time::Duration;

use super::command_line::{self, Variable, Word, fact_of};
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
    let stream = objects(file, &documents)?;
    let deployment = find(file, &stream, name)?;
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
    for field in ["terminationGracePeriodSeconds", "containers"] {
        if let Some(place) = spec.get(field) {
            return Err(place.problem("belongs in spec.template.spec"));
        }
    }
    spec.keys(&known, true)?;
    let replicas = match spec.get("replicas").or_else(|| autoscaled(&stream, &named(&deployment))) {
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
    settings(&container, &stream, command, facts)?;
    let labels = spec.need("template")?.get("metadata").and_then(|metadata| metadata.get("labels"));
    neighbours(&stream, labels.as_ref(), replicas, facts)?;
    facts.otherwise("deploy", Value::Word("rolling"), KUBERNETES, Firmness::Default);
    facts.otherwise(
        "term_to_all",
        Value::Word("no"),
        "Kubernetes signals the first process",
        Firmness::Default,
    );
    Ok(())
}

/// Everything in the file that is one: its documents, and what is in a `List`.
fn objects<'a>(file: &'a str, documents: &'a [Node]) -> Result<Vec<Place<'a>>, Problem> {
    let mut places = Vec::new();
    for document in documents.iter().filter(|document| !matches!(document.value, tree::Value::Null)) {
        let root = Place::root(file, document);
        match root.get("items").filter(|_| kind(&root) == "List") {
            Some(items) => places.extend(items.list()?),
            None => places.push(root),
        }
    }
    Ok(places)
}

fn kind(place: &Place<'_>) -> String {
    place.get("kind").and_then(|kind| kind.text().ok()).unwrap_or("").to_owned()
}

fn named(place: &Place<'_>) -> String {
    let found = place.get("metadata").and_then(|metadata| metadata.get("name"));
    found.and_then(|name| name.text().ok()).unwrap_or("").to_owned()
}

/// The fewest pods that an autoscaler of the file keeps for this Deployment.
fn autoscaled<'a>(stream: &[Place<'a>], name: &str) -> Option<Place<'a>> {
    let concerns = |place: &&Place<'a>| {
        let target = place.get("spec").and_then(|spec| spec.get("scaleTargetRef")?.get("name"));
        kind(place) == "HorizontalPodAutoscaler" && target.is_some_and(|target| target.text() == Ok(name))
    };
    stream.iter().find(concerns)?.get("spec")?.get("minReplicas")
}

/// What else is in the file and concerns rollouts: Services, what is in front of them, disruption budgets.
fn neighbours(
    stream: &[Place<'_>],
    labels: Option<&Place<'_>>,
    replicas: u32,
    facts: &mut Facts,
) -> Result<(), Problem> {
    let label = |key: &str| labels?.get(key)?.text().ok().map(str::to_owned);
    let concerns = |selector: Option<Place<'_>>| -> bool {
        let Some(selector) = selector else { return false };
        let tree::Value::Map(map) = &selector.node.value else { return false };
        map.iter().all(|(key, ..)| {
            let wanted = selector.get(key).and_then(|value| value.text().ok().map(str::to_owned));
            wanted.is_some() && wanted == label(key)
        })
    };
    for place in stream {
        let spec = place.get("spec");
        let field = |name: &str| spec.as_ref().and_then(|spec| spec.get(name));
        match &*kind(place) {
            "Service" if concerns(field("selector")) => {
                if let Some(kind) = field("type")
                    && kind.text() == Ok("LoadBalancer")
                {
                    let hint = format!(
                        "Service {} is a LoadBalancer ({}): l4, unless it is one for HTTP",
                        named(place),
                        kind.origin()
                    );
                    facts.balancer_hint.get_or_insert(hint);
                }
                if let Some(always) = field("publishNotReadyAddresses")
                    && always.text() == Ok("true")
                {
                    let origin = format!("publishNotReadyAddresses, {}", always.origin());
                    facts.said("readiness", Value::Word("none"), origin);
                }
            }
            kind @ ("Ingress" | "HTTPRoute" | "IngressRoute" | "VirtualService") => {
                let hint = format!(
                    "the file has an {kind} ({}): l7 if the requests come through it",
                    place.origin()
                );
                facts.balancer_hint = Some(hint);
            }
            "PodDisruptionBudget"
                if concerns(field("selector").and_then(|selector| selector.get("matchLabels"))) =>
            {
                let allowed = match (field("minAvailable"), field("maxUnavailable")) {
                    (Some(least), _) => replicas.saturating_sub(amount(&least, replicas, true)?),
                    (None, Some(most)) => amount(&most, replicas, true)?.min(replicas),
                    (None, None) => {
                        return Err(place.problem("spec: minAvailable or maxUnavailable is missing"));
                    }
                };
                let evictions = if allowed == 0 {
                    format!(
                        "of {replicas} pods it lets none be evicted, so that their nodes cannot be drained"
                    )
                } else {
                    format!("of {replicas} pods it lets {allowed} be evicted at a time")
                };
                facts.notes.push(format!(
                    "PodDisruptionBudget {} ({}) binds evictions, such as a node's drain, and no rollout; {evictions}",
                    named(place),
                    place.origin()
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn find<'a>(file: &str, places: &[Place<'a>], name: Option<&str>) -> Result<Place<'a>, Problem> {
    if places.is_empty() {
        return Err(Problem::at(file, 1, "the file is empty; it must have a Deployment in it".into()));
    }
    let found: Vec<&Place<'_>> = places
        .iter()
        .filter(|place| kind(place) == "Deployment" && name.is_none_or(|name| named(place) == name))
        .collect();
    match found[..] {
        [one] => Ok(one.clone()),
        [] => {
            let kinds: Vec<String> = places.iter().map(kind).filter(|kind| !kind.is_empty()).collect();
            let line = places.first().map_or(1, |place| place.node.line);
            let all: Vec<String> =
                places.iter().filter(|place| kind(place) == "Deployment").map(named).collect();
            if let (Some(name), false) = (name, all.is_empty()) {
                let there = all.join(", ");
                return Err(Problem(format!(
                    "{file}: there is no Deployment named {name}; there are: {there}"
                )));
            }
            let mut what = "there is no Deployment in it".to_owned();
            if let Some(other) = kinds.iter().find(|kind| OTHER_KINDS.contains(&kind.as_str())) {
                what += &format!("; a {other} is not rolled out as a Deployment is, and is not simulated");
            } else if kinds.iter().any(|kind| kind == "Kustomization") {
                what += "; it says how to make one: kubectl kustomize FOLDER | sim simulate -";
            } else if places.iter().any(|place| place.get("services").is_some()) {
                what += "; a compose file says nothing of rollouts";
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
                words.push(Word::new(place.string()?, place.origin()));
            }
        }
    }
    Ok(words)
}

/// Sets a variable; a later one of the same name takes its place.
fn put(variables: &mut Vec<Variable>, variable: Variable) {
    variables.retain(|other| other.name != variable.name);
    variables.push(variable);
}

/// The entries of a ConfigMap of the file.
fn config_map<'a>(stream: &[Place<'a>], name: &str) -> Option<Place<'a>> {
    let map = stream.iter().find(|place| kind(place) == "ConfigMap" && named(place) == name)?;
    Some(map.get("data").unwrap_or_else(|| map.clone()))
}

fn variables_from(
    container: &Place<'_>,
    stream: &[Place<'_>],
    facts: &mut Facts,
) -> Result<Vec<Variable>, Problem> {
    let mut variables = Vec::new();
    let sources = container.get("envFrom").map_or_else(|| Ok(Vec::new()), |list| list.list())?;
    for source in sources {
        source.keys(&["configMapRef", "secretRef", "prefix"], true)?;
        let prefix = match source.get("prefix") {
            Some(prefix) => prefix.text()?,
            None => "",
        };
        let (what, reference) = match (source.get("configMapRef"), source.get("secretRef")) {
            (Some(reference), _) => ("ConfigMap", reference),
            (None, Some(reference)) => ("Secret", reference),
            (None, None) => return Err(source.problem("configMapRef or secretRef is missing")),
        };
        let name = reference.need("name")?.text()?;
        match config_map(stream, name).filter(|_| what == "ConfigMap") {
            Some(data) => {
                let tree::Value::Map(entries) = &data.node.value else {
                    return Err(data.problem("must be a map of names to texts"));
                };
                for (key, ..) in entries {
                    let Some(value) = data.get(key) else { continue };
                    let (name, value, origin) = (format!("{prefix}{key}"), value.string(), value.origin());
                    put(&mut variables, Variable { name, value: value?.to_owned(), origin });
                }
            }
            None => facts.notes.push(format!(
                "the {what} {name} ({}) is not in the file: if it sets SHUTDOWN_TIMEOUT, WEB_CONCURRENCY or POUNCE_*, say so with --set",
                source.origin()
            )),
        }
    }
    let list = container.get("env").map_or_else(|| Ok(Vec::new()), |list| list.list())?;
    for place in list {
        place.keys(&["name", "value", "valueFrom"], true)?;
        let name = place.need("name")?.text()?.to_owned();
        if let Some(value) = place.get("value") {
            let (value, origin) = (value.string()?.to_owned(), value.origin());
            put(&mut variables, Variable { name, value, origin });
            continue;
        }
        let Some(from) = place.get("valueFrom") else { continue };
        let text = |reference: &Place<'_>, field: &str| Ok(reference.need(field)?.text()?.to_owned());
        let entry = match from.get("configMapKeyRef") {
            Some(reference) => {
                let (map, key) = (text(&reference, "name")?, text(&reference, "key")?);
                config_map(stream, &map).and_then(|data| data.get(&key))
            }
            None => None,
        };
        if let Some(value) = entry {
            let (value, origin) = (value.string()?.to_owned(), value.origin());
            put(&mut variables, Variable { name, value, origin });
        } else if let Some(fact) = fact_of(&name) {
            let what = format!("{name} comes from elsewhere ({}): what is its value?", place.origin());
            facts.ask("--set NAME=VALUE", Some(fact), what);
        }
    }
    Ok(variables)
}

fn settings(
    container: &Place<'_>,
    stream: &[Place<'_>],
    command: Option<&str>,
    facts: &mut Facts,
) -> Result<(), Problem> {
    let variables = variables_from(container, stream, facts)?;
    let given = words(container)?;
    if command.is_none() && command_line::behind_a_shell(&given) {
        facts.notes.push(format!(
            "pounce is started by a shell ({}) that stays its parent and keeps SIGTERM for itself: write `exec pounce`",
            container.origin()
        ));
    }
    if let Some(arguments) = command_line::spoken(command)? {
        return command_line::read(&arguments, &variables, facts);
    }
    if let Some(arguments) = command_line::arguments(&given) {
        return command_line::read(&arguments, &variables, facts);
    }
    // With `args` alone the image's entry point is in front of them: pounce, if they look like its arguments.
    let alone = container.get("command").is_none() && container.get("args").is_some();
    if alone && given.first().is_some_and(|word| word.text.starts_with('-') || word.text.contains(':')) {
        return command_line::read(&given, &variables, facts);
    }
    facts.ask("--command", None, command_line::unknown(&given, &container.origin()));
    Ok(())
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
            words.push(Word::new(place.string()?, place.origin()));
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
