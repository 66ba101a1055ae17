//! YAML (and JSON, which is YAML) as a tree that knows its lines.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::problem::{Problem, nearest};

/// A value and where it begins.
#[derive(Clone, Debug)]
pub struct Node {
    /// From 1.
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    Null,
    /// `plain`: without quotes, so that it may be a number.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(String, usize, Node)>),
}

/// Where a value is, for errors: the file and the way to it.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    pub file: &'a str,
    pub path: String,
    pub node: &'a Node,
}

/// Reads every document of a file.
///
/// # Errors
/// What is no YAML, with its line.
pub fn read(file: &str, text: &str) -> Result<Vec<Node>, Problem> {
    documents(file, text).map_err(|Problem(what)| {
        let template = text.lines().any(|line| line.contains("{{") && line.contains("}}"));
        let hint = "\n  it looks like a template; render it first: helm template CHART | sim simulate -";
        Problem(what + if template { hint } else { "" })
    })
}

fn documents(file: &str, text: &str) -> Result<Vec<Node>, Problem> {
    let mut reader = Reader { file, parser: Parser::new_from_str(text), anchors: BTreeMap::new() };
    let mut documents = Vec::new();
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::DocumentStart(_) | Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
            event => documents.push(reader.node(event, span, 0)?),
        }
    }
}

fn unreadable(file: &str, what: &str) -> String {
    let language = if file.ends_with(".json") { "JSON" } else { "YAML" };
    let hint = if what.contains("tabs") { "\n  indent with blanks" } else { "" };
    format!("no {language}: {what}{hint}")
}

struct Reader<'a> {
    file: &'a str,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: BTreeMap<usize, Node>,
}

/// Deeper is no deployment.
const DEEPEST: usize = 64;

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.parser.next() {
            None => Ok((Event::StreamEnd, Span::default())),
            Some(Ok(pair)) => Ok(pair),
            Some(Err(error)) => {
                Err(Problem::at(self.file, error.marker().line(), unreadable(self.file, error.info())))
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Problem> {
        let line = span.start.line();
        if depth > DEEPEST {
            return Err(Problem::at(self.file, line, format!("nested deeper than {DEEPEST} levels")));
        }
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                let null = plain && matches!(&*text, "" | "~" | "null");
                let scalar = Value::Scalar { text: text.into_owned(), plain };
                (anchor, if null { Value::Null } else { scalar })
            }
            Event::SequenceStart(anchor, _) => {
                let mut list = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::SequenceEnd {
                        break (anchor, Value::List(list));
                    }
                    list.push(self.node(event, span, depth + 1)?);
                }
            }
            Event::MappingStart(anchor, _) => {
                let mut map: Vec<(String, usize, Node)> = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::MappingEnd {
                        break (anchor, Value::Map(self.merged(map)?));
                    }
                    let key_line = span.start.line();
                    let key = self.node(event, span, depth + 1)?;
                    let Value::Scalar { text: key, .. } = key.value else {
                        return Err(Problem::at(self.file, key_line, "a key must be text".into()));
                    };
                    if let Some((_, first, _)) = map.iter().find(|(other, ..)| *other == key) {
                        let what = format!("{key} is there twice, first in line {first}");
                        return Err(Problem::at(self.file, key_line, what));
                    }
                    let (event, span) = self.next()?;
                    let node = self.node(event, span, depth + 1)?;
                    map.push((key, key_line, node));
                }
            }
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                return known.ok_or_else(|| Problem::at(self.file, line, "an alias of nothing".into()));
            }
            _ => return Err(Problem::at(self.file, line, "no YAML".into())),
        };
        let node = Node { line, value };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }
}

impl Reader<'_> {
    /// A map with what its `<<` merges into it. What is written in the map itself wins.
    fn merged(&self, mut map: Vec<(String, usize, Node)>) -> Result<Vec<(String, usize, Node)>, Problem> {
        let Some(at) = map.iter().position(|(key, ..)| key == "<<") else { return Ok(map) };
        let (_, line, source) = map.remove(at);
        let sources = match source.value {
            Value::List(list) => list.into_iter().map(|node| node.value).collect(),
            one => vec![one],
        };
        for source in sources {
            let Value::Map(source) = source else {
                return Err(Problem::at(
                    self.file,
                    line,
                    "<<: must be an alias of a map, or a list of them".into(),
                ));
            };
            for (key, line, node) in source {
                if !map.iter().any(|(other, ..)| *other == key) {
                    map.push((key, line, node));
                }
            }
        }
        Ok(map)
    }
}

