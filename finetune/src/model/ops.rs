//! What a layer is made of, each with its gradient. All tensors are f32; `T` is the batch's tokens.

use candle_core::{D, Result, Tensor};
use weirgate_models::Activation;

use super::gradient::with_gradient;

/// A frozen projection: `weight` `[out, in]`, `bias` `[out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

impl Linear {
    /// `[T, in]` → `[T, out]`.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let product = x.detach().matmul(&self.weight.t()?)?;
        let value = match &self.bias {
            Some(bias) => product.broadcast_add(bias)?,
            None => product,
        };
        let weight = self.weight.clone();
        with_gradient(x, value, move |gradient| gradient.matmul(&weight))
    }
}

/// The low-rank change of a projection: `a` `[rank, in]`, `b` `[out, rank]`.
#[derive(Debug, Clone)]
pub struct LowRank {
    pub a: Tensor,
    pub b: Tensor,
}

impl LowRank {
    /// `scale · (x aᵀ) bᵀ`, `[T, in]` → `[T, out]`; `keep` `[T, in]` is what dropout multiplies `x` by.
    pub fn apply(&self, x: &Tensor, keep: Option<&Tensor>, scale: f64) -> Result<Tensor> {
        let x = match keep {
            Some(keep) => {
                let (value, keep) = ((x.detach() * keep)?, keep.clone());
                with_gradient(x, value, move |gradient| gradient * &keep)?
            }
            None => x.clone(),
        };
        x.matmul(&self.a.t()?)?.affine(scale, 0.0)?.matmul(&self.b.t()?)
    }
}

/// Root-mean-square norm over the last dimension, times `weight`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let norm = RmsNorm::of(&x.detach(), weight, eps)?;
    with_gradient(x, norm.value()?, move |gradient| norm.backward(gradient))
}

/// A norm of one tensor.
pub struct RmsNorm {
    x: Tensor,
    weight: Tensor,
    /// `1 / √(mean(x²) + eps)`, the last dimension 1.
    inverse: Tensor,
}

impl RmsNorm {
    pub fn of(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Self> {
        let inverse = x.sqr()?.mean_keepdim(D::Minus1)?.affine(1.0, eps)?.sqrt()?.recip()?;
        Ok(Self { x: x.clone(), weight: weight.clone(), inverse })
    }

    pub fn value(&self) -> Result<Tensor> {
        self.x.broadcast_mul(&self.inverse)?.broadcast_mul(&self.weight)
    }

    /// `r (g w) − x r³ mean(x g w)`.
    pub fn backward(&self, gradient: &Tensor) -> Result<Tensor> {
        let weighted = gradient.broadcast_mul(&self.weight)?;
        let mean = (&weighted * &self.x)?.mean_keepdim(D::Minus1)?;
        let along = (mean * self.inverse.powf(3.0)?)?;
        weighted.broadcast_mul(&self.inverse)? - self.x.broadcast_mul(&along)?
    }
}

/// The rotary table of a batch: `[T, 1, rotary_dim / 2]` each.
#[derive(Debug, Clone)]
pub struct Rotation {
    pub cos: Tensor,
    pub sin: Tensor,
}

impl Rotation {
    /// Rotates the first elements of each head, by halves: `[T, heads, head_dim]`.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let value = rotate(&x.detach(), &self.cos, &self.sin)?;
        let (cos, back) = (self.cos.clone(), self.sin.neg()?);
        with_gradient(x, value, move |gradient| rotate(gradient, &cos, &back))
    }
}

fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (half, dim) = (cos.dim(D::Minus1)?, x.dim(D::Minus1)?);
    let (low, high) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let first = (low.broadcast_mul(cos)? - high.broadcast_mul(sin)?)?;
    let second = (high.broadcast_mul(cos)? + low.broadcast_mul(sin)?)?;
    if 2 * half == dim {
        return Tensor::cat(&[first, second], D::Minus1);
    }
    let rest = x.narrow(D::Minus1, 2 * half, dim - 2 * half)?;
    Tensor::cat(&[first, second, rest], D::Minus1)
}

/// `act(gate) · up`.
pub fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    let activated = match activation {
        Activation::Silu => gate.silu()?,
        Activation::Gelu => gate.gelu_erf()?,
        Activation::GeluTanh => gate.gelu()?,
        Activation::Relu => gate.relu()?,
        Activation::Tanh => gate.tanh()?,
    };
    activated * up
}

/// `cap · tanh(x / cap)`.
pub fn soft_cap(x: &Tensor, cap: f64) -> Result<Tensor> {
    x.affine(1.0 / cap, 0.0)?.tanh()?.affine(cap, 0.0)
}

/// The gradient of `x`, of which `capped` is the soft cap.
pub fn soft_cap_backward(capped: &Tensor, cap: f64, gradient: &Tensor) -> Result<Tensor> {
    gradient * capped.sqr()?.affine(-1.0 / (cap * cap), 1.0)?
}

/// Over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let powers = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    let sum = powers.sum_keepdim(D::Minus1)?;
    powers.broadcast_div(&sum)
}
