//! What becomes of requests when a device goes wrong while it serves them.

use std::collections::BTreeMap;
use std::time::Duration;

use weirgate_engine::{EngineConfig, Executor, spawn};
use weirgate_types::{Finish, RejectReason, SeqUpdate};

use crate::real::greedy;

/// Far longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Serves from an executor that fails: every request ends once, with the engine, and none is accepted any more.
pub fn assert_all_end(executor: Box<dyn Executor>, what: &str) {
    let requests: Vec<_> = (0..4).map(|id| greedy(id, vec![3 + id as u32; 4], 20)).collect();
    let (handle, outputs) = spawn(executor, EngineConfig::default()).expect("a thread");
    // The first ones may have brought the fault about before the last ones come.
    let tickets: Vec<_> = requests.iter().filter_map(|request| handle.submit(request.clone()).ok()).collect();
    let mut ends: BTreeMap<_, Vec<Finish>> = BTreeMap::new();
    loop {
        let step = match outputs.recv_timeout(PATIENCE) {
            Ok(step) => step,
            Err(flume::RecvTimeoutError::Disconnected) => break,
            Err(flume::RecvTimeoutError::Timeout) => panic!("{what}: somebody waits"),
        };
        for output in step.outputs {
            if let SeqUpdate::Finished { reason, .. } = output.update {
                ends.entry(output.request).or_default().push(reason);
            }
        }
    }
    assert_eq!(ends.len(), tickets.len(), "{what}");
    assert!(ends.values().all(|ends| *ends == [Finish::EngineFailed]), "{what}: {ends:?}");
    assert_eq!(handle.submit(requests[0].clone()).err(), Some(RejectReason::EngineStopped), "{what}");
}
