//! Block-quantized weights against the CPU device, whose every type is tested against another implementation
//! (engine/tests/gguf).

use half::f16;
use weirgate_kernels::cpu::CpuBackend;
use weirgate_kernels::{Backend, BlockType, NO_ADAPTER, StepInputs, WeightView};

use crate::common::{Rng, bits, buffer, values};
use crate::device;

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

/// One rounding per element apart, at most.
#[test]
fn embeddings_are_the_cpu_devices() {
    for blocks in BlockType::ALL {
        let (rows, cols) = (7, 3 * 256);
        let bytes = random_blocks(blocks, rows * cols, &mut Rng::new(blocks as u64));
        let views = [view(blocks, rows, cols, &bytes)];
        let ids = [6, 0, 3, 3];
        let want = embedded(&mut CpuBackend::new(1), &views, &ids);
        let got = embedded(&mut device(), &views, &ids);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(
                (got - want).abs() <= 1e-5 * want.abs().max(0.1),
                "{blocks:?} {i}: {got}, on the CPU {want}"
            );
        }
    }
}

/// Activations are quantized alike, so only the order of the additions differs.
#[test]
fn products_are_the_cpu_devices() {
    for blocks in BlockType::ALL {
        for (rows, least_cols) in [(1, 32), (3, 96), (11, 1200)] {
            let cols = usize::next_multiple_of(least_cols, blocks.elements());
            let mut rng = Rng::new(blocks as u64 + cols as u64);
            let bytes = random_blocks(blocks, 21 * cols, &mut rng);
            let (x, bias) = (rng.values(rows * cols), rng.values(21));
            let views = [view(blocks, 21, cols, &bytes)];
            let want = product(&mut CpuBackend::new(1), &views, &x, &bias);
            let got = product(&mut device(), &views, &x, &bias);
            let size = want.iter().fold(1.0_f32, |size, want| size.max(want.abs()));
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!(
                    (got - want).abs() <= 3e-6 * size,
                    "{blocks:?} {rows} x {cols}, {i}: {got} against {want}"
                );
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
        let ids: Vec<u32> = (0..21).collect();
        let weights = embedded(&mut CpuBackend::new(1), &views, &ids);
        // Large and small rows: f16 alone would not hold them.
        let mut x = rng.values(130 * cols);
        x[..cols].iter_mut().for_each(|x| *x *= 1e9);
        x[cols..2 * cols].iter_mut().for_each(|x| *x *= 1e-9);
        let got = product(&mut device(), &views, &x, &[0.0; 21]);
        for (i, &got) in got.iter().enumerate() {
            let (x, w) = (&x[i / 21 * cols..][..cols], &weights[i % 21 * cols..][..cols]);
            let products = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w) / 1.5);
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
    let want = product(&mut CpuBackend::new(1), &views, &x, &bias);
    let got = product(&mut device(), &views, &x, &bias);
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() <= 1e-4, "{got} against {want}");
    }
    let ids = [20, 9, 10, 13, 14, 0];
    let (want, got) =
        (embedded(&mut CpuBackend::new(1), &views, &ids), embedded(&mut device(), &views, &ids));
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() <= 1e-5, "{got} against {want}");
    }
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
