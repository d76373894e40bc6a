//! What runs a model.

use weirgate_engine::{EngineHandle, EngineStats};

use super::beside::Beside;
use super::embed::Embedding;
use super::error::{ServiceError, ValidationError};

/// The engine of a model: some go on from texts, others make vectors of them.
pub(crate) enum Engine {
    /// `vectors`: what makes vectors with the same model, where its settings say that it does.
    Generator {
        engine: EngineHandle,
        vectors: Option<Beside>,
    },
    Embedder(Embedding),
}

impl Engine {
    /// # Errors
    /// When the model generates no text.
    pub fn generator(&self) -> Result<&EngineHandle, ValidationError> {
        match self {
            Self::Generator { engine, .. } => Ok(engine),
            Self::Embedder(_) => Err(ValidationError::Unsupported("text generation")),
        }
    }

    /// # Errors
    /// When the model makes no vectors: a cross-encoder makes scores.
    pub fn embeds(&self) -> Result<(), ValidationError> {
        match self {
            Self::Embedder(embedding) if embedding.profile.scores.is_none() => Ok(()),
            Self::Generator { vectors: Some(_), .. } => Ok(()),
            _ => Err(ValidationError::Unsupported("embeddings")),
        }
    }

    /// What makes vectors; loaded now, where nobody asked for it before.
    ///
    /// # Errors
    /// As for [`Engine::embeds`], or when it cannot be loaded.
    pub async fn embedder(&self) -> Result<&Embedding, ServiceError> {
        match self {
            Self::Embedder(embedding) if embedding.profile.scores.is_none() => Ok(embedding),
            Self::Generator { vectors: Some(vectors), .. } => vectors.embedding().await,
            _ => Err(ValidationError::Unsupported("embeddings").into()),
        }
    }

    /// What makes vectors with a copy of the model of its own.
    pub fn beside(&self) -> Option<&Beside> {
        match self {
            Self::Generator { vectors, .. } => vectors.as_ref(),
            Self::Embedder(_) => None,
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
            Self::Generator { engine, .. } => engine.stats(),
            Self::Embedder(embedding) => embedding.handle.stats(),
        }
    }

    /// Accepts no more requests and ends when what was accepted is done.
    pub fn stop(&self) {
        match self {
            Self::Generator { engine, .. } => {
                engine.stop();
                if let Some(embedding) = self.beside().and_then(Beside::started) {
                    embedding.handle.stop();
                }
            }
            Self::Embedder(embedding) => embedding.handle.stop(),
        }
    }
}
