//! The HTTP side: one router of routes, the layers around it, and the connections.

mod auth;
mod connection;
mod hosts;
mod timed_io;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::api::{self, AppState, platforms};
use crate::config::RouterConfig;
use crate::telemetry;
use auth::Guard;
pub(crate) use connection::Server;
use hosts::Hosts;

/// All routes with the layers around them, the outermost last: the body's limit, the key, the name the server is
/// called by, CORS, the trace, and the paths that a platform gave names of its own.
pub(crate) fn app(config: &RouterConfig, state: AppState) -> Router {
    let tracer = state.service.tracer.clone();
    let (routes, _) = api::routes();
    let app = routes
        .with_state(state)
        .layer(DefaultBodyLimit::max(config.limits.payload_limit))
        .layer(from_fn_with_state(Guard::new(config), auth::check))
        .layer(from_fn_with_state(Hosts::new(config), hosts::check))
        .layer(map_response(nosniff))
        .layer(cors(&config.cors_allow_origin))
        .layer(from_fn_with_state(tracer, telemetry::trace));
    platforms::vertex::under_its_own_paths(app, &config.vertex)
}

/// Bodies are what their type says, and no browser is to guess otherwise.
async fn nosniff(mut response: Response) -> Response {
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
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
