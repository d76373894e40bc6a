use weirgate_kernels::cuda::{CudaBackend, Gpu, Watched};
use weirgate_kernels::{Backend, DType, KernelError, KvType, SmallFloat};

use crate::common::{Rng, assert_close, bits, buffer, values};
use crate::device;
use crate::paged::{Case, Inputs, Run};
use crate::stored::{Format, KV_TYPES, stored_head};

/// Every token by itself.
fn exact() -> CudaBackend<crate::TestGpu> {
    CudaBackend::deterministic(crate::gpu())
}

/// The shapes of well-known models, then shapes nobody has; several splits, and heads that fill no tile.
fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new(14, 2, 64, 16, &[1, 60, 37]),
        Case::new(8, 2, 128, 32, &[40, 5]),
        Case::new(4, 4, 80, 16, &[37]),
        Case::new(2, 1, 96, 16, &[20]),
        Case::new(3, 1, 256, 64, &[26]),
        Case::new(5, 1, 128, 16, &[19]),
        Case::new(16, 2, 128, 8, &[10, 3]),
        Case::new(2, 2, 256, 16, &[17]),
        Case::new(8, 1, 256, 32, &[9]),
        Case::new(1, 1, 7, 5, &[40, 1, 1, 23]),
        Case::new(4, 2, 33, 1, &[30]),
        Case::new(10, 2, 24, 24, &[30, 29]),
        Case::new(20, 1, 16, 8, &[20]),
        Case::new(2, 1, 16, 16, &[530]),
    ];
    for window in [1, 5, 64, 260] {
        let mut case = Case::new(4, 2, 16, 16, &[300, 3]);
        case.params.window = Some(window);
        cases.push(case);
    }
    let mut capped = Case::new(6, 2, 48, 8, &[60]);
    capped.params.softcap = Some(1.5);
    capped.params.window = Some(33);
    cases.push(capped);
    cases
}

/// The last token of each sequence in a step of its own: that is when blocks take splits.
fn last_alone(case: &Case) -> Vec<Vec<usize>> {
    let before = case.lens.iter().map(|&len| len - 1).collect();
    vec![before, vec![1; case.lens.len()]]
}

#[test]
fn matches_the_reference() {
    for case in cases() {
        for dtype in KV_TYPES {
            let case = Case { dtype, ..case.clone() };
            let want = case.reference();
            let got = case.run(&mut exact(), &case.whole());
            for (got, want) in got.iter().zip(&want) {
                assert_close(got, want, 1e-5, &format!("{case:?}"));
            }
        }
    }
}

/// The last token of sequences with more positions than a block takes: so few rows that blocks take splits, some of which
/// lie behind the window, or hold nothing.
#[test]
fn splits_match_the_reference() {
    for (heads, kv_heads, head_dim, window) in [
        (1, 1, 64, None),
        (8, 1, 64, Some(300)),
        (4, 2, 80, None),
        (3, 3, 128, Some(30)),
        (5, 1, 128, None),
        (2, 2, 256, None),
        (8, 1, 256, Some(270)),
    ] {
        let mut case = Case::new(heads, kv_heads, head_dim, 16, &[258, 520]);
        case.params.window = window;
        for dtype in KV_TYPES {
            case.dtype = dtype;
            let (gpu, watch) = Watched::new(crate::gpu());
            let mut device = CudaBackend::deterministic(gpu);
            let mut run = Run::new(&case, &mut device);
            run.store(&mut device, &[257, 519]);
            let before = watch.counts().launches;
            run.step(&mut device, &[1, 1]);
            assert_eq!(watch.counts().launches - before, 3, "keys, splits and their sum: {case:?}");
            for (seq, got) in run.out.iter().enumerate() {
                let want = case.reference_from(seq, case.lens[seq] - 1);
                assert_close(got, &want, 1e-5, &format!("{case:?}"));
            }
        }
    }
}

/// A case with every sequence in one piece and in several, each time on a new device, which `after` looks at. On tensor cores
/// queries and probabilities are rounded to the cache's type, or bf16 for small floats.
pub fn check_stretches<G: Gpu>(case: &Case, device: fn() -> CudaBackend<G>, after: impl Fn(&CudaBackend<G>)) {
    let bound = if case.dtype == KvType::from(DType::F16) { 4e-3 } else { 3e-2 };
    let mut case = case.clone();
    // Milder scores, so that a rounded query does not choose another key.
    case.params.scale /= 4.0;
    let want = case.reference();
    for chunks in [case.whole(), case.random_chunks(&mut Rng::new(8))] {
        let mut device = device();
        let got = case.run(&mut device, &chunks);
        for (got, want) in got.iter().zip(&want) {
            assert_close(got, want, bound, &format!("{chunks:?} {case:?}"));
        }
        after(&device);
    }
}

