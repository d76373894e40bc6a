//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use weirgate_engine::DeviceChoice;
use weirgate_models::QuantMix;
use weirgate_types::{Frequency, SamplingParams, Selection, Watermark};

use crate::load::{Api, Lengths, Objective};

/// Measures servers that stream tokens, and the engine itself.
#[derive(Debug, Parser)]
#[command(name = "weirgate-benchmark", version)]
pub struct Cli {
    #[command(subcommand)]
    pub mode: Mode,
}

#[derive(Debug, Subcommand)]
pub enum Mode {
    /// Load a server over HTTP: closed loop by default, open loop with --rate or --trace.
    Load(Box<LoadArgs>),
    /// Time prefill and decode of the engine itself by batch size, as text-generation-benchmark does.
    Engine(Box<EngineArgs>),
}

#[derive(Debug, Args)]
pub struct LoadArgs {
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub url: String,
    #[arg(long, value_enum, default_value_t = Api::Tgi)]
    pub api: Api,
    /// Sent as `Authorization: Bearer`
    #[arg(long, env = "API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// The model's name in requests [default: the first of /v1/models]
    #[arg(long)]
    pub model: Option<String>,
    /// Closed loop: clients that each wait for their answer; several values make several stages
    #[arg(short, long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    pub concurrency: Vec<usize>,
    /// Closed loop: begin the clients one after the other, evenly over so many seconds
    #[arg(long, default_value_t = 0.0, conflicts_with_all = ["rate", "trace"])]
    pub ramp_up: f64,
    /// Open loop: requests a second, arriving at random (Poisson); several values make several stages
    #[arg(long, value_delimiter = ',', conflicts_with = "concurrency")]
    pub rate: Vec<f64>,
    /// Open loop: replay a recorded workload (Azure's CSV or Mooncake's .jsonl)
    #[arg(long, conflicts_with_all = ["concurrency", "rate"])]
    pub trace: Option<PathBuf>,
    /// Replay so many times faster
    #[arg(long, default_value_t = 1.0, requires = "trace")]
    pub trace_speed: f64,
    /// Cut longer prompts of a trace
    #[arg(long, default_value_t = 1024, requires = "trace")]
    pub max_prompt_tokens: usize,
    /// Cut longer answers of a trace
    #[arg(long, default_value_t = 256, requires = "trace")]
    pub max_output_tokens: usize,
    /// Requests of every stage [default: 4 for each client, or 60 seconds' worth of the rate, or the whole trace]
    #[arg(short = 'n', long)]
    pub requests: Option<usize>,
    /// Send no more requests of a stage after so many seconds
    #[arg(long)]
    pub duration: Option<f64>,
    /// Requests before every stage that are not measured
    #[arg(long, default_value_t = 1)]
    pub warmup: usize,
    /// Tokens of a prompt: N, LEAST-MOST or normal:MEAN:DEVIATION
    #[arg(long, default_value = "128")]
    pub prompt_tokens: Lengths,
    /// Tokens of an answer, in the same forms
    #[arg(long, default_value = "64")]
    pub output_tokens: Lengths,
    /// Begin every prompt with so many tokens that others share
    #[arg(long)]
    pub shared_prefix: Option<usize>,
    /// How many different shared beginnings there are
    #[arg(long, default_value_t = 1, requires = "shared_prefix")]
    pub prefixes: usize,
    /// Send random token ids below this vocabulary size in place of text (--api completions)
    #[arg(long)]
    pub token_ids: Option<u32>,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Give a request up after so many seconds
    #[arg(long, default_value_t = 300.0)]
    pub timeout: f64,
    /// Count the requests that keep e.g. ttft=500,tpot=50,e2e=10000 (milliseconds)
    #[arg(long)]
    pub objective: Option<Objective>,
    #[command(flatten)]
    pub output: OutputArgs,
    /// Write plots of latency against throughput into this folder
    #[arg(long)]
    pub svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Write all figures as JSON to this file, or to standard output for "-"
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Show no screen, even on a terminal
    #[arg(long)]
    pub no_tui: bool,
}

