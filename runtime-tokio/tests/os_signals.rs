//! Signals, in processes of their own: this test binary executed again with a role.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the real operating system is what is tested"
)]

use std::future::poll_fn;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use pounce_core::event::Signal;
use pounce_runtime_tokio::os::signals::Signals;

const ROLE: &str = "POUNCE_TEST_ROLE";

/// What the other processes of these tests do. Not a test: without a role it does nothing.
#[test]
fn in_a_role() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    // What never ends is to fail the test, not to hold it up.
    // SAFETY: no memory is involved.
    unsafe { libc::alarm(120) };
    let mut signals = Signals::install().unwrap();
    if role == "before there is a runtime" {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGTERM] {
            signal_hook::low_level::raise(signal).unwrap();
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    say("installed");
    runtime.block_on(async {
        loop {
            let signal = poll_fn(|cx| signals.poll_signal(cx)).await;
            say(&signal.to_string());
            if signal == Signal::Quit {
                return;
            }
        }
    });
}

fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "<{word}>").unwrap();
    out.flush().unwrap();
}

struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(command: &mut Command) -> Process {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut process = Process { child, output };
        assert_eq!(process.hears(), "installed");
        process
    }

    fn send(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// The next word that the process says.
    fn hears(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the process ended");
            // The test harness may have begun the line.
            if let Some((word, _)) = line.split_once('<').and_then(|(_, rest)| rest.split_once('>')) {
                return word.to_owned();
            }
        }
    }

    fn ends_at_sigquit(mut self) {
        self.send(rustix::process::Signal::QUIT);
        assert_eq!(self.hears(), "SIGQUIT");
        assert!(self.child.wait().unwrap().success());
    }
}

fn myself(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["in_a_role", "--exact", "--nocapture"]).env(ROLE, role);
    command
}

use rustix::process::Signal as Sent;

#[test]
fn every_order_is_received_and_nothing_else_is_deadly() {
    let mut process = Process::start(&mut myself("plain"));
    for (sent, heard) in [(Sent::TERM, "SIGTERM"), (Sent::INT, "SIGINT"), (Sent::HUP, "SIGHUP")] {
        for harmless in [Sent::USR1, Sent::USR2, Sent::WINCH, Sent::PIPE, Sent::CHILD] {
            process.send(harmless);
        }
        process.send(sent);
        assert_eq!(process.hears(), heard);
    }
    process.ends_at_sigquit();
}

#[test]
fn an_order_repeated_after_it_was_received_is_received_again() {
    let mut process = Process::start(&mut myself("plain"));
    for _ in 0..20 {
        process.send(Sent::TERM);
        assert_eq!(process.hears(), "SIGTERM");
    }
    process.ends_at_sigquit();
}

#[test]
fn orders_that_came_before_the_runtime_are_received_in_order_and_once() {
    let mut process = Process::start(&mut myself("before there is a runtime"));
    for word in ["SIGINT", "SIGTERM", "SIGHUP"] {
        assert_eq!(process.hears(), word);
    }
    process.ends_at_sigquit();
}

#[test]
fn under_nohup_a_hangup_stays_ignored_and_an_interrupt_does_not() {
    let mut command = myself("plain");
    // SAFETY: signal(2) is async-signal-safe, and SIG_IGN refers to no code.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            libc::signal(libc::SIGINT, libc::SIG_IGN);
            Ok(())
        })
    };
    let mut process = Process::start(&mut command);
    process.send(Sent::HUP);
    process.send(Sent::INT);
    assert_eq!(process.hears(), "SIGINT");
    process.ends_at_sigquit();
}

#[test]
fn orders_that_were_inherited_as_blocked_are_received() {
    let mut command = myself("plain");
    // SAFETY: the set is initialised by sigfillset before it is used; both calls are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigfillset(set.as_mut_ptr());
            libc::sigdelset(set.as_mut_ptr(), libc::SIGALRM);
            libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
            Ok(())
        })
    };
    let mut process = Process::start(&mut command);
    process.send(Sent::TERM);
    assert_eq!(process.hears(), "SIGTERM");
    process.ends_at_sigquit();
}
