//! Which trace a request belongs to (W3C Trace Context, <https://www.w3.org/TR/trace-context/>).

use std::fmt;
use std::sync::Arc;

use axum::http::HeaderMap;

use crate::service::random;

/// The longest `tracestate` that is passed on; the standard asks for at least this much.
const MAX_STATE: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TraceId(pub [u8; 16]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpanId(pub [u8; 8]);

impl TraceId {
    fn random() -> Self {
        Self(((u128::from(random::seed()) << 64) | u128::from(random::seed()) | 1).to_be_bytes())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl SpanId {
    pub fn random() -> Self {
        Self((random::seed() | 1).to_be_bytes())
    }
}

/// A request's place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TraceContext {
    pub trace: TraceId,
    /// The caller's span.
    pub parent: Option<SpanId>,
    /// The caller records this trace; one that begins here is always recorded.
    pub sampled: bool,
    /// The caller's `tracestate`, kept as it came.
    pub state: Arc<str>,
    /// Method and route.
    pub name: Arc<str>,
}

impl TraceContext {
    /// A new trace.
    pub fn begin(name: &str) -> Self {
        Self { trace: TraceId::random(), parent: None, sampled: true, state: "".into(), name: name.into() }
    }

    /// The trace that the caller's headers name; `None` where there is no (valid, single) `traceparent`.
    pub fn from_headers(headers: &HeaderMap, name: &str) -> Option<Self> {
        let mut parents = headers.get_all("traceparent").iter();
        let (parent, more) = (parents.next()?, parents.next());
        if more.is_some() {
            return None;
        }
        let (trace, span, sampled) = parse(parent.to_str().ok()?)?;
        let states = headers.get_all("tracestate").iter().filter_map(|value| value.to_str().ok());
        let state = states.collect::<Vec<_>>().join(",");
        let state = if state.len() <= MAX_STATE { state } else { String::new() };
        Some(Self { trace, parent: Some(span), sampled, state: state.into(), name: name.into() })
    }
}

/// `version-trace-parent-flags`; later versions may have more after that.
fn parse(text: &str) -> Option<(TraceId, SpanId, bool)> {
    let mut fields = text.trim().split('-');
    let version = hex::<2>(fields.next()?)?;
    let trace = TraceId((hex::<32>(fields.next()?)?).to_be_bytes());
    let span = SpanId(u64::try_from(hex::<16>(fields.next()?)?).ok()?.to_be_bytes());
    let flags = hex::<2>(fields.next()?)?;
    let whole = version != 0 || fields.next().is_none();
    let named = trace.0 != [0; 16] && span.0 != [0; 8];
    (version != 0xff && whole && named).then_some((trace, span, flags & 1 == 1))
}

/// Exactly `DIGITS` lower-case hexadecimal digits.
fn hex<const DIGITS: usize>(text: &str) -> Option<u128> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (digits && text.len() == DIGITS).then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn context(parents: &[&str]) -> Option<TraceContext> {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append("traceparent", parent.parse().unwrap());
        }
        TraceContext::from_headers(&headers, "POST /")
    }

    #[test]
    fn the_standards_example_is_read() {
        let found = context(&["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]).unwrap();
        assert_eq!(found.trace.to_string(), TRACE);
        assert_eq!(found.parent, Some(SpanId([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31])));
        assert!(found.sampled);
        assert!(!context(&["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"]).unwrap().sampled);
        // A later version with more at its end.
        assert!(context(&["cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what"]).is_some());
    }

    #[test]
    fn what_the_standard_forbids_begins_no_trace() {
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert_eq!(context(&[bad]), None, "{bad}");
        }
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(context(&[good, good]), None);
        assert_eq!(context(&[]), None);
    }

    #[test]
    fn the_callers_state_is_kept() {
        let mut headers = HeaderMap::new();
        headers.append("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01").parse().unwrap());
        headers.append("tracestate", "a=1".parse().unwrap());
        headers.append("tracestate", "b=2".parse().unwrap());
        assert_eq!(&*TraceContext::from_headers(&headers, "").unwrap().state, "a=1,b=2");
    }
}
