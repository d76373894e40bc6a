//! TGI's benchmark: the engine itself, without a server, by batch size.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use weirgate_engine::{
    Batch, BurstRule, CompileSettings, CudaOptions, Device, DeviceChoice, Executor, LoadOptions, RopeRule,
    Scheduler, SchedulerConfig, StepResult, ValidRequest, load_cpu, load_cuda,
};
use weirgate_models::{ModelFiles, QuantMix, Quantized, TensorSource, open_tensors, read_spec};
use weirgate_types::{GenerateRequest, Logprobs, RequestId, SamplingParams, SeqUpdate, StopRules};

use crate::load::token_ids;
use crate::progress::{Progress, Reporter};
use crate::report::table;
use crate::stats::Summary;

/// The series of values that runs give.
pub const SERIES: [&str; 2] = ["prefill ms", "decode step ms"];

const BLOCK_SIZE: usize = 16;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    pub batch_sizes: Vec<usize>,
    /// Prompt tokens of every sequence.
    pub sequence_length: usize,
    /// Tokens generated for every sequence; the first comes with the prefill.
    pub decode_length: usize,
    pub runs: usize,
    pub warmups: usize,
    pub device: DeviceChoice,
    /// Tokens do not depend on the batch, on a GPU, too.
    pub deterministic: bool,
    /// Weights are quantized while they are loaded.
    pub quantize: Option<QuantMix>,
    pub threads: usize,
    /// Most tokens in one step.
    pub max_step_tokens: usize,
    pub sampling: SamplingParams,
    pub top_n_tokens: u32,
}

/// One batch size. Milliseconds and tokens per second.
#[derive(Debug, Clone, Serialize)]
pub struct BatchReport {
    pub batch_size: usize,
    pub prefill_ms: Summary,
    pub decode_step_ms: Summary,
    /// All decode steps of a run together.
    pub decode_total_ms: Summary,
    /// Of each decode step: how long the device waited for the host before it.
    pub host_ms: Summary,
    pub prefill_tokens_per_s: Summary,
    pub decode_tokens_per_s: Summary,
}

/// A loaded model. `None`: the demo model.
pub struct Model {
    executor: Box<dyn Executor>,
    rope: RopeRule,
}

impl Model {
    /// # Errors
    /// When the model cannot be read, or does not fit.
    pub fn load(path: Option<&Path>, plan: &Plan) -> Result<Self> {
        let files = match path {
            Some(path) => ModelFiles::open(path)?,
            None => ModelFiles::embedded(weirgate_demo_model::FILES),
        };
        let spec = read_spec(&files)?;
        let stored = open_tensors(&files)?;
        let quantized;
        let tensors: &dyn TensorSource = match plan.quantize {
            Some(mix) => {
                quantized = Quantized::new(&spec, stored.as_ref(), mix)?;
                &quantized
            }
            None => stored.as_ref(),
        };
        let length = plan.sequence_length + plan.decode_length;
        if length > spec.max_positions {
            bail!("{length} tokens are more than the model's {} positions", spec.max_positions);
        }
        let most = plan.batch_sizes.iter().copied().max().unwrap_or(1);
        let options = LoadOptions {
            threads: plan.threads,
            block_size: BLOCK_SIZE,
            blocks: most * (length.div_ceil(BLOCK_SIZE) + 1),
            max_step_tokens: plan.max_step_tokens.max(most),
            max_seqs: most,
            max_seq_len: length,
            kv_dtype: None,
            commit_cache: true,
        };
        let executor = match Device::choose(plan.device)? {
            Device::Cpu { .. } => load_cpu(&spec, tensors, &options)?,
            Device::Cuda(device) => {
                let compile = CompileSettings::of_environment();
                let cuda =
                    CudaOptions { compile, deterministic: plan.deterministic, ..CudaOptions::default() };
                let model = load_cuda(&spec, tensors, &options, &[device], &cuda)?;
                model.with_cache(options.blocks, options.max_seq_len)?
            }
        };
        Ok(Self { executor, rope: RopeRule::of(&spec) })
    }

