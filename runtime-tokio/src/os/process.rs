//! Worker processes: started with their end of a control line, watched through pidfds, reaped.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use pounce_core::event::ExitStatus;
use pounce_core::protocol::{FromWorker, ToWorker};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::control::{self, CONTROL_FD, Line, decode_to_worker, encode_to_worker, packet_buffer, receive};
use super::lazy_fd::{LazyFd, register};
use super::listener::OsSocket;
use crate::listener::Accepted;
use crate::worker_host::{HostEvent, Order, WorkerHost, WorkerId};

/// Signals that come to a whole process group or control group, and so to workers before they can say what the
/// signals mean to them. They would be deadly by default.
///
/// A worker's process begins with them blocked: they wait. Whoever runs in it installs handlers and then lets
/// them through, before there is code of the application's, whose own processes would inherit the mask.
/// SIGTERM is then [`crate::worker::WorkerHandle::retire_me`], the others mean nothing.
pub const HELD_BACK: [i32; 4] = [libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];

/// How long connections gather that come in quick succession (the kernel adds up to 50 µs, its timer slack). Each wake-up
/// of the supervisor takes a core from a worker, which costs as much as all else that the supervisor does for a connection.
const GATHER: Duration = Duration::from_micros(100);

/// Starts workers as processes.
///
/// Everything about the process that is the application's business (program, arguments, environment) comes
/// from a function; what the host adds is the control line, and a clean slate: no signal handler, no blocked
/// signal but [`HELD_BACK`], SIGINT ignored (Ctrl-C reaches the whole process group, and only the supervisor is
/// to act on it), nothing on standard input.
pub struct OsWorkerHost {
    command: Box<dyn FnMut(u32, u32) -> Command + Send>,
    workers: BTreeMap<WorkerId, Process>,
    events: VecDeque<HostEvent<OsSocket>>,
    /// Scratch: the keys of `workers` while they change.
    ids: Vec<WorkerId>,
    buffer: Box<[u8]>,
    /// Readable when a child changed state; wakes us for strangers, and for workers where there is no pidfd.
    child_signal: LazyFd,
    child_signal_id: signal_hook::SigId,
    reap_strangers: bool,
    /// Who to wake when an event was made outside of `poll_event`.
    waker: Option<Waker>,
}

struct Process {
    number: u32,
    pid: Pid,
    /// `None` where the kernel has none (before 5.3, or a sandbox); SIGCHLD has to do then.
    pidfd: Option<AsyncFd<OwnedFd>>,
    line: Line,
    /// The worker's own end, kept to read back what the worker did not take. Never a worker's only link to
    /// life: both ends vanish with the supervisor, and only the first is the one whose end the worker sees.
    workers_end: OwnedFd,
    /// It was killed because it could not be talked to.
    refused: bool,
}

impl std::fmt::Debug for OsWorkerHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pids = self.workers.iter().map(|(id, process)| (*id, process.pid.as_raw_pid()));
        f.debug_struct("OsWorkerHost")
            .field("pids", &pids.collect::<BTreeMap<_, _>>())
            .finish_non_exhaustive()
    }
}

impl OsWorkerHost {
    /// `command` makes the command for a worker from its number (from 1) and its generation; standard input
    /// and [`CONTROL_FD`] are set by the host. Children that are not workers are reaped if orphans can come
    /// to this process at all: it is pid 1, or a child subreaper (PR_SET_CHILD_SUBREAPER(2const)).
    ///
    /// # Errors
    /// No descriptors left for the SIGCHLD handler's pipe.
    pub fn new(command: impl FnMut(u32, u32) -> Command + Send + 'static) -> io::Result<OsWorkerHost> {
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (read, write) = rustix::pipe::pipe_with(flags)?;
        // A handler also undoes an inherited SIG_IGN, under which the kernel would throw exit statuses away.
        let handler = move || {
            // A full pipe is readable already.
            let _ = rustix::io::write(&write, b"c");
        };
        // SAFETY: the handler makes one write(2), which is async-signal-safe, and owns the descriptor that it
        // writes to.
        let child_signal_id = unsafe { signal_hook::low_level::register(libc::SIGCHLD, handler) }?;
        let is_reaper = rustix::process::getpid().is_init() || is_subreaper();
        Ok(OsWorkerHost {
            command: Box::new(command),
            workers: BTreeMap::new(),
            events: VecDeque::new(),
            ids: Vec::new(),
            buffer: packet_buffer(),
            child_signal: LazyFd::new(read),
            child_signal_id,
            reap_strangers: is_reaper,
            waker: None,
        })
    }

