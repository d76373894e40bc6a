//! The CPU sampler against its definition.

#[path = "sampling/oracle.rs"]
#[allow(clippy::unwrap_used)]
mod oracle;

#[path = "sampling/cases.rs"]
mod cases;

#[path = "sampling/random.rs"]
mod generators;

use std::collections::BTreeMap;

use cases::{distribution_cases, random};
use generators::{NEG, Noise, any_logits, any_params};
use proptest::prelude::*;
use weirgate_kernels::cpu::sample_logits;
use weirgate_kernels::{FrequencyPenalty, SampleParams, SampleRow, Sampled};

fn row<'a>(params: &'a SampleParams, history: &'a [u32], prompt_len: usize) -> SampleRow<'a> {
    SampleRow { params, history, prompt_len, draw: 0, surprise: 0.0, banned: &[], mask: None }
}

fn sample(logits: &[f32], row: &SampleRow<'_>) -> Sampled {
    sample_logits(&mut logits.to_vec(), row)
}

/// All tokens that can be drawn, with their log-probabilities.
fn kept(logits: &[f32], params: &SampleParams) -> Vec<(u32, f32)> {
    let params = SampleParams { top_n: logits.len() as u32, ..params.clone() };
    let mut top = sample(logits, &row(&params, &[0], 1)).top;
    top.sort_by_key(|&(id, _)| id);
    top
}

fn kept_ids(logits: &[f32], params: &SampleParams) -> Vec<u32> {
    kept(logits, params).iter().map(|&(id, _)| id).collect()
}

