//! The threads that compute masks, so that the engine thread never waits for a grammar.

use crate::constraint::MaskJob;
use crate::handle::Message;
use crate::priority::lower_priority;

/// Most threads; a mask takes tens of microseconds, a forward pass milliseconds.
const MAX_THREADS: usize = 8;
/// The forward pass waits for each of its threads, so one that a mask pushes aside holds up every sequence; a mask that is
/// late holds up its own.
const NICE: i32 = 5;

/// Answers come through the engine's inbox, in any order.
pub(crate) struct MaskPool {
    jobs: flume::Sender<MaskJob>,
}

impl MaskPool {
    /// # Errors
    /// When the system cannot start a thread.
    pub fn start(inbox: &flume::WeakSender<Message>) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (jobs, queue) = flume::unbounded::<MaskJob>();
        for _ in 0..cores.div_ceil(2).min(MAX_THREADS) {
            let (queue, inbox) = (queue.clone(), inbox.clone());
            std::thread::Builder::new().name("mask".into()).spawn(move || {
                lower_priority(NICE);
                for job in queue {
                    let answer = Message::Mask(Box::new(job.run()));
                    // Nobody who could still want an answer is left once this fails.
                    if inbox.upgrade().is_none_or(|inbox| inbox.send(answer).is_err()) {
                        break;
                    }
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// Queues a job; hands it back if no thread is left to run it.
    pub fn submit(&self, job: MaskJob) -> Result<(), MaskJob> {
        self.jobs.send(job).map_err(flume::SendError::into_inner)
    }
}
