//! Which models are served under which names, and which of them are in memory.
//!
//! One model is there from the start and stays: the one the server was started for. Those of the library are loaded when
//! they are asked for, one at a time, and requests for the same model wait for the same load. A model stays for its
//! keep-alive after its last request; where memory or the number of models is short, the idle one that was used longest
//! ago makes room. Nobody who asks for a model that is loaded waits for any of this.

mod aliases;
mod budget;
mod card;
mod keep_alive;
mod library;
mod resident;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub(crate) use aliases::Alias;
use aliases::Aliases;
use budget::Budget;
pub(crate) use card::{Card, Layers, tagged};
pub use keep_alive::KeepAlive;
pub(crate) use library::{Library, StoredModels};
use resident::Resident;
pub(crate) use resident::{Lease, Model, Pin};

use weirgate_store::Show;

use crate::assemble::Assembled;
use crate::memory;
use crate::service::Service;

/// How often it is looked for the end of a request whose model should leave or make room: it is not told.
const PERIOD: Duration = Duration::from_millis(100);

/// Where all models are in use for so long, the one that was loaded first takes no new requests until it has made room.
const TURN: Duration = Duration::from_secs(1);

/// How many models may be there, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Residency {
    /// Where a request does not say.
    pub keep_alive: KeepAlive,
    /// Models in memory; 0: as many as fit.
    pub max_loaded: usize,
    /// Requests that may wait for models.
    pub max_queue: usize,
}

/// Where a model is between its files and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Unloaded,
    /// Unloaded because somebody said so.
    Stopped,
    Loading,
    Ready,
    /// Answers what it has to, and goes.
    Leaving,
}

/// Why a model cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AcquireError {
    #[error("not found")]
    NotFound,
    /// Too many requests wait for models.
    #[error("too many requests wait for models")]
    Busy,
    #[error("model requires more memory ({needed} bytes) than is available ({free} bytes)")]
    Memory { needed: u64, free: u64 },
    #[error("{0}")]
    Failed(String),
}

/// The models of this server.
pub(crate) struct Models {
    /// The one that the server was started for.
    pinned: Arc<Resident>,
    library: Option<Box<dyn Library>>,
    aliases: Aliases,
    residency: Residency,
    table: Mutex<HashMap<Key, Slot>>,
    /// Requests that wait for a model.
    waiting: AtomicUsize,
    /// Names of models that were stopped, and not loaded since.
    stopped: Mutex<HashSet<String>>,
    /// Held by the load under way.
    turn: tokio::sync::Mutex<()>,
    budget: Mutex<Budget>,
    /// Told whenever a model comes, a user leaves, or a keep-alive changes.
    changed: watch::Sender<()>,
}

/// A model's name in lower case, and its digest: a model that was replaced is another one.
type Key = (String, String);
/// How a load ended, once it has.
type Outcome = Option<Result<(), AcquireError>>;

enum Slot {
    Loading(watch::Receiver<Outcome>),
    Ready(Arc<Resident>),
}

/// What a request finds.
enum Found {
    Ready(Lease),
    Loading(watch::Receiver<Outcome>),
    /// It is there, and makes room for another one as soon as it can.
    Leaving,
}

