//! The Python side of the table: the data that `pounce.ServerConfig` validates by, and its type stub.

use crate::kind::{Kind, Value, at_most};
use crate::refused::REFUSED;
use crate::table::{SETTINGS, Setting, Support};
use serde::Serialize;
use std::collections::BTreeMap;

/// The contents of `_settings.json`.
#[derive(Serialize)]
struct Definition {
    note: &'static str,
    settings: Vec<Row>,
    /// Other servers' names for a setting, by that name.
    renamed: BTreeMap<String, &'static str>,
    /// Other servers' settings that do not exist here, and why.
    refused: BTreeMap<String, &'static str>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    flag: String,
    kind: &'static str,
    /// Durations in seconds, sizes in bytes.
    default: serde_json::Value,
    optional: bool,
    rule: String,
    hint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    least: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    most: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    too_much: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    may_be_empty: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<&'static [&'static str]>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    synonyms: BTreeMap<&'static str, &'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_yet: Option<&'static str>,
}

const NOTE: &str =
    "Written from settings/src/table.rs by `UPDATE=1 cargo test -p pounce-settings`; do not edit.";

/// The text of `pounce/_settings.json`.
pub fn settings_json() -> String {
    let renamed = SETTINGS
        .iter()
        .flat_map(|setting| setting.aliases.iter().map(|alias| (keyword(alias), setting.name)))
        .collect();
    let refused = REFUSED
        .iter()
        .flat_map(|flag| {
            flag.names.iter().filter(|name| name.len() > 1).map(|name| (keyword(name), flag.reason))
        })
        .collect();
    let definition =
        Definition { note: NOTE, settings: SETTINGS.iter().map(row).collect(), renamed, refused };
    // Strings, numbers and maps with string keys always serialise.
    serde_json::to_string_pretty(&definition).unwrap_or_default() + "\n"
}

fn keyword(flag: &str) -> String {
    flag.replace('-', "_")
}

fn row(setting: &Setting) -> Row {
    let mut row = Row {
        name: setting.name,
        flag: setting.flag(),
        kind: "",
        default: default(setting),
        optional: setting.optional,
        rule: setting.kind.rule(),
        hint: setting.kind.hint(setting.optional),
        least: None,
        most: None,
        too_much: None,
        may_be_empty: None,
        words: None,
        synonyms: BTreeMap::new(),
        not_yet: match setting.support {
            Support::Here => None,
            Support::NotYet(reason) => Some(reason),
        },
    };
    match setting.kind {
        Kind::Text => row.kind = "text",
        Kind::Host => row.kind = "host",
        Kind::Path => row.kind = "path",
        Kind::UrlPath { may_be_empty } => {
            row.kind = "url_path";
            row.may_be_empty = Some(may_be_empty);
        }
        Kind::Flag => row.kind = "flag",
        Kind::Count { least, most } => {
            row.kind = "count";
            (row.least, row.most) = (Some(least), Some(most));
        }
        Kind::Size { least, most } => {
            row.kind = "size";
            (row.least, row.most) = (Some(least), Some(most));
        }
        Kind::Duration { may_be_zero, most_seconds } => {
            row.kind = "duration";
            // In nanoseconds: the shortest that is not zero is 1.
            (row.least, row.most) = (Some(u64::from(!may_be_zero)), Some(most_seconds));
            row.too_much = Some(at_most(most_seconds));
        }
        Kind::Choice { words, synonyms, .. } => {
            row.kind = "choice";
            row.words = Some(words);
            row.synonyms = synonyms.iter().copied().collect();
        }
        Kind::Binds => row.kind = "binds",
    }
    row
}

/// The default as Python sees it.
fn default(setting: &Setting) -> serde_json::Value {
    match setting.default.map(|text| setting.kind.read(text, setting.optional)) {
        Some(Ok(Value::Flag(on))) => on.into(),
        Some(Ok(Value::Number(number))) => number.into(),
        Some(Ok(Value::Duration(span))) => span.as_secs_f64().into(),
        Some(Ok(Value::Text(text))) => text.into(),
        Some(Ok(Value::Binds(binds))) => binds.iter().map(ToString::to_string).collect(),
        Some(Ok(Value::None) | Err(_)) | None => serde_json::Value::Null,
    }
}

/// The text of `pounce/_config.pyi`, for editors and type checkers.
pub fn stub() -> String {
    let mut stub = format!(
        "# {NOTE}\n\
         import os\n\
         from collections.abc import Sequence\n\
         from datetime import timedelta\n\
         from typing import Literal, final\n\n\
         @final\n\
         class ServerConfig:\n    \
             def __init__(\n        self,\n        *,\n"
    );
    for setting in SETTINGS {
        let (accepted, _) = types(setting);
        let none = if can_be_none(setting) { " | None" } else { "" };
        stub += &format!("        {}: {accepted}{none} = ...,\n", setting.name);
    }
    stub += "    ) -> None: ...\n";
    for setting in SETTINGS {
        let (_, held) = types(setting);
        let none = if can_be_none(setting) { " | None" } else { "" };
        stub += &format!(
            "    @property\n    def {}(self) -> {held}{none}:\n        \"\"\"{}\"\"\"\n",
            setting.name, setting.help
        );
    }
    stub + "    def to_args(self) -> list[str]: ...\n    \
            def __eq__(self, other: object) -> bool: ...\n    \
            def __hash__(self) -> int: ...\n"
}

/// Keywords that can be off, and those whose default is `None`, accept it.
fn can_be_none(setting: &Setting) -> bool {
    setting.optional || setting.default.is_none()
}

/// What a keyword accepts and what its attribute holds, as Python types.
fn types(setting: &Setting) -> (String, String) {
    let same = |name: &str| (name.to_owned(), name.to_owned());
    match setting.kind {
        Kind::Text | Kind::Host | Kind::UrlPath { .. } => same("str"),
        Kind::Path => ("str | os.PathLike[str]".into(), "str".into()),
        Kind::Flag => same("bool"),
        Kind::Count { .. } => same("int"),
        Kind::Size { .. } => ("int | str".into(), "int".into()),
        Kind::Duration { .. } => ("float | str | timedelta".into(), "float".into()),
        Kind::Choice { words, .. } => {
            let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            same(&format!("Literal[{}]", words.join(", ")))
        }
        Kind::Binds => ("str | Sequence[str]".into(), "tuple[str, ...]".into()),
    }
}
