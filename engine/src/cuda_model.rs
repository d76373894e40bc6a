//! How a model is brought onto one GPU or several: weights and buffers first, then steps as large as any can be, then the
//! KV cache, as large as what those left allows. So serving never runs out of the devices' memory.

use weirgate_kernels::cuda::driver::{CompileSettings, CudaDevice, NvidiaGpu, connect};
use weirgate_kernels::cuda::{CudaBackend, Gpu};
use weirgate_kernels::{AllReduce, KernelError};
use weirgate_models::{ModelSpec, Shard, TensorSource};

use crate::decoder::{Decoder, DecoderConfig, LoadError};
use crate::model_executor::decoder_config;
use crate::sharded::ShardedExecutor;
use crate::{Batch, Executor, ExecutorError, LoadOptions, StepResult, warm_up};

/// Bytes left free: the driver takes some for itself as kernels are first used, and the kernels' scratch memory may grow a
/// little between the sizes that were tried.
const RESERVE: usize = 512 << 20;
/// Most rows of logits held at once: enough to read the head's weights a few times for the largest batch, few enough that
/// a 152k vocabulary costs 40 MB.
pub(crate) const MAX_LOGIT_ROWS: usize = 64;

/// How a model computes on a GPU.
#[derive(Debug, Clone, Default)]
pub struct CudaOptions {
    pub compile: CompileSettings,
    /// A request's tokens are the same whatever else is computed beside it and however its prompt is cut. Prompts take
    /// longer.
    pub deterministic: bool,
    /// Tokens of the steps that are recorded as CUDA graphs; steps of fewer are padded up to the next of these. `None`:
    /// [`graph_sizes`]; empty: none is recorded.
    pub graphs: Option<Vec<usize>>,
}

/// Steps that decode up to 256 sequences, in paces of one, four and eight.
fn graph_sizes() -> Vec<usize> {
    (1..8).chain((8..64).step_by(4)).chain((64..=256).step_by(8)).collect()
}

/// A model on a GPU, or on several that have a part of it each, that has no KV cache to serve from yet.
pub struct CudaModel<G: Gpu> {
    executor: ShardedExecutor<CudaBackend<G>>,
    description: String,
}

/// Takes GPUs into use and loads a checkpoint onto them, in as many parts. `options.blocks` and `threads` are not looked
/// at; `options.max_seq_len` is the most that will be asked for.
///
/// # Errors
/// When a device, a tensor or the memory is not as it must be; a model that cannot be split so.
pub fn load_cuda(
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    options: &LoadOptions,
    devices: &[CudaDevice],
    cuda: &CudaOptions,
) -> Result<CudaModel<NvidiaGpu>, LoadError> {
    let gpu = |device| NvidiaGpu::new(device, &cuda.compile);
    let gpus = devices.iter().map(gpu).collect::<Result<Vec<_>, _>>()?;
    let of = |(device, gpu): (&CudaDevice, &NvidiaGpu)| {
        format!("{} (cuda:{}), {}, {}", device.name, device.ordinal, gpu.origin(), gpu.products())
    };
    let mut lines: Vec<String> = devices.iter().zip(&gpus).map(of).collect();
    let mut members = Vec::new();
    if gpus.len() > 1 {
        let origin;
        (members, origin) = connect(&gpus, &cuda.compile.libraries, cuda.deterministic);
        lines.push(origin.to_string());
    }
    let model = CudaModel::load_split(gpus, members, (spec, tensors), options, cuda)?;
    Ok(CudaModel { description: lines.join("; "), ..model })
}

impl<G: Gpu> CudaModel<G> {
    /// Loads a checkpoint onto `gpu` and takes the largest steps there can be.
    ///
    /// # Errors
    /// As [`load_cuda`].
    pub fn load(
        gpu: G,
        spec: &ModelSpec,
        tensors: &dyn TensorSource,
        options: &LoadOptions,
        cuda: &CudaOptions,
    ) -> Result<Self, LoadError> {
        Self::load_split(vec![gpu], Vec::new(), (spec, tensors), options, cuda)
    }

