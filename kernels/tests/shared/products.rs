//! Products with weight matrices, against f64 loops.

use weirgate_kernels::{Backend, DType};

use crate::common::{Rng, buffer, matrix, rounded, values};

pub struct Case {
    pub rows: usize,
    pub cols: usize,
    pub outputs: usize,
    pub x: Vec<f32>,
    pub w: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

impl Case {
    pub fn new(rows: usize, cols: usize, outputs: usize, with_bias: bool) -> Self {
        let mut rng = Rng::new((rows * 1_000_000 + cols * 1000 + outputs) as u64);
        let (x, w) = (rng.values(rows * cols), rng.values(outputs * cols));
        let bias = with_bias.then(|| rng.values(outputs));
        Self { rows, cols, outputs, x, w, bias }
    }

    /// The product of `rows` rows of x from `from` on, over an output full of NaN.
    pub fn part<B: Backend>(&self, device: &mut B, dtype: DType, from: usize, rows: usize) -> Vec<f32> {
        let w = matrix(device, dtype, self.outputs, self.cols, &self.w);
        let x = buffer(device, &self.x[from * self.cols..][..rows * self.cols]);
        let bias = self.bias.as_ref().map(|bias| buffer(device, bias));
        let mut out = buffer(device, &vec![f32::NAN; rows * self.outputs]);
        device.linear(&mut out, &x, &w, bias.as_ref(), rows).unwrap();
        values(device, &out, rows * self.outputs)
    }

    /// All rows.
    pub fn run<B: Backend>(&self, device: &mut B, dtype: DType) -> Vec<f32> {
        self.part(device, dtype, 0, self.rows)
    }

    /// How far off `got` may be: `precision` of the sum of the products' magnitudes.
    pub fn check(&self, dtype: DType, got: &[f32], precision: f64, what: &str) {
        for (i, &got) in got.iter().enumerate() {
            let (r, o) = (i / self.outputs, i % self.outputs);
            let products = (0..self.cols).map(|k| {
                let w = rounded(dtype, self.w[o * self.cols + k]);
                f64::from(self.x[r * self.cols + k]) * f64::from(w)
            });
            let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[o]));
            let want = products.clone().sum::<f64>() + bias;
            let tolerance = precision * (products.map(f64::abs).sum::<f64>() + bias.abs());
            let error = (f64::from(got) - want).abs();
            assert!(
                error <= tolerance,
                "{what} {dtype:?} {} x {} x {}: row {r} output {o} is {got}, expected {want}",
                self.rows,
                self.cols,
                self.outputs
            );
        }
    }
}
