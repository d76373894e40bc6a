//! The draws of the CUDA device are those of the CPU device, token, log-probability and likely tokens.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use weirgate_kernels::cpu::sample_logits;
use weirgate_kernels::cuda::CudaBackend;
use weirgate_kernels::{Backend, SampleParams, SampleRow, Sampled};

use crate::common::{buffer, seed};
use crate::device;
use crate::generators::{Noise, any_logits, any_params};

#[track_caller]
fn assert_same(got: &Sampled, want: &Sampled, what: &str) {
    // The logarithm of the sum is the one operation that devices may round differently.
    let close = |a: f32, b: f32| a == b || (a - b).abs() <= 1e-5;
    assert_eq!(got.token, want.token, "{what}");
    assert!(close(got.logprob, want.logprob), "{what}: {} against {}", got.logprob, want.logprob);
    assert_eq!(got.top.len(), want.top.len(), "{what}");
    for (got, want) in got.top.iter().zip(&want.top) {
        assert!(got.0 == want.0 && close(got.1, want.1), "{what}: {got:?} against {want:?}");
    }
}

fn draw(device: &mut CudaBackend<crate::TestGpu>, logits: &[f32], row: &SampleRow<'_>) -> Sampled {
    let mut buf = buffer(device, logits);
    let mut out = Vec::new();
    device.sample(&mut buf, logits.len(), std::slice::from_ref(row), &mut out).unwrap();
    out.remove(0)
}

/// How many random draws to compare; `WEIRGATE_SAMPLER_CASES` sets another number.
fn cases() -> u32 {
    std::env::var("WEIRGATE_SAMPLER_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

/// On one device, which a real GPU is slow to open.
#[test]
fn any_settings_any_logits() {
    let rng_seed = if seed() == 0 { RngSeed::Random } else { RngSeed::Fixed(seed()) };
    let config =
        ProptestConfig { cases: cases(), failure_persistence: None, rng_seed, ..ProptestConfig::default() };
    let device = RefCell::new(device());
    proptest!(config, |(
        logits in any_logits(),
        params in any_params(),
        top_n in prop_oneof![Just(0u32), 1u32..8, Just(2000)],
        history in prop::collection::vec(0u32..2050, 1..60),
        cut in 0.0f64..=1.0,
        draws in any::<u64>(),
        surprise in 0.1f32..14.0,
        banned in prop::collection::vec(0u32..2100, 0..5),
        words in prop::option::of(prop::collection::vec(
            prop_oneof![Just(0), Just(u32::MAX), any::<u32>()], 0..64
        )),
    )| {
        let params = SampleParams { top_n, ..params };
        let row = SampleRow {
            params: &params,
            history: &history,
            prompt_len: (history.len() as f64 * cut) as usize,
            draw: draws,
            surprise,
            banned: &banned,
            mask: words.as_deref(),
        };
        let want = sample_logits(&mut logits.clone(), &row);
        assert_same(&draw(&mut device.borrow_mut(), &logits, &row), &want, &format!("{row:?}"));
    });
}

/// Rows of one call do not see each other, and what one call leaves changes nothing in the next.
#[test]
fn rows_are_drawn_one_by_one() {
    let (vocab, rows) = (777, 9);
    let mut noise = Noise(5 ^ seed());
    let logits = noise.logits(rows * vocab, 3.0);
    let base = SampleParams { seed: Some(4), top_n: 3, ..SampleParams::default() };
    let settings = [
        SampleParams { top_k: 40, top_p: 0.9, ..base.clone() },
        SampleParams { seed: None, ..base.clone() },
        SampleParams { repetition_penalty: 1.3, penalty_window: Some(3), ..base.clone() },
        SampleParams { watermark: Some((0.5, 2.0)), ..base.clone() },
        SampleParams { typical_p: 0.5, min_p: 0.01, ..base.clone() },
        SampleParams { tfs_z: 0.9, ..base.clone() },
        SampleParams { logit_bias: vec![(3, 9.0), (700, -1.0), (3, 0.125)], ..base.clone() },
        SampleParams { top_n: 0, ..base.clone() },
        SampleParams { top_k: 5, tfs_z: 0.8, typical_p: 0.9, top_p: 0.8, ..base },
    ];
    let histories: Vec<Vec<u32>> = (0..rows as u32).map(|row| vec![row, 7, 7, 300 + row]).collect();
    let samples: Vec<SampleRow<'_>> = settings
        .iter()
        .zip(&histories)
        .zip(0..)
        .map(|((params, history), draw)| SampleRow {
            params,
            history,
            prompt_len: 2,
            draw,
            surprise: 0.0,
            banned: if draw == 4 { &[5, 6] } else { &[] },
            mask: None,
        })
        .collect();
    let mut device = device();
    for _ in 0..2 {
        let mut buf = buffer(&device, &logits);
        let mut out = vec![Sampled::default()];
        device.sample(&mut buf, vocab, &samples, &mut out).unwrap();
        assert_eq!(out.len(), rows + 1);
        for (row, got) in out[1..].iter().enumerate() {
            let want = sample_logits(&mut logits[row * vocab..][..vocab].to_vec(), &samples[row]);
            assert_same(got, &want, &format!("row {row}"));
        }
    }
}

/// NaN, infinities, ties, and rows where nothing is possible.
#[test]
fn rows_without_a_distribution() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let params =
        [SampleParams::default(), SampleParams { seed: Some(1), top_n: 2, ..SampleParams::default() }];
    let mask = [0b1100_u32];
    for logits in [
        vec![nan; 5],
        vec![-inf; 70],
        vec![0.0, inf, 1.0, inf],
        vec![nan, 1.0, 1.0, -inf, 0.5],
        vec![2.0],
        vec![0.0, 0.0, -0.0],
    ] {
        for params in &params {
            for mask in [None, Some(mask.as_slice()), Some(&[])] {
                for banned in [[].as_slice(), &[2], &[0, 1, 2, 3]] {
                    let row = SampleRow {
                        params,
                        history: &[1],
                        prompt_len: 1,
                        draw: 3,
                        surprise: 0.0,
                        banned,
                        mask,
                    };
                    let want = sample_logits(&mut logits.clone(), &row);
                    let got = draw(&mut device(), &logits, &row);
                    assert_same(&got, &want, &format!("{logits:?} {row:?}"));
                }
            }
        }
    }
}

/// A vocabulary of a real model, whole weights of which no 32 bits hold the sum.
#[test]
fn a_large_vocabulary() {
    let logits = Noise(11 ^ seed()).logits(50_000, 2.5);
    let base = SampleParams { seed: Some(77), top_n: 5, ..SampleParams::default() };
    for params in [
        base.clone(),
        SampleParams { top_p: 0.95, temperature: 0.7, ..base.clone() },
        SampleParams { top_k: 50, ..base.clone() },
        SampleParams { typical_p: 0.9, ..base.clone() },
        SampleParams { watermark: Some((0.3, 1.5)), ..base },
    ] {
        for draws in 0..3 {
            let row = SampleRow {
                params: &params,
                history: &[9],
                prompt_len: 1,
                draw: draws,
                surprise: 0.0,
                banned: &[],
                mask: None,
            };
            let want = sample_logits(&mut logits.clone(), &row);
            assert_same(&draw(&mut device(), &logits, &row), &want, &format!("{params:?}"));
        }
    }
}
