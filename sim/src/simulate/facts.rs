//! What is known of a deployment, from where; what is assumed; and what has to be asked.

use std::collections::BTreeMap;
use std::time::Duration;

use pounce_settings::{Kind, Value as Setting};

use super::problem::{Problem, nearest};
use crate::pure::rules::seconds;

/// A value of a fact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    Time(Duration),
    Count(u32),
    Word(&'static str),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Time(time) => f.write_str(&seconds(*time)),
            Value::Count(count) => write!(f, "{count}"),
            Value::Word(word) => f.write_str(word),
        }
    }
}

/// How firm a fact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Firmness {
    /// Somebody wrote it down: a file or a flag.
    Said,
    /// What the platform or pounce does when nobody says anything.
    Default,
    /// Taken for the simulation; nobody said it.
    Assumed,
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    pub value: Value,
    pub origin: String,
    pub firmness: Firmness,
}

/// What can be known.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: What,
    pub help: &'static str,
}

/// The sort of a fact.
#[derive(Clone, Copy, Debug)]
pub enum What {
    Time,
    Count,
    Word(&'static [&'static str]),
}

const fn time(name: &'static str, help: &'static str) -> Key {
    Key { name, kind: What::Time, help }
}

const fn count(name: &'static str, help: &'static str) -> Key {
    Key { name, kind: What::Count, help }
}

const fn word(name: &'static str, words: &'static [&'static str], help: &'static str) -> Key {
    Key { name, kind: What::Word(words), help }
}

/// Every fact, in the order of the report.
pub static KEYS: &[Key] = &[
    word("deploy", &["rolling", "recreate", "restart", "reload"], "how new code comes in"),
    count("replicas", "instances that are to serve"),
    count("max_surge", "instances above replicas during a rollout"),
    count("max_unavailable", "instances below replicas during a rollout"),
    time("min_ready", "from an instance's readiness to its availability"),
    time("grace", "from the stop order to SIGKILL; on Kubernetes it includes pre_stop"),
    time("pre_stop", "from the stop order to SIGTERM: preStop hook, deregistration delay"),
    word("readiness", &["http", "connect", "none"], "what says that an instance may get traffic"),
    time("readiness_period", "between two readiness checks"),
    time("readiness_delay", "from an instance's start to the first readiness check"),
    count("readiness_successes", "checks in a row that make an instance ready"),
    word("term_to_all", &["yes", "no"], "SIGTERM goes to the workers too"),
    word("socket_activation", &["yes", "no"], "systemd holds the listening socket while no server does"),
    count("workers", "pounce --workers"),
    time("drain_delay", "pounce --drain-delay"),
    time("shutdown_timeout", "pounce --shutdown-timeout"),
    time("keepalive_linger", "pounce --keepalive-linger"),
    time("keep_alive_timeout", "pounce --keep-alive-timeout"),
    time("request_timeout", "pounce --request-timeout; 0 for none"),
    count("max_connections", "pounce --max-connections; 0 for none"),
    time("request_duration", "the longest that the application takes for a request"),
    time("typical_request", "how long it usually takes"),
    time("propagation", "the longest from a change of the endpoints until a balancer acts on it"),
    word("balancer", &["l4", "l7"], "l7: a proxy with pools of connections; l4: each client keeps its own"),
    count("balancers", "balancers, or nodes, that hear of changes independently"),
    time("balancer_idle", "how long the other end keeps an idle connection"),
    word("retry", &["nothing", "connect", "stale", "unavailable"], "what the balancer or client tries again"),
    count("clients", "clients at the same time"),
    time("think", "between two requests of a client, on average"),
    time("latency", "one way, at most"),
    time("process_start", "from a container's start until its port listens, at most"),
    time("boot", "from a worker's start until it serves, at most"),
    time("schedule", "from an instance's creation to its container's start, at most"),
];

/// A question that has to be answered first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub what: String,
    pub flag: &'static str,
    /// The fact that it is about, if it is one.
    pub key: Option<&'static str>,
}

/// Where a deployment is deployed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Platform {
    #[default]
    Kubernetes,
    Systemd,
    Ecs,
}

/// What is known so far.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    map: BTreeMap<&'static str, Fact>,
    pub questions: Vec<Question>,
    pub platform: Platform,
    /// Things worth knowing that are no values.
    pub notes: Vec<String>,
    /// What the file lets guess of the balancer, for the question that asks for it.
    pub balancer_hint: Option<String>,
    /// Somebody's copy of the settings file that is in the container.
    pub config_file: Option<String>,
}

