//! Block-quantized weights against f64 loops over what they stand for; and where activations are quantized, against the CPU
//! device, which does it alike.

use half::f16;
use weirgate_kernels::cpu::CpuBackend;
use weirgate_kernels::{Backend, BlockType, NO_ADAPTER, StepInputs, WeightView};

use crate::common::{Rng, bits, buffer, seed, values};
use crate::dequantized::dequantized;
use crate::device;

/// Columns under one scale of the activations.
const UNIT: usize = 32;

/// Blocks whose every bit is random, but for scales up to 0.1.
fn random_blocks(blocks: BlockType, elements: usize, rng: &mut Rng) -> Vec<u8> {
    let halves: &[usize] = match blocks {
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => &[0, 2],
        BlockType::Q2K => &[80, 82],
        BlockType::Q3K => &[108],
        BlockType::Q6K => &[208],
        BlockType::Mxfp4 => &[],
        _ => &[0],
    };
    let len = elements / blocks.elements() * blocks.bytes();
    let mut bytes: Vec<u8> = (0..len).map(|_| rng.bits() as u8).collect();
    for block in bytes.chunks_exact_mut(blocks.bytes()) {
        for &at in halves {
            block[at..at + 2].copy_from_slice(&f16::from_f32(rng.value() * 0.1).to_le_bytes());
        }
        if blocks == BlockType::Mxfp4 {
            block[0] = 122 + block[0] % 4;
        }
    }
    bytes
}

fn view(blocks: BlockType, rows: usize, cols: usize, bytes: &[u8]) -> WeightView<'_> {
    WeightView { dtype: blocks.into(), rows, cols, bytes }
}

fn embedded<B: Backend>(device: &mut B, views: &[WeightView<'_>], ids: &[u32]) -> Vec<f32> {
    let table = device.matrix(views).unwrap();
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let inputs = StepInputs {
        ids,
        positions: &positions,
        slots: &positions,
        cu_q: &[0, ids.len() as u32],
        kv_len: &[ids.len() as u32],
        block_tables: &[0],
        block_offsets: &[0, 1],
        rope: &[],
        adapters: &[NO_ADAPTER],
    };
    let mut step = device.step_buffers(ids.len(), 1, 1).unwrap();
    device.upload(&mut step, &inputs).unwrap();
    let len = ids.len() * views[0].cols;
    let mut out = buffer(device, &vec![f32::NAN; len]);
    device.embed(&mut out, &table, &step, 1.5).unwrap();
    values(device, &out, len)
}

fn product<B: Backend>(device: &mut B, views: &[WeightView<'_>], x: &[f32], bias: &[f32]) -> Vec<f32> {
    let (w, rows) = (device.matrix(views).unwrap(), x.len() / views[0].cols);
    let (x, bias) = (buffer(device, x), buffer(device, bias));
    let mut out = buffer(device, &vec![f32::NAN; rows * 21]);
    device.linear(&mut out, &x, &w, Some(&bias), rows).unwrap();
    values(device, &out, rows * 21)
}

/// As many roundings per element as its type has steps.
fn check_embedded(got: &[f32], want: impl Iterator<Item = f64>, what: &str) {
    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - 1.5 * want).abs();
        assert!(error <= 3e-7 * want.abs(), "{what} {i}: {got}, expected {}", 1.5 * want);
    }
}

#[test]
fn embeddings_match_the_reference() {
    for blocks in BlockType::ALL {
        let (rows, cols) = (7, 3 * 256);
        let bytes = random_blocks(blocks, rows * cols, &mut Rng::new(blocks as u64));
        let weights = dequantized(blocks, &bytes);
        let ids = [6, 0, 3, 3];
        let got = embedded(&mut device(), &[view(blocks, rows, cols, &bytes)], &ids);
        assert_eq!(got.len(), ids.len() * cols);
        let want = ids.iter().flat_map(|&id| &weights[id as usize * cols..][..cols]);
        check_embedded(&got, want.copied(), &format!("{blocks:?}"));
    }
}

/// Activations that eight bits hold as they are: integers, 127 among each [`UNIT`].
fn exact(rng: &mut Rng, len: usize) -> Vec<f32> {
    let mut x: Vec<f32> = (0..len).map(|_| (rng.value() * 127.0).round()).collect();
    x.chunks_mut(UNIT).for_each(|unit| unit[0] = 127.0);
    x
}

/// The product of a row with the weights of an output, and how far off it may be: roundings of f32 sums, and of `rounded`
/// activations to the nearest of 255 numbers up to the largest of their unit.
fn reference(x: &[f32], w: &[f64], bias: f32, rounded: bool) -> (f64, f64) {
    let (mut sum, mut magnitude, mut rounding) = (f64::from(bias), f64::from(bias.abs()), 0.0);
    for (x, w) in x.chunks(UNIT).zip(w.chunks(UNIT)) {
        let largest = x.iter().fold(0.0, |largest: f64, &x| largest.max(f64::from(x).abs()));
        for (&x, w) in x.iter().zip(w) {
            sum += f64::from(x) * w;
            magnitude += (f64::from(x) * w).abs();
            rounding += largest / 254.0 * w.abs();
        }
    }
    (sum, 2e-6 * magnitude + if rounded { rounding } else { 0.0 })
}

