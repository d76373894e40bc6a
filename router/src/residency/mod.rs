//! Which models are served under which names, and which of them are in memory.
//!
//! One model is there from the start and stays: the one the server was started for. Those of the library are loaded when
//! they are asked for, one at a time, and requests for the same model wait for the same load. A model stays for its
//! keep-alive after its last request; where memory or the number of models is short, the idle one that was used longest
//! ago makes room. Nobody who asks for a model that is loaded waits for any of this, unless all are in use all the time
//! and it is that model's turn to make room ([`Turns`]).

mod aliases;
mod budget;
mod card;
mod conditions;
mod keep_alive;
mod library;
mod loading;
mod queue;
mod resident;
mod room;
mod second;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub(crate) use aliases::Alias;
use aliases::Aliases;
use budget::Budget;
pub(crate) use card::{Card, Layers, tagged};
pub(crate) use conditions::Conditions;
pub use keep_alive::KeepAlive;
pub(crate) use library::{Library, StoredModels};
pub(crate) use queue::Queue;
use resident::Resident;
pub(crate) use resident::{Lease, Model, Pin};
pub(crate) use room::Turns;

use weirgate_store::Show;

use crate::memory::Place;
use crate::service::Service;

/// How often it is looked for the end of a request whose model should leave or make room: it is not told.
const PERIOD: Duration = Duration::from_millis(100);

/// How many models may be there and for how long, and how many requests may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Residency {
    /// Where a request does not say.
    pub keep_alive: KeepAlive,
    /// Models in memory beside the one that the server was started for; 0: as many as fit.
    pub max_loaded: usize,
    /// Requests that may wait: for models and, of Ollama's clients, for places.
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
    /// Too many requests wait.
    #[error("too many requests wait")]
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
    turns: Turns,
    table: Mutex<HashMap<Key, Slot>>,
    queue: Queue,
    /// Names of models that were stopped, and whose load has not begun since.
    stopped: Mutex<HashSet<String>>,
    /// Held by the load under way.
    turn: tokio::sync::Mutex<()>,
    /// The model whose files are being read, and the bytes that were taken before.
    begun: Mutex<Option<(Key, Place, u64)>>,
    budget: Mutex<Budget>,
    gpu_budget: Option<Mutex<Budget>>,
    /// Told whenever a model comes, a user leaves, or a keep-alive changes.
    changed: watch::Sender<()>,
}

/// A model's name in lower case, and its digest: a model that was replaced is another one.
type Key = (String, String);
/// How a load ended, once it has.
type Outcome = Option<Result<(), AcquireError>>;

enum Slot {
    Loading(Loading),
    Ready(Arc<Resident>),
}

/// A load under way.
struct Loading {
    outcome: watch::Receiver<Outcome>,
    /// As whoever spoke last wants it.
    stay: Stay,
    /// Of its files.
    bytes: u64,
}

/// How long a model is to stay.
#[derive(Debug, Clone, Copy)]
struct Stay {
    keep: KeepAlive,
    /// Until it is stopped, whatever requests say.
    started: bool,
}

/// What a request finds.
enum Found {
    Ready(Lease),
    Loading(watch::Receiver<Outcome>),
    /// It is there, and makes room for another one as soon as it can.
    Leaving,
}

impl Models {
    /// A server of one model.
    pub fn single(model: Model, residency: Residency) -> Arc<Self> {
        Arc::new(Self::new(model, None, residency, Conditions::default()))
    }

    /// A server of one model and a library. Starts to look for models whose time is over.
    pub fn with_library(
        model: Model,
        library: Box<dyn Library>,
        residency: Residency,
        conditions: Conditions,
    ) -> Arc<Self> {
        let models = Arc::new(Self::new(model, Some(library), residency, conditions));
        tokio::spawn(expire(Arc::downgrade(&models), models.changed.subscribe()));
        models
    }

    fn new(
        model: Model,
        library: Option<Box<dyn Library>>,
        residency: Residency,
        Conditions { memory, gpu, turns }: Conditions,
    ) -> Self {
        let (changed, _) = watch::channel(());
        // A GPU's is taken when it is made.
        let pool = if model.place == Place::Host { model.pool_bytes } else { 0 };
        Self {
            budget: Mutex::new(Budget::new(memory, pool)),
            gpu_budget: gpu.map(|memory| Mutex::new(Budget::new(memory, 0))),
            pinned: Arc::new(Resident::new(model, None, 0, changed.clone())),
            library,
            aliases: Aliases::default(),
            residency,
            turns,
            table: Mutex::default(),
            queue: Queue::new(residency.max_queue),
            stopped: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
            begun: Mutex::default(),
            changed,
        }
    }

    /// Requests that wait.
    pub fn queue(&self) -> &Queue {
        &self.queue
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
        let keep = keep.unwrap_or(self.residency.keep_alive);
        self.acquire_to_stay(name, Stay { keep, started: false }).await
    }

