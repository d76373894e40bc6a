//! Headers of very many tensors: what they may cost. Alone in its process, whose memory it measures.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use weirgate_models::{MAX_SAFETENSORS_HEADER, ModelFiles, SafetensorsSource, TensorSource};

/// The most memory that this process has had, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// A header of `count` tensors, as short as one can be.
fn header(count: usize) -> String {
    let mut header = String::with_capacity(60 * count);
    for i in 0..count {
        let mark = if i == 0 { '{' } else { ',' };
        write!(header, r#"{mark}"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#).unwrap();
    }
    header.push('}');
    header
}

#[test]
fn a_million_tensors_are_refused_and_as_many_as_may_be_are_cheap() {
    let folder = tempfile::tempdir().unwrap();
    let open = |header: &str| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        let files = ModelFiles::open(folder.path()).unwrap();
        let (before, begin) = (peak(), Instant::now());
        let source = SafetensorsSource::open(&files).map_err(|error| error.to_string());
        (source, begin.elapsed(), peak() - before)
    };
    let largest = usize::try_from(MAX_SAFETENSORS_HEADER).unwrap();
    // Not so many that they could not be told from those that are refused.
    let fitting = largest / 60;
    let few = header(fitting);
    assert!(few.len() <= largest && fitting > 250_000, "{} bytes", few.len());
    let (source, took, bytes) = open(&few);
    let source = source.unwrap();
    assert!(source.contains("0") && source.contains(&(fitting - 1).to_string()));
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(bytes < 512 << 20, "{bytes} bytes for {fitting} tensors");
    drop((source, few));

    let many = header(1_000_000);
    let (source, took, bytes) = open(&many);
    let error = source.unwrap_err();
    let refused = format!("header of {} bytes, at most {largest} are accepted", many.len());
    assert!(error.contains("model.safetensors") && error.contains(&refused), "{error}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(bytes < 8 << 20, "{bytes} bytes to refuse it");
}
