//! Accepts connections and ends them in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::timed_io::TimedIo;
use crate::error::RouterError;

const MAX_HEADERS: usize = 100;
/// Bytes of a request's head.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// A head that is not complete by then ends its connection; so does an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// After an accept error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening server.
pub(crate) struct Server {
    pub address: SocketAddr,
    stop: Arc<Notify>,
    accepting: JoinHandle<GracefulShutdown>,
}

impl Server {
    /// Serves `app` until [`Server::shut_down`].
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(address: SocketAddr, app: Router) -> Result<Self, RouterError> {
        let refused = |source| RouterError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let stop = Arc::new(Notify::new());
        let accepting = tokio::spawn(accept(listener, app, stop.clone()));
        Ok(Self { address, stop, accepting })
    }

    /// Accepts no more connections and waits at most `patience` for the responses under way to be written.
    pub async fn shut_down(self, patience: Duration) {
        self.stop.notify_one();
        if let Ok(connections) = self.accepting.await
            && tokio::time::timeout(patience, connections.shutdown()).await.is_err()
        {
            tracing::warn!("connections were still open at the end");
        }
    }
}

async fn accept(listener: TcpListener, app: Router, stop: Arc<Notify>) -> GracefulShutdown {
    let connections = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        // Events are small: one piece of memory is cheaper to send than many.
        .writev(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.notified() => return connections,
        };
        match accepted {
            Ok((stream, _)) => serve(&http, stream, &app, &connections),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn serve(http: &http1::Builder, stream: TcpStream, app: &Router, connections: &GracefulShutdown) {
    // Tokens are small and must not wait to be sent together.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection without TCP_NODELAY");
    }
    let io = TokioIo::new(TimedIo::new(stream));
    let connection = http.serve_connection(io, TowerToHyperService::new(app.clone()));
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended early");
        }
    });
}
