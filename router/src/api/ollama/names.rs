//! The names that requests ask for.

use weirgate_store::{ModelName, StoreError};

use super::errors::Refusal;
use crate::api::AppState;

/// `name` is the former field.
///
/// # Errors
/// When there is none.
pub(super) fn asked(model: Option<String>, name: Option<String>) -> Result<String, Refusal> {
    let given = model.filter(|text| !text.is_empty()).or(name).filter(|text| !text.is_empty());
    given.ok_or_else(|| Refusal::bad("model is required".to_owned()))
}

/// The name of a model that is to be made.
///
/// # Errors
/// What is no name, and the name of the model that the server was started for.
pub(super) fn new(state: &AppState, name: &str) -> Result<ModelName, Refusal> {
    let parsed: ModelName = name.parse().map_err(StoreError::from)?;
    if state.models.pinned().card.is_called(&parsed.to_string()) {
        return Err(StoreError::NameTaken.into());
    }
    Ok(parsed)
}

/// # Errors
/// The name of the model that the server was started for: its files are not the store's.
pub(super) fn not_pinned(state: &AppState, name: &str) -> Result<(), Refusal> {
    match state.models.pinned().card.is_called(name) {
        true => Err(StoreError::ReadOnly(name.to_owned()).into()),
        false => Ok(()),
    }
}