    /// Measures every batch size.
    ///
    /// # Errors
    /// When a step fails.
    pub fn measure(mut self, plan: &Plan, reporter: &Reporter) -> Result<Vec<BatchReport>> {
        let config = SchedulerConfig {
            limits: self.executor.limits(),
            // Every run computes its prompts.
            prefix_cache: false,
            rope: self.rope,
            speculate: 0,
            mixed_step_tokens: usize::MAX,
            bursts: BurstRule::NONE,
        };
        let mut scheduler = Scheduler::new(config);
        let mut reports = Vec::new();
        let mut seed = 0;
        for (tab, batch_size) in plan.batch_sizes.iter().copied().enumerate() {
            let mut runs = Vec::new();
            for run in 0..plan.warmups + plan.runs {
                if reporter.stopped() {
                    break;
                }
                seed += 1;
                let timed = Run::time(&mut scheduler, self.executor.as_mut(), plan, batch_size, seed)?;
                if run >= plan.warmups {
                    reporter.send(Progress::Done { tab, values: timed.values() });
                    runs.push(timed);
                }
            }
            let report = BatchReport::of(batch_size, plan, &runs);
            let point = (report.decode_tokens_per_s.p50, report.decode_step_ms.p50);
            reporter.send(Progress::Point { tab, x: point.0, y: point.1 });
            reports.push(report);
        }
        Ok(reports)
    }
}

/// One batch from its prompts to its last token.
struct Run {
    prefill: Duration,
    decode: Vec<Duration>,
    /// Of the steps of `decode`.
    waited: Vec<Duration>,
}

impl Run {
    fn time(
        scheduler: &mut Scheduler,
        executor: &mut dyn Executor,
        plan: &Plan,
        batch_size: usize,
        seed: u64,
    ) -> Result<Self> {
        let limits = executor.limits();
        for index in 0..batch_size {
            let number = seed << 20 | index as u64;
            let prompt: Arc<[u32]> = token_ids(number, plan.sequence_length, limits.vocab_size as u32).into();
            let request = GenerateRequest {
                id: RequestId(number),
                prompt,
                n: 1,
                sampling: plan.sampling.clone(),
                stop: StopRules {
                    max_new_tokens: plan.decode_length as u32,
                    min_new_tokens: 0,
                    stop_tokens: Arc::default(),
                },
                logprobs: Logprobs { top_n: plan.top_n_tokens, prompt: false },
                priority: 0,
                deadline: None,
                shift: None,
                cache_salt: 0,
                adapter: None,
            };
            let valid = ValidRequest::check(request, &limits);
            scheduler.submit(&valid.map_err(|reason| anyhow::anyhow!("the batch is refused: {reason:?}"))?);
        }
        let mut run = Self { prefill: Duration::ZERO, decode: Vec::new(), waited: Vec::new() };
        let (mut batch, mut result) = (Batch::default(), StepResult::default());
        let mut without_token = batch_size;
        let mut started = std::collections::HashSet::new();
        while !scheduler.is_idle() {
            let begun = Instant::now();
            let mut step = scheduler.plan(&mut batch);
            if step.is_empty() {
                bail!("a batch of {batch_size} cannot be scheduled");
            }
            executor.launch(&batch).context("the step failed")?;
            // As the server does, while the device computes: the outputs of the step before, and the next plan.
            for output in scheduler.take_outputs() {
                if matches!(output.update, SeqUpdate::Token(_)) && started.insert(output.request) {
                    without_token -= 1;
                }
            }
            if executor.is_asynchronous() {
                scheduler.plan_ahead(&mut step, &mut batch);
            }
            executor.collect(&mut result).context("the step failed")?;
            scheduler.commit(step, &mut result).context("the step failed")?;
            let took = begun.elapsed();
            if without_token > 0 {
                run.prefill += took
            } else {
                run.decode.push(took);
                run.waited.push(executor.waited());
            }
        }
        scheduler.take_outputs();
        Ok(run)
    }

    fn values(&self) -> Vec<(usize, f64)> {
        let decode = self.decode.iter().map(|step| (1, milliseconds(*step)));
        [(0, milliseconds(self.prefill))].into_iter().chain(decode).collect()
    }
}

