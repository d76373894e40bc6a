//! The server's side of the template processes.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use weirgate_text::{Conversation, Sources};

use super::worker::{Opening, Reply, command, max_output};
use super::{TemplateError, frame};

/// How long one rendering may take, or the compilation of a model's templates.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of JSON that write one byte of text, at most.
const JSON_ESCAPE: usize = 6;
/// Bytes of an error message or so, beside the text.
const REPLY_SLACK: usize = 1 << 20;
/// All that a template process inherits: the time zone, and where libraries are.
const VARIABLES: [&str; 2] = ["TZ", "LD_LIBRARY_PATH"];

/// A model's templates in processes of their own: as many as there were conversations rendered at the same time.
pub(super) struct Sandbox {
    sources: Sources,
    idle: Mutex<Vec<Worker>>,
}

impl Sandbox {
    pub fn new(templates: Vec<(String, String)>, special_tokens: Vec<(String, String)>) -> Self {
        Self { sources: Sources { templates, special_tokens }, idle: Mutex::default() }
    }

    pub fn broken(&self) -> Option<String> {
        match Worker::start(&self.sources) {
            Ok((worker, opening)) => {
                self.idle().push(worker);
                opening.broken
            }
            Err(error) => Some(error.to_string()),
        }
    }

    pub fn render(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        let mut worker = match self.take() {
            Some(worker) => worker,
            None => Worker::start(&self.sources)?.0,
        };
        let mut reply = worker.ask(conversation);
        if reply.is_err() && worker.was_killed() {
            worker = Worker::start(&self.sources)?.0;
            reply = worker.ask(conversation);
        }
        let reply = reply?;
        self.idle().push(worker);
        match reply {
            Reply::Text(text) => Ok(text),
            Reply::Missing => Err(TemplateError::Missing),
            Reply::Error(message) => Err(TemplateError::Jinja(message)),
        }
    }

    /// A process that waits for work, and still lives.
    fn take(&self) -> Option<Worker> {
        let mut idle = self.idle();
        while let Some(mut worker) = idle.pop() {
            if worker.waits() {
                return Some(worker);
            }
        }
        None
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One process. It ends when this is dropped.
struct Worker {
    process: Child,
    socket: UnixStream,
}

impl Worker {
    fn start(sources: &Sources) -> Result<(Self, Opening), TemplateError> {
        let (socket, theirs) = UnixStream::pair().map_err(process_error)?;
        socket.set_read_timeout(Some(DEADLINE)).map_err(process_error)?;
        socket.set_write_timeout(Some(DEADLINE)).map_err(process_error)?;
        let process = command()
            .env_clear()
            .envs(VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(process_error)?;
        let mut worker = Self { process, socket };
        let opening = worker.ask(sources)?;
        Ok((worker, opening))
    }

    /// Whether it waits for work. One that was killed closes its socket a moment before it can be waited for.
    fn waits(&mut self) -> bool {
        let silent = |socket: &mut UnixStream| {
            socket.set_nonblocking(true)?;
            let read = socket.read(&mut [0]);
            socket.set_nonblocking(false)?;
            Ok::<_, io::Error>(read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
        };
        silent(&mut self.socket).unwrap_or(false) && matches!(self.process.try_wait(), Ok(None))
    }

    /// Whether somebody killed it, an operator or the kernel for want of memory. That says nothing about its template.
    fn was_killed(&mut self) -> bool {
        let status = self.process.try_wait().ok().flatten();
        status.and_then(|status| status.signal()) == Some(Signal::KILL.as_raw())
    }

    /// Sends one message and waits for the answer. After an error the process is of no more use.
    fn ask<T: DeserializeOwned>(&mut self, message: &impl Serialize) -> Result<T, TemplateError> {
        let answer = frame::encode(message).and_then(|frame| {
            self.socket.write_all(&frame)?;
            frame::receive(&mut self.socket, JSON_ESCAPE * max_output(frame.len()) + REPLY_SLACK)
        });
        match answer {
            Ok(Some(answer)) => serde_json::from_slice(&answer).map_err(|error| process_error(error.into())),
            Ok(None) => Err(self.ended()),
            Err(error) => Err(match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => TemplateError::TooSlow,
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => self.ended(),
                _ => process_error(error),
            }),
        }
    }

    /// Why the process closed its end. Only a template makes it abort.
    fn ended(&mut self) -> TemplateError {
        match self.process.wait() {
            Ok(status) => {
                tracing::warn!("A chat template ended its process ({status})");
                TemplateError::TooLarge
            }
            Err(error) => process_error(error),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Neither fails for a process of one's own; one that has ended already is only waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn process_error(error: io::Error) -> TemplateError {
    TemplateError::Process(error.to_string())
}
