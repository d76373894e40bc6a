//! How far a download is: a bar on a terminal, a log line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::id::ModelId;

/// Between log lines, in milliseconds.
const LOG_EVERY: u64 = 5_000;
const BAR: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

pub(crate) struct Progress<'o> {
    id: ModelId,
    bar: ProgressBar,
    files: usize,
    files_done: AtomicU64,
    started: Instant,
    /// Milliseconds since `started` of the last log line.
    logged_at: AtomicU64,
    observer: Option<&'o Observer<'o>>,
}

/// Is told how many bytes of how many are here; false stops the download.
pub type Observer<'o> = dyn Fn(u64, u64) -> bool + Sync + 'o;

impl<'o> Progress<'o> {
    /// `total` bytes in `files` files are to come; 0 bytes where the hub does not say how many.
    pub fn start(id: &ModelId, files: usize, total: u64, observer: Option<&'o Observer<'o>>) -> Self {
        // Errors of a terminal are no reason to fail a download: then there is no bar.
        let style = ProgressStyle::with_template(BAR);
        let bar = if std::io::stderr().is_terminal()
            && let Ok(style) = style
        {
            let bar =
                ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        } else {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden())
        };
        bar.set_message(id.to_string());
        tracing::info!("Downloading {id}: {files} files, {}", HumanBytes(total));
        Self {
            id: id.clone(),
            bar,
            files,
            files_done: AtomicU64::new(0),
            started: Instant::now(),
            logged_at: AtomicU64::new(0),
            observer,
        }
    }

    /// `bytes` more are there; false where the observer wants no more.
    pub fn advance(&self, bytes: u64) -> bool {
        self.bar.inc(bytes);
        if self.bar.is_hidden() {
            self.log_now_and_then();
        }
        self.observer.is_none_or(|tell| tell(self.bar.position(), self.bar.length().unwrap_or(0)))
    }

    fn log_now_and_then(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.logged_at.load(Ordering::Relaxed);
        let due = now.saturating_sub(last) >= LOG_EVERY;
        if due && self.logged_at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::info!(
                "Downloading {}: {} of {} files, {} of {}",
                self.id,
                self.files_done.load(Ordering::Relaxed),
                self.files,
                HumanBytes(self.bar.position()),
                HumanBytes(self.bar.length().unwrap_or(0)),
            );
        }
    }

    pub fn file_done(&self) {
        self.files_done.fetch_add(1, Ordering::Relaxed);
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
        tracing::info!(
            "Downloaded {} in {:.1} s",
            HumanBytes(self.bar.position()),
            self.started.elapsed().as_secs_f32()
        );
    }
}
