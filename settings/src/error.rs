//! What can be wrong with the settings, in words that say where it was written and what to write instead.

use crate::Origin;
use std::fmt;

/// A setting that cannot be used. `Display` is one to three lines without a trailing newline; every one of
/// these ends `pounce` with exit code 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingsError {
    /// The value breaks the setting's rule.
    BadValue {
        /// The setting.
        name: &'static str,
        /// As it was written.
        value: String,
        /// Completes "`name` must be ...".
        rule: String,
        /// Values that would do, or another hint; empty for none.
        hint: String,
        /// Where it was written.
        origin: Origin,
    },
    /// A key or variable that is no setting.
    Unknown {
        /// As it was written.
        key: String,
        /// What kind of thing it is: `setting` or `environment variable`.
        what: &'static str,
        /// Where it was written.
        origin: Origin,
        /// The nearest known name.
        suggestion: Option<String>,
        /// Why it is not a setting, when it is one that another server has.
        reason: Option<&'static str>,
    },
    /// Two settings that exclude each other, set in the same place.
    Contradiction {
        /// The first setting and where it was written.
        first: (&'static str, Origin),
        /// The second.
        second: (&'static str, Origin),
        /// What to do about it.
        hint: &'static str,
    },
    /// A setting whose feature does not exist yet.
    NotYet {
        /// The setting.
        name: &'static str,
        /// Where it was written.
        origin: Origin,
        /// What is missing, and what to do instead.
        reason: &'static str,
    },
    /// A flag that another server has and pounce does not.
    Refused {
        /// The flag as it was typed.
        flag: String,
        /// What to use instead.
        reason: &'static str,
    },
    /// A configuration file that cannot be read or is no TOML.
    File {
        /// The path, with `:line` where a line is known.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An application name that cannot be right.
    Application {
        /// As it was written.
        value: String,
        /// Where it was written.
        origin: Origin,
        /// What is wrong with it.
        problem: String,
        /// A name that would work.
        suggestion: Option<String>,
    },
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingsError::BadValue { name, value, rule, hint, origin } => {
                write!(f, "{name} must be {rule}, got {value:?}, from {origin}")?;
                if !hint.is_empty() {
                    write!(f, "\n  {hint}")?;
                }
                Ok(())
            }
            SettingsError::Unknown { key, what, origin, suggestion, reason } => {
                match origin {
                    Origin::Variable(_) => write!(f, "unknown {what} {key}")?,
                    _ => write!(f, "unknown {what} {key:?} in {origin}")?,
                }
                if let Some(reason) = reason {
                    write!(f, ": {reason}")?;
                }
                match suggestion {
                    Some(suggestion) => write!(f, "\n  did you mean {suggestion}?"),
                    None if reason.is_none() => write!(f, "\n  `pounce --help` lists every setting"),
                    None => Ok(()),
                }
            }
            SettingsError::Contradiction { first, second, hint } => {
                write!(
                    f,
                    "{} (from {}) and {} (from {}) exclude each other",
                    first.0, first.1, second.0, second.1
                )?;
                write!(f, "\n  {hint}")
            }
            SettingsError::NotYet { name, origin, reason } => {
                write!(f, "{name} (from {origin}) cannot be set yet: {reason}")
            }
            SettingsError::Refused { flag, reason } => write!(f, "pounce has no {flag}: {reason}"),
            SettingsError::File { place, problem } => write!(f, "{place}: {problem}"),
            SettingsError::Application { value, origin, problem, suggestion } => {
                match origin {
                    Origin::Argument => write!(f, "{value:?} is no application: {problem}")?,
                    _ => write!(f, "{value:?} (from {origin}) is no application: {problem}")?,
                }
                match suggestion {
                    Some(suggestion) => write!(f, "\n  did you mean {suggestion}?"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for SettingsError {}
