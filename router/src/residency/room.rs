//! Room for a model that is to be loaded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::budget::Footprint;
use super::resident::Resident;
use super::{AcquireError, Key, Models, Slot, ended, look_again, ready, retire};
use crate::memory::Place;

/// Where all models are in use, the one that was loaded first takes no new requests for a while, so that it gets idle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turns {
    /// How long a load waits before that.
    pub patience: Duration,
    /// How long the while is at first. The model then takes requests for as long before it is kept from them for twice
    /// the time: they wait no longer than that, and the load gets its turn however long answers take.
    pub closed: Duration,
}

impl Default for Turns {
    fn default() -> Self {
        Self { patience: Duration::from_secs(1), closed: Duration::from_secs(30) }
    }
}

/// Models that are in the way of one that is to be loaded.
type Others = Vec<(Key, Arc<Resident>)>;

impl Models {
    /// Unloads idle models, the one used longest ago first, until `needed` bytes of the memory of `place` are free and one
    /// more model may be there; waits where all are in use.
    pub(super) async fn make_room(&self, needed: u64, place: Place) -> Result<(), AcquireError> {
        let made = self.wait_for_room(needed, place).await;
        reopen(&self.table());
        made
    }

    async fn wait_for_room(&self, needed: u64, place: Place) -> Result<(), AcquireError> {
        let mut changed = self.changed.subscribe();
        let Turns { patience, mut closed } = self.turns;
        let (mut is_closed, mut turn) = (false, Instant::now() + patience);
        loop {
            let retired = {
                let mut table = self.table();
                let Some((shortage, others)) = self.shortage(&table, needed, place) else { return Ok(()) };
                let victim = victim(&others, shortage)?;
                if victim.is_none() && Instant::now() >= turn {
                    is_closed = !is_closed;
                    turn = Instant::now() + closed;
                    if is_closed {
                        close(&others);
                    } else {
                        reopen(&table);
                        closed = closed.saturating_mul(2);
                    }
                }
                victim.and_then(|key| table.remove(&key)).map(retire)
            };
            match retired {
                Some(running) => ended(running).await,
                None => look_again(&mut changed).await,
            }
        }
    }

    /// Unloads idle models until `needed` more bytes of this machine's memory are free, and has `taken` say that they are
    /// taken. It waits for nobody: whoever asks has a model in use, for which others may wait.
    ///
    /// # Errors
    /// Where too little is free and idle.
    pub(super) async fn take_room(&self, needed: u64, taken: &AtomicU64) -> Result<(), AcquireError> {
        loop {
            let retired = {
                let mut table = self.table();
                let Some((shortage, others)) = self.memory_shortage(&table, needed, Place::Host) else {
                    taken.store(needed, Ordering::SeqCst);
                    return Ok(());
                };
                let victim = victim(&others, shortage.clone())?.ok_or(shortage)?;
                table.remove(&victim).and_then(retire)
            };
            ended(retired).await;
        }
    }

    /// What keeps a model of `needed` bytes from being loaded now, and the models that are in its way.
    fn shortage(
        &self,
        table: &HashMap<Key, Slot>,
        needed: u64,
        place: Place,
    ) -> Option<(AcquireError, Others)> {
        let most = self.residency.max_loaded;
        if most > 0 && ready(table).count() >= most {
            let message = format!(
                "all places for models ({most}) are taken by models that are deployed; \
                 raise `--max-loaded-models`, or end a deployment"
            );
            let all = ready(table).map(|(key, resident)| (key.clone(), resident.clone()));
            return Some((AcquireError::Failed(message), all.collect()));
        }
        self.memory_shortage(table, needed, place)
    }

    /// Where fewer than `needed` bytes are free: that, and the models that take some.
    fn memory_shortage(
        &self,
        table: &HashMap<Key, Slot>,
        needed: u64,
        place: Place,
    ) -> Option<(AcquireError, Others)> {
        let (mut there, mut footprints) = (Others::new(), Vec::new());
        for (key, resident) in ready(table) {
            if let Some(footprint) = resident.footprint(place) {
                there.push((key.clone(), resident.clone()));
                footprints.push(footprint);
            }
        }
        footprints.extend(self.coming(table, place));
        let free = self.budget(place).free(footprints.into_iter())?;
        (needed > free).then_some((AcquireError::Memory { needed, free }, there))
    }

    /// What the load under way will take of `place`.
    fn coming(&self, table: &HashMap<Key, Slot>, place: Place) -> Option<Footprint> {
        let (key, ..) = self.begun().clone().filter(|(_, at, _)| *at == place)?;
        match table.get(&key)? {
            Slot::Loading(loading) => {
                Some(Footprint { weights: self.budget(place).expected(&key, loading.bytes), pool: 0 })
            }
            Slot::Ready(_) => None,
        }
    }
}

/// The idle model that was used longest ago; `None` while all are in use.
///
/// # Errors
/// The shortage, where none may make room.
fn victim(models: &[(Key, Arc<Resident>)], shortage: AcquireError) -> Result<Option<Key>, AcquireError> {
    if models.iter().all(|(_, resident)| resident.is_pinned()) {
        return Err(shortage);
    }
    if candidates(models).next().is_none() {
        let message = "there is no place beside the models that were started; stop one first";
        return Err(AcquireError::Failed(message.to_owned()));
    }
    let idle = candidates(models).filter(|(_, resident)| resident.is_idle());
    Ok(idle.min_by_key(|(_, resident)| resident.last_used()).map(|(key, _)| key.clone()))
}

/// What is pinned or was started makes no room.
fn candidates(models: &[(Key, Arc<Resident>)]) -> impl Iterator<Item = &(Key, Arc<Resident>)> {
    models.iter().filter(|(_, resident)| !resident.is_pinned() && !resident.is_started())
}

/// Keeps new requests from the model that was loaded first.
fn close(models: &[(Key, Arc<Resident>)]) {
    if let Some((_, first)) = candidates(models).min_by_key(|(_, resident)| resident.loaded) {
        first.set_leaving(true);
    }
}

/// Those that were to leave and are there still may stay.
fn reopen(table: &HashMap<Key, Slot>) {
    for (_, resident) in ready(table) {
        resident.set_leaving(false);
    }
}
