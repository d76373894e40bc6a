//! A model in memory, and who uses it.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::budget::Footprint;
use super::{Card, KeepAlive};
use crate::api::Settings;
use crate::memory::Place;
use crate::service::{Beside, Service};

/// A model that is loaded.
#[derive(Clone)]
pub(crate) struct Model {
    pub service: Arc<Service>,
    pub settings: Arc<Settings>,
    pub card: Arc<Card>,
    pub place: Place,
    /// That its KV cache may take there.
    pub pool_bytes: u64,
}

/// A model and its users.
pub(super) struct Resident {
    pub model: Model,
    /// Ends with the engine, when its memory is free.
    running: Mutex<Option<JoinHandle<()>>>,
    leases: AtomicUsize,
    pins: AtomicUsize,
    pub loaded: Instant,
    /// Takes no new requests, and makes room once it has answered those it has.
    leaving: AtomicBool,
    /// Stays until it is stopped, whatever requests say.
    started: AtomicBool,
    life: Mutex<Life>,
    /// Bytes, as measured.
    weights: u64,
    /// Told whenever a user leaves or the keep-alive changes.
    changed: watch::Sender<()>,
}

/// How much longer it stays.
#[derive(Debug, Clone, Copy)]
struct Life {
    used: Instant,
    keep: KeepAlive,
}

impl Resident {
    /// One that stays until something else is said. `weights`: the bytes that they take.
    pub fn new(
        model: Model,
        running: Option<JoinHandle<()>>,
        weights: u64,
        changed: watch::Sender<()>,
    ) -> Self {
        let life = Life { used: Instant::now(), keep: KeepAlive::Forever };
        Self {
            model,
            running: Mutex::new(running),
            leases: AtomicUsize::new(0),
            pins: AtomicUsize::new(0),
            loaded: Instant::now(),
            leaving: AtomicBool::new(false),
            started: AtomicBool::new(false),
            life: Mutex::new(life),
            weights,
            changed,
        }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn keep(&self, keep: KeepAlive) {
        self.life().keep = keep;
        self.changed.send_replace(());
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    pub fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::SeqCst);
    }

    pub fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::SeqCst) > 0
    }

    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::SeqCst)
    }

    pub fn set_started(&self, started: bool) {
        self.started.store(started, Ordering::SeqCst);
        self.changed.send_replace(());
    }

    /// Whether it stays whatever requests say.
    fn stays(&self) -> bool {
        self.is_started() || self.is_pinned()
    }

    /// Whether it goes as soon as nobody uses it.
    pub fn is_going(&self) -> bool {
        !self.stays() && self.life().keep == KeepAlive::NOT_AT_ALL
    }

    /// What it may take of the memory of `place`, if anything.
    pub fn footprint(&self, place: Place) -> Option<Footprint> {
        let own = self.model.place == place;
        let (weights, pool) = if own { (self.weights, self.model.pool_bytes) } else { (0, 0) };
        // Vectors are made on the CPU, wherever texts are.
        let beside = match place {
            Place::Host => self.model.service.engine.beside().map_or(0, Beside::taken_bytes),
            Place::Gpu => 0,
        };
        (own || beside > 0).then_some(Footprint { weights: weights.saturating_add(beside), pool })
    }

    /// Whether nobody uses it: neither a lease is out, nor a request under way. Asked for under the table's lock, where
    /// leases are given.
    pub fn is_idle(&self) -> bool {
        let service = &self.model.service;
        self.leases.load(Ordering::SeqCst) == 0 && service.permits.available_permits() >= service.places
    }

    /// When it was used last; a model in use is used now.
    pub fn last_used(&self) -> Instant {
        let mut life = self.life();
        if !self.is_idle() {
            life.used = Instant::now();
        }
        life.used
    }

    /// How long it stays if nobody asks for it; `None`: for ever.
    pub fn left(&self) -> Option<Duration> {
        let used = self.last_used();
        match self.life().keep {
            _ if self.stays() => None,
            KeepAlive::For(keep) => Some(keep.saturating_sub(used.elapsed())),
            KeepAlive::Forever => None,
        }
    }

    /// Gives the model up, and what ends when its memory is free.
    pub fn retire(&self) -> Option<JoinHandle<()>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A model that stays loaded while this lives.
pub(crate) struct Lease {
    resident: Arc<Resident>,
    /// That the name which was asked for stands for.
    pub adapter: Option<String>,
}

impl Lease {
    pub(super) fn new(resident: &Arc<Resident>) -> Self {
        resident.leases.fetch_add(1, Ordering::SeqCst);
        Self { resident: resident.clone(), adapter: None }
    }

    pub(super) fn with_adapter(mut self, adapter: Option<String>) -> Self {
        self.adapter = adapter;
        self
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        Self::new(&self.resident).with_adapter(self.adapter.clone())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.resident.life().used = Instant::now();
        self.resident.leases.fetch_sub(1, Ordering::SeqCst);
        self.resident.changed.send_replace(());
    }
}

impl Deref for Lease {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.resident.model
    }
}

/// A lease of a model that makes no room for others.
pub(crate) struct Pin(Lease);

impl Pin {
    pub(super) fn new(lease: Lease) -> Self {
        lease.resident.pins.fetch_add(1, Ordering::SeqCst);
        Self(lease)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.resident.pins.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Deref for Pin {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.0
    }
}
