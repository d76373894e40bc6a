//! Drives one stage: a number of requests at one pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client::Client;
use super::record::Record;
use super::workload::Workload;
use crate::progress::{Progress, Reporter};

/// The series of values that requests give.
pub const SERIES: [&str; 4] = ["first token ms", "between tokens ms", "per token ms", "whole request ms"];

/// Requests of the warm-up come from a series of their own, so that they leave nothing in a prefix cache.
const WARM_UP: u64 = 1 << 32;

/// When the next request is sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Pace {
    /// So many clients, each sending its next request when the last one has ended. They begin one after the other, spread
    /// evenly over `ramp_up`.
    Closed { concurrency: usize, ramp_up: Duration },
    /// At these times, whatever has become of the requests before.
    Open { times: Vec<Duration> },
}

#[derive(Debug, Clone)]
pub struct Stage {
    pub label: String,
    pub pace: Pace,
    /// For a closed loop, where no time limit is given.
    pub requests: Option<usize>,
    /// No request is sent after this.
    pub duration: Option<Duration>,
    pub warm_up: usize,
    /// Position among the stages.
    pub index: usize,
}

/// Runs a stage to its end; the records, in the order in which the requests ended, and how long it took in seconds.
pub async fn run_stage(
    client: Arc<Client>,
    workload: Arc<Workload>,
    stage: &Stage,
    reporter: &Reporter,
) -> (Vec<Record>, f64) {
    warm_up(&client, &workload, stage).await;
    let epoch = Instant::now();
    let (sender, mut finished) = mpsc::unbounded_channel();
    let feeder = match &stage.pace {
        Pace::Closed { concurrency, ramp_up } => {
            let next = Arc::new(AtomicUsize::new(0));
            for client_index in 0..*concurrency {
                let begin = epoch + ramp_up.mul_f64(client_index as f64 / *concurrency as f64);
                let (client, workload, sender) = (client.clone(), workload.clone(), sender.clone());
                let (stage, next, reporter) = (stage.clone(), next.clone(), reporter.clone());
                tokio::spawn(async move {
                    tokio::time::sleep_until(begin).await;
                    while let Some(index) = stage.next(&next, epoch, &reporter) {
                        let spec = workload.request(stage.index as u64, index);
                        let record = client.run(&spec, epoch, Duration::ZERO).await;
                        let _ = sender.send(record);
                    }
                });
            }
            None
        }
        Pace::Open { times } => {
            let (client, workload, sender) = (client.clone(), workload.clone(), sender.clone());
            let (times, stage, reporter) = (times.clone(), stage.clone(), reporter.clone());
            Some(tokio::spawn(async move {
                for (index, due) in times.into_iter().enumerate() {
                    tokio::time::sleep_until(epoch + due).await;
                    if reporter.stopped() || stage.duration.is_some_and(|limit| due > limit) {
                        break;
                    }
                    let spec = workload.request(stage.index as u64, index);
                    let (client, sender) = (client.clone(), sender.clone());
                    tokio::spawn(async move {
                        let record = client.run(&spec, epoch, due).await;
                        let _ = sender.send(record);
                    });
                }
            }))
        }
    };
    drop(sender);
    let mut records = Vec::new();
    while let Some(record) = finished.recv().await {
        reporter.send(told(stage.index, &record));
        records.push(record);
    }
    if let Some(feeder) = feeder {
        let _ = feeder.await;
    }
    let seconds = records.iter().map(|record| record.end).fold(0.0, f64::max);
    (records, seconds)
}

async fn warm_up(client: &Arc<Client>, workload: &Arc<Workload>, stage: &Stage) {
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..stage.warm_up {
        let (client, spec) = (client.clone(), workload.request(WARM_UP + stage.index as u64, index));
        tasks.spawn(async move { client.run(&spec, Instant::now(), Duration::ZERO).await });
    }
    tasks.join_all().await;
}

impl Stage {
    /// The number of the next request of a closed loop, if there is one more.
    fn next(&self, next: &AtomicUsize, epoch: Instant, reporter: &Reporter) -> Option<usize> {
        let over = self.duration.is_some_and(|limit| epoch.elapsed() >= limit);
        if over || reporter.stopped() {
            return None;
        }
        let index = next.fetch_add(1, Ordering::Relaxed);
        self.requests.is_none_or(|limit| index < limit).then_some(index)
    }
}

fn told(tab: usize, record: &Record) -> Progress {
    if let Some(kind) = &record.error {
        return Progress::Failed { tab, kind: kind.clone() };
    }
    let mut values = Vec::new();
    values.extend(record.ttft().map(|seconds| (0, seconds * 1e3)));
    values.extend(record.gaps().map(|seconds| (1, seconds * 1e3)));
    values.extend(record.tpot().map(|seconds| (2, seconds * 1e3)));
    values.push((3, record.end_to_end() * 1e3));
    Progress::Done { tab, values }
}
