use weirgate_kernels::cuda::CudaBackend;
use weirgate_kernels::{Backend, DType, WeightView};

use crate::common::{DTYPES, bits, buffer, encode, rounded, values};
use crate::device;
use crate::products::Case;

/// f64 loops, and how far off f32 sums of products of f32 activations may be: a bf16 pair has 16 bits, or 17 by its
/// rounding.
pub fn check(device: &mut CudaBackend<crate::TestGpu>, case: &Case, dtype: DType) {
    let precision = if dtype == DType::BF16 { 8e-6 } else { 1e-6 };
    case.check(dtype, &case.run(device, dtype), precision, "");
}

/// Activations that lose nothing when they are rounded to the weights' type, but for what `magnitude(row)` multiplies a row
/// by.
pub fn round_x(case: &mut Case, dtype: DType, magnitude: impl Fn(usize) -> f32) {
    let cols = case.cols;
    for (i, x) in case.x.iter_mut().enumerate() {
        *x = rounded(dtype, *x) * magnitude(i / cols);
    }
}

#[test]
fn matches_the_reference_at_odd_shapes() {
    for dtype in DTYPES {
        for (rows, cols, outputs) in [
            (1, 1, 1),
            (1, 3, 17),
            (2, 600, 33),
            (5, 256, 65),
            (9, 17, 15),
            (17, 1030, 20),
            (40, 70, 33),
            (70, 64, 16),
        ] {
            check(&mut device(), &Case::new(rows, cols, outputs, rows % 2 == 0), dtype);
        }
    }
}

/// A row's product is the same to the bit, alone and among 70.
#[test]
fn does_not_depend_on_the_batch() {
    for dtype in DTYPES {
        let case = Case::new(70, 190, 21, true);
        let want = bits(&case.run(&mut device(), dtype));
        for (from, rows) in [(0, 1), (33, 1), (60, 9), (3, 20), (5, 64)] {
            let got = bits(&case.part(&mut device(), dtype, from, rows));
            assert_eq!(got, want[from * 21..][..rows * 21], "{dtype:?}: {rows} rows from {from} on");
        }
    }
}

/// Many rows, in large tiles: activations are rounded to the weights' type, and everything after that is f32.
#[test]
fn many_rows() {
    for dtype in [DType::F16, DType::BF16] {
        for (rows, cols, outputs) in [(128, 70, 33), (150, 200, 140)] {
            let mut case = Case::new(rows, cols, outputs, true);
            round_x(&mut case, dtype, |_| 1.0);
            check(&mut device(), &case, dtype);
            // Rows that an f16 would not hold as they are.
            round_x(&mut case, dtype, |row| 2_f32.powi([0, 20, -20, 14, -9][row % 5]));
            check(&mut device(), &case, dtype);
        }
    }
}

/// Where the batch must not count, many rows are as exact as few, and the same to the bit.
#[test]
fn many_rows_like_few() {
    let case = Case::new(130, 70, 20, true);
    for dtype in DTYPES {
        let few = bits(&case.part(&mut device(), dtype, 100, 3));
        let many = case.run(&mut CudaBackend::deterministic(crate::gpu()), dtype);
        assert_eq!(bits(&many)[2000..2060], few);
    }
}

/// Parts of one matrix, each of its own type, write their own columns.
#[test]
fn bands_of_several_types() {
    let case = Case::new(3, 100, 30, true);
    let counts = [7, 20, 3];
    let mut from = 0;
    let mut rounded_w = Vec::new();
    let encoded: Vec<(DType, usize, Vec<u8>)> = DTYPES
        .into_iter()
        .zip(counts)
        .map(|(dtype, rows)| {
            let part = &case.w[from * case.cols..][..rows * case.cols];
            rounded_w.extend(part.iter().map(|&w| rounded(dtype, w)));
            from += rows;
            (dtype, rows, encode(dtype, part))
        })
        .collect();
    let views: Vec<WeightView<'_>> = encoded
        .iter()
        .map(|(dtype, rows, bytes)| WeightView {
            dtype: (*dtype).into(),
            rows: *rows,
            cols: case.cols,
            bytes,
        })
        .collect();
    let mut device = device();
    let w = device.matrix(&views).unwrap();
    let (x, bias) = (buffer(&device, &case.x), buffer(&device, case.bias.as_ref().unwrap()));
    let mut out = buffer(&device, &[f32::NAN; 90]);
    device.linear(&mut out, &x, &w, Some(&bias), 3).unwrap();
    for (i, got) in values(&device, &out, 90).into_iter().enumerate() {
        let (r, o) = (i / 30, i % 30);
        let (x, w) = (&case.x[r * 100..][..100], &rounded_w[o * 100..][..100]);
        let dot: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
        let want = dot + f64::from(case.bias.as_ref().unwrap()[o]);
        assert!((f64::from(got) - want).abs() < 2e-4, "row {r} output {o} is {got}, expected {want}");
    }
}
