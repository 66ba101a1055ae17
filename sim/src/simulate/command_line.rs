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
    /// A shell, or systemd, puts variables into it: `$NAME`.
    pub expands: bool,
}

impl Word {
    /// A word that is taken as it is.
    pub fn new(text: &str, origin: String) -> Word {
        Word { text: text.to_owned(), origin, expands: false }
    }
}

/// A variable, and where it is written.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub value: String,
    pub origin: String,
}

/// Splits a shell's command line: blanks, quotes and backslashes; nothing is expanded yet.
pub fn split(text: &str, origin: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let finished =
        |text: &mut String| Word { expands: true, ..Word::new(&std::mem::take(text), origin.to_owned()) };
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
                    words.push(finished(&mut word));
                }
            }
            (_, c) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(finished(&mut word));
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

/// The fact that a variable of pounce's sets, if the simulation needs it.
pub fn fact_of(variable: &str) -> Option<&'static str> {
    let name = match variable {
        "SHUTDOWN_TIMEOUT" => "shutdown_timeout".to_owned(),
        "WEB_CONCURRENCY" => "workers".to_owned(),
        other => other.strip_prefix("POUNCE_")?.to_lowercase(),
    };
    super::facts::key(&name).map(|key| key.name)
}

/// The arguments in the command that the flag `--command` gives.
///
/// # Errors
/// It has no pounce in it.
pub fn spoken(command: Option<&str>) -> Result<Option<Vec<Word>>, Problem> {
    let Some(command) = command else { return Ok(None) };
    let found = arguments(&split(command, "the flag --command"));
    found.map(Some).ok_or_else(|| {
        Problem(format!("--command {command:?}: must start pounce, as in \"pounce main:app --workers 4\""))
    })
}

/// The question for a command that starts something else, or nothing.
pub fn unknown(command: &[Word], origin: &str) -> String {
    match program(command) {
        Some(program) => format!(
            "{program} is started ({origin}), and pounce is what is simulated: how would it be started? as \"pounce main:app\""
        ),
        None => format!(
            "how pounce is started is not in the file ({origin}); \"pounce main:app\" if the image gives no flags"
        ),
    }
}

/// The program that a command starts, through a shell, `exec`, `env` or `python -m`.
pub fn program(command: &[Word]) -> Option<String> {
    let base = |text: &str| text.rsplit('/').next().unwrap_or(text).to_owned();
    let mut words = command.iter().skip_while(|word| matches!(&*base(&word.text), "exec" | "env"));
    let first = base(&words.next()?.text);
    if matches!(&*first, "sh" | "bash" | "dash" | "ash") {
        let script = words.find(|word| !word.text.starts_with('-'))?;
        return program(&split(&script.text, &script.origin));
    }
    if first.starts_with("python") {
        let rest: Vec<&Word> = words.collect();
        let module = rest.iter().position(|word| word.text == "-m").and_then(|at| rest.get(at + 1));
        return Some(module.map_or(first, |word| word.text.clone()));
    }
    Some(first)
}

/// Whether a shell stays in front of pounce, and gets the signals in its place.
pub fn behind_a_shell(command: &[Word]) -> bool {
    let base = |text: &str| text.rsplit('/').next().unwrap_or(text).to_owned();
    let shell =
        command.first().is_some_and(|word| matches!(&*base(&word.text), "sh" | "bash" | "dash" | "ash"));
    let Some(script) = command.iter().skip(1).find(|word| !word.text.starts_with('-')).filter(|_| shell)
    else {
        return false;
    };
    let words = split(&script.text, &script.origin);
    // A single command takes the shell's place by itself.
    let several =
        words.iter().any(|word| matches!(&*word.text, "&&" | "||" | "|") || word.text.ends_with(';'));
    let at = words.iter().position(|word| base(&word.text) == "pounce");
    several && at.is_some_and(|at| !words[..at].iter().rev().take(3).any(|word| word.text == "exec"))
}

/// Where the settings file of a command is, if it names one; and the command with `copy` in its place, or without.
fn config(
    arguments: &[Word],
    variables: &[Variable],
    copy: Option<&str>,
) -> (Option<(String, String)>, Vec<Word>, Vec<Variable>) {
    let mut named = None;
    let mut rest = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = if matches!(&*word.text, "--config" | "-c") {
            words.next()
        } else if word.text.starts_with("--config=") {
            Some(word)
        } else {
            rest.push(word.clone());
            continue;
        };
        if let Some(value) = value {
            let path = value.text.strip_prefix("--config=").unwrap_or(&value.text);
            named = Some((path.to_owned(), value.origin.clone()));
        }
    }
    let mut variables = variables.to_vec();
    if let Some(at) = variables.iter().position(|variable| variable.name == "POUNCE_CONFIG") {
        let variable = variables.remove(at);
        named = named.or(Some((variable.value, variable.origin)));
    }
    if let Some(copy) = copy {
        rest.push(Word::new(&format!("--config={copy}"), "the flag --config".into()));
    }
    (named, rest, variables)
}

/// Takes pounce's settings from its arguments and variables into `facts`.
///
/// # Errors
/// pounce would refuse them; the words are its own, with the place in the file.
pub fn read(arguments: &[Word], variables: &[Variable], facts: &mut Facts) -> Result<(), Problem> {
    let copy = facts.config_file.clone();
    let (named, arguments, variables) = config(arguments, variables, copy.as_deref());
    if let (Some((path, origin)), None) = (named, copy) {
        facts.ask(
            "--config FILE",
            None,
            format!("pounce reads settings from {path} ({origin}), which is in the container: where is your copy of it?"),
        );
    }
    let (arguments, variables) = (&arguments[..], &variables[..]);
    let expanded =
        arguments.iter().map(|word| expand(word, variables)).collect::<Result<Vec<String>, Problem>>()?;
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

/// `$(NAME)`, as Kubernetes puts variables into commands; `$NAME`, `${NAME}` and `${NAME:-otherwise}`, as a shell does.
fn expand(word: &Word, variables: &[Variable]) -> Result<String, Problem> {
    let text =
        variables.iter().fold(word.text.clone(), |text, v| text.replace(&format!("$({})", v.name), &v.value));
    if !word.expands {
        return Ok(text);
    }
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, otherwise);
        if let Some((inner, after)) = rest.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            (name, otherwise) =
                inner.split_once(":-").map_or((inner, None), |(name, other)| (name, Some(other)));
            rest = after;
        } else {
            let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
            ((name, rest), otherwise) = (rest.split_at(end), None);
        }
        if name.is_empty() {
            out.push('$');
            continue;
        }
        let value = variables.iter().find(|v| v.name == name).map(|v| v.value.as_str()).or(otherwise);
        out.push_str(value.ok_or_else(|| {
            let Word { text, origin, .. } = word;
            Problem(format!(
                "{origin}: {text}: the value of ${name} is not in the file\n  say the whole command with --command"
            ))
        })?);
    }
    Ok(out + rest)
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
