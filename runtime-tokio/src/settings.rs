//! What the settings of the product mean here. Only with the feature `settings`.

use pounce_settings::{LogFormat, LogLevel, Settings};

use crate::logging;
use crate::shared::ServeOptions;

impl From<&Settings> for ServeOptions {
    fn from(settings: &Settings) -> ServeOptions {
        ServeOptions {
            health_check_path: settings.health_check_path.clone(),
            access_log: settings.access_log,
            max_body_size: settings.max_body_size,
            max_headers: settings.max_headers as usize,
            max_header_size: usize::try_from(settings.max_header_size).unwrap_or(usize::MAX),
            date_header: true,
        }
    }
}

impl From<LogFormat> for logging::Format {
    fn from(format: LogFormat) -> logging::Format {
        match format {
            LogFormat::Text => logging::Format::Text,
            LogFormat::Json => logging::Format::Json,
        }
    }
}

impl From<LogLevel> for logging::Level {
    fn from(level: LogLevel) -> logging::Level {
        match level {
            LogLevel::Error => logging::Level::Error,
            LogLevel::Warning => logging::Level::Warning,
            LogLevel::Info => logging::Level::Info,
            LogLevel::Debug => logging::Level::Debug,
            LogLevel::Trace => logging::Level::Trace,
        }
    }
}
