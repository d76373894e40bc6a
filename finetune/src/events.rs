//! What a training says while it runs: JSON lines for a server, a bar for a person.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    Started {
        /// `cpu` or `cuda:0`; where a GPU was looked for and not found, why.
        device: String,
        total_steps: usize,
        trainable_parameters: usize,
        /// Of one pass over the dataset.
        tokens: usize,
    },
    Progress(Progress),
    Checkpoint {
        step: usize,
        path: PathBuf,
    },
    Finished {
        /// A PEFT folder.
        adapter: PathBuf,
        /// An SVG picture of the losses.
        curve: PathBuf,
    },
    Failed {
        message: String,
    },
    Interrupted {
        step: usize,
    },
}

/// After a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Progress {
    /// Steps taken; the first one is 1.
    pub step: usize,
    pub total_steps: usize,
    /// Passes over the dataset, with a fraction.
    pub epoch: f64,
    /// Mean over the step's learned tokens, in nats.
    pub loss: f64,
    pub learning_rate: f64,
    /// Before clipping.
    pub grad_norm: f64,
    pub tokens_per_s: f64,
    /// Seconds until the last step ends.
    pub eta_s: f64,
}

/// Who is told.
pub trait Reporter {
    /// # Errors
    /// Those of writing: nobody listens any more.
    fn report(&mut self, event: &Event) -> io::Result<()>;
}

/// An event a line, for programs.
pub struct JsonLines<W>(pub W);

impl<W: Write> Reporter for JsonLines<W> {
    fn report(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.0.write_all(&line)?;
        self.0.flush()
    }
}

/// A bar on standard error, and what happened on standard output.
pub struct TerminalBar(ProgressBar);

impl TerminalBar {
    pub fn new() -> Self {
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{bar:30} step {pos}/{len}  {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }
}

impl Default for TerminalBar {
    fn default() -> Self {
        Self::new()
    }
}

impl Reporter for TerminalBar {
    fn report(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Started { device, total_steps, trainable_parameters, tokens } => {
                self.0.set_length(*total_steps as u64);
                self.0.println(format!(
                    "on {device}: {trainable_parameters} parameters, {tokens} tokens a pass, {total_steps} steps"
                ));
            }
            Event::Progress(progress) => {
                self.0.set_position(progress.step as u64);
                let left = Duration::from_secs(progress.eta_s as u64);
                self.0.set_message(format!(
                    "loss {:.4}  {:.0} tokens/s  {left:?} left",
                    progress.loss, progress.tokens_per_s
                ));
            }
            Event::Checkpoint { step, path } => {
                self.0.println(format!("step {step}: checkpoint {}", path.display()));
            }
            Event::Finished { adapter, curve } => {
                self.0.finish_and_clear();
                println!("adapter: {}\nlosses:  {}", adapter.display(), curve.display());
            }
            Event::Failed { message } => {
                self.0.abandon();
                eprintln!("Error: {message}");
            }
            Event::Interrupted { step } => {
                self.0.abandon();
                println!("interrupted after step {step}; --resume goes on from there");
            }
        }
        Ok(())
    }
}
