//! What must hold of the table itself.

use pounce_settings::{Bind, Kind, REFUSED, SETTINGS, Settings, Sources, Support, Value, resolve};
use std::collections::BTreeSet;

fn defaults() -> Settings {
    resolve(&Sources::default()).expect("the defaults are settings")
}

#[test]
fn every_default_obeys_the_rule_of_its_own_setting() {
    for setting in SETTINGS {
        if let Some(default) = setting.default {
            assert!(setting.kind.read(default, setting.optional).is_ok(), "{}: {default}", setting.name);
        }
    }
}

#[test]
fn no_flag_and_no_variable_means_two_settings() {
    // clap checks flags in debug builds only, and variables not at all.
    pounce_settings::flags::command().debug_assert();
    let mut seen = BTreeSet::new();
    for setting in SETTINGS {
        let variables = setting.variables.iter().map(|v| (*v).to_owned());
        for variable in variables.chain([setting.variable()]) {
            assert!(seen.insert(variable.clone()), "{variable}");
        }
    }
}

#[test]
fn every_setting_that_works_is_a_field_and_every_field_is_a_setting() {
    let json = serde_json::to_value(defaults()).expect("settings serialise");
    let fields: BTreeSet<&str> =
        json.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let folded_into_another = ["host", "port", "bind", "uds", "fd", "factory"];
    let working =
        SETTINGS.iter().filter(|setting| setting.support == Support::Here).map(|setting| setting.name);
    let expected: BTreeSet<&str> = working
        .filter(|name| !folded_into_another.contains(name))
        .chain(["app", "binds", "origins"])
        .collect();
    assert_eq!(fields, expected);
}

#[test]
fn counts_fit_the_fields_that_hold_them() {
    for setting in SETTINGS {
        if let Kind::Count { most, .. } = setting.kind {
            assert!(u32::try_from(most).is_ok(), "{}", setting.name);
        }
    }
}

#[test]
fn a_flag_is_not_both_accepted_and_refused() {
    for setting in SETTINGS {
        let mut names = vec![setting.flag()];
        names.extend(setting.aliases.iter().map(|alias| (*alias).to_owned()));
        names.extend(setting.short.map(String::from));
        for name in names {
            assert!(!REFUSED.iter().any(|flag| flag.names.contains(&name.as_str())), "{name}");
        }
    }
}

#[test]
fn the_machines_take_the_defaults_for_their_own() {
    assert_eq!(defaults().policy(), Ok(pounce_core::Policy::default()));
}

#[test]
fn the_address_by_default_is_not_open_to_the_network() {
    assert_eq!(defaults().binds, [Bind::Tcp { host: "127.0.0.1".into(), port: 8000 }]);
}

#[test]
fn settings_survive_the_way_to_a_worker_unchanged() {
    let arguments =
        ["pounce", "pkg.main:make()", "--request-timeout=1.234567891", "--bind=unix:a,[::1]:1", "-w3"];
    let matches = pounce_settings::flags::command().try_get_matches_from(arguments).expect("good flags");
    let settings = resolve(&Sources { flags: Some(&matches), ..Sources::default() }).expect("good settings");
    let json = serde_json::to_string(&settings).expect("settings serialise");
    assert_eq!(serde_json::from_str::<Settings>(&json).expect("settings deserialise"), settings);
}

#[test]
fn none_is_no_value_of_a_setting_that_cannot_be_off() {
    for setting in SETTINGS.iter().filter(|setting| setting.kind != Kind::Text && setting.kind != Kind::Path)
    {
        let off = setting.kind.read("none", setting.optional) == Ok(Value::None);
        // As an address, "none" is a host name.
        assert_eq!(off, setting.optional, "{}", setting.name);
    }
}
