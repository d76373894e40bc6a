//! Bursts: steps of prompts alone, for which whoever decodes waits.
//!
//! A prompt's tokens beside many that decode are computed a few at a time, in small steps, and small steps make poor use
//! of a processor for which every token costs. Where many prompts wait they had better come first: streams that have
//! begun pause once, all others begin far sooner, and then everybody decodes together. TGI's `waiting_served_ratio` and
//! `max_waiting_tokens` say when.
//!
//! In a burst no prompt's last token is computed: who would draw a token there would only wait for the others.

use crate::sequence::SeqStatus;

use super::Scheduler;

/// When prompts are computed before what decodes goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BurstRule {
    /// Waiting prompts for each sequence that decodes which make a burst.
    pub ratio: f32,
    /// So many steps after the last burst, one waiting prompt makes another.
    pub patience: usize,
    /// Most steps of a burst, which has one for each waiting prompt; 0: no bursts.
    pub max_steps: usize,
}

impl BurstRule {
    pub const NONE: Self = Self { ratio: 0.0, patience: 0, max_steps: 0 };
}

/// Where the scheduler is between bursts.
#[derive(Debug)]
pub(super) struct Bursts {
    rule: BurstRule,
    /// Steps left of this burst.
    left: usize,
    /// Steps since the last one. Those of prompts alone count: streams that just began had better wait at once, so that
    /// all decode in step, and end in step. One that ends before the others holds them up with its client's next prompt.
    since: usize,
}

impl Bursts {
    pub fn new(rule: BurstRule) -> Self {
        Self { rule, left: 0, since: 0 }
    }

    /// A step of a burst was planned.
    pub fn took(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.since = 0;
    }

    /// Another step was planned.
    pub fn passed(&mut self) {
        self.left = 0;
        self.since = self.since.saturating_add(1);
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
        let held = 1 + decoding.count();
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
        if self.bursts.left == 0 && self.bursts.since > 0 {
            let many = prompts as f32 >= rule.ratio * held as f32;
            if many || self.bursts.since >= rule.patience {
                self.bursts.left = prompts.min(rule.max_steps);
            }
        }
        self.bursts.left > 0
    }
}
