//! The process that trains: started with a description, it tells in lines of JSON how far it is, and writes a checkpoint
//! and ends when it is asked to.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use weirgate_jobs::{Context, Stopped, WorkError};

/// The program, beside this one.
const PROGRAM: &str = "weirgate-finetune";
/// How often it is looked whether the job was stopped.
const LOOK: Duration = Duration::from_millis(100);
/// A worker whose server ends gets so long for its checkpoint. Nobody goes on with one that was interrupted, so that is
/// killed at once, whatever it is at.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between lines of progress in the log.
const LOG_EVERY: Duration = Duration::from_secs(10);
const MAX_LINE: u64 = 64 << 10;
/// What a program says whose allocator was refused memory.
const NO_MEMORY: &str = "memory allocation of";
/// A process that was killed gets so long to be gone.
const DYING: Duration = Duration::from_secs(10);

/// What the worker tells while it works.
#[derive(Debug)]
pub(super) enum Event {
    /// The values of a step.
    Progress(Value),
    /// For the log.
    Line(String),
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The adapter is there.
    Finished,
    Stopped,
}

/// The running process. Dropped, it is killed.
pub(super) struct Worker {
    child: Child,
    lines: Receiver<Line>,
}

enum Line {
    Out(String),
    Error(String),
}

impl Worker {
    /// Starts the worker on the description at `job`; one that an earlier server left is ended before.
    ///
    /// # Errors
    /// A program that is missing, or cannot be started; a worker of an earlier server that cannot be ended.
    pub fn start(job: &Path) -> io::Result<Self> {
        end_stale(job, |pid| kill_process(pid, Signal::KILL))?;
        let program = std::env::current_exe()?.with_file_name(PROGRAM);
        let child = Command::new(&program)
            .arg("--job")
            .arg(job)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is the server's to pass on.
            .process_group(0)
            .spawn();
        let mut child = child.map_err(|error| {
            io::Error::new(error.kind(), format!("{PROGRAM} beside this program: {error}"))
        })?;
        let (tell, lines) = mpsc::channel();
        let streams = (child.stdout.take(), child.stderr.take());
        let worker = Self { child, lines };
        if let (Some(out), Some(errors)) = streams {
            read(out, tell.clone(), Line::Out)?;
            read(errors, tell, Line::Error)?;
        }
        Ok(worker)
    }

