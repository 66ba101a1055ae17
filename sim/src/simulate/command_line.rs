//! How pounce is started: its own settings, from a command and an environment as a deployment writes them.

use std::ffi::OsString;

use pounce_settings::{Origin, SettingsError, Sources, flags, resolve};

use super::facts::{Facts, Firmness, Value};
use super::problem::Problem;

/// A word of the command, and where it is written.
#[derive(Clone, Debug)]
pub struct Word {
    pub text: String,
    pub origin: String,
}

/// A variable, and where it is written.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub value: String,
    pub origin: String,
}

/// Splits a shell's command line: blanks, quotes and backslashes; nothing is expanded.
pub fn split(text: &str, origin: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let (mut word, mut begun, mut quote) = (String::new(), false, None);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                begun = true;
            }
            (None | Some('"'), '\\') => {
                // A line that goes on.
                if let Some(next) = chars.next().filter(|next| *next != '\n') {
                    word.push(next);
                    begun = true;
                }
            }
            (None, c) if c.is_whitespace() => {
                if std::mem::take(&mut begun) {
                    words.push(Word { text: std::mem::take(&mut word), origin: origin.to_owned() });
                }
            }
            (_, c) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(Word { text: word, origin: origin.to_owned() });
    }
    words
}

/// The arguments after `pounce` in a command, through a shell or `python -m`. `None`: it is not there.
pub fn arguments(command: &[Word]) -> Option<Vec<Word>> {
    let shells = ["sh", "bash", "dash", "ash"];
    let base = |text: &str| text.rsplit('/').next().unwrap_or(text).to_owned();
    let first = command.first()?;
    if shells.contains(&&*base(&first.text)) {
        let script = command.iter().skip(1).find(|word| !word.text.starts_with('-'))?;
        return arguments(&split(&script.text, &script.origin));
    }
    let at = command.iter().position(|word| base(&word.text) == "pounce")?;
    let end = command[at..].iter().position(|word| matches!(&*word.text, ";" | "&&" | "||" | "|"));
    let end = end.map_or(command.len(), |end| at + end);
    Some(command[at + 1..end].to_vec())
}

/// Takes pounce's settings from its arguments and variables into `facts`.
///
/// # Errors
/// pounce would refuse them; the words are its own, with the place in the file.
pub fn read(arguments: &[Word], variables: &[Variable], facts: &mut Facts) -> Result<(), Problem> {
    let expanded: Vec<String> = arguments.iter().map(|word| expand(&word.text, variables)).collect();
    let first = arguments.first().map_or("", |word| &word.origin);
    let typed = std::iter::once("pounce").chain(expanded.iter().map(String::as_str));
    let matches = flags::command().try_get_matches_from(typed).map_err(|error| {
        let text = error.to_string();
        let text = text.lines().filter(|line| !line.trim().is_empty() && !line.contains("--help"));
        let text: Vec<&str> = text.take_while(|line| !line.starts_with("Usage")).collect();
        let place = arguments.iter().zip(&expanded).find(|(_, word)| {
            let flag = word.split('=').next().unwrap_or(word);
            flag.len() > 1 && flag.starts_with('-') && text.join(" ").contains(flag)
        });
        let origin = place.map_or(first, |(word, _)| &word.origin);
        Problem(format!("{origin}: the command of pounce: {}", text.join("\n")))
    })?;
    let environment: Vec<(OsString, OsString)> =
        variables.iter().map(|v| (OsString::from(&v.name), OsString::from(&v.value))).collect();
    // Which application it is does not matter here.
    let environment = if matches.get_one::<String>("app").is_none() {
        let has = variables.iter().any(|v| v.name == "POUNCE_APP");
        let app = (!has).then(|| (OsString::from("POUNCE_APP"), OsString::from("demo")));
        environment.into_iter().chain(app).collect()
    } else {
        environment
    };
    let settings = resolve(&Sources { flags: Some(&matches), environment, directory: None })
        .map_err(|error| refused(&error, arguments, variables, first))?;
    let place = |name: &str| place_of(settings.origin(name), arguments, variables, first);
    let mut set = |name: &'static str, value: Value| {
        let (origin, firmness) = place(name);
        if firmness == Firmness::Said || !facts.has(name) {
            facts.set(name, value, origin, firmness);
        }
    };
    set("workers", Value::Count(settings.workers));
    set("drain_delay", Value::Time(settings.drain_delay));
    set("shutdown_timeout", Value::Time(settings.shutdown_timeout));
    set("keepalive_linger", Value::Time(settings.keepalive_linger));
    set("keep_alive_timeout", Value::Time(settings.keep_alive_timeout));
    set("request_timeout", Value::Time(settings.request_timeout.unwrap_or_default()));
    set("max_connections", Value::Count(settings.max_connections.unwrap_or_default()));
    Ok(())
}

/// `$(NAME)`, as Kubernetes puts variables into commands.
fn expand(text: &str, variables: &[Variable]) -> String {
    variables.iter().fold(text.to_owned(), |text, v| text.replace(&format!("$({})", v.name), &v.value))
}

fn place_of(origin: &Origin, arguments: &[Word], variables: &[Variable], first: &str) -> (String, Firmness) {
    match origin {
        Origin::Flag(flag) => {
            let word = arguments.iter().find(|word| word.text.split('=').next() == Some(flag));
            (format!("{} {flag}", word.map_or(first, |word| &word.origin)), Firmness::Said)
        }
        Origin::Variable(name) => {
            let variable = variables.iter().find(|v| v.name == *name);
            (format!("{} {name}", variable.map_or(first, |v| &v.origin)), Firmness::Said)
        }
        Origin::Default => ("default of pounce".into(), Firmness::Default),
        other => (other.to_string(), Firmness::Said),
    }
}

fn refused(error: &SettingsError, arguments: &[Word], variables: &[Variable], first: &str) -> Problem {
    let origin = match error {
        SettingsError::BadValue { origin, .. }
        | SettingsError::Unknown { origin, .. }
        | SettingsError::NotYet { origin, .. }
        | SettingsError::Application { origin, .. } => place_of(origin, arguments, variables, first).0,
        SettingsError::Refused { flag, .. } => {
            let word = arguments.iter().find(|word| word.text.starts_with(flag.as_str()));
            word.map_or(first, |word| &word.origin).to_owned()
        }
        _ => first.to_owned(),
    };
    Problem(format!("{origin}: pounce would not start: {error}"))
}
