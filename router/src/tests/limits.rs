use std::time::Duration;

use super::*;
use crate::service::{Failure, State};
use crate::shutdown;
use crate::watchdog;

#[tokio::test]
async fn the_excess_is_refused_at_once() {
    let server = held(config());
    let requests: Vec<_> = (0..4)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move { server.post("/generate_stream", greedy(json!({}))).await })
        })
        .collect();
    server.until(|stats| stats.live_requests == 4).await;
    for path in ["/generate", "/generate_stream"] {
        let refused = server.post(path, greedy(json!({}))).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.text, r#"{"error":"Model is overloaded","error_type":"overloaded"}"#);
        assert!(refused.headers.contains_key("retry-after"));
    }
    let refused = server.post("/v1/completions", json!({"prompt": "a"})).await;
    assert_eq!(
        (refused.status, &refused.json()["error_type"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("overloaded"))
    );
    // The management API's own form, also of what is refused before its stream begins.
    for stream in [false, true] {
        let body = json!({"messages": [{"role": "user", "content": "Hi"}], "stream": stream});
        let refused = server.post("/api/v1/chat/completions/", body).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.json(), json!({"detail": "Model is overloaded"}));
        assert_eq!(refused.headers["retry-after"], "1");
    }
    server.gate.reopen();
    for request in requests {
        assert_eq!(request.await.unwrap().json_events().last().unwrap()["generated_text"], "Hello");
    }
    assert_eq!(server.metric("tgi_request_failure{err=\"overloaded\"}").await, 5.0);
    assert_eq!(server.metric("tgi_request_success").await, 4.0);
    assert_eq!(server.metric("tgi_request_count").await, 9.0);
    assert_eq!(server.post("/generate", greedy(json!({}))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_blocks_and_its_place() {
    for path in ["/generate", "/generate_stream", "/v1/completions"] {
        let server = held(config());
        let body = match path {
            "/v1/completions" => {
                json!({"prompt": "a", "max_tokens": 190, "ignore_eos": true, "stream": true})
            }
            _ => greedy(json!({"max_new_tokens": 190, "ignore_eos": true})),
        };
        let request = tokio::spawn({
            let server = server.clone();
            async move { server.post(path, body).await }
        });
        server.until(|stats| stats.live_requests == 1).await;
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        server.gate.reopen();
        server.idle().await;
        assert_eq!(server.metric("tgi_request_failure{err=\"dropped\"}").await, 1.0, "{path}");
        assert_eq!(server.metric("tgi_request_success").await, 0.0);
        assert_eq!(server.state.service.permits.available_permits(), 4);
    }
}

#[tokio::test]
async fn the_key_guards_all_but_the_open_routes() {
    let mut config = config();
    config.api_keys = vec!["Secret".into(), "Other".into()];
    let server = TestServer::with(config);
    let ask = |path: &'static str, key: Option<&'static str>| {
        let mut request = post(path, &greedy(json!({})));
        if let Some(key) = key {
            request.headers_mut().insert("authorization", key.parse().unwrap());
        }
        server.send(request)
    };
    for path in [
        "/",
        "/generate",
        "/generate_stream",
        "/tokenize",
        "/v1/chat/completions",
        "/v1/completions",
        "/nowhere",
    ] {
        for key in [
            None,
            Some("Bearer secret"),
            Some("Bearer SecretX"),
            Some("Bearer "),
            Some("Basic Secret"),
            Some("Secret"),
        ] {
            assert_eq!(ask(path, key).await.status, StatusCode::UNAUTHORIZED, "{path} {key:?}");
        }
    }
    assert_eq!(ask("/generate", None).await.text, "");
    assert_eq!(ask("/v1/completions", None).await.json()["error"]["code"], "invalid_api_key");
    for key in ["Bearer Secret", "bearer Other"] {
        assert_eq!(ask("/generate", Some(key)).await.status, StatusCode::OK);
    }
    let mut twice = post("/generate", &greedy(json!({})));
    twice.headers_mut().append("authorization", "Bearer Secret".parse().unwrap());
    twice.headers_mut().append("authorization", "Bearer Secret".parse().unwrap());
    assert_eq!(server.send(twice).await.status, StatusCode::UNAUTHORIZED);
    for path in ["/", "/health", "/ping", "/livez", "/readyz", "/metrics", "/info", "/v1/models"] {
        assert_eq!(server.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(server.get("/generate").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_key_can_guard_what_is_open_by_default() {
    let mut config = config();
    (config.api_keys, config.guard_info, config.profile) = (vec!["Secret".into()], true, Profile::Tgi);
    let server = TestServer::with(config);
    for path in ["/metrics", "/info", "/v1/models"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::UNAUTHORIZED, ""), "{path}");
    }
    assert_eq!(server.get("/health").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_page_of_another_name_cannot_reach_a_server_on_loopback() {
    let ask = |host: &'static str| Request::get("/health").header("host", host).body(Body::empty()).unwrap();
    let server = TestServer::new();
    assert_eq!(server.send(ask("evil.example")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(server.send(ask("127.0.0.1:3000")).await.status, StatusCode::OK);
    let mut open = config();
    open.listen = "0.0.0.0:0".parse().unwrap();
    assert_eq!(TestServer::with(open).send(ask("evil.example")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_browser_may_send_its_key() {
    let server = TestServer::new();
    let preflight = Request::options("/generate")
        .header("origin", "http://page.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type")
        .body(Body::empty())
        .unwrap();
    let answer = server.send(preflight).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert!(answer.headers["access-control-allow-headers"].to_str().unwrap().contains("authorization"));

    let mut config = config();
    config.cors_allow_origin = vec!["http://good.example".into()];
    let server = TestServer::with(config);
    for (origin, allowed) in [("http://good.example", true), ("http://bad.example", false)] {
        let request = Request::get("/info").header("origin", origin).body(Body::empty()).unwrap();
        let answer = server.send(request).await;
        assert_eq!(answer.headers.contains_key("access-control-allow-origin"), allowed, "{origin}");
    }
}

#[tokio::test]
async fn draining_refuses_new_requests_and_finishes_old_ones() {
    let server = held(config());
    let request = tokio::spawn({
        let server = server.clone();
        async move { server.post("/generate", greedy(json!({}))).await }
    });
    server.until(|stats| stats.live_requests == 1).await;
    let service = server.state.service.clone();
    let listening = server::Server::start("127.0.0.1:0".parse().unwrap(), server.app.clone()).await.unwrap();
    let drained = tokio::spawn({
        let service = service.clone();
        async move { shutdown::drain(&[service], vec![listening], Duration::from_secs(60)).await }
    });
    while service.health.state() != State::Draining {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.get("/health").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(server.get("/health").await.text, r#"{"error":"unhealthy","error_type":"healthcheck"}"#);
    for path in ["/", "/ping", "/readyz", "/v2/health/ready"] {
        assert_eq!(server.get(path).await.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    assert_eq!(server.get("/livez").await.status, StatusCode::OK);
    assert_eq!(server.get("/v2/health/live").await.json(), json!({"live": true}));
    assert_eq!(server.post("/generate", greedy(json!({}))).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        server.post("/generate_stream", greedy(json!({}))).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    server.gate.reopen();
    assert_eq!(request.await.unwrap().json()["generated_text"], "Hello");
    drained.await.unwrap();
}

#[tokio::test]
async fn a_request_that_takes_too_long_ends_alone() {
    let mut config = config();
    config.limits.max_request_seconds = 1;
    let server = held(config);
    let ask = |path: &'static str| {
        let server = server.clone();
        tokio::spawn(async move { server.post(path, greedy(json!({}))).await })
    };
    let (plain, stream) = (ask("/generate"), ask("/generate_stream"));
    server.until(|stats| stats.live_requests == 2).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    server.gate.reopen();
    let error = json!({"error": "Request failed during generation: the request's deadline passed", "error_type": "generation"});
    let plain = plain.await.unwrap();
    assert_eq!((plain.status, plain.json()), (StatusCode::FAILED_DEPENDENCY, error.clone()));
    assert_eq!(stream.await.unwrap().json_events().last(), Some(&error));
    assert_eq!(server.post("/generate", greedy(json!({}))).await.json()["generated_text"], "Hello");
    server.idle().await;
}

#[tokio::test]
async fn what_does_not_finish_in_time_ends_with_an_error() {
    let server = held(config());
    let ask = |path: &'static str| {
        let server = server.clone();
        tokio::spawn(async move { server.post(path, greedy(json!({}))).await })
    };
    let (plain, stream) = (ask("/generate"), ask("/generate_stream"));
    server.until(|stats| stats.live_requests == 2).await;
    let listening = server::Server::start("127.0.0.1:0".parse().unwrap(), server.app.clone()).await.unwrap();
    shutdown::drain(std::slice::from_ref(&server.state.service), vec![listening], Duration::ZERO).await;
    let error = json!({"error": "Request failed during generation: the server is shutting down", "error_type": "generation"});
    let plain = plain.await.unwrap();
    assert_eq!((plain.status, plain.json()), (StatusCode::FAILED_DEPENDENCY, error.clone()));
    assert_eq!(stream.await.unwrap().json_events(), [error]);
    server.gate.reopen();
}

#[tokio::test]
async fn a_failed_engine_fails_what_is_under_way_and_what_comes() {
    let server = held(config());
    let ask = |path: &'static str, body: Value| {
        let server = server.clone();
        tokio::spawn(async move { server.post(path, body).await })
    };
    let plain = ask("/generate", greedy(json!({})));
    let stream =
        ask("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "a"}], "stream": true}));
    server.until(|stats| stats.live_requests == 2).await;
    server.state.service.engine.generator().unwrap().abort();
    server.gate.reopen();
    let plain = plain.await.unwrap();
    assert_eq!(
        (plain.status, &plain.json()["error_type"]),
        (StatusCode::FAILED_DEPENDENCY, &json!("generation"))
    );
    let stream = stream.await.unwrap();
    assert!(
        stream.text.contains("\"error_type\":\"generation\"") && !stream.text.contains("[DONE]"),
        "{}",
        stream.text
    );
    assert_eq!(server.post("/generate", greedy(json!({}))).await.status, StatusCode::FAILED_DEPENDENCY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_engine_is_noticed_and_its_clients_are_told() {
    let mut config = config();
    config.watchdog_seconds = 1;
    config.fault_stall_after_steps = Some(3);
    let server = TestServer::with(config);
    let (ended, end) = tokio::sync::oneshot::channel();
    watchdog::watch(server.state.service.clone(), move || ended.send(()).unwrap()).unwrap();
    let events = server.post("/generate_stream", greedy(json!({"max_new_tokens": 10}))).await.json_events();
    assert_eq!(
        events.last().unwrap()["error"],
        "Request failed during generation: the engine made no progress"
    );
    assert_eq!(server.state.service.health.state(), State::Failed(Failure::Stalled));
    assert_eq!(server.get("/health").await.status, StatusCode::SERVICE_UNAVAILABLE);
    end.await.unwrap();
}

#[tokio::test]
async fn a_metric_counts_tokens_in_and_out() {
    let server = TestServer::new();
    server.post("/generate", greedy(json!({}))).await;
    server
        .post(
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}),
        )
        .await;
    server.post("/generate", greedy(json!({"top_k": 0}))).await;
    server.idle().await;
    assert_eq!(server.metric("tgi_request_count").await, 3.0);
    assert_eq!(server.metric("tgi_request_success").await, 2.0);
    assert_eq!(server.metric("tgi_request_failure{err=\"validation\"}").await, 1.0);
    assert_eq!(server.metric("tgi_request_generated_tokens_sum").await, 7.0);
    assert_eq!(server.metric("tgi_request_input_length_sum").await, 19.0);
    assert_eq!(server.metric("weirgate_generated_tokens_total{model=\"test/model\"}").await, 7.0);
    assert_eq!(server.metric("weirgate_prompt_tokens_total{model=\"test/model\"}").await, 19.0);
    assert_eq!(server.metric("weirgate_time_to_first_token_seconds_count{model=\"test/model\"}").await, 2.0);
    assert_eq!(server.metric("weirgate_inter_token_latency_seconds_count{model=\"test/model\"}").await, 5.0);
    assert_eq!(server.metric("weirgate_kv_blocks_used{model=\"test/model\"}").await, 0.0);
}

#[tokio::test]
async fn keys_share_no_cached_prefixes() {
    let mut config = config();
    config.api_keys = vec!["A".into(), "B".into()];
    let server = TestServer::with(config);
    let hits = async |key: &str| {
        let before = server.state.service.engine.stats().prefix_hits;
        let mut request =
            post("/generate", &json!({"inputs": "x".repeat(100), "parameters": {"max_new_tokens": 1}}));
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        assert_eq!(server.send(request).await.status, StatusCode::OK);
        server.idle().await;
        server.state.service.engine.stats().prefix_hits - before
    };
    assert_eq!(hits("A").await, 0);
    assert!(hits("A").await > 0);
    assert_eq!(hits("B").await, 0);
}

/// Sends bytes to a real socket and gives what comes back until the server closes.
async fn exchange(address: std::net::SocketAddr, request: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn listen(server: &TestServer) -> server::Server {
    server::Server::start("127.0.0.1:0".parse().unwrap(), server.app.clone()).await.unwrap()
}

#[tokio::test]
async fn a_closed_socket_frees_the_blocks_of_a_plain_request() {
    use tokio::io::AsyncWriteExt;
    let server = held(config());
    let listening = listen(&server).await;
    let body = greedy(json!({"max_new_tokens": 190, "ignore_eos": true})).to_string();
    let head = format!(
        "POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(listening.address).await.unwrap();
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    server.until(|stats| stats.live_requests == 1).await;
    drop(stream);
    // The place comes free once the server has seen the close; then the device may go on.
    while server.state.service.permits.available_permits() < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.gate.reopen();
    server.idle().await;
    assert_eq!(server.metric("tgi_request_success").await, 0.0);
}

#[tokio::test]
async fn huge_heads_and_endless_chunked_bodies_are_refused() {
    let server = TestServer::new();
    let listening = listen(&server).await;
    let huge = format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "a".repeat(100_000));
    assert!(exchange(listening.address, huge.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let many: String = (0..200).map(|n| format!("x{n}: a\r\n")).collect();
    let many = format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{many}\r\n");
    assert!(exchange(listening.address, many.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let mut chunked = "POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                       transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        .to_owned();
    chunked.push_str(&"1\r\n[\r\n".repeat(6000));
    assert!(exchange(listening.address, chunked.as_bytes()).await.starts_with("HTTP/1.1 413"));
    listening.shut_down(Duration::from_secs(1)).await;
}
