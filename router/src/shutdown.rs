//! How serving ends: on a signal in order, or because the engine failed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::server::Server;
use crate::service::{Failure, Service, State};

/// The time clients get to read the error that ends their request.
const FAREWELL: Duration = Duration::from_secs(1);
/// The time responses get to be written once they are complete.
const FLUSH: Duration = Duration::from_secs(2);

/// SIGTERM and SIGINT, caught from the moment of installation on: one that comes before anybody waits is not lost.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// # Errors
    /// When the signals cannot be caught.
    pub fn install() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for either; its name.
    pub async fn caught(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Takes no new requests, gives those under way `patience` to finish, ends the rest with an error, and closes.
pub(crate) async fn drain(services: &[Arc<Service>], servers: Vec<Server>, patience: Duration) {
    services.iter().for_each(|service| service.health.lower(State::Draining));
    join_all(services.iter().map(|service| finish(service, patience))).await;
    join_all(servers.into_iter().map(|server| server.shut_down(FLUSH))).await;
    services.iter().for_each(|service| service.engine.stop());
}

async fn finish(service: &Service, patience: Duration) {
    if !idle(service, patience).await {
        tracing::warn!("{} requests did not finish in time", service.dispatcher.in_flight());
        service.dispatcher.fail_all(Failure::ShuttingDown);
        idle(service, FAREWELL).await;
    }
}

/// Tells everybody that the engine is gone, and closes.
pub(crate) async fn fail(service: &Arc<Service>, servers: Vec<Server>) {
    service.health.lower(State::Failed(Failure::Engine));
    service.dispatcher.fail_all(Failure::Engine);
    idle(service, FAREWELL).await;
    join_all(servers.into_iter().map(|server| server.shut_down(FAREWELL))).await;
}

/// Waits until no request holds a place; false if some still do after `patience`.
async fn idle(service: &Service, patience: Duration) -> bool {
    let everything = u32::try_from(service.places).unwrap_or(u32::MAX);
    let all = service.permits.acquire_many(everything);
    tokio::time::timeout(patience, all).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_before_anybody_waits_is_not_lost() {
        let mut signals = Signals::install().unwrap();
        let own = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &own]).status().unwrap().success());
        assert_eq!(signals.caught().await, "SIGTERM");
    }
}
