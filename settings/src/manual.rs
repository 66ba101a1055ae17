//! The reference in `docs/settings.md`, written from the table.

use crate::kind::Kind;
use crate::refused::{LOG_FILE_REASON, LOG_FILES, REFUSED};
use crate::table::{Group, SETTINGS, Setting, Support};
use std::fmt::Write;

const INTRODUCTION: &str = "\
# Settings

<!-- Written from settings/src/table.rs by `UPDATE=1 cargo test -p pounce-settings`; do not edit. -->

Every setting can be given as a flag, as an environment variable, as a key of `pounce.toml` (or of `[tool.pounce]` in
`pyproject.toml`; `--config FILE` names another file) and as a keyword of `pounce.ServerConfig`. A flag beats
`POUNCE_NAME`, that beats the bare variables `PORT`, `WEB_CONCURRENCY` and `SHUTDOWN_TIMEOUT`, those beat the file, and that beats
the default. The application itself is the argument, `POUNCE_APP`, or the key `app`.

* A duration is a number of seconds (`30`, `2.5`) or has a unit: `500ms`, `30s`, `2m`, `1h`. At most a day.
* A size is a number of bytes or has a unit: `64k`, `64KiB`, `10m`.
* `none` turns a setting off where the table says so.
* An environment variable that is set to the empty string counts as unset.
* Keys may be written `shutdown_timeout` or `shutdown-timeout`. An unknown key, an unknown `POUNCE_` variable and a value
  outside its range are errors that end `pounce` with exit code 2.
* `--host` with `--port`, `--bind`, `--uds` and `--fd` are four ways to say one thing. The first place (in the order
  above) that uses one of them decides; two of them in the same place are an error.
* `drain_delay` and `shutdown_timeout` together are the longest time from the signal to the exit, plus at most 1 s. Kubernetes kills
  after `terminationGracePeriodSeconds`, 30 by default and counted from the start of the preStop hook: keep the sum, and the
  hook's time, below it.
";

/// The whole page, in Markdown.
pub fn markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    for group in Group::ALL {
        page += &format!("\n## {}\n\n", group.heading());
        page += "| key | flags | other variables | default | must be | |\n|---|---|---|---|---|---|\n";
        for setting in SETTINGS.iter().filter(|setting| setting.group == group) {
            page += &row(setting);
        }
    }
    page += "\n## Flags of other servers that are refused\n\n| flag | why, and what to do |\n|---|---|\n";
    for flag in REFUSED {
        page +=
            &format!("| {} | pounce: {} |\n", list(flag.names.iter().map(|name| dashed(name))), flag.reason);
    }
    let files = list(LOG_FILES.iter().map(|name| format!("--{name}")));
    page + &format!(
        "| {files} | `-` is accepted (and `--access-logfile -` turns the access log on); otherwise: {LOG_FILE_REASON} |\n"
    )
}

fn row(setting: &Setting) -> String {
    let mut flags = vec![format!("--{}", setting.flag())];
    flags.extend(setting.short.map(|letter| format!("-{letter}")));
    if setting.kind == Kind::Flag {
        flags.push(format!("--no-{}", setting.flag()));
    }
    flags.extend(setting.aliases.iter().map(|alias| format!("--{alias}")));
    let default = match setting.default {
        Some("") => "empty".into(),
        Some(default) => format!("`{default}`"),
        None => "none".into(),
    };
    let must_be =
        if setting.optional { format!("{}, or `none`", setting.kind.rule()) } else { setting.kind.rule() };
    let help = match setting.support {
        Support::Here => setting.help.to_owned(),
        Support::NotYet(reason) => format!("{} **Not there yet**: {reason}.", setting.help),
    };
    let variables = list(setting.variables.iter().map(|name| (*name).to_owned()));
    let mut row = String::new();
    let _ = writeln!(
        row,
        "| `{}` | {} | {variables} | {default} | {must_be} | {help} |",
        setting.name,
        list(flags.into_iter())
    );
    row
}

fn dashed(name: &str) -> String {
    if name.len() == 1 { format!("-{name}") } else { format!("--{name}") }
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.map(|item| format!("`{item}`")).collect::<Vec<_>>().join(" ")
}
