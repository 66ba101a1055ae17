//! The real sources of connections, workers, orders and signals: sockets, processes and descriptors of Linux.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "pounce runs on Linux only: it hands sockets to its workers over sequenced-packet Unix sockets, watches \
     them through pidfds and drops new connection attempts with a socket filter"
);

pub mod control;
mod lazy_fd;
pub mod listener;
pub mod process;
pub mod signals;
