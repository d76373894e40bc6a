//! One unary gRPC call over HTTP/2 without TLS (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::OtlpEndpoint;

/// The time one call may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum GrpcError {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("HTTP/2: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be built: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("HTTP status {0}")]
    Status(StatusCode),
    #[error("gRPC status {code}: {message}")]
    Grpc { code: String, message: String },
    #[error("no answer in time")]
    TimedOut,
}

/// A connection to one server, made when it is needed.
pub(super) struct Channel {
    endpoint: OtlpEndpoint,
    sender: Option<http2::SendRequest<Full<Bytes>>>,
}

impl Channel {
    pub fn new(endpoint: OtlpEndpoint) -> Self {
        Self { endpoint, sender: None }
    }

    /// Calls `path` with an encoded message; the answer's content does not matter. After an error the next call
    /// connects anew.
    pub async fn call(&mut self, path: &str, message: &[u8]) -> Result<(), GrpcError> {
        let call = timeout(PATIENCE, self.try_call(path, message)).await;
        let result = call.unwrap_or(Err(GrpcError::TimedOut));
        if result.is_err() {
            self.sender = None;
        }
        result
    }

    async fn try_call(&mut self, path: &str, message: &[u8]) -> Result<(), GrpcError> {
        let sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => self.sender.insert(sender),
            None => self.sender.insert(connect(&self.endpoint).await?),
        };
        sender.ready().await?;
        let request = Request::post(format!("{}{path}", self.endpoint))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Full::new(framed(message)))?;
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(GrpcError::Status(response.status()));
        }
        // A server that has nothing to say but an error puts the status into the headers.
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().unwrap_or(&head.headers);
        match (text(trailers, "grpc-status"), text(trailers, "grpc-message")) {
            (code, _) if code == "0" => Ok(()),
            (code, message) => Err(GrpcError::Grpc { code, message }),
        }
    }
}

async fn connect(endpoint: &OtlpEndpoint) -> Result<http2::SendRequest<Full<Bytes>>, GrpcError> {
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // It ends with the sender; its error is the next call's.
    tokio::spawn(connection);
    Ok(sender)
}

/// Not compressed, then the length, then the message.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
}
