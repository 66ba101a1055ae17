//! Tells the crate which interpreter it is built for, and the linker that libpython is not needed.

fn main() {
    let config = pyo3_build_config::get();
    let built_for = if std::env::var_os("CARGO_FEATURE_ABI3").is_some() {
        "abi3>=3.10".to_owned()
    } else {
        let free_threaded = if config.target_abi().kind().is_free_threaded() { "t" } else { "" };
        format!("{}{free_threaded}", config.version())
    };
    println!("cargo::rustc-env=POUNCE_BUILT_FOR={built_for}");
    pyo3_build_config::use_pyo3_cfgs();
    pyo3_build_config::add_extension_module_link_args();
}
