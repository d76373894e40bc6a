//! How long prompts and answers are.

use std::str::FromStr;

use anyhow::{Context, Error, ensure};
use fastrand::Rng;

/// A distribution over token counts, at least 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lengths {
    Fixed(usize),
    /// Every length from the first to the last equally often.
    Uniform(usize, usize),
    /// Rounded to whole tokens; what would be below 1 becomes 1.
    Normal {
        mean: f64,
        deviation: f64,
    },
}

impl Lengths {
    pub fn draw(&self, rng: &mut Rng) -> usize {
        match *self {
            Self::Fixed(length) => length,
            Self::Uniform(least, most) => rng.usize(least..=most),
            Self::Normal { mean, deviation } => {
                // Box and Muller, 1958.
                let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
                let draw = mean + deviation * radius * (std::f64::consts::TAU * rng.f64()).cos();
                draw.round().max(1.0) as usize
            }
        }
    }
}

impl FromStr for Lengths {
    type Err = Error;

    /// `128`, `64-256` or `normal:128:32` (mean and standard deviation).
    fn from_str(text: &str) -> Result<Self, Error> {
        let number =
            |text: &str| text.parse::<usize>().with_context(|| format!("{text:?} is not a number of tokens"));
        if let Some(rest) = text.strip_prefix("normal:") {
            let (mean, deviation) = rest.split_once(':').context("normal needs normal:MEAN:DEVIATION")?;
            let (mean, deviation) = (mean.parse::<f64>()?, deviation.parse::<f64>()?);
            let sensible = mean.is_finite() && mean >= 1.0 && deviation.is_finite() && deviation >= 0.0;
            ensure!(sensible, "normal needs a mean of at least 1 and a deviation of at least 0, not {rest}");
            return Ok(Self::Normal { mean, deviation });
        }
        if let Some((least, most)) = text.split_once('-') {
            let (least, most) = (number(least)?, number(most)?);
            ensure!(least >= 1 && least <= most, "{text} is not a range of lengths from 1 up");
            return Ok(Self::Uniform(least, most));
        }
        let length = number(text)?;
        ensure!(length >= 1, "a length is at least 1");
        Ok(Self::Fixed(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms_are_read_and_others_refused() {
        assert_eq!("128".parse::<Lengths>().unwrap(), Lengths::Fixed(128));
        assert_eq!("64-256".parse::<Lengths>().unwrap(), Lengths::Uniform(64, 256));
        let normal = Lengths::Normal { mean: 128.0, deviation: 32.5 };
        assert_eq!("normal:128:32.5".parse::<Lengths>().unwrap(), normal);
        for bad in ["", "0", "9-3", "0-3", "x", "normal:5", "normal:0:1", "normal:5:-1", "normal:NaN:1", "-4"]
        {
            assert!(bad.parse::<Lengths>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let mut rng = Rng::with_seed(7);
        let mut draw =
            |lengths: Lengths| (0..20_000).map(|_| lengths.draw(&mut rng) as f64).collect::<Vec<_>>();
        let uniform = draw(Lengths::Uniform(10, 20));
        assert!(uniform.iter().all(|n| (10.0..=20.0).contains(n)));
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        assert!((mean(&uniform) - 15.0).abs() < 0.1, "{}", mean(&uniform));
        let normal = draw(Lengths::Normal { mean: 100.0, deviation: 10.0 });
        let variance = normal.iter().map(|n| (n - 100.0).powi(2)).sum::<f64>() / normal.len() as f64;
        assert!((mean(&normal) - 100.0).abs() < 0.4, "{}", mean(&normal));
        assert!((variance.sqrt() - 10.0).abs() < 0.3, "{}", variance.sqrt());
        assert!(draw(Lengths::Normal { mean: 1.0, deviation: 50.0 }).iter().all(|n| *n >= 1.0));
    }
}
