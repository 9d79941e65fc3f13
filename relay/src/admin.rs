//! Health, metrics and an API over HTTP: `/livez`, `/readyz`, `/metrics`, `/api/...`.
//!
//! Started by `barid-relay run` when the configuration has an `[admin]`. It listens where only this machine can reach it unless
//! there is a token ([`guard`]), everything it does is bounded ([`server`]), and it never comes between a row and its broker: it
//! reads what the relays count, and has connections of its own to their databases. Its end never ends a relay.
//!
//! A broker that is down makes nothing here unready. Readiness is about this process; taking the application out of service
//! beside which it runs would help nobody.

pub mod api;
pub mod board;
pub mod guard;
pub mod health;
pub mod server;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, middleware, routing};
use tokio::{net::TcpListener, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use self::{board::Board, guard::Guard};
use crate::{config::AdminConfig, setup::SetupError};

/// Why there is no admin server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// Nobody can listen there. Another process may, or the port may need a privilege.
    #[error(
        "[admin]: cannot listen at {address}: {cause}; set listen to another address, or end who listens there"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// The file with the token cannot be read.
    #[error(transparent)]
    Token(#[from] SetupError),
    /// The file holds no token that would protect anything.
    #[error(
        "[admin]: token_file {file} holds fewer than {} characters; write a longer token: openssl rand -hex 16 > {file}",
        crate::config::TOKEN_CHARS_MIN
    )]
    ShortToken {
        /// The file.
        file: String,
    },
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    board: Arc<Board>,
    guard: Guard,
    survey_pause: Duration,
}

impl Admin {
    /// Listens.
    ///
    /// # Errors
    /// When the token cannot be had, or nobody can listen there.
    pub async fn bind(config: &AdminConfig, board: Arc<Board>) -> Result<Self, AdminError> {
        let guard = Guard::new(config)?;
        let address = config.listen;
        let listener =
            TcpListener::bind(address).await.map_err(|cause| AdminError::Bind { address, cause })?;
        Ok(Self { listener, board, guard, survey_pause: Duration::from_millis(config.survey_ms) })
    }

    /// Where it listens; the port is the real one when the configuration says 0.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until `stop`, and looks at the databases meanwhile.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        tasks.spawn(survey(self.board.clone(), self.survey_pause));
        tasks.spawn(server::serve(self.listener, router(self.board, self.guard)));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                ended = tasks.join_next() => match ended {
                    Some(Err(error)) => tracing::error!(%error, "a task of the admin server has died; the relays go on"),
                    Some(Ok(())) => {}
                    None => return,
                },
            }
        }
    }
}

/// What is answered where.
fn router(board: Arc<Board>, guard: Guard) -> Router {
    let guarded = Router::new()
        .route("/metrics", routing::get(health::metrics))
        .nest("/api", api::router())
        .layer(middleware::from_fn_with_state(Arc::new(guard), guard::check));
    Router::new()
        .route("/livez", routing::get(health::livez))
        .route("/readyz", routing::get(health::readyz))
        .merge(guarded)
        .fallback(api::not_found)
        .layer(middleware::from_fn(server::bounded))
        .with_state(board)
}

/// Asks each database now and then. One that does not answer keeps no other one waiting.
async fn survey(board: Arc<Board>, pause: Duration) {
    let looking = board.entries().map(async |entry| {
        let mut said = String::new();
        loop {
            match entry.look().await {
                Ok(_) => said.clear(),
                Err(error) => {
                    let error = error.to_string();
                    if error != said {
                        tracing::warn!(source = entry.name(), "no survey for the metrics: {error}");
                        said = error;
                    }
                }
            }
            sleep(pause).await;
        }
    });
    futures::future::join_all(looking).await;
}
