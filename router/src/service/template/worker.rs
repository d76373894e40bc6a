//! The process that runs templates. Its memory is bounded, and it has nothing of the server's: no environment, no open
//! file, and one descriptor, standard input, a socket to the server.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use weirgate_text::{Conversation, TemplateError, Templates};

use super::frame;

/// Bytes of prompt that a template may add to a conversation.
const MAX_ADDED_BYTES: usize = 4 << 20;

/// First argument of the process.
pub const COMMAND: &str = "template-worker";
/// Address space that templates may take, beyond what the program itself maps.
pub(super) const MEMORY_BYTES: u64 = 256 << 20;

/// The process's first message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Opening {
    /// Why the first template that does not compile does not.
    pub broken: Option<String>,
}

/// The answer to a conversation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Text(String),
    Missing,
    Error(String),
}

/// Bytes of a prompt rendered from so many bytes of conversation. Templates repeat what they are given in part (a date,
/// a role), never as a whole.
pub(super) fn max_output(conversation_bytes: usize) -> usize {
    MAX_ADDED_BYTES + conversation_bytes
}

/// Starts this very program as a template process, even when another was installed in its place since.
#[cfg(not(test))]
pub(super) fn command() -> std::process::Command {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0("weirgate-template").arg(COMMAND);
    command
}

/// A test's program has no commands: its template process is a test.
#[cfg(test)]
pub(super) use super::tests::worker_command as command;

/// Renders what comes on standard input until the server closes it.
pub fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}; `weirgate` starts this command, people do not");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    confine()?;
    end_with_server(socket.try_clone()?)?;
    let Some(sources) = frame::receive(&mut socket, usize::MAX)? else {
        return Ok(());
    };
    let templates = Templates::new(serde_json::from_slice(&sources)?);
    drop(sources);
    let opening = Opening { broken: templates.broken().map(str::to_owned) };
    socket.write_all(&frame::encode(&opening)?)?;
    while let Some(conversation) = frame::receive(&mut socket, usize::MAX)? {
        let reply = answer(&templates, &conversation);
        drop(conversation);
        socket.write_all(&frame::encode(&reply)?)?;
    }
    Ok(())
}

fn answer(templates: &Templates, json: &[u8]) -> Reply {
    // Text that is no conversation (nested too deeply, say) is the error of the request it came from.
    let conversation: Conversation = match serde_json::from_slice(json) {
        Ok(conversation) => conversation,
        Err(error) => return Reply::Error(error.to_string()),
    };
    match templates.render(&conversation, max_output(json.len())) {
        Ok(text) => Reply::Text(text),
        Err(TemplateError::Missing) => Reply::Missing,
        Err(error) => Reply::Error(error.to_string()),
    }
}

/// Bounds this process's memory. From here on an allocation beyond it fails, and a failed allocation ends the process:
/// that is the point.
fn confine() -> io::Result<()> {
    let limit = |resource: Resource, value: u64| {
        let value = getrlimit(resource).maximum.map_or(value, |hard| hard.min(value));
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
    };
    // Where the machine or the container runs out of memory first, this process goes and not the server
    // (proc_pid_oom_score_adj(5)). Any process may say so of itself; where there is no such file, the bound below holds.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    limit(Resource::Core, 0)?;
    limit(Resource::As, mapped_bytes()? + MEMORY_BYTES)?;
    Ok(())
}

/// Address space of this process so far (proc_pid_statm(5)).
fn mapped_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split_whitespace().next().and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| io::Error::other("/proc/self/statm has no size"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Ends this process when the server is gone, even in the middle of a template.
fn end_with_server(socket: UnixStream) -> io::Result<()> {
    let watch = move || {
        // No events are asked for, so the hang-up alone is reported.
        let mut watched = [PollFd::new(&socket, PollFlags::empty())];
        while poll(&mut watched, None) == Err(rustix::io::Errno::INTR) {}
        std::process::exit(0)
    };
    thread::Builder::new().name("hang-up".to_owned()).stack_size(64 << 10).spawn(watch)?;
    Ok(())
}
