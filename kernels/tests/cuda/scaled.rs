//! Weights in E4M3 with a scale for each row.

use weirgate_kernels::cuda::{CudaBackend, CudaMatrix, Gpu, Watched};
use weirgate_kernels::{Backend, DType, KernelError, NO_ADAPTER, ScaledRowsView, SmallFloat, StepInputs};

use crate::common::{Rng, bits, buffer, matrix, values};
use crate::stored::Format;
use crate::{E4M3_SUMS, TestGpu, ada};

/// `[outputs, cols]` weights of all codes that are numbers, and `[rows, cols]` activations.
pub struct Case {
    pub rows: usize,
    cols: usize,
    pub outputs: usize,
    pub x: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Case {
    pub fn new(rows: usize, cols: usize, outputs: usize, with_bias: bool) -> Self {
        let mut rng = Rng::new((rows * 1_000_000 + cols * 1000 + outputs) as u64);
        let code = |bits: u64| if bits as u8 & 0x7f == 0x7f { 0x3c } else { bits as u8 };
        Self {
            rows,
            cols,
            outputs,
            x: rng.values(rows * cols),
            codes: (0..outputs * cols).map(|_| code(rng.bits())).collect(),
            scales: (0..outputs).map(|_| (rng.value() + 1.5) / 1000.0).collect(),
            bias: with_bias.then(|| rng.values(outputs)),
        }
    }

    /// Rows of many magnitudes, down to `least`, some of zeros among them.
    fn with_magnitudes(mut self, least: f32) -> Self {
        for (i, x) in self.x.iter_mut().enumerate() {
            *x *= [1.0, 1e20, 1e-20, 448.0, 0.0, -3.0, least][i / self.cols % 7];
        }
        self
    }

    fn view(&self) -> ScaledRowsView<'_> {
        let Self { cols, outputs, codes, scales, .. } = self;
        ScaledRowsView { rows: *outputs, cols: *cols, codes, scales }
    }

    /// The product of `rows` rows of x from `from` on, over an output full of NaN.
    fn part<G: Gpu>(&self, device: &mut CudaBackend<G>, from: usize, rows: usize) -> Vec<f32> {
        let w = device.scaled_matrix(&[self.view()]).unwrap().unwrap();
        self.by(device, &w, (from, rows))
    }

    fn by<G: Gpu>(
        &self,
        device: &mut CudaBackend<G>,
        w: &CudaMatrix<G>,
        (from, rows): (usize, usize),
    ) -> Vec<f32> {
        let x = buffer(device, &self.x[from * self.cols..][..rows * self.cols]);
        let bias = self.bias.as_ref().map(|bias| buffer(device, bias));
        let mut out = buffer(device, &vec![f32::NAN; rows * self.outputs]);
        device.linear(&mut out, &x, w, bias.as_ref(), rows).unwrap();
        values(device, &out, rows * self.outputs)
    }

    /// All rows.
    pub fn run<G: Gpu>(&self, device: &mut CudaBackend<G>) -> Vec<f32> {
        self.part(device, 0, self.rows)
    }

    /// Row `row` of x as E4M3 has it, by the definitions: divided by what makes its largest magnitude the type's, rounded
    /// to the nearest, and multiplied again.
    fn rounded_row(&self, row: usize) -> Vec<f64> {
        let magnitudes = Format::of(SmallFloat::E4M3).magnitudes();
        let x = &self.x[row * self.cols..][..self.cols];
        let largest = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let scale = (largest / 448.0).max(1e-30);
        x.iter().map(|x| Format::nearest(&magnitudes, f64::from(x / scale)) * f64::from(scale)).collect()
    }

