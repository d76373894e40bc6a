use weirgate_kernels::{Activation, Backend, DType, HeadCounts, NO_ADAPTER, StepInputs, WeightView};

use crate::common::{DTYPES, Rng, assert_close, bits, buffer, encode, matrix, rounded, values};
use crate::device;
use crate::references::{act, normed};

/// NaN everywhere: what an op must write.
fn poisoned(device: &impl Fn(&[f32]) -> Buf, len: usize) -> Buf {
    device(&vec![f32::NAN; len])
}

type Buf = weirgate_kernels::cuda::CudaBuf<crate::TestGpu>;

#[test]
fn rms_norm() {
    for (rows, cols) in [(1, 1), (3, 17), (1, 896), (7, 333), (2, 1024)] {
        let mut rng = Rng::new(cols as u64);
        let (x, weight) = (rng.values(rows * cols), rng.values(cols));
        let want: Vec<f64> = x.chunks(cols).flat_map(|row| normed(row, &weight, 1e-6)).collect();
        let mut device = device();
        let mut out = poisoned(&|v| buffer(&device, v), rows * cols);
        let (x, weight) = (buffer(&device, &x), buffer(&device, &weight));
        device.rms_norm(&mut out, &x, &weight, 1e-6, rows).unwrap();
        assert_close(&values(&device, &out, rows * cols), &want, 2e-6, "rms_norm");
    }
}

#[test]
fn norm_heads_leaves_values_alone() {
    for (q, kv, d, rows) in [(6, 2, 40, 5), (1, 1, 8, 1), (3, 3, 256, 2)] {
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
        let mut device = device();
        let (qw, kw) = (buffer(&device, &qw), buffer(&device, &kw));
        let mut qkv = buffer(&device, &x);
        device.norm_heads(&mut qkv, &qw, &kw, HeadCounts { q, kv }, 1e-5, rows).unwrap();
        assert_close(&values(&device, &qkv, rows * width), &want, 2e-6, "norm_heads");
    }
}

#[test]
fn gated() {
    let mut gates: Vec<f32> = (0..400).map(|i| (i as f32 - 200.0) * 0.05).collect();
    gates.extend([0.0, -0.0, 1e-30, -1e-20, 88.0, -88.0, 120.0, -120.0, 1e30, -1e30, 1e-3]);
    let (rows, width) = (3, gates.len());
    let up = Rng::new(2).values(width);
    let gate_up = [gates.clone(), up.clone()].concat().repeat(rows);
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        let mut device = device();
        let mut out = poisoned(&|v| buffer(&device, v), rows * width);
        let gate_up = buffer(&device, &gate_up);
        device.gated(&mut out, &gate_up, activation, rows, width).unwrap();
        for (i, got) in values(&device, &out, rows * width).into_iter().enumerate() {
            let (gate, up) = (f64::from(gates[i % width]), f64::from(up[i % width]));
            let want = act(activation, gate) * up;
            let error = (f64::from(got) - want).abs();
            assert!(
                error <= 1e-6 * gate.abs().max(1e-3),
                "{activation:?}({gate}) * {up} is {got}, expected {want}"
            );
        }
    }
}

#[test]
fn add_and_softcap() {
    for len in [1, 15, 1000, 20_003] {
        let mut rng = Rng::new(len as u64);
        let (a, b) = (rng.values(len), rng.values(len));
        let mut device = device();
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
            assert!((f64::from(got) - want).abs() <= 1e-6 * want.abs(), "softcap({x}) is {got}, not {want}");
        }
    }
}

fn inputs(ids: &[u32]) -> StepInputs<'_> {
    StepInputs {
        ids,
        positions: &[0, 1, 2, 3, 4],
        slots: &[0, 1, 2, 3, 4],
        cu_q: &[0, 5],
        kv_len: &[5],
        block_tables: &[0],
        block_offsets: &[0, 1],
        rope: &[],
        adapters: &[NO_ADAPTER],
    }
}

