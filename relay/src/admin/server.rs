//! Connections and their bounds: so many at once, so large, so long.
//!
//! Each connection carries one request: whoever asks does so every few seconds, and a connection that may stay open has to be
//! bounded twice.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::api::ApiError;

/// Connections at once; others wait in the system's queue.
pub const CONNECTIONS_MAX: usize = 32;

/// How long the head of a request may take to arrive.
pub const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// How long a request may take, its body included.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How long a connection may last: for those who read their answer slowly.
pub const CONNECTION_WITHIN: Duration = Duration::from_secs(60);

/// The largest head of a request in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The largest body of a request in bytes; a change of parked messages needs some hundred.
pub const BODY_BYTES_MAX: usize = 16 * 1024;

/// The pause after a connection that could not be accepted: the process may lack file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Accepts and answers until it is dropped, and then ends what it has begun.
pub(super) async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        // It is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                connections.spawn(async move {
                    answer(stream, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin server cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    http.keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(CONNECTION_WITHIN, connection).await {
        Ok(Ok(())) => {}
        // Whoever asked has gone, or wrote no HTTP.
        Ok(Err(error)) => tracing::debug!(%error, "a connection of the admin server has failed"),
        Err(_) => tracing::debug!("a connection of the admin server took too long"),
    }
}

/// Bounds a request in time, and tells browsers to keep nothing of the answer and to guess nothing about it.
pub(super) async fn bounded(request: Request, next: Next) -> Response {
    let answered = timeout(ANSWER_WITHIN, next.run(request)).await;
    let mut response = answered.unwrap_or_else(|_| {
        let what = format!("no answer within {} s", ANSWER_WITHIN.as_secs());
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, what).into_response()
    });
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ] as [(HeaderName, &'static str); 3]
    {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
