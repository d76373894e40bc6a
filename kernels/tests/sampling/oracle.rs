//! The sampler by direct definition: logits edited one by one in `f32` (the rounding of these steps is part of the
//! contract), then everything in `f64` on fully sorted lists. Shares no code with the crate.

use weirgate_kernels::{FilterOrder, FrequencyPenalty, Mirostat, SampleParams, SampleRow};

/// Sums that should be equal in exact arithmetic may differ by this factor.
const ROUNDING: f64 = 1.0 - 1e-12;

/// `ln p` of every token after all steps; `-inf` for those that cannot be drawn.
pub fn logprobs(logits: &[f32], row: &SampleRow<'_>) -> Vec<f64> {
    let params = row.params;
    let mut x = adjusted(logits, row);
    if params.seed.is_some() {
        let filters: &[fn(&mut [f32], &SampleParams)] = match (params.mirostat, params.order) {
            (Some(_), _) => &[temper],
            (None, FilterOrder::TemperatureFirst) => {
                &[temper, filter_top_k, filter_tail_free, filter_top_p, filter_typical, filter_min_p]
            }
            (None, FilterOrder::TemperatureLast) => {
                &[filter_top_k, filter_tail_free, filter_typical, filter_top_p, filter_min_p, temper]
            }
        };
        filters.iter().for_each(|filter| filter(&mut x, params));
        match params.mirostat {
            Some(Mirostat::V1) => filter_mirostat_1(&mut x, f64::from(row.surprise)),
            Some(Mirostat::V2) => filter_mirostat_2(&mut x, f64::from(row.surprise)),
            None => {}
        }
    }
    log_softmax(&x)
}

fn temper(x: &mut [f32], params: &SampleParams) {
    x.iter_mut().for_each(|x| *x /= params.temperature);
}

fn adjusted(logits: &[f32], row: &SampleRow<'_>) -> Vec<f32> {
    let params = row.params;
    let generated = &row.history[row.prompt_len..];
    let occurrences = |list: &[u32], id: usize| list.iter().filter(|&&t| t as usize == id).count() as f32;
    let mut out = Vec::new();
    for (id, &logit) in logits.iter().enumerate() {
        let mut x = logit;
        if let Some((gamma, delta)) = params.watermark
            && is_green(id as u64, *row.history.last().unwrap(), logits.len() as u64, gamma)
        {
            x += delta;
        }
        let (repeatable, counted) = match params.penalty_window {
            Some(n) => {
                let recent = &row.history[row.history.len().saturating_sub(n as usize)..];
                (recent, recent)
            }
            None => (row.history, generated),
        };
        if params.penalty_exempt != Some(id as u32) {
            let penalty = params.repetition_penalty;
            if repeatable.contains(&(id as u32)) {
                x = if x < 0.0 { x * penalty } else { x / penalty };
            }
            let present = if counted.contains(&(id as u32)) { params.presence_penalty } else { 0.0 };
            x = match (params.frequency_penalty, params.penalty_window) {
                (FrequencyPenalty::Count(p), None) => x - p * occurrences(counted, id) - present,
                (FrequencyPenalty::Relative(p), None) => {
                    x - occurrences(row.history, id) / row.history.len() as f32 * p - present
                }
                // llama.cpp subtracts both at once.
                (FrequencyPenalty::Count(p) | FrequencyPenalty::Relative(p), Some(_)) => {
                    x - (occurrences(counted, id) * p + present)
                }
            };
        }
        for &(biased, bias) in &params.logit_bias {
            x += if biased as usize == id { bias } else { 0.0 };
        }
        let masked = row.mask.is_some_and(|words| {
            words.get(id / 32).is_none_or(|word| word.to_le_bytes()[id % 32 / 8] & (1 << (id % 8)) == 0)
        });
        out.push(if masked || row.banned.contains(&(id as u32)) { f32::NEG_INFINITY } else { x });
    }
    out
}

/// The watermark's list as its documentation defines it, for one token.
pub fn is_green(id: u64, previous: u32, vocab: u64, gamma: f32) -> bool {
    let a = (1..).find(|a| a * a >= vocab).unwrap();
    let b = vocab.div_ceil(a);
    let f = |round: u32, x: u64, modulus: u64| {
        (u64::from(philox([15_485_863, previous], [x as u32, round, 0, 0])[0]) * modulus) >> 32
    };
    let mut place = id;
    loop {
        let (mut left, mut right) = (place / b, place % b);
        for round in 0..4 {
            match round % 2 {
                0 => left = (left + f(round, right, a)) % a,
                _ => right = (right + f(round, left, b)) % b,
            }
        }
        place = left * b + right;
        if place < vocab {
            return place < (f64::from(gamma) * vocab as f64).floor() as u64;
        }
    }
}

/// Philox 4x32-10, from the paper.
fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    for round in 0..10u32 {
        let k0 = key[0].wrapping_add(0x9E37_79B9_u32.wrapping_mul(round));
        let k1 = key[1].wrapping_add(0xBB67_AE85_u32.wrapping_mul(round));
        let (p0, p1) = (0xD251_1F53_u64 * u64::from(c0), 0xCD9E_8D57_u64 * u64::from(c2));
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
    }
    [c0, c1, c2, c3]
}

/// The variate in `[0, 1)` of a draw.
fn uniform(seed: u64, draw: u64) -> f64 {
    let words = philox([seed as u32, (seed >> 32) as u32], [draw as u32, (draw >> 32) as u32, 0, 0]);
    (f64::from(words[1]) + f64::from(words[0]) / 2f64.powi(32)) / 2f64.powi(32)
}

