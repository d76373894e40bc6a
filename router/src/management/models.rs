//! Which models and adapters there are.

use weirgate_store::Location;

use super::{Management, ManagementError};
use crate::residency::{Card, tagged};

/// A model or an adapter that can be deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub name: String,
    /// Of an adapter: its model.
    pub base: Option<String>,
    /// Whether adapters can be trained for it.
    pub trainable: bool,
}

impl Offer {
    pub fn is_called(&self, name: &str) -> bool {
        match self.base {
            // Adapters have no tags.
            Some(_) => self.name.to_lowercase() == name.to_lowercase(),
            None => tagged(&self.name).eq_ignore_ascii_case(&tagged(name)),
        }
    }

    fn model(card: &Card) -> Self {
        // What an encoder can do is embed.
        let trainable = !card.capabilities.contains(&"embedding");
        Self { name: card.name.clone(), base: None, trainable }
    }

    pub fn adapter(name: String, base: String) -> Self {
        Self { name, base: Some(base), trainable: false }
    }
}

impl Management {
    /// The models of this machine, the one that is always there first, and then the adapters. Blocks.
    pub fn offers(&self) -> Result<Vec<Offer>, ManagementError> {
        let own = self.models.pinned();
        let stored = self.store.list().into_iter();
        let usable = stored.filter(|entry| !matches!(entry.location, Location::Unsupported(_)));
        let others = usable.filter(|entry| !own.card.is_called(&entry.name));
        let others = others.map(|entry| {
            let trainable = !self.store.is_embedder(&entry);
            Offer { name: entry.name, base: None, trainable }
        });
        let mut offers: Vec<Offer> = std::iter::once(Offer::model(&own.card)).chain(others).collect();
        let trained = self.table.adapters()?;
        // Those that the server was started with have no job.
        let given = own.service.adapters.list().into_iter().map(|(name, _)| name);
        let given = given.filter(|name| !trained.iter().any(|adapter| adapter.name == *name));
        let base = own.card.name.clone();
        offers.extend(given.map(|name| Offer::adapter(name, base.clone())));
        offers.extend(trained.into_iter().map(|adapter| Offer::adapter(adapter.name, adapter.base)));
        Ok(offers)
    }
}
