//! Which models are served under which names.

mod card;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use card::{Card, tagged};

use crate::api::Settings;
use crate::service::Service;

/// How long a model stays loaded after its last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeepAlive {
    For(Duration),
    Forever,
}

impl KeepAlive {
    pub const NOT_AT_ALL: Self = Self::For(Duration::ZERO);
}

/// A model that is loaded.
pub(crate) struct Model {
    pub service: Arc<Service>,
    pub settings: Arc<Settings>,
    pub card: Arc<Card>,
}

/// A model that stays loaded while this lives.
#[derive(Clone)]
pub(crate) struct Lease(Arc<Model>);

impl Deref for Lease {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.0
    }
}

/// Why a model cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AcquireError {
    NotFound,
}

/// The models of this server.
pub(crate) struct Models {
    /// The one that the server was started for; it is always loaded.
    pinned: Lease,
}

impl Models {
    pub fn new(model: Model) -> Self {
        Self { pinned: Lease(Arc::new(model)) }
    }

    /// The model of this name, loaded. It stays so for `keep` after the lease, or as long as the server says.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn acquire(&self, name: &str, _keep: Option<KeepAlive>) -> Result<Lease, AcquireError> {
        if self.pinned.card.is_called(name) { Ok(self.pinned.clone()) } else { Err(AcquireError::NotFound) }
    }

    /// What is known of the model of this name.
    ///
    /// # Errors
    /// [`AcquireError::NotFound`].
    pub fn card(&self, name: &str) -> Result<Arc<Card>, AcquireError> {
        let card = &self.pinned.card;
        if card.is_called(name) { Ok(card.clone()) } else { Err(AcquireError::NotFound) }
    }

    /// All models that can be served, the latest first.
    pub fn cards(&self) -> Vec<Arc<Card>> {
        vec![self.pinned.card.clone()]
    }

    /// The models that are loaded, and how long each stays if nobody asks for it; `None`: for ever.
    pub fn resident(&self) -> Vec<(Lease, Option<Duration>)> {
        vec![(self.pinned.clone(), None)]
    }

    /// Unloads the model of this name as soon as nobody uses it, unless it is pinned.
    pub fn release(&self, _name: &str) {}
}
