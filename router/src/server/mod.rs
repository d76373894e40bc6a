//! The HTTP side: one router of routes, the layers around it, and the connections.

mod auth;
mod connection;
mod timed_io;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::api::{self, AppState};
use crate::config::RouterConfig;
use crate::telemetry;
use auth::ApiKeys;
pub(crate) use connection::Server;

/// All routes with the layers around them: the trace outermost, then CORS, the key, and the body's limit.
pub(crate) fn app(config: &RouterConfig, state: AppState) -> Router {
    let keys = ApiKeys::new(&config.api_keys);
    let tracer = state.service.tracer.clone();
    let (routes, _) = api::routes();
    routes
        .with_state(state)
        .layer(DefaultBodyLimit::max(config.limits.payload_limit))
        .layer(axum::middleware::from_fn_with_state(keys, auth::check))
        .layer(cors(&config.cors_allow_origin))
        .layer(axum::middleware::from_fn_with_state(tracer, telemetry::trace))
}

/// Any origin unless some are named. Unlike TGI's, a browser may send its key.
fn cors(origins: &[String]) -> CorsLayer {
    let any = origins.is_empty() || origins.iter().any(|origin| origin == "*");
    let named = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    CorsLayer::new()
        .allow_origin(if any { AllowOrigin::any() } else { AllowOrigin::list(named) })
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::CONTENT_TYPE, header::AUTHORIZATION])
}
