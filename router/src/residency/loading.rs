//! One load after another, and how far they are.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use super::resident::Resident;
use super::{AcquireError, Card, Key, Loading, Models, Slot, key};
use crate::assemble::Assembled;
use crate::memory::Place;
use crate::service::Beside;

impl Models {
    /// Ends a load.
    pub(super) fn settle(&self, card: &Card, loaded: Option<Arc<Resident>>) {
        let mut table = self.table();
        let slot = table.remove(&key(card));
        if let (Some(Slot::Loading(Loading { stay, .. })), Some(resident)) = (slot, loaded) {
            resident.keep(stay.keep);
            resident.set_started(stay.started);
            table.insert(key(card), Slot::Ready(resident));
        }
        self.changed.send_replace(());
    }

    pub(super) async fn load(self: &Arc<Self>, card: &Card) -> Result<Arc<Resident>, AcquireError> {
        let _turn = self.turn.lock().await;
        *self.begun() = None;
        let (key, begun) = (key(card), Instant::now());
        let place = self.place(card).await;
        let weights = self.budget(place).expected(&key, card.bytes);
        let needed = match place {
            Place::Host => weights,
            // With something of a KV cache, which is made at once there.
            Place::Gpu => weights.saturating_add(weights / 4),
        };
        self.make_room(needed, place).await?;
        tracing::info!(model = card.name, "loading");
        let before = self.budget(place).taken();
        *self.begun() = Some((key.clone(), place, before));
        let (this, wanted) = (self.clone(), card.clone());
        let load = move || match &this.library {
            Some(library) => library.load(&wanted),
            None => Err(AcquireError::NotFound),
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let Assembled { model, outputs } =
            loaded.unwrap_or_else(|_| Err(AcquireError::Failed("the load failed".to_owned())))?;
        // A KV cache on a GPU is there at once.
        let pool = if place == Place::Gpu { model.pool_bytes } else { 0 };
        let weights = match model.place == place {
            true => self.budget(place).measure(&key, card.bytes, before.saturating_add(pool)),
            // It is of a kind that is computed elsewhere.
            false => weights,
        };
        tracing::info!(model = card.name, seconds = begun.elapsed().as_secs_f32(), bytes = weights, "loaded");
        let service = &model.service;
        let dispatcher = service.dispatcher.clone().run(outputs, service.metrics.clone());
        let beside = service.engine.beside().inspect(|beside| beside.load_into(self.room_of(card)));
        let beside_gone = beside.map(Beside::gone);
        let running = tokio::spawn(async move {
            dispatcher.await;
            if let Some(gone) = beside_gone {
                gone.await;
            }
        });
        Ok(Arc::new(Resident::new(model, Some(running), weights, self.changed.clone())))
    }

    async fn place(self: &Arc<Self>, card: &Card) -> Place {
        let (this, card) = (self.clone(), card.clone());
        let place = move || this.library.as_ref().map(|library| library.place(&card));
        tokio::task::spawn_blocking(place).await.ok().flatten().unwrap_or(Place::Host)
    }

    /// The models that are being loaded or wait for it, by name, and what part of each has come, as far as
    /// memory tells: from 0 to 1.
    pub fn loading(&self) -> Vec<(String, f64)> {
        let begun = self.begun().clone();
        let part = |key: &Key, bytes: u64| {
            let Some((_, place, before)) = begun.as_ref().filter(|(own, ..)| own == key) else { return 0.0 };
            let budget = self.budget(*place);
            let grown = budget.taken().saturating_sub(*before);
            (grown as f64 / budget.expected(key, bytes).max(1) as f64).min(1.0)
        };
        let table = self.table();
        let loading = table.iter().filter_map(|(key, slot)| match slot {
            Slot::Loading(Loading { bytes, .. }) => Some((key.0.clone(), part(key, *bytes))),
            Slot::Ready(_) => None,
        });
        let mut loading: Vec<(String, f64)> = loading.collect();
        loading.sort_by(|a, b| a.0.cmp(&b.0));
        loading
    }

    pub(super) fn begun(&self) -> MutexGuard<'_, Option<(Key, Place, u64)>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
