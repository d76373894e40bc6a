//! The load generator.

mod api;
mod client;
mod lengths;
mod record;
mod run;
mod sse;
mod summary;
mod trace;
mod workload;

pub use api::Api;
pub use client::{Client, Target};
pub use lengths::Lengths;
pub use run::{Pace, SERIES, Stage, run_stage};
pub use summary::{Objective, StageSummary};
pub use trace::{Entry, read as read_trace};
pub use workload::{Source, Workload, poisson, token_ids};
