//! Worker processes, real ones: this test binary executed again with a role, or a shell.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the real operating system is what is tested"
)]

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::time::Duration;

use pounce_core::event::{ExitStatus, Signal};
use pounce_core::protocol::{FromWorker, ToWorker, VERSION};
use pounce_runtime_tokio::listener::Accepted;
use pounce_runtime_tokio::os::control::{CONTROL_FD, OsOrders, pair};
use pounce_runtime_tokio::os::listener::OsSocket;
use pounce_runtime_tokio::os::process::{HELD_BACK, OsWorkerHost};
use pounce_runtime_tokio::os::signals::Signals;
use pounce_runtime_tokio::worker_host::{HostEvent, Order, Orders, WorkerHost};
use tokio::io::AsyncWriteExt;

/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

const ROLE: &str = "POUNCE_TEST_ROLE";

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("took too long") })
}

/// This binary in another role; see [`in_a_role`].
fn myself(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["in_a_role", "--exact", "--nocapture"]).env(ROLE, role);
    command
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

fn host(command: impl Fn() -> Command + Send + 'static) -> OsWorkerHost {
    OsWorkerHost::new(move |_, _| command()).unwrap()
}

async fn event(host: &mut OsWorkerHost) -> HostEvent<OsSocket> {
    poll_fn(|cx| host.poll_event(cx)).await
}

/// The end of worker 1, whatever it says before.
async fn exit(host: &mut OsWorkerHost) -> (ExitStatus, Vec<Accepted<OsSocket>>) {
    loop {
        if let HostEvent::Exited { status, undelivered, .. } = event(host).await {
            return (status, undelivered);
        }
    }
}

async fn next_message(host: &mut OsWorkerHost) -> FromWorker {
    match event(host).await {
        HostEvent::Message { message, .. } => message,
        HostEvent::Exited { status, .. } => panic!("the worker ended: {status}"),
    }
}

/// A connection that says in its peer's port which it is, and the other side of it.
fn connection(number: u16) -> (Accepted<OsSocket>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let ours = std::net::TcpStream::from(OwnedFd::from(ours));
    let peer = Some(SocketAddr::from(([10, 0, 0, 1], number)));
    (Accepted { io: ours.into(), peer, local: None }, theirs)
}

fn control_end() -> OwnedFd {
    let number = std::env::var(CONTROL_FD).unwrap().parse().unwrap();
    // SAFETY: the descriptor was inherited for this process to own.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// What the other processes of these tests do. Not a test: without a role it does nothing.
#[test]
fn in_a_role() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    match role.to_str().unwrap() {
        "answers every order" => run(answers_every_order()),
        "has 10 descriptors" => run(has_few_descriptors(10)),
        "has 400 descriptors" => run(has_few_descriptors(400)),
        "talks and goes" => run(talks_and_goes()),
        "supervisor to be killed" => run(supervisor_to_be_killed()),
        "waits for the end" => run(waits_for_the_end()),
        "reaps strangers" => run(reaps_strangers()),
        "counts interrupts" => run(counts_interrupts()),
        role => panic!("no such role: {role}"),
    }
}

async fn answers_every_order() {
    let mut orders = OsOrders::new(control_end()).unwrap();
    orders.send(&FromWorker::Hello { version: VERSION });
    while let Some(order) = poll_fn(|cx| orders.poll_recv(cx)).await.unwrap() {
        match order {
            Order::Message(ToWorker::Start { worker, settings, .. }) => {
                orders.send(&FromWorker::StartFailed { message: format!("{worker} {settings}") });
            }
            Order::Message(ToWorker::Abort) => {
                orders.send(&FromWorker::Stopped { cut: 0, requests: 0, clean: true });
                poll_fn(|cx| orders.poll_flush(cx)).await;
                std::process::exit(7);
            }
            Order::Message(_) | Order::Lost => orders.send(&FromWorker::Draining { active: 0 }),
            Order::Deal(connection) => {
                let port = connection.peer.unwrap().port();
                let mut stream = connection.io.into_stream_of_any_kind();
                stream.write_all(&port.to_be_bytes()).await.unwrap();
                orders.send(&FromWorker::Draining { active: port.into() });
            }
        }
    }
}

