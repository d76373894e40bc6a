use crate::{FrequencyPenalty, SampleRow};

/// How often each token occurs in a stretch of the history.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// `[vocab]`, all zero between uses.
    counts: Vec<u32>,
    /// The tokens whose count is not zero, each once.
    seen: Vec<u32>,
}

impl Tally {
    /// Calls `edit(logit, count)` for each distinct token of `tokens` that is in the vocabulary.
    fn for_each(&mut self, tokens: &[u32], logits: &mut [f32], edit: impl Fn(&mut f32, u32)) {
        if self.counts.len() < logits.len() {
            self.counts.resize(logits.len(), 0);
        }
        for &id in tokens {
            if let Some(count) = self.counts.get_mut(id as usize) {
                if *count == 0 {
                    self.seen.push(id);
                }
                *count += 1;
            }
        }
        for id in self.seen.drain(..) {
            // The counters may be left over from a larger vocabulary, so they have to be cleared in any case.
            let count = self.counts.get_mut(id as usize).map_or(0, std::mem::take);
            if let Some(logit) = logits.get_mut(id as usize) {
                edit(logit, count);
            }
        }
    }
}

/// Repetition (CTRL, arXiv 1909.05858), frequency and presence penalties, in this order, in `f32` without fused
/// operations.
pub(super) fn apply(logits: &mut [f32], row: &SampleRow<'_>, tally: &mut Tally) {
    let exempt = row.params.penalty_exempt.map(|id| id as usize);
    let spared = exempt.and_then(|id| Some((id, *logits.get(id)?)));
    match row.params.penalty_window {
        Some(window) => windowed(logits, row, window as usize, tally),
        None => whole(logits, row, tally),
    }
    if let Some((id, logit)) = spared
        && let Some(penalized) = logits.get_mut(id)
    {
        *penalized = logit;
    }
}

/// llama.cpp's: one edit for each token of the last `window`, which counts there for all three.
fn windowed(logits: &mut [f32], row: &SampleRow<'_>, window: usize, tally: &mut Tally) {
    let params = row.params;
    let repetition = params.repetition_penalty;
    let (FrequencyPenalty::Count(frequency) | FrequencyPenalty::Relative(frequency)) =
        params.frequency_penalty;
    if !params.needs_history() {
        return;
    }
    let recent = row.history.get(row.history.len().saturating_sub(window)..).unwrap_or_default();
    tally.for_each(recent, logits, |logit, count| {
        let repeated = if *logit < 0.0 { *logit * repetition } else { *logit / repetition };
        *logit = repeated - (count as f32 * frequency + params.presence_penalty);
    });
}

/// TGI's and OpenAI's: repetition and relative frequency over the whole history, counts over what was generated.
fn whole(logits: &mut [f32], row: &SampleRow<'_>, tally: &mut Tally) {
    let params = row.params;
    let repetition = params.repetition_penalty;
    if repetition != 1.0 {
        tally.for_each(row.history, logits, |logit, _| {
            *logit = if *logit < 0.0 { *logit * repetition } else { *logit / repetition };
        });
    }
    let generated = row.history.get(row.prompt_len..).unwrap_or_default();
    match params.frequency_penalty {
        FrequencyPenalty::Relative(penalty) if penalty != 0.0 => {
            let len = row.history.len() as f32;
            tally.for_each(row.history, logits, |logit, count| *logit -= count as f32 / len * penalty);
        }
        FrequencyPenalty::Count(penalty) if penalty != 0.0 => {
            tally.for_each(generated, logits, |logit, count| *logit -= penalty * count as f32);
        }
        FrequencyPenalty::Relative(_) | FrequencyPenalty::Count(_) => {}
    }
    if params.presence_penalty != 0.0 {
        tally.for_each(generated, logits, |logit, _| *logit -= params.presence_penalty);
    }
}