/// Pearson's statistic of `counts` against probabilities, cells with an expectation below 5 thrown together, and the
/// value that a correct sampler exceeds once in a million tests (Wilson-Hilferty).
fn chi_squared(counts: &[u64], probabilities: &[f64]) -> (f64, f64) {
    let draws = counts.iter().sum::<u64>() as f64;
    let (mut cells, mut rare) = (Vec::new(), (0.0, 0.0));
    for (&count, &p) in counts.iter().zip(probabilities) {
        match p * draws {
            expected if expected >= 5.0 => cells.push((count as f64, expected)),
            expected => rare = (rare.0 + count as f64, rare.1 + expected),
        }
    }
    if rare.1 >= 5.0 {
        cells.push(rare);
    } else if let Some(cell) = cells.last_mut() {
        *cell = (cell.0 + rare.0, cell.1 + rare.1);
    }
    let statistic = cells.iter().map(|(count, expected)| (count - expected).powi(2) / expected).sum();
    let freedom = (cells.len() - 1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    (statistic, freedom * (1.0 - spread + 4.753 * spread.sqrt()).powi(3))
}

#[test]
fn draws_follow_the_definition() {
    const DRAWS: u64 = 20_000;
    let logits = Noise(1).logits(61, 1.7);
    let history = [3, 9, 9, 44, 3, 21, 9, 60, 2, 9, 21, 30];
    // All but tokens 0, 7, 40 and 60.
    let mask: &[u32] = &[0xffff_ff7e, 0x0fff_feff];
    let cases = distribution_cases();
    for ((name, params), mask) in cases.iter().flat_map(|case| [(case, None), (case, Some(mask))]) {
        let mut row = SampleRow { banned: &[5, 44], mask, surprise: 5.0, ..row(params, &history, 5) };
        let logprobs = oracle::logprobs(&logits, &row);
        let mut counts = vec![0; logits.len()];
        for draw in 0..DRAWS {
            row.draw = draw;
            let got = sample(&logits, &row);
            assert_eq!(got.token, oracle::pick(&logprobs, 0x5EED, draw), "{name}: draw {draw}");
            let want = logprobs[got.token as usize];
            assert!((f64::from(got.logprob) - want).abs() < 1e-5, "{name}: {got:?}, expected {want}");
            counts[got.token as usize] += 1;
        }
        let probabilities: Vec<f64> = logprobs.iter().map(|l| l.exp()).collect();
        let (statistic, limit) = chi_squared(&counts, &probabilities);
        assert!(statistic < limit, "{name}: chi-squared {statistic} above {limit}");
    }
}

#[test]
fn the_chi_squared_test_would_notice_a_slightly_wrong_temperature() {
    let logits = Noise(1).logits(61, 1.7);
    let params = random();
    let mut counts = vec![0; logits.len()];
    for draw in 0..20_000 {
        counts[sample(&logits, &SampleRow { draw, ..row(&params, &[0], 1) }).token as usize] += 1;
    }
    let warmer = SampleParams { temperature: 1.1, ..random() };
    let logprobs = oracle::logprobs(&logits, &row(&warmer, &[0], 1));
    let (statistic, limit) = chi_squared(&counts, &logprobs.iter().map(|l| l.exp()).collect::<Vec<_>>());
    assert!(statistic > limit, "chi-squared {statistic} is not above {limit}");
}

/// The 16 or 256 equally likely tokens of a row are the leading bits of the variate.
fn leading_bits(tokens: usize, seed: u64, draw: u64) -> usize {
    let params = SampleParams { seed: Some(seed), ..random() };
    sample(&vec![0.0; tokens], &SampleRow { draw, ..row(&params, &[0], 1) }).token as usize
}

#[test]
fn variates_are_uniform_and_independent_over_draws_and_seeds() {
    const N: u64 = 60_000;
    type Cell = fn(u64) -> usize;
    let streams: [(&str, Cell); 7] = [
        ("draws of seed 0", |i| leading_bits(256, 0, i)),
        ("draws of seed 2^63", |i| leading_bits(256, 1 << 63, i)),
        ("consecutive seeds", |i| leading_bits(256, i, 0)),
        ("seeds that differ in the high word", |i| leading_bits(256, i << 32, 7)),
        ("consecutive draws", |i| leading_bits(16, 42, i) * 16 + leading_bits(16, 42, i + 1)),
        ("consecutive seeds, same draw", |i| leading_bits(16, i, 3) * 16 + leading_bits(16, i + 1, 3)),
        ("seed and draw exchanged", |i| leading_bits(16, i, 1000) * 16 + leading_bits(16, 1000, i)),
    ];
    for (name, cell) in streams {
        let mut counts = [0u64; 256];
        (0..N).for_each(|i| counts[cell(i)] += 1);
        let (statistic, limit) = chi_squared(&counts, &[1.0 / 256.0; 256]);
        assert!(statistic < limit, "{name}: chi-squared {statistic} above {limit}");
        // Too even would be wrong as well: 255 degrees of freedom, standard deviation 22.6.
        assert!(statistic > 255.0 - 4.8 * 22.6, "{name}: chi-squared {statistic} is too small");
    }
}

#[test]
fn a_draw_depends_on_seed_and_draw_alone() {
    let logits = Noise(3).logits(5000, 1.0);
    let params = SampleParams { top_p: 0.9, ..random() };
    let tokens = |seed| -> Vec<u32> {
        let params = SampleParams { seed: Some(seed), ..params.clone() };
        (0..50).map(|draw| sample(&logits, &SampleRow { draw, ..row(&params, &[0], 1) }).token).collect()
    };
    assert_eq!(tokens(1), tokens(1));
    let differing = tokens(1).iter().zip(&tokens(2)).filter(|(x, y)| x != y).count();
    assert!(differing > 45, "only {differing} of 50 draws differ between two seeds");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn kept_tokens_and_log_probabilities_match_the_definition(
        logits in any_logits(),
        params in any_params(),
        history in prop::collection::vec(0u32..2050, 1..60),
        cut in 0.0f64..=1.0,
        draw in any::<u64>(),
        surprise in 0.1f32..14.0,
        words in prop::option::of(prop::collection::vec(prop_oneof![Just(0), Just(u32::MAX), any::<u32>()], 0..64)),
    ) {
        let prompt_len = (history.len() as f64 * cut) as usize;
        // Something possible is left, or there would be no distribution to compare.
        let possible = logits.iter().position(|x| x.is_finite()).unwrap();
        let words = words.map(|mut words| {
            words.resize(words.len().max(possible / 32 + 1), 0);
            words[possible / 32] |= 1 << (possible % 32);
            words
        });
        let row = SampleRow { draw, surprise, mask: words.as_deref(), ..row(&params, &history, prompt_len) };
        let want = oracle::logprobs(&logits, &row);
        let got = sample(&logits, &row);

        let mut reported = got.top.clone();
        reported.sort_by_key(|&(id, _)| id);
        let ids: Vec<u32> = reported.iter().map(|&(id, _)| id).collect();
        let possible: Vec<u32> = (0..logits.len() as u32).filter(|&id| want[id as usize].is_finite()).collect();
        prop_assert_eq!(ids, possible);
        for &(id, logprob) in &got.top {
            let want = want[id as usize];
            prop_assert!((f64::from(logprob) - want).abs() < 1e-5, "token {}: {} against {}", id, logprob, want);
        }
        prop_assert!(got.top.is_sorted_by(|x, y| x.1 >= y.1));
        prop_assert!(got.top.contains(&(got.token, got.logprob)));
        match params.seed {
            None => prop_assert_eq!(got.token, got.top[0].0),
            Some(seed) => prop_assert_eq!(got.token, oracle::pick(&want, seed, draw)),
        }

        let short = SampleParams { top_n: 7, ..params.clone() };
        let first = sample(&logits, &SampleRow { params: &short, ..row });
        prop_assert_eq!(&first.top[..], &got.top[..got.top.len().min(7)]);
    }
}

#[test]
fn a_large_vocabulary_is_filtered_like_a_small_one() {
    for (seed, spread) in [(11, 0.05), (12, 1.0), (13, 3.0)] {
        let mut logits = Noise(seed).logits(50_000, spread);
        logits[31_000] = 12.0;
        for (name, params) in distribution_cases() {
            let params = SampleParams { top_n: 50_000, watermark: None, ..params };
            let row = SampleRow { surprise: 6.5, ..row(&params, &[7, 31_000, 12], 1) };
            let want = oracle::logprobs(&logits, &row);
            let got = sample(&logits, &row);
            let possible = want.iter().filter(|l| l.is_finite()).count();
            assert_eq!(got.top.len(), possible, "{name} at spread {spread}");
            for &(id, logprob) in &got.top {
                let want = want[id as usize];
                assert!((f64::from(logprob) - want).abs() < 1e-5, "{name}, token {id}: {logprob}, {want}");
            }
        }
    }
}

#[test]
fn equal_logits_go_to_the_lowest_id_or_stay_together() {
    let greedy = SampleParams { top_n: 3, ..SampleParams::default() };
    let tied = sample(&[1.0, 3.0, 2.0, 3.0, 3.0, -0.0], &row(&greedy, &[0], 1));
    assert_eq!(tied.token, 1);
    assert_eq!(tied.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 4]);
    let zeros = sample(&[-1.0, -0.0, 0.0, -0.0, 0.0], &row(&greedy, &[0], 1));
    assert_eq!(zeros.token, 1);
    assert_eq!(zeros.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2, 3]);

    // Top-k and typical-p keep what equals the last token kept; top-p keeps no more than it needs, by id.
    let logits = [2.0, 1.0, 1.0, 1.0, 0.0, NEG];
    assert_eq!(kept_ids(&logits, &SampleParams { top_k: 2, ..random() }), [0, 1, 2, 3]);
    assert_eq!(kept_ids(&[0.0; 8], &SampleParams { top_p: 0.5, ..random() }), [0, 1, 2, 3]);
    assert_eq!(kept_ids(&[0.0; 8], &SampleParams { top_p: 0.51, ..random() }), [0, 1, 2, 3, 4]);
    assert_eq!(kept_ids(&[0.0; 8], &SampleParams { typical_p: 0.1, ..random() }), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(kept_ids(&logits, &SampleParams { min_p: 1.0, ..random() }), [0]);
    assert_eq!(kept_ids(&[0.0; 3], &SampleParams { min_p: 1.0, ..random() }), [0, 1, 2]);
}

