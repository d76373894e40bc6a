//! What Vertex AI tells its containers: the port, and the paths of predictions and health checks (its custom container
//! requirements; `AIP_*` in TGI's `google` build).

use weirgate_router::VertexRoutes;

use crate::config::Env;
use crate::error::ArgumentError;

/// The port that Vertex AI sends to; as in TGI it comes before `--port`.
///
/// # Errors
/// When the variable is set to what is no port.
pub fn port(env: Env) -> Result<Option<u16>, ArgumentError> {
    let refused = |value| ArgumentError::Variable { name: "AIP_HTTP_PORT", expected: "a port number", value };
    set(env, "AIP_HTTP_PORT").map(|text| text.parse().map_err(|_| refused(text))).transpose()
}

/// The paths that Vertex AI names.
///
/// # Errors
/// When one does not begin with a slash.
pub fn routes(env: Env) -> Result<VertexRoutes, ArgumentError> {
    let path = |name| match set(env, name) {
        Some(value) if !value.starts_with('/') => {
            Err(ArgumentError::Variable { name, expected: "a path that begins with `/`", value })
        }
        path => Ok(path),
    };
    Ok(VertexRoutes { predict: path("AIP_PREDICT_ROUTE")?, health: path("AIP_HEALTH_ROUTE")? })
}

fn set(env: Env, name: &str) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_are_read_and_checked() {
        let env = |name: &str| match name {
            "AIP_HTTP_PORT" => Some("8080".to_owned()),
            "AIP_PREDICT_ROUTE" => Some("/v1/endpoints/1:predict".to_owned()),
            "AIP_HEALTH_ROUTE" => Some(String::new()),
            _ => None,
        };
        assert_eq!(port(&env), Ok(Some(8080)));
        let expected = VertexRoutes { predict: Some("/v1/endpoints/1:predict".to_owned()), health: None };
        assert_eq!(routes(&env), Ok(expected));
        let nonsense = |_: &str| Some("http".to_owned());
        assert!(port(&nonsense).is_err());
        assert!(routes(&nonsense).is_err());
        let unset = |_: &str| None;
        assert_eq!((port(&unset), routes(&unset)), (Ok(None), Ok(VertexRoutes::default())));
    }
}