impl BatchReport {
    fn of(batch_size: usize, plan: &Plan, runs: &[Run]) -> Self {
        let summary = |value: &dyn Fn(&Run) -> f64| Summary::of(&runs.iter().map(value).collect::<Vec<_>>());
        let total = |run: &Run| run.decode.iter().sum::<Duration>();
        let rate = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE);
        let all = |series: &dyn Fn(&Run) -> &[Duration]| {
            let times = runs.iter().flat_map(series).map(|step| milliseconds(*step));
            Summary::of(&times.collect::<Vec<f64>>())
        };
        Self {
            batch_size,
            prefill_ms: summary(&|run| milliseconds(run.prefill)),
            decode_step_ms: all(&|run| &run.decode),
            host_ms: all(&|run| &run.waited),
            decode_total_ms: summary(&|run| milliseconds(total(run))),
            prefill_tokens_per_s: summary(&|run| rate(batch_size * plan.sequence_length, run.prefill)),
            decode_tokens_per_s: summary(&|run| rate(batch_size * run.decode.len(), total(run))),
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The three tables of TGI's tool: parameters, latency, throughput.
pub fn markdown(model: &str, plan: &Plan, reports: &[BatchReport]) -> String {
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let parameters = [
        ("Model", model.to_owned()),
        ("Sequence length", plan.sequence_length.to_string()),
        ("Decode length", plan.decode_length.to_string()),
        ("Top N tokens", plan.top_n_tokens.to_string()),
        ("Runs", plan.runs.to_string()),
        ("Warmups", plan.warmups.to_string()),
        ("Threads", plan.threads.to_string()),
    ];
    let parameters: Vec<Vec<String>> = parameters.iter().map(|(name, value)| row(&[name, value])).collect();
    let figures = |summary: &Summary| {
        [summary.mean, summary.min, summary.max, summary.p50, summary.p90, summary.p99]
            .map(|n| format!("{n:.2}"))
    };
    type Kind = (&'static str, fn(&BatchReport) -> &Summary);
    let rows = |kinds: &[Kind]| -> Vec<Vec<String>> {
        let of_kind = |(name, pick): &Kind| {
            let row = |report: &BatchReport| {
                let head = [(*name).to_owned(), report.batch_size.to_string()];
                head.into_iter().chain(figures(pick(report))).collect::<Vec<_>>()
            };
            reports.iter().map(row).collect::<Vec<_>>()
        };
        kinds.iter().flat_map(of_kind).collect()
    };
    let latency = rows(&[
        ("Prefill", |report| &report.prefill_ms),
        ("Decode (token)", |report| &report.decode_step_ms),
        ("Decode (total)", |report| &report.decode_total_ms),
    ]);
    let throughput = rows(&[
        ("Prefill", |report| &report.prefill_tokens_per_s),
        ("Decode", |report| &report.decode_tokens_per_s),
    ]);
    let head = |unit| ["Step", "Batch size", unit, "Lowest", "Highest", "p50", "p90", "p99"];
    format!(
        "{}\nLatency, ms:\n\n{}\nThroughput, tokens/s:\n\n{}",
        table(&["Parameter", "Value"], &parameters),
        table(&head("Average"), &latency),
        table(&head("Average"), &throughput)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_batch_size_is_measured() {
        let plan = Plan {
            batch_sizes: vec![1, 3],
            sequence_length: 20,
            decode_length: 5,
            runs: 2,
            warmups: 1,
            device: DeviceChoice::Cpu,
            deterministic: false,
            quantize: None,
            threads: 1,
            // Less than three prompts: the prefill takes several steps.
            max_step_tokens: 32,
            sampling: SamplingParams::default(),
            top_n_tokens: 0,
        };
        let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
        let model = Model::load(None, &plan).unwrap();
        let reports = model.measure(&plan, &Reporter::new(sender)).unwrap();
        assert_eq!(reports.iter().map(|report| report.batch_size).collect::<Vec<_>>(), [1, 3]);
        for report in &reports {
            assert_eq!((report.prefill_ms.count, report.decode_total_ms.count), (2, 2));
            // A part of the step, and not nothing: the next one was planned meanwhile.
            assert_eq!(report.host_ms.count, report.decode_step_ms.count);
            assert!(report.host_ms.min > 0.0 && report.host_ms.mean < report.decode_step_ms.mean);
        }
        // The first token comes with the prefill, four steps make the others.
        assert_eq!(reports[0].decode_step_ms.count, 8);
        let mut done = 0;
        while let Ok(progress) = received.try_recv() {
            done += usize::from(matches!(progress, Progress::Done { .. }));
        }
        assert_eq!(done, 4);
        let text = markdown("demo", &plan, &reports);
        assert_eq!(text.matches("| Decode (token) | ").count(), 2, "{text}");
    }

    #[test]
    fn more_tokens_than_positions_are_refused() {
        let plan = Plan {
            batch_sizes: vec![1],
            sequence_length: 4000,
            decode_length: 5,
            runs: 1,
            warmups: 0,
            device: DeviceChoice::Cpu,
            deterministic: false,
            quantize: None,
            threads: 1,
            max_step_tokens: 32,
            sampling: SamplingParams::default(),
            top_n_tokens: 0,
        };
        let error = Model::load(None, &plan).err().unwrap();
        assert!(error.to_string().contains("4005 tokens"), "{error}");
    }
}
