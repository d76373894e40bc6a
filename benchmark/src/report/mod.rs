//! What is left of a run: JSON, Markdown and plots.

mod load;
mod svg;

pub use load::{LoadReport, markdown, plots};

use std::fmt::Write as _;

/// A Markdown table.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let _ = writeln!(text, "{}\n|{}", line(&head), "---|".repeat(head.len()));
    for row in rows {
        let _ = writeln!(text, "{}", line(row));
    }
    text
}
