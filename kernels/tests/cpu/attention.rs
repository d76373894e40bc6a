//! Rotation, cache and attention together, over paged sequences that are fed in pieces.

use proptest::prelude::*;
use weirgate_kernels::Backend;
use weirgate_kernels::cpu::{CpuBackend, Isa};

use crate::common::{DTYPES, Rng, assert_close, bits, buffer, rounded, values};
use crate::devices::devices;
use crate::paged::{Case, Inputs, Run};

/// The shapes of well-known models, then shapes nobody has.
fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new(14, 2, 64, 16, &[1, 150, 37]),
        Case::new(8, 2, 128, 32, &[70, 5]),
        Case::new(4, 4, 80, 16, &[97]),
        Case::new(3, 1, 256, 64, &[66]),
        Case::new(1, 1, 7, 5, &[40, 1, 1, 23]),
        Case::new(10, 2, 24, 24, &[80, 49]),
        Case::new(4, 2, 33, 1, &[30]),
        Case::new(150, 1, 8, 8, &[20]),
    ];
    for window in [1, 5, 16, 64, 90] {
        let mut case = Case::new(4, 2, 16, 16, &[200, 3]);
        case.params.window = Some(window);
        cases.push(case);
    }
    let mut capped = Case::new(6, 2, 48, 8, &[100]);
    capped.params.softcap = Some(1.5);
    capped.params.window = Some(33);
    cases.push(capped);
    cases
}

#[test]
fn matches_the_reference() {
    for case in cases() {
        let want: Vec<_> =
            DTYPES.map(|dtype| Case { dtype: dtype.into(), ..case.clone() }.reference()).into();
        for mut device in devices(2) {
            for (dtype, want) in DTYPES.into_iter().zip(&want) {
                let case = Case { dtype: dtype.into(), ..case.clone() };
                let got = case.run(&mut device, &case.whole());
                for (got, want) in got.iter().zip(want) {
                    assert_close(got, want, 1e-5, &format!("{:?} {case:?}", device.isa()));
                }
            }
        }
    }
}

/// In one piece, token by token, or anything between, alone or together, with any number of threads: the same bits.
#[test]
fn does_not_depend_on_the_chunks() {
    for case in cases() {
        for isa in Isa::available() {
            for dtype in DTYPES {
                let case = Case { dtype: dtype.into(), rotary_dim: case.head_dim / 2 * 2, ..case.clone() };
                let want = case.run(&mut CpuBackend::with_isa(1, isa), &case.whole());
                let mut rng = Rng::new(3);
                for (threads, chunks) in [
                    (1, case.token_by_token()),
                    (2, case.whole()),
                    (3, case.random_chunks(&mut rng)),
                    (2, case.random_chunks(&mut rng)),
                ] {
                    let got = case.run(&mut CpuBackend::with_isa(threads, isa), &chunks);
                    for (got, want) in got.iter().zip(&want) {
                        assert_eq!(bits(got), bits(want), "{isa:?}, {threads} threads, {chunks:?}, {case:?}");
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_any_chunks(
        kv_heads in 1..4usize,
        group in 1..9usize,
        head_dim in 1..70usize,
        block_size in 1..40usize,
        window in proptest::option::of(1..120u32),
        softcap in proptest::option::of(0.5..20.0f32),
        lens in proptest::collection::vec(1..130usize, 1..4),
        (dtype, seed) in (0..3usize, 0..1000u64),
    ) {
        let mut case = Case::new(kv_heads * group, kv_heads, head_dim, block_size, &lens);
        case.params.window = window;
        case.params.softcap = softcap;
        case.dtype = DTYPES[dtype].into();
        case.seed = seed;
        let want = case.reference();
        for mut device in devices(2) {
            let whole = case.run(&mut device, &case.whole());
            let chunked = case.run(&mut device, &case.random_chunks(&mut Rng::new(seed)));
            for ((whole, chunked), want) in whole.iter().zip(&chunked).zip(&want) {
                assert_close(whole, want, 1e-5, &format!("{:?} {case:?}", device.isa()));
                prop_assert_eq!(bits(whole), bits(chunked));
            }
        }
    }
}

/// Queries and keys are rotated, the rest of each head and the values are not; a lone token attends to its own value.
#[test]
fn rotates_and_stores() {
    for dtype in DTYPES {
        for mut device in devices(2) {
            let mut case = Case::new(3, 1, 22, 8, &[1]);
            case.rotary_dim = 10;
            case.dtype = dtype.into();
            let (d, half) = (case.head_dim, case.rotary_dim / 2);
            let before = case.qkv(0);
            let (cos, sin) = (vec![0.6_f32; half], [0.8, -0.8, 0.8, 0.8, -0.8].to_vec());
            let inputs = Inputs { cos, sin: sin.clone(), ..Inputs::default() };
            let mut inputs = inputs;
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
            let mut out = device.buffer(3 * d).unwrap();
            device.attention(&mut out, &qkv, &cache, &step, 0, &case.params).unwrap();
            let stored: Vec<f32> = before[4 * d..].iter().map(|&v| rounded(dtype, v)).collect();
            assert_eq!(values(&device, &out, 3 * d), stored.repeat(3));
        }
    }
}

/// A copied block serves as well as the original, in every layer.
#[test]
fn copies_blocks() {
    for dtype in DTYPES {
        let mut case = Case::new(4, 2, 20, 4, &[12]);
        case.dtype = dtype.into();
        let mut device = CpuBackend::new(2);
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
