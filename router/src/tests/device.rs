//! A device that writes a script.

use std::sync::{Arc, Condvar, Mutex};

use weirgate_engine::{Batch, Executor, ExecutorError, ExecutorLimits, StepResult};
use weirgate_kernels::{KernelError, Sampled};
use weirgate_models::Adapter;
use weirgate_types::AdapterId;

/// Lets a test hold the device between two steps: how many more it may make.
#[derive(Clone)]
pub struct Gate(Arc<(Mutex<u64>, Condvar)>);

impl Gate {
    pub fn open() -> Self {
        Self(Arc::new((Mutex::new(u64::MAX), Condvar::new())))
    }

    pub fn shut(&self) {
        *self.0.0.lock().unwrap() = 0;
    }

    pub fn reopen(&self) {
        self.allow(u64::MAX);
    }

    /// Lets so many steps pass.
    pub fn allow(&self, steps: u64) {
        *self.0.0.lock().unwrap() = steps;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let steps = self.0.0.lock().unwrap();
        let mut steps = self.0.1.wait_while(steps, |steps| *steps == 0).unwrap();
        if *steps != u64::MAX {
            *steps -= 1;
        }
    }
}

/// Draw number `d` of a greedy sequence is the script's byte `d`, with log-probability `-(d + 1)`. Sequences that sample
/// differ by their seeds: their log-probabilities are scaled by it, and all but `OWN_SEED`'s are in capitals.
pub struct Device {
    script: Vec<u32>,
    end: u32,
    limits: ExecutorLimits,
    gate: Gate,
    result: StepResult,
}

impl Device {
    pub fn new(script: Vec<u32>, end: u32, blocks: usize, block_size: usize, gate: Gate) -> Self {
        let limits = ExecutorLimits {
            blocks,
            block_size,
            max_step_tokens: 64,
            max_seqs: 16,
            vocab_size: 258,
            max_seq_len: 1000,
        };
        Self { script, end, limits, gate, result: StepResult::default() }
    }

    fn draw(&self, batch: &Batch, at: usize) -> Sampled {
        let sample = &batch.samples[at];
        let number = sample.draw as usize;
        let mut token = self.script.get(number).copied().unwrap_or(self.end);
        if sample.banned.as_deref().unwrap_or_default().contains(&token) {
            token = u32::from(b'~');
        }
        if let Some((biased, _)) = sample.params.logit_bias.first() {
            token = *biased;
        }
        let seed = sample.params.seed.unwrap_or(super::OWN_SEED);
        if seed != super::OWN_SEED && token < 256 {
            token = u32::from((token as u8).to_ascii_uppercase());
        }
        if let Some(mask) = &sample.mask {
            token = self.obey(mask, token, number);
        }
        let logprob = -(number as f32 + 1.0) * (1.0 + (seed % super::OWN_SEED) as f32 / 1000.0);
        let top = (0..sample.params.top_n).map(|n| (token + n, logprob - n as f32)).collect();
        Sampled { token, logprob, top }
    }
}

impl Device {
    /// The token if it is allowed, else the end, else any other one.
    fn obey(&self, mask: &[u32], token: u32, number: usize) -> u32 {
        let allows = |token: &u32| mask[*token as usize / 32] >> (token % 32) & 1 == 1;
        if let Some(token) = [token, self.end].into_iter().find(allows) {
            return token;
        }
        let allowed: Vec<u32> = (0..self.limits.vocab_size as u32).filter(allows).collect();
        allowed[number * 31 % allowed.len()]
    }
}

impl Executor for Device {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn launch(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        self.gate.pass();
        self.result.sampled = (0..batch.samples.len()).map(|at| self.draw(batch, at)).collect();
        self.result.scores = batch.scores.iter().map(|score| -(score.target as f32)).collect();
        Ok(())
    }

    fn collect(&mut self, out: &mut StepResult) -> Result<(), ExecutorError> {
        std::mem::swap(out, &mut self.result);
        Ok(())
    }

    fn load_adapter(&mut self, _: AdapterId, _: &Adapter) -> Result<(), KernelError> {
        Ok(())
    }

    fn unload_adapter(&mut self, _: AdapterId) {}
}
