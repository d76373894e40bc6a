//! Products with quantized weights, of every type and on every instruction set of this machine, against f64 sums over
//! the dequantized weights.

use proptest::prelude::*;
use weirgate_kernels::cpu::{CpuBackend, Isa, Matrix};
use weirgate_kernels::{Backend, BlockType, NO_ADAPTER, StepInputs, WeightView};
use weirgate_models::{DType, dequantize};

use crate::Rng;

/// Every quantized type: the kernels' name, the file's, and where a block keeps f16 numbers.
pub const TYPES: [(BlockType, DType, &[usize]); 13] = [
    (BlockType::Q8_0, DType::Q8_0, &[0]),
    (BlockType::Q4_0, DType::Q4_0, &[0]),
    (BlockType::Q4_1, DType::Q4_1, &[0, 2]),
    (BlockType::Q5_0, DType::Q5_0, &[0]),
    (BlockType::Q5_1, DType::Q5_1, &[0, 2]),
    (BlockType::Q2K, DType::Q2K, &[80, 82]),
    (BlockType::Q3K, DType::Q3K, &[108]),
    (BlockType::Q4K, DType::Q4K, &[0, 2]),
    (BlockType::Q5K, DType::Q5K, &[0, 2]),
    (BlockType::Q6K, DType::Q6K, &[208]),
    (BlockType::Iq4Nl, DType::Iq4Nl, &[0]),
    (BlockType::Iq4Xs, DType::Iq4Xs, &[0]),
    (BlockType::Mxfp4, DType::Mxfp4, &[]),
];

/// Rounding of f32 sums, relative to the sum of magnitudes.
const ROUNDING: f64 = 2e-6;
/// Columns under one scale of the activations.
const UNIT: usize = 32;

/// Blocks whose every bit is random, but for scales up to about `scale`.
pub fn random_blocks(kind: usize, elements: usize, scale: f32, rng: &mut Rng) -> Vec<u8> {
    let (_, dtype, halves) = TYPES[kind];
    let mut bytes: Vec<u8> = (0..dtype.bytes_of(elements).unwrap()).map(|_| rng.bits() as u8).collect();
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &at in halves {
            let half = half::f16::from_f32(rng.value() * scale);
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        if dtype == DType::Mxfp4 {
            block[0] = (127 + scale.log2().round() as i32) as u8 + block[0] % 8;
        }
    }
    bytes
}

/// Quantized weights.
struct Weights {
    blocks: BlockType,
    outputs: usize,
    cols: usize,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Weights {
    fn new(kind: usize, outputs: usize, least_cols: usize) -> Self {
        let (blocks, dtype, _) = TYPES[kind];
        assert_eq!((blocks.elements(), blocks.bytes()), (dtype.block_elements(), dtype.block_bytes()));
        let cols = least_cols.next_multiple_of(dtype.block_elements());
        let mut rng = Rng((kind * 1_000_000 + outputs * 1000 + cols) as u64);
        let bytes = random_blocks(kind, outputs * cols, 0.1, &mut rng);
        let values = dequantize(dtype, &bytes);
        Self { blocks, outputs, cols, bytes, values }
    }

    fn view(&self) -> WeightView<'_> {
        WeightView { dtype: self.blocks.into(), rows: self.outputs, cols: self.cols, bytes: &self.bytes }
    }

    /// What multiplies `x` with output `o`: the sum of the products, that of their magnitudes, and the most that the
    /// activations' rounding can make of it.
    fn reference(&self, x: &[f32], o: usize) -> (f64, f64, f64) {
        let w = &self.values[o * self.cols..][..self.cols];
        let (mut sum, mut magnitude, mut rounding) = (0.0, 0.0, 0.0);
        for (x, w) in x.chunks(UNIT).zip(w.chunks(UNIT)) {
            let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            for (&x, &w) in x.iter().zip(w) {
                sum += f64::from(x) * f64::from(w);
                magnitude += (f64::from(x) * f64::from(w)).abs();
                rounding += f64::from(w.abs()) * f64::from(largest) / 254.0;
            }
        }
        (sum, magnitude, rounding)
    }
}

/// Activations that int8 holds as they are: integers, 127 among each 32.
fn exact(rng: &mut Rng, len: usize) -> Vec<f32> {
    let mut values: Vec<f32> = (0..len).map(|_| (rng.value() * 127.0).round()).collect();
    values.chunks_mut(UNIT).for_each(|unit| unit[0] = 127.0);
    values
}

fn product(device: &mut CpuBackend, w: &Matrix, x: &[f32], (rows, outputs): (usize, usize)) -> Vec<f32> {
    let x = device.vector(x).unwrap();
    let mut out = device.buffer(rows * outputs).unwrap();
    device.linear(&mut out, &x, w, None, rows).unwrap();
    let mut values = vec![0.0; rows * outputs];
    device.download(&out, &mut values).unwrap();
    values
}

