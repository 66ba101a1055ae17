//! Alone in its process, because it counts the process's descriptors.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the real operating system is what is tested"
)]

use std::future::poll_fn;
use std::os::unix::net::UnixStream;
use std::process::Command;

use pounce_core::protocol::ToWorker;
use pounce_runtime_tokio::listener::Accepted;
use pounce_runtime_tokio::os::process::OsWorkerHost;
use pounce_runtime_tokio::worker_host::{HostEvent, WorkerHost};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn three_hundred_workers_leave_no_descriptor_behind() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut host = OsWorkerHost::new(|number, _| match number {
            // Every third cannot even be started.
            0 => Command::new("/no/such/program"),
            _ => Command::new("/bin/true"),
        })
        .unwrap();
        let mut before = None;
        for round in 0..300 {
            if host.spawn(round, (round % 3) as u32, 1).is_ok() {
                let (io, _client) = UnixStream::pair().unwrap();
                host.tell(round, &ToWorker::LameDuck);
                host.deal(round, Accepted { io: io.into(), peer: None, local: None }).unwrap();
                let event = poll_fn(|cx| host.poll_event(cx)).await;
                let HostEvent::Exited { undelivered, .. } = event else { panic!("{event:?}") };
                assert_eq!(undelivered.len(), 1);
            }
            // The first rounds open what stays, such as the SIGCHLD pipe's registration.
            if round == 3 {
                before = Some(open_descriptors());
            }
        }
        assert_eq!(Some(open_descriptors()), before);
    });
}
