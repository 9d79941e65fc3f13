//! Answers that are lost on the way.

use std::time::Duration;

use barid::{
    store::{AnyPool, schema},
    transport::{Inbox, Outcome, Repeat, Transport, sql::SqlQueue},
};
use barid_tests::Proxy;

use super::{
    databases::{Fresh, Kind, run},
    place::{Place, body, confirmed, publish, receive, row, within},
};

/// A queue whose answers a proxy can lose, and the same one without it.
async fn behind_a_proxy(kind: Kind) -> (Proxy, SqlQueue, Place) {
    let database = Fresh::new(kind).await;
    let pool = database.pool().await;
    schema::apply(&pool).await.unwrap();
    let (proxy, url) = Proxy::in_front_of(&database.url).await;
    let far = SqlQueue::new(AnyPool::connect(&url, 1).await.unwrap());
    (proxy, far, Place { kind, queue: SqlQueue::new(pool.clone()), pool, _database: database })
}

#[tokio::test]
async fn a_lost_answer_to_commit_is_unknown_and_a_lost_insert_is_not() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let (proxy, far, place) = behind_a_proxy(kind).await;
        place.consumer(&Inbox::new("q")).await;
        let mut publisher = far.publisher().await.unwrap();

        proxy.cut_after_request(b"COMMIT");
        let outcomes = publish(publisher.as_mut(), &[row("queue:q", None, "1")]).await;
        assert!(matches!(outcomes[0], Outcome::Unknown(_)), "{kind:?}: {outcomes:?}");
        assert_eq!(run(&place.pool, "DELETE FROM queue_message").await, 1, "{kind:?}: it was committed");

        proxy.cut_before_request(b"COMMIT");
        let outcomes = publish(publisher.as_mut(), &[row("queue:q", None, "2")]).await;
        assert!(matches!(outcomes[0], Outcome::Unknown(_)), "{kind:?}: {outcomes:?}");
        assert_eq!(run(&place.pool, "DELETE FROM queue_message").await, 0, "{kind:?}: it was not committed");

        proxy.cut_after_request(b"INSERT INTO queue_message");
        let outcomes = publish(publisher.as_mut(), &[row("queue:q", None, "3")]).await;
        assert!(matches!(outcomes[0], Outcome::Transient(_)), "{kind:?}: {outcomes:?}");
        assert_eq!(run(&place.pool, "DELETE FROM queue_message").await, 0, "{kind:?}: it was not committed");

        // It connects again by itself.
        assert!(confirmed(&publish(publisher.as_mut(), &[row("queue:q", None, "4")]).await), "{kind:?}");
        assert_eq!(proxy.fired().len(), 3);
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_claim_or_an_ack_loses_no_message() {
    // On PostgreSQL these texts travel apart from their execution, so that the proxy cannot tell one from the other.
    for kind in [Kind::MariaDb] {
        let (proxy, far, place) = behind_a_proxy(kind).await;
        let far = far.lease(Duration::from_secs(1));
        let inbox = Inbox::new("q");
        far.declare(&inbox).await.unwrap();
        assert!(confirmed(
            &place.publish(&[row("queue:q", Some("k"), "1"), row("queue:q", Some("k"), "2")]).await
        ));
        let mut consumer = far.consumer(&inbox).await.unwrap();

        proxy.cut_after_request(b"SET claimed_by");
        let lost = within(consumer.receive()).await.unwrap_err();
        assert!(lost.is_transient(), "{kind:?}: {lost}");
        // Nobody knows that the row is claimed, so the claim has to run out.
        let first = receive(&mut consumer).await;
        assert_eq!((body(&first).as_str(), first.repeat), ("1", Repeat::Possible), "{kind:?}");

        proxy.cut_before_request(b"DELETE FROM queue_message");
        let lost = first.settlement.ack().await.unwrap_err();
        assert!(lost.is_transient(), "{kind:?}: {lost}");
        let again = receive(&mut consumer).await;
        assert_eq!(body(&again), "1", "{kind:?}");

        proxy.cut_after_request(b"DELETE FROM queue_message");
        let lost = again.settlement.ack().await.unwrap_err();
        assert!(lost.is_transient(), "{kind:?}: {lost}");
        let second = receive(&mut consumer).await;
        assert_eq!(body(&second), "2", "{kind:?}: the first was deleted although nobody heard of it");
        second.settlement.ack().await.unwrap();
        assert_eq!(proxy.fired().len(), 3);
    }
}
