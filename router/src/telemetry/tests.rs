use std::time::Instant;

use super::*;

#[test]
fn endpoints_are_plain_http_addresses() {
    let shown = |text: &str| text.parse::<OtlpEndpoint>().map(|endpoint| endpoint.to_string());
    assert_eq!(shown("http://collector:4317").unwrap(), "http://collector:4317");
    assert_eq!(shown("http://collector/").unwrap(), "http://collector:4317");
    assert_eq!(shown("http://[::1]:99").unwrap(), "http://[::1]:99");
    for bad in
        ["", "collector:4317", "https://collector:4317", "http://", "http://a:4318/v1/traces", "http://a?b"]
    {
        assert_eq!(shown(bad), Err(OtlpEndpointError(bad.to_owned())), "{bad}");
    }
}

#[test]
fn endpoints_survive_the_settings_file() {
    let endpoint: OtlpEndpoint = "http://[::1]:99".parse().unwrap();
    let text = serde_json::to_string(&endpoint).unwrap();
    assert_eq!(serde_json::from_str::<OtlpEndpoint>(&text).unwrap(), endpoint);
    assert!(serde_json::from_str::<OtlpEndpoint>("\"https://x\"").is_err());
}

/// The durations of the spans that a request leaves behind, by name, in milliseconds.
fn phases(phases: Phases) -> Vec<(String, u128)> {
    let (spans, mut messages) = mpsc::channel(1);
    let tracer = Tracer(Some(Arc::new(Recorder { model: "m".into(), spans })));
    let trace = tracer.begin_in(Some(context::TraceContext::begin("POST /x")));
    trace.finish(&phases, Summary { input_tokens: 1, generated_tokens: 2, error: None });
    let Ok(Message::Spans(spans)) = messages.try_recv() else { panic!("no spans") };
    assert!(spans[1..].iter().all(|span| span.parent == Some(spans[0].id) && span.trace == spans[0].trace));
    let length = |span: &proto::Span| span.end.duration_since(span.start).unwrap().as_millis();
    spans.iter().map(|span| (span.name.to_string(), length(span))).collect()
}

#[test]
fn phases_follow_each_other() {
    let started = Instant::now() - Duration::from_secs(1);
    let after = |milliseconds| started + Duration::from_millis(milliseconds);
    let whole = Phases {
        started,
        validated: Some(after(1)),
        scheduled: Some(after(3)),
        first_token: Some(after(7)),
        ended: after(15),
    };
    let named = |list: &[(&str, u128)]| list.iter().map(|(n, t)| ((*n).to_owned(), *t)).collect::<Vec<_>>();
    assert_eq!(
        phases(whole),
        named(&[("POST /x", 15), ("validation", 1), ("queue", 2), ("prefill", 4), ("decode", 8)])
    );
    let refused = Phases { validated: None, scheduled: None, first_token: None, ..whole };
    assert_eq!(phases(refused), named(&[("POST /x", 15), ("validation", 15)]));
    let waiting = Phases { scheduled: None, first_token: None, ..whole };
    assert_eq!(phases(waiting), named(&[("POST /x", 15), ("validation", 1), ("queue", 14)]));
}
