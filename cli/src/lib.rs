//! The parts of the `pounce` executable.

pub mod args;
mod demo;
pub mod demo_worker;
pub mod interpreter;
pub mod pid_file;
pub mod serve;
pub mod systemd;
