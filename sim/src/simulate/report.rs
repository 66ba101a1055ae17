//! The report, as text for people and as JSON for machines.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::advice::{Effect, Remedy};
use super::facts::{Facts, Firmness, Value};
use super::model::Numbers;
use crate::pure::Line;
use crate::pure::plan::Plan;
use crate::pure::rules::{self, Figure, Rule, Topic, seconds};

/// Whether a rule holds, as far as the facts can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// By what was written down and what the platform does.
    Proven,
    Violated,
    /// It would hold, or not, for what is assumed.
    Unknown,
}

impl Standing {
    fn word(self) -> &'static str {
        match self {
            Standing::Proven => "PROVEN",
            Standing::Violated => "VIOLATED",
            Standing::Unknown => "UNKNOWN",
        }
    }
}

/// A rule with its standing and the assumptions that it hangs on.
#[derive(Clone, Debug)]
pub struct Judged {
    pub rule: Rule,
    pub standing: Standing,
    pub hangs_on: Vec<&'static str>,
}

/// The rules of a plan, each once, those that hold for want of a subject left out.
pub fn judge(facts: &Facts, plan: &Plan) -> Vec<Judged> {
    let mut judged: Vec<Judged> = Vec::new();
    for rule in rules::rules(plan) {
        // The simulated clients send plain requests; what concerns other ways of sending is not in question.
        let moot = rule.topic == Topic::Limits && rule.text.starts_with("header_timeout") && rule.holds;
        match judged.iter_mut().find(|other| other.rule.text == rule.text) {
            Some(other) if other.rule.holds && !rule.holds => other.rule = rule,
            Some(_) => {}
            None if moot => {}
            None => {
                let needs: &[&str] = match rule.topic {
                    Topic::Propagation => &["propagation"],
                    Topic::LongestRequest => &["request_duration"],
                    Topic::KeepAlive => &["balancer_idle"],
                    Topic::OwnConnections => &["balancer_idle", "think", "request_duration"],
                    Topic::Limits => &["request_duration"],
                    _ => &[],
                };
                let hangs_on: Vec<&'static str> =
                    needs.iter().copied().filter(|name| facts.is_assumed(name)).collect();
                judged.push(Judged { standing: Standing::Unknown, hangs_on, rule });
            }
        }
    }
    for one in &mut judged {
        one.standing = match (one.rule.holds, one.hangs_on.is_empty()) {
            (_, false) => Standing::Unknown,
            (true, true) => Standing::Proven,
            (false, true) => Standing::Violated,
        };
    }
    judged
}

/// Everything that was found.
#[derive(Debug)]
pub struct Report {
    pub title: String,
    pub facts: Facts,
    pub rules: Vec<Judged>,
    pub seed: u64,
    pub numbers: Numbers,
    pub worst: Vec<Line>,
    pub effects: Vec<Effect>,
    pub remedy: Option<Remedy>,
    pub max_dropped: Option<u32>,
}

