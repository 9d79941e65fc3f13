//! What is told to people, kept for a test.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    distributed::{Gid, Settings},
    store::AnyPool,
};

pub(crate) const LONG: Duration = Duration::from_secs(120);

pub(crate) type Heard = Arc<Mutex<Vec<String>>>;

pub(crate) fn hearing(settings: Settings) -> (Settings, Heard) {
    let heard = Heard::default();
    let hook = Arc::clone(&heard);
    let on_alert = Arc::new(move |_: Gid, what: &str| hook.lock().unwrap().push(what.to_owned()));
    (Settings { on_alert: Some(on_alert), ..settings }, heard)
}

pub(crate) async fn text(pool: &AnyPool, query: &str) -> String {
    let query = sqlx::AssertSqlSafe(query.to_owned());
    match pool {
        AnyPool::Postgres(pool) => sqlx::query_scalar(query).fetch_one(pool).await.unwrap(),
        AnyPool::MySql(pool) => sqlx::query_scalar(query).fetch_one(pool).await.unwrap(),
        AnyPool::Sqlite(pool) => sqlx::query_scalar(query).fetch_one(pool).await.unwrap(),
        _ => panic!("a database that the tests do not know"),
    }
}