    /// Passes on what it tells until it ends; ends it when the job is stopped. `memory`: bytes that it may allocate.
    ///
    /// # Errors
    /// [`WorkError::Failed`] with what the worker said last.
    pub fn watch(
        mut self,
        context: &Context,
        memory: Option<u64>,
        told: impl Fn(&Event),
    ) -> Result<Outcome, WorkError> {
        let mut log = Log { logged: None, told };
        let (mut asked, mut end, mut last_error) = (None::<Instant>, None, String::new());
        let mut lacks_memory = false;
        loop {
            match (context.is_stopped(), asked) {
                (Some(Stopped::ServerEnds), None) => {
                    asked = Some(Instant::now());
                    self.signal(Signal::TERM);
                }
                (Some(Stopped::Killed), None) => {
                    asked = Some(Instant::now());
                    self.signal(Signal::KILL);
                }
                (Some(_), Some(asked)) if asked.elapsed() > PATIENCE => self.signal(Signal::KILL),
                _ => {}
            }
            match self.lines.recv_timeout(LOOK) {
                Ok(Line::Out(text)) => end = log.event(&text).or(end),
                Ok(Line::Error(text)) => {
                    (log.told)(&Event::Line(text.clone()));
                    lacks_memory |= text.contains(NO_MEMORY);
                    last_error = text;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.child.wait().map_err(|error| WorkError::Failed(error.to_string()))?;
        match end {
            Some(End::Finished) if status.success() => Ok(Outcome::Finished),
            _ if asked.is_some() => Ok(Outcome::Stopped),
            Some(End::Failed(message)) => Err(WorkError::Failed(message)),
            _ => {
                let how = match memory {
                    Some(limit) if lacks_memory => too_large(limit),
                    _ => ending(status, &last_error),
                };
                Err(WorkError::Failed(format!("the training's process {how}")))
            }
        }
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Passes on the lines of a stream until its end.
fn read(stream: impl Read + Send + 'static, tell: Sender<Line>, line: fn(String) -> Line) -> io::Result<()> {
    let run = move || {
        let mut stream = BufReader::new(stream);
        let mut bytes = Vec::new();
        while stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            if tell.send(line(text)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("worker".to_owned()).spawn(run).map(drop)
}

/// The last thing that a worker tells.
enum End {
    Finished,
    Failed(String),
}

struct Log<F> {
    /// When a step was written to the log last.
    logged: Option<Instant>,
    told: F,
}

impl<F: Fn(&Event)> Log<F> {
    fn event(&mut self, text: &str) -> Option<End> {
        let Ok(event) = serde_json::from_str::<Value>(text) else {
            (self.told)(&Event::Line(text.to_owned()));
            return None;
        };
        let field = |name: &str| event.get(name).and_then(Value::as_str).map(str::to_owned);
        let kind = field("event").unwrap_or_default();
        let end = match kind.as_str() {
            "finished" => Some(End::Finished),
            "failed" => {
                Some(End::Failed(field("message").unwrap_or_else(|| "the training failed".to_owned())))
            }
            _ => None,
        };
        if kind == "progress" {
            (self.told)(&Event::Progress(event));
            if self.logged.is_some_and(|logged| logged.elapsed() < LOG_EVERY) {
                return end;
            }
            self.logged = Some(Instant::now());
        }
        (self.told)(&Event::Line(text.to_owned()));
        end
    }
}

fn too_large(limit: u64) -> String {
    format!(
        "needs more than the {limit} bytes of --training-memory; a smaller `batch_size` or `max_length`, \
         `gradient_checkpointing` or `quantized` need less"
    )
}

fn ending(status: ExitStatus, last_error: &str) -> String {
    let how = match (status.code(), status.signal()) {
        (_, Some(9)) => "was killed; it may have taken more memory than there is".to_owned(),
        (_, Some(signal)) => format!("ended by signal {signal}"),
        (code, None) => format!("ended with status {}", code.unwrap_or_default()),
    };
    if last_error.is_empty() { how } else { format!("{how}: {last_error}") }
}

/// Ends the worker of a server that was killed: the next one must not write beside it.
///
/// # Errors
/// One that cannot be ended, as of another user.
fn end_stale(job: &Path, kill: impl Fn(Pid) -> rustix::io::Result<()>) -> io::Result<()> {
    let wanted = job.as_os_str().as_encoded_bytes();
    let is_it = |pid: Pid| {
        let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        words.windows(2).any(|pair| pair == [b"--job".as_slice(), wanted])
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    for pid in pids {
        let begun = Instant::now();
        while is_it(pid) {
            let killed = match kill(pid) {
                // It may have ended by itself.
                Ok(()) | Err(Errno::SRCH) if begun.elapsed() < DYING => Ok(()),
                Ok(()) | Err(Errno::SRCH) => Err(io::ErrorKind::TimedOut.into()),
                Err(error) => Err(io::Error::from(error)),
            };
            killed.map_err(|error| {
                let number = pid.as_raw_nonzero();
                io::Error::new(
                    error.kind(),
                    format!("process {number} is at this training, and stays: {error}"),
                )
            })?;
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an earlier server left at the training `job`. It runs: before its first instruction, a process may have no
    /// command line yet.
    fn left(job: &Path) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", "echo; read line", "worker", "--job"]).arg(job);
        let mut worker = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        worker.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        worker
    }

    #[test]
    fn the_worker_of_an_earlier_server_is_ended_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (own, others) = (folder.path().join("1/job.json"), folder.path().join("2/job.json"));
        let (mut stale, mut other) = (left(&own), left(&others));
        end_stale(&own, |pid| kill_process(pid, Signal::KILL)).unwrap();
        assert_eq!(stale.wait().unwrap().signal(), Some(9));
        assert!(other.try_wait().unwrap().is_none());
        // One that cannot be ended is not waited for.
        let refused = end_stale(&others, |_| Err(Errno::PERM)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains(&format!("process {} is at", other.id())), "{refused}");
        end_stale(&folder.path().join("3/job.json"), |_| Err(Errno::PERM)).unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