fn check_products(got: &[f32], x: &[f32], w: &[f64], bias: &[f32], rounded: bool, what: &str) {
    let cols = w.len() / bias.len();
    assert_eq!(got.len(), x.len() / cols * bias.len());
    for (i, &got) in got.iter().enumerate() {
        let (row, output) = (i / bias.len(), i % bias.len());
        let (x, w) = (&x[row * cols..][..cols], &w[output * cols..][..cols]);
        let (want, tolerance) = reference(x, w, bias[output], rounded);
        let error = (f64::from(got) - want).abs();
        assert!(
            error <= tolerance,
            "{what}: row {row} output {output} is {got}, expected {want}, error {error:e}"
        );
    }
}

/// Few rows. Of the CPU device's products only the order of the additions differs.
#[test]
fn products_match_the_reference() {
    for blocks in BlockType::ALL {
        for (rows, least_cols) in [(1, 32), (3, 96), (11, 1200)] {
            let cols = usize::next_multiple_of(least_cols, blocks.elements());
            let mut rng = Rng::new(blocks as u64 + cols as u64);
            let bytes = random_blocks(blocks, 21 * cols, &mut rng);
            let (x, bias) = (rng.values(rows * cols), rng.values(21));
            let (views, weights) = ([view(blocks, 21, cols, &bytes)], dequantized(blocks, &bytes));
            let what = format!("{blocks:?} {rows} x {cols}");
            let got = product(&mut device(), &views, &x, &bias);
            check_products(&got, &x, &weights, &bias, true, &what);
            let integers = exact(&mut rng, rows * cols);
            let of_integers = product(&mut device(), &views, &integers, &bias);
            check_products(&of_integers, &integers, &weights, &bias, false, &format!("{what}, integers"));
            let want = product(&mut CpuBackend::new(1), &views, &x, &bias);
            let size = want.iter().fold(1.0_f32, |size, want| size.max(want.abs()));
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!((got - want).abs() <= 3e-6 * size, "{what}, {i}: {got}, on the CPU {want}");
            }
            for row in 0..rows {
                let alone = product(&mut device(), &views, &x[row * cols..][..cols], &bias);
                assert_eq!(bits(&alone), bits(&got[row * 21..][..21]), "{blocks:?}: row {row} alone");
            }
        }
    }
}

/// Many rows go through unpacked f16 weights, and activations rounded to f16 once.
#[test]
fn products_of_many_rows() {
    for blocks in BlockType::ALL {
        let cols = blocks.elements() * 3;
        let mut rng = Rng::new(blocks as u64);
        let bytes = random_blocks(blocks, 21 * cols, &mut rng);
        let views = [view(blocks, 21, cols, &bytes)];
        let weights = dequantized(blocks, &bytes);
        // Large and small rows: f16 alone would not hold them.
        let mut x = rng.values(130 * cols);
        x[..cols].iter_mut().for_each(|x| *x *= 1e9);
        x[cols..2 * cols].iter_mut().for_each(|x| *x *= 1e-9);
        let got = product(&mut device(), &views, &x, &[0.0; 21]);
        for (i, &got) in got.iter().enumerate() {
            let (x, w) = (&x[i / 21 * cols..][..cols], &weights[i % 21 * cols..][..cols]);
            let products = x.iter().zip(w).map(|(&x, w)| f64::from(x) * w);
            let (want, size) = (products.clone().sum::<f64>(), products.map(f64::abs).sum::<f64>());
            let error = (f64::from(got) - want).abs();
            assert!(
                error <= 5e-4 * size,
                "{blocks:?}, row {} output {}: {got} against {want}",
                i / 21,
                i % 21
            );
        }
    }
}

/// Several types in one matrix, as mixes of llama.cpp have them.
#[test]
fn bands_of_several_types() {
    let cols = 512;
    let mut rng = Rng::new(3);
    let parts = [(BlockType::Q4K, 10), (BlockType::Q6K, 4), (BlockType::Q8_0, 7)];
    let bytes: Vec<Vec<u8>> =
        parts.iter().map(|&(blocks, rows)| random_blocks(blocks, rows * cols, &mut rng)).collect();
    let views: Vec<WeightView<'_>> =
        parts.iter().zip(&bytes).map(|(&(blocks, rows), bytes)| view(blocks, rows, cols, bytes)).collect();
    let (x, bias) = (rng.values(2 * cols), rng.values(21));
    let weights: Vec<f64> =
        parts.iter().zip(&bytes).flat_map(|(&(blocks, _), bytes)| dequantized(blocks, bytes)).collect();
    let got = product(&mut device(), &views, &x, &bias);
    check_products(&got, &x, &weights, &bias, true, "bands");
    let want = product(&mut CpuBackend::new(1), &views, &x, &bias);
    // Of other inputs than the usual, some sums are of hundreds, which have no more digits.
    let digits = if seed() == 0 { 0.0 } else { 1e-6 };
    let bound = want.iter().fold(1e-4, |bound: f32, want| bound.max(digits * want.abs()));
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() <= bound, "{got}, on the CPU {want}");
    }
    let ids = [20, 9, 10, 13, 14, 0];
    let want = ids.iter().flat_map(|&id| &weights[id as usize * cols..][..cols]);
    check_embedded(&embedded(&mut device(), &views, &ids), want.copied(), "bands");
}

/// What is not a number comes out as such, and zeros as zeros.
#[test]
fn activations_that_are_not_numbers() {
    let bytes = random_blocks(BlockType::Q4_0, 21 * 64, &mut Rng::new(9));
    let views = [view(BlockType::Q4_0, 21, 64, &bytes)];
    let mut x = vec![0.0; 3 * 64];
    (x[5], x[64 + 40]) = (f32::INFINITY, f32::NAN);
    let got = product(&mut device(), &views, &x, &[0.25; 21]);
    assert!(got[..42].iter().all(|value| value.is_nan()));
    assert_eq!(got[42..], [0.25; 21]);
}
