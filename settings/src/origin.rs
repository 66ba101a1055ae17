//! Where a value came from, so that an error can send its reader to the right place.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The place that decided a setting's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A flag, as it was spelled: `--graceful-timeout`, `-w`.
    Flag(String),
    /// The application argument itself.
    Argument,
    /// An environment variable.
    Variable(String),
    /// A line of a configuration file.
    File {
        /// The path as it was given or found.
        path: String,
        /// Counted from 1.
        line: usize,
    },
    /// The service manager passed a listening socket (`LISTEN_FDS`, `sd_listen_fds(3)`).
    SocketActivation,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("the default"),
            Origin::Flag(flag) => write!(f, "the flag {flag}"),
            Origin::Argument => f.write_str("the command line"),
            Origin::Variable(name) => write!(f, "the environment variable {name}"),
            Origin::File { path, line } => write!(f, "{path}:{line}"),
            Origin::SocketActivation => f.write_str("socket activation (LISTEN_FDS)"),
        }
    }
}