/// The flags of text-generation-benchmark.
#[derive(Debug, Args)]
pub struct EngineArgs {
    /// A model folder or GGUF file [default: the demo model]
    #[arg(short = 't', long = "tokenizer-name", visible_alias = "model-id", env = "TOKENIZER_NAME")]
    pub model: Option<PathBuf>,
    #[arg(short, long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32])]
    pub batch_size: Vec<usize>,
    /// Prompt tokens of every sequence
    #[arg(short, long, default_value_t = 10)]
    pub sequence_length: usize,
    /// Tokens generated for every sequence
    #[arg(short, long, default_value_t = 8)]
    pub decode_length: usize,
    #[arg(short, long, default_value_t = 10)]
    pub runs: usize,
    /// Runs before that are not measured
    #[arg(short, long, default_value_t = 1)]
    pub warmups: usize,
    /// Most tokens in one step
    #[arg(long, default_value_t = 2048)]
    pub max_batch_prefill_tokens: usize,
    /// What to compute on: cpu, or cuda:<number>
    #[arg(long, default_value = "cpu", value_parser = device)]
    pub device: DeviceChoice,
    /// On a GPU: tokens that do not depend on the batch
    #[arg(long)]
    pub deterministic: bool,
    /// Quantize the weights while they are loaded, e.g. to q4_0
    #[arg(long, value_parser = mix)]
    pub quantize: Option<QuantMix>,
    /// Worker threads [default: all processors]
    #[arg(long)]
    pub threads: Option<usize>,
    #[arg(long)]
    pub temperature: Option<f32>,
    #[arg(long)]
    pub top_k: Option<u32>,
    #[arg(long)]
    pub top_p: Option<f32>,
    #[arg(long)]
    pub typical_p: Option<f32>,
    #[arg(long)]
    pub repetition_penalty: Option<f32>,
    #[arg(long)]
    pub frequency_penalty: Option<f32>,
    #[arg(long)]
    pub watermark: bool,
    #[arg(long)]
    pub do_sample: bool,
    #[arg(long, default_value_t = 0)]
    pub top_n_tokens: u32,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The command line under TGI's name for the tool.
#[derive(Debug, Parser)]
#[command(name = "text-generation-benchmark", version)]
pub struct TgiCli {
    #[command(flatten)]
    pub engine: EngineArgs,
}

fn device(text: &str) -> Result<DeviceChoice, String> {
    let number = match text {
        "cpu" => return Ok(DeviceChoice::Cpu),
        "cuda" => Some(0),
        other => other.strip_prefix("cuda:").and_then(|number| number.parse().ok()),
    };
    number.map(DeviceChoice::Cuda).ok_or_else(|| "expected cpu, cuda or cuda:<number>".to_owned())
}

fn mix(text: &str) -> Result<QuantMix, String> {
    let all = [QuantMix::Q8_0, QuantMix::Q4_0, QuantMix::Q4KM, QuantMix::Q5KM, QuantMix::Q6K];
    let found = all.into_iter().find(|mix| mix.name().eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("expected one of {}", all.map(QuantMix::name).join(", ").to_lowercase()))
}

impl EngineArgs {
    pub fn sampling(&self) -> SamplingParams {
        let neutral = SamplingParams::default();
        let sampled = self.do_sample
            || self.temperature.is_some()
            || self.top_k.is_some()
            || self.top_p.is_some()
            || self.typical_p.is_some();
        SamplingParams {
            selection: if sampled { Selection::Random { seed: 0 } } else { Selection::Greedy },
            temperature: self.temperature.unwrap_or(neutral.temperature),
            top_k: self.top_k.unwrap_or(neutral.top_k),
            top_p: self.top_p.unwrap_or(neutral.top_p),
            typical_p: self.typical_p.unwrap_or(neutral.typical_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(neutral.repetition_penalty),
            frequency_penalty: self.frequency_penalty.map_or(neutral.frequency_penalty, Frequency::Relative),
            // TGI's defaults.
            watermark: self.watermark.then_some(Watermark { gamma: 0.5, delta: 2.0 }),
            ..neutral
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_lines_are_sound() {
        Cli::command().debug_assert();
        TgiCli::command().debug_assert();
    }

    #[test]
    fn tgi_flags_are_read() {
        let flags = "x -t m -b 1,2 -s 128 -d 4 -r 3 -w 2 --top-k 5 --watermark --top-n-tokens 2";
        let engine = TgiCli::parse_from(flags.split(' ')).engine;
        assert_eq!((engine.batch_size.as_slice(), engine.sequence_length), (&[1, 2][..], 128));
        assert_eq!((engine.decode_length, engine.runs, engine.warmups), (4, 3, 2));
        let sampling = engine.sampling();
        assert_eq!((sampling.selection, sampling.top_k), (Selection::Random { seed: 0 }, 5));
        assert!(sampling.watermark.is_some());
    }

    #[test]
    fn one_kind_of_load_at_a_time() {
        let parse = |flags: &str| Cli::try_parse_from(flags.split(' '));
        assert!(parse("x load --rate 1,2").is_ok());
        assert!(parse("x load --rate 1 --concurrency 4").is_err());
        assert!(parse("x load --concurrency 4 --ramp-up 2").is_ok());
        assert!(parse("x load --rate 1 --ramp-up 2").is_err());
        assert!(parse("x load --trace t.csv --rate 1").is_err());
        assert!(parse("x load --trace-speed 2").is_err());
    }
}
