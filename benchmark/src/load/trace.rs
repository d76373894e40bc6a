//! Recorded workloads: when requests came, how long they were, and which prompts began alike.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// Tokens behind one hash of a Mooncake trace.
const BLOCK_TOKENS: usize = 512;

/// One recorded request.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Since the first request.
    pub at: Duration,
    pub prompt_tokens: usize,
    pub output_tokens: usize,
    /// Names of the prompt's blocks of [`BLOCK_TOKENS`]; equal names, equal text. Empty where the trace has none.
    pub blocks: Vec<u64>,
}

impl Entry {
    /// The prompt as pieces of text: a name for each and its tokens. `own` names what is shared with nobody.
    pub fn pieces(&self, own: u64) -> Vec<(u64, usize)> {
        let mut left = self.prompt_tokens;
        let mut pieces = Vec::new();
        for block in &self.blocks {
            let tokens = left.min(BLOCK_TOKENS);
            left -= tokens;
            if tokens > 0 {
                pieces.push((*block, tokens));
            }
        }
        if left > 0 {
            pieces.push((own, left));
        }
        pieces
    }
}

/// Reads a trace: `.jsonl` as Mooncake publishes them (`timestamp` in milliseconds, `input_length`, `output_length`,
/// `hash_ids`), else CSV as Azure does (`TIMESTAMP,ContextTokens,GeneratedTokens`, times as `YYYY-MM-DD HH:MM:SS.f`).
///
/// # Errors
/// When the file cannot be read; a line that is not of the form is named.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let jsonl = path.extension().is_some_and(|extension| extension == "jsonl");
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    if !jsonl {
        lines.next();
    }
    let parse = if jsonl { mooncake } else { azure };
    let mut entries = Vec::new();
    for (number, line) in lines {
        let entry = parse(line).with_context(|| format!("{}, line {}", path.display(), number + 1))?;
        entries.push(entry);
    }
    ensure!(!entries.is_empty(), "{} has no requests", path.display());
    entries.sort_by_key(|entry: &Entry| entry.at);
    let first = entries.first().map_or(Duration::ZERO, |entry| entry.at);
    entries.iter_mut().for_each(|entry| entry.at -= first);
    Ok(entries)
}

fn mooncake(line: &str) -> Result<Entry> {
    #[derive(Deserialize)]
    struct Line {
        timestamp: u64,
        input_length: usize,
        output_length: usize,
        #[serde(default)]
        hash_ids: Vec<u64>,
    }
    let line: Line = serde_json::from_str(line)?;
    Ok(Entry {
        at: Duration::from_millis(line.timestamp),
        prompt_tokens: line.input_length.max(1),
        output_tokens: line.output_length.max(1),
        blocks: line.hash_ids,
    })
}

fn azure(line: &str) -> Result<Entry> {
    let mut fields = line.split(',').map(str::trim);
    let mut next = |name: &str| fields.next().with_context(|| format!("{name} is missing"));
    let at = timestamp(next("TIMESTAMP")?)?;
    let prompt: usize = next("ContextTokens")?.parse().context("ContextTokens")?;
    let output: usize = next("GeneratedTokens")?.parse().context("GeneratedTokens")?;
    Ok(Entry { at, prompt_tokens: prompt.max(1), output_tokens: output.max(1), blocks: Vec::new() })
}

/// `YYYY-MM-DD HH:MM:SS.f` as a time since some fixed day.
fn timestamp(text: &str) -> Result<Duration> {
    let wrong = || format!("{text:?} is not a time YYYY-MM-DD HH:MM:SS.f");
    let (date, time) = text.split_once(' ').with_context(wrong)?;
    let [year, month, day] = numbers(date, '-').with_context(wrong)?;
    let [hour, minute, second] = numbers(time, ':').with_context(wrong)?;
    if !(1.0..=12.0).contains(&month) || !(1.0..=31.0).contains(&day) || year < 1970.0 {
        bail!(wrong());
    }
    // Days of the Gregorian calendar with the year beginning in March (Richards, 2013).
    let (y, m) = if month > 2.0 { (year, month - 3.0) } else { (year - 1.0, month + 9.0) };
    let days = 365.0 * y + (y / 4.0).floor() - (y / 100.0).floor() + (y / 400.0).floor();
    let days = days + ((153.0 * m + 2.0) / 5.0).floor() + day;
    let seconds = days * 86_400.0 + hour * 3600.0 + minute * 60.0 + second;
    Duration::try_from_secs_f64(seconds).with_context(wrong)
}

fn numbers(text: &str, separator: char) -> Option<[f64; 3]> {
    let values: Option<Vec<f64>> = text.split(separator).map(|part| part.parse().ok()).collect();
    values?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> Result<Vec<Entry>> {
        let folder = std::env::temp_dir().join(format!("weirgate-trace-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn azure_times_are_relative_to_the_first() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-30 23:59:59.5000000,4808,10\n\
                    2023-12-01 00:00:01.2500000,3180,0\n";
        let entries = read_text("azure.csv", text).unwrap();
        let times: Vec<u128> = entries.iter().map(|entry| entry.at.as_micros().div_ceil(100) / 10).collect();
        assert_eq!(times, [0, 1750]);
        assert_eq!((entries[0].prompt_tokens, entries[0].output_tokens), (4808, 10));
        assert_eq!(entries[1].output_tokens, 1);
    }

    #[test]
    fn equal_blocks_are_equal_pieces() {
        let text = r#"{"timestamp": 5, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]}
{"timestamp": 30, "input_length": 1100, "output_length": 6, "hash_ids": [0, 2]}"#;
        let entries = read_text("mooncake.jsonl", text).unwrap();
        assert_eq!(entries[1].at, Duration::from_millis(25));
        assert_eq!(entries[0].pieces(99), [(0, 512), (1, 188)]);
        assert_eq!(entries[1].pieces(99), [(0, 512), (2, 512), (99, 76)]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = read_text("bad.csv", "TIMESTAMP,A,B\n2023-13-01 00:00:00,1,2\n").unwrap_err();
        assert!(format!("{error:#}").contains("bad.csv, line 2"), "{error:#}");
        assert!(read_text("empty.csv", "TIMESTAMP,A,B\n").is_err());
        assert!(read_text("bad.jsonl", "{\"timestamp\": -1}").is_err());
    }
}