fn check(kind: usize, rows: usize, least_cols: usize, outputs: usize) {
    let weights = Weights::new(kind, outputs, least_cols);
    let mut rng = Rng((rows * least_cols) as u64);
    let whole = exact(&mut rng, rows * weights.cols);
    let any: Vec<f32> =
        (0..rows * weights.cols).map(|_| rng.value() * 10f32.powf(rng.value() * 3.0)).collect();
    for isa in Isa::available() {
        let mut device = CpuBackend::with_isa(2, isa);
        assert_eq!(device.isa(), isa);
        let w = device.matrix(&[weights.view()]).unwrap();
        for (x, rounded) in [(&whole, false), (&any, true)] {
            let got = product(&mut device, &w, x, (rows, outputs));
            for (i, &got) in got.iter().enumerate() {
                let (row, output) = (i / outputs, i % outputs);
                let row_x = &x[row * weights.cols..][..weights.cols];
                let (want, magnitude, rounding) = weights.reference(row_x, output);
                let bound = ROUNDING * magnitude + if rounded { rounding } else { 0.0 };
                let error = (f64::from(got) - want).abs();
                assert!(
                    error <= bound,
                    "{isa:?} {:?} {rows} x {} x {outputs}: row {row} output {output} is {got}, expected {want}, \
                     off by {error:e}, allowed {bound:e}",
                    weights.blocks,
                    weights.cols
                );
            }
        }
    }
}

