//! Settings from `pounce.toml`, or from `[tool.pounce]` of `pyproject.toml`.

use crate::kind::{Kind, Refusal, Value};
use crate::resolve::{Layer, names};
use crate::table::Setting;
use crate::{Origin, SettingsError, environment::meant, refused};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Reads the file that was `named`, or else the one found in `directory`, if there is one.
pub(crate) fn read(
    directory: Option<&Path>,
    named: Option<(PathBuf, &Origin)>,
) -> Result<Option<(PathBuf, Layer)>, SettingsError> {
    if let Some((path, origin)) = named {
        let place = format!("{} (named by {origin})", path.display());
        if path.extension().is_some_and(|extension| extension != "toml") {
            let problem = "the configuration must be a .toml file; other servers' .py, .json or .ini files are not read";
            return Err(SettingsError::File { place, problem: problem.into() });
        }
        let text = std::fs::read_to_string(directory.unwrap_or(Path::new("")).join(&path))
            .map_err(|error| SettingsError::File { place, problem: format!("cannot be read: {error}") })?;
        let layer = parse(&path.display().to_string(), &text, is_pyproject(&path))?.unwrap_or_default();
        return Ok(Some((path, layer)));
    }
    let Some(directory) = directory else { return Ok(None) };
    for name in ["pounce.toml", "pyproject.toml"] {
        match std::fs::read_to_string(directory.join(name)) {
            Ok(text) => {
                if let Some(layer) = parse(name, &text, is_pyproject(Path::new(name)))? {
                    return Ok(Some((name.into(), layer)));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(SettingsError::File {
                    place: name.into(),
                    problem: format!("cannot be read: {error}"),
                });
            }
        }
    }
    Ok(None)
}

fn is_pyproject(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "pyproject.toml")
}

/// Reads the whole document, or its `[tool.pounce]`; `None` when that is absent.
fn parse(path: &str, text: &str, pyproject: bool) -> Result<Option<Layer>, SettingsError> {
    let document = DeTable::parse(text).map_err(|error| {
        let place =
            error.span().map_or(path.to_owned(), |span| format!("{path}:{}", line_of(text, span.start)));
        SettingsError::File { place, problem: format!("not valid TOML: {}", error.message().trim_end()) }
    })?;
    let origin = |at: usize| Origin::File { path: path.to_owned(), line: line_of(text, at) };
    let document = DeValue::Table(document.into_inner());
    let table = if pyproject {
        let Some(table) = document.get("tool").and_then(|tool| tool.get_ref().get("pounce")) else {
            return Ok(None);
        };
        match table.get_ref().as_table() {
            Some(entries) => entries,
            None => {
                let place = origin(table.span().start).to_string();
                return Err(SettingsError::File { place, problem: "tool.pounce must be a table".into() });
            }
        }
    } else {
        match document.as_table() {
            Some(entries) => entries,
            None => return Ok(None),
        }
    };
    let mut entries: Vec<_> = table.iter().collect();
    // The map is sorted by key; errors should come in the order of the lines.
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut layer = Layer::default();
    for (key, value) in entries {
        put(&mut layer, key.get_ref(), value, origin(key.span().start))?;
    }
    Ok(Some(layer))
}

fn put(
    layer: &mut Layer,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    origin: Origin,
) -> Result<(), SettingsError> {
    let name = key.replace('-', "_");
    if name == "app" {
        let text = value.get_ref().as_str().ok_or_else(|| SettingsError::BadValue {
            name: "app",
            value: written(value.get_ref()),
            rule: "a string such as \"main:app\"".into(),
            hint: String::new(),
            origin: origin.clone(),
        })?;
        layer.app = Some((text.to_owned(), origin));
        return Ok(());
    }
    let Some(setting) = names(true).find(|setting| setting.name == name) else {
        return Err(SettingsError::Unknown {
            key: key.into(),
            what: "setting",
            suggestion: meant(&name, names(true).collect::<Vec<_>>().into_iter()).map(str::to_owned),
            reason: refused::reason(&name),
            origin,
        });
    };
    if let Some(other) = layer.values.get(setting.name) {
        let problem = format!("{} is set twice, here and at {}", setting.name, other.origin);
        return Err(SettingsError::File { place: origin.to_string(), problem });
    }
    match value.get_ref() {
        DeValue::Array(items) if setting.kind == Kind::Binds && !items.is_empty() => {
            let mut binds = Vec::new();
            for item in items.iter() {
                let item = item.get_ref();
                let text = item.as_str().ok_or_else(|| wrong_type(setting, item, &origin))?;
                match crate::resolve::read(setting, text, &origin)? {
                    Value::Binds(more) => binds.extend(more),
                    _ => return Err(wrong_type(setting, item, &origin)),
                }
            }
            layer.put_value(setting, Value::Binds(binds), origin)
        }
        DeValue::String(text) => layer.put(setting, text, origin),
        DeValue::Boolean(on) if setting.kind == Kind::Flag => {
            layer.put_value(setting, Value::Flag(*on), origin)
        }
        number @ (DeValue::Integer(_) | DeValue::Float(_)) if takes_numbers(&setting.kind) => {
            layer.put(setting, &written(number), origin)
        }
        other => Err(wrong_type(setting, other, &origin)),
    }
}

fn takes_numbers(kind: &Kind) -> bool {
    matches!(kind, Kind::Count { .. } | Kind::Duration { .. } | Kind::Size { .. })
}

fn wrong_type(setting: &'static Setting, value: &DeValue<'_>, origin: &Origin) -> SettingsError {
    let Refusal { rule, hint } =
        Refusal { rule: setting.kind.rule(), hint: setting.kind.hint(setting.optional) };
    SettingsError::BadValue { name: setting.name, value: written(value), rule, hint, origin: origin.clone() }
}

/// A value as an error shows it.
fn written(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.clone().into_owned(),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => number.to_string(),
            Err(_) => number.to_string(),
        },
        // Without an exponent where there need be none; 2.0 stays 2.0, which is no whole number.
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(number) => format!("{number:?}"),
            Err(_) => number.to_string(),
        },
        DeValue::Boolean(on) => on.to_string(),
        DeValue::Datetime(when) => when.to_string(),
        DeValue::Array(items) if items.is_empty() => "an empty array".into(),
        DeValue::Array(_) => "an array".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

/// The line, counted from 1, of the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
