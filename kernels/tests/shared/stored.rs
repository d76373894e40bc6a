//! What is left of numbers in storage, by the formats' definitions alone.

use weirgate_kernels::{DType, KvType, SmallFloat};

use crate::common::rounded;

/// A float of eight bits: its codes are a sign, an exponent with this bias, and this many bits of mantissa.
pub struct Format {
    mantissa: u32,
    bias: i32,
    /// The largest finite code.
    most: u8,
}

impl Format {
    pub fn of(small: SmallFloat) -> Self {
        match small {
            SmallFloat::E4M3 => Self { mantissa: 3, bias: 7, most: 0x7e },
            SmallFloat::E5M2 => Self { mantissa: 2, bias: 15, most: 0x7b },
        }
    }

    /// The finite magnitudes, in order.
    pub fn magnitudes(&self) -> Vec<f64> {
        let value = |code: u8| {
            let steps = f64::from(code & ((1 << self.mantissa) - 1)) / f64::from(1 << self.mantissa);
            match i32::from(code >> self.mantissa) {
                0 => steps * 2_f64.powi(1 - self.bias),
                exponent => (1.0 + steps) * 2_f64.powi(exponent - self.bias),
            }
        };
        (0..=self.most).map(value).collect()
    }

    /// The nearest of the finite numbers; of two, that with an even code.
    pub fn nearest(magnitudes: &[f64], value: f64) -> f64 {
        let above = magnitudes.partition_point(|&m| m < value.abs()).min(magnitudes.len() - 1);
        let below = above.saturating_sub(1);
        let (down, up) = (value.abs() - magnitudes[below], magnitudes[above] - value.abs());
        let code = if down < up || down == up && below % 2 == 0 { below } else { above };
        magnitudes[code].copysign(value)
    }

    /// A head: divided by the least power of two that keeps it in range, rounded, and multiplied again.
    fn head(&self, head: &[f32]) -> Vec<f64> {
        let magnitudes = self.magnitudes();
        let most = magnitudes[magnitudes.len() - 1];
        let largest = head.iter().fold(0.0, |most: f64, &v| most.max(f64::from(v).abs()));
        let mut scale = 2_f64.powi(-126);
        while largest > most * scale {
            scale *= 2.0;
        }
        head.iter().map(|&v| Self::nearest(&magnitudes, f64::from(v) / scale) * scale).collect()
    }
}

/// What a cache of type `kv` has of a key or a value.
pub fn stored_head(kv: KvType, head: &[f32]) -> Vec<f64> {
    match kv {
        KvType::Float(dtype) => head.iter().map(|&v| f64::from(rounded(dtype, v))).collect(),
        KvType::Small(small) => Format::of(small).head(head),
    }
}

/// Every type that a GPU's cache may have.
#[allow(dead_code)] // The CPU has floats alone.
pub const KV_TYPES: [KvType; 5] = [
    KvType::Float(DType::F32),
    KvType::Float(DType::F16),
    KvType::Float(DType::BF16),
    KvType::Small(SmallFloat::E4M3),
    KvType::Small(SmallFloat::E5M2),
];
