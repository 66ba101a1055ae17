//! The file that holds the server's process id while it runs.

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, test_kill_process};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A pid file that this process made. Dropping it removes the file, unless it is somebody else's by then.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    /// The file we made. It stays open, because the inode of a removed file is given out again at once, and by its inode we
    /// tell whether the file is still ours.
    file: File,
}

/// Why a pid file cannot be made.
#[derive(Debug)]
pub enum PidFileError {
    /// The process named in it is alive.
    Running {
        /// The file.
        path: PathBuf,
        /// The process.
        pid: i32,
    },
    /// There is a file with something else in it, which is not ours to replace.
    NotAPidFile(PathBuf),
    /// The file system refuses.
    Io(PathBuf, io::Error),
}

impl PidFile {
    /// Writes this process's id to `path`. Readers see the whole file or none. A file left by a process that is gone is
    /// replaced; two servers that start at once do not both succeed.
    ///
    /// # Errors
    ///
    /// The process named in an existing file is alive, the file is no pid file, or it cannot be written.
    pub fn create(path: &Path) -> Result<PidFile, PidFileError> {
        let failed = |error| PidFileError::Io(path.to_owned(), error);
        let own_pid = std::process::id();
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{own_pid}.new"));
        let draft = Draft(path.with_file_name(name));
        // Left by an earlier process with our id, as in a container that was killed.
        let _ = fs::remove_file(&draft.0);
        let mut file = File::options().write(true).create_new(true).open(&draft.0).map_err(failed)?;
        file.write_all(format!("{own_pid}\n").as_bytes()).map_err(failed)?;
        loop {
            // link(2) fails where rename(2) would replace.
            match fs::hard_link(&draft.0, path) {
                Ok(()) => return Ok(PidFile { path: path.to_owned(), file }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
            if replace_stale(&draft.0, path)? {
                return Ok(PidFile { path: path.to_owned(), file });
            }
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let ours = self.file.metadata().map(|made| identity(&made));
        if fs::symlink_metadata(&self.path).is_ok_and(|found| ours.is_ok_and(|ours| ours == identity(&found)))
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The file under its temporary name, which never outlives [`PidFile::create`].
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Puts `draft` in the place of `path` if the process named there is gone. False: `path` changed meanwhile, look again.
fn replace_stale(draft: &Path, path: &Path) -> Result<bool, PidFileError> {
    let failed = |error| PidFileError::Io(path.to_owned(), error);
    let gone = |error: &io::Error| error.kind() == ErrorKind::NotFound;
    match fs::symlink_metadata(path) {
        // Opening a FIFO would wait for ever, and a symbolic link may lead to anybody's file.
        Ok(found) if !found.is_file() => return Err(PidFileError::NotAPidFile(path.to_owned())),
        Ok(_) => {}
        Err(error) if gone(&error) => return Ok(false),
        Err(error) => return Err(failed(error)),
    }
    let mut old = match File::open(path) {
        Ok(old) => old,
        Err(error) if gone(&error) => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    // Whoever replaces this very file holds this lock: a second starter waits, and then finds another file here.
    flock(&old, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    let opened = old.metadata().map(|found| identity(&found)).map_err(failed)?;
    if !fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == opened) {
        return Ok(false);
    }
    let mut text = Vec::new();
    (&mut old).take(64).read_to_end(&mut text).map_err(failed)?;
    let text = String::from_utf8_lossy(&text);
    // An empty file is what a full disk or a power cut leaves of one.
    if !text.trim().is_empty() {
        let pid = text.trim().parse::<i32>().ok().filter(|pid| *pid > 0);
        let pid = pid.ok_or_else(|| PidFileError::NotAPidFile(path.to_owned()))?;
        if is_another_process(pid) {
            return Err(PidFileError::Running { path: path.to_owned(), pid });
        }
    }
    fs::rename(draft, path).map_err(failed)?;
    Ok(true)
}

/// Whether `pid` is alive and not this process. In a container our own id is often the one in the file that the last container
/// left behind.
fn is_another_process(pid: i32) -> bool {
    let Some(process) = Pid::from_raw(pid) else { return false };
    // EPERM: alive, and somebody else's.
    pid.unsigned_abs() != std::process::id() && test_kill_process(process) != Err(rustix::io::Errno::SRCH)
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl fmt::Display for PidFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PidFileError::Running { path, pid } => {
                write!(f, "{} names process {pid}, which is running", path.display())?;
                write!(f, "\n  stop it first, or remove the file if that process is no pounce")
            }
            PidFileError::NotAPidFile(path) => {
                write!(f, "{} exists and is no pid file; it was left as it is", path.display())?;
                write!(f, "\n  name another file with --pid-file")
            }
            PidFileError::Io(path, error) => {
                write!(f, "the pid file {} cannot be written: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for PidFileError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("pounce.pid");
        (directory, path)
    }

    /// Larger than any process id can be (`/proc/sys/kernel/pid_max` is at most 2^22), so surely nobody's.
    const DEAD: i32 = i32::MAX;

    struct Other(Child);

    impl Drop for Other {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn files(directory: &tempfile::TempDir) -> usize {
        fs::read_dir(directory.path()).expect("a listing").count()
    }

    #[test]
    fn the_file_holds_the_pid_while_the_server_runs_and_is_gone_after() {
        let (directory, path) = place();
        let file = PidFile::create(&path).expect("a pid file");
        assert_eq!(fs::read_to_string(&path).expect("its text"), format!("{}\n", std::process::id()));
        assert_eq!(files(&directory), 1);
        drop(file);
        assert_eq!(files(&directory), 0);
    }

    #[test]
    fn a_file_left_by_a_dead_process_is_replaced() {
        for left in [format!("{DEAD}\n"), String::new(), format!("{}", std::process::id())] {
            let (_directory, path) = place();
            fs::write(&path, &left).expect("a stale file");
            let _file = PidFile::create(&path).unwrap_or_else(|error| panic!("{left:?}: {error}"));
            assert_eq!(fs::read_to_string(&path).expect("its text"), format!("{}\n", std::process::id()));
        }
    }

    #[test]
    fn a_file_of_a_running_process_is_an_error_and_stays() {
        let (directory, path) = place();
        let other = Other(Command::new("sleep").arg("600").spawn().expect("another process"));
        let pid = other.0.id().to_string();
        fs::write(&path, &pid).expect("a live file");
        let error = PidFile::create(&path).expect_err("its process runs");
        assert!(matches!(&error, PidFileError::Running { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("its text"), pid);
        assert_eq!(files(&directory), 1);
    }

    #[test]
    fn a_file_that_is_no_pid_file_is_never_overwritten() {
        for text in ["import os\n", "-1", "0", "12 13", "99999999999"] {
            let (_directory, path) = place();
            fs::write(&path, text).expect("some file");
            assert!(matches!(PidFile::create(&path), Err(PidFileError::NotAPidFile(_))), "{text}");
            assert_eq!(fs::read_to_string(&path).expect("its text"), text);
        }
    }

    #[test]
    fn a_symbolic_link_is_not_followed_to_somebody_elses_file() {
        for target in ["precious", "missing"] {
            let (directory, path) = place();
            fs::write(directory.path().join("precious"), "").expect("a file");
            std::os::unix::fs::symlink(directory.path().join(target), &path).expect("a link");
            assert!(matches!(PidFile::create(&path), Err(PidFileError::NotAPidFile(_))), "{target}");
        }
    }

    #[test]
    fn of_many_servers_that_find_a_stale_file_at_once_exactly_one_replaces_it() {
        let (_directory, path) = place();
        fs::write(&path, format!("{DEAD}\n")).expect("a stale file");
        let draft = |n: usize| path.with_extension(format!("draft{n}"));
        // Each draft names pid 1, which is alive and not this process: whoever comes later must see that.
        (0..8).for_each(|n| fs::write(draft(n), "1\n").expect("a draft"));
        let outcomes: Vec<bool> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|n| {
                    let (draft, path) = (draft(n), &path);
                    scope.spawn(move || {
                        loop {
                            match replace_stale(&draft, path) {
                                Ok(false) => {}
                                outcome => return outcome.is_ok(),
                            }
                        }
                    })
                })
                .collect();
            starts.into_iter().map(|start| start.join().expect("no panic")).collect()
        });
        assert_eq!(outcomes.iter().filter(|replaced| **replaced).count(), 1);
    }

    #[test]
    fn a_file_that_somebody_else_put_there_meanwhile_is_not_removed() {
        let (_directory, path) = place();
        let file = PidFile::create(&path).expect("a pid file");
        fs::remove_file(&path).expect("removed by an administrator");
        fs::write(&path, "1\n").expect("written by another server");
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn a_directory_that_does_not_exist_is_named() {
        let error = PidFile::create(Path::new("/nowhere/pounce.pid")).expect_err("no directory");
        let message =
            "the pid file /nowhere/pounce.pid cannot be written: No such file or directory (os error 2)";
        assert_eq!(error.to_string(), message);
    }
}
