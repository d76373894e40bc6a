//! `weirgate-finetune`: trains a LoRA adapter for a server that started it, or for a person.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser};
use serde_json::{Map, Value, json};
use weirgate_finetune::{
    DEMO_MODEL, Event, FinetuneError, Job, JsonLines, Outcome, Preparation, Reporter, Stop, TerminalBar,
    confine, run,
};

/// Teaches a language model from conversations: trains a LoRA adapter, a small addition to the model's weights.
///
/// The dataset has a conversation a line, {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content":
/// "..."}]}; only what the assistant says is learned. The result is a folder that `weirgate --lora-adapters` serves and that
/// PEFT loads. On a terminal there is a progress bar; else each event is a line of JSON. SIGTERM or Ctrl-C ends the training
/// with a checkpoint, from which --resume goes on.
#[derive(Debug, Parser)]
#[command(name = "weirgate-finetune", version)]
struct Cli {
    /// A JSON file that describes the whole training, in place of the arguments below.
    #[arg(long, conflicts_with_all = ["base_model", "dataset", "output"])]
    job: Option<PathBuf>,
    #[command(flatten)]
    own: OwnJob,
    /// Prints the tokens of every step, and which of them are learned, as JSON lines; trains nothing.
    #[arg(long)]
    show_batches: bool,
}

#[derive(Debug, Args)]
struct OwnJob {
    /// The model to begin with: a folder with a checkpoint, or a .gguf file.
    #[arg(long, default_value = DEMO_MODEL)]
    base_model: String,
    /// The conversations, a JSON object a line.
    #[arg(long, required_unless_present = "job")]
    dataset: Option<PathBuf>,
    /// The folder that the adapter will be in.
    #[arg(long, required_unless_present = "job")]
    output: Option<PathBuf>,
    /// Where checkpoints go; by default beside the output, with `.checkpoints` at its end.
    #[arg(long)]
    checkpoints: Option<PathBuf>,
    /// Goes on from the last checkpoint, if there is one.
    #[arg(long)]
    resume: bool,
    /// A PEFT adapter to begin with, of the same rank and modules.
    #[arg(long)]
    initial_adapter: Option<PathBuf>,
    /// How far this program steps back behind others: 0 (not at all) to 19.
    #[arg(long, default_value_t = 10)]
    nice: i32,
    /// Bytes that this program may allocate.
    #[arg(long)]
    memory_limit_bytes: Option<u64>,
    /// A hyper-parameter, such as rank=32 or learning_rate=1e-3; may be given several times. These exist: rank, alpha,
    /// dropout, target_modules, rslora, learning_rate, epochs, max_steps, batch_size, gradient_accumulation, warmup_steps,
    /// weight_decay, max_grad_norm, max_length, packing, seed, quantized, save_steps, gradient_checkpointing, adam_beta1,
    /// adam_beta2, adam_epsilon.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, Value)>,
}

/// A value is JSON where it can be, else text.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
    Ok((name.to_owned(), value))
}

impl Cli {
    fn job(self) -> Result<Job, FinetuneError> {
        if let Some(path) = &self.job {
            return Job::read(path);
        }
        let own = self.own;
        let output = own.output.unwrap_or_default();
        let mut beside = output.clone().into_os_string();
        beside.push(".checkpoints");
        Ok(Job {
            base_model: own.base_model,
            dataset: own.dataset.unwrap_or_default(),
            checkpoints: own.checkpoints.unwrap_or_else(|| beside.into()),
            output,
            name: None,
            hyperparameters: own.settings.into_iter().collect::<Map<_, _>>(),
            resume: own.resume,
            initial_adapter: own.initial_adapter,
            nice: own.nice,
            memory_limit_bytes: own.memory_limit_bytes,
        })
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let show = cli.show_batches;
    let mut reporter: Box<dyn Reporter> = match std::io::stdout().is_terminal() {
        true => Box::new(TerminalBar::new()),
        false => Box::new(JsonLines(std::io::stdout())),
    };
    let ended =
        cli.job().and_then(|job| if show { show_batches(&job) } else { train(&job, reporter.as_mut()) });
    let Err(error) = ended else { return ExitCode::SUCCESS };
    // Nobody may be listening; the exit code says it, too.
    let _ = reporter.report(&Event::Failed { message: error.to_string() });
    ExitCode::FAILURE
}

fn train(job: &Job, reporter: &mut dyn Reporter) -> Result<(), FinetuneError> {
    let stop = Stop::on_signals()?;
    confine(job.nice, job.memory_limit_bytes)?;
    let last = match run(job, reporter, &stop)? {
        Outcome::Finished { adapter, curve } => Event::Finished { adapter, curve },
        Outcome::Interrupted { step } => Event::Interrupted { step },
    };
    // The checkpoint or the adapter is there, whoever still listens.
    let _ = reporter.report(&last);
    Ok(())
}

fn show_batches(job: &Job) -> Result<(), FinetuneError> {
    let prepared = Preparation::new(job)?;
    let steps = (0..).flat_map(|epoch| prepared.plan.epoch(epoch));
    for step in steps.take(prepared.plan.total_steps()) {
        let batches: Vec<Value> = step
            .iter()
            .map(|batch| {
                let examples = batch.iter().filter_map(|&index| prepared.encoded.examples.get(index));
                examples
                    .map(|example| json!({"tokens": example.tokens, "learned": example.learned}))
                    .collect()
            })
            .collect();
        writeln!(std::io::stdout(), "{}", Value::from(batches))?;
    }
    Ok(())
}
