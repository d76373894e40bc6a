//! Inputs that look random and are the same for each seed, and checkpoint bytes.

use std::sync::LazyLock;
use std::{env, panic};

use half::{bf16, f16};
use weirgate_kernels::{Backend, DType, WeightView};

pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// What all inputs depend on: `WEIRGATE_TEST_SEED`, else zero. If it is set, tests that fail say it.
pub fn seed() -> u64 {
    static SEED: LazyLock<u64> = LazyLock::new(|| {
        let Ok(text) = env::var("WEIRGATE_TEST_SEED") else { return 0 };
        let seed = text.parse().unwrap();
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            before(info);
            eprintln!("with WEIRGATE_TEST_SEED={seed}");
        }));
        seed
    });
    *SEED
}

/// Splitmix64.
pub struct Rng(u64);

impl Rng {
    /// The numbers of an input: each has its own, besides the [`seed`] of all.
    pub fn new(input: u64) -> Self {
        Self(input ^ seed())
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// In `-1..1`.
    pub fn value(&mut self) -> f32 {
        ((self.bits() >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// What is left of `value` in storage of type `dtype`.
pub fn rounded(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F32 => value,
        DType::F16 => f16::from_f32(value).to_f32(),
        DType::BF16 => bf16::from_f32(value).to_f32(),
    }
}

pub fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&v| match dtype {
            DType::F32 => v.to_le_bytes().to_vec(),
            DType::F16 => f16::from_f32(v).to_le_bytes().to_vec(),
            DType::BF16 => bf16::from_f32(v).to_le_bytes().to_vec(),
        })
        .collect()
}

pub fn matrix<B: Backend>(device: &B, dtype: DType, rows: usize, cols: usize, values: &[f32]) -> B::Matrix {
    device.matrix(&[WeightView { dtype: dtype.into(), rows, cols, bytes: &encode(dtype, values) }]).unwrap()
}

pub fn buffer<B: Backend>(device: &B, values: &[f32]) -> B::Buf {
    device.vector(values).unwrap()
}

pub fn values<B: Backend>(device: &B, buf: &B::Buf, len: usize) -> Vec<f32> {
    let mut out = vec![0.0; len];
    device.download(buf, &mut out).unwrap();
    out
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[track_caller]
pub fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= tolerance, "{what}: element {i} is {got}, expected {want}, error {error:e}");
    }
}