/// Has room for `more` descriptors, and closes its oldest connection whenever none comes.
async fn has_few_descriptors(more: u64) {
    let highest = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let tight = rustix::process::Rlimit { current: Some(highest as u64 + more), ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, tight).unwrap();
    let mut orders = OsOrders::new(control_end()).unwrap();
    let mut held = VecDeque::new();
    loop {
        let order = tokio::time::timeout(Duration::from_millis(25), poll_fn(|cx| orders.poll_recv(cx))).await;
        match order {
            // No room, or nothing to do: a connection ends.
            Err(_) => drop(held.pop_front()),
            Ok(Ok(Some(Order::Deal(connection)))) => {
                orders.send(&FromWorker::Draining { active: connection.peer.unwrap().port().into() });
                held.push_back(connection);
            }
            Ok(Ok(Some(Order::Message(ToWorker::Abort)))) => std::process::exit(0),
            Ok(other) => panic!("{other:?}"),
        }
    }
}

async fn talks_and_goes() {
    let mut orders = OsOrders::new(control_end()).unwrap();
    for active in 0..100 {
        orders.send(&FromWorker::Draining { active });
    }
    poll_fn(|cx| orders.poll_flush(cx)).await;
    std::process::exit(0);
}

async fn supervisor_to_be_killed() {
    let mut host = OsWorkerHost::new(|_, _| myself("waits for the end")).unwrap();
    for worker in [1, 2] {
        host.spawn(worker, worker as u32, 1).unwrap();
        // Never read: the worker's end is not to hang on it. Never polled either: the worker's words stay
        // unread.
        host.tell(worker, &ToWorker::LameDuck);
    }
    std::future::pending().await
}

async fn waits_for_the_end() {
    let mut orders = OsOrders::new(control_end()).unwrap();
    orders.send(&FromWorker::Hello { version: VERSION });
    println!("a worker is up");
    while let Some(order) = poll_fn(|cx| orders.poll_recv(cx)).await.unwrap() {
        assert!(matches!(order, Order::Message(ToWorker::LameDuck)));
        println!("a worker was told");
    }
    println!("a worker saw the end");
}

async fn reaps_strangers() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let orphan_of = |number: u32| shell(&format!("(sleep 0.2; exit 99) & (exit 98) & exit {number}"));
    let mut host = OsWorkerHost::new(move |number, _| orphan_of(number)).unwrap();
    for number in 1..=20 {
        host.spawn(number.into(), number, 1).unwrap();
    }
    for _ in 1..=20 {
        let HostEvent::Exited { worker, status, .. } = event(&mut host).await else { panic!("a message?") };
        assert_eq!(status, ExitStatus::Code(worker as i32));
    }
    // No worker is left; what remains are strangers, and no event comes of them.
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while waitid(WaitId::All, options).err() != Some(rustix::io::Errno::CHILD) {
        let waited = tokio::time::timeout(Duration::from_millis(20), event(&mut host)).await;
        assert!(waited.is_err(), "{waited:?}");
    }
    println!("no child is left");
}

async fn counts_interrupts() {
    let mut signals = Signals::install().unwrap();
    let mut host = OsWorkerHost::new(|_, _| Command::new("/bin/true")).unwrap();
    for round in 0..500_u64 {
        let barrier = Arc::new(Barrier::new(2));
        let interrupt = std::thread::spawn({
            let barrier = Arc::clone(&barrier);
            move || {
                barrier.wait();
                // At another moment of the start of the worker in every round.
                for _ in 0..round * 100 {
                    std::hint::spin_loop();
                }
                // To everybody in the group, which is this process and its children, as a terminal does.
                // SAFETY: no memory is involved.
                assert_eq!(unsafe { libc::kill(0, libc::SIGINT) }, 0);
            }
        });
        barrier.wait();
        host.spawn(round, 1, 1).unwrap();
        exit(&mut host).await;
        // Whatever the worker's process did with the signal, it has done it now.
        interrupt.join().unwrap();
        assert_eq!(poll_fn(|cx| signals.poll_signal(cx)).await, Signal::Int);
        tokio::task::yield_now().await;
        let again = poll_fn(|cx| Poll::Ready(signals.poll_signal(cx))).await;
        assert!(again.is_pending(), "round {round}: one interrupt counted as two");
    }
    println!("every interrupt was seen once");
}

/// These tests deal pairs of Unix sockets that claim to be TCP, so that they can carry a number.
trait AnyKind {
    fn into_stream_of_any_kind(self) -> tokio::net::UnixStream;
}

