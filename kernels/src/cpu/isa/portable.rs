use half::{bf16, f16};

use super::Simd;

/// Sixteen lanes in plain Rust, which the compiler vectorises as far as the target's baseline goes.
#[derive(Clone, Copy)]
pub(super) struct Portable;

type V = [f32; 16];

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type V = V;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> V {
        [value; 16]
    }
    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> V {
        *from
    }
    #[inline(always)]
    fn store(self, v: V, to: &mut [f32; 16]) {
        *to = v;
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; 16]) -> V {
        from.map(f16::to_f32)
    }
    #[inline(always)]
    fn load_bf16_first(self, from: &[[bf16; 16]; 2]) -> V {
        std::array::from_fn(|i| from.as_flattened()[2 * i].to_f32())
    }
    #[inline(always)]
    fn load_bf16_second(self, from: &[[bf16; 16]; 2]) -> V {
        std::array::from_fn(|i| from.as_flattened()[2 * i + 1].to_f32())
    }
    #[inline(always)]
    fn prefetch<T>(self, _at: *const T) {}

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }
    // Two roundings: a fused multiply-add without the instruction is a slow library call.
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn nfma(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| c[i] - a[i] * b[i])
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    // Adding and taking away 1.5 * 2^23 leaves no room for a fraction; larger numbers have none.
    #[inline(always)]
    fn round(self, a: V) -> V {
        const MAGIC: f32 = 12_582_912.0;
        a.map(|x| if x.abs() < 4_194_304.0 { (x + MAGIC) - MAGIC } else { x })
    }
    #[inline(always)]
    fn scale2(self, a: V, n: V) -> V {
        let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
        zip(a, n, |a, n| {
            let n = n as i32;
            a * power(n >> 1) * power(n - (n >> 1))
        })
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, yes: V, no: V) -> V {
        std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn keep(self, v: V, from: usize, to: usize, other: V) -> V {
        std::array::from_fn(|i| if (from..to).contains(&i) { v[i] } else { other[i] })
    }
    #[inline(always)]
    fn max_lane(self, v: V) -> f32 {
        v.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
    }
}
