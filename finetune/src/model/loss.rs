//! The head and the cross entropy of the learned tokens, with the gradient of the last hidden states, computed a part of the
//! rows at a time: logits of a large vocabulary are never held for a whole batch.

use candle_core::{D, DType, Tensor};

use super::base::Base;
use super::ops::{RmsNorm, soft_cap, soft_cap_backward};
use crate::FinetuneError;

/// Logits held at once.
const LOGITS: usize = 1 << 24;

/// What is left of the forward pass after the layers.
pub struct Head {
    weight: Tensor,
    norm: Tensor,
    eps: f64,
    cap: Option<f64>,
}

impl Head {
    /// # Errors
    /// Those of reading.
    pub fn new(base: &Base, spec: &weirgate_models::ModelSpec) -> Result<Self, FinetuneError> {
        Ok(Self {
            weight: base.head()?,
            norm: base.final_norm()?,
            eps: f64::from(spec.norm_eps),
            cap: spec.logit_softcap.map(f64::from),
        })
    }

    /// Sum over `targets` (`(row of hidden, token)`) of `-log p(token)`, and its gradient times `factor`, `[T, hidden]`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn loss(
        &self,
        hidden: &Tensor,
        targets: &[(u32, u32)],
        factor: f64,
    ) -> Result<(f64, Tensor), FinetuneError> {
        let part = (LOGITS / self.weight.dim(0)?.max(1)).max(1);
        let mut gradient = hidden.zeros_like()?;
        let mut sum = 0.0;
        for targets in targets.chunks(part) {
            let (rows, tokens): (Vec<u32>, Vec<u32>) = targets.iter().copied().unzip();
            let rows = Tensor::from_vec(rows, targets.len(), hidden.device())?;
            let tokens = Tensor::from_vec(tokens, (targets.len(), 1), hidden.device())?;
            let norm = RmsNorm::of(&hidden.index_select(&rows, 0)?, &self.norm, self.eps)?;
            let logits = self.logits(&norm.value()?)?;
            let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
            let powers = shifted.exp()?;
            let total = powers.sum_keepdim(D::Minus1)?;
            let own = (shifted.gather(&tokens, 1)? - total.log()?)?;
            sum -= own.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
            let probabilities = powers.broadcast_div(&total)?;
            let minus_one = Tensor::ones(tokens.shape(), DType::F32, hidden.device())?.neg()?;
            let mut change =
                probabilities.scatter_add(&tokens, &minus_one, D::Minus1)?.affine(factor, 0.0)?;
            if let Some(cap) = self.cap {
                change = soft_cap_backward(&logits, cap, &change)?;
            }
            let change = norm.backward(&change.matmul(&self.weight)?)?;
            gradient = gradient.index_add(&rows, &change, 0)?;
        }
        Ok((sum, gradient))
    }

    /// `[rows, hidden]` → `[rows, vocab]`.
    fn logits(&self, normed: &Tensor) -> candle_core::Result<Tensor> {
        let logits = normed.matmul(&self.weight.t()?)?;
        match self.cap {
            Some(cap) => soft_cap(&logits, cap),
            None => Ok(logits),
        }
    }

    /// The logits after every row of `hidden`, `[T, vocab]`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn all_logits(&self, hidden: &Tensor) -> Result<Tensor, FinetuneError> {
        Ok(self.logits(&RmsNorm::of(hidden, &self.norm, self.eps)?.value()?)?)
    }
}
