//! Top-k, top-p, typical-p and min-p with the semantics of transformers' warpers, without sorting the vocabulary.
//!
//! The first three are one operation. Rank the tokens by how far their distance from the maximum (in nats) is from a
//! centre, and keep the shortest prefix of that ranking that holds a given amount: of tokens for top-k, of weight
//! for top-p (both centred on the maximum itself) and for typical-p. Typical-p ranks by `|-ln p - entropy|`; as
//! `-ln p` is the distance plus a constant, and the entropy the mean distance plus the same constant, its centre is
//! the mean distance.

use std::cmp::Ordering;

use super::weights::{BLOCK, Distribution, Peak, Weighed, scaled_exp};

/// By how many nats the search for enough weight widens at a time, and where it gives up and takes the whole row.
const WIDEN: f64 = 3.0;
const WIDEST: f64 = 30.0;

#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub id: u32,
    pub logit: f32,
    weight: u64,
}

/// The place of a candidate in a ranking, and what it adds to the amount sought.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranked {
    /// Smaller is better.
    pub key: f64,
    id: u32,
    pub amount: u64,
}

/// How much a prefix of the ranking must hold.
#[derive(Debug, Clone, Copy)]
enum Quota {
    Tokens(usize),
    /// A share of all weight.
    Share(f32),
}

#[derive(Debug, Clone, Copy)]
struct Cut {
    centre: f64,
    quota: Quota,
    /// Whether all tokens that rank equal to the last one kept are kept as well; otherwise lower ids are preferred.
    keep_ties: bool,
}

/// The tokens that the filters have left.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// In id order.
    list: Vec<Candidate>,
    /// Whether a filter has run. Until then the candidates are the whole row, and `list` means nothing.
    listed: bool,
    ranking: Vec<Ranked>,
}

impl Candidates {
    /// Starts a new row.
    pub(super) fn reset(&mut self) {
        self.list.clear();
        self.listed = false;
    }

    /// Keeps the tokens whose logit is at least the `k`-th largest.
    pub(super) fn top_k(&mut self, logits: &[f32], dist: &mut Distribution, k: usize) {
        self.cut(logits, dist, Cut { centre: 0.0, quota: Quota::Tokens(k), keep_ties: true });
    }

    /// Keeps the fewest likely tokens whose probability is at least `p` together.
    pub(super) fn top_p(&mut self, logits: &[f32], dist: &mut Distribution, p: f32) {
        self.cut(logits, dist, Cut { centre: 0.0, quota: Quota::Share(p), keep_ties: false });
    }

    /// Keeps the tokens whose information content is closest to the entropy, as many as are needed for probability
    /// `p` together.
    pub(super) fn typical_p(&mut self, logits: &[f32], dist: &mut Distribution, p: f32) {
        let centre = self.mean_distance(logits, dist);
        self.cut(logits, dist, Cut { centre, quota: Quota::Share(p), keep_ties: true });
        // The most likely tokens may be gone. Weights that start from the best one left keep their precision.
        let max = self.list.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
        if max < dist.max() {
            dist.set_max(max);
            for c in &mut self.list {
                c.weight = dist.weigh(c.logit).weight;
            }
        }
    }

    /// Keeps the tokens that are at least `min_p` times as likely as the best one.
    pub(super) fn min_p(&mut self, logits: &[f32], dist: &mut Distribution, min_p: f32) {
        let min_p = f64::from(min_p);
        // A little too far, because the ratio itself decides.
        let reach = (1e-6 - min_p.ln()).max(0.0);
        let likely = |distance: f64| distance == 0.0 || scaled_exp(distance, 0) >= min_p;
        if self.listed {
            self.list.retain(|c| {
                let distance = dist.distance(c.logit);
                distance <= reach && likely(distance)
            });
        } else {
            self.list(logits, dist, reach, likely);
        }
    }

