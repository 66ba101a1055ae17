//! A task definition of Amazon ECS, behind a target group.

use std::time::Duration;

use super::command_line::{self, Variable, Word};
use super::facts::{Facts, Firmness, Value};
use super::problem::Problem;
use super::tree::{self, Place};

const ECS: &str = "default of ECS";
const ELB: &str = "default of Elastic Load Balancing";

/// Reads a task definition. What the service and the target group say is not in it and comes by flags.
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
    let root = Place::root(file, document);
    let root = root.get("taskDefinition").unwrap_or(root);
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
    if let Some(list) = container.get("environment") {
        for place in list.list()? {
            let value = place.need("value")?;
            variables.push(Variable {
                name: place.need("name")?.text()?.to_owned(),
                value: value.text()?.to_owned(),
                origin: value.origin(),
            });
        }
    }
    let arguments = match command {
        Some(command) => command_line::arguments(&command_line::split(command, "the flag --command")),
        None => command_line::arguments(&words(container)?),
    };
    match arguments {
        Some(arguments) => command_line::read(&arguments, &variables, facts)?,
        None => facts.ask(
            "--command",
            None,
            format!("how pounce is started is not in the file ({}); \"pounce main:app\" if the image gives no flags", container.origin()),
        ),
    }
    if !facts.has("replicas") {
        facts.ask(
            "--set replicas=N",
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

fn words(container: &Place<'_>) -> Result<Vec<Word>, Problem> {
    let mut words = Vec::new();
    for field in ["entryPoint", "command"] {
        if let Some(list) = container.get(field) {
            for place in list.list()? {
                words.push(Word { text: place.text()?.to_owned(), origin: place.origin() });
            }
        }
    }
    Ok(words)
}
