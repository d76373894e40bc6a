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

/// The end of what a child wrote to its stdout and stderr.
pub struct Tail {
    kept: Arc<Mutex<VecDeque<u8>>>,
    /// Disconnects when both streams have ended.
    ended: Receiver<()>,
}

impl Tail {
    /// Takes `child`'s pipes and copies them to this process's own stdout and stderr.
    pub fn follow(child: &mut Child) -> Self {
        let kept = Arc::new(Mutex::new(VecDeque::new()));
        let (open, ended) = channel();
        if let Some(stdout) = child.stdout.take() {
            copy(stdout, std::io::stdout(), Arc::clone(&kept), open.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            copy(stderr, std::io::stderr(), Arc::clone(&kept), open);
        }
        Self { kept, ended }
    }

    /// Waits until the streams of a child that ended are read to their end.
    pub fn finish(&self) {
        let _ = self.ended.recv_timeout(WAIT_FOR_END);
    }

    /// The last lines written, oldest first.
    pub fn last_lines(&self) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(KEPT_LINES)..).unwrap_or_default().join("\n")
    }
}

/// Copies until the stream ends; `open` is dropped then. Output that cannot be written is still read, lest the child
/// block on a full pipe.
fn copy(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    kept: Arc<Mutex<VecDeque<u8>>>,
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
