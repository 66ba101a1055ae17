//! Settings from the command line: the clap command is built from the table.

use crate::kind::Kind;
use crate::refused::{LOG_FILE_REASON, LOG_FILES, REFUSED};
use crate::resolve::{Given, Layer, read as read_value};
use crate::table::{Group, SETTINGS, Setting, Support};
use crate::{Origin, SettingsError, Value, find};
use clap::{Arg, ArgAction, ArgMatches, Command};

const PRECEDENCE: &str = "\
A flag beats POUNCE_NAME, that beats the bare variables PORT, WEB_CONCURRENCY and SHUTDOWN_TIMEOUT, those beat \
pounce.toml (or [tool.pounce] of pyproject.toml), and that beats the default.
DURATION is a number of seconds (30, 2.5) or has a unit (500ms, 30s, 2m, 1h). SIZE may end in k, m or g.

Exit codes: 0 clean, 1 internal failure, 2 usage or configuration, 3 the application failed to start, \
4 something was cut at the deadline, 5 crash loop.";

/// What `--help` says of the application argument.
const APP_HELP: &str = "module:attribute, module:attribute.nested or module:factory(); or `demo`, a service built into pounce [env: POUNCE_APP]";

/// The `pounce` command. Its matches are for [`resolve`](crate::resolve).
pub fn command() -> Command {
    let mut command = Command::new("pounce")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Serves a Python ASGI application, and loses no request when it is told to stop.")
        .override_usage("pounce [OPTIONS] APP\n       pounce [OPTIONS] demo")
        .after_help(PRECEDENCE)
        .args_override_self(true)
        .max_term_width(110)
        .arg(Arg::new("app").value_name("APP").help(APP_HELP));
    for group in Group::ALL {
        for setting in SETTINGS.iter().filter(|setting| setting.group == group) {
            command = command.args(args_of(setting));
        }
    }
    for name in REFUSED.iter().flat_map(|flag| flag.names) {
        command = command.arg(
            spelled(Arg::new(refused_id(name)).hide(true), name).num_args(0..=1).action(ArgAction::Append),
        );
    }
    for name in LOG_FILES {
        command = command.arg(Arg::new(*name).long(*name).hide(true).num_args(1).allow_hyphen_values(true));
    }
    command
}

/// The flag itself, `--no-` for a flag that is on or off, and the hidden aliases. An alias is an argument of its
/// own, because clap does not say which spelling was used and an error should.
fn args_of(setting: &'static Setting) -> Vec<Arg> {
    let help_heading = setting.group.heading();
    let mut args = vec![
        shaped(setting, Arg::new(setting.name).long(setting.flag()))
            .help(help_of(setting))
            .help_heading(help_heading)
            .hide(setting.support != Support::Here),
    ];
    if let Some(short) = setting.short {
        args[0] = args[0].clone().short(short);
    }
    if setting.kind == Kind::Flag {
        let off = format!("no-{}", setting.flag());
        args.push(switch(Arg::new(off.clone()).long(off)).hide(true));
    }
    args.extend(
        setting.aliases.iter().map(|alias| shaped(setting, Arg::new(*alias).long(*alias)).hide(true)),
    );
    args
}

fn shaped(setting: &'static Setting, arg: Arg) -> Arg {
    match setting.kind {
        Kind::Flag => switch(arg),
        _ => {
            // So that `-5` reaches the rule that forbids it, instead of being an unknown flag.
            let number =
                matches!(setting.kind, Kind::Count { .. } | Kind::Duration { .. } | Kind::Size { .. });
            arg.num_args(1)
                .action(ArgAction::Append)
                .value_name(setting.value_name)
                .allow_hyphen_values(number)
        }
    }
}

/// A flag without a value. clap keeps an index, which says whether `--x` or `--no-x` came last, only where it stores a value.
fn switch(arg: Arg) -> Arg {
    arg.num_args(0).default_missing_value("on").action(ArgAction::Append)
}

fn spelled(arg: Arg, name: &'static str) -> Arg {
    match name.chars().next() {
        Some(letter) if name.len() == 1 => arg.short(letter),
        _ => arg.long(name),
    }
}

