//! The non-linearities, over [`Simd`].

use super::isa::{Kernel, Simd, load_part, store_part};
use super::math::{erf, exp, tanh};
use super::panel::LANES;
use crate::Activation;

/// `act` of sixteen values.
pub(crate) trait Unary {
    fn of<S: Simd>(s: S, x: S::V) -> S::V;
}

pub(crate) struct Silu;
pub(crate) struct Gelu;
pub(crate) struct GeluTanh;
pub(crate) struct Relu;
pub(crate) struct Tanh;

impl Unary for Silu {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), x))))
    }
}

impl Unary for Gelu {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        let e = erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
        s.mul(s.mul(s.splat(0.5), x), s.add(s.splat(1.0), e))
    }
}

impl Unary for GeluTanh {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        // √(2/π) (x + 0.044715 x³)
        let cube = s.mul(s.mul(x, x), x);
        let inner = s.mul(s.splat(0.797_884_6), s.fma(cube, s.splat(0.044_715), x));
        s.mul(s.mul(s.splat(0.5), x), s.add(s.splat(1.0), tanh(s, inner)))
    }
}

impl Unary for Relu {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        s.select_lt(x, s.splat(0.0), s.splat(0.0), x)
    }
}

impl Unary for Tanh {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        tanh(s, x)
    }
}

/// Evaluates an expression with the type `$A` of an [`Activation`].
macro_rules! with_activation {
    ($act:expr, $A:ident => $body:expr) => {
        match $act {
            $crate::Activation::Silu => {
                type $A = $crate::cpu::activation::Silu;
                $body
            }
            $crate::Activation::Gelu => {
                type $A = $crate::cpu::activation::Gelu;
                $body
            }
            $crate::Activation::GeluTanh => {
                type $A = $crate::cpu::activation::GeluTanh;
                $body
            }
            $crate::Activation::Relu => {
                type $A = $crate::cpu::activation::Relu;
                $body
            }
            $crate::Activation::Tanh => {
                type $A = $crate::cpu::activation::Tanh;
                $body
            }
        }
    };
}
pub(crate) use with_activation;

/// `x = act(x)`.
pub(crate) struct Activate<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) act: Activation,
}

impl Kernel for Activate<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_activation!(self.act, A => {
            for x in self.x.chunks_mut(LANES) {
                store_part(s, A::of(s, load_part(s, x)), x);
            }
        });
    }
}