#[test]
fn filters_by_hand() {
    // Probabilities 0.5, 0.25, 0.125, 0.125.
    let logits = [0.5f32.ln(), 0.25f32.ln(), 0.125f32.ln(), 0.125f32.ln()];
    assert_eq!(kept_ids(&logits, &SampleParams { top_p: 0.4, ..random() }), [0]);
    assert_eq!(kept_ids(&logits, &SampleParams { top_p: 0.6, ..random() }), [0, 1]);
    assert_eq!(kept_ids(&logits, &SampleParams { top_p: 0.8, ..random() }), [0, 1, 2]);
    assert_eq!(kept_ids(&logits, &SampleParams { top_p: 0.0, ..random() }), [0]);
    assert_eq!(kept_ids(&logits, &SampleParams { min_p: 0.3, ..random() }), [0, 1]);
    // The entropy is 1.75 bits, the tokens carry 1, 2, 3 and 3 bits: token 1 is the most typical, then token 0.
    assert_eq!(kept_ids(&logits, &SampleParams { typical_p: 0.2, ..random() }), [1]);
    assert_eq!(kept_ids(&logits, &SampleParams { typical_p: 0.7, ..random() }), [0, 1]);
    // Filters see what the ones before them left: two thirds and one third.
    assert_eq!(kept_ids(&logits, &SampleParams { top_k: 2, top_p: 0.66, ..random() }), [0]);
    for (_, logprob) in kept(&logits, &SampleParams { typical_p: 0.2, ..random() }) {
        assert_eq!(logprob, 0.0);
    }
}