impl<'a> Place<'a> {
    pub fn root(file: &'a str, node: &'a Node) -> Place<'a> {
        Place { file, path: String::new(), node }
    }

    /// `file:line`, which is an origin.
    pub fn origin(&self) -> String {
        format!("{}:{}", self.file, self.node.line)
    }

    pub fn problem(&self, what: impl Into<String>) -> Problem {
        let field = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        Problem::at(self.file, self.node.line, format!("{field}{}", what.into()))
    }

    /// The value of a key, if it is there and not null.
    pub fn get(&self, key: &str) -> Option<Place<'a>> {
        let Value::Map(map) = &self.node.value else { return None };
        let (_, line, node) = map.iter().find(|(other, ..)| other == key)?;
        if matches!(node.value, Value::Null) {
            return None;
        }
        let _ = line;
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Some(Place { file: self.file, path, node })
    }

    /// As [`Place::get`], for a key that must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn need(&self, key: &str) -> Result<Place<'a>, Problem> {
        self.get(key).ok_or_else(|| self.problem(format!("{key} is missing")))
    }

    /// Checks that this is a map with known keys.
    ///
    /// # Errors
    /// It is none; or a key that is not known: where the list is not `complete`, only one that looks like a slip.
    pub fn keys(&self, known: &[&str], complete: bool) -> Result<(), Problem> {
        let Value::Map(map) = &self.node.value else {
            return Err(self.problem("must be a map of names to values"));
        };
        for (key, line, _) in map {
            if known.contains(&key.as_str()) {
                continue;
            }
            let meant = nearest(key, known.iter().copied());
            if let (None, false) = (meant, complete) {
                continue;
            }
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let mut what = format!("{path}: there is no such field");
            match meant {
                Some(meant) => what += &format!("\n  did you mean {meant}?"),
                None => what += &format!("\n  allowed: {}", known.join(", ")),
            }
            return Err(Problem::at(self.file, *line, what));
        }
        Ok(())
    }

    /// The places of a list.
    ///
    /// # Errors
    /// It is none.
    pub fn list(&self) -> Result<Vec<Place<'a>>, Problem> {
        let Value::List(list) = &self.node.value else { return Err(self.problem("must be a list")) };
        let item = |(index, node)| Place { file: self.file, path: format!("{}[{index}]", self.path), node };
        Ok(list.iter().enumerate().map(item).collect())
    }

    /// # Errors
    /// It is no text.
    pub fn text(&self) -> Result<&'a str, Problem> {
        match &self.node.value {
            Value::Scalar { text, .. } => Ok(text),
            _ => Err(self.problem("must be text")),
        }
    }

    /// Text where the platform insists on it: what YAML takes for a number or a truth value needs quotes.
    ///
    /// # Errors
    /// It is no text.
    pub fn string(&self) -> Result<&'a str, Problem> {
        match &self.node.value {
            Value::Scalar { text, plain: true } if is_typed(text) => {
                Err(self.problem(format!("must be text, in quotes: \"{text}\"; got {text}")))
            }
            _ => self.text(),
        }
    }

    /// # Errors
    /// It is no whole number.
    pub fn whole(&self, what: &str, least: u64) -> Result<u64, Problem> {
        let refused = || {
            let got = match &self.node.value {
                Value::Scalar { text, plain: true } if text.starts_with("${") => {
                    format!("{text}: fill in the variables first")
                }
                Value::Scalar { text, plain: true } => text.clone(),
                Value::Scalar { text, plain: false } if text.parse::<u64>().is_ok() => {
                    format!("the text {text:?}: leave the quotes out")
                }
                Value::Scalar { text, plain: false } => format!("the text {text:?}"),
                _ => "something else".into(),
            };
            self.problem(format!("must be a whole number{what}, {least} or more; got {got}"))
        };
        match &self.node.value {
            Value::Scalar { text, plain: true } => {
                text.parse().ok().filter(|n| *n >= least && *n < 1 << 31).ok_or_else(refused)
            }
            _ => Err(refused()),
        }
    }
}

/// What YAML 1.1, which the platforms read, takes for a number or a truth value.
fn is_typed(plain: &str) -> bool {
    let truth = ["true", "false", "yes", "no", "on", "off"];
    plain.parse::<f64>().is_ok_and(f64::is_finite)
        || truth.iter().any(|word| plain.eq_ignore_ascii_case(word))
}