    /// Divides the logits of what is left by the temperature. Where that would overflow, the maximum is moved to 0 first.
    pub(super) fn temper(&mut self, logits: &mut [f32], dist: &mut Distribution, temperature: f32) {
        if temperature == 1.0 {
            return;
        }
        if !self.listed {
            return dist.temper(logits, temperature);
        }
        let max = dist.max();
        let shift = if (max / temperature).is_finite() { 0.0 } else { max };
        let tempered = |logit: f32| (logit - shift) / temperature;
        dist.set_max(tempered(max));
        for c in &mut self.list {
            c.logit = tempered(c.logit);
            c.weight = dist.weigh(c.logit).weight;
        }
    }

    /// Draws a token with 64 random bits: the first, in id order, at which the running sum of the weights exceeds
    /// `bits * total / 2^64`. `None` if there is no weight at all.
    pub(super) fn choose(&self, logits: &[f32], dist: &mut Distribution, bits: u64) -> Option<Peak> {
        let total = self.weight(logits, dist);
        let mut left = ((u128::from(bits) * u128::from(total)) >> 64) as u64;
        let mut passes = |weight: u64| {
            let found = left < weight;
            left = left.saturating_sub(if found { 0 } else { weight });
            found
        };
        if self.listed {
            return self.list.iter().find(|c| passes(c.weight)).map(|c| Peak { id: c.id, logit: c.logit });
        }
        let block = dist.block_weights(logits).iter().position(|&weight| passes(weight))?;
        let stretch = logits.chunks(BLOCK).nth(block)?;
        let within = stretch.iter().position(|&logit| passes(dist.weigh(logit).weight))?;
        Some(Peak { id: (block * BLOCK + within) as u32, logit: *stretch.get(within)? })
    }

    /// `ln(sum of exp(logit - max))` over the candidates.
    pub(super) fn log_total(&self, logits: &[f32], dist: &mut Distribution) -> f64 {
        let total = self.weight(logits, dist);
        dist.log_total(total)
    }

    /// The `n` most likely candidates, fewer if there are not so many; equal ones by id. The last use of a row.
    pub(super) fn top(&mut self, logits: &[f32], dist: &mut Distribution, n: usize) -> &[Candidate] {
        if !self.listed {
            let reach = dist.reach(n);
            self.list(logits, dist, reach, |_| true);
        }
        let key = |c: &Candidate| dist.distance(c.logit);
        let order = |x: &Candidate, y: &Candidate| key(x).total_cmp(&key(y)).then(x.id.cmp(&y.id));
        if n < self.list.len() {
            self.list.select_nth_unstable_by(n, order);
            self.list.truncate(n);
        }
        self.list.sort_unstable_by(order);
        &self.list
    }

    /// All candidates, most likely first, lower ids first among equals; `key` is the distance from the maximum and
    /// `amount` the weight.
    pub(super) fn ranked(&mut self, logits: &[f32], dist: &Distribution) -> &[Ranked] {
        if !self.listed {
            self.list(logits, dist, f64::INFINITY, |_| true);
        }
        self.ranking.clear();
        self.ranking.extend(self.list.iter().map(|c| Ranked {
            key: dist.distance(c.logit),
            id: c.id,
            amount: c.weight,
        }));
        self.ranking.sort_unstable_by(|x, y| x.key.total_cmp(&y.key).then(x.id.cmp(&y.id)));
        &self.ranking
    }

    /// Keeps the first `n` of the tokens that [`Candidates::ranked`] has just ranked; at least one.
    pub(super) fn keep_ranked(&mut self, dist: &Distribution, n: usize) {
        let Some(&last) = self.ranking.get(n.max(1) - 1) else { return };
        self.list.retain(|c| {
            let order = dist.distance(c.logit).total_cmp(&last.key);
            order.then(c.id.cmp(&last.id)).is_le()
        });
    }

    /// Lists the tokens of the whole row whose distance from the maximum is within `reach` and passes `accept`.
    fn list(&mut self, logits: &[f32], dist: &Distribution, reach: f64, accept: impl Fn(f64) -> bool) {
        self.listed = true;
        self.list.clear();
        dist.for_each_within(logits, reach, |id, logit, distance| {
            if accept(distance) {
                self.list.push(Candidate { id, logit, weight: dist.weigh(logit).weight });
            }
        });
    }

    /// The weight of all candidates.
    fn weight(&self, logits: &[f32], dist: &mut Distribution) -> u64 {
        if self.listed { self.list.iter().map(|c| c.weight).sum() } else { dist.weigh_row(logits).weight }
    }

