//! The scale (and minimum) of a group of elements with the least weighted squared error.

/// Elements count by their square; the largest magnitudes are what hurts.
fn weight_by_square(value: f32) -> f32 {
    value * value
}

/// How far around the plain scale is searched, in codes, and in how many steps to either side.
const REACH: f32 = 1.0;
const STEPS: i32 = 10;

/// Codes from 0 to `top` that stand for `scale * code - min`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Affine {
    pub scale: f32,
    /// Not negative.
    pub min: f32,
}

impl Affine {
    /// For a group of `values`.
    ///
    /// Each step tries another scale, rounds, and then takes the scale and minimum that fit the rounded codes best.
    pub fn search(values: &[f32], top: f32) -> Self {
        let rms = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        let low = values.iter().copied().fold(0.0, f32::min);
        let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if high <= low {
            return Self { scale: 0.0, min: -low };
        }
        let error = |fit: Self| -> f32 {
            let each = values.iter().map(|&v| {
                let miss = fit.scale * fit.code(v, top) - fit.min - v;
                (rms + v.abs()) * miss * miss
            });
            each.sum()
        };
        let mut best = Self { scale: (high - low) / top, min: -low };
        let mut least = error(best);
        for step in -STEPS..=STEPS {
            let reach = top + REACH * step as f32 / STEPS as f32;
            let trial = Self { scale: (high - low) / reach, min: -low };
            let Some(fit) = trial.fit(values, top, rms) else { continue };
            let error = error(fit);
            if error < least {
                (best, least) = (fit, error);
            }
        }
        best
    }

    /// The code nearest to `value`.
    pub fn code(self, value: f32, top: f32) -> f32 {
        if self.scale == 0.0 {
            return 0.0;
        }
        ((value + self.min) / self.scale).round_ties_even().clamp(0.0, top)
    }

    /// The weighted least-squares line through the elements over the codes that this one gives them.
    fn fit(self, values: &[f32], top: f32, rms: f32) -> Option<Self> {
        let (mut w, mut wc, mut wcc, mut wv, mut wcv) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for &value in values {
            let (weight, code) = (rms + value.abs(), self.code(value, top));
            w += weight;
            wc += weight * code;
            wcc += weight * code * code;
            wv += weight * value;
            wcv += weight * code * value;
        }
        let determinant = w * wcc - wc * wc;
        if determinant <= 0.0 {
            return None;
        }
        let (scale, offset) = ((w * wcv - wc * wv) / determinant, (wcc * wv - wc * wcv) / determinant);
        // A minimum above zero cannot be stored: then the line goes through zero.
        let fit =
            if offset > 0.0 { Self { scale: wcv / wcc, min: 0.0 } } else { Self { scale, min: -offset } };
        (fit.scale > 0.0).then_some(fit)
    }
}

/// The scale of a group for codes from `-middle` to `middle - 1` that stand for `scale * code`; may be negative.
pub(super) fn symmetric(values: &[f32], middle: f32) -> f32 {
    let largest = values.iter().fold(0.0f32, |far, value| if value.abs() > far.abs() { *value } else { far });
    if largest == 0.0 {
        return 0.0;
    }
    let (mut best, mut most) = (0.0, 0.0);
    for step in -STEPS..=STEPS {
        let inverse = -(middle + 0.1 * step as f32) / largest;
        let (mut product, mut square) = (0.0, 0.0);
        for &value in values {
            let code = nearest(value * inverse, middle);
            product += weight_by_square(value) * value * code;
            square += weight_by_square(value) * code * code;
        }
        // With the best scale for these codes, `product / square`, the error is less by `product² / square`.
        if square > 0.0 && product * product > most * square {
            (best, most) = (product / square, product * product / square);
        }
    }
    best
}

/// The nearest code of `-middle..middle`.
pub(super) fn nearest(value: f32, middle: f32) -> f32 {
    value.round_ties_even().clamp(-middle, middle - 1.0)
}