/// The token that draw `draw` of `seed` falls on when tokens lie side by side in id order.
pub fn pick(logprobs: &[f64], seed: u64, draw: u64) -> u32 {
    let mut left = uniform(seed, draw);
    for (id, logprob) in logprobs.iter().enumerate() {
        left -= logprob.exp();
        if left < 0.0 {
            return id as u32;
        }
    }
    unreachable!("the probabilities add up to 1");
}

pub fn log_softmax(x: &[f32]) -> Vec<f64> {
    let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = x.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    x.iter().map(|&x| f64::from(x) - max - total.ln()).collect()
}

/// The ids of the finite logits by `key` ascending, then by id.
fn ranked(x: &[f32], key: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..x.len()).filter(|&id| x[id].is_finite()).collect();
    ids.sort_by(|&a, &b| key(a).partial_cmp(&key(b)).unwrap().then(a.cmp(&b)));
    ids
}

fn keep(x: &mut [f32], kept: impl Fn(usize) -> bool) {
    (0..x.len()).filter(|&id| !kept(id)).for_each(|id| x[id] = f32::NEG_INFINITY);
}

fn filter_top_k(x: &mut [f32], params: &SampleParams) {
    let order = ranked(x, |id| -f64::from(x[id]));
    let k = params.top_k as usize;
    if k > 0 && k <= order.len() {
        let kth = x[order[k - 1]];
        let original = x.to_vec();
        keep(x, |id| original[id] >= kth);
    }
}

/// How many of `order` it takes for a probability of `p`.
fn needed(order: &[usize], logprobs: &[f64], p: f32) -> usize {
    let mut sum = 0.0;
    for (n, &id) in order.iter().enumerate() {
        sum += logprobs[id].exp();
        if sum >= f64::from(p) * ROUNDING {
            return n + 1;
        }
    }
    order.len()
}

fn filter_top_p(x: &mut [f32], params: &SampleParams) {
    if params.top_p < 1.0 {
        let logprobs = log_softmax(x);
        let order = ranked(x, |id| -f64::from(x[id]));
        let n = needed(&order, &logprobs, params.top_p);
        let mut needed = vec![false; x.len()];
        order[..n].iter().for_each(|&id| needed[id] = true);
        keep(x, |id| needed[id]);
    }
}

fn filter_typical(x: &mut [f32], params: &SampleParams) {
    if params.typical_p < 1.0 {
        let logprobs = log_softmax(x);
        let finite = |&&l: &&f64| l.is_finite();
        let entropy: f64 = logprobs.iter().filter(finite).map(|l| -l * l.exp()).sum();
        let shift = |id: usize| (-logprobs[id] - entropy).abs();
        let order = ranked(x, shift);
        let last = order[needed(&order, &logprobs, params.typical_p) - 1];
        keep(x, |id| shift(id) <= shift(last));
    }
}

fn filter_min_p(x: &mut [f32], params: &SampleParams) {
    if params.min_p > 0.0 {
        let p: Vec<f64> = log_softmax(x).iter().map(|l| l.exp()).collect();
        let best = p.iter().copied().fold(0.0, f64::max);
        keep(x, |id| p[id] >= f64::from(params.min_p) * best * ROUNDING);
    }
}

/// The likelihoods of the finite logits, most likely first.
fn sorted(x: &[f32]) -> (Vec<usize>, Vec<f64>) {
    let order = ranked(x, |id| -f64::from(x[id]));
    let logprobs = log_softmax(x);
    let p = order.iter().map(|&id| logprobs[id].exp()).collect();
    (order, p)
}

fn keep_first(x: &mut [f32], order: &[usize], n: usize) {
    let mut kept = vec![false; x.len()];
    order[..n.clamp(1, order.len())].iter().for_each(|&id| kept[id] = true);
    keep(x, |id| kept[id]);
}

/// `llama_sample_tail_free`: first differences of the sorted probabilities, differences of those, their magnitudes as
/// shares; the tail begins where more than `z` of them is passed, but not at the first token.
fn filter_tail_free(x: &mut [f32], params: &SampleParams) {
    let (order, p) = sorted(x);
    if params.tfs_z >= 1.0 || p.len() <= 2 {
        return;
    }
    let slopes: Vec<f64> = p.windows(2).map(|two| two[0] - two[1]).collect();
    let bends: Vec<f64> = slopes.windows(2).map(|two| (two[0] - two[1]).abs()).collect();
    let sum: f64 = bends.iter().sum();
    let mut passed = 0.0;
    for (at, bend) in bends.iter().enumerate() {
        passed += bend;
        let share = if sum > 1e-6 { passed / sum } else { (at + 1) as f64 / bends.len() as f64 };
        if share > f64::from(params.tfs_z) && at >= 1 {
            return keep_first(x, &order, at);
        }
    }
}

/// The paper's Algorithm 1, without its feedback.
fn filter_mirostat_1(x: &mut [f32], mu: f64) {
    let (order, p) = sorted(x);
    let (mut tb, mut tt) = (0.0, 0.0);
    for i in 0..99.min(p.len() - 1) {
        let t = ((i + 2) as f64 / (i + 1) as f64).ln();
        tb += t * (f64::from(x[order[i]]) - f64::from(x[order[i + 1]]));
        tt += t * t;
    }
    let s = tb / tt;
    let excess = s - 1.0;
    let k = ((excess * 2f64.powf(mu)) / (1.0 - (x.len() as f64).powf(-excess))).powf(1.0 / s);
    keep_first(x, &order, if k.is_nan() { order.len() } else { k as usize });
}

/// Algorithm 2, without its feedback.
fn filter_mirostat_2(x: &mut [f32], mu: f64) {
    let (order, p) = sorted(x);
    let n = p.iter().take_while(|p| -p.log2() <= mu).count();
    keep_first(x, &order, n);
}
