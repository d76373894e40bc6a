//! Classes of characters as Python's `re` has them, which is what clients check their texts with.

use regex_syntax::ast::{Ast, ClassPerl, ClassPerlKind, Visitor, parse::ParserBuilder, visit};

/// Python's word characters: letters, numbers and the underscore, but no combining marks.
const WORD: &str = r"\p{L}\p{N}_";
/// Rust's blanks, and the four separators that Python counts among them.
const SPACE: &str = r"\s\x1c-\x1f";

/// A pattern whose `\w`, `\s` and their complements mean what they mean in Python. What is malformed stays as it is.
pub(crate) fn of_python(pattern: &str, nest_limit: u32) -> String {
    let parsed = ParserBuilder::new().nest_limit(nest_limit).build().parse(pattern);
    let Ok(ast) = parsed else { return pattern.to_owned() };
    let Ok(mut classes) = visit(&ast, Classes::default());
    classes.sort_by_key(|class| class.start);
    let mut out = String::with_capacity(pattern.len());
    let mut copied = 0;
    for class in classes {
        out.push_str(pattern.get(copied..class.start).unwrap_or_default());
        out.push_str(&class.text);
        copied = class.end;
    }
    out.push_str(pattern.get(copied..).unwrap_or_default());
    out
}

/// What stands in the place of a class, from byte `start` to before `end`.
struct Class {
    start: usize,
    end: usize,
    text: String,
}

#[derive(Default)]
struct Classes {
    found: Vec<Class>,
}

impl Classes {
    fn add(&mut self, class: &ClassPerl) {
        let members = match &class.kind {
            ClassPerlKind::Word => WORD,
            ClassPerlKind::Space => SPACE,
            ClassPerlKind::Digit => return,
        };
        let not = if class.negated { "^" } else { "" };
        let (start, end) = (class.span.start.offset, class.span.end.offset);
        self.found.push(Class { start, end, text: format!("[{not}{members}]") });
    }
}

impl Visitor for Classes {
    type Output = Vec<Class>;
    type Err = std::convert::Infallible;

    fn finish(self) -> Result<Vec<Class>, Self::Err> {
        Ok(self.found)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Self::Err> {
        if let Ast::ClassPerl(class) = ast {
            self.add(class);
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &regex_syntax::ast::ClassSetItem) -> Result<(), Self::Err> {
        if let regex_syntax::ast::ClassSetItem::Perl(class) = item {
            self.add(class);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_python() {
        for (pattern, expected) in [
            (r"a\w+\s\d", r"a[\p{L}\p{N}_]+[\s\x1c-\x1f]\d"),
            (r"[\w.-]+@\W", r"[[\p{L}\p{N}_].-]+@[^\p{L}\p{N}_]"),
            (r"(?:\S|[^\S\n])*", r"(?:[^\s\x1c-\x1f]|[^[^\s\x1c-\x1f]\n])*"),
            (r"\\w", r"\\w"),
            (r"[^\W\d_]é\w", r"[^[^\p{L}\p{N}_]\d_]é[\p{L}\p{N}_]"),
            ("(", "("),
        ] {
            assert_eq!(of_python(pattern, 64), expected);
        }
    }
}
