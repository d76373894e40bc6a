//! Sequences under a grammar: their masks are computed elsewhere.

use weirgate_kernels::Sampled;
use weirgate_types::Finish;

use crate::constraint::{MaskAnswer, MaskJob};

use super::{Scheduler, append_token};

impl Scheduler {
    /// The masks to compute since the last call. Each answer goes to [`Scheduler::take_mask`], in any order; until then
    /// its sequence draws nothing.
    pub fn take_mask_jobs(&mut self) -> Vec<MaskJob> {
        std::mem::take(&mut self.mask_jobs)
    }

    /// Takes in the answer to a mask job, between two steps or while one runs.
    pub fn take_mask(&mut self, answer: MaskAnswer) {
        let key = answer.key;
        let at = self.running_at(key);
        let Self { running, waiting, ledger, pool, rope, .. } = self;
        let found = match at {
            Some(at) => running.get_mut(at),
            None => waiting.get_mut(&key),
        };
        // A sequence that ended meanwhile needs no mask.
        let Some(sequence) = found else { return };
        let wants_top = sequence.params.top_n > 0;
        let forced = answer.forced.into_iter().map(|token| Sampled {
            token,
            logprob: 0.0,
            top: if wants_top { vec![(token, 0.0)] } else { Vec::new() },
        });
        let end = forced.map(|token| append_token(sequence, token, ledger, rope, pool)).find_map(|end| end);
        let end = end.or_else(|| match (answer.next, &mut sequence.constraint) {
            (Ok(next), Some(constraint)) => (!constraint.resume(next)).then_some(Finish::GrammarEnd),
            (Ok(_), None) => None,
            (Err(fault), _) => {
                tracing::warn!(request = sequence.request.id.0, %fault, "a grammar failed");
                Some(Finish::GrammarFailed)
            }
        });
        if let Some(reason) = end {
            let ended = match at {
                Some(at) => Some(self.running.remove(at)),
                None => self.waiting.remove(&key),
            };
            ended.into_iter().for_each(|sequence| self.end(sequence, reason));
        }
    }

    /// Whether a running sequence could draw now if it had its mask.
    pub fn draws_blocked(&self) -> bool {
        self.running.iter().any(|sequence| sequence.awaits_mask() && sequence.ready_work() == 0)
    }
}