    /// The same in parts, one on each of `gpus`, which are `members` of a group in this order; one GPU needs none.
    ///
    /// # Errors
    /// As [`load_cuda`].
    pub fn load_split(
        gpus: Vec<G>,
        mut members: Vec<Box<dyn AllReduce>>,
        (spec, tensors): (&ModelSpec, &dyn TensorSource),
        options: &LoadOptions,
        cuda: &CudaOptions,
    ) -> Result<Self, LoadError> {
        let description = gpus.iter().map(|gpu| gpu.info().name.clone()).collect::<Vec<_>>().join(", ");
        let split = !members.is_empty();
        let on_devices = members.iter_mut().all(|member| member.on_devices().is_some());
        let mut sizes = cuda.graphs.clone().unwrap_or_else(graph_sizes);
        sizes.retain(|&size| size <= options.max_step_tokens);
        if !on_devices && !sizes.is_empty() {
            tracing::info!("steps are launched op by op: CUDA graphs cannot have sums by way of the host");
            sizes.clear();
        }
        let backend = |gpu| {
            let plain =
                if cuda.deterministic { CudaBackend::deterministic(gpu) } else { CudaBackend::new(gpu) };
            plain.with_graphs(&sizes)
        };
        let backends = gpus.into_iter().map(backend).collect();
        let mut executor = ShardedExecutor::new(load_parts(backends, spec, tensors, options)?)?;
        if split {
            if on_devices {
                // Each part by itself first: memory is allocated and kernels are loaded before any device waits for
                // another, since both may take a device that is idle.
                warm_up(&mut executor, options, spec.vocab_size)?;
            }
            executor.join(members).map_err(load_error)?;
        }
        warm_up(&mut executor, options, spec.vocab_size)?;
        let refusals = executor.each(|_, decoder| {
            decoder.finish()?;
            Ok(decoder.backend().refusal().cloned())
        });
        if let Some(refusal) = refusals.map_err(load_error)?.into_iter().flatten().next() {
            tracing::warn!(%refusal, "CUDA graphs cannot be used: steps are launched op by op");
            if split {
                // What one part launches, the others do not replay.
                let launch_op_by_op = |_, decoder: &mut Decoder<CudaBackend<G>>| {
                    decoder.backend_mut().without_graphs();
                    Ok(())
                };
                executor.each(launch_op_by_op).map_err(load_error)?;
            }
        }
        Ok(Self { executor, description })
    }

    /// The devices, where their kernels came from, and by what they add up, for people.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Bytes that the KV cache may take on each device when all of this process may have `fraction` of the memory of each:
    /// as many as on the one that has the fewest.
    ///
    /// # Errors
    /// When a device does not answer.
    pub fn free_bytes(&mut self, fraction: f32) -> Result<u64, LoadError> {
        let free = self.executor.each(move |_, decoder| Ok(free_bytes(decoder, fraction)?));
        Ok(free.map_err(load_error)?.into_iter().min().unwrap_or(0))
    }

    /// Allocates the KV cache.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn with_cache(mut self, blocks: usize, max_seq_len: usize) -> Result<Box<dyn Executor>, LoadError> {
        let resized = self.executor.each(move |_, decoder| Ok(decoder.resize_cache(blocks, max_seq_len)?));
        resized.map_err(load_error)?;
        Ok(Box::new(self.executor))
    }
}

/// The parts of a model, all brought onto their devices at once.
fn load_parts<G: Gpu>(
    backends: Vec<CudaBackend<G>>,
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    options: &LoadOptions,
) -> Result<Vec<Decoder<CudaBackend<G>>>, LoadError> {
    let config = DecoderConfig {
        blocks: warm_up::blocks(options),
        max_logit_rows: MAX_LOGIT_ROWS,
        ..decoder_config(spec, tensors, options)?
    };
    let count = backends.len();
    if count == 1 {
        return backends.into_iter().map(|backend| Decoder::new(backend, spec, tensors, config)).collect();
    }
    let part = |(index, backend)| {
        let (spec, tensors) = spec.shard(Shard { index, count }, tensors)?;
        Decoder::new(backend, &spec, &tensors, config)
    };
    let part = &part;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            backends.into_iter().enumerate().map(|own| scope.spawn(move || part(own))).collect();
        let gone = |_| LoadError::WarmUp("a thread that loads a part of the model has panicked".to_owned());
        threads.into_iter().map(|thread| thread.join().map_err(gone).flatten()).collect()
    })
}