/// The key of that name.
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Facts {
    pub fn set(&mut self, name: &'static str, value: Value, origin: impl Into<String>, firmness: Firmness) {
        debug_assert!(key(name).is_some(), "{name} is in the table");
        self.map.insert(name, Fact { value, origin: origin.into(), firmness });
    }

    pub fn said(&mut self, name: &'static str, value: Value, origin: impl Into<String>) {
        self.set(name, value, origin, Firmness::Said);
    }

    /// For what nobody said.
    pub fn otherwise(&mut self, name: &'static str, value: Value, origin: &str, firmness: Firmness) {
        if !self.map.contains_key(name) {
            self.set(name, value, origin, firmness);
        }
    }

    pub fn get(&self, name: &str) -> Option<&Fact> {
        self.map.get(name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// A time; zero if it is not known.
    pub fn time(&self, name: &str) -> Duration {
        match self.map.get(name).map(|fact| fact.value) {
            Some(Value::Time(time)) => time,
            _ => Duration::ZERO,
        }
    }

    pub fn count(&self, name: &str) -> u32 {
        match self.map.get(name).map(|fact| fact.value) {
            Some(Value::Count(count)) => count,
            _ => 0,
        }
    }

    pub fn word(&self, name: &str) -> &'static str {
        match self.map.get(name).map(|fact| fact.value) {
            Some(Value::Word(word)) => word,
            _ => "",
        }
    }

    pub fn is_assumed(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|fact| fact.firmness == Firmness::Assumed)
    }

    /// All facts, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Key, &Fact)> + '_ {
        KEYS.iter().filter_map(|key| self.map.get(key.name).map(|fact| (key, fact)))
    }

    pub fn ask(&mut self, flag: &'static str, key: Option<&'static str>, what: impl Into<String>) {
        let question = Question { what: what.into(), flag, key };
        if !self.questions.contains(&question) {
            self.questions.push(question);
        }
    }

    /// Questions that nobody has answered.
    pub fn open_questions(&self) -> Vec<&Question> {
        let said = |key: &str| self.map.get(key).is_some_and(|fact| fact.firmness == Firmness::Said);
        self.questions.iter().filter(|question| !question.key.is_some_and(said)).collect()
    }

    /// The same with one value changed.
    pub fn with(&self, name: &'static str, value: Value) -> Facts {
        let mut facts = self.clone();
        facts.said(name, value, "a trial");
        facts
    }

    /// Takes the value of a fact's own flag.
    ///
    /// # Errors
    /// It breaks the fact's rule.
    pub fn take_flag(&mut self, name: &str, text: &str, flag: &str) -> Result<(), Problem> {
        let Some(key) = key(name) else { return Ok(()) };
        let value =
            read(key, text).map_err(|rule| Problem(format!("{flag} {text}: {} must be {rule}", key.help)))?;
        self.said(key.name, value, format!("the flag {flag}"));
        Ok(())
    }

    /// Takes `name=value`.
    ///
    /// # Errors
    /// There is no such fact, or the value breaks its rule.
    pub fn take(&mut self, given: &str, flag: &str) -> Result<(), Problem> {
        let Some((name, text)) = given.split_once('=') else {
            return Err(Problem(format!("{flag} {given}: must be NAME=VALUE")));
        };
        let name = name.trim().replace('-', "_");
        let Some(key) = key(&name) else {
            let names = KEYS.iter().map(|key| key.name);
            let hint = match nearest(&name, names.clone()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("there are: {}", names.collect::<Vec<_>>().join(", ")),
            };
            return Err(Problem(format!("{flag} {given}: there is no {name}\n  {hint}")));
        };
        let value = read(key, text.trim())
            .map_err(|rule| Problem(format!("{flag} {given}: {name} ({}) must be {rule}", key.help)))?;
        self.said(key.name, value, format!("the flag {flag}"));
        Ok(())
    }
}

/// Reads a value; the error is the rule.
pub fn read(key: &Key, text: &str) -> Result<Value, String> {
    match key.kind {
        What::Time => {
            let kind = Kind::Duration { may_be_zero: true, most_seconds: 86_400 };
            match kind.read(text, false) {
                Ok(Setting::Duration(time)) => Ok(Value::Time(time)),
                _ => Err("a duration from 0 to a day, for example 30, 2.5, 500ms, 30s or 2m".into()),
            }
        }
        What::Count => match (Kind::Count { least: 0, most: 100_000 }).read(text, false) {
            Ok(Setting::Number(count)) => Ok(Value::Count(count as u32)),
            _ => Err("a whole number from 0 to 100000".into()),
        },
        What::Word(words) => {
            let found = words.iter().find(|word| text.eq_ignore_ascii_case(word));
            found.map(|word| Value::Word(word)).ok_or_else(|| match nearest(text, words.iter().copied()) {
                Some(meant) => format!("one of {} (did you mean {meant}?)", words.join(", ")),
                None => format!("one of {}", words.join(", ")),
            })
        }
    }
}
