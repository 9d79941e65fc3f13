//! `/livez`, `/readyz` and `/metrics`.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde_json::json;

use super::board::{Board, Phase};

/// Whether the process answers. It asks nobody: a restart repairs no database and no broker.
pub async fn livez() -> &'static str {
    "alive\n"
}

/// Whether every source was opened and none has failed. Without errors and addresses: anybody may ask.
pub async fn readyz(State(board): State<Arc<Board>>) -> impl IntoResponse {
    let ready = board.entries().all(|entry| matches!(entry.phase(), Phase::Running | Phase::Stopped));
    let sources: serde_json::Map<_, _> =
        board.entries().map(|entry| (entry.name().to_owned(), json!(entry.phase().as_str()))).collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": ready, "sources": sources})))
}

/// The metrics, in the text format of Prometheus.
pub async fn metrics(State(board): State<Arc<Board>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], board.metrics())
}
