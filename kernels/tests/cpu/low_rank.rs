use weirgate_kernels::cpu::{CpuBackend, LowRanks, Step};
use weirgate_kernels::{Backend, DType, LowRankView, NO_ADAPTER, StepInputs, WeightView};

use crate::common::{DTYPES, Rng, bits, buffer, encode, rounded, values};
use crate::devices::devices;

/// One part of an adapter's change.
#[derive(Clone)]
struct Part {
    first: usize,
    rank: usize,
    rows: usize,
    scale: f32,
    dtype: DType,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Part {
    fn new(rng: &mut Rng, dtype: DType, first: usize, (rank, rows): (usize, usize), cols: usize) -> Self {
        let mut values = |len| rng.values(len).into_iter().map(|value| rounded(dtype, value)).collect();
        let (a, b) = (values(rank * cols), values(rows * rank));
        Self { first, rank, rows, scale: 0.25 + rank as f32, dtype, a, b }
    }
}

struct Case {
    rows: usize,
    cols: usize,
    adapters: Vec<Vec<Part>>,
    /// Tokens of each sequence, and its adapter.
    seqs: Vec<(usize, u32)>,
    x: Vec<f32>,
    out: Vec<f32>,
}

impl Case {
    fn new(
        rng: &mut Rng,
        (rows, cols): (usize, usize),
        adapters: Vec<Vec<Part>>,
        seqs: &[(usize, u32)],
    ) -> Self {
        let tokens: usize = seqs.iter().map(|(tokens, _)| tokens).sum();
        let (x, out) = (rng.values(tokens * cols), rng.values(tokens * rows));
        Self { rows, cols, adapters, seqs: seqs.to_vec(), x, out }
    }

    fn changes(&self, device: &mut CpuBackend) -> LowRanks {
        let mut changes = device.low_ranks(self.rows, self.cols, 64).unwrap();
        for (slot, parts) in self.adapters.iter().enumerate() {
            let bytes: Vec<_> =
                parts.iter().map(|part| (encode(part.dtype, &part.a), encode(part.dtype, &part.b))).collect();
            let views: Vec<_> = parts
                .iter()
                .zip(&bytes)
                .map(|(part, (a, b))| LowRankView {
                    first: part.first,
                    scale: part.scale,
                    a: WeightView { dtype: part.dtype.into(), rows: part.rank, cols: self.cols, bytes: a },
                    b: WeightView { dtype: part.dtype.into(), rows: part.rows, cols: part.rank, bytes: b },
                })
                .collect();
            device.set_low_rank(&mut changes, slot, &views).unwrap();
        }
        changes
    }

    fn run(&self, device: &mut CpuBackend) -> Vec<f32> {
        let changes = self.changes(device);
        let step = upload(device, &self.seqs);
        let mut out = buffer(device, &self.out);
        let x = buffer(device, &self.x);
        device.add_low_rank(&mut out, &x, &changes, &step).unwrap();
        values(device, &out, self.out.len())
    }

    /// The result, and for each element the sum of the magnitudes it was made of.
    fn expected(&self) -> Vec<(f64, f64)> {
        let mut expected: Vec<_> =
            self.out.iter().map(|&out| (f64::from(out), f64::from(out).abs())).collect();
        let slots = self.seqs.iter().flat_map(|&(tokens, slot)| std::iter::repeat_n(slot, tokens));
        for (token, slot) in slots.enumerate() {
            let x = &self.x[token * self.cols..][..self.cols];
            for part in self.adapters.get(slot as usize).into_iter().flatten() {
                for row in 0..part.rows {
                    let terms = (0..part.rank).flat_map(|r| {
                        let b = f64::from(part.scale) * f64::from(part.b[row * part.rank + r]);
                        let a = &part.a[r * self.cols..][..self.cols];
                        a.iter().zip(x).map(move |(&a, &x)| b * f64::from(a) * f64::from(x))
                    });
                    let (sum, size) = &mut expected[token * self.rows + part.first + row];
                    *sum += terms.clone().sum::<f64>();
                    *size += terms.map(f64::abs).sum::<f64>();
                }
            }
        }
        expected
    }

