//! A library for matrices: when it is asked, and what of.

use weirgate_kernels::cuda::{CudaBackend, Emulator};
use weirgate_kernels::{Backend, BlockType, DType, WeightView};

use crate::common::{bits, buffer, values};
use crate::linear::{check, round_x};
use crate::products::Case;
use crate::scaled;

fn with_library() -> Emulator {
    Emulator::with_library().unwrap()
}

/// The emulated library reads and writes as BLAS defines it: what it makes is right only if it was told right.
#[test]
fn makes_large_products() {
    for dtype in [DType::F16, DType::BF16] {
        for (rows, cols, outputs, with_bias) in [(128, 70, 128, true), (131, 64, 140, false)] {
            let mut case = Case::new(rows, cols, outputs, with_bias);
            round_x(&mut case, dtype, |row| 2_f32.powi([0, 20, -20][row % 3]));
            let mut device = CudaBackend::new(with_library());
            check(&mut device, &case, dtype);
            assert_eq!(device.gpu().products(), 1, "{dtype:?} {rows} x {outputs}");
        }
    }
}

/// Few rows, few outputs, f32 weights, or a device whose rows must not depend on each other: bit for bit our own kernels.
#[test]
fn makes_nothing_else() {
    for (dtype, rows, outputs, deterministic) in [
        (DType::BF16, 127, 130, false),
        (DType::F16, 128, 127, false),
        (DType::F32, 128, 128, false),
        (DType::BF16, 128, 128, true),
        (DType::F16, 128, 128, true),
    ] {
        let device =
            |gpu| if deterministic { CudaBackend::deterministic(gpu) } else { CudaBackend::new(gpu) };
        let case = Case::new(rows, 66, outputs, true);
        let mut with = device(with_library());
        let found = case.run(&mut with, dtype);
        assert_eq!(with.gpu().products(), 0, "{dtype:?} {rows} x {outputs}");
        let own = case.run(&mut device(crate::gpu()), dtype);
        assert_eq!(bits(&found), bits(&own), "{dtype:?} {rows} x {outputs}");
    }
}

/// Weights in blocks are unpacked for it; stacked parts write columns of their own, each a product.
#[test]
fn takes_unpacked_blocks_and_stacked_parts() {
    let (rows, cols) = (130, 64);
    // Scales of one half, codes of all kinds.
    let blocks = |count: usize, seed: usize| -> Vec<u8> {
        let block = |at: usize| -> Vec<u8> {
            [0x00, 0x38].into_iter().chain((0..16).map(|i| ((at * 7 + i * 37 + seed) % 256) as u8)).collect()
        };
        (0..count * cols / 32).flat_map(block).collect()
    };
    let (first, second) = (blocks(150, 1), vec![0x3c; 2 * 129 * cols]);
    let views = [
        WeightView { dtype: BlockType::Q4_0.into(), rows: 150, cols, bytes: &first },
        // Every weight 0x3c3c, which is 1.05859375.
        WeightView { dtype: DType::F16.into(), rows: 129, cols, bytes: &second },
    ];
    let mut case = Case::new(rows, cols, 1, false);
    round_x(&mut case, DType::F16, |_| 1.0);
    let mut results = [with_library(), crate::gpu()].map(|gpu| {
        let mut device = CudaBackend::new(gpu);
        let w = device.matrix(&views).unwrap();
        let x = buffer(&device, &case.x);
        let bias = buffer(&device, &vec![0.25; 279]);
        let mut out = buffer(&device, &vec![f32::NAN; rows * 279]);
        device.linear(&mut out, &x, &w, Some(&bias), rows).unwrap();
        (values(&device, &out, rows * 279), device.gpu().products())
    });
    assert_eq!(results.each_ref().map(|(_, products)| *products), [2, 0]);
    let [(found, _), (own, _)] = &mut results;
    for (i, (found, own)) in found.iter().zip(own.iter()).enumerate() {
        assert!((found - own).abs() < 1e-3, "element {i}: {found}, by our own kernels {own}");
    }
    let sum: f32 = case.x[..cols].iter().sum();
    assert!((found[150] - ((1.0 + 60.0 / 1024.0) * sum + 0.25)).abs() < 1e-4, "{}", found[150]);
}

/// Of eight bits it takes what lies on multiples of 16 bytes, and knows no scales: these are put behind its product.
#[test]
fn makes_large_products_of_eight_bits() {
    for (rows, cols, outputs, with_bias, made) in
        [(128, 70, 128, true, 1), (131, 64, 140, false, 1), (130, 100, 130, true, 0), (127, 64, 128, true, 0)]
    {
        let case = scaled::Case::new(rows, cols, outputs, with_bias);
        let mut device = CudaBackend::new(with_library().with_capability((9, 0)));
        let got = case.run(&mut device);
        assert_eq!(device.gpu().products(), made, "{rows} x {cols} x {outputs}");
        if rows >= 128 {
            case.check_rounded(&got);
        }
        let own = case.run(&mut CudaBackend::new(crate::gpu().with_capability((9, 0))));
        assert_eq!(made == 0, bits(&got) == bits(&own), "{rows} x {cols} x {outputs}");
    }
}
