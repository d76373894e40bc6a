//! Bursts: steps of prompts alone, for which whoever has just begun waits.
//!
//! Requests that come together are not computed together: the first of them decodes before the last one's prompt is
//! computed, ends before it, too, and its client's next prompt then holds up all others. So where many prompts wait beside
//! few sequences that have drawn a token or two, these pause once, all others begin sooner, and then everybody decodes
//! in step. TGI's `waiting_served_ratio` says how many. Whoever has been decoding for longer never waits for a burst:
//! prompts are computed beside it.
//!
//! In a burst no prompt's last token is computed: who would draw a token there would only wait for the others.

use crate::sequence::{SeqStatus, Sequence};

use super::Scheduler;

/// When prompts are computed before what decodes goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BurstRule {
    /// Waiting prompts for each sequence that decodes which make a burst.
    pub ratio: f32,
    /// Nobody waits who has drawn more tokens than these.
    pub young: usize,
    /// Most steps of a burst, which has one for each waiting prompt; 0: no bursts.
    pub max_steps: usize,
}

impl BurstRule {
    pub const NONE: Self = Self { ratio: 0.0, young: 0, max_steps: 0 };
}

/// Where the scheduler is between bursts.
#[derive(Debug)]
pub(super) struct Bursts {
    rule: BurstRule,
    /// Steps left of this burst.
    left: usize,
    /// Whether the step before was one of a burst: there is another step between two of them.
    took: bool,
}

impl Bursts {
    pub fn new(rule: BurstRule) -> Self {
        Self { rule, left: 0, took: false }
    }

    /// A step of a burst was planned.
    pub fn took(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.took = true;
    }

    /// Another step was planned.
    pub fn passed(&mut self) {
        self.left = 0;
        self.took = false;
    }
}

impl Scheduler {
    /// Whether those that decode are to wait for this step.
    pub(super) fn holds(&mut self) -> bool {
        let rule = self.bursts.rule;
        if rule.max_steps == 0 {
            return false;
        }
        let mut decoding = self.running.iter().filter(|sequence| sequence.draws_next());
        // In order of service: the first is the most urgent.
        let Some(first) = decoding.next() else { return false };
        let rest = decoding.map(Sequence::generated);
        let (held, oldest) =
            rest.fold((1, first.generated()), |(held, oldest), drawn| (held + 1, oldest.max(drawn)));
        if oldest > rule.young {
            return false;
        }
        let queued = self.waiting.values().filter(|sequence| sequence.status == SeqStatus::Waiting);
        let places = self.max_seqs.saturating_sub(self.running.len());
        let running = self.running.iter().filter(|sequence| !sequence.is_ending());
        let waiting = running.chain(queued.take(places)).filter(|sequence| !sequence.draws_next());
        let (mut prompts, mut work, mut as_urgent) = (0, 0, false);
        for prompt in waiting {
            prompts += 1;
            work += prompt.work();
            as_urgent |= prompt.key.priority <= first.key.priority;
        }
        // Nobody is put before who is more urgent, and what fits beside those that decode goes with them.
        if !as_urgent || work <= self.spare_tokens(held) {
            return false;
        }
        if self.bursts.left == 0 && !self.bursts.took && prompts as f32 >= rule.ratio * held as f32 {
            self.bursts.left = prompts.min(rule.max_steps);
        }
        self.bursts.left > 0
    }
}