    #[track_caller]
    fn check(&self) {
        let expected = self.expected();
        for mut device in devices(2) {
            for (i, (got, (want, size))) in self.run(&mut device).into_iter().zip(&expected).enumerate() {
                let error = (f64::from(got) - want).abs();
                assert!(
                    error <= 1e-6 * size,
                    "{:?}: element {i} is off by {error:e} of {size}",
                    device.isa()
                );
            }
        }
    }
}

fn upload(device: &mut CpuBackend, seqs: &[(usize, u32)]) -> Step {
    let tokens: usize = seqs.iter().map(|(tokens, _)| tokens).sum();
    let mut cu_q = vec![0];
    for (tokens, _) in seqs {
        cu_q.push(cu_q[cu_q.len() - 1] + *tokens as u32);
    }
    let kv_len: Vec<u32> = seqs.iter().map(|(tokens, _)| *tokens as u32).collect();
    let adapters: Vec<u32> = seqs.iter().map(|(_, slot)| *slot).collect();
    let positions: Vec<u32> = kv_len.iter().flat_map(|len| 0..*len).collect();
    let slots: Vec<u32> = (0..tokens as u32).collect();
    let inputs = StepInputs {
        ids: &vec![0; tokens],
        positions: &positions,
        slots: &slots,
        cu_q: &cu_q,
        kv_len: &kv_len,
        block_tables: &[],
        block_offsets: &vec![0; seqs.len() + 1],
        rope: &[],
        adapters: &adapters,
    };
    let mut step = device.step_buffers(tokens, seqs.len(), 0).unwrap();
    device.upload(&mut step, &inputs).unwrap();
    step
}

#[test]
fn matches_the_reference_at_odd_shapes() {
    for dtype in DTYPES {
        for (seed, (rows, cols, rank)) in
            [(1, 1, 1), (17, 3, 2), (300, 257, 8), (129, 600, 16), (64, 255, 5), (95, 513, 33), (530, 70, 64)]
                .into_iter()
                .enumerate()
        {
            let mut rng = Rng::new(seed as u64);
            let part = Part::new(&mut rng, dtype, 0, (rank, rows), cols);
            let seqs = [(1, 0), (2, NO_ADAPTER), (7, 0), (55, 0)];
            Case::new(&mut rng, (rows, cols), vec![vec![part]], &seqs).check();
        }
    }
}

/// Query, key and value of several adapters, some of which leave parts out; ranks, scales and types differ.
fn several(rng: &mut Rng, seqs: &[(usize, u32)]) -> Case {
    let (rows, cols) = (40 + 17 + 17, 311);
    let mut part = |dtype, first, rank, rows| Part::new(rng, dtype, first, (rank, rows), cols);
    let adapters = vec![
        vec![part(DType::F32, 0, 16, 40), part(DType::F32, 40, 16, 17), part(DType::F32, 57, 16, 17)],
        vec![part(DType::BF16, 57, 3, 17)],
        vec![part(DType::F16, 0, 24, 40), part(DType::F32, 40, 1, 17), part(DType::BF16, 57, 9, 17)],
        vec![],
        vec![part(DType::F32, 0, 40, 74)],
    ];
    Case::new(rng, (rows, cols), adapters, seqs)
}

#[test]
fn every_sequence_gets_its_own_adapter() {
    let seqs =
        [(1, 4), (1, 0), (3, 2), (1, NO_ADAPTER), (1, 0), (9, 1), (1, 3), (2, 4), (1, 9), (60, 2), (1, 1)];
    several(&mut Rng::new(5), &seqs).check();
}

/// A row has the same bits alone and in any company, with any number of threads; nothing of another row leaks into it,
/// not even a NaN; and a row without an adapter stays as it is.
#[test]
fn rows_do_not_depend_on_the_batch() {
    for mut device in devices(1) {
        let isa = device.isa();
        for slot in [0, 1, 2, 3, 4, NO_ADAPTER] {
            let alone = several(&mut Rng::new(7), &[(1, slot)]);
            let want = bits(&alone.run(&mut device));
            if matches!(slot, 3 | NO_ADAPTER) {
                assert_eq!(want, bits(&alone.out));
            }
            for (threads, company) in [(1, 1), (2, 5), (3, 6), (2, 50)] {
                let seqs = [(company, 0), (2, 2), (company, slot), (1, 1), (3, 4)];
                let mut together = several(&mut Rng::new(7), &seqs);
                together.x.fill(f32::NAN);
                let row = company + 2 + company / 2;
                together.x[row * alone.cols..][..alone.cols].copy_from_slice(&alone.x);
                together.out[row * alone.rows..][..alone.rows].copy_from_slice(&alone.out);
                let got = together.run(&mut CpuBackend::with_isa(threads, isa));
                assert_eq!(bits(&got[row * alone.rows..][..alone.rows]), want, "{isa:?} slot {slot}");
            }
        }
    }
}

/// A slot can be emptied and taken anew.
#[test]
fn a_slot_is_replaced() {
    let mut device = CpuBackend::new(2);
    let case = several(&mut Rng::new(3), &[(2, 0)]);
    let mut changes = case.changes(&mut device);
    device.set_low_rank(&mut changes, 0, &[]).unwrap();
    let step = upload(&mut device, &case.seqs);
    let (mut out, x) = (buffer(&device, &case.out), buffer(&device, &case.x));
    device.add_low_rank(&mut out, &x, &changes, &step).unwrap();
    assert_eq!(bits(&values(&device, &out, case.out.len())), bits(&case.out));
}