#[test]
fn stretches_match_the_reference() {
    for case in cases() {
        for dtype in KV_TYPES.into_iter().skip(1) {
            check_stretches(&Case { dtype, ..case.clone() }, device, |_| ());
        }
    }
}

/// Groups that are even and odd, blocks of all sizes, windows that begin inside of a block, and stretches that fill no tile of
/// 128 rows or keys.
pub fn long_stretches() -> Vec<Case> {
    let case = |heads, kv_heads, head_dim, block_size, lens: &[usize], window, softcap| {
        let mut case = Case::new(heads, kv_heads, head_dim, block_size, lens);
        (case.params.window, case.params.softcap) = (window, softcap);
        case
    };
    vec![
        case(4, 2, 128, 16, &[150, 17, 40], None, None),
        case(7, 1, 64, 32, &[300], None, None),
        case(2, 2, 128, 8, &[130, 129], Some(100), None),
        case(4, 1, 64, 128, &[290], Some(17), Some(1.5)),
        case(2, 1, 128, 64, &[64, 400], None, Some(2.0)),
        case(1, 1, 64, 16, &[70], Some(1), None),
    ]
}

/// A stretch's tokens come out the same to the bit however it is cut, as long as the pieces are long.
#[test]
fn stretches_do_not_depend_on_the_cuts() {
    for (heads, kv_heads, head_dim, window) in [(4, 1, 64, None), (2, 1, 80, Some(50)), (3, 3, 24, Some(100))]
    {
        let mut case = Case::new(heads, kv_heads, head_dim, 16, &[170, 60]);
        for dtype in [KvType::from(DType::BF16), KvType::from(SmallFloat::E4M3)] {
            (case.dtype, case.params.window) = (dtype, window);
            let want = case.run(&mut device(), &case.whole());
            for chunks in [vec![vec![64, 0], vec![40, 60], vec![66, 0]], vec![vec![17, 33], vec![153, 27]]] {
                let got = case.run(&mut device(), &chunks);
                for (got, want) in got.iter().zip(&want) {
                    assert_eq!(bits(got), bits(want), "{chunks:?}, {case:?}");
                }
            }
        }
    }
}

/// In one piece or several, one split at a time or all in one block: the same bits.
#[test]
fn does_not_depend_on_the_chunks() {
    for (index, case) in cases().into_iter().enumerate() {
        let case = Case { dtype: KV_TYPES[index % 5], rotary_dim: case.head_dim / 2 * 2, ..case };
        let want = case.run(&mut exact(), &case.whole());
        for chunks in [last_alone(&case), case.random_chunks(&mut Rng::new(3))] {
            let chunks: Vec<_> = chunks.into_iter().filter(|chunk| chunk.iter().any(|&n| n > 0)).collect();
            let got = case.run(&mut exact(), &chunks);
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(bits(got), bits(want), "{chunks:?}, {case:?}");
            }
        }
    }
}

/// Queries and keys are rotated, the rest of each head and the values are not.
#[test]
fn rotates() {
    for dtype in KV_TYPES {
        let mut device = device();
        let mut case = Case::new(3, 1, 24, 8, &[1]);
        (case.rotary_dim, case.dtype) = (10, dtype);
        let (d, half) = (case.head_dim, case.rotary_dim / 2);
        let before = case.qkv(0);
        let sin = [0.8, -0.8, 0.8, 0.8, -0.8].to_vec();
        let mut inputs = Inputs { cos: vec![0.6_f32; half], sin: sin.clone(), ..Inputs::default() };
        inputs.push(&[2], 8, 0, 1);
        let mut cache = device.kv_cache(case.shape(1)).unwrap();
        let mut step = device.step_buffers(1, 1, 1).unwrap();
        inputs.upload(&mut device, &mut step);
        let mut qkv = buffer(&device, &before);
        device.rope_and_store(&mut qkv, &mut cache, &step, 0, 3, 0).unwrap();
        let mut want: Vec<f64> = before.iter().map(|&v| f64::from(v)).collect();
        for head in 0..4 {
            for i in 0..half {
                let (a, b) = (f64::from(before[head * d + i]), f64::from(before[head * d + half + i]));
                want[head * d + i] = 0.6 * a - f64::from(sin[i]) * b;
                want[head * d + half + i] = 0.6 * b + f64::from(sin[i]) * a;
            }
        }
        assert_close(&values(&device, &qkv, before.len()), &want, 5e-7, "rotated");
    }
}

