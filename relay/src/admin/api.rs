//! `/api`: what the command line does with parked messages, and how the sources are.
//!
//! | | |
//! |---|---|
//! | `GET /api/status` | every source: what waits, what is parked, whose it is, how its sinks are |
//! | `GET /api/sources/{source}/parked` | parked messages, page by page |
//! | `GET /api/sources/{source}/parked/groups` | the same by what went wrong |
//! | `GET /api/sources/{source}/parked/{id}` | one message; with `?body=true` its body |
//! | `POST /api/sources/{source}/parked/retry` | sends messages again; so does `skip` go on without them |
//!
//! Filters have the names of the command line: `state`, `destination`, `type`, `key`, `fingerprint`, `older_than`, `newer_than`.
//! Nothing is purged over HTTP.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing,
};
use serde_json::{Value, json};

mod asked;
mod parked;

use super::{
    board::{Board, Entry},
    server::BODY_BYTES_MAX,
};
use crate::{setup::SetupError, source::SourceError, survey};

/// Why a request was not done.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    /// With what to tell whoever asked.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": self.message}))).into_response()
    }
}

impl From<SetupError> for ApiError {
    fn from(error: SetupError) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, error.to_string())
    }
}

impl From<SourceError> for ApiError {
    fn from(error: SourceError) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, error.to_string())
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

/// What there is below `/api`.
pub(super) fn router() -> Router<Arc<Board>> {
    Router::new()
        .route("/status", routing::get(status))
        .route("/sources/{source}/parked", routing::get(parked::list))
        .route("/sources/{source}/parked/groups", routing::get(parked::groups))
        .route("/sources/{source}/parked/retry", routing::post(parked::retry))
        .route("/sources/{source}/parked/skip", routing::post(parked::skip))
        .route("/sources/{source}/parked/{id}", routing::get(parked::show))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// Where nothing is.
pub(super) async fn not_found() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "there is /livez, /readyz, /metrics, /api/status and /api/sources/NAME/parked",
    )
}

async fn status(State(board): State<Arc<Board>>) -> Json<Value> {
    let sources: Vec<Value> = board.entries().map(status_of).collect();
    Json(json!({"version": env!("CARGO_PKG_VERSION"), "sources": sources}))
}

fn status_of(entry: &Entry) -> Value {
    let mut value = match entry.survey() {
        Some((survey, age)) => {
            let mut value = survey::json(entry.name(), &survey);
            value["survey_age_seconds"] = json!(age.as_secs_f64());
            value
        }
        None => json!({"source": entry.name(), "survey_age_seconds": null}),
    };
    let stats = entry.stats();
    value["phase"] = json!(entry.phase().as_str());
    value["ours"] = json!(entry.meter().is_some_and(|meter| meter.ownership().1));
    value["since_start"] = json!({
        "confirmed": stats.confirmed, "retried": stats.retried, "poison": stats.poison, "behind": stats.behind,
        "skipped": stats.skipped, "late": stats.late, "released": stats.released, "order_breaks": stats.breaks,
    });
    let sinks = entry.meter().map(|meter| meter.sinks()).unwrap_or_default().iter().map(|sink| {
        let (rows, bytes) = sink.in_flight();
        let link = format!("{:?}", sink.link()).to_lowercase();
        json!({"sink": sink.name, "link": link, "in_flight_rows": rows, "in_flight_bytes": bytes})
    });
    value["sinks"] = sinks.collect();
    value
}
