//! Load generator for servers that stream tokens, and step timing of the engine itself. See docs/benchmark.md.

mod cli;
mod engine;
mod load;
mod progress;
mod report;
mod stats;
mod tui;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tokio::sync::mpsc;

use cli::{Cli, EngineArgs, LoadArgs, Mode, OutputArgs, TgiCli};
use load::{Client, Entry, Pace, Source, Stage, StageSummary, Target, Workload};
use progress::{Outline, Progress, Reporter, Tab};
use report::LoadReport;

/// Requests of each client, where nothing is said.
const REQUESTS_PER_CLIENT: usize = 4;
/// Seconds of an open loop, where nothing is said.
const OPEN_SECONDS: f64 = 60.0;

fn main() -> Result<()> {
    let name = std::env::args_os().next().unwrap_or_default();
    let tgi = Path::new(&name).file_name().is_some_and(|name| name == "text-generation-benchmark");
    let mode = if tgi { Mode::Engine(Box::new(TgiCli::parse().engine)) } else { Cli::parse().mode };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match mode {
            Mode::Load(args) => load_server(*args).await,
            Mode::Engine(args) => time_engine(*args).await,
        }
    })
}

async fn load_server(args: LoadArgs) -> Result<()> {
    let entries = args.trace.as_deref().map(load::read_trace).transpose()?;
    let stages = stages(&args, entries.as_deref())?;
    let workload = Arc::new(Workload { source: source(&args, entries), seed: args.seed });
    let target = Target {
        url: args.url.clone(),
        api: args.api,
        key: args.api_key.clone(),
        model: args.model.clone(),
        timeout: Duration::try_from_secs_f64(args.timeout).context("--timeout")?,
        token_ids: args.token_ids,
    };
    let client = Arc::new(Client::connect(target).await?);
    let api = format!("POST {}", client.api.path());
    let outline = Outline {
        title: format!("{} at {}, {api}", client.model, args.url),
        tabs: stages
            .iter()
            .map(|stage| Tab { label: stage.label.clone(), total: stage_total(stage) })
            .collect(),
        series: load::SERIES.to_vec(),
        axes: ["output tokens/s", "between tokens p50, ms"],
    };
    let (sender, updates) = mpsc::unbounded_channel();
    let reporter = Reporter::new(sender);
    let stop = reporter.stop_flag();
    let objective = args.objective;
    let run = tokio::spawn({
        let client = client.clone();
        async move {
            let mut summaries = Vec::new();
            for stage in &stages {
                if reporter.stopped() {
                    break;
                }
                let (records, seconds) =
                    load::run_stage(client.clone(), workload.clone(), stage, &reporter).await;
                let summary = StageSummary::of(stage, &records, seconds, objective.as_ref());
                let (x, y) = (summary.output_tokens_per_s, summary.itl_ms.p50);
                reporter.send(Progress::Point { tab: stage.index, x, y });
                summaries.push(summary);
            }
            summaries
        }
    });
    watch(outline, updates, &args.output).await?;
    stop.store(true, Ordering::Relaxed);
    let report = LoadReport {
        version: env!("CARGO_PKG_VERSION"),
        url: args.url.clone(),
        api,
        model: client.model.clone(),
        workload: describe(&args),
        stages: run.await?,
    };
    if let Some(folder) = &args.svg {
        report::plots(&report, folder)?;
    }
    publish(&args.output, &report::markdown(&report), &report)
}

async fn time_engine(args: EngineArgs) -> Result<()> {
    ensure!(args.batch_size.iter().all(|size| *size > 0), "--batch-size is at least 1");
    ensure!(args.sequence_length > 0 && args.decode_length > 0, "lengths are at least 1");
    let plan = engine::Plan {
        batch_sizes: args.batch_size.clone(),
        sequence_length: args.sequence_length,
        decode_length: args.decode_length,
        runs: args.runs,
        warmups: args.warmups,
        device: args.device,
        deterministic: args.deterministic,
        quantize: args.quantize,
        threads: args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        max_step_tokens: args.max_batch_prefill_tokens,
        sampling: args.sampling(),
        top_n_tokens: args.top_n_tokens,
    };
    let name = args.model.as_ref().map_or("demo model".to_owned(), |path| path.display().to_string());
    let outline = Outline {
        title: format!("{name}, {} prompt tokens, {} decoded", plan.sequence_length, plan.decode_length),
        tabs: plan
            .batch_sizes
            .iter()
            .map(|n| Tab { label: format!("batch {n}"), total: Some(plan.runs) })
            .collect(),
        series: engine::SERIES.to_vec(),
        axes: ["decode tokens/s", "decode step p50, ms"],
    };
    let (sender, updates) = mpsc::unbounded_channel();
    let reporter = Reporter::new(sender);
    let stop = reporter.stop_flag();
    let measured = tokio::task::spawn_blocking({
        let (plan, model) = (plan.clone(), args.model.clone());
        move || engine::Model::load(model.as_deref(), &plan)?.measure(&plan, &reporter)
    });
    watch(outline, updates, &args.output).await?;
    stop.store(true, Ordering::Relaxed);
    let reports = measured.await??;
    publish(&args.output, &engine::markdown(&name, &plan, &reports), &reports)
}

