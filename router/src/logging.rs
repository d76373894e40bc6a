use tracing_subscriber::EnvFilter;

use crate::config::LogSettings;

/// Logs to stdout. A filter that cannot be read is replaced by `info`.
pub(crate) fn init(settings: &LogSettings) {
    let filter = EnvFilter::try_new(&settings.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(settings.color);
    // A subscriber that is there already (tests) stays.
    let _ = if settings.json { builder.json().try_init() } else { builder.try_init() };
}
