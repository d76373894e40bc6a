//! Notices an engine that has work and makes no step. A plain thread, so that it works when nothing else does.

use std::sync::Arc;
use std::time::Duration;

use crate::service::{Failure, Service, State};

/// How often it looks, at most.
const PERIOD: Duration = Duration::from_millis(200);
/// The time clients get to read their error before the process ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Watches until the engine stalls; then ends every request with an error and calls `end`, which is expected to end
/// the process. Does nothing if the service has no watchdog.
///
/// # Errors
/// When the system cannot start a thread.
pub(crate) fn watch(service: Arc<Service>, end: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    if service.watchdog.is_zero() {
        return Ok(());
    }
    let service = Arc::downgrade(&service);
    let watch = move || {
        loop {
            std::thread::sleep(PERIOD);
            let Some(service) = service.upgrade() else { return };
            if !service.is_stalled() {
                continue;
            }
            tracing::error!("the engine has stalled: {:?}", service.engine.stats());
            service.health.lower(State::Failed(Failure::Stalled));
            service.dispatcher.fail_all(Failure::Stalled);
            std::thread::sleep(FAREWELL);
            return end();
        }
    };
    std::thread::Builder::new().name("watchdog".into()).spawn(watch)?;
    Ok(())
}