fn refused_id(name: &str) -> String {
    format!("refused {name}")
}

fn help_of(setting: &Setting) -> String {
    let mut help = setting.help.to_owned();
    if let Kind::Choice { words: words @ [_, _, ..], .. } = setting.kind {
        help += &format!(" [possible: {}]", words.join(", "));
    }
    match setting.default {
        _ if setting.kind == Kind::Flag => {}
        Some("") | None => {}
        Some(default) => help += &format!(" [default: {default}]"),
    }
    let mut also: Vec<String> = setting.aliases.iter().map(|alias| format!("--{alias}")).collect();
    if setting.kind == Kind::Flag {
        also.insert(0, format!("--no-{}", setting.flag()));
    }
    if setting.name == "access_log" {
        also.push("--access-logfile -".into());
    }
    if !also.is_empty() {
        help += &format!(" [also: {}]", also.join(", "));
    }
    let variables: Vec<String> = std::iter::once(setting.variable())
        .chain(setting.variables.iter().map(|v| (*v).to_owned()))
        .collect();
    help + &format!(" [env: {}]", variables.join(", "))
}

/// Reads what [`command`] matched.
pub(crate) fn read(matches: &ArgMatches) -> Result<Layer, SettingsError> {
    for flag in REFUSED {
        for name in flag.names {
            if matches.contains_id(&refused_id(name)) {
                let flag_typed = if name.len() == 1 { format!("-{name}") } else { format!("--{name}") };
                return Err(SettingsError::Refused { flag: flag_typed, reason: flag.reason });
            }
        }
    }
    let app = matches.get_one::<String>("app").map(|text| (text.clone(), Origin::Argument));
    let mut layer = Layer { app, ..Layer::default() };
    for name in LOG_FILES {
        match matches.get_one::<String>(name).map(String::as_str) {
            None => {}
            Some("-") => {
                if let (Some(setting), "access-logfile") = (find("access_log"), *name) {
                    layer.put_value(setting, Value::Flag(true), Origin::Flag(format!("--{name}")))?;
                }
            }
            Some(file) => {
                return Err(SettingsError::Refused {
                    flag: format!("--{name} {file}"),
                    reason: LOG_FILE_REASON,
                });
            }
        }
    }
    for setting in SETTINGS {
        read_setting(matches, setting, &mut layer)?;
    }
    Ok(layer)
}

fn read_setting(
    matches: &ArgMatches,
    setting: &'static Setting,
    layer: &mut Layer,
) -> Result<(), SettingsError> {
    if setting.kind == Kind::Flag {
        let last = |id: &str| matches.indices_of(id).and_then(Iterator::max);
        let (on, off) = (setting.flag(), format!("no-{}", setting.flag()));
        let (turned, flag) = match (last(setting.name), last(&off)) {
            (None, None) => return Ok(()),
            (on_at, off_at) if on_at > off_at => (true, on),
            _ => (false, off),
        };
        return layer.put_value(setting, Value::Flag(turned), Origin::Flag(format!("--{flag}")));
    }
    // All spellings in the order they were typed; the last one counts, except that addresses add up.
    let mut typed: Vec<(usize, &str, String)> = Vec::new();
    for (id, flag) in std::iter::once((setting.name, setting.flag()))
        .chain(setting.aliases.iter().map(|a| (*a, (*a).into())))
    {
        let values = matches.get_many::<String>(id).into_iter().flatten();
        let indices = matches.indices_of(id).into_iter().flatten();
        typed.extend(indices.zip(values).map(|(index, value)| (index, value.as_str(), format!("--{flag}"))));
    }
    typed.sort();
    for (_, text, flag) in typed {
        let earlier = layer.values.remove(setting.name);
        let origin = Origin::Flag(flag);
        match (read_value(setting, text, &origin)?, earlier) {
            (Value::Binds(binds), Some(Given { value: Value::Binds(mut all), .. })) => {
                all.extend(binds);
                layer.put_value(setting, Value::Binds(all), origin)?;
            }
            (value, _) => layer.put_value(setting, value, origin)?,
        }
    }
    Ok(())
}
