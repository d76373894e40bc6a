//! Regular expressions of schemas: from ECMA 262's form to the library's, and questions about them.

use std::collections::{BTreeMap, HashMap};

use llguidance::derivre::{Regex, RegexAst, RegexBuilder};
use llguidance::regex_to_lark;

use crate::GrammarError;
use crate::watch::Watch;

/// Steps that a question about a regular expression may take.
const FUEL: u64 = 10_000;
/// Bytes of a text from one look at the watch to the next.
const STRIDE: usize = 32;
/// Bytes that the automata of one schema may take; beyond, they are made anew.
const MAX_BYTES: usize = 32 << 20;

/// Compiled patterns of one schema.
#[derive(Default)]
pub(super) struct Patterns {
    compiled: HashMap<String, Regex>,
    bytes: usize,
}

fn search(pattern: &str) -> RegexAst {
    RegexAst::SearchRegex(regex_to_lark(pattern, "dw"))
}

impl Patterns {
    /// Whether a text has a match.
    ///
    /// # Errors
    /// When the time is over; within, what is wrong with the pattern.
    pub fn matches(
        &mut self,
        pattern: &str,
        text: &str,
        watch: &Watch<'_>,
    ) -> Result<Result<bool, String>, GrammarError> {
        if !self.compiled.contains_key(pattern) {
            if self.bytes > MAX_BYTES {
                self.compiled.clear();
                self.bytes = 0;
            }
            match compiled(pattern) {
                Ok(regex) => {
                    self.bytes += regex.num_bytes();
                    self.compiled.insert(pattern.to_owned(), regex);
                }
                Err(message) => return Ok(Err(message)),
            }
        }
        let Some(regex) = self.compiled.get_mut(pattern) else { return Ok(Ok(false)) };
        let before = regex.num_bytes();
        let mut state = regex.initial_state();
        for bytes in text.as_bytes().chunks(STRIDE) {
            if state.is_dead() {
                break;
            }
            watch.check()?;
            if regex.num_bytes() > MAX_BYTES {
                return Err(GrammarError::limit(
                    "size of a pattern's automaton",
                    regex.num_bytes(),
                    MAX_BYTES,
                ));
            }
            state = regex.transition_bytes(state, bytes);
        }
        let matches = regex.is_accepting(state);
        self.bytes += regex.num_bytes().saturating_sub(before);
        Ok(Ok(matches))
    }

    /// Whether it is certain that no text of these lengths has a match of every pattern.
    pub fn is_empty(&self, patterns: &[String], min: u64, max: Option<u64>) -> bool {
        let mut parts: Vec<RegexAst> = patterns.iter().map(|pattern| search(pattern)).collect();
        if min > 0 || max.is_some() {
            let max = max.map(|max| max.to_string()).unwrap_or_default();
            parts.push(RegexAst::Regex(format!("(?s:.{{{min},{max}}})")));
        }
        let mut builder = RegexBuilder::new();
        let regex = builder.mk(&RegexAst::And(parts)).and_then(|all| builder.to_regex_limited(all, FUEL));
        regex.is_ok_and(|mut regex| regex.always_empty())
    }

    /// Whether it is certain that every match of one is a match of the other.
    pub fn is_within(&self, small: &str, large: &str) -> bool {
        let outside = RegexAst::And(vec![search(small), RegexAst::Not(Box::new(search(large)))]);
        let mut builder = RegexBuilder::new();
        let regex = builder.mk(&outside).and_then(|all| builder.to_regex_limited(all, FUEL));
        regex.is_ok_and(|mut regex| regex.always_empty())
    }
}

fn compiled(pattern: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new();
    let compiled = builder
        .mk_regex_for_serach(&regex_to_lark(pattern, "dw"))
        .and_then(|expression| builder.into_regex_limited(expression, FUEL));
    compiled.map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())
}

