//! Tells the crate which interpreter it is built for, and the linker that libpython is not needed.

fn main() {
    let config = pyo3_build_config::get();
    let abi = config.target_abi();
    let built_for = match abi.kind() {
        // Not what the feature says: for a free-threaded Python, which has no stable ABI, PyO3 builds for the version.
        pyo3_build_config::PythonAbiKind::Stable(_) => format!("abi3>={}", abi.version()),
        kind => format!("{}{}", abi.version(), if kind.is_free_threaded() { "t" } else { "" }),
    };
    println!("cargo::rustc-env=POUNCE_BUILT_FOR={built_for}");
    pyo3_build_config::use_pyo3_cfgs();
    pyo3_build_config::add_extension_module_link_args();
}
