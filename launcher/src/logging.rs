//! Log output of the launcher's own process.

use tracing_subscriber::EnvFilter;
use weirgate_router::LogSettings;

/// Starts logging to stdout. An unreadable filter is replaced by `info` and named.
pub fn init(settings: &LogSettings) {
    let (filter, refused) = match EnvFilter::try_new(&settings.level) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(settings.color);
    let started = if settings.json { subscriber.json().try_init() } else { subscriber.compact().try_init() };
    if let Err(error) = started {
        eprintln!("Cannot start logging: {error}");
    }
    if let Some(error) = refused {
        tracing::warn!("LOG_LEVEL {:?}: {error}; using info", settings.level);
    }
}