/// ECMA 262's form in the library's: brackets, braces and class operators that mean something else there are escaped.
pub(super) fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.char_indices().peekable();
    let (mut in_class, mut after_class_escape, mut last) = (false, false, ' ');
    while let Some((at, char)) = chars.next() {
        let was_class_escape = std::mem::take(&mut after_class_escape);
        match char {
            '\\' => {
                let Some((_, escaped)) = chars.next() else {
                    out.push('\\');
                    break;
                };
                after_class_escape = matches!(escaped, 'd' | 'D' | 'w' | 'W' | 's' | 'S');
                let identity = escaped.is_ascii_punctuation() && !matches!(escaped, '<' | '>');
                match escaped {
                    '/' | '<' | '>' | '_' | '"' | '\'' | '%' | '@' | ':' | ';' | ',' | '=' | '!' | '`' => {
                        out.push(escaped);
                    }
                    _ if identity || escaped.is_ascii_alphanumeric() => out.extend(['\\', escaped]),
                    _ => out.push(escaped),
                }
                last = ' ';
                continue;
            }
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if chars.next_if(|(_, next)| *next == '^').is_some() {
                    out.push('^');
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '[' | '&' | '~' if in_class => out.extend(['\\', char]),
            '-' if in_class && (was_class_escape || last == '-' || last == '[') => out.push_str("\\-"),
            '{' if !in_class && !is_repetition(&pattern[at..]) => out.push_str("\\{"),
            _ => out.push(char),
        }
        last = char;
    }
    out
}

/// Whether a text that begins with a brace begins with a count of repetitions.
fn is_repetition(text: &str) -> bool {
    let Some((count, _)) = text[1..].split_once('}') else { return false };
    let (min, max) = count.split_once(',').unwrap_or((count, ""));
    !min.is_empty() && [min, max].iter().all(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A pattern of exactly these texts.
pub(super) fn any_of<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let escaped: Vec<String> = texts.map(escaped).collect();
    format!("^(?:{})$", escaped.join("|"))
}

pub(super) fn escaped(text: &str) -> String {
    regex_syntax::escape(text)
}

/// A pattern of all texts but these.
pub(super) fn none_of<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut root = Trie::default();
    for text in texts {
        let end = text.chars().fold(&mut root, |node, char| node.next.entry(char).or_default());
        end.ends = true;
    }
    format!("^(?:{})$", root.complement())
}

#[derive(Default)]
struct Trie {
    ends: bool,
    next: BTreeMap<char, Trie>,
}

impl Trie {
    /// What may follow so that the whole is none of the texts. As deep as the longest text, which `MAX_EXCLUDED` bounds.
    fn complement(&self) -> String {
        let mut parts = Vec::new();
        if !self.ends {
            parts.push(String::new());
        }
        if self.next.is_empty() {
            parts.push(r"[\s\S]+".to_owned());
        } else {
            let class: String = self.next.keys().map(|char| format!("\\x{{{:x}}}", *char as u32)).collect();
            parts.push(format!(r"[^{class}][\s\S]*"));
            parts.extend(
                self.next
                    .iter()
                    .map(|(char, next)| format!("\\x{{{:x}}}(?:{})", *char as u32, next.complement())),
            );
        }
        parts.join("|")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::Limits;

    fn matches(patterns: &mut Patterns, pattern: &str, text: &str) -> Result<bool, String> {
        let (limits, cancelled) = (Limits::default(), AtomicBool::new(false));
        patterns.matches(pattern, text, &Watch::new(&limits, &cancelled)).unwrap()
    }

    #[test]
    fn patterns_of_javascript() {
        for (pattern, right, wrong) in [
            (r"^[\w-.]+$", "a-.b", "a b"),
            (r"^{[^}]*}$", "{x}", "x"),
            (r"^[^[]$", "a", "["),
            (r"^a{2}$", "aa", "a{2}"),
            (r"^\/\_\-$", "/_-", "/_"),
            (r"^[+--]$", ",", "a"),
            (r"^[a&&b]+$", "a&b", "c"),
        ] {
            let translated = translated(pattern);
            let mut patterns = Patterns::default();
            assert_eq!(matches(&mut patterns, &translated, right), Ok(true), "{pattern} as {translated}");
            assert_eq!(matches(&mut patterns, &translated, wrong), Ok(false), "{pattern} as {translated}");
        }
    }

    #[test]
    fn a_complement_has_every_other_text() {
        let pattern = none_of(["ab", "abc", "x", "é"].into_iter());
        let mut patterns = Patterns::default();
        for (text, right) in [
            ("", true),
            ("a", true),
            ("ab", false),
            ("abc", false),
            ("abcd", true),
            ("abd", true),
            ("é", false),
            ("xx", true),
        ] {
            assert_eq!(matches(&mut patterns, &pattern, text), Ok(right), "{text:?} in {pattern}");
        }
    }
}
