//! The second copies of models that make vectors, too: they come out of the same memory as models.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;

use super::{Card, Key, Models, key};
use crate::memory::Place;
use crate::service::{Embedding, MakeRoom, ServiceError};

/// For the second copy of a model.
struct Room {
    models: Weak<Models>,
    key: Key,
    model: String,
    /// Of the model's files.
    bytes: u64,
}

impl Models {
    /// Where the second copy of a model goes.
    pub(super) fn room_of(self: &Arc<Self>, card: &Card) -> Box<dyn MakeRoom> {
        // Without a head it is smaller than the first, and measured by itself.
        let (name, digest) = key(card);
        let key = (name, format!("{digest} for vectors"));
        Box::new(Room { models: Arc::downgrade(self), key, model: card.name.clone(), bytes: card.bytes })
    }
}

impl MakeRoom for Room {
    fn load<'a>(
        &'a self,
        taken: &'a AtomicU64,
        load: BoxFuture<'a, Result<Embedding, ServiceError>>,
    ) -> BoxFuture<'a, Result<Embedding, ServiceError>> {
        let Some(models) = self.models.upgrade() else { return load };
        Box::pin(async move {
            let expected = models.budget(Place::Host).expected(&self.key, self.bytes);
            models.take_room(expected, taken).await.map_err(|error| {
                tracing::warn!(model = self.model, %error, "no memory to load the model for embeddings, too");
                ServiceError::Unavailable("too little memory to load the model for embeddings, too")
            })?;
            // Beside another load it cannot be told whose memory it is that grows.
            let alone = models.turn.try_lock();
            let before = models.budget(Place::Host).taken();
            let loaded = load.await;
            let bytes = match (&loaded, alone) {
                (Ok(_), Ok(_turn)) => models.budget(Place::Host).measure(&self.key, self.bytes, before),
                (Ok(_), Err(_)) => expected,
                (Err(_), _) => 0,
            };
            taken.store(bytes, Ordering::SeqCst);
            if loaded.is_ok() {
                tracing::info!(model = self.model, bytes, "loaded for embeddings, too");
            }
            loaded
        })
    }
}