    /// Of rows `x` in f64 loops: each output, and the sum of the magnitudes that it adds up.
    fn reference(&self, x: &[Vec<f64>]) -> Vec<(f64, f64)> {
        let magnitudes = Format::of(SmallFloat::E4M3).magnitudes();
        let value = |code: u8| {
            let magnitude = magnitudes[usize::from(code & 0x7f)];
            if code & 0x80 == 0 { magnitude } else { -magnitude }
        };
        let mut found = Vec::new();
        for x in x {
            for (output, codes) in self.codes.chunks_exact(self.cols).enumerate() {
                let scale = f64::from(self.scales[output]);
                let products = x.iter().zip(codes).map(|(x, &code)| x * value(code) * scale);
                let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[output]));
                let size = products.clone().map(f64::abs).sum::<f64>() + bias.abs();
                found.push((products.sum::<f64>() + bias, size));
            }
        }
        found
    }

    fn exact_rows(&self) -> Vec<Vec<f64>> {
        self.x.chunks_exact(self.cols).map(|x| x.iter().map(|&x| f64::from(x)).collect()).collect()
    }

    fn compare(&self, got: &[f32], want: &[(f64, f64)], precision: f64, what: &str) {
        assert_eq!(got.len(), want.len());
        for (i, (&got, &(want, size))) in got.iter().zip(want).enumerate() {
            let (row, output) = (i / self.outputs, i % self.outputs);
            // What an f32 cannot hold exactly where it is very small.
            let error = (f64::from(got) - want).abs() - 1e-44;
            assert!(
                error <= precision * size,
                "{what} {} x {} x {}: row {row} output {output} is {got}, expected {want}",
                self.rows,
                self.cols,
                self.outputs
            );
        }
    }

    /// Activations keep their precision.
    fn check_exact(&self, got: &[f32]) {
        self.compare(got, &self.reference(&self.exact_rows()), 1e-6, "few rows");
    }

    /// Activations are rounded to E4M3, row by row: the product of what that leaves is as exact as its sums; and no further
    /// from that of the activations themselves than three bits of mantissa and the smallest number say.
    pub fn check_rounded(&self, got: &[f32]) {
        let rounded: Vec<Vec<f64>> = (0..self.rows).map(|row| self.rounded_row(row)).collect();
        self.compare(got, &self.reference(&rounded), E4M3_SUMS, "rounded");
        let exact = self.exact_rows();
        let lost: Vec<Vec<f64>> = exact
            .iter()
            .map(|x| {
                let scale = x.iter().fold(0.0, |most: f64, x| most.max(x.abs())) / 448.0;
                x.iter().map(|x| (x.abs() / 16.0).max(scale.max(1e-30) / 1024.0)).collect()
            })
            .collect();
        let bounds = self.reference(&lost);
        for (i, (want, bound)) in self.reference(&exact).iter().zip(bounds).enumerate() {
            let error = (f64::from(got[i]) - want.0).abs();
            assert!(
                error <= bound.1 * (1.0 + 1e-3) + E4M3_SUMS * want.1 + 1e-44,
                "element {i} is {}, without rounding it is {}, and may be off by {}",
                got[i],
                want.0,
                bound.1
            );
        }
    }
}

fn device() -> Option<CudaBackend<TestGpu>> {
    ada().map(CudaBackend::new)
}

#[test]
fn few_rows_match_the_reference_at_odd_shapes() {
    let Some(mut device) = device() else { return };
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
        let case = Case::new(rows, cols, outputs, rows % 2 == 0).with_magnitudes(1e-28);
        case.check_exact(&case.run(&mut device));
    }
}

/// A row's product is the same to the bit, alone and among 70.
#[test]
fn few_rows_do_not_depend_on_the_batch() {
    let Some(mut device) = device() else { return };
    let case = Case::new(70, 190, 21, true);
    let want = bits(&case.run(&mut device));
    for (from, rows) in [(0, 1), (33, 1), (60, 9), (3, 20), (5, 64)] {
        let got = bits(&case.part(&mut device, from, rows));
        assert_eq!(got, want[from * 21..][..rows * 21], "{rows} rows from {from} on");
    }
}

/// A device that begins with the most rows, as engines do, allocates nothing for fewer.
#[test]
fn few_rows_find_the_room_that_many_left() {
    let Some(gpu) = ada() else { return };
    let (gpu, watch) = Watched::new(gpu);
    let mut device = CudaBackend::new(gpu);
    let case = Case::new(128, 70, 20, false);
    let w = device.scaled_matrix(&[case.view()]).unwrap().unwrap();
    let (x, mut out) = (buffer(&device, &case.x), buffer(&device, &[0.0; 128 * 20]));
    device.linear(&mut out, &x, &w, None, 128).unwrap();
    let begun = watch.counts().allocations;
    for rows in [127, 1, 64, 128] {
        device.linear(&mut out, &x, &w, None, rows).unwrap();
    }
    assert_eq!(watch.counts().allocations, begun);
}