#[test]
fn embed_and_gather() {
    let (vocab, hidden, scale) = (53, 37, 1.5);
    let table = Rng::new(4).values(vocab * hidden);
    let ids = [52, 0, 17, 17, 31];
    for dtype in DTYPES {
        let mut device = device();
        let w = matrix(&device, dtype, vocab, hidden, &table);
        let mut step = device.step_buffers(8, 1, 1).unwrap();
        device.upload(&mut step, &inputs(&ids)).unwrap();
        let mut out = poisoned(&|v| buffer(&device, v), 5 * hidden);
        device.embed(&mut out, &w, &step, scale).unwrap();
        let row = |id: u32| &table[id as usize * hidden..][..hidden];
        let want: Vec<f32> =
            ids.iter().flat_map(|&id| row(id).iter().map(|&v| rounded(dtype, v) * scale)).collect();
        assert_eq!(values(&device, &out, 5 * hidden), want);
        let mut picked = poisoned(&|v| buffer(&device, v), 3 * hidden);
        device.gather_rows(&mut picked, &out, &[4, 0, 4], hidden).unwrap();
        let of = |t: usize| want[t * hidden..][..hidden].to_vec();
        assert_eq!(values(&device, &picked, 3 * hidden), [of(4), of(0), of(4)].concat());
    }
}

/// A table of parts of several types, as a checkpoint with mixed precision has it.
#[test]
fn embed_from_bands() {
    let (hidden, rows) = (24, [3, 4, 2]);
    let table = Rng::new(5).values(9 * hidden);
    let mut from = 0;
    let encoded: Vec<(DType, usize, Vec<u8>)> = DTYPES
        .into_iter()
        .zip(rows)
        .map(|(dtype, rows)| {
            let part = encode(dtype, &table[from * hidden..][..rows * hidden]);
            from += rows;
            (dtype, rows, part)
        })
        .collect();
    let views: Vec<WeightView<'_>> = encoded
        .iter()
        .map(|(dtype, rows, bytes)| WeightView { dtype: (*dtype).into(), rows: *rows, cols: hidden, bytes })
        .collect();
    let mut device = device();
    let w = device.matrix(&views).unwrap();
    let mut step = device.step_buffers(8, 1, 1).unwrap();
    let ids = [8, 0, 3, 6, 2];
    device.upload(&mut step, &inputs(&ids)).unwrap();
    let mut out = poisoned(&|v| buffer(&device, v), 5 * hidden);
    device.embed(&mut out, &w, &step, 1.0).unwrap();
    let dtype = |id: u32| DTYPES[usize::from(id >= 3) + usize::from(id >= 7)];
    let want: Vec<f32> = ids
        .iter()
        .flat_map(|&id| table[id as usize * hidden..][..hidden].iter().map(move |&v| rounded(dtype(id), v)))
        .collect();
    assert_eq!(values(&device, &out, 5 * hidden), want);
    assert!(device.upload(&mut step, &inputs(&[9, 0, 0, 0, 0])).is_ok());
    assert!(device.embed(&mut out, &w, &step, 1.0).is_err());
}

#[test]
fn score() {
    let (rows, vocab) = (5, 3001);
    let mut logits = Rng::new(6).values(rows * vocab);
    for value in &mut logits {
        *value *= 20.0;
    }
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
    let mut device = device();
    let logits = buffer(&device, &logits);
    let mut out = vec![9.0];
    device.score(&logits, vocab, &targets).unwrap();
    device.collect(&mut Vec::new(), &mut out).unwrap();
    assert_eq!(out.remove(0), 9.0);
    assert_close(&out, &want, 4e-6, "score");
    assert!(device.score(&logits, vocab, &[3001]).is_err());
}

/// Rows come out the same alone and among others.
#[test]
fn small_ops_do_not_depend_on_the_batch() {
    let (rows, cols) = (20, 130);
    let mut rng = Rng::new(8);
    let (x, weight) = (rng.values(rows * cols), rng.values(cols));
    let run = |x: &[f32]| {
        let mut device = device();
        let rows = x.len() / cols;
        let (weight, x) = (buffer(&device, &weight), buffer(&device, x));
        let mut normed = device.buffer(rows * cols).unwrap();
        device.rms_norm(&mut normed, &x, &weight, 1e-5, rows).unwrap();
        let mut gated = device.buffer(rows * cols / 2).unwrap();
        device.gated(&mut gated, &normed, Activation::Gelu, rows, cols / 2).unwrap();
        bits(&values(&device, &gated, rows * cols / 2))
    };
    let want = run(&x);
    for row in [0, 7, 19] {
        assert_eq!(run(&x[row * cols..][..cols]), want[row * cols / 2..][..cols / 2]);
    }
}