    /// The mean distance of the candidates from the maximum.
    fn mean_distance(&self, logits: &[f32], dist: &mut Distribution) -> f64 {
        if !self.listed {
            return dist.weigh_row(logits).mean_distance();
        }
        let mut sum = Weighed::default();
        for c in &self.list {
            sum += dist.weigh(c.logit);
        }
        sum.mean_distance()
    }

    fn cut(&mut self, logits: &[f32], dist: &mut Distribution, cut: Cut) {
        let target = match cut.quota {
            Quota::Tokens(n) => n as u64,
            Quota::Share(p) => (f64::from(p) * self.weight(logits, dist) as f64).ceil() as u64,
        };
        if !self.listed {
            self.list_enough(logits, dist, cut, target);
        }
        self.ranking.clear();
        self.ranking.extend(self.list.iter().map(|c| Ranked {
            key: cut.key(dist, c.logit),
            id: c.id,
            amount: cut.amount(c),
        }));
        let Some(last) = last_needed(&mut self.ranking, target) else {
            return;
        };
        self.list.retain(|c| match cut.key(dist, c.logit).total_cmp(&last.key) {
            Ordering::Less => true,
            Ordering::Equal => cut.keep_ties || c.id <= last.id,
            Ordering::Greater => false,
        });
    }

    /// Lists the best ranked tokens of the whole row until they hold `target`.
    fn list_enough(&mut self, logits: &[f32], dist: &mut Distribution, cut: Cut, target: u64) {
        if let Quota::Tokens(n) = cut.quota {
            let reach = dist.reach(n);
            return self.list(logits, dist, reach, |_| true);
        }
        let mut radius = WIDEN;
        loop {
            self.list(logits, dist, cut.centre + radius, |distance| (distance - cut.centre).abs() <= radius);
            let held: u64 = self.list.iter().map(|c| cut.amount(c)).sum();
            if held >= target || radius.is_infinite() {
                return;
            }
            radius = if radius < WIDEST { radius + WIDEN } else { f64::INFINITY };
        }
    }
}

impl Cut {
    fn key(&self, dist: &Distribution, logit: f32) -> f64 {
        (dist.distance(logit) - self.centre).abs()
    }

    fn amount(&self, candidate: &Candidate) -> u64 {
        match self.quota {
            Quota::Tokens(_) => 1,
            Quota::Share(_) => candidate.weight,
        }
    }
}

/// The last entry of the shortest prefix, by key and id, whose amounts add up to `target`; the last of all if they
/// do not. Bisects with partial selections, so it takes linear time. Reorders `ranking`.
fn last_needed(ranking: &mut [Ranked], target: u64) -> Option<Ranked> {
    let (mut rest, mut missing) = (ranking, target);
    while rest.len() > 1 {
        let half = rest.len() / 2;
        rest.select_nth_unstable_by(half, |x, y| x.key.total_cmp(&y.key).then(x.id.cmp(&y.id)));
        let (near, far) = rest.split_at_mut(half);
        let held: u64 = near.iter().map(|r| r.amount).sum();
        if held >= missing {
            rest = near;
        } else {
            missing -= held;
            rest = far;
        }
    }
    rest.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_tokens_are_not_drawn_by_the_outermost_variates() {
        let mut logits = vec![f32::NEG_INFINITY; 200];
        (logits[70], logits[71], logits[140]) = (1.0, 1.0, -60.0);
        let (mut dist, mut candidates) = (Distribution::default(), Candidates::default());
        dist.scan(&logits);
        // 140 is possible, but too unlikely to have a weight.
        for filtered in [false, true] {
            if filtered {
                candidates.top_k(&logits, &mut dist, 3);
                assert_eq!(candidates.list.len(), 3);
            }
            let mut draw = |bits| candidates.choose(&logits, &mut dist, bits).map(|peak| peak.id);
            assert_eq!(draw(0), Some(70));
            assert_eq!(draw((1 << 63) - 1), Some(70));
            assert_eq!(draw(1 << 63), Some(71));
            assert_eq!(draw(u64::MAX), Some(71));
        }
    }
}
