//! What is changed in a template's text before it is compiled, so that it means what it means to transformers:
//!
//! - Line ends become `\n`.
//! - `{% generation %}`, which marks the assistant's text for training, becomes a call block as it is there; what is
//!   set in it is not seen after it.
//! - What a `for` runs over passes a filter, so that `none` is refused as in Python.
//!
//! Tags keep their whitespace control and their lines.

/// The function that `{% generation %}` calls.
pub(super) const GENERATION: &str = "_generation";
/// The filter of what a `for` runs over.
pub(super) const ITERABLE: &str = "_iterable";

pub(super) fn adapt(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = opening(rest) {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let end = match tag.get(..2) {
            Some("{#") => tag.find("#}").map(|at| at + 2),
            Some("{{") => closing(tag, "}}"),
            _ => closing(tag, "%}"),
        };
        // Without an end it is a syntax error, which the compiler words.
        let Some(end) = end else { return out + tag };
        let (tag, after) = tag.split_at(end);
        rest = after;
        if !tag.starts_with("{%") {
            out.push_str(tag);
            continue;
        }
        out.push_str(&adapt_block(tag));
        if first_word(inner(tag)) == "raw" {
            let text = end_of_raw(rest);
            let (raw, after) = rest.split_at(text);
            out.push_str(raw);
            rest = after;
        }
    }
    out + rest
}

fn opening(text: &str) -> Option<usize> {
    text.match_indices('{')
        .map(|(at, _)| at)
        .find(|at| text.get(at + 1..).is_some_and(|rest| rest.starts_with(['{', '%', '#'])))
}

/// The bytes up to and including the `end` of a tag: not within a string, and not within brackets.
fn closing(tag: &str, end: &str) -> Option<usize> {
    let mut code = Code::new(tag, 2);
    while let Some((at, c)) = code.next() {
        if code.depth == 0 && tag.get(at..).is_some_and(|rest| rest.starts_with(end)) {
            return Some(at + end.len());
        }
        code.bracket(c);
    }
    None
}

/// Where raw text ends: at its closing tag.
fn end_of_raw(text: &str) -> usize {
    let tags = text.match_indices("{%").map(|(at, _)| at);
    let ends = |at: &usize| {
        text.get(at + 2..)
            .is_some_and(|tag| tag.trim_start_matches(['-', '+']).trim_start().starts_with("endraw"))
    };
    tags.into_iter().find(ends).unwrap_or(text.len())
}

/// What a tag says, without its brackets and whitespace control.
fn inner(tag: &str) -> &str {
    tag.get(2..tag.len() - 2).unwrap_or("").trim_matches(['-', '+'])
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or("")
}

fn adapt_block(tag: &str) -> String {
    let inner = inner(tag);
    match first_word(inner) {
        "generation" => tag.replacen("generation", &format!("call {GENERATION}()"), 1),
        "endgeneration" => tag.replacen("endgeneration", "endcall", 1),
        "for" => match iterated(inner) {
            Some((start, end)) => {
                let (head, rest) = inner.split_at(start);
                let (iterated, tail) = rest.split_at(end - start);
                tag.replacen(inner, &format!("{head}({iterated})|{ITERABLE} {tail}"), 1)
            }
            None => tag.to_owned(),
        },
        _ => tag.to_owned(),
    }
}

/// Where, in `for a in b if c`, the `b` is.
fn iterated(text: &str) -> Option<(usize, usize)> {
    let mut words = words(text).into_iter();
    let start = words.find(|(_, word)| *word == "in").map(|(at, word)| at + word.len())?;
    let end = words.find(|(_, word)| matches!(*word, "if" | "recursive")).map_or(text.len(), |(at, _)| at);
    Some((start, end))
}

/// Names outside of strings and brackets, which are not attributes.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut code = Code::new(text, 0);
    let mut word: Option<usize> = None;
    let mut attribute = false;
    while let Some((at, c)) = code.next() {
        let part = c.is_alphanumeric() || c == '_';
        if part && word.is_none() {
            word = Some(at);
        } else if !part && let Some(start) = word.take() {
            if !attribute && code.depth == 0 {
                found.extend(text.get(start..at).map(|name| (start, name)));
            }
            attribute = false;
        }
        if !part && !c.is_whitespace() {
            attribute = c == '.';
        }
        code.bracket(c);
    }
    if let Some(start) = word.filter(|_| !attribute && code.depth == 0) {
        found.extend(text.get(start..).map(|name| (start, name)));
    }
    found
}

/// The characters of an expression that are not in strings. A string is one quote to its reader.
struct Code<'t> {
    chars: std::str::CharIndices<'t>,
    /// Open brackets.
    depth: usize,
}

impl<'t> Code<'t> {
    fn new(text: &'t str, skip: usize) -> Self {
        let mut chars = text.char_indices();
        for _ in 0..skip {
            chars.next();
        }
        Self { chars, depth: 0 }
    }

    fn next(&mut self) -> Option<(usize, char)> {
        let (at, c) = self.chars.next()?;
        if matches!(c, '"' | '\'') {
            while let Some((_, inside)) = self.chars.next() {
                if inside == c {
                    break;
                }
                if inside == '\\' {
                    self.chars.next();
                }
            }
        }
        Some((at, c))
    }

    fn bracket(&mut self, c: char) {
        match c {
            '(' | '[' | '{' => self.depth += 1,
            ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_pass_the_filter() {
        for (source, expected) in [
            ("{% for a in b %}", "{% for a in( b )|_iterable %}"),
            (
                "{%- for a, b in c.items() if b.in_use -%}",
                "{%- for a, b in( c.items() )|_iterable if b.in_use -%}",
            ),
            ("{% for a in x['in'] recursive %}", "{% for a in( x['in'] )|_iterable recursive %}"),
            ("{% for a in (b if c else d) %}", "{% for a in( (b if c else d) )|_iterable %}"),
            ("{% for a in b.recursive + ['%}'] %}", "{% for a in( b.recursive + ['%}'] )|_iterable %}"),
            ("{% for a in\n b\n%}", "{% for a in(\n b\n)|_iterable %}"),
            ("{% for index in x %}", "{% for index in( x )|_iterable %}"),
            ("{% for %}", "{% for %}"),
        ] {
            assert_eq!(adapt(source), expected);
        }
    }

    #[test]
    fn everything_else_stays() {
        for source in [
            "{# {% for a in b %} #}",
            "{% raw %}{% for a in b %}{% generation %}{%- endraw %}x",
            "{{ '{% for a in b %}' }}",
            "{{ {'a': {'b': 1}} }}{% set x = {'a': {}} %}",
            "{{ \"\\\"}}\" }}",
            "{% for a in b",
            "{{ 'unclosed }}",
            "{ { % for",
            "für alle: {",
        ] {
            assert_eq!(adapt(source), source);
        }
        assert_eq!(adapt("{# x #}{%- generation -%}"), "{# x #}{%- call _generation() -%}");
        assert_eq!(adapt("{%endgeneration%}"), "{%endcall%}");
    }
}
