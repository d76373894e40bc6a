//! What is asked: a pure function of the seed and the request's number.

use std::time::Duration;

use fastrand::Rng;

use super::lengths::Lengths;
use super::trace::Entry;

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestSpec {
    pub prompt: Vec<Piece>,
    pub output_tokens: usize,
}

/// A part of a prompt; equal seeds, equal text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub seed: u64,
    pub tokens: usize,
}

/// Where requests come from.
#[derive(Debug, Clone)]
pub enum Source {
    Drawn {
        prompt: Lengths,
        output: Lengths,
        /// Tokens with which prompts begin, and how many such beginnings there are.
        shared_prefix: Option<(usize, usize)>,
    },
    Trace {
        entries: Vec<Entry>,
        /// Longer prompts and answers are cut to this.
        max_prompt: usize,
        max_output: usize,
    },
}

#[derive(Debug, Clone)]
pub struct Workload {
    pub source: Source,
    pub seed: u64,
}

impl Workload {
    /// Request `index` of the `series`; different series share nothing but the shared prefixes of one series.
    pub fn request(&self, series: u64, index: usize) -> RequestSpec {
        let mut rng = Rng::with_seed(mix(&[self.seed, series, index as u64]));
        let own = rng.u64(..);
        match &self.source {
            Source::Drawn { prompt, output, shared_prefix } => {
                let length = prompt.draw(&mut rng);
                let prefix = shared_prefix.map(|(tokens, count)| Piece {
                    seed: mix(&[self.seed, series, PREFIX, (index % count.max(1)) as u64]),
                    tokens,
                });
                let prompt = prefix.into_iter().chain([Piece { seed: own, tokens: length }]).collect();
                RequestSpec { prompt, output_tokens: output.draw(&mut rng) }
            }
            Source::Trace { entries, max_prompt, max_output } => {
                let Some(entry) = entries.get(index % entries.len().max(1)) else {
                    return RequestSpec { prompt: Vec::new(), output_tokens: 1 };
                };
                let mut left = *max_prompt;
                let pieces = entry.pieces(own).into_iter().map(|(seed, tokens)| {
                    let tokens = tokens.min(left);
                    left -= tokens;
                    Piece { seed: if seed == own { own } else { mix(&[self.seed, series, seed]) }, tokens }
                });
                let prompt = pieces.filter(|piece| piece.tokens > 0).collect();
                RequestSpec { prompt, output_tokens: entry.output_tokens.min(*max_output) }
            }
        }
    }
}

const PREFIX: u64 = 0x7072_6566_6978;

/// When `count` requests are due, as a Poisson process of `rate` per second.
pub fn poisson(rate: f64, count: usize, seed: u64) -> Vec<Duration> {
    let mut rng = Rng::with_seed(mix(&[seed, count as u64]));
    let mut at = 0.0;
    let gap = |rng: &mut Rng| -(1.0 - rng.f64()).ln() / rate;
    (0..count)
        .map(|_| {
            at += gap(&mut rng);
            Duration::from_secs_f64(at)
        })
        .collect()
}

/// One number from many (the finalizer of SplitMix64 over each).
fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |state, part| {
        let z = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// Everyday words; one is about a token and a quarter in most vocabularies.
const WORDS: &[&str] = &[
    "river", "stone", "lamp", "winter", "garden", "ladder", "music", "harbour", "pencil", "thunder",
    "window", "basket", "copper", "meadow", "signal", "paper", "morning", "forest", "engine", "bridge",
    "letter", "silver", "market", "island", "orange", "mirror", "shadow", "castle", "dinner", "planet",
    "bottle", "valley", "summer", "circle", "number", "people", "water", "house", "story", "light", "green",
    "small", "under", "after", "every", "where", "first", "great", "sound", "place", "world", "three",
    "still", "learn", "plant", "never", "start", "night", "point", "while",
];

/// Text of about `words` words.
pub fn text(seed: u64, words: usize) -> String {
    let mut rng = Rng::with_seed(seed);
    let mut text = String::with_capacity(words * 7);
    for _ in 0..words {
        text.push_str(rng.choice(WORDS.iter()).copied().unwrap_or_default());
        text.push(' ');
    }
    text
}

/// `count` token ids below `vocab`, none of the first few, which tend to be special.
pub fn token_ids(seed: u64, count: usize, vocab: u32) -> Vec<u32> {
    let mut rng = Rng::with_seed(seed);
    (0..count).map(|_| rng.u32(vocab.min(256) / 2..vocab.max(2))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(shared_prefix: Option<(usize, usize)>) -> Workload {
        let source =
            Source::Drawn { prompt: Lengths::Uniform(5, 50), output: Lengths::Fixed(7), shared_prefix };
        Workload { source, seed: 3 }
    }

    #[test]
    fn requests_repeat_by_number_and_differ_otherwise() {
        let workload = drawn(None);
        assert_eq!(workload.request(0, 5), workload.request(0, 5));
        let seed = |series, index| workload.request(series, index).prompt[0].seed;
        let mut seeds: Vec<u64> = (0..100).flat_map(|index| [seed(0, index), seed(1, index)]).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 200);
        assert_eq!(text(9, 40), text(9, 40));
        assert_ne!(text(9, 40), text(10, 40));
        assert_eq!(text(9, 40).split_whitespace().count(), 40);
    }

    #[test]
    fn prefixes_are_shared_in_turn() {
        let workload = drawn(Some((100, 2)));
        let prefix = |index| workload.request(4, index).prompt[0];
        assert_eq!(prefix(0), prefix(2));
        assert_ne!(prefix(0), prefix(1));
        assert_eq!(prefix(0).tokens, 100);
        assert_ne!(workload.request(4, 0).prompt[1], workload.request(4, 2).prompt[1]);
    }

    #[test]
    fn traces_are_cut_to_the_limits() {
        let entry =
            |blocks: Vec<u64>| Entry { at: Duration::ZERO, prompt_tokens: 1000, output_tokens: 90, blocks };
        let entries = vec![entry(vec![0, 1]), entry(vec![0, 5])];
        let workload =
            Workload { source: Source::Trace { entries, max_prompt: 700, max_output: 64 }, seed: 1 };
        let (one, two) = (workload.request(0, 0), workload.request(0, 1));
        assert_eq!((one.prompt[0].tokens + one.prompt[1].tokens, one.output_tokens), (700, 64));
        assert_eq!(one.prompt[0], two.prompt[0]);
        assert_ne!(one.prompt[1], two.prompt[1]);
    }

    #[test]
    fn arrivals_are_poisson() {
        let times = poisson(50.0, 20_000, 1);
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 50.0 - 1.0).abs() < 0.03, "{mean}");
        // An exponential distribution's deviation is its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{}", variance.sqrt());
    }

    #[test]
    fn token_ids_stay_in_the_vocabulary() {
        assert!(token_ids(1, 1000, 300).iter().all(|id| (128..300).contains(id)));
        assert_eq!(token_ids(1, 10, 300), token_ids(1, 10, 300));
    }
}