impl AnyKind for OsSocket {
    fn into_stream_of_any_kind(self) -> tokio::net::UnixStream {
        let stream = UnixStream::from(OwnedFd::from(self));
        stream.set_nonblocking(true).unwrap();
        tokio::net::UnixStream::from_std(stream).unwrap()
    }
}

#[test]
fn orders_and_connections_arrive_in_the_order_in_which_they_were_given() {
    run(async {
        let mut host = host(|| myself("answers every order"));
        host.spawn(1, 3, 1).unwrap();
        let settings = "{\"a\": 1}".to_owned();
        host.tell(1, &ToWorker::Start { version: VERSION, worker: 3, generation: 1, settings });
        let mut clients = Vec::new();
        for number in 1..=20 {
            let (connection, client) = connection(number);
            host.deal(1, connection).unwrap();
            host.tell(1, &ToWorker::LameDuck);
            clients.push(client);
        }
        host.tell(1, &ToWorker::Abort);

        assert_eq!(next_message(&mut host).await, FromWorker::Hello { version: VERSION });
        let message = "3 {\"a\": 1}".to_owned();
        assert_eq!(next_message(&mut host).await, FromWorker::StartFailed { message });
        for number in 1..=20 {
            assert_eq!(next_message(&mut host).await, FromWorker::Draining { active: number });
            assert_eq!(next_message(&mut host).await, FromWorker::Draining { active: 0 });
        }
        let (status, undelivered) = exit(&mut host).await;
        assert_eq!(status, ExitStatus::Code(7));
        assert!(undelivered.is_empty());
        for (number, mut client) in (1_u16..).zip(clients) {
            let mut bytes = Vec::new();
            client.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, number.to_be_bytes());
        }
    });
}

#[test]
fn connections_that_a_killed_worker_never_took_come_back_in_order() {
    run(async {
        let mut host = host(|| shell("exec sleep 600"));
        host.spawn(1, 1, 1).unwrap();
        // More than the socket takes: the last are still in memory.
        let (kept, mut client) = UnixStream::pair().unwrap();
        for number in 0..700 {
            let (mut accepted, _) = connection(number);
            accepted.io = kept.try_clone().unwrap().into();
            host.deal(1, accepted).unwrap();
            if number % 7 == 0 {
                host.tell(1, &ToWorker::LameDuck);
            }
        }
        drop(kept);
        host.kill(1);
        let (status, undelivered) = exit(&mut host).await;
        assert_eq!(status, ExitStatus::Signal(libc::SIGKILL));
        let ports = undelivered.iter().map(|c| c.peer.unwrap().port()).collect::<Vec<_>>();
        assert_eq!(ports, (0..700).collect::<Vec<_>>());
        // And they are connected still.
        let mut last = undelivered.into_iter().next_back().unwrap().io.into_stream_of_any_kind();
        last.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).unwrap();
    });
}

/// 40 connections more than the worker of `role` has room for.
fn loses_no_connection(role: &'static str, connections: u16) {
    run(async {
        let mut host = host(move || myself(role));
        host.spawn(1, 1, 1).unwrap();
        let mut clients = Vec::new();
        for number in 0..connections {
            let (connection, client) = connection(number);
            host.deal(1, connection).unwrap();
            clients.push(client);
        }
        host.tell(1, &ToWorker::Abort);
        for active in 0..connections {
            assert_eq!(next_message(&mut host).await, FromWorker::Draining { active: active.into() });
        }
        assert_eq!(exit(&mut host).await.0, ExitStatus::Code(0));
    });
}

#[test]
fn a_worker_that_is_out_of_descriptors_loses_no_connection() {
    loses_no_connection("has 10 descriptors", 50);
}

#[test]
fn a_worker_that_closed_an_old_connection_while_it_is_out_of_descriptors_loses_none() {
    loses_no_connection("has 400 descriptors", 440);
}

#[test]
fn what_a_worker_said_before_it_went_is_heard_before_its_exit() {
    run(async {
        let mut host = host(|| myself("talks and goes"));
        host.spawn(1, 1, 1).unwrap();
        // Nothing is read before the worker has ended (state Z in proc_pid_stat(5): not reaped yet).
        let stat = format!("/proc/{}/stat", host.pid(1).unwrap());
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for active in 0..100 {
            assert_eq!(next_message(&mut host).await, FromWorker::Draining { active });
        }
        assert_eq!(exit(&mut host).await.0, ExitStatus::Code(0));
    });
}