/// Shows the run until it has ended or the user has enough of it.
async fn watch(
    outline: Outline,
    updates: mpsc::UnboundedReceiver<Progress>,
    output: &OutputArgs,
) -> Result<()> {
    if output.no_tui || !tui::possible() {
        tui::tell(&outline, updates).await;
        return Ok(());
    }
    tokio::task::spawn_blocking(move || tui::show(&outline, updates)).await?
}

fn publish(output: &OutputArgs, markdown: &str, json: &impl serde::Serialize) -> Result<()> {
    let to_stdout = output.json.as_deref() == Some(Path::new("-"));
    if !to_stdout {
        println!("{markdown}");
    }
    if let Some(path) = &output.json {
        let text = serde_json::to_string_pretty(json)? + "\n";
        if to_stdout {
            print!("{text}");
        } else {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

fn source(args: &LoadArgs, entries: Option<Vec<Entry>>) -> Source {
    match entries {
        Some(entries) => {
            Source::Trace { entries, max_prompt: args.max_prompt_tokens, max_output: args.max_output_tokens }
        }
        None => Source::Drawn {
            prompt: args.prompt_tokens,
            output: args.output_tokens,
            shared_prefix: args.shared_prefix.map(|tokens| (tokens, args.prefixes)),
        },
    }
}

/// The stages that the flags ask for.
fn stages(args: &LoadArgs, entries: Option<&[Entry]>) -> Result<Vec<Stage>> {
    let duration = args.duration.map(Duration::try_from_secs_f64).transpose().context("--duration")?;
    let stage = |label: String, pace: Pace, requests: Option<usize>| Stage {
        label,
        pace,
        requests,
        duration,
        warm_up: args.warmup,
        index: 0,
    };
    let mut stages: Vec<Stage> = if let Some(entries) = entries {
        ensure!(args.trace_speed > 0.0 && args.trace_speed.is_finite(), "--trace-speed is above 0");
        let count = args.requests.unwrap_or(entries.len());
        let due = |entry: &Entry| entry.at.div_f64(args.trace_speed);
        let times: Vec<Duration> = entries.iter().take(count).map(due).collect();
        vec![stage(format!("trace at {} ×", args.trace_speed), Pace::Open { times }, None)]
    } else if !args.rate.is_empty() {
        ensure!(args.rate.iter().all(|rate| *rate > 0.0 && rate.is_finite()), "--rate is above 0");
        let seconds = args.duration.unwrap_or(OPEN_SECONDS);
        let open = |rate: &f64| {
            let count = args.requests.unwrap_or((rate * seconds).ceil() as usize);
            stage(
                format!("{rate} requests/s"),
                Pace::Open { times: load::poisson(*rate, count, args.seed) },
                None,
            )
        };
        args.rate.iter().map(open).collect()
    } else {
        ensure!(args.concurrency.iter().all(|clients| *clients > 0), "--concurrency is at least 1");
        let ramp_up = Duration::try_from_secs_f64(args.ramp_up).context("--ramp-up")?;
        let closed = |clients: &usize| {
            let default = args.duration.is_none().then_some(clients * REQUESTS_PER_CLIENT);
            let label = if *clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
            stage(label, Pace::Closed { concurrency: *clients, ramp_up }, args.requests.or(default))
        };
        args.concurrency.iter().map(closed).collect()
    };
    stages.iter_mut().enumerate().for_each(|(index, stage)| stage.index = index);
    Ok(stages)
}

fn stage_total(stage: &Stage) -> Option<usize> {
    match &stage.pace {
        Pace::Closed { .. } => stage.requests,
        Pace::Open { times } => Some(times.len()),
    }
}

fn describe(args: &LoadArgs) -> String {
    match &args.trace {
        Some(path) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            format!("{name}, at most {} / {} tokens", args.max_prompt_tokens, args.max_output_tokens)
        }
        None => {
            let prefix = args
                .shared_prefix
                .map(|tokens| format!(", {tokens} shared tokens before it in {} kinds", args.prefixes));
            format!(
                "prompt {:?} tokens{}, answer {:?} tokens, seed {}",
                args.prompt_tokens,
                prefix.unwrap_or_default(),
                args.output_tokens,
                args.seed
            )
        }
    }
}