#[test]
fn matches_the_reference_at_odd_shapes() {
    for kind in 0..TYPES.len() {
        for (rows, cols, outputs) in [
            (1, 1, 1),
            (1, 288, 17),
            (1, 800, 133),
            (2, 256, 16),
            (3, 64, 33),
            (5, 544, 50),
            (6, 1, 100),
            (7, 300, 31),
            (13, 512, 49),
            (197, 33, 18),
        ] {
            check(kind, rows, cols, outputs);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn matches_the_reference(kind in 0..TYPES.len(), rows in 1..20usize, cols in 1..1100usize, outputs in 1..90usize) {
        check(kind, rows, cols, outputs);
    }
}

/// Every code at either end of its range, times the largest activations of either sign: sums of a few products fit into
/// whatever an instruction keeps them in.
#[test]
fn the_largest_codes_do_not_overflow() {
    for (kind, (_, dtype, halves)) in TYPES.into_iter().enumerate() {
        for byte in [0x00, 0x7f, 0x80, 0xff] {
            let mut weights = Weights::new(kind, 19, 256);
            for block in weights.bytes.chunks_exact_mut(dtype.block_bytes()) {
                block.fill(byte);
                for &at in halves {
                    block[at..at + 2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
                }
                if dtype == DType::Mxfp4 {
                    block[0] = 127;
                }
            }
            weights.values = dequantize(dtype, &weights.bytes);
            for isa in Isa::available() {
                let mut device = CpuBackend::with_isa(1, isa);
                let w = device.matrix(&[weights.view()]).unwrap();
                for rows in [1, 2, 3, 4, 5, 9] {
                    let row = |row: usize| if row.is_multiple_of(2) { 127.0 } else { -127.0 };
                    let x: Vec<f32> = (0..rows * weights.cols).map(|i| row(i / weights.cols)).collect();
                    let got = product(&mut device, &w, &x, (rows, 19));
                    for (i, &got) in got.iter().enumerate() {
                        let (want, magnitude, _) =
                            weights.reference(&x[i / 19 * weights.cols..][..weights.cols], i % 19);
                        let error = (f64::from(got) - want).abs();
                        assert!(
                            error <= ROUNDING * magnitude,
                            "{isa:?} {dtype:?} of {byte:#x}, {rows} rows: {got}, expected {want}"
                        );
                    }
                }
            }
        }
    }
}

/// The integers are exact and the float arithmetic is the same, so all vector instructions give the same bits.
#[test]
fn vector_instruction_sets_agree() {
    for kind in 0..TYPES.len() {
        let weights = Weights::new(kind, 100, 700);
        let mut rng = Rng(9);
        let x: Vec<f32> = (0..9 * weights.cols).map(|_| rng.value()).collect();
        let mut results = Isa::available().filter(|isa| *isa != Isa::Portable).map(|isa| {
            let mut device = CpuBackend::with_isa(2, isa);
            let w = device.matrix(&[weights.view()]).unwrap();
            let all = product(&mut device, &w, &x, (9, 100));
            let one = product(&mut device, &w, &x, (1, 100));
            (bits(&all), bits(&one))
        });
        let first = results.next();
        assert!(results.all(|other| Some(&other) == first.as_ref()), "{:?}", weights.blocks);
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A row's result has the same bits alone, in any batch and with any number of threads, and nothing of another row
/// leaks into it, not even a NaN.
#[test]
fn rows_do_not_depend_on_the_batch() {
    for kind in 0..TYPES.len() {
        let weights = Weights::new(kind, 83, 544);
        let mut rng = Rng(5);
        let x: Vec<f32> = (0..weights.cols).map(|_| rng.value()).collect();
        for isa in Isa::available() {
            let mut device = CpuBackend::with_isa(1, isa);
            let w = device.matrix(&[weights.view()]).unwrap();
            let want = product(&mut device, &w, &x, (1, 83));
            for batch in [2, 3, 4, 5, 6, 7, 8, 11, 16, 64, 193] {
                for threads in [1, 3] {
                    let mut device = CpuBackend::with_isa(threads, isa);
                    let w = device.matrix(&[weights.view()]).unwrap();
                    let mut all = vec![f32::NAN; batch * weights.cols];
                    let row = batch / 2;
                    all[row * weights.cols..][..weights.cols].copy_from_slice(&x);
                    let got = product(&mut device, &w, &all, (batch, 83));
                    assert_eq!(
                        bits(&got[row * 83..][..83]),
                        bits(&want),
                        "{isa:?} {:?}, {batch} rows, {threads} threads",
                        weights.blocks
                    );
                    assert!(got[..row * 83].iter().all(|value| value.is_nan()), "NaN in, NaN out");
                }
            }
        }
    }
}

/// Types mix in one matrix, floats among them, and biases are added to the right outputs.
#[test]
fn parts_of_different_types_are_stacked() {
    let parts: Vec<Weights> = [7, 7, 9, 0].into_iter().map(|kind| Weights::new(kind, 21, 512)).collect();
    let floats: Vec<u8> = parts[0].values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let dtype = weirgate_kernels::DType::F32.into();
    let float_part = WeightView { dtype, rows: 21, cols: 512, bytes: &floats };
    let views: Vec<WeightView<'_>> = parts.iter().map(Weights::view).chain([float_part]).collect();
    let mut rng = Rng(3);
    let x: Vec<f32> = (0..3 * 512).map(|_| rng.value()).collect();
    let bias: Vec<f32> = (0..105).map(|_| rng.value()).collect();
    let mut device = CpuBackend::new(2);
    let whole = device.matrix(&views).unwrap();
    let (x_buf, bias_buf) = (device.vector(&x).unwrap(), device.vector(&bias).unwrap());
    let mut out = device.buffer(3 * 105).unwrap();
    device.linear(&mut out, &x_buf, &whole, Some(&bias_buf), 3).unwrap();
    let mut got = vec![0.0; 3 * 105];
    device.download(&out, &mut got).unwrap();
    for (part, view) in views.iter().enumerate() {
        let alone = device.matrix(std::slice::from_ref(view)).unwrap();
        let want = product(&mut device, &alone, &x, (3, 21));
        for row in 0..3 {
            for o in 0..21 {
                let want = want[row * 21 + o] + bias[part * 21 + o];
                assert_eq!(got[row * 105 + part * 21 + o].to_bits(), want.to_bits(), "part {part}");
            }
        }
    }
}

/// Looking up an embedding gives the dequantized values to the bit.
#[test]
fn embeddings_are_dequantized() {
    for kind in 0..TYPES.len() {
        let weights = Weights::new(kind, 37, 544);
        for isa in Isa::available() {
            let mut device = CpuBackend::with_isa(2, isa);
            let table = device.matrix(&[weights.view(), weights.view()]).unwrap();
            let mut step = device.step_buffers(4, 1, 1).unwrap();
            let inputs = StepInputs {
                ids: &[0, 36, 15, 53],
                positions: &[0, 1, 2, 3],
                slots: &[0, 1, 2, 3],
                cu_q: &[0, 4],
                kv_len: &[4],
                block_tables: &[0],
                block_offsets: &[0, 1],
                rope: &[],
                adapters: &[NO_ADAPTER],
            };
            device.upload(&mut step, &inputs).unwrap();
            let mut out = device.buffer(4 * weights.cols).unwrap();
            device.embed(&mut out, &table, &step, 0.5).unwrap();
            let mut got = vec![0.0; 4 * weights.cols];
            device.download(&out, &mut got).unwrap();
            for (got, row) in got.chunks(weights.cols).zip([0, 36, 15, 53 - 37]) {
                let want: Vec<f32> =
                    weights.values[row * weights.cols..][..weights.cols].iter().map(|v| v * 0.5).collect();
                assert_eq!(bits(got), bits(&want), "{isa:?} {:?} row {row}", weights.blocks);
            }
        }
    }
}
