//! What becomes of rows that are published.

use std::time::Duration;

use barid::{
    Headers,
    transport::{Inbox, Outcome, Token, Transport, sql::SqlQueue},
};

use super::{
    databases::{Fresh, KINDS, Kind, run},
    place::{drain, places, publish, row, within},
};

#[tokio::test]
async fn a_queue_that_nobody_declared_is_refused() {
    for place in places().await {
        place.consumer(&Inbox::new("known")).await;
        let rows =
            [row("queue:known", None, "1"), row("queue:unknown", None, "2"), row("topic:nobody", None, "3")];
        let outcomes = place.publish(&rows).await;
        assert_eq!(outcomes[0], Outcome::Confirmed);
        assert!(
            matches!(&outcomes[1], Outcome::Permanent(why) if why.contains("\"unknown\"")),
            "{outcomes:?}"
        );
        assert_eq!(outcomes[2], Outcome::Confirmed, "an event that nobody subscribed to is no error");
        assert_eq!(run(&place.pool, "DELETE FROM queue_message").await, 1, "{:?}", place.kind);
    }
}

#[tokio::test]
async fn one_bad_row_does_not_take_the_others_with_it() {
    for place in places().await {
        let mut consumer = place.consumer(&Inbox::new("q")).await;
        let mut bad = row("queue:q", Some("k"), "bad");
        // PostgreSQL has no NUL in text; the others take it.
        bad.headers = Headers::from_iter([("x", "\0")]);
        let outcomes = place.publish(&[row("queue:q", None, "1"), bad, row("queue:q", None, "2")]).await;
        let good: Vec<_> = drain(&mut consumer).await.into_iter().filter(|text| text != "bad").collect();
        assert_eq!(good, ["1", "2"], "{:?}: {outcomes:?}", place.kind);
        if matches!(place.kind, Kind::Postgres) {
            assert!(matches!(outcomes[1], Outcome::Permanent(_)), "{outcomes:?}");
        }
    }
}

#[tokio::test]
async fn the_window_is_bounded_and_close_settles_everything() {
    for place in places().await {
        place.consumer(&Inbox::new("q")).await;
        let mut publisher = place.queue.publisher().await.unwrap();
        let mut taken = 0;
        while publisher.submit(&row("queue:q", None, "x"), Token(taken)) == Ok(()) {
            taken += 1;
            assert!(taken < 10_000, "the window has no end");
        }
        let outcomes = within(publisher.close()).await;
        assert_eq!(outcomes.len() as u64, taken, "{:?}", place.kind);
        assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Confirmed));
        assert_eq!(run(&place.pool, "DELETE FROM queue_message").await, taken);
    }
}

#[tokio::test]
async fn a_database_without_the_tables_says_what_to_run() {
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let queue = SqlQueue::new(database.pool().await);
        let error = queue.declare(&Inbox::new("q")).await.unwrap_err();
        assert!(
            !error.is_transient() && error.to_string().contains("barid-relay schema apply"),
            "{kind:?}: {error}"
        );
    }
}

#[tokio::test]
async fn without_a_database_rows_settle_as_transient() {
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(200))
        .connect_lazy("postgres://u:s3cret@127.0.0.1:1/d")
        .unwrap();
    let mut publisher = SqlQueue::new(pool).publisher().await.unwrap();
    let outcomes = publish(publisher.as_mut(), &[row("queue:q", None, "1")]).await;
    assert!(matches!(&outcomes[0], Outcome::Transient(why) if !why.contains("s3cret")), "{outcomes:?}");
}