impl Report {
    /// Whether the worst rollout dropped more than is allowed.
    pub fn exceeded(&self) -> bool {
        self.max_dropped.is_some_and(|most| self.numbers.worst > most)
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out).unwrap_or_default();
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{}\n", self.title)?;
        writeln!(out, "Inequalities (no simulation needed)")?;
        for one in &self.rules {
            let sign = if one.rule.holds { "" } else { "not " };
            let figures = match (one.rule.have, one.rule.need) {
                (Figure::Is(_), _) => String::new(),
                (have, need) => format!(": {have} is {sign}enough for {need}"),
            };
            writeln!(out, "  {:<8} {}{figures}", one.standing.word(), one.rule.text)?;
            if !one.hangs_on.is_empty() {
                let flags: Vec<String> =
                    one.hangs_on.iter().map(|name| format!("--set {name}=...")).collect();
                writeln!(out, "           hangs on what is assumed: say {}", flags.join(", "))?;
            }
        }
        self.write_numbers(out)?;
        if !self.worst.is_empty() {
            writeln!(out, "\nThe worst rollout (seed {})", self.numbers.worst_seed)?;
            for line in &self.worst {
                writeln!(out, "  {line}")?;
            }
        }
        if !self.effects.is_empty() {
            writeln!(out, "\nWhich settings matter (dropped per rollout, each changed by itself)")?;
            for e in &self.effects {
                let change = format!("{} {} -> {}", e.name, e.from, e.to);
                writeln!(out, "  {change:<38} {:>8.3} -> {:.3}", e.before, e.after)?;
            }
        }
        self.write_remedy(out)?;
        writeln!(out, "\nWhat this rests on")?;
        for (key, fact) in self.facts.iter() {
            let mark = if fact.firmness == Firmness::Assumed { "?" } else { " " };
            writeln!(out, "{mark} {:<20} {:<9} {}", key.name, fact.value.to_string(), fact.origin)?;
        }
        for note in &self.facts.notes {
            writeln!(out, "  note: {note}")?;
        }
        writeln!(out, "Change any of them with --set name=value. Lines with ? are assumptions.")?;
        writeln!(
            out,
            "A model: pounce's own state machines in a simulated platform. It says nothing about capacity, packet loss\nor nodes that fail."
        )
    }

    fn write_numbers(&self, out: &mut String) -> std::fmt::Result {
        let n = &self.numbers;
        writeln!(out, "\n{} simulated rollouts, {} requests (seed {})", n.rollouts, n.requests, self.seed)?;
        writeln!(
            out,
            "  dropped per rollout   median {}, p99 {}, worst {}, mean {:.3}",
            n.median,
            n.p99,
            n.worst,
            n.mean()
        )?;
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        if n.dropping == 0 {
            let bound = percent(n.upper_bound());
            writeln!(
                out,
                "  rollouts that drop    none; less than {bound} of them (95 % confidence, rule of three)"
            )?;
        } else {
            let share = percent(n.dropping as f64 / n.rollouts.max(1) as f64);
            let (low, high) = (percent(n.lower_bound()), percent(n.upper_bound()));
            writeln!(out, "  rollouts that drop    {share} ({low} to {high} with 95 % confidence)")?;
        }
        for (cause, count) in n.causes.iter() {
            let part = if cause.is_dropped() { "" } else { "  (not dropped by the rollout)" };
            writeln!(out, "    {count:>7}  {cause}{part}")?;
        }
        writeln!(out, "  a rollout takes       {} (median)", seconds(n.takes))?;
        for what in &n.broken {
            writeln!(out, "  BUG in pounce: {what}")?;
        }
        Ok(())
    }

    fn write_remedy(&self, out: &mut String) -> std::fmt::Result {
        let Some(remedy) = &self.remedy else {
            return match self.rules.iter().any(|one| one.standing == Standing::Unknown) {
                true => writeln!(out, "\nNothing needs to change, if the assumptions are right"),
                false => writeln!(out, "\nNothing needs to change"),
            };
        };
        writeln!(out, "\nThe smallest values that satisfy every inequality")?;
        for change in &remedy.changes {
            let (spelled, from, to) = (spell(change.name), change.from, change.to);
            writeln!(out, "  {:<20} {from} -> {to}   {spelled}", change.name)?;
        }
        for text in &remedy.beyond {
            writeln!(out, "  no setting helps: {text}")?;
        }
        let n = &remedy.numbers;
        writeln!(
            out,
            "  {} rollouts with them: {} dropped, a rollout takes {} (median)",
            n.rollouts,
            n.dropped,
            seconds(n.takes)
        )
    }

    pub fn json(&self) -> Json {
        let n = &self.numbers;
        let numbers = |n: &Numbers| {
            json!({
                "rollouts": n.rollouts,
                "requests": n.requests,
                "dropped": n.dropped,
                "median": n.median,
                "p99": n.p99,
                "worst": n.worst,
                "worst_seed": n.worst_seed,
                "mean": n.mean(),
                "dropping_share": [n.lower_bound(), n.upper_bound()],
                "rollout_seconds": n.takes.as_secs_f64(),
                "causes": n.causes.iter().map(|(c, k)| (c.name().to_owned(), json!(k))).collect::<serde_json::Map<_, _>>(),
                "bugs": n.broken,
            })
        };
        let rules: Vec<Json> = self
            .rules
            .iter()
            .map(|one| {
                json!({
                    "rule": one.rule.text,
                    "standing": one.standing.word().to_lowercase(),
                    "have": figure(one.rule.have),
                    "need": figure(one.rule.need),
                    "hangs_on": one.hangs_on,
                })
            })
            .collect();
        let facts: Vec<Json> = self
            .facts
            .iter()
            .map(|(key, fact)| {
                json!({
                    "name": key.name,
                    "value": value(fact.value),
                    "origin": fact.origin,
                    "firmness": format!("{:?}", fact.firmness).to_lowercase(),
                })
            })
            .collect();
        json!({
            "version": 1,
            "seed": self.seed,
            "max_dropped": self.max_dropped,
            "exceeded": self.exceeded(),
            "rules": rules,
            "result": numbers(n),
            "worst_timeline": self.worst.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "sensitivity": self.effects.iter().map(|e| json!({
                "name": e.name, "from": value(e.from), "to": value(e.to), "before": e.before, "after": e.after,
            })).collect::<Vec<_>>(),
            "remedy": self.remedy.as_ref().map(|r| json!({
                "changes": r.changes.iter().map(|c| json!({"name": c.name, "from": value(c.from), "to": value(c.to)})).collect::<Vec<_>>(),
                "beyond": r.beyond,
                "result": numbers(&r.numbers),
            })),
            "facts": facts,
            "notes": self.facts.notes,
        })
    }
}

