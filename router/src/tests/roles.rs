//! Who may change which models there are: by key, by the way here, by the page that asks.

use super::*;

/// Every operation that changes models, each refused for itself: a body without anything, a model that nobody has, a
/// server without a store.
const CHANGES: [(&str, &str); 13] = [
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("POST", "/api/blobs/sha256:0"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("DELETE", "/v1/models/none"),
    ("PUT", "/v1/models/none"),
    ("POST", "/v1/models/none"),
    ("GET", "/v1/models/download/none"),
    ("POST", "/v1/models/download/none"),
];

/// Those of the management API, which this server does not have.
const MANAGED: [(&str, &str); 8] = [
    ("DELETE", "/api/v1/models/"),
    ("POST", "/api/v1/models/add/"),
    ("POST", "/api/v1/deploy/"),
    ("POST", "/api/v1/deploy/interrupt/"),
    ("POST", "/api/v1/jobs/x/interrupt/"),
    ("POST", "/api/v1/datasets/upload/"),
    ("POST", "/api/v1/finetune/"),
    ("POST", "/api/v1/finetune/interrupt/"),
];

fn request(method: &str, path: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from("{}")).unwrap()
}

/// 400 for what was let in: nothing is wrong with it but what it asks for.
async fn statuses(server: &TestServer, headers: &[(&'static str, &str)]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for (method, path) in CHANGES {
        let answer = server.send(request(method, path, headers)).await;
        let let_in =
            answer.status == StatusCode::NOT_FOUND || answer.text.contains("keeps no models of its own");
        statuses.push(if let_in { 400 } else { answer.status.as_u16() });
    }
    statuses
}

fn with(change: impl FnOnce(&mut RouterConfig)) -> TestServer {
    let mut config = config();
    change(&mut config);
    TestServer::with(config)
}

/// Whatever is added to Ollama's routes, or to another dialect's, either reads or is in the table above.
#[test]
fn all_that_changes_models_is_known() {
    let document: Value = serde_json::from_str(&crate::openapi_json()).unwrap();
    let reads = [
        "/api/generate",
        "/api/chat",
        "/api/show",
        "/api/embed",
        "/api/embeddings",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/api/v1/completions/",
        "/api/v1/chat/completions/",
        "/api/v1/embeddings/",
    ];
    let mut changes: Vec<(String, String)> = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let writes = (method != "get" && method != "head") || path.starts_with("/v1/models/download");
            if (path.starts_with("/api/") || path.starts_with("/v1/"))
                && writes
                && !reads.contains(&path.as_str())
            {
                let path = path.replace("{digest}", "sha256:0").replace("{id}", "none");
                changes.push((method.to_uppercase(), path.replace("{job_id}", "x")));
            }
        }
    }
    let known = CHANGES.iter().chain(&MANAGED);
    let mut known: Vec<_> = known.map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    known.sort();
    changes.sort();
    assert_eq!(changes, known);
}

