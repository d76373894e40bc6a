//! The HTTP side: one router of routes, the layers around it, and the connections.

mod auth;
mod connection;
mod hosts;
mod origins;
mod timed_io;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;

use crate::api::{self, AppState, management, platforms};
use crate::config::{Profile, RouterConfig};
use crate::telemetry;
use auth::Guard;
pub(crate) use connection::Server;
use hosts::Hosts;
use origins::Origins;

/// All routes with the layers around them, the outermost last: the body's limit, the key, the name the server is
/// called by, CORS, the page that calls, the trace, and the paths that a platform gave names of its own.
pub(crate) fn app(config: &RouterConfig, state: AppState) -> Router {
    let tracer = state.service.tracer.clone();
    let (routes, _) = api::routes();
    let origins = Origins::new(config);
    let app = routes
        .with_state(state)
        .layer(DefaultBodyLimit::max(config.limits.payload_limit))
        .layer(from_fn_with_state(Guard::new(config), auth::check))
        .layer(from_fn_with_state(Hosts::new(config), hosts::check))
        .layer(map_response(nosniff))
        .layer(origins.cors())
        .layer(from_fn_with_state(origins, origins::check))
        .layer(from_fn_with_state(tracer, telemetry::trace));
    let app = if config.profile == Profile::Management { management::at_its_root(app) } else { app };
    platforms::vertex::under_its_own_paths(app, &config.vertex)
}

/// Bodies are what their type says, and no browser is to guess otherwise.
async fn nosniff(mut response: Response) -> Response {
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
