//! Regular expressions as full matches.

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind, Look, Repetition};

use crate::GrammarError;

/// Parses a pattern that is to match a whole text. What comes back has no assertions, and every part of it can match.
///
/// # Errors
/// When the pattern is malformed, nested deeper than `depth`, or has assertions elsewhere than at its ends.
pub(super) fn whole(pattern: &str, depth: u32) -> Result<Hir, GrammarError> {
    let parsed = ParserBuilder::new().nest_limit(depth).build().parse(pattern);
    let hir = parsed.map_err(|error| GrammarError::Regex(error.to_string()))?;
    prune(hir, Ends { start: true, end: true })?.ok_or(GrammarError::Empty)
}

/// Whether a part begins where the text begins, and ends where it ends.
#[derive(Clone, Copy)]
struct Ends {
    start: bool,
    end: bool,
}

/// The same language without assertions; `None` where nothing matches.
fn prune(hir: Hir, ends: Ends) -> Result<Option<Hir>, GrammarError> {
    Ok(match hir.into_kind() {
        HirKind::Empty => Some(Hir::empty()),
        HirKind::Literal(literal) => Some(Hir::literal(literal.0)),
        HirKind::Class(class) => (class.minimum_len().is_some()).then(|| Hir::class(class)),
        HirKind::Look(Look::Start) if ends.start => Some(Hir::empty()),
        HirKind::Look(Look::End) if ends.end => Some(Hir::empty()),
        HirKind::Look(look) => {
            let message = format!("the assertion {look:?} is supported only at the ends of a pattern");
            return Err(GrammarError::Refused(message));
        }
        HirKind::Repetition(repetition) => {
            let optional = repetition.min == 0;
            let inner = prune(*repetition.sub, Ends { start: false, end: false })?;
            match inner {
                Some(sub) => Some(Hir::repetition(Repetition { sub: Box::new(sub), ..repetition })),
                None => optional.then(Hir::empty),
            }
        }
        HirKind::Capture(capture) => prune(*capture.sub, ends)?,
        HirKind::Concat(parts) => concat(parts, ends)?,
        HirKind::Alternation(parts) => {
            let parts = parts.into_iter().map(|part| prune(part, ends)).collect::<Result<Vec<_>, _>>()?;
            let parts: Vec<Hir> = parts.into_iter().flatten().collect();
            (!parts.is_empty()).then(|| Hir::alternation(parts))
        }
    })
}

fn concat(parts: Vec<Hir>, ends: Ends) -> Result<Option<Hir>, GrammarError> {
    let is_empty = |hir: &Hir| matches!(hir.kind(), HirKind::Empty | HirKind::Look(_));
    let last = parts.iter().rposition(|part| !is_empty(part)).unwrap_or(0);
    let first = parts.iter().position(|part| !is_empty(part)).unwrap_or(parts.len());
    let mut kept = Vec::with_capacity(parts.len());
    for (at, part) in parts.into_iter().enumerate() {
        let ends = Ends { start: ends.start && at <= first, end: ends.end && at >= last };
        let Some(part) = prune(part, ends)? else { return Ok(None) };
        kept.push(part);
    }
    Ok(Some(Hir::concat(kept)))
}
