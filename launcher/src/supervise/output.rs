//! Passes a child's output through and remembers its end.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::process::Child;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Enough for a panic message with its backtrace.
const KEPT_BYTES: usize = 16 * 1024;
const KEPT_LINES: usize = 20;
/// A grandchild may hold the pipe open after the child ended.
const WAIT_FOR_END: Duration = Duration::from_millis(500);

/// The last bytes of one stream.
type Kept = Arc<Mutex<VecDeque<u8>>>;

/// The end of what a child wrote to its stdout and stderr. Each is kept by itself: what comes in between two pipes is
/// not known, and a chatty stdout must not push out the reason on stderr.
pub struct Tail {
    stdout: Kept,
    stderr: Kept,
    /// Disconnects when both streams have ended.
    ended: Receiver<()>,
}

impl Tail {
    /// Takes `child`'s pipes and copies them to this process's own stdout and stderr.
    pub fn follow(child: &mut Child) -> Self {
        let (stdout, stderr) = (Kept::default(), Kept::default());
        let (open, ended) = channel();
        if let Some(from) = child.stdout.take() {
            copy(from, std::io::stdout(), Arc::clone(&stdout), open.clone());
        }
        if let Some(from) = child.stderr.take() {
            copy(from, std::io::stderr(), Arc::clone(&stderr), open);
        }
        Self { stdout, stderr, ended }
    }

    /// Waits until the streams of a child that ended are read to their end.
    pub fn finish(&self) {
        let _ = self.ended.recv_timeout(WAIT_FOR_END);
    }

    /// The last lines of stdout, then those of stderr.
    pub fn last_lines(&self) -> String {
        let mut lines = last_lines(&self.stdout);
        lines.extend(last_lines(&self.stderr));
        lines.join("\n")
    }
}

fn last_lines(kept: &Kept) -> Vec<String> {
    let bytes: Vec<u8> = kept.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(KEPT_LINES);
    lines.into_iter().skip(first).map(str::to_owned).collect()
}

/// Copies until the stream ends; `open` is dropped then. Output that cannot be written is still read, lest the child
/// block on a full pipe.
fn copy(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    kept: Kept,
    open: Sender<()>,
) {
    std::thread::spawn(move || {
        let _open = open;
        let mut buffer = [0; 8192];
        loop {
            let bytes = match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => buffer.get(..n).unwrap_or_default(),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let _ = to.write_all(bytes).and_then(|()| to.flush());
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(bytes);
            let excess = kept.len().saturating_sub(KEPT_BYTES);
            kept.drain(..excess);
        }
    });
}