    /// Whether children that are not workers are reaped. Not in a process that starts children by other means
    /// as well: their exit statuses would be lost.
    #[must_use]
    pub fn reap_strangers(mut self, reap: bool) -> OsWorkerHost {
        self.reap_strangers = reap;
        self
    }

    /// The process of a worker that has not been reported as exited.
    pub fn pid(&self, worker: WorkerId) -> Option<u32> {
        self.workers.get(&worker).and_then(|process| u32::try_from(process.pid.as_raw_pid()).ok())
    }

    /// Reads what `worker` sent, and moves on what it is sent.
    fn poll_messages(&mut self, cx: &mut Context<'_>, worker: WorkerId) {
        let Some(process) = self.workers.get_mut(&worker) else { return };
        let _ = process.line.poll_flush(cx);
        if process.line.is_broken() {
            process.refuse("it cannot be told anything");
        }
        // A worker that talks without end must not keep the others waiting.
        for _ in 0..32 {
            match process.line.poll_receive(cx, &mut self.buffer) {
                Poll::Pending => return,
                Poll::Ready(result) => match message(result, &self.buffer) {
                    Ok(Some(message)) => self.events.push_back(HostEvent::Message { worker, message }),
                    Ok(None) => return,
                    Err(why) => return process.refuse(&why),
                },
            }
        }
        cx.waker().wake_by_ref();
    }

    /// Reaps `worker` if it has ended, and says everything that there is to say about it.
    fn try_reap(&mut self, worker: WorkerId) -> bool {
        let Some(process) = self.workers.get(&worker) else { return false };
        let status = match wait(process.pid) {
            Ok(Some(status)) => status,
            Ok(None) => return false,
            Err(error) => {
                // Somebody else took the status (ECHILD): the process is gone, and that is what matters.
                tracing::error!("worker {}: its exit status is lost: {error}", process.number);
                ExitStatus::Code(-1)
            }
        };
        let Some(mut process) = self.workers.remove(&worker) else { return false };
        loop {
            match message(receive(process.line.as_fd(), &mut self.buffer), &self.buffer) {
                Ok(Some(message)) => self.events.push_back(HostEvent::Message { worker, message }),
                Ok(None) => break,
                Err(why) => tracing::error!("worker {}: {why}", process.number),
            }
        }
        let undelivered = process.undelivered(&mut self.buffer);
        self.events.push_back(HostEvent::Exited { worker, status, undelivered });
        true
    }

    /// Looks for ended workers and, with `everybody`, for children of nobody.
    fn reap(&mut self, cx: &mut Context<'_>, ids: &[WorkerId]) {
        let everybody = self.child_changed(cx);
        for worker in ids {
            let worker = *worker;
            let Some(process) = self.workers.get(&worker) else { continue };
            let ended = match &process.pidfd {
                // Readable once and for all: the process has ended.
                Some(pidfd) => pidfd.poll_read_ready(cx).is_ready(),
                None => everybody,
            };
            if ended {
                self.try_reap(worker);
            }
        }
        if everybody && self.reap_strangers {
            self.reap_children_of_nobody();
        }
    }

    /// Whether a SIGCHLD came since the last call; true at the first call, for what ended before there was a
    /// handler.
    fn child_changed(&mut self, cx: &mut Context<'_>) -> bool {
        let first = self.waker.is_none();
        let mut changed = first;
        let fd = match self.child_signal.get() {
            Ok(fd) => fd,
            Err(error) => {
                tracing::error!("cannot wait for child processes: {error}");
                return true;
            }
        };
        while let Poll::Ready(Ok(mut guard)) = fd.poll_read_ready(cx) {
            match rustix::io::read(fd, &mut [0; 256]) {
                Ok(0) => break,
                Ok(_) => changed = true,
                Err(Errno::INTR) => {}
                Err(_) => guard.clear_ready(),
            }
        }
        changed
    }

