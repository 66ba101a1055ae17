//! The same seed is the same run, to the byte: in another thread, in another process, in another second of the wall clock.
//! A check that runs twice in a row in one thread would miss half of what can leak; that is tested too, with planted leaks.

#![allow(clippy::disallowed_methods, reason = "the test itself waits for the wall clock")]

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sim::engine;
use sim::leaks::{Leak, Planted};
use sim::scenario::Scenario;

const SEEDS: std::ops::Range<u64> = 0x5EED..0x5EED + 100;

fn hashes(seeds: std::ops::Range<u64>) -> Vec<u64> {
    seeds.map(|seed| engine::run(&Scenario::draw(seed)).hash).collect()
}

/// Hashes of a thread that plants `leak` first.
fn leaking(leak: Leak, seeds: std::ops::Range<u64>) -> Vec<u64> {
    std::thread::spawn(move || {
        let _planted = Planted::new(leak);
        hashes(seeds)
    })
    .join()
    .expect("the thread runs to its end")
}

/// Waits until the wall clock shows another second than when it was called.
fn another_second() {
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let before = second();
    while second() == before {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Hashes of another process: this test binary again.
fn of_another_process(leak: &str) -> String {
    let output = Command::new(std::env::current_exe().expect("this test's own path"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env("SIM_CHILD", leak)
        .output()
        .expect("this test's own binary starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once("HASHES ")).map(|(_, hashes)| hashes.to_owned());
    line.unwrap_or_else(|| panic!("no hashes from the other process: {text}"))
}

/// Not a test of its own: what [`of_another_process`] runs.
#[test]
fn child() {
    match std::env::var("SIM_CHILD").as_deref() {
        Ok("none") => println!("\nHASHES {:?}", hashes(SEEDS)),
        Ok("hash-order") => println!("\nHASHES {:?}", leaking(Leak::HashOrder, 1..6)),
        _ => {}
    }
}

#[test]
fn a_seed_is_the_same_run_in_another_thread_process_and_second() {
    let here = hashes(SEEDS);
    let there = std::thread::spawn(|| hashes(SEEDS)).join().expect("the thread runs to its end");
    assert_eq!(here, there, "another thread");
    another_second();
    assert_eq!(format!("{here:?}"), of_another_process("none"), "another process, another second");
}

#[test]
fn seeds_differ() {
    let mut all = hashes(SEEDS);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 100, "two seeds with one hash: the hash sees too little");
}

#[test]
fn a_watch_channel_is_caught() {
    assert_ne!(leaking(Leak::Watch, 1..11), leaking(Leak::Watch, 1..11));
}

#[test]
fn the_order_of_a_hash_map_is_caught() {
    assert_ne!(format!("{:?}", leaking(Leak::HashOrder, 1..6)), of_another_process("hash-order"));
}

#[test]
fn the_wall_clock_in_a_date_header_is_caught() {
    let before = leaking(Leak::Date, 1..6);
    another_second();
    // hyper renews its cached date once a second.
    assert_ne!(before, leaking(Leak::Date, 1..6));
}

#[test]
fn the_standard_clock_is_caught() {
    assert_ne!(leaking(Leak::StdInstant, 1..11), leaking(Leak::StdInstant, 1..11));
}
