//! Settings from environment variables: `POUNCE_*`, and a few bare names that platforms set.

use crate::resolve::Layer;
use crate::table::{SETTINGS, Setting};
use crate::{Origin, SettingsError, refused, suggest};
use std::ffi::{OsStr, OsString};

/// Variables that pounce's own processes tell each other and that are no settings.
const INTERNAL: [&str; 2] = ["POUNCE_CONTROL_FD", "POUNCE_EXTENSION"];

/// The variables of this process.
pub fn of_process() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}

/// Reads `POUNCE_*`. A variable set to the empty string counts as unset; an unknown one is an error.
pub(crate) fn read(environment: &[(OsString, OsString)]) -> Result<Layer, SettingsError> {
    let mut layer = Layer::default();
    let mut variables: Vec<_> = environment.iter().filter(|(_, value)| !value.is_empty()).collect();
    // The environment has no order: without this, which of two errors is shown would be chance.
    variables.sort();
    for (name, value) in variables {
        let name = name.to_string_lossy();
        if !name.starts_with("POUNCE_") || INTERNAL.contains(&&*name) || is_service_link(&name, value) {
            continue;
        }
        let origin = Origin::Variable(name.clone().into_owned());
        if name == "POUNCE_APP" {
            layer.app = Some((text("app", value, &origin)?, origin));
        } else if let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == name) {
            layer.put(setting, &text(setting.name, value, &origin)?, origin)?;
        } else {
            return Err(unknown(&name, origin));
        }
    }
    Ok(layer)
}

/// Reads the bare variables of the settings that are `wanted`.
pub(crate) fn read_bare(
    environment: &[(OsString, OsString)],
    wanted: impl Fn(&Setting) -> bool,
) -> Result<Layer, SettingsError> {
    let mut layer = Layer::default();
    for setting in SETTINGS.iter().filter(|setting| wanted(setting)) {
        for name in setting.variables {
            let set = environment.iter().find(|(n, value)| n == name && !value.is_empty());
            if let Some((_, value)) = set {
                let origin = Origin::Variable((*name).into());
                layer.put(setting, &text(setting.name, value, &origin)?, origin)?;
            }
        }
    }
    Ok(layer)
}

/// Kubernetes and Docker describe a service named `pounce` to every container beside it by `POUNCE_PORT=tcp://...`,
/// `POUNCE_SERVICE_HOST` and the like. They are not meant for us.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let value = value.to_string_lossy();
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    name.starts_with("POUNCE_SERVICE_")
        || name.strip_prefix("POUNCE_PORT").is_some_and(|rest| {
            (rest.is_empty() && is_url)
                || rest.strip_prefix('_').is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
        })
}

fn text(name: &'static str, value: &OsStr, origin: &Origin) -> Result<String, SettingsError> {
    value.to_str().map(str::to_owned).ok_or_else(|| SettingsError::BadValue {
        name,
        value: value.to_string_lossy().into_owned(),
        rule: "UTF-8".into(),
        hint: String::new(),
        origin: origin.clone(),
    })
}

fn unknown(variable: &str, origin: Origin) -> SettingsError {
    let key = variable.trim_start_matches("POUNCE_").to_ascii_lowercase();
    SettingsError::Unknown {
        key: variable.into(),
        what: "environment variable",
        origin,
        suggestion: meant(&key, SETTINGS.iter()).map(|name| format!("POUNCE_{}", name.to_ascii_uppercase())),
        reason: refused::reason(&key),
    }
}

/// The setting that an unknown snake-case key stands for: another server's name for one, or the nearest name.
pub(crate) fn meant(
    key: &str,
    known: impl Iterator<Item = &'static Setting> + Clone,
) -> Option<&'static str> {
    let flag = key.replace('_', "-");
    if refused::reason(&flag).is_some() {
        return None;
    }
    let renamed = known.clone().find(|setting| setting.aliases.contains(&&*flag)).map(|setting| setting.name);
    renamed.or_else(|| suggest::nearest(key, known.map(|setting| setting.name).chain(["app"])))
}
