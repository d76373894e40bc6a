use weirgate_kernels::cpu::{CpuBackend, Isa};
use weirgate_kernels::{Activation, Backend, HeadCounts, NO_ADAPTER, SampleParams, SampleRow, StepInputs};

use crate::common::{DTYPES, Rng, assert_close, bits, buffer, matrix, rounded, values};
use crate::devices::devices;
use crate::references::{act, normed};

#[test]
fn rms_norm() {
    for (rows, cols) in [(1, 1), (3, 17), (1, 896), (70, 333)] {
        let mut rng = Rng::new(cols as u64);
        let (x, weight) = (rng.values(rows * cols), rng.values(cols));
        let want: Vec<f64> = x.chunks(cols).flat_map(|row| normed(row, &weight, 1e-6)).collect();
        for mut device in devices(3) {
            let (x, weight) = (buffer(&device, &x), buffer(&device, &weight));
            let mut out = device.buffer(rows * cols).unwrap();
            device.rms_norm(&mut out, &x, &weight, 1e-6, rows).unwrap();
            assert_close(&values(&device, &out, rows * cols), &want, 2e-6, "rms_norm");
        }
    }
}

#[test]
fn norm_heads_leaves_values_alone() {
    let (q, kv, d, rows) = (6, 2, 40, 33);
    let width = (q + 2 * kv) * d;
    let mut rng = Rng::new(1);
    let (x, qw, kw) = (rng.values(rows * width), rng.values(d), rng.values(d));
    let mut want = Vec::new();
    for row in x.chunks(width) {
        for (h, head) in row.chunks(d).enumerate() {
            match h {
                h if h < q => want.extend(normed(head, &qw, 1e-5)),
                h if h < q + kv => want.extend(normed(head, &kw, 1e-5)),
                _ => want.extend(head.iter().map(|&v| f64::from(v))),
            }
        }
    }
    for mut device in devices(3) {
        let (qw, kw) = (buffer(&device, &qw), buffer(&device, &kw));
        let mut qkv = buffer(&device, &x);
        device.norm_heads(&mut qkv, &qw, &kw, HeadCounts { q, kv }, 1e-5, rows).unwrap();
        assert_close(&values(&device, &qkv, rows * width), &want, 2e-6, "norm_heads");
    }
}

#[test]
fn gated() {
    // Every magnitude, both signs, and the ends of the range.
    let mut gates: Vec<f32> = (0..4000).map(|i| (i as f32 - 2000.0) * 0.005).collect();
    gates.extend([0.0, -0.0, 1e-30, -1e-20, 88.0, -88.0, 120.0, -120.0, 1e30, -1e30, 1e-3]);
    let (rows, width) = (3, gates.len());
    let mut rng = Rng::new(2);
    let up = rng.values(width);
    let mut gate_up = Vec::new();
    for _ in 0..rows {
        gate_up.extend_from_slice(&gates);
        gate_up.extend_from_slice(&up);
    }
    for activation in
        [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Tanh]
    {
        for mut device in devices(2) {
            let gate_up = buffer(&device, &gate_up);
            let mut out = device.buffer(rows * width).unwrap();
            device.gated(&mut out, &gate_up, activation, rows, width).unwrap();
            let got = values(&device, &out, rows * width);
            for (i, &got) in got.iter().enumerate() {
                let (gate, up) = (f64::from(gates[i % width]), f64::from(up[i % width]));
                let want = act(activation, gate) * up;
                let error = (f64::from(got) - want).abs();
                assert!(
                    error <= 1e-6 * gate.abs().max(1e-3),
                    "{:?} {activation:?}({gate}) * {up} is {got}, expected {want}",
                    device.isa()
                );
            }
        }
    }
}

#[test]
fn add_and_softcap() {
    for len in [1, 15, 1000, 100_003] {
        let mut rng = Rng::new(len as u64);
        let (a, b) = (rng.values(len), rng.values(len));
        for mut device in devices(3) {
            let mut acc = buffer(&device, &a);
            let x = buffer(&device, &b);
            device.add(&mut acc, &x, len).unwrap();
            let sums: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            assert_eq!(values(&device, &acc, len), sums);
            let scaled: Vec<f32> = a.iter().map(|v| v * 200.0 * v * v).collect();
            let mut capped = buffer(&device, &scaled);
            device.softcap(&mut capped, 30.0, len).unwrap();
            for (&got, &x) in values(&device, &capped, len).iter().zip(&scaled) {
                let want = 30.0 * (f64::from(x) / 30.0).tanh();
                assert!(
                    (f64::from(got) - want).abs() <= 1e-6 * want.abs(),
                    "softcap({x}) is {got}, not {want}"
                );
            }
        }
    }
}

