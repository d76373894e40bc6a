//! What the OpenAPI document says beyond the handlers: its head, and what the layers around every handler do.

use axum::http::StatusCode;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathItem,
    ResponseBuilder,
};

use super::schemas::{Completion, StreamFailure, StreamFailureReason};

const DESCRIPTION: &str = "Text generation over HTTP: text-generation-inference's routes and OpenAI's, with \
    SageMaker's and Vertex AI's forms of both. The listener's `--profile` decides which of the documented error \
    bodies and statuses the `/v1` routes answer with.";
/// Name of the key's security scheme.
const KEY: &str = "api_key";

/// The document without any path.
pub(crate) fn head() -> OpenApi {
    let license =
        LicenseBuilder::new().name("Apache 2.0").url(Some("https://www.apache.org/licenses/LICENSE-2.0"));
    let info = InfoBuilder::new()
        .title("Weirgate")
        .description(Some(DESCRIPTION))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(license.build()));
    // What no operation names: TGI's document has it, or it comes in the middle of a stream.
    let components = ComponentsBuilder::new()
        .schema_from::<Completion>()
        .schema_from::<StreamFailure>()
        .schema_from::<StreamFailureReason>();
    OpenApiBuilder::new().info(info.build()).components(Some(components.build())).build()
}

/// Says that the key is asked for, of every operation that does not say that it is open.
pub(crate) fn complete(document: &mut OpenApi) {
    // The router's mark of a parameter that may have slashes is none of the document's.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    for item in document.paths.paths.values_mut() {
        let PathItem { get, put, post, delete, patch, head, .. } = item;
        let operations = [get, put, post, delete, patch, head].into_iter().flatten();
        for operation in operations {
            let foreign = "On a loopback address without a key: `Host` is the name of another machine";
            refuse(operation, StatusCode::FORBIDDEN, foreign);
            if operation.security.is_none() {
                ask_for_key(operation);
            }
        }
    }
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_with(Components::new).add_security_scheme(KEY, scheme);
}

/// A server need not have a key, so having none is one of two ways in.
fn ask_for_key(operation: &mut Operation) {
    let none: [&str; 0] = [];
    operation.security = Some(vec![SecurityRequirement::default(), SecurityRequirement::new(KEY, none)]);
    refuse(operation, StatusCode::UNAUTHORIZED, "No key, or a wrong one, on a server that has one");
}

/// A refusal of a layer's, with no body worth describing.
fn refuse(operation: &mut Operation, status: StatusCode, description: &str) {
    let refused = ResponseBuilder::new().description(description).build();
    operation.responses.responses.entry(status.as_str().to_owned()).or_insert_with(|| refused.into());
}

/// As the file and the route have it.
pub(super) fn json(document: &OpenApi) -> String {
    // Maps with string keys only: this cannot fail.
    document.to_pretty_json().unwrap_or_default() + "\n"
}
