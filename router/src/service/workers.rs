//! Threads for templates and tokenizing, and for grammars, so that a long prompt or a schema never holds up the server.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

/// Jobs that may wait. Generation requests hold a place each, so only `/tokenize` can come near it.
const QUEUE: usize = 1024;
/// Deeply nested JSON and templates recurse; the size is said rather than assumed.
const STACK_BYTES: usize = 8 * 1024 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads. They end when the pool is dropped.
pub(crate) struct WorkerPool {
    jobs: flume::Sender<Job>,
    threads: usize,
}

/// The job did not run to its end: it panicked, or the pool is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JobLost;

impl WorkerPool {
    /// # Errors
    /// When the system cannot start a thread.
    pub fn new(name: &str, workers: usize) -> std::io::Result<Self> {
        Self::with_niceness(name, workers, 0)
    }

    /// A pool of a lower priority, by steps of niceness.
    ///
    /// # Errors
    /// As for [`WorkerPool::new`].
    pub fn with_niceness(name: &str, workers: usize, steps: i32) -> std::io::Result<Self> {
        let (jobs, inbox) = flume::bounded::<Job>(QUEUE);
        let threads = workers.max(1);
        for number in 0..threads {
            let inbox = inbox.clone();
            let thread = std::thread::Builder::new().name(format!("{name}-{number}")).stack_size(STACK_BYTES);
            thread.spawn(move || {
                if steps > 0 {
                    weirgate_engine::lower_priority(steps);
                }
                for job in inbox {
                    job();
                }
            })?;
        }
        Ok(Self { jobs, threads })
    }

    /// How many jobs run at a time.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` on a thread of the pool. A job whose caller is gone before it starts is skipped.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobLost> {
        let (reply, answer) = oneshot::channel();
        let job = move || {
            if reply.is_closed() {
                return;
            }
            // A tokenizer's panic must not cost the pool a thread.
            if let Ok(done) = catch_unwind(AssertUnwindSafe(work)) {
                let _ = reply.send(done);
            }
        };
        self.jobs.send_async(Box::new(job)).await.map_err(|_| JobLost)?;
        answer.await.map_err(|_| JobLost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_job_is_lost_and_the_worker_lives() {
        let pool = WorkerPool::new("test", 1).unwrap();
        assert_eq!(pool.run(|| -> u8 { panic!("bad input") }).await, Err(JobLost));
        assert_eq!(pool.run(|| 7).await, Ok(7));
    }
}
