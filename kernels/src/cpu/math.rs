//! Exponential, hyperbolic tangent and error function over [`Simd`]. Each lane's result depends on that lane alone.

use super::isa::Simd;

/// `e^x`, relative error below 2e-7; exactly 1 at 0; 0 below the smallest normal f32's logarithm.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const LOWEST: f32 = -87.3;
    // ln 2 in two parts; the first has few enough bits for n * LN2_HIGH to be exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = s.max(s.splat(LOWEST), s.min(s.splat(89.0), x));
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    let r = s.nfma(n, s.splat(LN2_LOW), s.nfma(n, s.splat(LN2_HIGH), clamped));
    // Taylor: |r| <= ln 2 / 2, so the first term left out is below 6e-9.
    const TERMS: [f32; 6] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];
    let mut p = s.splat(1.0 / 5040.0);
    for term in TERMS {
        p = s.fma(p, r, s.splat(term));
    }
    let p = s.fma(p, r, s.splat(1.0));
    s.select_lt(x, s.splat(LOWEST), s.splat(0.0), s.scale2(p, n))
}

/// Hyperbolic tangent, relative error below 1e-6.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let e = exp(s, s.add(x, x));
    let large = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    // Taylor near zero, where the difference above cancels.
    const TERMS: [f32; 6] =
        [21_844.0 / 6_081_075.0, -1_382.0 / 155_925.0, 62.0 / 2_835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0];
    let z = s.mul(x, x);
    let mut p = s.splat(-929_569.0 / 638_512_875.0);
    for term in TERMS {
        p = s.fma(p, z, s.splat(term));
    }
    let small = s.fma(s.mul(p, z), x, x);
    s.select_lt(s.max(x, s.sub(s.splat(0.0), x)), s.splat(0.5), small, large)
}

/// Error function, absolute error below 5e-7.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let zero = s.splat(0.0);
    let negative = s.sub(zero, x);
    let a = s.max(x, negative);
    let z = s.mul(a, a);
    // Abramowitz and Stegun, formula 7.1.26.
    const LARGE: [f32; 4] = [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let t = s.div(s.splat(1.0), s.fma(a, s.splat(0.327_591_1), s.splat(1.0)));
    let mut q = s.splat(1.061_405_4);
    for term in LARGE {
        q = s.fma(q, t, s.splat(term));
    }
    let large = s.nfma(s.mul(q, t), exp(s, s.sub(zero, z)), s.splat(1.0));
    // Maclaurin below one: 2/√π Σ (-1)^n a^(2n+1) / (n! (2n+1)).
    const SMALL: [f32; 8] = [
        -1.0 / 75_600.0,
        1.0 / 9_360.0,
        -1.0 / 1_320.0,
        1.0 / 216.0,
        -1.0 / 42.0,
        1.0 / 10.0,
        -1.0 / 3.0,
        1.0,
    ];
    let mut p = s.splat(1.0 / 685_440.0);
    for term in SMALL {
        p = s.fma(p, z, s.splat(term));
    }
    let small = s.mul(s.mul(p, a), s.splat(std::f32::consts::FRAC_2_SQRT_PI));
    let y = s.select_lt(a, s.splat(1.0), small, large);
    s.select_lt(x, zero, s.sub(zero, y), y)
}

#[cfg(test)]
mod tests {
    use super::super::isa::{Dispatch, Isa, Kernel, Simd};

    /// Applies a function of this module to sixteen values.
    struct Apply<'a>(Function, &'a mut [f32; 16]);

    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Tanh,
        Erf,
    }

    impl Kernel for Apply<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let x = s.load(self.1);
            let y = match self.0 {
                Function::Exp => super::exp(s, x),
                Function::Tanh => super::tanh(s, x),
                Function::Erf => super::erf(s, x),
            };
            s.store(y, self.1);
        }
    }

    /// `check(instruction set, x, f(x))` over `xs` on every instruction set.
    fn apply(function: Function, xs: &[f32], check: impl Fn(Isa, f32, f32)) {
        for isa in Isa::available() {
            for part in xs.chunks(16) {
                let mut lanes = [0.0; 16];
                lanes[..part.len()].copy_from_slice(part);
                Dispatch::new(isa).run(Apply(function, &mut lanes));
                part.iter().zip(lanes).for_each(|(&x, y)| check(isa, x, y));
            }
        }
    }

    fn range(from: f32, to: f32) -> Vec<f32> {
        (0..200_000).map(|i| from + (to - from) * (i as f32 / 200_000.0)).collect()
    }

    #[test]
    fn exp_is_accurate() {
        apply(Function::Exp, &range(-87.29, 88.7), |isa, x, y| {
            let error = f64::from(y) / f64::from(x).exp() - 1.0;
            assert!(error.abs() < 2e-7, "{isa:?}: exp({x}) is {y}, off by {error:e}");
        });
    }

    #[test]
    fn exp_at_the_ends() {
        let xs = [0.0, -0.0, f32::NEG_INFINITY, f32::MIN, -1000.0, 1000.0, f32::INFINITY, f32::NAN];
        let want = [1.0, 1.0, 0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY, f32::NAN];
        apply(Function::Exp, &xs, |isa, x, y| {
            let want = want[xs.iter().position(|v| v.to_bits() == x.to_bits()).unwrap()];
            assert!(y == want || (y.is_nan() && want.is_nan()), "{isa:?}: exp({x}) is {y}");
        });
    }

    #[test]
    fn tanh_is_accurate() {
        for xs in [range(-12.0, 12.0), range(-0.6, 0.6), range(-1e-5, 1e-5), vec![-1e30, 1e30]] {
            apply(Function::Tanh, &xs, |isa, x, y| {
                let want = f64::from(x).tanh();
                let error = (f64::from(y) - want).abs();
                assert!(error <= 1e-6 * want.abs(), "{isa:?}: tanh({x}) is {y}, off by {error:e}");
            });
        }
    }

    /// Values of erf from published tables.
    #[test]
    fn erf_is_accurate() {
        let table = [
            (0.0, 0.0),
            (0.1, 0.112_462_916_018_284_9),
            (0.5, 0.520_499_877_813_046_5),
            (0.9, 0.796_908_212_422_832),
            (1.0, 0.842_700_792_949_714_9),
            (1.1, 0.880_205_069_574_081_7),
            (1.5, 0.966_105_146_475_310_8),
            (2.0, 0.995_322_265_018_952_7),
            (3.0, 0.999_977_909_503_001_4),
            (6.0, 1.0),
            (1e20, 1.0),
        ];
        for (x, want) in table {
            apply(Function::Erf, &[x, -x], |isa, x, y| {
                let error = (f64::from(y.abs()) - want).abs();
                assert!(error < 5e-7, "{isa:?}: erf({x}) is {y}, off by {error:e}");
                assert!(want == 0.0 || y.is_sign_negative() == x.is_sign_negative());
            });
        }
    }
}