    fn reap_children_of_nobody(&mut self) {
        while let Some(pid) = next_ended_child() {
            let worker = self.workers.iter().find(|(_, process)| process.pid == pid).map(|(id, _)| *id);
            match worker {
                // Its status is the worker's; taking it there lets us see who stands behind it.
                Some(worker) => {
                    if !self.try_reap(worker) {
                        return;
                    }
                }
                None => match wait(pid) {
                    Ok(status) => {
                        tracing::debug!(
                            "reaped process {}, which was orphaned: {status:?}",
                            pid.as_raw_pid()
                        );
                    }
                    Err(_) => return,
                },
            }
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl Drop for OsWorkerHost {
    fn drop(&mut self) {
        signal_hook::low_level::unregister(self.child_signal_id);
    }
}

impl Process {
    /// The worker cannot be talked to, so it cannot be supervised.
    fn refuse(&mut self, why: &str) {
        if std::mem::replace(&mut self.refused, true) {
            return;
        }
        tracing::error!("worker {}: {why} — killing it", self.number);
        self.kill();
    }

    fn kill(&self) {
        let sent = match &self.pidfd {
            Some(pidfd) => rustix::process::pidfd_send_signal(pidfd, Signal::KILL),
            // Not reaped yet, so the number is still this process.
            None => rustix::process::kill_process(self.pid, Signal::KILL),
        };
        match sent {
            // Ended already.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::error!("worker {} cannot be killed: {error}", self.number),
        }
    }

    /// The connections that the worker, which has ended, never took: first those in the socket, then those
    /// that had not even got there.
    fn undelivered(&mut self, buffer: &mut [u8]) -> Vec<Accepted<OsSocket>> {
        let mut undelivered = Vec::new();
        let mut keep = |bytes: &[u8], fd: Option<OwnedFd>| match decode_to_worker(bytes, fd) {
            Ok(Order::Deal(connection)) => undelivered.push(connection),
            Ok(Order::Message(_) | Order::Lost) => {}
            Err(error) => tracing::error!("a connection to worker {} is lost: {error}", self.number),
        };
        loop {
            match receive(self.workers_end.as_fd(), buffer) {
                Ok(Some(incoming)) => keep(&buffer[..incoming.length], incoming.fd),
                Ok(None) | Err(Errno::AGAIN) => break,
                Err(error @ (Errno::MFILE | Errno::TOOBIG)) => {
                    tracing::error!("a connection to worker {} is lost: {error}", self.number);
                }
                Err(error) => {
                    tracing::error!("connections to worker {} are lost: {error}", self.number);
                    break;
                }
            }
        }
        for packet in self.line.take_queue() {
            keep(&packet.bytes, packet.fd);
        }
        undelivered
    }
}

impl WorkerHost for OsWorkerHost {
    type Io = OsSocket;

    fn spawn(&mut self, worker: WorkerId, number: u32, generation: u32) -> io::Result<()> {
        let (ours, workers_end) = control::pair()?;
        let line = Line::new(ours)?;
        let mut command = (self.command)(number, generation);
        command.stdin(Stdio::null()).env(CONTROL_FD, workers_end.as_raw_fd().to_string());
        let pid = start(&mut command, workers_end.as_fd()).map_err(|error| {
            let program = command.get_program();
            io::Error::new(error.kind(), format!("worker {number} cannot be started: {program:?}: {error}"))
        })?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
        let pidfd = pidfd.and_then(|pidfd| register(pidfd, Interest::READABLE).map_err(|(_, error)| error));
        let pidfd = match pidfd {
            Ok(pidfd) => Some(pidfd),
            Err(error) => {
                tracing::debug!("no pidfd for worker {number}, SIGCHLD has to do: {error}");
                None
            }
        };
        self.workers.insert(worker, Process { number, pid, pidfd, line, workers_end, refused: false });
        self.wake();
        Ok(())
    }

    fn tell(&mut self, worker: WorkerId, message: &ToWorker) {
        if let Some(process) = self.workers.get_mut(&worker) {
            process.line.send(encode_to_worker(message, None));
        }
    }

    fn deal(&mut self, worker: WorkerId, connection: Accepted<OsSocket>) -> Result<(), Accepted<OsSocket>> {
        let Some(process) = self.workers.get_mut(&worker) else { return Err(connection) };
        let Accepted { io, peer, local } = connection;
        process.line.send(encode_to_worker(&ToWorker::Deal { peer, local }, Some(io.into())));
        Ok(())
    }

    fn kill(&mut self, worker: WorkerId) {
        if let Some(process) = self.workers.get(&worker) {
            process.kill();
        }
    }

    fn gather(&mut self) {
        thread::sleep(GATHER);
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<HostEvent<OsSocket>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        let mut ids = std::mem::take(&mut self.ids);
        ids.clear();
        ids.extend(self.workers.keys());
        for worker in &ids {
            self.poll_messages(cx, *worker);
        }
        self.reap(cx, &ids);
        self.ids = ids;
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
        match self.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }
    }
}

/// Reads a packet from a worker. `None`: there is no further one, now or ever.
fn message(
    received: Result<Option<control::Incoming>, Errno>,
    buffer: &[u8],
) -> Result<Option<FromWorker>, String> {
    match received {
        Ok(Some(incoming)) => {
            FromWorker::decode(&buffer[..incoming.length]).map(Some).map_err(|error| error.to_string())
        }
        // Our copy of the worker's end keeps the line open: only the pidfd tells that it is over.
        Ok(None) | Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(format!("its messages cannot be read: {error}")),
    }
}

/// Forks and executes `command` with `workers_end` open under its own number.
fn start(command: &mut Command, workers_end: BorrowedFd<'_>) -> io::Result<Pid> {
    let number = workers_end.as_raw_fd();
    let prepare = move || {
        clean_signals()?;
        // SAFETY: the parent keeps the descriptor open across the fork, and the child has the same numbers.
        let end = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::empty())?;
        Ok(())
    };
    // SAFETY: between fork and exec `prepare` makes system calls only: no allocation, no lock.
    unsafe { command.pre_exec(prepare) };
    // Until the child has put the supervisor's handlers away, a signal to the process group would run them
    // there, and they would write to the supervisor's own pipes: one Ctrl-C would count as two.
    let blocked = BlockedSignals::new();
    let child = command.spawn();
    drop(blocked);
    let id = child?.id();
    i32::try_from(id)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other(format!("the kernel gave pid {id}")))
}

