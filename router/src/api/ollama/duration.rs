//! `keep_alive`: a number of seconds, or a duration as Go writes it.

use std::time::Duration;

use serde_json::Value;

use super::errors::Refusal;
use crate::residency::KeepAlive;

/// What Ollama takes for "for ever".
const FOREVER: f64 = 9.0e9;

/// # Errors
/// When the value is neither.
pub(super) fn keep_alive(value: Option<&Value>) -> Result<Option<KeepAlive>, Refusal> {
    let seconds = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(seconds)) => seconds.as_f64(),
        Some(Value::String(text)) => go_duration(text),
        Some(_) => None,
    };
    let invalid = || Refusal::bad(format!("invalid keep_alive: {}", value.unwrap_or(&Value::Null)));
    Ok(Some(of_seconds(seconds.ok_or_else(invalid)?)))
}

/// `OLLAMA_KEEP_ALIVE`: either form as text.
pub(crate) fn keep_alive_of_text(text: &str) -> Option<KeepAlive> {
    text.parse().ok().or_else(|| go_duration(text)).map(of_seconds)
}

fn of_seconds(seconds: f64) -> KeepAlive {
    if seconds < 0.0 || seconds >= FOREVER {
        KeepAlive::Forever
    } else {
        KeepAlive::For(Duration::try_from_secs_f64(seconds).unwrap_or_default())
    }
}

/// Seconds of a Go duration such as `1h30m`, `-1.5s` or `300ms`.
fn go_duration(text: &str) -> Option<f64> {
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
    use serde_json::json;

    use super::*;

    #[test]
    fn seconds_and_go_durations() {
        let read = |value: Value| keep_alive(Some(&value)).map_err(|refusal| refusal.message());
        let lasting = |seconds| Ok(Some(KeepAlive::For(Duration::from_secs_f64(seconds))));
        for (value, seconds) in [
            (json!(300), 300.0),
            (json!(0.5), 0.5),
            (json!(0), 0.0),
            (json!("5m"), 300.0),
            (json!("1h30m"), 5400.0),
            (json!("1.5s"), 1.5),
            (json!("250ms"), 0.25),
            (json!("0"), 0.0),
            (json!("0s"), 0.0),
        ] {
            assert_eq!(read(value.clone()), lasting(seconds), "{value}");
        }
        for value in [json!(-1), json!("-1m"), json!("-1s"), json!(-0.1), json!("10000000h")] {
            assert_eq!(read(value.clone()), Ok(Some(KeepAlive::Forever)), "{value}");
        }
        for value in [json!("5"), json!("m"), json!(""), json!("5x"), json!("1..5s"), json!(true), json!([])]
        {
            assert!(read(value.clone()).is_err(), "{value}");
        }
        assert_eq!(keep_alive(None).ok(), Some(None));
        assert_eq!(keep_alive_of_text("300"), Some(KeepAlive::For(Duration::from_secs(300))));
    }
}