#[test]
fn a_worker_that_is_gone_takes_no_connection() {
    run(async {
        let mut host = host(|| shell("exit 0"));
        host.spawn(1, 1, 1).unwrap();
        assert!(host.pid(1).is_some());
        exit(&mut host).await;
        assert_eq!(host.pid(1), None);
        host.tell(1, &ToWorker::Abort);
        host.kill(1);
        let (connection, mut client) = connection(1);
        let mut back = host.deal(1, connection).unwrap_err().io.into_stream_of_any_kind();
        back.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).unwrap();
    });
}

#[test]
fn a_program_that_cannot_be_started_is_named() {
    run(async {
        let mut host = host(|| Command::new("/no/such/python"));
        let error = host.spawn(1, 1, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/no/such/python"), "{error}");
    });
}

#[test]
fn a_worker_that_says_what_no_worker_says_is_ended() {
    run(async {
        let mut host = host(|| {
            let send = "import os, socket, time; \
                        s = socket.socket(fileno=int(os.environ['POUNCE_CONTROL_FD'])); s.send(b'nonsense'); time.sleep(600)";
            let mut command = Command::new("python3");
            command.args(["-c", send]);
            command
        });
        if host.spawn(1, 1, 1).is_err() {
            return eprintln!("skipped: no python3");
        }
        assert_eq!(exit(&mut host).await.0, ExitStatus::Signal(libc::SIGKILL));
    });
}

#[test]
fn a_worker_that_cannot_be_told_what_to_do_is_ended_and_its_connections_come_back() {
    run(async {
        let mut host = host(|| shell("exec sleep 600"));
        host.spawn(1, 1, 1).unwrap();
        // More than any socket takes in one piece.
        let settings = "x".repeat(64 * 1024 * 1024);
        host.tell(1, &ToWorker::Start { version: VERSION, worker: 1, generation: 1, settings });
        host.deal(1, connection(7).0).unwrap();
        let (status, undelivered) = exit(&mut host).await;
        assert_eq!(status, ExitStatus::Signal(libc::SIGKILL));
        assert_eq!(undelivered.len(), 1);
    });
}

#[test]
fn workers_see_the_end_of_a_killed_supervisor() {
    let mut supervisor = myself("supervisor to be killed").stdout(Stdio::piped()).spawn().unwrap();
    let mut output = supervisor.stdout.take().unwrap();
    let mut text = String::new();
    while text.matches("a worker was told").count() < 2 {
        let mut bytes = [0; 256];
        let count = output.read(&mut bytes).unwrap();
        assert_ne!(count, 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    // Ends only when every worker has left.
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("a worker saw the end").count(), 2, "{text}");
}

#[test]
fn orphans_are_reaped_and_no_worker_s_status_is_stolen() {
    let output = myself("reaps strangers").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("no child is left"), "{output:?}");
}

#[test]
fn an_interrupt_to_the_whole_group_counts_once_while_workers_are_started() {
    let output = myself("counts interrupts").process_group(0).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("every interrupt was seen once"), "{output:?}");
}

/// The `Sig...` line of /proc/PID/status of a worker, as a set of bits.
fn signals_of_a_worker(line: &str) -> u64 {
    let (mut read, write) = io::pipe().unwrap();
    let write = Arc::new(write);
    run(async {
        let mut host = host(move || {
            let mut command = shell("exec cat /proc/self/status");
            command.stdout(write.try_clone().unwrap());
            command
        });
        host.spawn(1, 1, 1).unwrap();
        exit(&mut host).await;
    });
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    let value = text.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_else(|| panic!("{text}"));
    u64::from_str_radix(value.trim(), 16).unwrap()
}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[test]
fn a_worker_ignores_interrupts_from_its_first_instruction_and_nothing_else_that_pounce_ignores() {
    let ignored = signals_of_a_worker("SigIgn:");
    assert_eq!(ignored & (bit(libc::SIGINT) | bit(libc::SIGPIPE)), bit(libc::SIGINT), "{ignored:x}");
}

#[test]
fn a_worker_starts_with_no_signal_blocked_but_those_that_come_to_whole_groups() {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised by sigemptyset before it is used. Only this test's thread is concerned.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGALRM);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
    }
    let held_back = HELD_BACK.into_iter().map(bit).sum::<u64>();
    assert_eq!(signals_of_a_worker("SigBlk:"), held_back);
}

