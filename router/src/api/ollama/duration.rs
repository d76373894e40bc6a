//! `keep_alive`: a number of seconds, or a duration as Go writes it.

use serde_json::Value;

use super::errors::Refusal;
use crate::residency::KeepAlive;

/// # Errors
/// When the value is neither.
pub(super) fn keep_alive(value: Option<&Value>) -> Result<Option<KeepAlive>, Refusal> {
    let keep = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(seconds)) => seconds.as_f64().map(KeepAlive::of_seconds),
        Some(Value::String(text)) => KeepAlive::of_go_duration(text),
        Some(_) => None,
    };
    let invalid = || Refusal::bad(format!("invalid keep_alive: {}", value.unwrap_or(&Value::Null)));
    keep.map(Some).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_seconds_and_texts_need_a_unit() {
        let read = |value: Value| keep_alive(Some(&value)).ok();
        let lasting = |seconds| Some(Some(KeepAlive::For(Duration::from_secs(seconds))));
        assert_eq!((read(json!(300)), read(json!("5m"))), (lasting(300), lasting(300)));
        assert_eq!(
            (read(json!(-1)), read(json!("-1m"))),
            (Some(Some(KeepAlive::Forever)), Some(Some(KeepAlive::Forever)))
        );
        assert_eq!((read(json!(null)), keep_alive(None).ok()), (Some(None), Some(None)));
        assert_eq!((read(json!("5")), read(json!(true)), read(json!([]))), (None, None, None));
    }
}
