//! The load generator's report.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::svg::{Line, Plot};
use super::table;
use crate::load::StageSummary;
use crate::stats::Summary;

#[derive(Debug, Serialize)]
pub struct LoadReport {
    pub version: &'static str,
    pub url: String,
    pub api: String,
    pub model: String,
    /// What was asked, in words.
    pub workload: String,
    pub stages: Vec<StageSummary>,
}

/// The report as Markdown tables.
pub fn markdown(report: &LoadReport) -> String {
    let goodput = report.stages.iter().any(|stage| stage.goodput.is_some());
    let mut head = vec!["load", "requests", "failed", "requests/s", "prompt tokens/s", "output tokens/s"];
    if goodput {
        head.push("kept the objective");
    }
    let rows: Vec<Vec<String>> = report
        .stages
        .iter()
        .map(|stage| {
            let mut row = vec![
                stage.label.clone(),
                stage.requests.to_string(),
                (stage.requests - stage.succeeded).to_string(),
                format!("{:.2}", stage.requests_per_s),
                format!("{:.0}", stage.prompt_tokens_per_s),
                format!("{:.1}", stage.output_tokens_per_s),
            ];
            if goodput {
                row.push(
                    stage.goodput.map_or_else(String::new, |good| format!("{:.1} %", 100.0 * good.share)),
                );
            }
            row
        })
        .collect();
    let mut text = format!("{} at {}, {}: {}\n\n", report.model, report.url, report.api, report.workload);
    text += &table(&head, &rows);
    let latencies: Vec<Vec<String>> = report
        .stages
        .iter()
        .flat_map(|stage| {
            let kinds = [
                ("first token", &stage.ttft_ms),
                ("between tokens", &stage.itl_ms),
                ("per token after the first", &stage.tpot_ms),
                ("whole request", &stage.e2e_ms),
            ];
            kinds.map(|(name, summary)| latency_row(&stage.label, name, summary))
        })
        .collect();
    text += "\nMilliseconds:\n\n";
    text += &table(&["load", "latency", "mean", "p50", "p90", "p99", "max"], &latencies);
    for stage in report.stages.iter().filter(|stage| !stage.errors.is_empty()) {
        let kinds: Vec<String> =
            stage.errors.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
        text += &format!("\nErrors at {}: {}\n", stage.label, kinds.join(", "));
    }
    text
}

fn latency_row(label: &str, name: &str, summary: &Summary) -> Vec<String> {
    let figures = [summary.mean, summary.p50, summary.p90, summary.p99, summary.max];
    [label.to_owned(), name.to_owned()]
        .into_iter()
        .chain(figures.map(|figure| format!("{figure:.2}")))
        .collect()
}

/// Writes the plots into `folder`: latencies against throughput, over the stages.
pub fn plots(report: &LoadReport, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    type Pick = fn(&StageSummary) -> &Summary;
    let kinds: [(&str, &str, Pick); 3] = [
        ("first-token.svg", "first token, ms", |stage| &stage.ttft_ms),
        ("between-tokens.svg", "between tokens, ms", |stage| &stage.itl_ms),
        ("whole-request.svg", "whole request, ms", |stage| &stage.e2e_ms),
    ];
    for (file, label, pick) in kinds {
        let line = |name: &str, value: fn(&Summary) -> f64| Line {
            name: name.to_owned(),
            points: report
                .stages
                .iter()
                .map(|stage| (stage.output_tokens_per_s, value(pick(stage))))
                .collect(),
        };
        let plot = Plot {
            title: report.model.clone(),
            x_label: "output tokens/s".to_owned(),
            y_label: label.to_owned(),
            lines: vec![line("p50", |s| s.p50), line("p90", |s| s.p90), line("p99", |s| s.p99)],
        };
        let path = folder.join(file);
        std::fs::write(&path, plot.render()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
