//! A task definition of Amazon ECS, behind a target group.

use std::time::Duration;

use super::command_line::{self, Variable, Word, fact_of};
use super::facts::{Facts, Firmness, Value};
use super::problem::Problem;
use super::tree::{self, Place};

const ECS: &str = "default of ECS";
const ELB: &str = "default of Elastic Load Balancing";

/// Reads a task definition. What the service and the target group say is not in it; it comes by flags, or from the
/// answers of `describe-services`, `describe-target-groups` and `describe-target-group-attributes` in the same JSON object.
///
/// # Errors
/// What is wrong with the file, with the line.
pub fn read(
    file: &str,
    text: &str,
    container: Option<&str>,
    command: Option<&str>,
    facts: &mut Facts,
) -> Result<(), Problem> {
    let documents = tree::read(file, text)?;
    let [document] = &documents[..] else {
        return Err(Problem::at(file, 1, "must be one JSON object".into()));
    };
    let whole = Place::root(file, document);
    let root = whole.get("taskDefinition").unwrap_or_else(|| whole.clone());
    root.keys(&["containerDefinitions", "family", "networkMode", "cpu", "memory", "volumes"], false)?;
    let containers = root.need("containerDefinitions")?.list()?;
    let name = |place: &Place<'_>| {
        place.get("name").and_then(|name| name.text().ok()).unwrap_or("(no name)").to_owned()
    };
    let mut found = Vec::new();
    for place in &containers {
        place.keys(
            &[
                "name",
                "image",
                "command",
                "entryPoint",
                "environment",
                "stopTimeout",
                "healthCheck",
                "essential",
            ],
            false,
        )?;
        let wanted = match container {
            Some(wanted) => name(place) == wanted,
            None => containers.len() == 1 || command_line::arguments(&words(place)?).is_some(),
        };
        if wanted {
            found.push(place);
        }
    }
    let [container] = found[..] else {
        let names: Vec<String> = containers.iter().map(name).collect();
        return Err(root.problem(format!(
            "cannot tell which container runs pounce; choose with --container: {}",
            names.join(", ")
        )));
    };
    match container.get("stopTimeout") {
        Some(place) => {
            let seconds = place.whole(" of seconds", 0)?;
            if seconds > 120 {
                facts.notes.push(format!("{}: Fargate takes 120 s at most as stopTimeout", place.origin()));
            }
            facts.said("grace", Value::Time(Duration::from_secs(seconds)), place.origin());
        }
        None => facts.set("grace", Value::Time(Duration::from_secs(30)), ECS, Firmness::Default),
    }
    let mut variables = Vec::new();
    for place in container.get("environment").map_or_else(|| Ok(Vec::new()), |list| list.list())? {
        let value = place.need("value")?;
        variables.push(Variable {
            name: place.need("name")?.text()?.to_owned(),
            value: value.string()?.to_owned(),
            origin: value.origin(),
        });
    }
    for place in container.get("secrets").map_or_else(|| Ok(Vec::new()), |list| list.list())? {
        let name = place.need("name")?.text()?;
        if let Some(fact) = fact_of(name) {
            let what = format!("{name} is a secret ({}): what is its value?", place.origin());
            facts.ask("--set NAME=VALUE", Some(fact), what);
        }
    }
    if let Some(place) = container.get("environmentFiles") {
        facts.notes.push(format!("variables from environmentFiles ({}) are not seen", place.origin()));
    }
    if let Some(place) = container.get("healthCheck") {
        facts.notes.push(format!(
            "healthCheck ({}) restarts tasks that fail it; what gives a task its traffic is the target group's check",
            place.origin()
        ));
    }
    let given = words(container)?;
    let spoken = command_line::spoken(command)?;
    match spoken.or_else(|| command_line::arguments(&given)) {
        Some(arguments) => command_line::read(&arguments, &variables, facts)?,
        None => facts.ask("--command", None, command_line::unknown(&given, &container.origin())),
    }
    service(&whole, facts)?;
    target_group(&whole, facts)?;
    if !facts.has("replicas") {
        facts.ask(
            "--replicas COUNT",
            Some("replicas"),
            "the service's desiredCount, which is not in a task definition",
        );
    }
    let replicas = facts.count("replicas").max(1);
    facts.otherwise("deploy", Value::Word("rolling"), ECS, Firmness::Default);
    facts.otherwise(
        "max_surge",
        Value::Count(replicas),
        "default of ECS: maximumPercent 200",
        Firmness::Default,
    );
    facts.otherwise(
        "max_unavailable",
        Value::Count(0),
        "default of ECS: minimumHealthyPercent 100",
        Firmness::Default,
    );
    facts.otherwise("min_ready", Value::Time(Duration::ZERO), ECS, Firmness::Default);
    facts.otherwise(
        "pre_stop",
        Value::Time(Duration::from_secs(300)),
        &format!("{ELB}: deregistration delay"),
        Firmness::Default,
    );
    facts.otherwise("readiness", Value::Word("http"), ELB, Firmness::Default);
    facts.otherwise("readiness_period", Value::Time(Duration::from_secs(30)), ELB, Firmness::Default);
    facts.otherwise("readiness_delay", Value::Time(Duration::ZERO), ELB, Firmness::Default);
    facts.otherwise("readiness_successes", Value::Count(5), ELB, Firmness::Default);
    facts.otherwise("term_to_all", Value::Word("no"), "ECS signals the first process", Firmness::Default);
    Ok(())
}

