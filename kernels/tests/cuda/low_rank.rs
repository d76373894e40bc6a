use weirgate_kernels::cuda::{CudaBackend, Watched};
use weirgate_kernels::{
    Activation, Backend, DType, KernelError, LowRankView, NO_ADAPTER, StepInputs, WeightView,
};

use crate::common::{DTYPES, Rng, buffer, encode, rounded, values};
use crate::{device, gpu};

const ROWS: usize = 300;
const COLS: usize = 77;

/// One part of an adapter: the first of its rows, how many there are, its rank, its scale.
type Shape = (usize, usize, usize, f32);

struct Adapter {
    dtype: DType,
    shapes: Vec<Shape>,
    /// `a` and `b` of each part, as stored.
    matrices: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Adapter {
    fn new(dtype: DType, shapes: &[Shape], seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut stored = |len| rng.values(len).into_iter().map(|v| rounded(dtype, v)).collect::<Vec<_>>();
        let matrices =
            shapes.iter().map(|&(_, rows, rank, _)| (stored(rank * COLS), stored(rows * rank))).collect();
        Self { dtype, shapes: shapes.to_vec(), matrices }
    }

    fn set<B: Backend>(
        &self,
        device: &mut B,
        changes: &mut B::LowRanks,
        slot: usize,
    ) -> Result<(), KernelError> {
        let bytes: Vec<_> =
            self.matrices.iter().map(|(a, b)| (encode(self.dtype, a), encode(self.dtype, b))).collect();
        let view = |rows, cols, bytes| WeightView { dtype: self.dtype.into(), rows, cols, bytes };
        let parts: Vec<_> = self
            .shapes
            .iter()
            .zip(&bytes)
            .map(|(&(first, rows, rank, scale), (a, b))| LowRankView {
                first,
                scale,
                a: view(rank, COLS, a),
                b: view(rows, rank, b),
            })
            .collect();
        device.set_low_rank(changes, slot, &parts)
    }

    /// What is added to output `row` for `x`.
    fn addition(&self, x: &[f32], row: usize) -> f64 {
        let mut sum = 0.0;
        for (&(first, rows, rank, scale), (a, b)) in self.shapes.iter().zip(&self.matrices) {
            if (first..first + rows).contains(&row) {
                for r in 0..rank {
                    let lowered: f64 =
                        x.iter().zip(&a[r * COLS..]).map(|(&x, &a)| f64::from(x) * f64::from(a)).sum();
                    sum += f64::from(scale) * lowered * f64::from(b[(row - first) * rank + r]);
                }
            }
        }
        sum
    }
}

#[test]
fn every_token_gets_what_its_adapter_adds() {
    for dtype in DTYPES {
        let adapters = [
            Adapter::new(dtype, &[(0, 100, 8, 2.0), (100, 60, 3, 0.5), (250, 50, 16, 1.0)], 1),
            Adapter::new(dtype, &[(20, 7, 1, -1.5)], 2),
        ];
        let mut device = device();
        let mut changes = device.low_ranks(ROWS, COLS, 8).unwrap();
        adapters[1].set(&mut device, &mut changes, 0).unwrap();
        // Slot 0 is given to another, slot 1 stays empty.
        adapters[0].set(&mut device, &mut changes, 0).unwrap();
        adapters[1].set(&mut device, &mut changes, 2).unwrap();
        let slots = [2, NO_ADAPTER, 0, 1, 7];
        let of_token = [2, 2, NO_ADAPTER, 0, 0, 0, 1, 7];
        let mut step = device.step_buffers(8, 5, 5).unwrap();
        let inputs = StepInputs {
            ids: &[0; 8],
            positions: &[0, 1, 0, 0, 1, 2, 0, 0],
            slots: &[0, 1, 2, 3, 4, 5, 6, 7],
            cu_q: &[0, 2, 3, 6, 7, 8],
            kv_len: &[2, 1, 3, 1, 1],
            block_tables: &[0, 1, 2, 3, 4],
            block_offsets: &[0, 1, 2, 3, 4, 5],
            rope: &[],
            adapters: &slots,
        };
        device.upload(&mut step, &inputs).unwrap();
        let mut rng = Rng::new(3);
        let (before, x) = (rng.values(8 * ROWS), rng.values(8 * COLS));
        let (mut out, x_buf) = (buffer(&device, &before), buffer(&device, &x));
        device.add_low_rank(&mut out, &x_buf, &changes, &step).unwrap();
        for (i, got) in values(&device, &out, 8 * ROWS).into_iter().enumerate() {
            let (token, row) = (i / ROWS, i % ROWS);
            let adapter = match of_token[token] {
                0 => Some(&adapters[0]),
                2 => Some(&adapters[1]),
                _ => None,
            };
            let added = adapter.map_or(0.0, |adapter| adapter.addition(&x[token * COLS..][..COLS], row));
            let want = f64::from(before[i]) + added;
            assert!(
                (f64::from(got) - want).abs() <= 2e-5,
                "{dtype:?} token {token} row {row}: {got}, not {want}"
            );
        }
        device.set_low_rank(&mut changes, 0, &[]).unwrap();
        device.set_low_rank(&mut changes, 2, &[]).unwrap();
        let mut untouched = buffer(&device, &before);
        device.add_low_rank(&mut untouched, &x_buf, &changes, &step).unwrap();
        assert_eq!(values(&device, &untouched, 8 * ROWS), before);
    }
}

#[test]
fn parts_that_do_not_fit_are_refused_and_change_nothing() {
    let mut device = device();
    let mut changes = device.low_ranks(ROWS, COLS, 8).unwrap();
    for shapes in [[(250, 51, 4, 1.0), (301, 0, 1, 1.0)], [(0, 10, 4, 1.0), (9, 10, 4, 1.0)]] {
        let refused = Adapter::new(DType::F32, &shapes, 4).set(&mut device, &mut changes, 0);
        assert!(matches!(refused, Err(KernelError::Shape { op: "set_low_rank", .. })), "{refused:?}");
    }
}

/// An adapter whose steps have enough memory is one that was loaded: no step takes any.
#[test]
fn what_steps_need_is_there_before_them() {
    let (gpu, watch) = Watched::new(gpu());
    let mut device = CudaBackend::new(gpu);
    let mut changes = device.low_ranks(ROWS, COLS, 8).unwrap();
    Adapter::new(DType::F32, &[(0, 100, 8, 2.0)], 1).set(&mut device, &mut changes, 0).unwrap();
    let (x, mut out) = (device.buffer(8 * COLS).unwrap(), device.buffer(8 * ROWS).unwrap());
    let mut step = device.step_buffers(9, 1, 9).unwrap();
    let all: [u32; 9] = std::array::from_fn(|i| i as u32);
    let mut add = |tokens: usize| {
        let inputs = StepInputs {
            ids: &all[..tokens],
            positions: &all[..tokens],
            slots: &all[..tokens],
            cu_q: &[0, tokens as u32],
            kv_len: &[tokens as u32],
            block_tables: &all,
            block_offsets: &[0, 9],
            rope: &[],
            adapters: &[0],
        };
        device.upload(&mut step, &inputs).unwrap();
        let before = watch.counts().allocations;
        let added = device.add_low_rank(&mut out, &x, &changes, &step);
        (watch.counts().allocations - before, added)
    };
    assert!(matches!(add(8), (0, Ok(()))));
    assert!(matches!(add(9), (0, Err(KernelError::Shape { op: "add_low_rank", what: "tokens", .. }))));
}

/// What was recorded knows the adapters that there were: nothing of it is left when one comes, though no memory was given back.
#[test]
fn steps_are_recorded_anew_when_adapters_change() {
    let (gpu, watch) = Watched::new(gpu());
    let mut device = CudaBackend::new(gpu).with_graphs(&[2]);
    let mut changes = [0; 2].map(|_| device.low_ranks(ROWS, COLS, 2).unwrap());
    let adapters = [
        Adapter::new(DType::F32, &[(0, 100, 8, 2.0)], 1),
        Adapter::new(DType::F32, &[(50, 200, 5, 0.5)], 2),
        Adapter::new(DType::F32, &[(0, 300, 12, 1.0)], 3),
    ];
    let mut step = device.step_buffers(2, 2, 2).unwrap();
    let mut rng = Rng::new(4);
    let x = rng.values(2 * COLS);
    let (mut out, zeros) = (device.buffer(2 * ROWS).unwrap(), device.buffer(4 * ROWS).unwrap());
    let x_buf = buffer(&device, &x);
    // Rounds of the same adapters: done, recorded, replayed.
    let rounds = [([Some(0), None], 0, 0), ([Some(0), None], 1, 1), ([Some(0), None], 1, 2)];
    let with_another = [([Some(0), Some(1)], 1, 2), ([Some(0), Some(1)], 2, 3), ([Some(0), Some(1)], 2, 4)];
    let with_others = [([Some(2), Some(1)], 2, 4), ([Some(2), Some(1)], 3, 5), ([None, Some(1)], 3, 5)];
    let mut there = [None, None];
    for (round, (wanted, captures, replays)) in
        rounds.into_iter().chain(with_another).chain(with_others).enumerate()
    {
        for ((changes, there), wanted) in changes.iter_mut().zip(&mut there).zip(wanted) {
            if *there != wanted {
                match wanted {
                    Some(index) => adapters[index].set(&mut device, changes, 0).unwrap(),
                    None => device.set_low_rank(changes, 0, &[]).unwrap(),
                }
                *there = wanted;
            }
        }
        let inputs = StepInputs {
            ids: &[0, 0],
            positions: &[0, 0],
            slots: &[0, 1],
            cu_q: &[0, 1, 2],
            kv_len: &[1, 1],
            block_tables: &[0, 1],
            block_offsets: &[0, 1, 2],
            rope: &[],
            // The same graph serves whichever sequence has the adapter.
            adapters: if round % 2 == 0 { &[0, NO_ADAPTER] } else { &[NO_ADAPTER, 0] },
        };
        device.upload(&mut step, &inputs).unwrap();
        let added = device.repeated::<KernelError>(&step, |device| {
            device.gated(&mut out, &zeros, Activation::Silu, 2, ROWS)?;
            device.add_low_rank(&mut out, &x_buf, &changes[0], &step)?;
            device.add_low_rank(&mut out, &x_buf, &changes[1], &step)
        });
        added.unwrap();
        for (i, got) in values(&device, &out, 2 * ROWS).into_iter().enumerate() {
            let (token, row) = (i / ROWS, i % ROWS);
            let all = wanted
                .iter()
                .flatten()
                .map(|&index| adapters[index].addition(&x[token * COLS..][..COLS], row));
            let want: f64 = if token == round % 2 { all.sum() } else { 0.0 };
            assert!(
                (f64::from(got) - want).abs() <= 2e-5,
                "round {round} token {token} row {row}: {got}, not {want}"
            );
        }
        let counts = watch.counts();
        assert_eq!((counts.captures, counts.replays), (captures, replays), "round {round}");
    }
}
