//! The parts of the `pounce` executable.

pub mod args;
pub mod interpreter;
pub mod pid_file;
pub mod serve;
pub mod systemd;
