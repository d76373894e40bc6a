//! A model that several shards compute together, each with a thread, a device and a KV cache of its own.
//!
//! The first shard is the executor's own: it draws the tokens. The others take the same steps and stop at the hidden
//! states. They meet after each attention and feed-forward block, where what they computed is added up.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use flume::{Receiver, Sender};
use weirgate_kernels::{AllReduce, Backend, KernelError, local_group};
use weirgate_models::{Adapter, ModelSpec, Shard, TensorSource};
use weirgate_types::AdapterId;

use crate::decoder::{Decoder, LoadError};
use crate::engine::panic_text;
use crate::model_executor::{LoadOptions, ModelExecutor, cpu_backend, decoder_config};
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
    let mut shares = (0..).map(|index| share(options.threads, index, shards));
    let backend = || cpu_backend(shares.next().unwrap_or(1), options);
    load_sharded((shards, backend), spec, tensors, options)
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
    Ok(Box::new(ShardedExecutor::new(decoders)?))
}

/// How many of `threads` threads the shard of this number gets: the first ones have one more where they do not come out even.
fn share(threads: usize, index: usize, shards: usize) -> usize {
    let shards = shards.max(1);
    (threads / shards + usize::from(index < threads % shards)).max(1)
}

/// Shards that take each step together.
pub(crate) struct ShardedExecutor<B: Backend> {
    /// Goes first when the executor does, so that the others wait for nobody.
    first: ModelExecutor<B>,
    others: Vec<Other<B>>,
    /// The others' copy of the step at hand.
    batch: Arc<Batch>,
    /// Whether the others were given something whose end nobody has waited for.
    under_way: bool,
}

/// A shard with a thread of its own.
struct Other<B: Backend> {
    /// `None` once it is to end.
    jobs: Option<Sender<Job<B>>>,
    done: Receiver<Result<(), ExecutorError>>,
    thread: Option<JoinHandle<()>>,
}

enum Job<B: Backend> {
    Step(Arc<Batch>),
    Work(Box<Work<B>>),
}

type Work<B> = dyn FnOnce(&mut Decoder<B>) -> Result<(), ExecutorError> + Send;

impl<B: Backend> Other<B> {
    fn spawn(mut decoder: Decoder<B>) -> Result<Self, LoadError> {
        Self::start(move |job| {
            let done = match job {
                // To its end: what goes wrong on the device is known when the others are told that it went well.
                Job::Step(batch) => decoder.forward(&batch).and_then(|()| decoder.finish()),
                Job::Work(work) => work(&mut decoder),
            };
            if done.is_err() {
                decoder.leave();
            }
            done
        })
    }

    /// A thread that does jobs. What a job brought is given back before it is answered.
    fn start(
        mut work: impl FnMut(Job<B>) -> Result<(), ExecutorError> + Send + 'static,
    ) -> Result<Self, LoadError> {
        let (jobs, inbox) = flume::bounded::<Job<B>>(1);
        let (outbox, done) = flume::bounded(1);
        let run = move || {
            for job in inbox {
                let result = work(job);
                if outbox.send(result).is_err() {
                    break;
                }
            }
        };
        let thread = Builder::new().name("shard".into()).spawn(run);
        let failed =
            |error: std::io::Error| KernelError::Device { device: "shards", message: error.to_string() };
        Ok(Self { jobs: Some(jobs), done, thread: Some(thread.map_err(failed)?) })
    }

    /// A shard that has ended takes nothing; [`Other::wait`] says why.
    fn give(&self, job: Job<B>) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }

    fn wait(&mut self) -> Result<(), ExecutorError> {
        self.done.recv().unwrap_or_else(|_| Err(self.end()))
    }

    /// What ended the thread.
    fn end(&mut self) -> ExecutorError {
        let panicked = self.thread.take().and_then(|thread| thread.join().err());
        let why =
            panicked.map_or_else(|| "it has ended before".into(), |payload| panic_text(payload.as_ref()));
        KernelError::Device { device: "shards", message: format!("a shard's thread is gone: {why}") }.into()
    }
}

impl<B: Backend> Drop for Other<B> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was logged there.
            let _ = thread.join();
        }
    }
}

