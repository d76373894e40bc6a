//! What answers and chunks have around their choices.

use std::time::SystemTime;

use super::parameters::Shape;
use super::types::{Envelope, PromptTokensDetails, Usage};
use crate::api::seconds;
use crate::service::Generation;

/// TGI's form: the version, and where the build comes from.
const FINGERPRINT: &str = concat!(env!("CARGO_PKG_VERSION"), "-native");

/// An answer or chunk without its choices. `prefix` begins its id.
pub(super) fn envelope<C>(prefix: &str, object: &'static str, shape: &Shape) -> Envelope<C> {
    Envelope {
        id: shape.quirks.id(prefix),
        object,
        created: seconds(SystemTime::now()),
        model: shape.model.clone(),
        system_fingerprint: FINGERPRINT,
        choices: Vec::new(),
        usage: None,
    }
}

/// Token counts over all prompts of a request.
pub(super) fn usage(generations: &[Generation], completion_tokens: u32) -> Usage {
    let prompt_tokens = generations.iter().map(|generation| generation.facts.prompt.len() as u32).sum();
    let cached_tokens = generations.iter().map(Generation::cached_tokens).sum();
    Usage {
        prompt_tokens,
        completion_tokens,
        total_tokens: prompt_tokens + completion_tokens,
        prompt_tokens_details: (cached_tokens > 0).then_some(PromptTokensDetails { cached_tokens }),
    }
}
