//! How long a model stays loaded.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What Ollama takes for "for ever", in seconds: about the longest duration of its language.
const FOREVER: f64 = 9.0e9;

/// How long a model stays loaded after its last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeepAlive {
    For(Duration),
    Forever,
}

impl KeepAlive {
    pub const NOT_AT_ALL: Self = Self::For(Duration::ZERO);

    /// Negative: for ever.
    pub fn of_seconds(seconds: f64) -> Self {
        match (0.0..FOREVER).contains(&seconds) {
            true => Self::For(Duration::try_from_secs_f64(seconds).unwrap_or_default()),
            false => Self::Forever,
        }
    }

    /// A duration as Go writes it, such as `1h30m`, `-1.5s` or `300ms`.
    pub fn of_go_duration(text: &str) -> Option<Self> {
        go_seconds(text).map(Self::of_seconds)
    }
}

impl FromStr for KeepAlive {
    type Err = String;

    /// Seconds, or a duration.
    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = text.parse().ok().filter(|seconds: &f64| seconds.is_finite()).map(Self::of_seconds);
        let found = seconds.or_else(|| Self::of_go_duration(text));
        found.ok_or_else(|| format!("{text:?} is neither a number of seconds nor a duration such as 5m"))
    }
}

fn go_seconds(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0.0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(end)?;
        seconds += number.parse::<f64>().ok()? * unit_seconds(unit)?;
        rest = next;
    }
    Some(sign * seconds)
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "h" => 3600.0,
        "m" => 60.0,
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" | "μs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_go_durations() {
        let lasting = |seconds| Ok(KeepAlive::For(Duration::from_secs_f64(seconds)));
        for (text, seconds) in [
            ("300", 300.0),
            ("0", 0.0),
            ("0.5", 0.5),
            ("5m", 300.0),
            ("1h30m", 5400.0),
            ("1.5s", 1.5),
            ("250ms", 0.25),
            ("0s", 0.0),
        ] {
            assert_eq!(text.parse(), lasting(seconds), "{text}");
        }
        for text in ["-1", "-1m", "-0.1", "10000000h"] {
            assert_eq!(text.parse(), Ok(KeepAlive::Forever), "{text}");
        }
        for text in ["m", "", "5x", "1..5s", "s5", "nan", "inf"] {
            assert!(text.parse::<KeepAlive>().is_err(), "{text}");
        }
        assert_eq!(KeepAlive::of_go_duration("5"), None);
    }
}