    async fn acquire_to_stay(self: &Arc<Self>, name: &str, stay: Stay) -> Result<Lease, AcquireError> {
        if self.pinned.model.card.is_called(name) {
            return Ok(Lease::new(&self.pinned));
        }
        let card = self.look_up(name).await?;
        // What is said of its stay counts from now on: whoever says something else while this one waits spoke later.
        let (mut said, mut waiting) = (false, None);
        let mut changed = self.changed.subscribe();
        loop {
            let found = match self.enter(&card, stay, !said) {
                Found::Ready(lease) => return Ok(lease),
                found => found,
            };
            if waiting.is_none() {
                waiting = Some(self.queue.enter().ok_or(AcquireError::Busy)?);
            }
            let Found::Loading(mut outcome) = found else {
                look_again(&mut changed).await;
                continue;
            };
            said = true;
            match outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
                Ok(Some(Err(error))) => return Err(error),
                Ok(_) => {}
                Err(_) => return Err(AcquireError::Failed("the load was given up".to_owned())),
            }
        }
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
    pub fn resident(&self) -> Vec<(Model, Option<Duration>)> {
        let table = self.table();
        let ready = ready(&table).map(|(_, resident)| (resident.model.clone(), resident.left()));
        std::iter::once((self.pinned.model.clone(), None)).chain(ready).collect()
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

    /// Loads the model of this name and keeps it until it is stopped, which may be while it is loaded.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn start(self: &Arc<Self>, name: &str) -> Result<(), AcquireError> {
        let stay = Stay { keep: self.residency.keep_alive, started: true };
        self.acquire_to_stay(name, stay).await.map(drop)
    }

    /// Unloads the model of this name as soon as nobody uses it, and remembers that somebody said so.
    pub fn stop(&self, name: &str) {
        let mut table = self.table();
        self.stopped().insert(full(name));
        let_go(&mut table, name, true);
    }

    /// Unloads the model of this name as soon as nobody uses it.
    pub fn unload(&self, name: &str) {
        let_go(&mut self.table(), name, true);
    }

    /// The same, unless it was started: that is for whoever did it to end.
    pub fn release(&self, name: &str) {
        let_go(&mut self.table(), name, false);
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
            None if self.stopped().contains(&full(&card.name)) => Presence::Stopped,
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

    /// The model, or its load, which begins if it has not. `says`: how long it is to stay is said now.
    fn enter(self: &Arc<Self>, card: &Card, stay: Stay, says: bool) -> Found {
        let mut table = self.table();
        if says {
            self.stopped().remove(&full(&card.name));
        }
        match table.get_mut(&key(card)) {
            Some(Slot::Ready(resident)) if resident.is_leaving() => Found::Leaving,
            Some(Slot::Ready(resident)) => {
                if says {
                    resident.keep(stay.keep);
                    resident.set_started(stay.started || resident.is_started());
                }
                Found::Ready(Lease::new(resident))
            }
            Some(Slot::Loading(loading)) => {
                if says {
                    loading.stay = Stay { started: stay.started || loading.stay.started, ..stay };
                }
                Found::Loading(loading.outcome.clone())
            }
            None => {
                // What the name meant before.
                let_go(&mut table, &card.name, true);
                let (tell, outcome) = watch::channel(None);
                table.insert(
                    key(card),
                    Slot::Loading(Loading { outcome: outcome.clone(), stay, bytes: card.bytes }),
                );
                let (this, card) = (self.clone(), card.clone());
                tokio::spawn(async move {
                    let loaded = this.load(&card).await;
                    let ended = loaded.as_ref().map(|_| ()).map_err(AcquireError::clone);
                    // It does not leave before those who wait for it have it.
                    let _lease = loaded.as_ref().ok().map(Lease::new);
                    this.settle(&card, loaded.ok());
                    tell.send_replace(Some(ended));
                    tell.closed().await;
                });
                Found::Loading(outcome)
            }
        }
    }

    /// Of the memory of `place`.
    fn budget(&self, place: Place) -> MutexGuard<'_, Budget> {
        let budget = match (place, &self.gpu_budget) {
            (Place::Gpu, Some(gpu)) => gpu,
            (Place::Host, _) | (Place::Gpu, None) => &self.budget,
        };
        budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name in the one way of several that stands for them all.
fn full(name: &str) -> String {
    tagged(name).to_lowercase()
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

/// Has the model of this name go as soon as nobody uses it, though it may not have come yet; with `started_too`, one that
/// was started, too.
fn let_go(table: &mut HashMap<Key, Slot>, name: &str, started_too: bool) {
    for (_, slot) in table.iter_mut().filter(|((own, _), _)| full(own) == full(name)) {
        match slot {
            Slot::Loading(Loading { stay, .. }) => {
                *stay = Stay { keep: KeepAlive::NOT_AT_ALL, started: stay.started && !started_too }
            }
            Slot::Ready(resident) => {
                resident.keep(KeepAlive::NOT_AT_ALL);
                resident.set_started(resident.is_started() && !started_too);
            }
        }
    }
    remove_expired(table);
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