impl<B: Backend> ShardedExecutor<B> {
    /// The first of `decoders` draws the tokens.
    ///
    /// # Errors
    /// When there is none, or the system cannot start threads for the others.
    pub fn new(decoders: Vec<Decoder<B>>) -> Result<Self, LoadError> {
        let mut decoders = decoders.into_iter();
        let first =
            decoders.next().ok_or(KernelError::Shape { op: "shards", what: "count", got: 0, expected: 1 })?;
        let others = decoders.map(Other::spawn).collect::<Result<_, _>>()?;
        Ok(Self { first: ModelExecutor::new(first), others, batch: Arc::default(), under_way: false })
    }

    /// Has `work` done in each shard (by its number), in its thread; what they found, by number.
    ///
    /// # Errors
    /// What went wrong in one of them. No step can be taken any more then.
    pub fn each<T: Send + 'static>(
        &mut self,
        work: impl Fn(usize, &mut Decoder<B>) -> Result<T, ExecutorError> + Send + Sync + 'static,
    ) -> Result<Vec<T>, ExecutorError> {
        let work = Arc::new(work);
        let (tell, told) = flume::unbounded();
        self.under_way = true;
        for (index, other) in (1..).zip(&self.others) {
            let (work, tell) = (Arc::clone(&work), tell.clone());
            let own = move |decoder: &mut Decoder<B>| {
                // Who asked waits for the answers.
                let _ = tell.send((index, work(index, decoder)?));
                Ok(())
            };
            other.give(Job::Work(Box::new(own)));
        }
        let own = work(0, &mut self.first.decoder).map(|found| {
            let _ = tell.send((0, found));
        });
        self.settle(own)?;
        let mut found: Vec<(usize, T)> = told.drain().collect();
        found.sort_by_key(|(index, _)| *index);
        Ok(found.into_iter().map(|(_, found)| found).collect())
    }

    /// Makes the shards members of a group, which has as many.
    ///
    /// # Errors
    /// As [`ShardedExecutor::each`].
    pub fn join(&mut self, members: Vec<Box<dyn AllReduce>>) -> Result<(), ExecutorError> {
        let members: Vec<_> = members.into_iter().map(|member| Mutex::new(Some(member))).collect();
        let join = move |index: usize, decoder: &mut Decoder<B>| {
            let place = members.get(index).map(|place| place.lock().unwrap_or_else(PoisonError::into_inner));
            let member = place.and_then(|mut place| place.take());
            decoder.join(member.ok_or(KernelError::Left)?);
            Ok(())
        };
        self.each(join).map(|_| ())
    }

    /// Waits for what the other shards were given while `own` was done here.
    fn settle(&mut self, own: Result<(), ExecutorError>) -> Result<(), ExecutorError> {
        if own.is_err() {
            // Or the others might wait for what this shard was still to do.
            self.first.decoder.leave();
        }
        // All are waited for, also when one has failed.
        self.under_way = false;
        let others = self.others.iter_mut().map(Other::wait);
        let mut errors: Vec<_> = std::iter::once(own).chain(others).filter_map(Result::err).collect();
        // Where one fails, the others fail for its absence.
        errors.sort_by_key(|error| matches!(error, ExecutorError::Kernel(KernelError::Left)));
        errors.into_iter().next().map_or(Ok(()), Err)
    }
}

impl<B: Backend> Executor for ShardedExecutor<B> {
    fn limits(&self) -> ExecutorLimits {
        self.first.limits()
    }

    fn is_asynchronous(&self) -> bool {
        self.first.is_asynchronous()
    }

    fn use_threads(&mut self, threads: usize) -> Result<(), ExecutorError> {
        let shards = self.others.len() + 1;
        self.each(move |index, decoder| decoder.use_threads(share(threads, index, shards))).map(|_| ())
    }

    fn launch(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        if !self.others.is_empty() {
            // Nobody has it any more, so its memory is used again.
            Arc::make_mut(&mut self.batch).copy_inputs(batch);
        }
        self.under_way = true;
        for other in &self.others {
            other.give(Job::Step(Arc::clone(&self.batch)));
        }
        self.first.launch(batch).or_else(|error| self.settle(Err(error)))
    }

    /// The first shard's device first: the others wait for what it was still to do, also when that will never be done.
    fn collect(&mut self, out: &mut StepResult) -> Result<(), ExecutorError> {
        let own = self.first.collect(out);
        self.settle(own)
    }

