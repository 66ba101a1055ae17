//! The files that are written from the table are as the table writes them. `UPDATE=1 cargo test -p pounce-settings`
//! writes them again.

use std::path::Path;

fn check(path: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(&file, text).expect("the file can be written");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == text,
        "{path} is out of date: run `UPDATE=1 cargo test -p pounce-settings` and commit it"
    );
}

#[test]
fn the_manual_is_up_to_date() {
    check("docs/settings.md", &pounce_settings::manual::markdown());
}

#[test]
fn the_data_of_the_python_class_is_up_to_date() {
    check("asgi/python/pounce/_settings.json", &pounce_settings::python::settings_json());
}

#[test]
fn the_type_stub_of_the_python_class_is_up_to_date() {
    check("asgi/python/pounce/_config.pyi", &pounce_settings::python::stub());
}