#[tokio::test]
async fn without_keys_models_are_changed_over_loopback_alone() {
    assert_eq!(statuses(&TestServer::new(), &[]).await, [400; 13]);
    let public = with(|config| config.listen = "0.0.0.0:0".parse().unwrap());
    assert_eq!(statuses(&public, &[]).await, [403; 13]);
    let answer = public.send(request("POST", "/api/pull", &[])).await;
    assert!(answer.json()["error"].as_str().unwrap().contains("--admin-api-key"));
    let answer = public.send(request("POST", "/v1/load_lora_adapter", &[])).await.json();
    assert!(answer["error"]["message"].as_str().unwrap().contains("--admin-api-key"), "{answer}");
    let tgi = with(|config| (config.listen, config.profile) = ("0.0.0.0:0".parse().unwrap(), Profile::Tgi));
    let answer = tgi.send(request("POST", "/v1/load_lora_adapter", &[])).await.json();
    assert!(answer["error"].as_str().unwrap().contains("--admin-api-key"), "{answer}");
    assert_eq!(public.get("/api/tags").await.status, StatusCode::OK);
    assert_eq!(public.post("/generate", greedy(json!({}))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_key_of_a_user_changes_nothing() {
    let server = with(|config| {
        config.api_keys = vec!["user".into()];
        config.admin_api_keys = vec!["admin".into()];
    });
    for (key, expected) in [
        ("Bearer admin", 400),
        ("Bearer user", 403),
        ("Bearer other", 401),
        ("Bearer Admin", 401),
        ("admin", 401),
    ] {
        assert_eq!(statuses(&server, &[("authorization", key)]).await, [expected; 13], "{key}");
    }
    assert_eq!(statuses(&server, &[]).await, [401; 13]);
    for key in ["Bearer user", "Bearer admin"] {
        let mut generate = post("/generate", &greedy(json!({})));
        generate.headers_mut().insert("authorization", key.parse().unwrap());
        assert_eq!(server.send(generate).await.status, StatusCode::OK, "{key}");
    }
    let none_is_admin = with(|config| config.api_keys = vec!["user".into()]);
    assert_eq!(statuses(&none_is_admin, &[("authorization", "Bearer user")]).await, [403; 13]);
}

#[tokio::test]
async fn a_key_of_an_administrator_alone_leaves_models_open_to_use() {
    let server = with(|config| config.admin_api_keys = vec!["admin".into()]);
    assert_eq!(statuses(&server, &[]).await, [403; 13]);
    assert_eq!(statuses(&server, &[("authorization", "Bearer admin")]).await, [400; 13]);
    assert_eq!(server.post("/generate", greedy(json!({}))).await.status, StatusCode::OK);
}

/// A browser sends a plain POST to anywhere without asking.
#[tokio::test]
async fn pages_of_other_sites_change_nothing() {
    let server = TestServer::new();
    let host = ("host", "localhost:3000");
    for origin in ["http://evil.example", "null", "http://localhost.evil.example"] {
        assert_eq!(statuses(&server, &[host, ("origin", origin)]).await, [403; 13], "{origin}");
        assert_eq!(
            server.send(request("GET", "/api/tags", &[host, ("origin", origin)])).await.status,
            StatusCode::OK,
            "as text-generation-inference's routes"
        );
    }
    for origin in ["http://localhost:8080", "http://127.0.0.1", "app://any", "http://localhost:3000"] {
        assert_eq!(statuses(&server, &[host, ("origin", origin)]).await, [400; 13], "{origin}");
    }
    let named = with(|config| config.cors_allow_origin = vec!["https://app.example".into()]);
    assert_eq!(statuses(&named, &[host, ("origin", "https://app.example")]).await, [400; 13]);
    // DNS rebinding: the page's own name is no longer the server's.
    let rebound = [("host", "evil.example"), ("origin", "http://evil.example")];
    assert_eq!(statuses(&server, &rebound).await, [403; 13]);
}

#[tokio::test]
async fn ollamas_profile_refuses_pages_as_ollama_does() {
    let server = with(|config| config.profile = Profile::Ollama);
    let ask = |origin: &'static str| {
        server.send(request("GET", "/api/tags", &[("host", "localhost"), ("origin", origin)]))
    };
    assert_eq!(ask("http://evil.example").await.status, StatusCode::FORBIDDEN);
    let local = ask("http://localhost:5173").await;
    assert_eq!(local.status, StatusCode::OK);
    assert_eq!(local.headers["access-control-allow-origin"], "http://localhost:5173");
    let headers = [
        ("host", "localhost"),
        ("origin", "app://desktop"),
        ("access-control-request-method", "DELETE"),
        ("access-control-request-headers", "content-type,x-stainless-os"),
    ];
    let preflight = server.send(request("OPTIONS", "/api/delete", &headers)).await;
    assert_eq!(preflight.status, StatusCode::OK);
    let allowed = |name: &str| preflight.headers[name].to_str().unwrap().to_owned();
    assert_eq!(allowed("access-control-allow-origin"), "app://desktop");
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"] {
        assert!(allowed("access-control-allow-methods").contains(method), "{method}");
    }
    assert!(allowed("access-control-allow-headers").contains("x-stainless-os"));
    let foreign = [("origin", "http://evil.example"), ("access-control-request-method", "DELETE")];
    assert_eq!(server.send(request("OPTIONS", "/api/delete", &foreign)).await.status, StatusCode::FORBIDDEN);
    let any = with(|config| (config.profile, config.cors_allow_origin) = (Profile::Ollama, vec!["*".into()]));
    let answer = any.send(request("GET", "/api/tags", &[("origin", "http://evil.example")])).await;
    assert_eq!(
        (answer.status, &answer.headers["access-control-allow-origin"]),
        (StatusCode::OK, &"*".parse().unwrap())
    );
}

#[tokio::test]
async fn the_management_api_asks_for_the_right_before_anything_else() {
    let keys = with(|config| {
        config.api_keys = vec!["user".into()];
        config.admin_api_keys = vec!["admin".into()];
    });
    let read = ("GET", "/api/v1/datasets/");
    for (method, path) in MANAGED.into_iter().chain([read]) {
        // A wrong request of an administrator gets as far as that there is no state, or that it is wrong.
        for (key, expected) in [("Bearer admin", None), ("Bearer user", Some(403)), ("Bearer x", Some(401))] {
            for path in [path, path.trim_end_matches('/')] {
                let answer = keys.send(request(method, path, &[("authorization", key)])).await;
                let status = answer.status.as_u16();
                match expected {
                    Some(expected) => {
                        assert_eq!(status, expected, "{path} {key}");
                        assert!(answer.json()["detail"].is_string(), "{path}: {}", answer.text);
                    }
                    None if status == 403 => {
                        assert!(answer.text.contains("--state-dir"), "{path}: {}", answer.text)
                    }
                    None => assert!([422, 404].contains(&status), "{path}: {status}"),
                }
            }
        }
    }
    let foreign = [("host", "localhost:3000"), ("origin", "http://evil.example")];
    let answer = TestServer::new().send(request("GET", "/api/v1/datasets/", &foreign)).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}
