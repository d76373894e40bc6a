//! How serving ends: on a signal in order, or because the engine failed.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::server::Server;
use crate::service::{Failure, Service, State};

/// The time clients get to read the error that ends their request.
const FAREWELL: Duration = Duration::from_secs(1);
/// The time responses get to be written once they are complete.
const FLUSH: Duration = Duration::from_secs(2);

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When the signals cannot be caught.
pub(crate) async fn signalled() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: finishing what is under way"),
        _ = interrupt.recv() => tracing::info!("SIGINT: finishing what is under way"),
    }
    Ok(())
}

/// Takes no new requests, gives those under way `patience` to finish, ends the rest with an error, and closes.
pub(crate) async fn drain(service: &Arc<Service>, server: Server, patience: Duration) {
    service.health.lower(State::Draining);
    if !idle(service, patience).await {
        tracing::warn!("{} requests did not finish in time", service.dispatcher.in_flight());
        service.dispatcher.fail_all(Failure::ShuttingDown);
        idle(service, FAREWELL).await;
    }
    server.shut_down(FLUSH).await;
    service.engine.stop();
}

/// Tells everybody that the engine is gone, and closes.
pub(crate) async fn fail(service: &Arc<Service>, server: Server) {
    service.health.lower(State::Failed(Failure::Engine));
    service.dispatcher.fail_all(Failure::Engine);
    idle(service, FAREWELL).await;
    server.shut_down(FAREWELL).await;
}

/// Waits until no request holds a place; false if some still do after `patience`.
async fn idle(service: &Service, patience: Duration) -> bool {
    let everything = u32::try_from(service.places).unwrap_or(u32::MAX);
    let all = service.permits.acquire_many(everything);
    tokio::time::timeout(patience, all).await.is_ok()
}