#[test]
fn penalties_by_hand() {
    let logits = [2.0, -2.0, 1.0, 0.0];
    let top_n = 4;
    let check = |params: SampleParams, history: &[u32], prompt_len: usize, want: [f32; 4]| {
        let got = sample(&logits, &row(&params, history, prompt_len)).top;
        for (id, logprob) in got {
            let want = oracle::log_softmax(&want)[id as usize];
            assert!((f64::from(logprob) - want).abs() < 1e-6, "{params:?}: token {id} has {logprob}, {want}");
        }
    };
    let base = SampleParams { top_n, ..SampleParams::default() };
    let history = [0, 1, 1, 0, 2, 2, 2, 2];
    check(SampleParams { repetition_penalty: 2.0, ..base.clone() }, &history[..4], 4, [1.0, -4.0, 1.0, 0.0]);
    let frequency_penalty = FrequencyPenalty::Count(0.5);
    check(SampleParams { frequency_penalty, ..base.clone() }, &history, 2, [1.5, -2.5, -1.0, 0.0]);
    let frequency_penalty = FrequencyPenalty::Relative(4.0);
    check(SampleParams { frequency_penalty, ..base.clone() }, &history, 2, [1.0, -3.0, -1.0, 0.0]);
    check(SampleParams { presence_penalty: 0.25, ..base.clone() }, &history, 3, [1.75, -2.0, 0.75, 0.0]);
    // The watermark comes before the repetition penalty, the bias after it.
    let all = SampleParams { watermark: Some((1.0, 1.0)), repetition_penalty: 3.0, ..base.clone() };
    check(SampleParams { logit_bias: vec![(1, 5.0)], ..all }, &[0, 1], 2, [1.0, 2.0, 2.0, 1.0]);
}

#[test]
fn greedy_ignores_temperature_and_filters() {
    let logits = Noise(5).logits(300, 2.0);
    let plain = SampleParams { top_n: 300, ..SampleParams::default() };
    let filtered =
        SampleParams { temperature: 3.0, top_k: 1, top_p: 0.1, typical_p: 0.1, min_p: 0.9, ..plain.clone() };
    assert_eq!(sample(&logits, &row(&plain, &[0], 1)), sample(&logits, &row(&filtered, &[0], 1)));
    assert_eq!(sample(&logits, &row(&filtered, &[0], 1)).top.len(), 300);
}

