//! Guesses at a sequence's next tokens: those that followed when its last tokens occurred before (prompt lookup). The step
//! that computes a guess also checks it, so a bad one costs a little time and nothing else.

use std::collections::HashMap;

use weirgate_types::TokenId;

/// The longest stretch of last tokens that is looked up; shorter ones are tried after it.
const LONGEST: usize = 3;
/// After a draft of one token that failed, a sequence generates this many tokens without one, then twice as many, up to
/// the second value.
const PAUSE: (usize, usize) = (2, 64);
/// Most tokens taken into an index at a time, so that a long prompt does not hold up a step.
const MOST_AT_ONCE: usize = 1024;

/// Proposes drafts for one sequence, fewer and rarer ones when they fail.
#[derive(Debug)]
pub(crate) struct Drafter {
    index: Index,
    /// Most tokens of a draft, ever and at present.
    most: usize,
    length: usize,
    /// No draft while the sequence is shorter than this.
    resumes_at: usize,
    pause: usize,
}

impl Drafter {
    /// A drafter that proposes up to `most` tokens at a time.
    pub fn new(most: usize) -> Self {
        Self { index: Index::default(), most, length: most, resumes_at: 0, pause: PAUSE.0 }
    }

    /// Appends up to `limit` guesses at what follows `tokens` to `out`. `tokens` only ever grows from call to call.
    pub fn propose(&mut self, tokens: &[TokenId], limit: usize, out: &mut Vec<TokenId>) {
        if tokens.len() < self.resumes_at || !self.index.extend(tokens) {
            return;
        }
        let Some(from) = self.index.find(tokens) else { return };
        let followed = tokens.get(from..).unwrap_or_default();
        // What followed may end before the draft does: then the text repeats itself, and so does the draft.
        out.extend(followed.iter().cycle().take(self.length.min(limit)));
    }

    /// Starts over: the next tokens are not a continuation of those seen so far.
    pub fn forget(&mut self) {
        *self = Self::new(self.most);
    }

    /// Learns that of `proposed` tokens the first `accepted` were right, for a sequence that had `len` tokens then.
    pub fn learn(&mut self, proposed: usize, accepted: usize, len: usize) {
        if accepted > 0 {
            self.pause = PAUSE.0;
            self.length = if accepted == proposed { self.length * 2 } else { accepted + 1 }.min(self.most);
        } else if self.length > 1 {
            self.length /= 2;
        } else {
            self.resumes_at = len + self.pause;
            self.pause = (self.pause * 2).min(PAUSE.1);
        }
    }
}

/// Where stretches of a sequence's tokens last occurred.
#[derive(Debug, Default)]
struct Index {
    /// The position behind each stretch, which is filled up with [`NO_TOKEN`].
    ends: HashMap<[TokenId; LONGEST], usize>,
    /// Stretches that end at or before this position are known.
    known: usize,
}

/// No vocabulary is that large.
const NO_TOKEN: TokenId = TokenId::MAX;

impl Index {
    /// Takes in stretches that a token follows, not too many at a time; whether all are known now.
    fn extend(&mut self, tokens: &[TokenId]) -> bool {
        let followed = tokens.len().saturating_sub(1);
        let until = followed.min(self.known + MOST_AT_ONCE);
        for end in self.known + 1..=until {
            for stretch in stretches(tokens, end) {
                self.ends.insert(key(stretch), end);
            }
        }
        self.known = until;
        until == followed
    }

    /// The position behind the last earlier occurrence of the longest stretch at the end of `tokens`.
    fn find(&self, tokens: &[TokenId]) -> Option<usize> {
        stretches(tokens, tokens.len()).find_map(|stretch| self.ends.get(&key(stretch)).copied())
    }
}

fn key(stretch: &[TokenId]) -> [TokenId; LONGEST] {
    let mut key = [NO_TOKEN; LONGEST];
    for (to, &token) in key.iter_mut().zip(stretch) {
        *to = token;
    }
    key
}

