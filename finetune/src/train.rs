//! A training from its job to its adapter.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use sha2::{Digest, Sha256};
use weirgate_models::{ModelFiles, ModelSpec, open_tensors, read_spec};

use crate::batches::Step;
use crate::checkpoint::{Checkpoints, State};
use crate::device;
use crate::encode::Encoded;
use crate::model::{Adapters, Base, Gradients, Model};
use crate::optimizer::{AdamW, clip};
use crate::process::{Stop, available_bytes};
use crate::{
    Batch, Encoder, Event, FinetuneError, Hyperparameters, Job, Plan, Progress, Reporter, curve, peft,
    read_dataset,
};

/// The picture of the losses, in the output folder.
const CURVE: &str = "loss.svg";
/// Of the steps, how many come to a checkpoint where nothing is said; and never more than so many steps.
const CHECKPOINTS: usize = 10;
const MOST_BETWEEN: usize = 500;
/// What of the memory the base may take in f32 throughout, and the activations of one batch: one part in so many.
const BASE_SHARE: u64 = 2;
const ACTIVATION_SHARE: u64 = 4;
/// Memory that is assumed where the system does not say.
const UNKNOWN_MEMORY: u64 = 8 << 30;

/// How a training ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The PEFT folder and the picture of the losses.
    Finished { adapter: PathBuf, curve: PathBuf },
    /// Asked to stop after so many steps; a checkpoint is there.
    Interrupted { step: usize },
}

/// All that is known before the first step.
pub struct Preparation {
    pub settings: Hyperparameters,
    pub encoded: Encoded,
    pub plan: Plan,
    files: ModelFiles,
    spec: ModelSpec,
    fingerprint: String,
}

impl Preparation {
    /// Reads the base model's small files and the dataset.
    ///
    /// # Errors
    /// Whatever is wrong with the job, its files or its hyper-parameters.
    pub fn new(job: &Job) -> Result<Self, FinetuneError> {
        let settings = Hyperparameters::read(&job.hyperparameters)?;
        let files = job.base_files()?;
        let spec = read_spec(&files)?;
        let encoder = Encoder::new(&files, &settings, spec.max_positions)?;
        let encoded = encoder.encode(&read_dataset(&job.dataset)?)?;
        let plan = Plan::new(&encoded.examples, &settings, encoder.max_length());
        settings.warmup(plan.total_steps())?;
        let fingerprint = fingerprint(&spec, &settings, &encoded, job.initial_adapter.as_deref())?;
        Ok(Self { settings, encoded, plan, files, spec, fingerprint })
    }

    /// The examples of a step, batch by batch.
    pub fn batches<'a>(&'a self, step: &'a Step) -> impl Iterator<Item = Batch> + 'a {
        step.iter()
            .map(|batch| Batch::new(batch.iter().filter_map(|&index| self.encoded.examples.get(index))))
    }

    fn model(&self, job: &Job, device: &Device) -> Result<Model, FinetuneError> {
        let available = available_bytes().unwrap_or(UNKNOWN_MEMORY);
        let memory = job.memory_limit_bytes.map_or(available, |limit| limit.min(available));
        let adapters = Adapters::new(&self.spec, &self.settings, device)?;
        if let Some(limit) = job.memory_limit_bytes {
            check_memory(&self.spec, &adapters, limit)?;
        }
        let tensors = open_tensors(&self.files)?;
        let base = Base::load(&self.spec, tensors, self.settings.quantized, (device, memory / BASE_SHARE))?;
        let recompute = self
            .settings
            .gradient_checkpointing
            .unwrap_or_else(|| self.activation_bytes() > memory / ACTIVATION_SHARE);
        Ok(Model::new(self.spec.clone(), base, adapters, &self.settings, (device, recompute)))
    }