#[test]
fn rows_without_a_distribution_still_answer() {
    let nan = f32::NAN;
    for params in
        [SampleParams::default(), random(), SampleParams { top_k: 2, top_p: 0.5, top_n: 3, ..random() }]
    {
        let masked = |logits: &[f32], banned: &[u32], mask: Option<&[u32]>| {
            let got = sample(logits, &SampleRow { banned, mask, ..row(&params, &[0], 1) });
            (got.token, got.logprob, got.top.len())
        };
        let answer = |logits: &[f32], banned: &[u32]| masked(logits, banned, None);
        // The mask holds where nothing has a probability, and against an infinite logit.
        assert_eq!(masked(&[nan; 70], &[], Some(&[0, 0b110, 0])), (33, NEG, 0));
        assert_eq!(masked(&[NEG; 70], &[33], Some(&[0, 0b110, 0])), (34, NEG, 0));
        assert_eq!(masked(&[f32::INFINITY, 1.0, 2.0], &[], Some(&[0b010])).0, 1);
        assert_eq!(masked(&[1.0; 70], &[], Some(&[])), (0, NEG, 0));
        assert_eq!(answer(&[nan; 70], &[]), (0, NEG, 0));
        assert_eq!(answer(&[NEG; 70], &[1, 0, 3]), (2, NEG, 0));
        assert_eq!(answer(&[1.0, 2.0, 3.0], &[0, 1, 2, 900]), (0, NEG, 0));
        assert_eq!(answer(&[1.0, nan, f32::INFINITY, f32::INFINITY], &[]), (2, NEG, 0));
        assert_eq!(answer(&[], &[]), (0, NEG, 0));
        assert_eq!(answer(&[-3.0], &[]).0, 0);
        assert_eq!(answer(&[-3.0], &[]).1, 0.0);
        // A NaN among numbers is as good as absent.
        assert_eq!(answer(&[nan, 0.0, nan, NEG], &[]).0, 1);
        assert_eq!(answer(&[nan, 0.0, nan, NEG], &[]).1, 0.0);
    }
}

#[test]
fn extreme_settings_stay_finite() {
    let logits = [-3.0, 9.0, 8.0, 9.0, -200.0];
    for temperature in [f32::MIN_POSITIVE, 1e-42, 1e-30] {
        let coldest = kept(&logits, &SampleParams { temperature, ..random() });
        let likely: Vec<(u32, f32)> = coldest.into_iter().filter(|t| t.1 > -1.0).collect();
        assert_eq!(likely, [(1, 0.5f32.ln()), (3, 0.5f32.ln())]);
    }
    for (_, logprob) in kept(&logits, &SampleParams { temperature: 1e30, ..random() }) {
        assert!((logprob - 0.2f32.ln()).abs() < 1e-6);
    }
    let params =
        SampleParams { logit_bias: vec![(2, 1.0), (5, 1e9), (u32::MAX, 1e9)], ..SampleParams::default() };
    let outside = SampleRow { banned: &[1, 5, u32::MAX], ..row(&params, &[5, u32::MAX], 9) };
    assert_eq!(sample(&logits, &outside).token, 2);
}

fn green_list(vocab: usize, previous: u32, gamma: f32) -> Vec<u32> {
    let params =
        SampleParams { watermark: Some((gamma, 1.0)), top_n: vocab as u32, ..SampleParams::default() };
    let top = sample(&vec![0.0; vocab], &row(&params, &[previous], 1)).top;
    let best = top[0].1;
    let green: Vec<u32> = top.iter().filter(|t| t.1 == best).map(|t| t.0).collect();
    if green.len() == vocab && (f64::from(gamma) * vocab as f64) < vocab as f64 { Vec::new() } else { green }
}

