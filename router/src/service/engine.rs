//! What runs a model.

use weirgate_engine::{EngineHandle, EngineStats};

use super::embed::Embedding;
use super::error::ValidationError;

/// The engine of a model: some go on from texts, others make vectors of them.
pub(crate) enum Engine {
    Generator(EngineHandle),
    Embedder(Embedding),
}

impl Engine {
    /// # Errors
    /// When the model generates no text.
    pub fn generator(&self) -> Result<&EngineHandle, ValidationError> {
        match self {
            Self::Generator(engine) => Ok(engine),
            Self::Embedder(_) => Err(ValidationError::Unsupported("text generation")),
        }
    }

    /// # Errors
    /// When the model makes no vectors: a cross-encoder makes scores.
    pub fn embedder(&self) -> Result<&Embedding, ValidationError> {
        match self {
            Self::Embedder(embedding) if embedding.profile.scores.is_none() => Ok(embedding),
            _ => Err(ValidationError::Unsupported("embeddings")),
        }
    }

    /// # Errors
    /// When the model is no cross-encoder.
    pub fn ranker(&self) -> Result<&Embedding, ValidationError> {
        match self {
            Self::Embedder(embedding) if embedding.profile.scores.is_some() => Ok(embedding),
            _ => Err(ValidationError::Unsupported("reranking")),
        }
    }

    pub fn stats(&self) -> EngineStats {
        match self {
            Self::Generator(engine) => engine.stats(),
            Self::Embedder(embedding) => embedding.handle.stats(),
        }
    }

    /// Accepts no more requests and ends when what was accepted is done.
    pub fn stop(&self) {
        match self {
            Self::Generator(engine) => engine.stop(),
            Self::Embedder(embedding) => embedding.handle.stop(),
        }
    }
}
