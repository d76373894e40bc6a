//! A model that goes on from texts and makes vectors of them, too: it is loaded a second time, without its head, when the
//! first vectors are asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use tokio::sync::{OnceCell, watch};
use weirgate_engine::{EmbedConfig, Embedder, spawn_embedder};

use super::embed::{EmbedProfile, Embedding};
use super::error::{Failure, ServiceError};
use crate::background;

/// An embedder that was read, and has no threads yet.
pub(crate) struct Unstarted {
    pub embedder: Box<dyn Embedder>,
    pub profile: EmbedProfile,
    pub threads: usize,
}

type Load = dyn Fn() -> Result<Unstarted, ServiceError> + Send + Sync;

/// Whose memory it is loaded into.
pub(crate) trait MakeRoom: Send + Sync {
    /// Runs `load` once there is memory for what it brings. `taken` says how many bytes that are: before, as far as they
    /// are expected, and afterwards, as measured.
    fn load<'a>(
        &'a self,
        taken: &'a AtomicU64,
        load: BoxFuture<'a, Result<Embedding, ServiceError>>,
    ) -> BoxFuture<'a, Result<Embedding, ServiceError>>;
}

/// An embedder beside a generator.
#[derive(Clone)]
pub(crate) struct Beside(Arc<Inner>);

struct Inner {
    load: Box<Load>,
    started: OnceCell<Embedding>,
    room: OnceLock<Box<dyn MakeRoom>>,
    /// Bytes of memory.
    taken: AtomicU64,
    /// Dropped when it is gone: by this one, and by its thread.
    life: Arc<watch::Sender<()>>,
}

impl Beside {
    /// `load` reads the model, in a thread of low priority.
    pub fn new(load: impl Fn() -> Result<Unstarted, ServiceError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            load: Box::new(load),
            started: OnceCell::new(),
            room: OnceLock::new(),
            taken: AtomicU64::new(0),
            life: Arc::new(watch::Sender::new(())),
        }))
    }

    /// Has it loaded where `room` makes room; the first one counts.
    pub fn load_into(&self, room: Box<dyn MakeRoom>) {
        self.0.room.get_or_init(|| room);
    }

    /// Bytes of memory that it takes, or will have taken when it is loaded.
    pub fn taken_bytes(&self) -> u64 {
        self.0.taken.load(Ordering::SeqCst)
    }

    /// Ends when its memory is free, which is after the last of these is dropped.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut life = self.0.life.subscribe();
        async move { while life.changed().await.is_ok() {} }
    }

    /// The embedder, if anybody asked for it before.
    pub fn started(&self) -> Option<&Embedding> {
        self.0.started.get()
    }

    /// The embedder. Who asks first and goes away leaves it to the others.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub async fn embedding(&self) -> Result<&Embedding, ServiceError> {
        if self.started().is_none() {
            let own = self.clone();
            let start = async move { own.0.started.get_or_try_init(|| own.load()).await.map(|_| ()) };
            tokio::spawn(start).await.map_err(|_| Failure::Engine)??;
        }
        self.started().ok_or_else(|| Failure::Engine.into())
    }

    async fn load(&self) -> Result<Embedding, ServiceError> {
        match self.0.room.get() {
            Some(room) => room.load(&self.0.taken, Box::pin(self.start())).await,
            None => self.start().await,
        }
    }

    async fn start(&self) -> Result<Embedding, ServiceError> {
        let own = self.clone();
        let read = background::spawn("load", move || (own.0.load)()).map_err(failed)?;
        let Unstarted { mut embedder, profile, threads } = read.await.map_err(failed)??;
        // Threads have the priority of the one that starts them.
        let start = move || {
            embedder.use_threads(threads).map_err(failed)?;
            spawn_embedder(embedder, EmbedConfig::default()).map_err(failed)
        };
        let (handle, steps) = tokio::task::spawn_blocking(start).await.map_err(failed)??;
        // It ends where nobody reads its figures; those that are shown are the generator's.
        let life = self.0.life.clone();
        tokio::spawn(async move {
            while steps.recv_async().await.is_ok() {}
            drop(life);
        });
        Ok(Embedding { handle, profile })
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    tracing::error!(%error, "a model's embedder could not be started");
    Failure::Engine
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use weirgate_engine::EmbedInput;

    use super::*;
    use crate::tests::Lengths;

    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_loaded_once_and_when_it_is_asked_for() {
        let loads = Arc::new(AtomicUsize::new(0));
        let counted = loads.clone();
        let beside = Beside::new(move || match counted.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Failure::Stalled.into()),
            _ => Ok(Lengths::unstarted()),
        });
        assert!(beside.started().is_none());
        assert_eq!(beside.embedding().await.map(|_| ()), Err(Failure::Stalled.into()));
        assert!(beside.started().is_none(), "what failed can be tried again");
        let others = [beside.clone(), beside.clone()];
        let asked = others.map(|other| tokio::spawn(async move { other.embedding().await.map(|_| ()) }));
        for ask in asked {
            assert_eq!(ask.await.unwrap(), Ok(()));
        }
        assert_eq!(loads.load(Ordering::SeqCst), 2);
        // More steps than one: nobody else reads their figures.
        for tokens in 1..4 {
            let input = EmbedInput { tokens: vec![1; tokens], types: Vec::new() };
            let ticket = beside.embedding().await.unwrap().handle.submit(vec![input]).unwrap();
            assert_eq!(ticket.vectors().await, Ok(vec![vec![tokens as f32]]));
        }
    }
}
