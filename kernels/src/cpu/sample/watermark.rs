//! The watermark of Kirchenbauer et al. (arXiv 2301.10226): before each token, a pseudo-random share `gamma` of the
//! vocabulary, the green list, gains `delta`. The list depends on the previous token alone.
//!
//! The vocabulary is shuffled by a Feistel network whose round functions are drawn from Philox, and the first
//! `floor(gamma * vocab)` places are green. As the network is a permutation the list has exactly that size, and
//! whether one token is green can be told without looking at the others. The lists are not those of torch's
//! `randperm`, so a detector has to use this construction:
//!
//! - Write the id as `left * b + right` with `a = ceil(sqrt(vocab))`, `b = ceil(vocab / a)`, `left < a`, `right < b`.
//! - In round `i` of 0 to 3, even: `left = (left + f(i, right)) mod a`; odd: `right = (right + f(i, left)) mod b`.
//! - `f(i, x) = (w * m) >> 32`, where `m` is the modulus of round `i` and `w` is word 0 of Philox with key
//!   `[15485863, previous token]` and counter `[x, i, 0, 0]`.
//! - Results outside the vocabulary are put through the network again. (Each is on the way of one id at most, so
//!   this takes fewer than `a` extra steps over the whole vocabulary.)

use super::rng::philox;

/// TGI's key for the green lists.
const HASH_KEY: u32 = 15_485_863;
const ROUNDS: usize = 4;

/// The shuffle of one previous token.
#[derive(Debug, Default)]
pub(super) struct GreenList {
    /// The round functions: `b` values below `a` in even rounds, `a` values below `b` in odd ones.
    rounds: [Vec<u32>; ROUNDS],
    a: u32,
    b: u32,
}

impl GreenList {
    /// Adds `delta` to the green tokens of `logits`.
    pub(super) fn favour(&mut self, logits: &mut [f32], previous: u32, gamma: f32, delta: f32) {
        let vocab = logits.len() as u32;
        let green = (f64::from(gamma) * f64::from(vocab)) as u32;
        if vocab == 0 {
            return;
        }
        self.seed(vocab, previous);
        for (left, stretch) in (0..).zip(logits.chunks_mut(self.b as usize)) {
            for (right, logit) in (0..).zip(stretch) {
                let mut place = self.permute(left, right);
                while place >= vocab {
                    place = self.permute(place / self.b, place % self.b);
                }
                *logit += if place < green { delta } else { 0.0 };
            }
        }
    }

    fn seed(&mut self, vocab: u32, previous: u32) {
        self.a = f64::from(vocab).sqrt().ceil() as u32;
        self.b = vocab.div_ceil(self.a);
        for (i, table) in (0..).zip(&mut self.rounds) {
            let (domain, modulus) = if i % 2 == 0 { (self.b, self.a) } else { (self.a, self.b) };
            table.clear();
            table.extend((0..domain).map(|x| {
                let [word, ..] = philox([HASH_KEY, previous], [x, i, 0, 0]);
                ((u64::from(word) * u64::from(modulus)) >> 32) as u32
            }));
        }
    }

    #[inline]
    fn permute(&self, mut left: u32, mut right: u32) -> u32 {
        for pair in self.rounds.as_chunks::<2>().0 {
            left = add_mod(left, look_up(&pair[0], right), self.a);
            right = add_mod(right, look_up(&pair[1], left), self.b);
        }
        left * self.b + right
    }
}

fn look_up(table: &[u32], index: u32) -> u32 {
    table.get(index as usize).copied().unwrap_or(0)
}

/// `(x + y) mod m` for `x, y < m`.
fn add_mod(x: u32, y: u32, m: u32) -> u32 {
    let sum = x + y;
    if sum >= m { sum - m } else { sum }
}