/// A copied block serves as well as the original, in every layer.
#[test]
fn copies_blocks() {
    for dtype in KV_TYPES {
        let mut case = Case::new(4, 2, 24, 4, &[12]);
        case.dtype = dtype;
        let mut device = device();
        let want = case.run(&mut device, &case.whole());
        let mut run = Run::new(&case, &mut device);
        run.step(&mut device, &[11]);
        let used = run.tables[0].clone();
        let free = (0..case.shape(1).blocks as u32).find(|block| !used.contains(block)).unwrap();
        // The second pair overwrites the source of the first: copies happen in order.
        device.copy_blocks(&mut run.cache, &[(used[1], free), (used[0], used[1])]).unwrap();
        run.tables[0] = vec![used[1], free, used[2]];
        run.step(&mut device, &[1]);
        assert_eq!(bits(&run.out[0]), bits(&want[0]));
    }
}

/// One token sees its own value alone, and so gives out what was stored: the nearest code of every number, ties included,
/// next to a largest one that is anything from 2⁻¹⁰⁰ to 2¹⁰⁰.
#[test]
fn small_floats_are_stored_as_defined() {
    for small in [SmallFloat::E4M3, SmallFloat::E5M2] {
        let magnitudes = Format::of(small).magnitudes();
        let middles = magnitudes.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        let mut numbers: Vec<f64> = magnitudes.iter().copied().chain(middles.clone()).collect();
        numbers.extend(middles.map(|m| m * (1.0 + 1e-6)));
        for (n, power) in [0, 1, -7, 100, -100].into_iter().enumerate() {
            // In heads of 200, each with the largest number.
            for some in numbers.chunks(199) {
                let sign = |i: usize| if (i + n).is_multiple_of(2) { 1.0 } else { -1.0 };
                let mut head: Vec<f32> =
                    some.iter().enumerate().map(|(i, v)| (sign(i) * v * 2_f64.powi(power)) as f32).collect();
                head.resize(199, 0.0);
                head.push((magnitudes[magnitudes.len() - 1] * 2_f64.powi(power)) as f32);
                let found = value_of_one(small.into(), &head);
                let want: Vec<f32> = stored_head(small.into(), &head).iter().map(|&v| v as f32).collect();
                // The sign of a zero is not a value's.
                assert_eq!(found, want, "{small:?}, 2^{power}");
                let largest = f64::from(head[199]);
                let (relative, absolute) = match small {
                    SmallFloat::E4M3 => (1.0 / 16.0, largest * 2_f64.powi(-17)),
                    SmallFloat::E5M2 => (1.0 / 8.0, largest * 2_f64.powi(-30)),
                };
                for (&v, &stored) in head.iter().zip(&found) {
                    let error = f64::from((v - stored).abs());
                    assert!(error <= f64::from(v.abs()) * relative || error <= absolute, "{v}: {stored}");
                }
            }
        }
        // Nothing but zeros; and what is not finite leaves nothing finite.
        assert_eq!(value_of_one(small.into(), &[0.0; 8]), [0.0; 8]);
        for bad in [f32::NAN, f32::INFINITY] {
            let found = value_of_one(small.into(), &[1.0, bad, 0.0, -2.0]);
            assert!(found.iter().all(|v| !v.is_finite()), "{found:?}");
        }
    }
}

/// What attention gives for a lone token with this value.
fn value_of_one(dtype: KvType, value: &[f32]) -> Vec<f32> {
    let mut device = exact();
    let mut case = Case::new(1, 1, value.len(), 8, &[1]);
    case.dtype = dtype;
    let mut inputs = Inputs::default();
    inputs.push(&[2], 8, 0, 1);
    let mut cache = device.kv_cache(case.shape(1)).unwrap();
    let mut step = device.step_buffers(1, 1, 1).unwrap();
    inputs.upload(&mut device, &mut step);
    let mut qkv = buffer(&device, &[&vec![0.5; 2 * value.len()][..], value].concat());
    device.rope_and_store(&mut qkv, &mut cache, &step, 0, 1, 0).unwrap();
    let mut out = device.buffer(value.len()).unwrap();
    device.attention(&mut out, &qkv, &cache, &step, 0, &case.params).unwrap();
    values(&device, &out, value.len())
}

/// What the kernels cannot do is refused at allocation.
#[test]
fn heads_have_at_most_256_elements() {
    let device = device();
    for (head_dim, fine) in [(1, true), (72, true), (256, true), (257, false)] {
        let cache = device.kv_cache(Case::new(2, 1, head_dim, 16, &[3]).shape(1));
        assert_eq!(cache.is_ok(), fine, "{head_dim}");
        assert!(matches!(cache.err(), None | Some(KernelError::Shape { op: "kv_cache", .. })));
    }
}
