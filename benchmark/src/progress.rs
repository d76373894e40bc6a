//! What a run tells whoever shows it. Both modes speak it, so both are shown by the same screen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::UnboundedSender;

/// What will be measured: one tab each, all with the same series.
#[derive(Debug, Clone)]
pub struct Outline {
    pub title: String,
    pub tabs: Vec<Tab>,
    /// Names with units, e.g. "first token ms".
    pub series: Vec<&'static str>,
    /// Names of the two axes of the chart over all tabs.
    pub axes: [&'static str; 2],
}

#[derive(Debug, Clone)]
pub struct Tab {
    pub label: String,
    /// Units to do, where that is known.
    pub total: Option<usize>,
}

#[derive(Debug, Clone)]
pub enum Progress {
    /// Values measured in one unit, each with the index of its series.
    Done {
        tab: usize,
        values: Vec<(usize, f64)>,
    },
    Failed {
        tab: usize,
        kind: String,
    },
    /// A tab's point in the chart over all tabs, when it is finished.
    Point {
        tab: usize,
        x: f64,
        y: f64,
    },
}

/// The sending end; what nobody shows any more is dropped.
#[derive(Debug, Clone)]
pub struct Reporter {
    pub sender: UnboundedSender<Progress>,
    stop: Arc<AtomicBool>,
}

impl Reporter {
    pub fn new(sender: UnboundedSender<Progress>) -> Self {
        Self { sender, stop: Arc::default() }
    }

    pub fn send(&self, progress: Progress) {
        // The receiver is gone when the user has left the screen; the run goes on to its report.
        let _ = self.sender.send(progress);
    }

    /// Set when the user wants no more; what is under way is finished.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