#[test]
fn embed_and_gather() {
    let (vocab, hidden, scale) = (53, 37, 1.5);
    let mut rng = Rng::new(4);
    let table = rng.values(vocab * hidden);
    let ids = [52, 0, 17, 17, 31];
    for dtype in DTYPES {
        for mut device in devices(2) {
            let w = matrix(&device, dtype, vocab, hidden, &table);
            let mut step = device.step_buffers(8, 1, 1).unwrap();
            let inputs = StepInputs {
                ids: &ids,
                positions: &[0, 1, 2, 3, 4],
                slots: &[0, 1, 2, 3, 4],
                cu_q: &[0, 5],
                kv_len: &[5],
                block_tables: &[0],
                block_offsets: &[0, 1],
                rope: &[],
                adapters: &[NO_ADAPTER],
            };
            device.upload(&mut step, &inputs).unwrap();
            let mut out = device.buffer(5 * hidden).unwrap();
            device.embed(&mut out, &w, &step, scale).unwrap();
            let row = |id: u32| &table[id as usize * hidden..][..hidden];
            let want: Vec<f32> =
                ids.iter().flat_map(|&id| row(id).iter().map(|&v| rounded(dtype, v) * scale)).collect();
            assert_eq!(values(&device, &out, 5 * hidden), want);
            let mut picked = device.buffer(3 * hidden).unwrap();
            device.gather_rows(&mut picked, &out, &[4, 0, 4], hidden).unwrap();
            let of = |t: usize| want[t * hidden..][..hidden].to_vec();
            assert_eq!(values(&device, &picked, 3 * hidden), [of(4), of(0), of(4)].concat());
        }
    }
}

#[test]
fn score() {
    let (rows, vocab) = (5, 3001);
    let mut rng = Rng::new(6);
    let mut logits = rng.values(rows * vocab);
    for value in &mut logits {
        *value *= 20.0;
    }
    // Banned tokens, and an offset that a careless exponential would overflow on.
    logits[7] = f32::NEG_INFINITY;
    logits[vocab..2 * vocab].iter_mut().for_each(|v| *v += 5000.0);
    let targets = [0, 3000, 1500, 16, 2999];
    let want: Vec<f64> = logits
        .chunks(vocab)
        .zip(targets)
        .map(|(row, target)| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|&v| f64::from(v - max).exp()).sum();
            f64::from(row[target as usize] - max) - sum.ln()
        })
        .collect();
    for mut device in devices(3) {
        let logits = buffer(&device, &logits);
        let mut out = vec![9.0];
        device.score(&logits, vocab, &targets).unwrap();
        device.collect(&mut Vec::new(), &mut out).unwrap();
        assert_eq!(out.remove(0), 9.0);
        assert_close(&out, &want, 4e-6, "score");
    }
}

/// Each row is drawn with its own settings, in order, after what was there.
#[test]
fn sample_takes_rows_in_order() {
    let (vocab, rows) = (100, 9);
    let mut logits = vec![0.0; rows * vocab];
    for row in 0..rows {
        logits[row * vocab + 10 * row] = 3.0;
        logits[row * vocab + 99] = 2.0;
    }
    let params = SampleParams { top_n: 2, ..SampleParams::default() };
    for mut device in devices(3) {
        let mut buf = buffer(&device, &logits);
        let peak = [50];
        let samples: Vec<_> = (0..rows)
            .map(|row| SampleRow {
                params: &params,
                history: &[1, 2],
                prompt_len: 1,
                draw: 0,
                surprise: 0.0,
                banned: if row == 5 { &peak } else { &[] },
                mask: None,
            })
            .collect();
        let mut out = vec![Default::default()];
        device.sample(&mut buf, vocab, &samples, &mut out).unwrap();
        let tokens: Vec<u32> = out[1..].iter().map(|sampled| sampled.token).collect();
        assert_eq!(tokens, [0, 10, 20, 30, 40, 99, 60, 70, 80]);
        assert!(out[1..].iter().all(|sampled| sampled.top.len() == 2));
    }
}

/// Rows of the small ops, too, come out the same alone and among others, whatever the threads.
#[test]
fn small_ops_do_not_depend_on_the_batch() {
    let (rows, cols) = (300, 130);
    let mut rng = Rng::new(8);
    let (x, weight) = (rng.values(rows * cols), rng.values(cols));
    for isa in Isa::available() {
        let run = |threads: usize, x: &[f32]| {
            let mut device = CpuBackend::with_isa(threads, isa);
            let rows = x.len() / cols;
            let weight = buffer(&device, &weight);
            let x = buffer(&device, x);
            let mut normed = device.buffer(rows * cols).unwrap();
            device.rms_norm(&mut normed, &x, &weight, 1e-5, rows).unwrap();
            let mut gated = device.buffer(rows * cols / 2).unwrap();
            device.gated(&mut gated, &normed, Activation::Gelu, rows, cols / 2).unwrap();
            bits(&values(&device, &gated, rows * cols / 2))
        };
        let want = run(1, &x);
        assert_eq!(run(2, &x), want);
        assert_eq!(run(3, &x), want);
        for row in [0, 1, 150, 299] {
            let alone = run(2, &x[row * cols..][..cols]);
            assert_eq!(alone, want[row * cols / 2..][..cols / 2]);
        }
    }
}
