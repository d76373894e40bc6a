//! What a request asks about the form of its answer.

use super::parameters::field;
use super::quirks::Quirks;
use super::types::{ChatRequest, Common};
use crate::service::{Constraint, Field, ServiceError, ToolError, guided, response_format};
use crate::tools::Calls;

/// A chat's constraint: its tools, the form of its text, or one of the two.
///
/// # Errors
/// What is wrong with the request's wishes.
pub(super) fn chat(
    body: &ChatRequest,
    calls: Option<Calls>,
    quirks: &Quirks,
) -> Result<Option<Constraint>, ServiceError> {
    let given = body.response_format.as_ref().filter(|format| !format.is_null());
    if quirks.text_errors && given.is_some() && body.tools.is_some() {
        return Err(ToolError::WithGrammar.into());
    }
    let words = if quirks.text_errors { Field::Grammar } else { Field::Other("response_format") };
    let format = given.map(|format| response_format(format, words)).transpose()?.flatten();
    let form = one(format, guided(&body.common.guided)?)?;
    Ok(match (form, calls) {
        // A call that must be made is all of the answer.
        (_, Some(calls)) if calls.required => Some(Constraint::calls(calls)),
        (Some(form), Some(calls)) => Some(form.or_calls(calls)?),
        (None, Some(calls)) => Some(Constraint::calls(calls)),
        (form, None) => form,
    })
}

/// A completion's constraint.
///
/// # Errors
/// As for [`chat`].
pub(super) fn completion(common: &Common) -> Result<Option<Constraint>, ServiceError> {
    Ok(guided(&common.guided)?)
}

fn one(format: Option<Constraint>, guided: Option<Constraint>) -> Result<Option<Constraint>, ServiceError> {
    match (format, guided) {
        (Some(_), Some(_)) => Err(field("response_format", "only one form can be asked for")),
        (format, guided) => Ok(format.or(guided)),
    }
}
