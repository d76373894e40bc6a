//! Finds stop strings in text that arrives in pieces, wherever the pieces' borders lie.

use std::sync::Arc;

/// The stop strings of one request, prepared for matching.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopSet {
    patterns: Arc<[Pattern]>,
}

/// One stop string with its Knuth-Morris-Pratt table: `failure[k]` is the length of the longest proper border of
/// the first `k + 1` bytes.
#[derive(Debug)]
struct Pattern {
    text: Arc<str>,
    failure: Box<[usize]>,
}

impl Pattern {
    fn new(stop: &str) -> Self {
        let bytes = stop.as_bytes();
        let mut failure = vec![0; bytes.len()];
        let mut border = 0;
        for k in 1..bytes.len() {
            while border > 0 && bytes[border] != bytes[k] {
                border = failure[border - 1];
            }
            if bytes[border] == bytes[k] {
                border += 1;
            }
            failure[k] = border;
        }
        Self { text: stop.into(), failure: failure.into() }
    }

    /// The longest prefix that ends at the text's end, after `byte` was appended to a text with state `matched`,
    /// which is less than the pattern's length.
    fn advance(&self, mut matched: usize, byte: u8) -> usize {
        let bytes = self.text.as_bytes();
        while matched > 0 && bytes[matched] != byte {
            matched = self.failure[matched - 1];
        }
        if bytes[matched] == byte { matched + 1 } else { 0 }
    }
}

impl StopSet {
    /// Empty strings are left out: they would match before any text.
    pub fn new(stops: &[String]) -> Self {
        Self {
            patterns: stops.iter().filter(|stop| !stop.is_empty()).map(|stop| Pattern::new(stop)).collect(),
        }
    }
}

/// What became of a piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// No stop string ends in the text so far.
    Open { released: String },
    /// A stop string was found; nothing after it counts.
    Stopped { released: String, stop: Arc<str> },
}

/// Scans one sequence's text.
///
/// The stop string that *ends* first wins, the longer one when two end together; so the outcome does not depend on how
/// the text was cut into pieces.
#[derive(Debug, Clone)]
pub(crate) struct StopMatcher {
    stops: StopSet,
    /// How much of each pattern the text's end matches.
    matched: Vec<usize>,
    /// Text not yet released because it may be the start of a stop string. Always empty when the stop is kept.
    held: String,
    keep: bool,
}

impl StopMatcher {
    /// With `keep` the stop string stays in the text and nothing is held back (TGI's own routes); without, it is
    /// removed, and text is held back while it may become one (OpenAI).
    pub fn new(stops: StopSet, keep: bool) -> Self {
        let matched = vec![0; stops.patterns.len()];
        Self { stops, matched, held: String::new(), keep }
    }

    pub fn push(&mut self, piece: &str) -> Scan {
        for (at, &byte) in piece.as_bytes().iter().enumerate() {
            let mut found: Option<Arc<str>> = None;
            for (pattern, matched) in self.stops.patterns.iter().zip(&mut self.matched) {
                *matched = pattern.advance(*matched, byte);
                if *matched == pattern.text.len() {
                    *matched = 0;
                    if found.as_ref().is_none_or(|other| other.len() < pattern.text.len()) {
                        found = Some(pattern.text.clone());
                    }
                }
            }
            if let Some(stop) = found {
                let released = self.cut(piece.get(..=at).unwrap_or(piece), stop.len());
                return Scan::Stopped { released, stop };
            }
        }
        Scan::Open { released: self.release(piece) }
    }