/// Times in seconds, words and counts as they are.
fn value(value: Value) -> Json {
    match value {
        Value::Time(time) => json!(time.as_secs_f64()),
        Value::Count(count) => json!(count),
        Value::Word(word) => json!(word),
    }
}

fn figure(figure: Figure) -> Json {
    match figure {
        Figure::Time(time) => json!(time.as_secs_f64()),
        Figure::Count(count) => json!(count),
        Figure::Is(is) => json!(is),
    }
}

/// How a fact is written in the deployment.
fn spell(name: &str) -> String {
    match name {
        "drain_delay" | "shutdown_timeout" | "keep_alive_timeout" | "keepalive_linger"
        | "request_timeout" | "max_connections" => format!("(pounce --{})", name.replace('_', "-")),
        "grace" => "(terminationGracePeriodSeconds, TimeoutStopSec, stopTimeout)".into(),
        "max_unavailable" => "(strategy.rollingUpdate.maxUnavailable)".into(),
        "readiness" => "(readinessProbe.httpGet)".into(),
        "deploy" => "(systemctl reload, or strategy.type)".into(),
        "retry" => "(the balancer's or the client's)".into(),
        _ => String::new(),
    }
}

/// The lines of a timeline that tell why requests failed: those about pods on which one did, at most `most`.
pub fn shorten(lines: &[Line], most: usize) -> Vec<Line> {
    let failed = |line: &Line| line.what.contains(" failed: ");
    let mut pods: Vec<String> = Vec::new();
    for line in lines.iter().filter(|line| failed(line)) {
        let pod = line.what.split(" on ").nth(1).and_then(|rest| rest.split(' ').next());
        if let Some(pod) = pod
            && !pods.iter().any(|other| other == pod)
        {
            pods.push(pod.to_owned());
        }
    }
    let Some(first_failure) = lines.iter().position(failed) else { return Vec::new() };
    let first_pod = pods.first().cloned();
    let concerns = |line: &Line| match &first_pod {
        Some(pod) => line.who == *pod || line.what.split(' ').any(|word| word == pod),
        None => line.who == "kube" || line.who.starts_with("lb-") || failed(line),
    };
    let is_story = |line: &Line| concerns(line) && !line.what.contains("created (old)");
    let mut short: Vec<Line> = Vec::new();
    let (mut failures, mut hidden) = (0, 0);
    for line in lines.iter().filter(|line| is_story(line)) {
        if failed(line) {
            failures += 1;
            if failures > 3 {
                hidden += 1;
                continue;
            }
        }
        short.push(line.clone());
    }
    // What led to the failures is more telling than the pod's youth.
    let failed_at = lines[first_failure].at;
    while short.len() > most {
        let before = short.iter().filter(|line| line.at < failed_at).count();
        if before > most / 2 {
            short.remove(0);
        } else {
            short.pop();
        }
    }
    if hidden > 0 {
        let at = short.iter().rfind(|line| failed(line)).map_or(failed_at, |line| line.at);
        let position = short.iter().rposition(failed).map_or(short.len(), |position| position + 1);
        let more = Line { at, who: String::new(), what: format!("... and {hidden} more") };
        short.insert(position, more);
    }
    short
}