/// Counts a request among those that wait.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Models {
    /// A server of one model.
    pub fn single(model: Model) -> Arc<Self> {
        let residency = Residency { keep_alive: KeepAlive::Forever, max_loaded: 0, max_queue: 0 };
        Arc::new(Self::new(model, None, residency))
    }

    /// A server of one model and a library. Starts to look for models whose time is over.
    pub fn with_library(model: Model, library: Box<dyn Library>, residency: Residency) -> Arc<Self> {
        let models = Arc::new(Self::new(model, Some(library), residency));
        tokio::spawn(expire(Arc::downgrade(&models), models.changed.subscribe()));
        models
    }

    fn new(model: Model, library: Option<Box<dyn Library>>, residency: Residency) -> Self {
        let (changed, _) = watch::channel(());
        Self {
            budget: Mutex::new(Budget::new(model.pool_bytes)),
            pinned: Arc::new(Resident::new(model, None, (KeepAlive::Forever, 0), changed.clone())),
            library,
            aliases: Aliases::default(),
            residency,
            table: Mutex::default(),
            waiting: AtomicUsize::new(0),
            stopped: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
            changed,
        }
    }

    /// The model that the server was started for.
    pub fn pinned(&self) -> Lease {
        Lease::new(&self.pinned)
    }

    /// Whether the one model is all there is, so that its name need not be said.
    pub fn is_single(&self) -> bool {
        self.library.is_none()
    }

    /// Has names mean what they mean from now on, and no others.
    pub fn set_aliases(&self, aliases: HashMap<String, Alias>) {
        self.aliases.set(aliases);
    }

    /// Whether the name stands for an adapter, of whichever model.
    pub fn is_adapter(&self, name: &str) -> bool {
        self.aliases.of(name).is_some_and(|alias| alias.adapter.is_some())
    }

    /// The model of this name, or the one that the name is an alias of, loaded. It stays so for `keep` after the lease, or
    /// as long as the server says.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn acquire(
        self: &Arc<Self>,
        name: &str,
        keep: Option<KeepAlive>,
    ) -> Result<Lease, AcquireError> {
        match self.aliases.of(name) {
            Some(alias) => Ok(self.acquire_own(&alias.model, keep).await?.with_adapter(alias.adapter)),
            None => self.acquire_own(name, keep).await,
        }
    }

    /// The model of this name, loaded, to stay until the pin goes.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn pin(self: &Arc<Self>, name: &str) -> Result<Pin, AcquireError> {
        Ok(Pin::new(self.acquire_own(name, None).await?))
    }

    async fn acquire_own(
        self: &Arc<Self>,
        name: &str,
        keep: Option<KeepAlive>,
    ) -> Result<Lease, AcquireError> {
        if self.pinned.model.card.is_called(name) {
            return Ok(Lease::new(&self.pinned));
        }
        let card = self.look_up(name).await?;
        let mut waiting = None;
        let mut changed = self.changed.subscribe();
        loop {
            let found = match self.enter(&card, keep) {
                Found::Ready(lease) => return Ok(lease),
                found => found,
            };
            if waiting.is_none() {
                waiting = Some(self.wait()?);
            }
            let Found::Loading(mut loading) = found else {
                look_again(&mut changed).await;
                continue;
            };
            match loading.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
                Ok(Some(Err(error))) => return Err(error),
                Ok(_) => {}
                Err(_) => return Err(AcquireError::Failed("the load was given up".to_owned())),
            }
        }
    }

    /// A place among those that wait.
    fn wait(&self) -> Result<Waiting<'_>, AcquireError> {
        let place = Waiting(&self.waiting);
        let before = self.waiting.fetch_add(1, Ordering::SeqCst);
        if before < self.residency.max_queue { Ok(place) } else { Err(AcquireError::Busy) }
    }

    /// What is known of the model of this name.
    ///
    /// # Errors
    /// [`AcquireError::NotFound`], or what is wrong with it.
    pub async fn card(self: &Arc<Self>, name: &str) -> Result<Arc<Card>, AcquireError> {
        let alias = self.aliases.of(name);
        let name = alias.as_ref().map_or(name, |alias| alias.model.as_str());
        let card = &self.pinned.model.card;
        if card.is_called(name) {
            return Ok(card.clone());
        }
        let card = self.find(name).await?;
        let loaded = match self.table().get(&key(&card)) {
            Some(Slot::Ready(resident)) => Some(resident.model.card.clone()),
            _ => None,
        };
        Ok(loaded.unwrap_or_else(|| Arc::new(card)))
    }

    /// All there is to say about the model of a card that [`Models::card`] gave.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn show(self: &Arc<Self>, card: &Arc<Card>, verbose: bool) -> Result<Show, AcquireError> {
        if Arc::ptr_eq(card, &self.pinned.model.card) {
            return Ok(card.shown(verbose));
        }
        let (this, card) = (self.clone(), card.clone());
        let show = move || match &this.library {
            Some(library) => library.show(&card, verbose),
            None => Err(AcquireError::NotFound),
        };
        tokio::task::spawn_blocking(show).await.unwrap_or(Err(AcquireError::NotFound))
    }

    /// All models that are known, the latest first; some may have no files here yet.
    pub async fn cards(self: &Arc<Self>) -> Vec<Arc<Card>> {
        let this = self.clone();
        let stored =
            tokio::task::spawn_blocking(move || this.library.as_ref().map(|library| library.cards()));
        let stored = stored.await.ok().flatten().unwrap_or_default();
        let pinned = &self.pinned.model.card;
        let others = stored.into_iter().filter(|card| !pinned.is_called(&card.name)).map(Arc::new);
        let mut cards: Vec<Arc<Card>> = std::iter::once(pinned.clone()).chain(others).collect();
        cards.sort_by_key(|card| std::cmp::Reverse(card.modified));
        cards
    }

    /// The models that are loaded, and how long each stays if nobody asks for it; `None`: for ever.
    pub fn resident(&self) -> Vec<(Arc<Card>, usize, Option<Duration>)> {
        let entry = |resident: &Arc<Resident>, left| {
            (resident.model.card.clone(), resident.model.settings.max_total_tokens, left)
        };
        let table = self.table();
        let ready = ready(&table).map(|(_, resident)| entry(resident, resident.left()));
        std::iter::once(entry(&self.pinned, None)).chain(ready).collect()
    }

    /// All models that are loaded, first the one that the server was started for.
    pub fn loaded(&self) -> Vec<Model> {
        let table = self.table();
        let ready = ready(&table).map(|(_, resident)| resident.model.clone());
        std::iter::once(self.pinned.model.clone()).chain(ready).collect()
    }

    /// The services of all models that are loaded.
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.loaded().into_iter().map(|model| model.service).collect()
    }

    /// Whether the model of this name stays until a deployment ends, whatever anybody says.
    pub fn is_deployed(&self, name: &str) -> bool {
        let table = self.table();
        ready(&table).any(|(_, resident)| resident.is_pinned() && resident.model.card.is_called(name))
    }

    /// Loads the model of this name and keeps it until it is stopped.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn start(self: &Arc<Self>, name: &str) -> Result<(), AcquireError> {
        self.acquire(name, None).await?.start();
        Ok(())
    }

    /// Unloads the model of this name as soon as nobody uses it, and remembers that somebody said so.
    pub fn stop(&self, name: &str) {
        self.stopped().insert(tagged(name).to_lowercase());
        self.unload(name);
    }

    /// Unloads the model of this name as soon as nobody uses it.
    pub fn unload(&self, name: &str) {
        self.let_go(name, true);
    }

    /// The same, unless it was started: that is for whoever did it to end.
    pub fn release(&self, name: &str) {
        self.let_go(name, false);
    }

    fn let_go(&self, name: &str, started_too: bool) {
        let mut table = self.table();
        for (_, resident) in ready(&table).filter(|(_, resident)| resident.model.card.is_called(name)) {
            resident.keep(KeepAlive::NOT_AT_ALL);
            if started_too {
                resident.set_started(false);
            }
        }
        remove_expired(&mut table);
    }

    /// Where the model of a card is.
    pub fn presence(&self, card: &Card) -> Presence {
        if self.pinned.model.card.is_called(&card.name) {
            return Presence::Ready;
        }
        match self.table().get(&key(card)) {
            Some(Slot::Loading(_)) => Presence::Loading,
            Some(Slot::Ready(resident)) if resident.is_going() => Presence::Leaving,
            Some(Slot::Ready(_)) => Presence::Ready,
            None if self.stopped().contains(&tagged(&card.name).to_lowercase()) => Presence::Stopped,
            None => Presence::Unloaded,
        }
    }

    fn stopped(&self) -> MutexGuard<'_, HashSet<String>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The card of a model that is to be used: of one that is loaded, no folder is looked through.
    async fn look_up(self: &Arc<Self>, name: &str) -> Result<Arc<Card>, AcquireError> {
        let called = |card: &Arc<Card>| card.is_called(name);
        let loaded: Vec<Arc<Card>> =
            ready(&self.table()).map(|(_, resident)| resident.model.card.clone()).filter(called).collect();
        let this = self.clone();
        let current = move || {
            let library = this.library.as_ref()?;
            loaded.into_iter().find(|card| library.is_current(card))
        };
        match tokio::task::spawn_blocking(current).await {
            Ok(Some(card)) => Ok(card),
            _ => self.find(name).await.map(Arc::new),
        }
    }

    async fn find(self: &Arc<Self>, name: &str) -> Result<Card, AcquireError> {
        let (this, name) = (self.clone(), name.to_owned());
        let find = move || match &this.library {
            Some(library) => library.find(&name),
            None => Err(AcquireError::NotFound),
        };
        tokio::task::spawn_blocking(find).await.unwrap_or(Err(AcquireError::NotFound))
    }

    /// The model, or its load, which begins if it has not.
    fn enter(self: &Arc<Self>, card: &Card, keep: Option<KeepAlive>) -> Found {
        let mut table = self.table();
        match table.get(&key(card)) {
            Some(Slot::Ready(resident)) if resident.is_leaving() => Found::Leaving,
            Some(Slot::Ready(resident)) => {
                resident.keep(keep.unwrap_or(self.residency.keep_alive));
                Found::Ready(Lease::new(resident))
            }
            Some(Slot::Loading(loading)) => Found::Loading(loading.clone()),
            None => {
                // What the name meant before.
                for (_, old) in ready(&table).filter(|(_, old)| old.model.card.is_called(&card.name)) {
                    old.set_started(false);
                    old.keep(KeepAlive::NOT_AT_ALL);
                }
                let (tell, loading) = watch::channel(None);
                table.insert(key(card), Slot::Loading(loading.clone()));
                let (this, card) = (self.clone(), card.clone());
                tokio::spawn(async move {
                    let outcome = this.load(&card, keep).await;
                    let ended = outcome.as_ref().map(|_| ()).map_err(AcquireError::clone);
                    // It does not leave before those who wait for it have it.
                    let _lease = outcome.as_ref().ok().map(Lease::new);
                    this.settle(&card, outcome);
                    tell.send_replace(Some(ended));
                    tell.closed().await;
                });
                Found::Loading(loading)
            }
        }
    }

    fn settle(&self, card: &Card, outcome: Result<Arc<Resident>, AcquireError>) {
        let mut table = self.table();
        match outcome {
            Ok(resident) => {
                self.stopped().remove(&tagged(&card.name).to_lowercase());
                table.insert(key(card), Slot::Ready(resident))
            }
            Err(_) => table.remove(&key(card)),
        };
        self.changed.send_replace(());
    }

    async fn load(
        self: &Arc<Self>,
        card: &Card,
        keep: Option<KeepAlive>,
    ) -> Result<Arc<Resident>, AcquireError> {
        let _turn = self.turn.lock().await;
        let (key, begun) = (key(card), Instant::now());
        let needed = self.budget().expected(&key, card.bytes);
        self.make_room(needed).await?;
        tracing::info!(model = card.name, "loading");
        let before = memory::own_bytes();
        let (this, wanted) = (self.clone(), card.clone());
        let load = move || match &this.library {
            Some(library) => library.load(&wanted),
            None => Err(AcquireError::NotFound),
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let Assembled { model, outputs } =
            loaded.unwrap_or_else(|_| Err(AcquireError::Failed("the load failed".to_owned())))?;
        let grown = memory::own_bytes().saturating_sub(before);
        let weights = self.budget().learn(&key, card.bytes, grown);
        tracing::info!(model = card.name, seconds = begun.elapsed().as_secs_f32(), bytes = weights, "loaded");
        let service = &model.service;
        let running = tokio::spawn(service.dispatcher.clone().run(outputs, service.metrics.clone()));
        let keep = keep.unwrap_or(self.residency.keep_alive);
        Ok(Arc::new(Resident::new(model, Some(running), (keep, weights), self.changed.clone())))
    }

    /// Unloads idle models, the one used longest ago first, until `needed` bytes are free and there is a place; waits
    /// where all are in use.
    async fn make_room(&self, needed: u64) -> Result<(), AcquireError> {
        let made = self.wait_for_room(needed).await;
        // Those that were to leave and are there still may stay.
        for (_, resident) in ready(&self.table()) {
            resident.set_leaving(false);
        }
        made
    }

    async fn wait_for_room(&self, needed: u64) -> Result<(), AcquireError> {
        let mut changed = self.changed.subscribe();
        let begun = Instant::now();
        loop {
            let retired = {
                let mut table = self.table();
                let loaded = 1 + ready(&table).count();
                let promised =
                    self.budget().promised(ready(&table).map(|(_, resident)| resident.footprint()));
                let free = memory::free_bytes().map(|free| free.saturating_sub(promised));
                let max = self.residency.max_loaded;
                if (max == 0 || loaded < max) && free.is_none_or(|free| needed <= free) {
                    return Ok(());
                }
                // What is pinned or was started makes no room.
                let unpinned = || ready(&table).filter(|(_, resident)| !resident.is_pinned());
                if unpinned().next().is_none() {
                    return Err(AcquireError::Memory { needed, free: free.unwrap_or(0) });
                }
                let others = || unpinned().filter(|(_, resident)| !resident.is_started());
                if others().next().is_none() {
                    let message = "there is no place beside the models that were started; stop one first";
                    return Err(AcquireError::Failed(message.to_owned()));
                }
                let idle = others().filter(|(_, resident)| resident.is_idle());
                let victim =
                    idle.min_by_key(|(_, resident)| resident.last_used()).map(|(key, _)| key.clone());
                if victim.is_none()
                    && begun.elapsed() >= TURN
                    && let Some((_, first)) = others().min_by_key(|(_, resident)| resident.loaded)
                {
                    first.set_leaving(true);
                }
                victim.and_then(|key| table.remove(&key)).map(retire)
            };
            match retired {
                Some(running) => ended(running).await,
                None => look_again(&mut changed).await,
            }
        }
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(card: &Card) -> Key {
    (card.name.to_lowercase(), card.digest.clone())
}

fn ready(table: &HashMap<Key, Slot>) -> impl Iterator<Item = (&Key, &Arc<Resident>)> {
    table.iter().filter_map(|(key, slot)| match slot {
        Slot::Ready(resident) => Some((key, resident)),
        Slot::Loading(_) => None,
    })
}

fn retire(slot: Slot) -> Option<tokio::task::JoinHandle<()>> {
    match slot {
        Slot::Ready(resident) => {
            tracing::info!(model = resident.model.card.name, "unloaded");
            resident.retire()
        }
        Slot::Loading(_) => None,
    }
}

/// Waits for a change. A stream's end is not told, so it is looked for.
async fn look_again(changed: &mut watch::Receiver<()>) {
    let _ = tokio::time::timeout(PERIOD, changed.changed()).await;
}

/// Waits for a model's memory to be free.
async fn ended(running: Option<tokio::task::JoinHandle<()>>) {
    if let Some(running) = running {
        // However it ended.
        let _ = running.await;
    }
}

fn remove_expired(table: &mut HashMap<Key, Slot>) {
    let over =
        |resident: &Arc<Resident>| resident.left().is_some_and(|left| left.is_zero()) && resident.is_idle();
    let expired: Vec<Key> =
        ready(table).filter(|(_, resident)| over(resident)).map(|(key, _)| key.clone()).collect();
    for key in expired {
        table.remove(&key).map(retire);
    }
}

/// Unloads models when their time is over, as long as there are any models.
async fn expire(models: Weak<Models>, mut changed: watch::Receiver<()>) {
    loop {
        let wait = {
            let Some(models) = models.upgrade() else { return };
            let mut table = models.table();
            remove_expired(&mut table);
            ready(&table).filter_map(|(_, resident)| resident.left()).min()
        };
        let told = match wait {
            // One whose time is over is in use.
            Some(left) => tokio::time::timeout(left.max(PERIOD), changed.changed()).await,
            None => Ok(changed.changed().await),
        };
        if matches!(told, Ok(Err(_))) {
            return;
        }
    }
}
