//! What happened to one request. Times are seconds since the stage began.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// When it should have been sent. Latencies count from here, so that a client that falls behind under an open
    /// loop does not hide the server's delays.
    pub due: f64,
    pub sent: f64,
    /// One entry for every event with tokens.
    pub tokens: Vec<f64>,
    pub end: f64,
    /// As the server counted.
    pub prompt_tokens: Option<u64>,
    pub output_tokens: u64,
    /// The kind of error that ended it.
    pub error: Option<String>,
}

impl Record {
    pub fn new(due: Duration, sent: Duration) -> Self {
        let (due, sent) = (due.as_secs_f64(), sent.as_secs_f64());
        let due = if due > 0.0 { due.min(sent) } else { sent };
        Self { due, sent, tokens: Vec::new(), end: sent, prompt_tokens: None, output_tokens: 0, error: None }
    }

    /// Time to the first token.
    pub fn ttft(&self) -> Option<f64> {
        self.tokens.first().map(|first| first - self.due)
    }

    /// Times between tokens.
    pub fn gaps(&self) -> impl Iterator<Item = f64> {
        self.tokens.windows(2).filter_map(|pair| match pair {
            [sooner, later] => Some(later - sooner),
            _ => None,
        })
    }

    /// Time per output token after the first.
    pub fn tpot(&self) -> Option<f64> {
        let (first, last) = (self.tokens.first()?, self.tokens.last()?);
        (self.output_tokens > 1).then(|| (last - first) / (self.output_tokens - 1) as f64)
    }

    pub fn end_to_end(&self) -> f64 {
        self.end - self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_count_from_when_the_request_was_due() {
        let seconds = Duration::from_secs_f64;
        let mut record = Record::new(seconds(1.0), seconds(1.5));
        record.tokens = vec![2.0, 2.25, 3.0];
        record.output_tokens = 3;
        record.end = 3.25;
        assert_eq!(record.ttft(), Some(1.0));
        assert_eq!(record.gaps().collect::<Vec<_>>(), [0.25, 0.75]);
        assert_eq!(record.tpot(), Some(0.5));
        assert_eq!(record.end_to_end(), 2.25);
        // A closed loop has no schedule.
        assert_eq!(Record::new(Duration::ZERO, seconds(1.5)).due, 1.5);
    }
}
