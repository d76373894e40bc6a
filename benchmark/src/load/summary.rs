//! The figures of a stage.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Error, bail};
use serde::Serialize;

use super::record::Record;
use super::run::Stage;
use crate::stats::Summary;

/// What a request must keep to count as good. Seconds; `None`: no matter.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Objective {
    pub ttft: Option<f64>,
    pub tpot: Option<f64>,
    pub e2e: Option<f64>,
}

impl FromStr for Objective {
    type Err = Error;

    /// `ttft=500,tpot=50,e2e=10000`, in milliseconds, any of them.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut objective = Self::default();
        for part in text.split(',') {
            let (name, limit) =
                part.split_once('=').with_context(|| format!("{part:?} is not NAME=MILLISECONDS"))?;
            let limit: f64 =
                limit.parse().with_context(|| format!("{limit:?} is not a number of milliseconds"))?;
            let field = match name.trim() {
                "ttft" => &mut objective.ttft,
                "tpot" => &mut objective.tpot,
                "e2e" => &mut objective.e2e,
                other => bail!("{other:?} is none of ttft, tpot and e2e"),
            };
            *field = Some(limit / 1e3);
        }
        Ok(objective)
    }
}

impl Objective {
    fn kept(&self, record: &Record) -> bool {
        let within = |value: Option<f64>, limit: Option<f64>| {
            limit.is_none_or(|limit| value.is_none_or(|v| v <= limit))
        };
        record.error.is_none()
            && within(record.ttft(), self.ttft)
            && within(record.tpot(), self.tpot)
            && within(Some(record.end_to_end()), self.e2e)
    }
}

/// Latencies in milliseconds, of the requests that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageSummary {
    pub label: String,
    pub requests: usize,
    pub succeeded: usize,
    /// How many requests ended with which kind of error.
    pub errors: BTreeMap<String, usize>,
    pub seconds: f64,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    pub requests_per_s: f64,
    pub prompt_tokens_per_s: f64,
    pub output_tokens_per_s: f64,
    pub ttft_ms: Summary,
    pub itl_ms: Summary,
    pub tpot_ms: Summary,
    pub e2e_ms: Summary,
    /// How late the load generator itself was, which an open loop counts into the latencies.
    pub sent_late_ms: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goodput: Option<Goodput>,
}

/// Requests that kept the objective.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Goodput {
    pub share: f64,
    pub requests_per_s: f64,
}

impl StageSummary {
    pub fn of(stage: &Stage, records: &[Record], seconds: f64, objective: Option<&Objective>) -> Self {
        let good: Vec<&Record> = records.iter().filter(|record| record.error.is_none()).collect();
        let mut errors = BTreeMap::new();
        for kind in records.iter().filter_map(|record| record.error.clone()) {
            *errors.entry(kind).or_insert(0) += 1;
        }
        let rate = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        let ms = |values: Vec<f64>| {
            Summary::of(&values.into_iter().map(|seconds| seconds * 1e3).collect::<Vec<_>>())
        };
        let prompt_tokens = good.iter().filter_map(|record| record.prompt_tokens).sum::<u64>();
        let output_tokens = good.iter().map(|record| record.output_tokens).sum::<u64>();
        let goodput = objective.map(|objective| {
            let kept = records.iter().filter(|record| objective.kept(record)).count() as f64;
            Goodput { share: kept / records.len().max(1) as f64, requests_per_s: rate(kept) }
        });
        Self {
            label: stage.label.clone(),
            requests: records.len(),
            succeeded: good.len(),
            errors,
            seconds,
            prompt_tokens,
            output_tokens,
            requests_per_s: rate(good.len() as f64),
            prompt_tokens_per_s: rate(prompt_tokens as f64),
            output_tokens_per_s: rate(output_tokens as f64),
            ttft_ms: ms(good.iter().filter_map(|record| record.ttft()).collect()),
            itl_ms: ms(good.iter().flat_map(|record| record.gaps()).collect()),
            tpot_ms: ms(good.iter().filter_map(|record| record.tpot()).collect()),
            e2e_ms: ms(good.iter().map(|record| record.end_to_end()).collect()),
            sent_late_ms: ms(records.iter().map(|record| record.sent - record.due).collect()),
            goodput,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::run::Pace;
    use super::*;

    fn record(first: f64, last: f64, tokens: u64, error: Option<&str>) -> Record {
        Record {
            due: 0.0,
            sent: 0.0,
            tokens: vec![first, last],
            end: last,
            prompt_tokens: Some(10),
            output_tokens: tokens,
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn figures_add_up() {
        let stage = Stage {
            label: "2 clients".into(),
            pace: Pace::Closed { concurrency: 2, ramp_up: std::time::Duration::ZERO },
            requests: Some(3),
            duration: None,
            warm_up: 0,
            index: 0,
        };
        let records = [
            record(0.1, 1.1, 11, None),
            record(0.3, 2.3, 21, None),
            record(0.1, 0.2, 2, Some("503 overloaded")),
        ];
        let objective = "ttft=200,e2e=5000".parse().unwrap();
        let summary = StageSummary::of(&stage, &records, 4.0, Some(&objective));
        assert_eq!((summary.requests, summary.succeeded), (3, 2));
        assert_eq!(summary.errors, BTreeMap::from([("503 overloaded".to_owned(), 1)]));
        assert_eq!((summary.prompt_tokens, summary.output_tokens), (20, 32));
        assert_eq!((summary.output_tokens_per_s, summary.requests_per_s), (8.0, 0.5));
        assert!((summary.ttft_ms.mean - 200.0).abs() < 1e-9);
        assert!((summary.tpot_ms.max - 100.0).abs() < 1e-9);
        assert_eq!(summary.goodput, Some(Goodput { share: 1.0 / 3.0, requests_per_s: 0.25 }));
    }

    #[test]
    fn objectives_are_milliseconds() {
        let objective: Objective = "ttft=500,tpot=50".parse().unwrap();
        assert_eq!(objective, Objective { ttft: Some(0.5), tpot: Some(0.05), e2e: None });
        for bad in ["", "ttft", "itl=5", "ttft=x"] {
            assert!(bad.parse::<Objective>().is_err(), "{bad}");
        }
    }
}
