//! The name that a request asks for.

use super::errors::Refusal;

/// `name` is the former field.
///
/// # Errors
/// When there is none.
pub(super) fn asked(model: Option<String>, name: Option<String>) -> Result<String, Refusal> {
    let given = model.filter(|text| !text.is_empty()).or(name).filter(|text| !text.is_empty());
    given.ok_or_else(|| Refusal::bad("model is required".to_owned()))
}
