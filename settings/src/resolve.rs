//! From the places where settings are written to one [`Settings`].
//!
//! Precedence: flag, `POUNCE_*`, bare variable (`PORT`, ...), file, default. The five settings that say where to listen
//! are one choice: the first place that mentions any of them decides between host and port, bind, uds and fd, and
//! places below it only fill in a missing host or port.

use crate::kind::{Refusal, Value};
use crate::table::{SETTINGS, Setting, Support, find};
use crate::{
    Bind, Lifespan, LogFormat, LogLevel, Origin, Settings, SettingsError, Target, environment, file, flags,
};
use clap::ArgMatches;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where settings are read from.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    /// What [`flags::command`] parsed.
    pub flags: Option<&'a ArgMatches>,
    /// Environment variables; those that are not pounce's are passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// Where `pounce.toml` and `pyproject.toml` are looked for; `None` looks for neither.
    pub directory: Option<&'a Path>,
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub value: Value,
    pub origin: Origin,
}

/// What one place says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer {
    pub values: BTreeMap<&'static str, Given>,
    pub app: Option<(String, Origin)>,
}

impl Layer {
    /// Reads `text` by the rule of `setting`.
    pub fn put(
        &mut self,
        setting: &'static Setting,
        text: &str,
        origin: Origin,
    ) -> Result<(), SettingsError> {
        let value = read(setting, text, &origin)?;
        self.put_value(setting, value, origin)
    }

    /// Takes a value that was read already.
    pub fn put_value(
        &mut self,
        setting: &'static Setting,
        value: Value,
        origin: Origin,
    ) -> Result<(), SettingsError> {
        if let (Support::NotYet(reason), true) = (setting.support, value != Value::None) {
            return Err(SettingsError::NotYet { name: setting.name, origin, reason });
        }
        self.values.insert(setting.name, Given { value, origin });
        Ok(())
    }
}

/// Reads `text` by the rule of `setting`, with the error that names both.
pub(crate) fn read(setting: &'static Setting, text: &str, origin: &Origin) -> Result<Value, SettingsError> {
    let refused = |Refusal { rule, hint }: Refusal| SettingsError::BadValue {
        name: setting.name,
        value: text.into(),
        rule,
        hint,
        origin: origin.clone(),
    };
    // `-p 8000` is somebody who means the port, and gunicorn's `-p FILE` is the pid file.
    if setting.name == "pid_file" && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(refused(Refusal {
            rule: "the name of a file".into(),
            hint: format!("for the port use --port {text}; for a file of that name write ./{text}"),
        }));
    }
    setting.kind.read(text, setting.optional).map_err(refused)
}

/// Reads all sources and settles every setting.
///
/// # Errors
///
/// The first thing found wrong, in the order of precedence. Values that a higher place overrides must be valid too, except
/// the bare variables, which belong to the platform and not to pounce.
pub fn resolve(sources: &Sources<'_>) -> Result<Settings, SettingsError> {
    let from_flags = sources.flags.map(flags::read).transpose()?.unwrap_or_default();
    let from_variables = environment::read(&sources.environment)?;
    let named = [&from_flags, &from_variables].into_iter().find_map(|layer| layer.values.get("config"));
    let config = match named {
        Some(Given { value: Value::Text(path), origin }) => Some((PathBuf::from(path), origin)),
        _ => None,
    };
    let (config, from_file) = match file::read(sources.directory, config)? {
        Some((path, layer)) => (Some(path), layer),
        None => (None, Layer::default()),
    };
    let from_bare = environment::read_bare(&sources.environment, |setting| {
        [&from_flags, &from_variables].iter().all(|above| {
            let listens_elsewhere =
                setting.name == "port" && address_styles(above).iter().any(|s| *s != "host");
            !listens_elsewhere && !above.values.contains_key(setting.name)
        })
    })?;
    Chosen { layers: [from_flags, from_variables, from_bare, from_file], origins: BTreeMap::new() }
        .settings(config)
}

/// The layers by precedence, and the origins of what was taken from them.
struct Chosen {
    layers: [Layer; 4],
    origins: BTreeMap<String, Origin>,
}