#[test]
fn a_worker_reads_nothing_from_the_terminal() {
    run(async {
        let mut host = host(|| shell("read line && exit 1; exit 0"));
        host.spawn(1, 1, 1).unwrap();
        assert_eq!(exit(&mut host).await.0, ExitStatus::Code(0));
    });
}

#[test]
fn a_deal_without_its_connection_is_an_error() {
    run(async {
        let (ours, theirs) = pair().unwrap();
        let mut orders = OsOrders::new(theirs).unwrap();
        let mut bytes = Vec::new();
        ToWorker::Deal { peer: None, local: None }.encode(&mut bytes);
        rustix::net::send(&ours, &bytes, rustix::net::SendFlags::empty()).unwrap();
        let error = poll_fn(|cx| orders.poll_recv(cx)).await.unwrap_err();
        assert!(error.to_string().contains("without its descriptor"), "{error}");
    });
}

#[test]
fn a_packet_longer_than_any_message_is_an_error_and_the_next_is_read() {
    run(async {
        let (ours, theirs) = pair().unwrap();
        let mut orders = OsOrders::new(theirs).unwrap();
        let long = vec![5; pounce_core::protocol::MAX_PACKET + 1];
        rustix::net::send(&ours, &long, rustix::net::SendFlags::empty()).unwrap();
        rustix::net::send(&ours, &[6], rustix::net::SendFlags::empty()).unwrap();
        poll_fn(|cx| orders.poll_recv(cx)).await.unwrap_err();
        let next = poll_fn(|cx| orders.poll_recv(cx)).await.unwrap();
        assert!(matches!(next, Some(Order::Message(ToWorker::Abort))), "{next:?}");
    });
}

#[test]
fn what_was_sent_before_the_end_is_read_though_the_sender_left_packets_unread() {
    run(async {
        let (ours, theirs) = pair().unwrap();
        let mut orders = OsOrders::new(theirs).unwrap();
        // Unread at the other side's close, which makes the kernel report a reset here.
        orders.send(&FromWorker::Ready);
        rustix::net::send(&ours, &[6], rustix::net::SendFlags::empty()).unwrap();
        drop(ours);
        let last = poll_fn(|cx| orders.poll_recv(cx)).await.unwrap();
        assert!(matches!(last, Some(Order::Message(ToWorker::Abort))), "{last:?}");
        assert!(poll_fn(|cx| orders.poll_recv(cx)).await.unwrap().is_none());
        // And talking to nobody neither fails nor waits.
        orders.send(&FromWorker::Ready);
        poll_fn(|cx| orders.poll_flush(cx)).await;
    });
}

#[test]
fn messages_that_the_socket_does_not_take_are_kept_and_sent_in_order() {
    run(async {
        let (ours, theirs) = pair().unwrap();
        let mut orders = OsOrders::new(theirs).unwrap();
        for active in 0..2000 {
            orders.send(&FromWorker::Draining { active });
        }
        let full = poll_fn(|cx| Poll::Ready(orders.poll_flush(cx).is_pending())).await;
        assert!(full, "2000 messages fit into the socket");
        let reader = std::thread::spawn(move || {
            rustix::io::ioctl_fionbio(&ours, false).unwrap();
            for active in 0..2000 {
                let mut bytes = [0; 64];
                let (_, length) =
                    rustix::net::recv(&ours, &mut bytes, rustix::net::RecvFlags::empty()).unwrap();
                let message = FromWorker::decode(&bytes[..length]).unwrap();
                assert_eq!(message, FromWorker::Draining { active });
            }
        });
        poll_fn(|cx| orders.poll_flush(cx)).await;
        reader.join().unwrap();
    });
}

#[test]
fn a_control_descriptor_of_another_kind_is_refused() {
    run(async {
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let text = OsOrders::new(file).unwrap_err().to_string();
        assert!(text.contains(CONTROL_FD) && text.contains("not a socket"), "{text}");
    });
}

#[test]
fn the_signal_that_ended_a_worker_is_told() {
    run(async {
        let mut host = host(|| shell("kill -SEGV $$"));
        host.spawn(1, 1, 1).unwrap();
        assert_eq!(exit(&mut host).await.0, ExitStatus::Signal(libc::SIGSEGV));
    });
}
