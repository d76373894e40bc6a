//! Counters and histograms, and the Prometheus text format (version 0.0.4).
//!
//! Our own, because TGI's names and buckets must come out exactly (no `_total`, no summaries), without global state.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts of observations by upper bound.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: Vec<f64>,
    /// One per bound and one above them all; not cumulative.
    counts: Vec<AtomicU64>,
    /// An f64's bits.
    sum: AtomicU64,
}

impl Histogram {
    /// `bounds` ascend.
    pub fn new(bounds: Vec<f64>) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    pub fn observe(&self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The closure always gives a value, so this cannot fail.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

/// Writes the exposition text. A family stands in one place, however often series are added to it.
#[derive(Default)]
pub(crate) struct Exposition {
    /// Names, and the lines so far.
    families: Vec<(String, String)>,
    /// The one that series are added to.
    current: usize,
}

/// `name="value"` pairs without the braces; empty for none.
pub(crate) type Labels<'a> = &'a str;

impl Exposition {
    pub fn into_text(self) -> String {
        self.families.into_iter().map(|(_, lines)| lines).collect()
    }

    /// The series that follow are this family's.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        if let Some(known) = self.families.iter().position(|(known, _)| known == name) {
            self.current = known;
            return;
        }
        self.current = self.families.len();
        self.families.push((name.to_owned(), String::new()));
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    pub fn value(&mut self, name: &str, labels: Labels, value: impl Display) {
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{labels}}} {value}"));
        }
    }

    pub fn histogram(&mut self, name: &str, labels: Labels, histogram: &Histogram) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut cumulative = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            cumulative += count.load(Ordering::Relaxed);
            self.line(format_args!("{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {cumulative}"));
        }
        cumulative += histogram.counts.last().map_or(0, |count| count.load(Ordering::Relaxed));
        self.line(format_args!("{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {cumulative}"));
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let sum = f64::from_bits(histogram.sum.load(Ordering::Relaxed));
        self.line(format_args!("{name}_sum{braces} {sum}"));
        self.line(format_args!("{name}_count{braces} {cumulative}"));
    }

    fn line(&mut self, line: std::fmt::Arguments) {
        if let Some((_, lines)) = self.families.get_mut(self.current) {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "{line}");
        }
    }
}

/// A label value with its reserved characters escaped.
pub(crate) fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
