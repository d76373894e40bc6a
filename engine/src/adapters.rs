//! Which adapters requests may name, and which of them leave when their last request has ended.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weirgate_kernels::KernelError;
use weirgate_models::Adapter;
use weirgate_types::AdapterId;

use crate::{Executor, Scheduler};

/// Adapter ids are unique within the process, over all engines; they name prefixes in the cache, so none comes back.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What the engine thread is told about adapters; each answer comes when it is done.
#[derive(Debug)]
pub(crate) enum AdapterMessage {
    Load(AdapterId, Arc<Adapter>, flume::Sender<Result<AdapterId, KernelError>>),
    Unload(AdapterId, flume::Sender<()>),
}

pub(crate) fn next_id() -> AdapterId {
    AdapterId(NEXT_ID.fetch_add(1, Ordering::Relaxed))
}

/// The adapters of one engine.
#[derive(Debug, Default)]
pub(crate) struct Adapters {
    loaded: HashSet<AdapterId>,
    /// Those that no request may name any more, and who waits for their end.
    leaving: Vec<(AdapterId, flume::Sender<()>)>,
}

impl Adapters {
    pub fn contains(&self, id: AdapterId) -> bool {
        self.loaded.contains(&id)
    }

    pub fn handle(&mut self, message: AdapterMessage, executor: &mut dyn Executor) {
        match message {
            AdapterMessage::Load(id, adapter, answer) => {
                let loaded = executor.load_adapter(id, &adapter);
                if loaded.is_ok() {
                    self.loaded.insert(id);
                }
                // Nobody waits for it any more: nobody knows its id.
                if answer.send(loaded.map(|()| id)).is_err() && self.loaded.remove(&id) {
                    executor.unload_adapter(id);
                }
            }
            AdapterMessage::Unload(id, answer) => {
                if self.loaded.remove(&id) {
                    self.leaving.push((id, answer));
                }
            }
        }
    }

    /// Takes those off the device that are leaving and that no request uses any more.
    pub fn retire(&mut self, scheduler: &Scheduler, executor: &mut dyn Executor) {
        self.leaving.retain(|(id, answer)| {
            if scheduler.uses(*id) {
                return true;
            }
            executor.unload_adapter(*id);
            // Whoever asked may have gone.
            let _ = answer.send(());
            false
        });
    }
}
