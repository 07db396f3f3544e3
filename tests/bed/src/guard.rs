//! Processes that end with us, whatever happens to us.
//!
//! A shell stands between: it holds the reading end of a pipe whose other end
//! only we hold. When we end, also by SIGKILL, the pipe closes, and the shell
//! ends its child: SIGTERM, and SIGKILL after five seconds. Both are a process
//! group of their own: Ctrl-C at a terminal is for whoever started them, who
//! then ends them in the order that he wants.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::{BedError, during};

/// `$1` is where the child's process ID is written; the rest is the command. File descriptor 3 is the pipe, since a
/// background job of a shell gets no standard input.
const SCRIPT: &str = r#"
exec 3<&0
file=$1; shift
"$@" </dev/null 3<&- & child=$!
echo "$child" >"$file.new" && mv "$file.new" "$file"
(
  read -r _ <&3
  kill -TERM "$child" 2>/dev/null
  tries=0
  while kill -0 "$child" 2>/dev/null && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
  kill -KILL "$child" 2>/dev/null
) & watcher=$!
wait "$child"; status=$?
kill -KILL "$watcher" 2>/dev/null
exit "$status"
"#;

/// A signal, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Asks to stop.
    Term,
    /// Ends at once.
    Kill,
}

/// A process that ends with us.
#[derive(Debug)]
pub struct Process {
    name: String,
    shell: Child,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with `arguments` and `environment`; what it writes goes to `<name>.log` in `folder`, after what is there.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start<A: AsRef<OsStr>, N: AsRef<OsStr>, V: AsRef<OsStr>>(
        name: &str,
        folder: &Path,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Process, BedError> {
        let what = format!("starting {name}");
        let log = folder.join(format!("{name}.log"));
        let file = during(&what, std::fs::OpenOptions::new().create(true).append(true).open(&log))?;
        let errors = during(&what, file.try_clone())?;
        let pid_file = folder.join(format!("{name}.pid"));
        let _ = std::fs::remove_file(&pid_file);
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "guard"])
            .arg(&pid_file)
            .arg(program)
            .args(arguments)
            .envs(environment)
            .current_dir(folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(file)
            .stderr(errors)
            .spawn();
        let mut shell = during(&what, shell)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(pid) = std::fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok()) {
                return Ok(Process { name: name.to_owned(), shell, pid, log });
            }
            if Instant::now() > deadline || during(&what, shell.try_wait())?.is_some() {
                return Err(BedError::new(format!("{what}: the shell did not start it; see {}", log.display())));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The process ID of the program itself.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it ended, if it has: an abort or a kill is 128 and the signal's number, as shells say it.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.shell.try_wait().ok().flatten()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// If it has not within `time_out`.
    pub fn wait(&mut self, time_out: Duration) -> Result<ExitStatus, BedError> {
        let deadline = Instant::now() + time_out;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(BedError::new(format!("{} still runs after {time_out:?}; see {}", self.name, self.log.display())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends `signal` to the program.
    pub fn signal(&self, signal: Signal) {
        let name = match signal {
            Signal::Term => "TERM",
            Signal::Kill => "KILL",
        };
        // It may have ended already, which is no failure of the caller.
        let _ = Command::new("sh").args(["-c", &format!("kill -{name} {} 2>/dev/null", self.pid)]).status();
    }

    /// Asks it to stop, and waits.
    ///
    /// # Errors
    /// If it has not stopped within `time_out`; it is killed then.
    pub fn stop(mut self, time_out: Duration) -> Result<ExitStatus, BedError> {
        self.signal(Signal::Term);
        self.wait(time_out)
    }

    /// Waits until `is_ready` says so.
    ///
    /// # Errors
    /// With the end of the log, if it ends before, or is not ready within `time_out`.
    pub fn until(&mut self, time_out: Duration, mut is_ready: impl FnMut() -> bool) -> Result<(), BedError> {
        let deadline = Instant::now() + time_out;
        while !is_ready() {
            let ended = self.ended();
            if ended.is_some() || Instant::now() > deadline {
                let how = ended.map_or_else(|| format!("is not ready after {time_out:?}"), |status| format!("ended with {status}"));
                return Err(BedError::new(self.last_words(&how)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn last_words(&self, how: &str) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        let end = lines[lines.len().saturating_sub(15)..].join("\n");
        format!("{} {how}; the end of {}:\n{end}", self.name, self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.ended();
        if ended.is_none() {
            self.signal(Signal::Kill);
            let _ = self.shell.wait();
        }
        if std::thread::panicking() {
            // The folder goes with it, and a test that fails may fail because of what the process said. One that had aborted
            // was seen by nobody: what it should have done was "not within 60 s".
            let how = ended.map_or_else(|| "still ran".to_owned(), |status| format!("had ended with {status}"));
            eprintln!("{}", self.last_words(&how));
        }
    }
}