#[test]
fn green_lists_are_as_documented() {
    for vocab in [1, 2, 3, 5, 50, 256, 257, 1999, 32_000] {
        for (gamma, previous) in [(0.5, 0), (0.25, 7), (0.7, 31_999), (0.01, u32::MAX)] {
            let is_green = |&id: &u32| oracle::is_green(u64::from(id), previous, vocab as u64, gamma);
            let want: Vec<u32> = (0..vocab as u32).filter(is_green).collect();
            assert_eq!(want.len(), (f64::from(gamma) * vocab as f64) as usize);
            assert_eq!(green_list(vocab, previous, gamma), want, "vocab {vocab}, gamma {gamma}");
        }
    }
}

#[test]
fn green_lists_of_different_tokens_look_independent() {
    const VOCAB: usize = 4000;
    let mut hits = vec![0u64; VOCAB];
    let mut last = Vec::new();
    for previous in 0..400 {
        let list = green_list(VOCAB, previous, 0.25);
        list.iter().for_each(|&id| hits[id as usize] += 1);
        // Of 1000 tokens 250 are shared with another list (hypergeometric, standard deviation 11.9).
        let shared = last.iter().filter(|id| list.binary_search(id).is_ok()).count();
        assert!(last.is_empty() || shared.abs_diff(250) < 60, "lists {previous} and before share {shared}");
        last = list;
    }
    // Each token is green 100 times of 400 (binomial, standard deviation 8.7).
    assert!(hits.iter().all(|&n| n.abs_diff(100) < 48), "{:?} of 400", hits.iter().max());
    let variance = hits.iter().map(|&n| (n as f64 - 100.0).powi(2)).sum::<f64>() / VOCAB as f64;
    assert!((variance / 75.0 - 1.0).abs() < 0.12, "variance {variance}, expected 75");
}

/// The detector: how far the count of green tokens is above `gamma` of them, in standard deviations.
fn z_score(tokens: &[u32], vocab: usize, gamma: f32) -> f64 {
    let green = |pair: &&[u32]| oracle::is_green(u64::from(pair[1]), pair[0], vocab as u64, gamma);
    let (hits, n) = (tokens.windows(2).filter(green).count() as f64, (tokens.len() - 1) as f64);
    let gamma = f64::from(gamma);
    (hits - gamma * n) / (n * gamma * (1.0 - gamma)).sqrt()
}

#[test]
fn the_watermark_is_detectable_and_nothing_else_is_taken_for_it() {
    const VOCAB: usize = 1000;
    const GAMMA: f32 = 0.25;
    let scores = |watermark, seed| {
        let params = SampleParams { seed: Some(seed), watermark, ..SampleParams::default() };
        let (mut noise, mut history) = (Noise(seed), vec![1]);
        for draw in 0..300 {
            let logits = noise.logits(VOCAB, 2.0);
            history.push(sample(&logits, &SampleRow { draw, ..row(&params, &history, 1) }).token);
        }
        z_score(&history, VOCAB, GAMMA)
    };
    for seed in 0..5 {
        let (with, without) = (scores(Some((GAMMA, 2.0)), seed), scores(None, seed));
        assert!(with > 4.0, "seed {seed}: z = {with} with a watermark");
        assert!(without < 3.0, "seed {seed}: z = {without} without");
    }
}

#[test]
fn top_tokens_are_at_most_those_that_are_possible() {
    let params = SampleParams { top_n: 5, top_k: 3, ..random() };
    let logits = [0.0, 5.0, NEG, 4.0, 1.0, 3.0];
    let got = sample(&logits, &row(&params, &[0], 1));
    let by_id: BTreeMap<u32, f32> = got.top.iter().copied().collect();
    assert_eq!(by_id.into_keys().collect::<Vec<_>>(), [1, 3, 5]);
    assert_eq!(got.top[0].0, 1);
    let total: f64 = got.top.iter().map(|t| f64::from(t.1).exp()).sum();
    assert!((total - 1.0).abs() < 1e-6);
}