/// In the child: handlers off, SIGINT ignored, nothing blocked but [`HELD_BACK`]. What was ignored when pounce was started
/// (nohup) stays ignored.
fn clean_signals() -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    for signal in 1..libc::SIGRTMAX() {
        // SAFETY: the structure is written by the call and read only where the call succeeded.
        let handler = unsafe {
            if libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) != 0 {
                // The C library keeps some for itself.
                continue;
            }
            action.assume_init_ref().sa_sigaction
        };
        if handler != libc::SIG_DFL && handler != libc::SIG_IGN {
            // SAFETY: a default disposition refers to no code.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    // SAFETY: as above; the set is initialised by sigemptyset before it is read.
    unsafe {
        if libc::signal(libc::SIGINT, libc::SIG_IGN) == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
        let mut held_back = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(held_back.as_mut_ptr());
        for signal in HELD_BACK {
            libc::sigaddset(held_back.as_mut_ptr(), signal);
        }
        if libc::sigprocmask(libc::SIG_SETMASK, held_back.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Every signal is blocked in this thread while it lives.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn new() -> BlockedSignals {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both sets are initialised by sigfillset and sigemptyset before they are read; the calls
        // cannot fail with valid arguments.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigemptyset(before.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            BlockedSignals { before: before.assume_init() }
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set is one that the kernel gave.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}

/// Takes the status of a child of ours if it has ended.
fn wait(pid: Pid) -> Result<Option<ExitStatus>, Errno> {
    let status = loop {
        match rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, Some(signal)) => ExitStatus::Signal(signal),
        (None, None) => ExitStatus::Code(-1),
    }))
}

/// A child that has ended, whichever, left unreaped.
fn next_ended_child() -> Option<Pid> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the structure is zeroed, which is a valid value, and the call writes into it or leaves it;
    // `si_pid` is there for what waitid(2) writes, and zero where it wrote nothing.
    let pid = unsafe {
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) != 0 {
            return None;
        }
        info.assume_init_ref().si_pid()
    };
    Pid::from_raw(pid)
}

/// Whether orphans among our descendants become our children.
fn is_subreaper() -> bool {
    rustix::process::child_subreaper().is_ok_and(|reaper| reaper.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_pidfd_an_exit_is_noticed_all_the_same() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (read, write) = io::pipe().expect("a pipe");
            let mut host = OsWorkerHost::new(move |_, _| {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", "read line <&2; exit 5"]).stderr(read.try_clone().expect("a pipe"));
                command
            })
            .expect("a host");
            host.spawn(1, 1, 1).expect("a worker");
            host.workers.get_mut(&1).expect("a worker").pidfd = None;
            let exit = std::future::poll_fn(|cx| {
                host.poll_event(cx).map(|event| match event {
                    HostEvent::Exited { status, .. } => status,
                    HostEvent::Message { message, .. } => panic!("{message:?}"),
                })
            });
            // The worker ends while we wait, so it is the signal that wakes us.
            let mut exit = std::pin::pin!(exit);
            std::future::poll_fn(|cx| {
                assert!(exit.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            drop(write);
            let status = tokio::time::timeout(std::time::Duration::from_secs(30), exit).await;
            assert_eq!(status, Ok(ExitStatus::Code(5)));
        });
    }
}
