//! What sort of value a setting takes, which values are allowed, and how each is read from text.

use crate::bind::is_host;
use crate::{Bind, duration, size, suggest};
use std::time::Duration;

/// The sort of value a setting takes, with its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Words without control characters.
    Text,
    /// A host name or IP address, IPv6 with or without brackets.
    Host,
    /// A file or directory.
    Path,
    /// The path of a URL: begins with `/`, no query, no spaces.
    UrlPath {
        /// The empty string is allowed too.
        may_be_empty: bool,
    },
    /// On or off.
    Flag,
    /// A whole number.
    Count {
        /// The smallest that is allowed.
        least: u64,
        /// The largest that is allowed.
        most: u64,
    },
    /// A span of time.
    Duration {
        /// Whether 0 is allowed.
        may_be_zero: bool,
        /// The longest that is allowed, in seconds.
        most_seconds: u64,
    },
    /// A number of bytes.
    Size {
        /// The smallest that is allowed, in bytes.
        least: u64,
        /// The largest that is allowed, in bytes.
        most: u64,
    },
    /// One of a few words, in any case.
    Choice {
        /// The words.
        words: &'static [&'static str],
        /// Other servers' words and the ones they stand for here.
        synonyms: &'static [(&'static str, &'static str)],
        /// Why a word that people may expect is not one of them; empty where there is nothing to say.
        why_no_other: &'static str,
    },
    /// One or more addresses; commas separate them.
    Binds,
}

/// A value that passed its [`Kind`]'s rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `none`: the setting is off.
    None,
    /// Of [`Kind::Flag`].
    Flag(bool),
    /// Of [`Kind::Count`], or of [`Kind::Size`] in bytes.
    Number(u64),
    /// Of [`Kind::Duration`].
    Duration(Duration),
    /// Of [`Kind::Text`], [`Kind::Host`] (without brackets), [`Kind::Path`], [`Kind::UrlPath`] and [`Kind::Choice`] (the word itself, not a synonym).
    Text(String),
    /// Of [`Kind::Binds`].
    Binds(Vec<Bind>),
}

/// Why a value is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Completes "`name` must be ...".
    pub rule: String,
    /// What would do, or another hint; empty for none.
    pub hint: String,
}

impl Kind {
    /// Reads a value; `none` where the setting is `optional`.
    pub fn read(&self, text: &str, optional: bool) -> Result<Value, Refusal> {
        if optional && text.eq_ignore_ascii_case("none") {
            return Ok(Value::None);
        }
        let refusal = || Refusal { rule: self.rule(), hint: self.hint(optional) };
        match *self {
            Kind::Text | Kind::Path => {
                let good = !text.is_empty() && !text.contains(char::is_control);
                good.then(|| Value::Text(text.to_owned())).ok_or_else(refusal)
            }
            Kind::Host => {
                // People copy `[::1]` out of a URL.
                let bare = text.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(text);
                is_host(bare).then(|| Value::Text(bare.to_owned())).ok_or_else(refusal)
            }
            Kind::UrlPath { may_be_empty } => {
                let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '%');
                let good = if text.is_empty() {
                    may_be_empty
                } else {
                    text.starts_with('/') && text.chars().all(plain)
                };
                good.then(|| Value::Text(text.to_owned())).ok_or_else(refusal)
            }
            Kind::Flag => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(Value::Flag(true)),
                "false" | "0" | "no" | "off" => Ok(Value::Flag(false)),
                _ => Err(refusal()),
            },
            Kind::Count { least, most } => {
                let text = text.trim();
                // `str::parse` would take a leading `+`.
                let number = if text.starts_with('+') { None } else { text.parse().ok() };
                let number = number.filter(|n| (least..=most).contains(n));
                number.map(Value::Number).ok_or_else(refusal)
            }
            Kind::Size { least, most } => {
                let bytes = size::parse(text).filter(|n| (least..=most).contains(n));
                bytes.map(Value::Number).ok_or_else(refusal)
            }
            Kind::Duration { may_be_zero, most_seconds } => {
                let span = duration::parse(text)
                    .filter(|span| may_be_zero || !span.is_zero())
                    .ok_or_else(refusal)?;
                if span > Duration::from_secs(most_seconds) {
                    return Err(Refusal { rule: at_most(most_seconds), hint: self.hint(optional) });
                }
                Ok(Value::Duration(span))
            }
            Kind::Choice { words, synonyms, .. } => {
                let word = text.trim().to_ascii_lowercase();
                let meant =
                    synonyms.iter().find(|(synonym, _)| *synonym == word).map_or(&*word, |(_, word)| word);
                let meant = words.iter().find(|known| **known == meant);
                meant.map(|known| Value::Text((*known).to_owned())).ok_or_else(|| {
                    let nearest = suggest::nearest(&word, words.iter().copied());
                    let refusal = refusal();
                    Refusal {
                        hint: nearest.map_or(refusal.hint, |word| format!("did you mean {word}?")),
                        ..refusal
                    }
                })
            }
            Kind::Binds => {
                let binds: Result<Vec<Bind>, _> = text.split(',').map(Bind::parse).collect();
                binds.map(Value::Binds).map_err(|_| refusal())
            }
        }
    }

    /// What is allowed; completes "`name` must be ...".
    pub fn rule(&self) -> String {
        match self {
            Kind::Text => "text, not empty and without control characters".into(),
            Kind::Host => "a host name or an IP address, without a port".into(),
            Kind::Path => "a path, not empty and without control characters".into(),
            Kind::UrlPath { may_be_empty: false } => "a URL path that begins with / and has no query".into(),
            Kind::UrlPath { may_be_empty: true } => {
                "empty, or a URL path that begins with / and has no query".into()
            }
            Kind::Flag => "true or false".into(),
            Kind::Count { least, most } => format!("a whole number from {least} to {most}"),
            Kind::Size { least, most } => {
                format!("a number of bytes from {} to {}", size::show(*least), size::show(*most))
            }
            Kind::Duration { may_be_zero: false, .. } => "a positive, finite number of seconds".into(),
            Kind::Duration { may_be_zero: true, .. } => "a finite number of seconds, 0 or more".into(),
            Kind::Choice { words: [word], .. } => (*word).to_owned(),
            Kind::Choice { words, .. } => match words.split_last() {
                Some((last, others)) => format!("{} or {last}", others.join(", ")),
                None => String::new(),
            },
            Kind::Binds => "HOST:PORT, [IPV6]:PORT, unix:PATH or fd://N, with a port from 0 to 65535".into(),
        }
    }

    /// Values that would do, or why one does not, for the line after the rule; empty where the rule says it all.
    pub fn hint(&self, optional: bool) -> String {
        let examples = match self {
            Kind::Duration { .. } => duration::EXAMPLES,
            Kind::Size { .. } => size::EXAMPLES,
            Kind::Choice { why_no_other, .. } if !why_no_other.is_empty() => return (*why_no_other).into(),
            _ => "",
        };
        match (examples, optional) {
            ("", false) => String::new(),
            ("", true) => "or none".into(),
            (examples, false) => format!("for example {examples}"),
            (examples, true) => format!("for example {examples}, or none for no limit"),
        }
    }
}

/// The rule about a duration's upper bound.
pub fn at_most(most_seconds: u64) -> String {
    let readable = match most_seconds {
        86_400 => " (1 day)".to_owned(),
        n if n.is_multiple_of(3600) => format!(" ({} h)", n / 3600),
        n if n.is_multiple_of(60) => format!(" ({} min)", n / 60),
        _ => String::new(),
    };
    format!("at most {most_seconds} seconds{readable}")
}
