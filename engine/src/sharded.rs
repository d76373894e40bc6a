//! A model that several shards compute together, each with a thread, a device and a KV cache of its own.
//!
//! The first shard is the executor's own: it draws the tokens. The others take the same steps and stop at the hidden
//! states. They meet after each attention and feed-forward block, where what they computed is added up.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use flume::{Receiver, Sender};
use weirgate_kernels::cpu::CpuBackend;
use weirgate_kernels::{Backend, KernelError, local_group};
use weirgate_models::{Adapter, ModelSpec, Shard, TensorSource};
use weirgate_types::AdapterId;

use crate::decoder::{Decoder, LoadError};
use crate::model_executor::{LoadOptions, ModelExecutor, decoder_config};
use crate::{Batch, Executor, ExecutorError, ExecutorLimits, StepResult};

/// Loads a checkpoint onto the CPU in `shards` parts, which share the threads.
///
/// # Errors
/// As for [`crate::load_cpu`]; a model that cannot be split so.
pub fn load_cpu_sharded(
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    options: &LoadOptions,
    shards: usize,
) -> Result<Box<dyn Executor>, LoadError> {
    let threads = options.threads.checked_div(shards).unwrap_or(0).max(1);
    load_sharded((shards, || CpuBackend::new(threads)), spec, tensors, options)
}

/// Loads a checkpoint in `shards` parts, each onto a device that `backend` makes.
///
/// # Errors
/// As for [`load_cpu_sharded`].
pub fn load_sharded<B: Backend>(
    (shards, mut backend): (usize, impl FnMut() -> B),
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    options: &LoadOptions,
) -> Result<Box<dyn Executor>, LoadError> {
    let config = decoder_config(spec, tensors, options)?;
    let mut decoders = Vec::with_capacity(shards);
    for (index, member) in local_group(shards).into_iter().enumerate() {
        let (spec, tensors) = spec.shard(Shard { index, count: shards }, tensors)?;
        let mut decoder = Decoder::new(backend(), &spec, &tensors, config)?;
        decoder.join(Box::new(member));
        decoders.push(decoder);
    }
    let mut decoders = decoders.into_iter();
    let first =
        decoders.next().ok_or(KernelError::Shape { op: "shards", what: "count", got: 0, expected: 1 })?;
    let others = decoders.map(Other::spawn).collect::<Result<_, _>>()?;
    Ok(Box::new(ShardedExecutor { first: ModelExecutor::new(first), others }))
}

struct ShardedExecutor<B: Backend> {
    /// Goes first when the executor does, so that the others wait for nobody.
    first: ModelExecutor<B>,
    others: Vec<Other>,
}

/// A shard with a thread of its own.
struct Other {
    /// `None` once it is to end.
    jobs: Option<Sender<Job>>,
    done: Receiver<Result<(), ExecutorError>>,
    thread: Option<JoinHandle<()>>,
}

enum Job {
    Step(Arc<Batch>),
    UseThreads(usize),
}

impl Other {
    fn spawn<B: Backend>(mut decoder: Decoder<B>) -> Result<Self, LoadError> {
        let (jobs, inbox) = flume::bounded::<Job>(1);
        let (outbox, done) = flume::bounded(1);
        let run = move || {
            for job in inbox {
                let result = match job {
                    Job::Step(batch) => decoder.forward(&batch),
                    Job::UseThreads(threads) => decoder.use_threads(threads),
                };
                if outbox.send(result).is_err() {
                    break;
                }
            }
        };
        let thread = Builder::new().name("shard".into()).spawn(run);
        let failed =
            |error: std::io::Error| KernelError::Device { device: "cpu", message: error.to_string() };
        Ok(Self { jobs: Some(jobs), done, thread: Some(thread.map_err(failed)?) })
    }

    fn give(&self, job: Job) -> Result<(), ExecutorError> {
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or_else(gone)
    }

    fn wait(&self) -> Result<(), ExecutorError> {
        self.done.recv().unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was logged there.
            let _ = thread.join();
        }
    }
}

fn gone() -> ExecutorError {
    KernelError::Device { device: "cpu", message: "a shard's thread has ended".into() }.into()
}

impl<B: Backend> ShardedExecutor<B> {
    /// Gives a job to each of the other shards while `own` is done here, and waits for all.
    fn together(
        &mut self,
        job: impl Fn() -> Job,
        own: impl FnOnce(&mut ModelExecutor<B>) -> Result<(), ExecutorError>,
    ) -> Result<(), ExecutorError> {
        for other in &self.others {
            other.give(job())?;
        }
        let own = own(&mut self.first);
        // All are waited for, also when one has failed.
        let others: Vec<_> = self.others.iter().map(Other::wait).collect();
        own.and(others.into_iter().collect())
    }
}

impl<B: Backend> Executor for ShardedExecutor<B> {
    fn limits(&self) -> ExecutorLimits {
        self.first.limits()
    }

    fn use_threads(&mut self, threads: usize) -> Result<(), ExecutorError> {
        let each = (threads / (self.others.len() + 1)).max(1);
        self.together(|| Job::UseThreads(each), |first| first.use_threads(each))
    }

    fn launch(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        let shared = Arc::new(batch.clone());
        self.together(|| Job::Step(Arc::clone(&shared)), |first| first.launch(batch))
    }

    fn collect(&mut self, out: &mut StepResult) -> Result<(), ExecutorError> {
        self.first.collect(out)
    }

    fn load_adapter(&mut self, _id: AdapterId, _adapter: &Adapter) -> Result<(), KernelError> {
        let message = "adapters are not supported on a model that is split (num_shard above 1)".into();
        Err(KernelError::Device { device: "cpu", message })
    }

    fn unload_adapter(&mut self, _id: AdapterId) {}
}