/// Of a decoder's device, see [`CudaModel::free_bytes`].
fn free_bytes<G: Gpu>(decoder: &Decoder<CudaBackend<G>>, fraction: f32) -> Result<u64, KernelError> {
    let memory = decoder.backend().gpu().memory_info()?;
    let allowed = (memory.total as f64 * f64::from(fraction.clamp(0.0, 1.0))) as usize;
    let used = memory.total.saturating_sub(memory.free);
    // The cache of the largest step goes when the other comes.
    let own = decoder.cache_bytes();
    let free =
        (allowed + own).saturating_sub(used + RESERVE).min((memory.free + own).saturating_sub(RESERVE));
    Ok(free as u64)
}

/// Takes the largest steps.
fn warm_up(executor: &mut impl Executor, options: &LoadOptions, vocab: usize) -> Result<(), LoadError> {
    let (prompts, longest) = warm_up::steps(options, vocab);
    for step in &prompts {
        take(executor, step)?;
    }
    for step in longest {
        // The first time it is done op by op, the second time recorded.
        take(executor, &step)?;
        take(executor, &step)?;
    }
    Ok(())
}

fn take(executor: &mut impl Executor, step: &Batch) -> Result<(), LoadError> {
    let mut result = StepResult::default();
    executor.launch(step).and_then(|()| executor.collect(&mut result)).map_err(load_error)
}

pub(crate) fn load_error(error: ExecutorError) -> LoadError {
    match error {
        ExecutorError::Kernel(error) => LoadError::Kernel(error),
        ExecutorError::Batch(message) => LoadError::WarmUp(message),
    }
}

#[cfg(test)]
mod tests {
    use weirgate_kernels::Backend;
    use weirgate_kernels::cuda::{Emulator, Watched};
    use weirgate_testkit::{Definition, RandomCheckpoint};

    use super::*;

    /// A device may not replay what it recorded once memory was given back there; then all record anew, since sums may be
    /// made ready by all devices together when they are recorded.
    #[test]
    fn where_one_part_records_anew_all_do() {
        let checkpoint = RandomCheckpoint::new(&Definition::named("llama-llama3").unwrap()).unwrap();
        let options = LoadOptions {
            threads: 1,
            block_size: 16,
            blocks: 0,
            max_step_tokens: 8,
            max_seqs: 2,
            max_seq_len: 32,
            kv_dtype: None,
            commit_cache: true,
        };
        let gpus = [Emulator::new().unwrap(), Emulator::new().unwrap()];
        let members = Emulator::group(&gpus).into_iter().map(|member| Box::new(member) as Box<dyn AllReduce>);
        let members = members.collect();
        let (gpus, watches): (Vec<_>, Vec<_>) = gpus.into_iter().map(Watched::new).unzip();
        let cuda = CudaOptions::default();
        let source = (checkpoint.spec(), &checkpoint as &dyn TensorSource);
        let mut model = CudaModel::load_split(gpus, members, source, &options, &cuda).unwrap();
        let (_, steps) = warm_up::steps(&options, 10);
        let step = steps.last().unwrap();
        let counts = || watches.iter().map(|watch| watch.counts()).collect::<Vec<_>>();
        let before = counts();
        take(&mut model.executor, &step).unwrap();
        let after = counts();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!((after.captures, after.replays), (before.captures, before.replays + 1));
        }
        let give_back = |index, decoder: &mut Decoder<CudaBackend<Watched<Emulator>>>| {
            if index == 1 {
                drop(decoder.backend().buffer(1)?);
            }
            Ok(())
        };
        model.executor.each(give_back).unwrap();
        let before = counts();
        // Op by op, recorded, replayed.
        for _ in 0..3 {
            take(&mut model.executor, &step).unwrap();
        }
        for (before, after) in before.iter().zip(counts()) {
            assert_eq!((after.captures, after.replays), (before.captures + 1, before.replays + 2));
        }
    }
}
