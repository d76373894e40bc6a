//! HTTP server.

mod config;

pub use config::{EngineSettings, Limits, LogSettings, ModelLocation, RopeOverride, RouterConfig};

/// Exit status after the watchdog found the engine stalled.
pub const EXIT_STALLED: i32 = 75;