/// The stretches that end at position `end`, longest first.
fn stretches(tokens: &[TokenId], end: usize) -> impl Iterator<Item = &[TokenId]> {
    (1..=LONGEST).rev().filter_map(move |len| tokens.get(end.checked_sub(len)?..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn propose(drafter: &mut Drafter, tokens: &[TokenId], limit: usize) -> Vec<TokenId> {
        let mut out = Vec::new();
        drafter.propose(tokens, limit, &mut out);
        out
    }

    /// What the index shall find, by looking at every place.
    fn by_definition(tokens: &[TokenId]) -> Option<usize> {
        (1..=LONGEST.min(tokens.len())).rev().find_map(|len| {
            let suffix = &tokens[tokens.len() - len..];
            (len..tokens.len()).rev().find(|&end| &tokens[end - len..end] == suffix)
        })
    }

    #[test]
    fn the_longest_and_then_the_latest_occurrence_is_continued() {
        let tokens = [1, 2, 3, 4, 5, 9, 2, 3, 6, 7, 3, 8, 1, 2, 3];
        assert_eq!(propose(&mut Drafter::new(4), &tokens, 10), [4, 5, 9, 2], "three tokens before two");
        assert_eq!(propose(&mut Drafter::new(4), &tokens[..8], 3), [4, 5, 9]);
        assert_eq!(propose(&mut Drafter::new(4), &tokens[..11], 10), [6, 7, 3, 6], "one token, the latest");
        assert_eq!(propose(&mut Drafter::new(4), &tokens[..6], 10), [0; 0], "a token that is new");
        assert_eq!(propose(&mut Drafter::new(4), &tokens, 0), [0; 0]);
    }

    #[test]
    fn a_loop_is_continued_beyond_its_end() {
        assert_eq!(propose(&mut Drafter::new(5), &[7, 7], 5), [7; 5]);
        assert_eq!(propose(&mut Drafter::new(5), &[1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
        assert_eq!(propose(&mut Drafter::new(5), &[7], 5), [0; 0]);
    }

    #[test]
    fn growing_token_by_token_finds_what_a_scan_finds() {
        // A linear congruential generator, of which few bits are used: plenty of repetition.
        let mut state = 1u64;
        let mut drafter = Drafter::new(1);
        let mut tokens = Vec::new();
        for _ in 0..4000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            tokens.push((state >> 60) as TokenId);
            assert!(drafter.index.extend(&tokens));
            assert_eq!(drafter.index.find(&tokens), by_definition(&tokens), "{} tokens", tokens.len());
        }
    }

    #[test]
    fn a_long_prompt_is_taken_in_over_several_steps() {
        let mut drafter = Drafter::new(1);
        let tokens: Vec<TokenId> = (0..3000).chain([3]).collect();
        let drafts: Vec<Vec<TokenId>> = (0..4).map(|_| propose(&mut drafter, &tokens, 1)).collect();
        assert_eq!(drafts, [vec![], vec![], vec![4], vec![4]]);
    }

    #[test]
    fn failing_drafts_become_shorter_then_rare_and_recover() {
        let mut drafter = Drafter::new(8);
        let tokens = vec![5; 400];
        for expected in [8, 4, 2, 1] {
            assert_eq!(propose(&mut drafter, &tokens[..10], 100).len(), expected);
            drafter.learn(expected, 0, 10);
        }
        let mut proposed = Vec::new();
        for len in 10..400 {
            let draft = propose(&mut drafter, &tokens[..len], 100);
            if !draft.is_empty() {
                assert_eq!(draft.len(), 1);
                proposed.push(len);
                drafter.learn(1, 0, len);
            }
        }
        assert_eq!(proposed, [12, 16, 24, 40, 72, 136, 200, 264, 328, 392]);
        drafter.resumes_at = 0;
        for (expected, accepted) in [(1, 1), (2, 2), (4, 1), (2, 2), (4, 4), (8, 8), (8, 0), (4, 3)] {
            assert_eq!(propose(&mut drafter, &tokens, 100).len(), expected);
            drafter.learn(expected, accepted, tokens.len());
        }
        assert_eq!(drafter.pause, PAUSE.0);
    }
}