impl Chosen {
    fn settings(mut self, config: Option<PathBuf>) -> Result<Settings, SettingsError> {
        let binds = self.binds()?;
        let app = self.app()?;
        let root_path = self.text("root_path").unwrap_or_default();
        Ok(Settings {
            app,
            binds,
            backlog: self.count("backlog"),
            app_dir: self.text("app_dir").unwrap_or_default().into(),
            lifespan: match self.text("lifespan").as_deref() {
                Some("on") => Lifespan::On,
                Some("off") => Lifespan::Off,
                _ => Lifespan::Auto,
            },
            root_path: root_path.trim_end_matches('/').to_owned(),
            python: self.text("python").map(PathBuf::from),
            event_loop: self.text("loop").unwrap_or_default(),
            shutdown_timeout: self.span("shutdown_timeout").unwrap_or_default(),
            startup_timeout: self.span("startup_timeout"),
            drain_delay: self.span("drain_delay").unwrap_or_default(),
            keepalive_linger: self.span("keepalive_linger").unwrap_or_default(),
            keep_alive_timeout: self.span("keep_alive_timeout").unwrap_or_default(),
            header_timeout: self.span("header_timeout").unwrap_or_default(),
            body_timeout: self.span("body_timeout").unwrap_or_default(),
            write_timeout: self.span("write_timeout").unwrap_or_default(),
            request_timeout: self.span("request_timeout"),
            max_connections: self.number("max_connections").map(small),
            max_headers: self.count("max_headers"),
            max_header_size: self.number("max_header_size").unwrap_or_default(),
            max_body_size: self.number("max_body_size"),
            health_check_path: self.text("health_check_path"),
            access_log: self.flag("access_log"),
            log_level: match self.text("log_level").as_deref() {
                Some("error") => LogLevel::Error,
                Some("warning") => LogLevel::Warning,
                Some("debug") => LogLevel::Debug,
                Some("trace") => LogLevel::Trace,
                _ => LogLevel::Info,
            },
            log_format: match self.text("log_format").as_deref() {
                Some("json") => LogFormat::Json,
                _ => LogFormat::Text,
            },
            workers: self.count("workers"),
            pid_file: self.text("pid_file").map(PathBuf::from),
            config,
            origins: self.origins,
        })
    }

    /// The value that wins; the default where nothing is given.
    fn take(&mut self, name: &str) -> Value {
        let given = self.layers.iter().find_map(|layer| layer.values.get(name));
        if let Some(Given { value, origin }) = given {
            self.origins.insert(name.into(), origin.clone());
            return value.clone();
        }
        let setting = find(name);
        let default = setting.and_then(|s| s.default.map(|text| s.kind.read(text, s.optional)));
        // That every default obeys its own rule is a test.
        default.and_then(Result::ok).unwrap_or(Value::None)
    }

    fn text(&mut self, name: &str) -> Option<String> {
        if let Value::Text(text) = self.take(name) { Some(text) } else { None }
    }

    fn span(&mut self, name: &str) -> Option<Duration> {
        if let Value::Duration(span) = self.take(name) { Some(span) } else { None }
    }

    fn number(&mut self, name: &str) -> Option<u64> {
        if let Value::Number(number) = self.take(name) { Some(number) } else { None }
    }

    fn count(&mut self, name: &str) -> u32 {
        self.number(name).map(small).unwrap_or_default()
    }

    fn flag(&mut self, name: &str) -> bool {
        self.take(name) == Value::Flag(true)
    }

    fn app(&mut self) -> Result<Option<Target>, SettingsError> {
        let factory = self.flag("factory");
        let Some((text, origin)) = self.layers.iter().find_map(|layer| layer.app.clone()) else {
            return Ok(None);
        };
        let mut target = Target::parse(&text).map_err(|misnamed| SettingsError::Application {
            value: text,
            origin: origin.clone(),
            problem: misnamed.problem,
            suggestion: misnamed.suggestion,
        })?;
        if let Target::Application(application) = &mut target {
            application.factory |= factory;
        }
        self.origins.insert("app".into(), origin);
        Ok(Some(target))
    }

    fn binds(&mut self) -> Result<Vec<Bind>, SettingsError> {
        for layer in &self.layers {
            if let [first, second, ..] = address_styles(layer)[..] {
                // "host" stands for the pair: name the one that was written.
                let written = |style| match style {
                    "host" if !layer.values.contains_key("host") => "port",
                    style => style,
                };
                let place = |name: &'static str| {
                    (name, layer.values.get(name).map_or(Origin::Default, |given| given.origin.clone()))
                };
                return Err(SettingsError::Contradiction {
                    first: place(written(first)),
                    second: place(written(second)),
                    hint: "choose one of --host with --port, --bind, --uds and --fd; --bind may be repeated and takes \
                           HOST:PORT, unix:PATH and fd://N",
                });
            }
        }
        let style = self.layers.iter().find_map(|layer| address_styles(layer).first().copied());
        Ok(match style {
            Some("bind") => match self.take("bind") {
                Value::Binds(binds) => binds,
                _ => Vec::new(),
            },
            Some("uds") => self.text("uds").map(|path| Bind::Unix(path.into())).into_iter().collect(),
            Some("fd") => {
                let number = self.number("fd").and_then(|n| i32::try_from(n).ok());
                number.map(Bind::Descriptor).into_iter().collect()
            }
            _ => {
                let host = self.text("host").unwrap_or_default();
                let port = self
                    .number("port")
                    .and_then(|n| u16::try_from(n).ok())
                    .unwrap_or(crate::bind::DEFAULT_PORT);
                vec![Bind::Tcp { host, port }]
            }
        })
    }
}

/// Which ways of saying where to listen a layer uses; "host" stands for host and port.
fn address_styles(layer: &Layer) -> Vec<&'static str> {
    let given = |name: &str| layer.values.contains_key(name);
    let styles = [
        ("host", given("host") || given("port")),
        ("bind", given("bind")),
        ("uds", given("uds")),
        ("fd", given("fd")),
    ];
    styles.into_iter().filter(|(_, used)| *used).map(|(style, _)| style).collect()
}

/// A count whose range in the table fits `u32`; that it does is a test.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The settings of that a layer may contain, for "did you mean".
pub(crate) fn names(in_file: bool) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| setting.in_file || !in_file)
}