#[test]
fn many_rows_are_rounded_row_by_row() {
    let Some(mut device) = device() else { return };
    for (rows, cols, outputs) in [(128, 70, 33), (150, 200, 140), (129, 1, 129), (131, 450, 7)] {
        let case = Case::new(rows, cols, outputs, rows % 2 == 0).with_magnitudes(1e-36);
        case.check_rounded(&case.run(&mut device));
    }
}

/// Where the batch must not count, many rows are as exact as few, and the same to the bit.
#[test]
fn many_rows_like_few() {
    let Some(gpu) = ada() else { return };
    let case = Case::new(130, 70, 20, true);
    let mut device = CudaBackend::deterministic(gpu);
    let many = case.run(&mut device);
    case.check_exact(&many);
    assert_eq!(bits(&many)[2000..2060], bits(&case.part(&mut device, 100, 3)));
}

/// Query, key and value have scales of their own.
#[test]
fn parts_are_stacked() {
    let Some(mut device) = device() else { return };
    for rows in [3, 130] {
        let case = Case::new(rows, 100, 30, true);
        let whole = case.run(&mut device);
        let mut from = 0;
        let parts = [7, 20, 3].map(|rows| {
            let (codes, scales) = (&case.codes[from * 100..][..rows * 100], &case.scales[from..][..rows]);
            from += rows;
            ScaledRowsView { rows, cols: 100, codes, scales }
        });
        let w = device.scaled_matrix(&parts).unwrap().unwrap();
        assert_eq!(bits(&case.by(&mut device, &w, (0, rows))), bits(&whole));
    }
}

/// Rows of activations with one, and rows of weights.
#[test]
fn what_is_not_a_number_spoils_its_row_alone() {
    let Some(mut device) = device() else { return };
    for rows in [5, 130] {
        let mut case = Case::new(rows, 70, 20, true);
        let whole = case.run(&mut device);
        (case.x[70 + 3], case.x[2 * 70], case.x[3 * 70 + 69]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        (case.codes[4 * 70 + 9], case.codes[6 * 70]) = (0x7f, 0xff);
        for (i, (got, want)) in case.run(&mut device).iter().zip(whole).enumerate() {
            let spoilt = [1, 2, 3].contains(&(i / 20)) || [4, 6].contains(&(i % 20));
            assert_eq!(got.is_nan(), spoilt, "{rows} rows: row {} output {} is {got}", i / 20, i % 20);
            assert!(spoilt || got.to_bits() == want.to_bits());
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let Some(device) = device() else { return };
    let (codes, scales) = ([0x38; 12], [1.0; 3]);
    let view = |rows, cols, codes, scales| ScaledRowsView { rows, cols, codes, scales };
    let refused = |parts: &[ScaledRowsView<'_>]| match device.scaled_matrix(parts).err() {
        Some(KernelError::Shape { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&[]), "number of parts");
    assert_eq!(refused(&[view(0, 4, &codes[..0], &scales[..0])]), "rows or columns of a part");
    assert_eq!(refused(&[view(3, 4, &codes[1..], &scales)]), "bytes of a part");
    assert_eq!(refused(&[view(3, 4, &codes, &scales[1..])]), "scales of a part");
    let other = view(2, 6, &codes, &scales[1..]);
    assert_eq!(refused(&[view(3, 4, &codes, &scales), other]), "columns of a part");
}

/// They are for products alone.
#[test]
fn a_table_of_embeddings_is_refused() {
    let Some(mut device) = device() else { return };
    let case = Case::new(1, 8, 5, false);
    let table = device.scaled_matrix(&[case.view()]).unwrap().unwrap();
    let mut step = device.step_buffers(1, 1, 1).unwrap();
    let inputs = StepInputs {
        ids: &[2],
        positions: &[0],
        slots: &[0],
        cu_q: &[0, 1],
        kv_len: &[1],
        block_tables: &[0],
        block_offsets: &[0, 1],
        rope: &[],
        adapters: &[NO_ADAPTER],
    };
    device.upload(&mut step, &inputs).unwrap();
    let mut out = buffer(&device, &[0.0; 8]);
    assert!(device.embed(&mut out, &table, &step, 1.0).is_err());
    let floats = matrix(&device, DType::F16, 5, 8, &[1.0; 40]);
    device.embed(&mut out, &floats, &step, 1.0).unwrap();
}
