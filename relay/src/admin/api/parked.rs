//! `/api/sources/{source}/parked`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    super::board::{Board, Entry},
    ApiError,
    asked::{Changing, LIMIT, Listing, Showing},
};
use crate::parked::{Action, Change, Changed, Filter, Page, ParkedStore, json, words};

/// The longest reason and name in bytes: they are kept for ever.
const REASON_BYTES_MAX: usize = 4_000;

async fn store(board: &Board, source: &str) -> Result<Box<dyn ParkedStore>, ApiError> {
    let names = || board.entries().map(Entry::name).collect::<Vec<_>>().join(", ");
    let entry = board.entry(source).ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, format!("there is no source {source:?} (sources: {})", names()))
    })?;
    Ok(entry.parked().await?)
}

pub(super) async fn list(
    State(board): State<Arc<Board>>,
    Path(source): Path<String>,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let asked = query?.0;
    let (limit, after, filter) = (asked.limit()?, asked.after()?, asked.filter()?);
    // One more than is shown tells whether there are more.
    let page = Page { after, limit: limit + 1, bodies: false };
    let mut messages = store(&board, &source).await?.list(&filter, &page).await?;
    let more = messages.len() > limit as usize;
    messages.truncate(limit as usize);
    let next = messages.last().filter(|_| more).map(|last| words::end(last.row));
    Ok(Json(json::messages(&messages, next.as_deref())))
}

pub(super) async fn groups(
    State(board): State<Arc<Board>>,
    Path(source): Path<String>,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let asked = query?.0;
    let (limit, filter) = (asked.limit()?, asked.filter()?);
    let groups = store(&board, &source).await?.groups(&filter, limit).await?;
    Ok(Json(json::groups(&groups)))
}

pub(super) async fn show(
    State(board): State<Arc<Board>>,
    Path((source, id)): Path<(String, String)>,
    query: Result<Query<Showing>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let id = Uuid::try_parse(&id).map_err(|_| ApiError::bad(format!("{id:?} is no message id")))?;
    let page = Page { after: None, limit: LIMIT, bodies: query?.body };
    let filter = Filter { id: Some(id), ..Filter::default() };
    let messages = store(&board, &source).await?.list(&filter, &page).await?;
    if messages.is_empty() {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            format!("source {source}: no message {id} is parked"),
        ));
    }
    Ok(Json(json::shown(&messages)))
}

type ChangeRequest = Result<Json<Changing>, JsonRejection>;

pub(super) async fn retry(
    State(board): State<Arc<Board>>,
    Path(source): Path<String>,
    body: ChangeRequest,
) -> Result<Json<Value>, ApiError> {
    change(&board, source, Action::Retry, body?.0).await
}

pub(super) async fn skip(
    State(board): State<Arc<Board>>,
    Path(source): Path<String>,
    body: ChangeRequest,
) -> Result<Json<Value>, ApiError> {
    change(&board, source, Action::Skip, body?.0).await
}

async fn change(
    board: &Board,
    source: String,
    action: Action,
    changing: Changing,
) -> Result<Json<Value>, ApiError> {
    let filter = changing.filter()?;
    let Changing { all, reason, by, dry_run, .. } = changing;
    let who = by.unwrap_or_else(|| "admin API".to_owned());
    if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX || who.len() > REASON_BYTES_MAX {
        return Err(ApiError::bad(format!(
            "reason is a text of at most {REASON_BYTES_MAX} bytes, and so is by"
        )));
    }
    let filter = filter.meant_by(action, all).map_err(|why| ApiError::bad(why.to_string()))?;
    let store = store(board, &source).await?;
    let count = store.count(&filter).await?;
    if count.messages == 0 {
        let what = format!("source {source}: no such message is parked: {filter}");
        return Err(ApiError::new(StatusCode::NOT_FOUND, what));
    }
    let mut changed = Changed { action, source, selection: filter.to_string(), count, dry_run };
    if !dry_run {
        changed.count.messages = store.change(&Change { action, filter, who, reason }).await?;
        let Changed { source, selection, count, .. } = &changed;
        tracing::info!(source, %action, selection, messages = count.messages, "parked messages were changed over HTTP");
    }
    Ok(Json(json::changed(&changed)))
}