/// What `aws ecs describe-services` says.
fn service(whole: &Place<'_>, facts: &mut Facts) -> Result<(), Problem> {
    let Some(service) =
        whole.get("services").map(|list| list.list()).transpose()?.and_then(|list| list.first().cloned())
    else {
        return Ok(());
    };
    if let Some(count) = service.get("desiredCount")
        && !facts.has("replicas")
    {
        facts.said("replicas", Value::Count(count.whole(" of tasks", 0)? as u32), count.origin());
    }
    let Some(limits) = service.get("deploymentConfiguration") else { return Ok(()) };
    let replicas = u64::from(facts.count("replicas"));
    if let Some(most) = limits.get("maximumPercent") {
        let tasks = most.whole(" of percent", 0)? * replicas / 100;
        facts.said("max_surge", Value::Count(tasks.saturating_sub(replicas) as u32), most.origin());
    }
    if let Some(least) = limits.get("minimumHealthyPercent") {
        let tasks = (least.whole(" of percent", 0)? * replicas).div_ceil(100);
        facts.said("max_unavailable", Value::Count(replicas.saturating_sub(tasks) as u32), least.origin());
    }
    if facts.count("max_surge") == 0
        && facts.count("max_unavailable") == 0
        && facts.has("max_surge")
        && facts.has("max_unavailable")
    {
        return Err(limits.problem(format!(
            "with {replicas} task(s) nothing may be started and nothing stopped: the deployment could not move"
        )));
    }
    Ok(())
}

/// What `aws elbv2 describe-target-groups` and `describe-target-group-attributes` say.
fn target_group(whole: &Place<'_>, facts: &mut Facts) -> Result<(), Problem> {
    let groups = whole.get("TargetGroups").map(|list| list.list()).transpose()?;
    if let Some(group) = groups.and_then(|list| list.first().cloned()) {
        if let Some(period) = group.get("HealthCheckIntervalSeconds") {
            let time = Duration::from_secs(period.whole(" of seconds", 1)?);
            facts.said("readiness_period", Value::Time(time), period.origin());
        }
        if let Some(count) = group.get("HealthyThresholdCount") {
            facts.said("readiness_successes", Value::Count(count.whole("", 1)? as u32), count.origin());
        }
        if let Some(protocol) = group.get("Protocol") {
            facts.balancer_hint = Some(match protocol.text()? {
                "TCP" | "TLS" | "UDP" => {
                    format!("the target group is a network balancer's ({}): l4", protocol.origin())
                }
                _ => format!("the target group is an application balancer's ({}): l7", protocol.origin()),
            });
        }
    }
    for attribute in whole.get("Attributes").map_or_else(|| Ok(Vec::new()), |list| list.list())? {
        if attribute.need("Key")?.text()? == "deregistration_delay.timeout_seconds" {
            let value = attribute.need("Value")?;
            let seconds: Option<u64> = value.text()?.parse().ok().filter(|seconds| *seconds <= 3600);
            let seconds =
                seconds.ok_or_else(|| value.problem("must be a whole number of seconds, from 0 to 3600"))?;
            facts.said("pre_stop", Value::Time(Duration::from_secs(seconds)), value.origin());
        }
    }
    Ok(())
}

fn words(container: &Place<'_>) -> Result<Vec<Word>, Problem> {
    let mut words = Vec::new();
    for field in ["entryPoint", "command"] {
        if let Some(list) = container.get(field) {
            for place in list.list()? {
                words.push(Word::new(place.string()?, place.origin()));
            }
        }
    }
    Ok(words)
}