    /// Roughly what the graphs of all layers hold of the largest batch.
    fn activation_bytes(&self) -> u64 {
        let spec = &self.spec;
        let heads = (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
        let per_token = 10 * spec.hidden_size + 6 * heads + 6 * spec.intermediate_size;
        let longest = self.encoded.examples.iter().map(|example| example.tokens.len()).max().unwrap_or(0);
        let row = if self.settings.packing { self.settings.max_length } else { longest };
        let tokens = (row * self.settings.batch_size).min(self.plan.tokens());
        tokens as u64 * per_token as u64 * spec.layers.len() as u64 * 4
    }
}

/// What the least frugal parts need: the head, one layer, the adapters with their gradients and moments.
fn check_memory(spec: &ModelSpec, adapters: &Adapters, limit: u64) -> Result<(), FinetuneError> {
    let heads = (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
    let layer = spec.hidden_size * (heads + spec.heads * spec.head_dim + 3 * spec.intermediate_size);
    let elements = spec.vocab_size * spec.hidden_size + layer + 5 * adapters.parameters();
    let least = 4 * elements as u64;
    match limit < least {
        true => Err(FinetuneError::field(
            "memory_limit_bytes",
            format!("is {limit}, training this model takes at least {least}"),
        )),
        false => Ok(()),
    }
}

/// Differs wherever another training would.
fn fingerprint(
    spec: &ModelSpec,
    settings: &Hyperparameters,
    encoded: &Encoded,
    initial: Option<&Path>,
) -> Result<String, FinetuneError> {
    let mut hash = Sha256::new();
    // How often to save and what to compute twice change no number.
    let settings = Hyperparameters { save_steps: None, gradient_checkpointing: None, ..settings.clone() };
    hash.update(serde_json::to_vec(&settings).map_err(std::io::Error::from)?);
    hash.update(format!("{spec:?}"));
    for example in &encoded.examples {
        let tokens = example.tokens.iter().zip(&example.learned);
        tokens.for_each(|(token, learned)| {
            hash.update((u64::from(*token) << 1 | u64::from(*learned)).to_le_bytes())
        });
        hash.update(u64::MAX.to_le_bytes());
    }
    if let Some(folder) = initial {
        let path = folder.join(peft::TENSORS);
        hash.update(fs::read(&path).map_err(|error| FinetuneError::file(&path, error))?);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Trains, telling `reporter`; where it cannot be told any more, as where `stop` asks, the training ends with a checkpoint.
///
/// # Errors
/// Whatever is wrong with the job, its files or its hyper-parameters, and those of computing and writing.
pub fn run(job: &Job, reporter: &mut dyn Reporter, stop: &Stop) -> Result<Outcome, FinetuneError> {
    check_output(&job.output)?;
    let prepared = Preparation::new(job)?;
    let (device, description) = device::choose();
    let model = prepared.model(job, &device)?;
    let checkpoints = Checkpoints::open(&job.checkpoints)?;
    let mut training = Training::begin(job, &prepared, &model, &checkpoints, &device)?;
    let mut tell = |event: &Event| {
        if reporter.report(event).is_err() {
            stop.ask();
        }
    };
    tell(&Event::Started {
        device: description,
        total_steps: prepared.plan.total_steps(),
        trainable_parameters: model.adapters.parameters(),
        tokens: prepared.plan.tokens(),
    });
    match training.steps(&mut tell, stop) {
        Err(FinetuneError::Interrupted) => {
            training.save(&mut tell)?;
            Ok(Outcome::Interrupted { step: training.state.step })
        }
        Err(error) => Err(error),
        Ok(()) => {
            training.save(&mut tell)?;
            let title = job.name.as_deref().unwrap_or(&job.base_model);
            let curve = curve::draw(title, &training.state.losses);
            publish(&job.output, |folder| {
                peft::write(folder, &model.adapters, &prepared.settings, &job.base_model)?;
                peft::write_file(&folder.join(CURVE), curve.as_bytes())
            })?;
            Ok(Outcome::Finished { adapter: job.output.clone(), curve: job.output.join(CURVE) })
        }
    }
}

/// A training under way.
struct Training<'a> {
    prepared: &'a Preparation,
    model: &'a Model,
    checkpoints: &'a Checkpoints,
    optimizer: AdamW,
    state: State,
    /// The step of the newest checkpoint.
    saved: Option<usize>,
    base: &'a str,
}

impl<'a> Training<'a> {
    /// Anew, or from the newest checkpoint.
    fn begin(
        job: &'a Job,
        prepared: &'a Preparation,
        model: &'a Model,
        checkpoints: &'a Checkpoints,
        device: &Device,
    ) -> Result<Self, FinetuneError> {
        let mut optimizer = AdamW::new(&prepared.settings, &model.adapters.named())?;
        let state = match job.resume {
            true => checkpoints.resume(&prepared.fingerprint, &model.adapters, &mut optimizer, device)?,
            false => {
                checkpoints.clear()?;
                None
            }
        };
        let saved = state.as_ref().map(|state| state.step);
        if let (None, Some(folder)) = (&state, &job.initial_adapter) {
            let path = folder.join(peft::TENSORS);
            peft::assign(&path, peft::read_tensors(&path, device)?, &model.adapters.named())?;
        }
        let fresh = State { step: 0, losses: Vec::new(), fingerprint: prepared.fingerprint.clone() };
        let state = state.unwrap_or(fresh);
        Ok(Self { prepared, model, checkpoints, optimizer, state, saved, base: &job.base_model })
    }

    /// All steps that are left.
    fn steps(&mut self, tell: &mut dyn FnMut(&Event), stop: &Stop) -> Result<(), FinetuneError> {
        if self.saved.is_none() {
            self.save(tell)?;
        }
        let total = self.prepared.plan.total_steps();
        let between = self
            .prepared
            .settings
            .save_steps
            .unwrap_or_else(|| total.div_ceil(CHECKPOINTS).clamp(1, MOST_BETWEEN));
        let mut clock = Clock::start();
        let mut passed = 0;
        for epoch in 0.. {
            let steps = self.prepared.plan.epoch(epoch);
            for (index, step) in steps.iter().enumerate() {
                passed += 1;
                if passed <= self.state.step {
                    continue;
                }
                if passed > total {
                    return Ok(());
                }
                let mut progress = self.step(step, stop)?;
                progress.epoch = epoch as f64 + (index + 1) as f64 / steps.len() as f64;
                clock.count(step.iter().flatten().map(|&example| self.prepared.tokens_of(example)).sum());
                (progress.tokens_per_s, progress.eta_s) = clock.rates(total - passed);
                tell(&Event::Progress(progress));
                if passed.is_multiple_of(between) && passed < total {
                    self.save(tell)?;
                }
            }
            if passed >= total {
                break;
            }
        }
        Ok(())
    }

    /// One step of the optimizer.
    fn step(&mut self, step: &Step, stop: &Stop) -> Result<Progress, FinetuneError> {
        let settings = &self.prepared.settings;
        let (taken, total) = (self.state.step, self.prepared.plan.total_steps());
        let batches: Vec<Batch> = self.prepared.batches(step).collect();
        let targets: usize = batches.iter().map(|batch| batch.targets.len()).sum();
        let (mut gradients, mut loss) = (Gradients::default(), 0.0);
        for (index, batch) in batches.iter().enumerate() {
            let number = (taken * settings.gradient_accumulation + index) as u64;
            let factor = 1.0 / targets as f64;
            loss += factor * self.model.accumulate(batch, (factor, number), &mut gradients, stop)?;
        }
        let trained = self.model.adapters.named();
        let (grad_norm, factor) = clip(&gradients, trained.len(), settings.max_grad_norm)?;
        for (value, what) in [(loss, "loss"), (grad_norm, "gradient's norm")] {
            if !value.is_finite() {
                return Err(FinetuneError::Diverged { step: taken + 1, what });
            }
        }
        let rate = settings.rate(taken, settings.warmup(total)?, total);
        self.optimizer.step(taken + 1, &trained, (&gradients, factor), rate)?;
        self.state.step += 1;
        self.state.losses.push(loss);
        Ok(Progress {
            step: self.state.step,
            total_steps: total,
            epoch: 0.0,
            loss,
            learning_rate: rate,
            grad_norm,
            tokens_per_s: 0.0,
            eta_s: 0.0,
        })
    }

    /// A checkpoint of the step that was last, unless there is one.
    fn save(&mut self, tell: &mut dyn FnMut(&Event)) -> Result<(), FinetuneError> {
        if self.saved == Some(self.state.step) {
            return Ok(());
        }
        let about = (&self.prepared.settings, self.base);
        let path = self.checkpoints.save(&self.state, &self.model.adapters, &self.optimizer, about)?;
        self.saved = Some(self.state.step);
        tell(&Event::Checkpoint { step: self.state.step, path });
        Ok(())
    }
}

impl Preparation {
    fn tokens_of(&self, example: usize) -> usize {
        self.encoded.examples.get(example).map_or(0, |example| example.tokens.len())
    }
}

/// How fast it goes, from this process's first step on.
struct Clock {
    begun: Instant,
    tokens: usize,
    steps: usize,
}

impl Clock {
    fn start() -> Self {
        Self { begun: Instant::now(), tokens: 0, steps: 0 }
    }

    fn count(&mut self, tokens: usize) {
        self.tokens += tokens;
        self.steps += 1;
    }

    /// Tokens a second, and the seconds that `left` more steps take.
    fn rates(&self, left: usize) -> (f64, f64) {
        let seconds = self.begun.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        (self.tokens as f64 / seconds, seconds / self.steps.max(1) as f64 * left as f64)
    }
}

/// An adapter may be replaced, and an empty folder filled; anything else stays as it is.
fn check_output(folder: &Path) -> Result<(), FinetuneError> {
    let error = |error| FinetuneError::file(folder, error);
    if folder.symlink_metadata().is_err() || folder.join(peft::CONFIG).is_file() {
        return Ok(());
    }
    match fs::read_dir(folder).map_err(error)?.next() {
        None => Ok(()),
        Some(_) => {
            Err(FinetuneError::field("output", format!("is {}, which has other files", folder.display())))
        }
    }
}

/// Makes `folder` appear whole, in place of what was there.
fn publish(
    folder: &Path,
    write: impl FnOnce(&Path) -> Result<(), FinetuneError>,
) -> Result<(), FinetuneError> {
    let error = |error: std::io::Error| FinetuneError::file(folder, error);
    let name = folder.file_name().ok_or_else(|| FinetuneError::file(folder, "has no name"))?;
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = |end: &str| {
        let mut beside = name.to_owned();
        beside.push(end);
        parent.join(beside)
    };
    let (partial, old) = (beside(".partial"), beside(".old"));
    for left in [&partial, &old] {
        if left.exists() {
            fs::remove_dir_all(left).map_err(error)?;
        }
    }
    fs::create_dir_all(&partial).map_err(error)?;
    write(&partial)?;
    if folder.exists() {
        fs::rename(folder, &old).map_err(error)?;
    }
    fs::rename(&partial, folder).map_err(error)?;
    fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(error)?;
    if old.exists() {
        fs::remove_dir_all(&old).map_err(error)?;
    }
    Ok(())
}