    /// The text still held back, when the sequence ended otherwise.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    fn cut(&mut self, piece: &str, stop_len: usize) -> String {
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        if !self.keep {
            text.truncate(text.len().saturating_sub(stop_len));
        }
        text
    }

    fn release(&mut self, piece: &str) -> String {
        if self.keep {
            return piece.to_owned();
        }
        self.held.push_str(piece);
        let hold = self.matched.iter().copied().max().unwrap_or(0);
        let keep = self.held.split_off(self.held.len().saturating_sub(hold));
        std::mem::replace(&mut self.held, keep)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The text, and the stop string that ended it.
    fn run(stops: &[&str], pieces: &[&str], keep: bool) -> (String, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut matcher = StopMatcher::new(StopSet::new(&stops), keep);
        let mut out = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                Scan::Open { released } => out.push_str(&released),
                Scan::Stopped { released, stop } => return (out + &released, Some(stop.to_string())),
            }
        }
        (out + &matcher.finish(), None)
    }

    #[test]
    fn a_stop_inside_one_piece_is_removed_or_kept() {
        assert_eq!(run(&["END"], &["one ENDtwo"], false), ("one ".into(), Some("END".into())));
        assert_eq!(run(&["END"], &["one ENDtwo"], true), ("one END".into(), Some("END".into())));
    }

    #[test]
    fn a_stop_across_pieces_is_never_released() {
        let mut matcher = StopMatcher::new(StopSet::new(&["\n\nQ:".to_owned()]), false);
        assert_eq!(matcher.push("yes\n"), Scan::Open { released: "yes".into() });
        assert_eq!(matcher.push("\n"), Scan::Open { released: String::new() });
        assert_eq!(matcher.push("Q"), Scan::Open { released: String::new() });
        assert_eq!(matcher.push(": no"), Scan::Stopped { released: String::new(), stop: "\n\nQ:".into() });
    }

    #[test]
    fn held_text_is_released_when_it_turns_out_harmless() {
        assert_eq!(run(&["aab"], &["a", "a", "a", "c"], false), ("aaac".into(), None));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"], false), ("a".into(), Some("aab".into())));
        assert_eq!(run(&["xyz"], &["xy"], false), ("xy".into(), None));
    }

    #[test]
    fn multibyte_text_stays_whole() {
        assert_eq!(run(&["é!"], &["caf", "é", "è"], false), ("caféè".into(), None));
        assert_eq!(run(&["é!"], &["caf", "é", "!"], false), ("caf".into(), Some("é!".into())));
    }

    /// First end wins; among those that end there, the longest.
    fn naive(stops: &[String], text: &str, keep: bool) -> (String, Option<String>) {
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            let longest = stops
                .iter()
                .filter(|s| !s.is_empty() && text[..end].ends_with(s.as_str()))
                .max_by_key(|s| s.len());
            if let Some(longest) = longest {
                let text = &text[..if keep { end } else { end - longest.len() }];
                return (text.to_owned(), Some(longest.clone()));
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        #[test]
        fn any_cutting_gives_what_the_whole_text_gives(
            stops in proptest::collection::vec("[abé]{0,4}", 0..4),
            pieces in proptest::collection::vec("[abcé]{0,5}", 0..10),
            keep: bool,
        ) {
            let stop_refs: Vec<&str> = stops.iter().map(String::as_str).collect();
            let piece_refs: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&stop_refs, &piece_refs, keep), naive(&stops, &pieces.concat(), keep));
        }

        #[test]
        fn no_released_text_is_later_part_of_a_stop(
            stop in "[ab]{1,5}",
            pieces in proptest::collection::vec("[ab]{0,3}", 0..12),
        ) {
            let mut matcher = StopMatcher::new(StopSet::new(std::slice::from_ref(&stop)), false);
            let mut released_so_far = String::new();
            let mut seen = String::new();
            for piece in &pieces {
                seen.push_str(piece);
                let (released, stopped) = match matcher.push(piece) {
                    Scan::Open { released } => (released, false),
                    Scan::Stopped { released, .. } => (released, true),
                };
                released_so_far.push_str(&released);
                prop_assert!(seen.starts_with(&released_so_far));
                let limit = seen.find(&stop).unwrap_or(seen.len());
                prop_assert!(released_so_far.len() <= limit);
                if stopped { break; }
            }
        }
    }
}
