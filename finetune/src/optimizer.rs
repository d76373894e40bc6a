//! AdamW (Loshchilov and Hutter, 2019) and the clipping of gradients, as torch computes them.

use candle_core::{Tensor, Var};

use crate::model::Gradients;
use crate::{FinetuneError, Hyperparameters};

/// Added to the norm that gradients are divided by.
const CLIP_EPSILON: f64 = 1e-6;

/// The moments of every trained tensor, in the order of [`crate::model::Adapters::named`].
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    pub moments: Vec<Moments>,
}

/// Running means of a tensor's gradients and of their squares.
#[derive(Debug, Clone)]
pub struct Moments {
    pub first: Tensor,
    pub second: Tensor,
}

impl AdamW {
    /// # Errors
    /// Those of the device.
    pub fn new(settings: &Hyperparameters, trained: &[(String, &Var)]) -> Result<Self, FinetuneError> {
        let moments = trained
            .iter()
            .map(|(_, var)| Ok(Moments { first: var.zeros_like()?, second: var.zeros_like()? }))
            .collect::<candle_core::Result<_>>()?;
        Ok(Self {
            beta1: settings.adam_beta1,
            beta2: settings.adam_beta2,
            epsilon: settings.adam_epsilon,
            weight_decay: settings.weight_decay,
            moments,
        })
    }

    /// Step number `step`, the first is 1, with gradients multiplied by `factor`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn step(
        &mut self,
        step: usize,
        trained: &[(String, &Var)],
        (gradients, factor): (&Gradients, f64),
        rate: f64,
    ) -> Result<(), FinetuneError> {
        let bias = |beta: f64| 1.0 - beta.powi(i32::try_from(step).unwrap_or(i32::MAX));
        let (bias1, bias2) = (bias(self.beta1), bias(self.beta2).sqrt());
        for (index, ((_, var), moments)) in trained.iter().zip(&mut self.moments).enumerate() {
            let Some(gradient) = gradients.get(index) else { continue };
            let gradient = gradient.affine(factor, 0.0)?;
            moments.first =
                (moments.first.affine(self.beta1, 0.0)? + gradient.affine(1.0 - self.beta1, 0.0)?)?;
            moments.second =
                (moments.second.affine(self.beta2, 0.0)? + gradient.sqr()?.affine(1.0 - self.beta2, 0.0)?)?;
            let root = moments.second.sqrt()?.affine(1.0 / bias2, self.epsilon)?;
            let change = (moments.first.affine(rate / bias1, 0.0)? / root)?;
            let decayed = var.as_detached_tensor().affine(1.0 - rate * self.weight_decay, 0.0)?;
            var.set(&(decayed - change)?)?;
        }
        Ok(())
    }
}

/// The norm of all gradients together, and what they are to be multiplied by so that it is at most `most` (0: any).
///
/// # Errors
/// Those of the device.
pub fn clip(gradients: &Gradients, count: usize, most: f64) -> Result<(f64, f64), FinetuneError> {
    let mut squares = 0.0;
    for gradient in (0..count).filter_map(|index| gradients.get(index)) {
        squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    let norm = squares.sqrt();
    let factor = if most > 0.0 { (most / (norm + CLIP_EPSILON)).min(1.0) } else { 1.0 };
    Ok((norm, factor))
}