    fn waited(&self) -> Duration {
        self.first.waited()
    }

    fn load_adapter(&mut self, id: AdapterId, adapter: &Adapter) -> Result<(), KernelError> {
        if self.others.is_empty() {
            return self.first.load_adapter(id, adapter);
        }
        let message = "adapters are not supported on a model that is split (num_shard above 1)".into();
        Err(KernelError::Device { device: "shards", message })
    }

    fn unload_adapter(&mut self, id: AdapterId) {
        self.first.unload_adapter(id);
    }
}

impl<B: Backend> Drop for ShardedExecutor<B> {
    fn drop(&mut self) {
        if self.under_way {
            // The others may wait for what this shard was still to do.
            self.first.decoder.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use weirgate_kernels::cpu::CpuBackend;
    use weirgate_testkit::{Definition, RandomCheckpoint};

    use super::*;

    #[test]
    fn all_threads_are_shared_out() {
        let of = |threads, shards| (0..shards).map(|index| share(threads, index, shards)).collect::<Vec<_>>();
        assert_eq!(of(7, 3), [3, 2, 2]);
        assert_eq!(of(8, 4), [2, 2, 2, 2]);
        assert_eq!(of(1, 2), [1, 1]);
    }

    /// The first of two shards, the second of which does `work`.
    fn beside(
        work: impl FnMut(Job<CpuBackend>, &mut dyn AllReduce) -> Result<(), ExecutorError> + Send + 'static,
    ) -> ShardedExecutor<CpuBackend> {
        let checkpoint = RandomCheckpoint::new(&Definition::named("llama-bf16").unwrap()).unwrap();
        let options = LoadOptions {
            threads: 1,
            block_size: 16,
            blocks: 4,
            max_step_tokens: 8,
            max_seqs: 2,
            max_seq_len: 64,
            kv_dtype: None,
            commit_cache: true,
        };
        let (spec, tensors) = checkpoint.spec().shard(Shard { index: 0, count: 2 }, &checkpoint).unwrap();
        let config = decoder_config(&spec, &tensors, &options).unwrap();
        let mut decoder = Decoder::new(CpuBackend::new(1), &spec, &tensors, config).unwrap();
        let mut members = local_group(2);
        let (mut second, first) = (members.pop().unwrap(), members.pop().unwrap());
        decoder.join(Box::new(first));
        let mut work = work;
        let other = Other::start(move |job| work(job, &mut second)).unwrap();
        ShardedExecutor {
            first: ModelExecutor::new(decoder),
            others: vec![other],
            batch: Arc::default(),
            under_way: false,
        }
    }

    fn one_token() -> Batch {
        Batch {
            ids: vec![5],
            positions: vec![0],
            slots: vec![0],
            cu_q: vec![0, 1],
            kv_len: vec![1],
            block_tables: vec![0],
            block_offsets: vec![0, 1],
            rope_len: vec![1],
            adapters: vec![None],
            ..Batch::default()
        }
    }

    /// The first shard fails, too, for want of the second; what is said is what the second one had.
    #[test]
    fn the_shard_that_failed_says_why() {
        let mut executor = beside(|_, member| {
            member.leave();
            Err(ExecutorError::Batch("the second shard is not well".into()))
        });
        let error = executor.launch(&one_token()).unwrap_err();
        assert!(error.to_string().ends_with("the second shard is not well"), "{error}");
    }

    #[test]
    fn a_panic_in_a_shard_is_an_error_that_says_so() {
        let mut executor = beside(|_, member| {
            member.leave();
            panic!("out of luck")
        });
        for expected in ["out of luck", "has ended before"] {
            let error = executor.launch(&one_token()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    /// No step copies more than it must: the copy's memory is used again.
    #[test]
    fn steps_share_one_copy_of_the_batch() {
        let mut executor = beside(|_, member| {
            member.leave();
            Ok(())
        });
        let mut places = Vec::new();
        for _ in 0..3 {
            let _ = executor.launch(&one_token());
            places.push((Arc::as_ptr(&executor.batch), executor.batch.ids.as_ptr()));
        }
        assert!(places.iter().all(|place| *place == places[0]));
    }
}
