//! What is here for the simulator must not be in the product: cargo turns a feature on for everybody in one build.

use std::process::Command;

#[test]
fn the_product_has_no_planted_bugs_and_no_clock_that_can_be_paused() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--package",
            "pounce",
            "--edges",
            "normal,build,features",
            "--prefix",
            "none",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs: it runs this test");
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(tree.contains("tokio feature \"rt\""), "the tree has features in it: {tree}");
    for feature in ["mutants", "test-util"] {
        let found: Vec<&str> =
            tree.lines().filter(|line| line.contains(&format!("feature \"{feature}\""))).collect();
        assert!(found.is_empty(), "{feature} is on in the product: {found:?}");
    }
}
