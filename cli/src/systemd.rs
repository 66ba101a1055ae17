//! What systemd is told (`sd_notify(3)`) and what it hands over (`sd_listen_fds(3)`). Everywhere else these do nothing.

use pounce_settings::{Bind, Origin, Settings};
use sd_notify::NotifyState;
use std::io;
use std::os::fd::RawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Variables that are meant for this process alone; workers are started without them.
pub const OWN_VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// As [`sd_notify::notify`], which does not know of names in the abstract namespace (`@name`, unix(7)).
fn notify(states: &[NotifyState<'_>]) -> io::Result<()> {
    let socket = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let Some(name) = socket.as_bytes().strip_prefix(b"@") else { return sd_notify::notify(states) };
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    let address = SocketAddr::from_abstract_name(name)?;
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}

/// `READY=1`: every worker serves. Also ends a reload.
pub fn ready(status: &str) -> io::Result<()> {
    notify(&[NotifyState::Ready, NotifyState::Status(&one_line(status))])
}

/// `STOPPING=1`: the drain has begun.
pub fn stopping(status: &str) -> io::Result<()> {
    notify(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))])
}

/// `STATUS=`: one line for `systemctl status`.
pub fn status(status: &str) -> io::Result<()> {
    notify(&[NotifyState::Status(&one_line(status))])
}

/// `EXTEND_TIMEOUT_USEC=`: start-up or shutdown makes progress, and the next sign of life comes within `more`.
pub fn extend_timeout(more: Duration) -> io::Result<()> {
    let microseconds = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::ExtendTimeoutUsec(microseconds)])
}

/// `RELOADING=1`, with the time that systemd 253 and later insist on. [`ready`] ends it.
pub fn reloading() -> io::Result<()> {
    notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?])
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// The listening sockets that systemd passed to this process, none if it passed none. Marks them close-on-exec.
///
/// # Errors
///
/// `LISTEN_PID` or `LISTEN_FDS` is no number, or a descriptor that they promise is not open.
pub fn activated_sockets() -> io::Result<Vec<RawFd>> {
    Ok(sd_notify::listen_fds()?.collect())
}

/// Makes `sockets` the place to listen, if there are any and nothing else was said about where.
pub fn listen_on(settings: &mut Settings, sockets: &[RawFd]) {
    if !sockets.is_empty() && settings.address_is_default() {
        settings.binds = sockets.iter().copied().map(Bind::Descriptor).collect();
        settings.origins.insert("bind".into(), Origin::SocketActivation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pounce_settings::{Sources, resolve};
    use std::ffi::OsStr;
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::process::Command;

    /// This test program again, running only the test of that name, which is ignored otherwise: the variables are
    /// those of a process, and changing ours while other tests run would be a race.
    fn again(test: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        // LISTEN_PID is known only inside. Descriptor 3 is the socket that is given as stdin.
        let script = r#"LISTEN_PID=$$ exec "$0" "$@" 3<&0"#;
        let program = std::env::current_exe().expect("this program");
        command.args(["-c", script]).arg(program).args(["--exact", "--ignored", test]);
        command
    }

    #[test]
    #[ignore = "run by the test below, in an environment of its own"]
    fn says_everything() {
        for sent in [
            ready("serving\nMAINPID=1"),
            stopping("draining 2 connections"),
            status("1 left"),
            extend_timeout(Duration::from_millis(1500)),
            reloading(),
        ] {
            sent.expect("the notify socket takes it");
        }
    }

    #[test]
    fn a_real_notify_socket_receives_each_message() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("notify");
        receives_each_message(&UnixDatagram::bind(&path).expect("a notify socket"), path.as_os_str());
    }

    #[test]
    fn a_notify_socket_in_the_abstract_namespace_receives_each_message() {
        let name = format!("pounce-test-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a notify socket");
        receives_each_message(&socket, format!("@{name}").as_ref());
    }

    #[track_caller]
    fn receives_each_message(socket: &UnixDatagram, name: &OsStr) {
        let done =
            again("systemd::tests::says_everything").env("NOTIFY_SOCKET", name).output().expect("a run");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        // Everything was sent before the child ended: what is missing never comes.
        socket.set_nonblocking(true).expect("a socket option");
        let mut received = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(length) = socket.recv(&mut buffer) {
            received.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        let time =
            received.get(4).and_then(|text| text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=")).unwrap_or("");
        assert!(time.trim_end().parse::<u64>().is_ok(), "{received:?}");
        let expected = [
            "READY=1\nSTATUS=serving MAINPID=1\n",
            "STOPPING=1\nSTATUS=draining 2 connections\n",
            "STATUS=1 left\n",
            "EXTEND_TIMEOUT_USEC=1500000\n",
        ];
        assert_eq!(received[..4], expected);
    }

    #[test]
    #[ignore = "run by the test below, in an environment of its own"]
    fn takes_the_socket() {
        let mut settings = resolve(&Sources::default()).expect("the defaults");
        listen_on(&mut settings, &activated_sockets().expect("the sockets"));
        assert_eq!(settings.binds, [Bind::Descriptor(3)]);
    }

    #[test]
    fn a_socket_from_the_service_manager_is_listened_on() {
        let socket = OwnedFd::from(TcpListener::bind("127.0.0.1:0").expect("a listening socket"));
        let done = again("systemd::tests::takes_the_socket")
            .env("LISTEN_FDS", "1")
            .stdin(socket)
            .output()
            .expect("a run");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    }

    #[test]
    fn an_address_that_was_given_beats_a_socket_that_was_passed() {
        let environment = vec![("PORT".into(), "9000".into())];
        let mut settings = resolve(&Sources { environment, ..Sources::default() }).expect("good settings");
        listen_on(&mut settings, &[3]);
        assert_eq!(settings.binds[0].to_string(), "127.0.0.1:9000");
    }

    #[test]
    fn without_a_service_manager_nothing_is_said_and_nothing_fails() {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            ready("serving").expect("nothing to do");
        }
    }
}
