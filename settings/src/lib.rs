//! Every setting of pounce, defined once.
//!
//! [`SETTINGS`] is a table: one row per setting with its name, kind, range, default, flags, environment
//! variables and help text. The command line ([`flags`]), the environment ([`environment`]), the configuration
//! file ([`file`]), the Python class `pounce.ServerConfig` ([`python`]) and the manual ([`manual`]) are all
//! read off that table, so a setting cannot exist in one of them and be missing in another.
//!
//! ```
//! use pounce_settings::{Sources, resolve};
//!
//! let flags = pounce_settings::flags::command().try_get_matches_from(["pounce", "main:app", "-w", "4"]).unwrap();
//! let sources = Sources { flags: Some(&flags), environment: vec![("PORT".into(), "9000".into())], directory: None };
//! let settings = resolve(&sources).unwrap();
//! assert_eq!(settings.workers, 4);
//! assert_eq!(settings.binds[0].to_string(), "127.0.0.1:9000");
//! assert_eq!(settings.origin("workers").to_string(), "the flag --workers");
//! ```

#![forbid(unsafe_code)]

mod application;
mod bind;
mod duration;
pub mod environment;
mod error;
pub mod file;
pub mod flags;
mod kind;
pub mod manual;
mod origin;
pub mod python;
mod refused;
mod resolve;
mod settings;
mod size;
mod suggest;
mod table;

pub use application::{Application, Target};
pub use bind::Bind;
pub use error::SettingsError;
pub use kind::{Kind, Value};
pub use origin::Origin;
pub use refused::{REFUSED, RefusedFlag};
pub use resolve::{Sources, resolve};
pub use settings::{Lifespan, LogFormat, LogLevel, Settings};
pub use table::{Group, SETTINGS, Setting, Support, find};
