//! Events of a distributed transaction: durable and invisible until it commits, and nobody comes in between.

use barid::event_store::{
    EventStore, EventStoreError, Expected, NewEvent, Slice, StagedAppend, StagedEvents, StagedOutcome,
};
use barid::store::Backend;
use uuid::Uuid;

use super::{counted, on_each, stream, versions};

on_each!(a_concurrent_writer_loses);
on_each!(every_answer_is_the_same_again);
on_each!(a_refusal_leaves_nothing);
on_each!(many_transactions_at_once);

fn of(name: &str, expected: Expected, events: u64) -> StagedAppend {
    (1..=events).fold(StagedAppend::new(stream(name), expected), |all, n| all.event(counted(n)))
}

mod suite {
    use super::*;

    /// The contract: a writer between prepare and commit loses, whatever it expects, and commit cannot fail because of one.
    pub(super) async fn a_concurrent_writer_loses<DB: Backend>(store: EventStore<DB>, _: sqlx::Pool<DB>) {
        let staged = StagedEvents::of(store.clone());
        staged.ready().await.unwrap();
        store.append(&stream("a"), Expected::NoStream, [counted(1)]).await.unwrap();
        let appends =
            vec![of("a", Expected::Version(1), 2), of("b", Expected::NoStream, 1), of("c", Expected::Any, 0)];
        staged.prepare("t1", appends).await.unwrap();
        for expected in [Expected::Any, Expected::Version(1), Expected::Version(3), Expected::NoStream] {
            let lost = store.append(&stream("a"), expected, [counted(9)]).await.unwrap_err();
            assert!(matches!(&lost, EventStoreError::Reserved { by, .. } if by == "t1"), "{lost}");
            assert!(lost.is_transient() && lost.to_string().contains("try again later"), "{lost}");
        }
        let lost = staged.prepare("t2", vec![of("a", Expected::Version(1), 1)]).await.unwrap_err();
        assert!(matches!(lost, EventStoreError::Reserved { .. }), "{lost}");
        // Nothing is seen before the commit, and readers of all streams do not wait for it.
        assert_eq!(store.version(&stream("a")).await.unwrap(), 1);
        store.append(&stream("c"), Expected::Any, [counted(1)]).await.unwrap();
        assert_eq!(store.read_all(Slice::forward()).await.unwrap().events.len(), 2);
        assert_eq!(staged.prepared("").await.unwrap(), ["t1"]);

        assert_eq!(staged.commit("t1").await.unwrap(), StagedOutcome::Committed);
        let all = store.read_all(Slice::forward()).await.unwrap().events;
        let seen: Vec<_> = all.iter().map(|event| (event.stream.as_str(), event.version)).collect();
        assert_eq!(seen, [("a", 1), ("c", 1), ("a", 2), ("a", 3), ("b", 1)]);
        store.append(&stream("a"), Expected::Version(3), [counted(4)]).await.unwrap();
        assert_eq!(versions(&store.read(&stream("a"), Slice::forward()).await.unwrap().events), [1, 2, 3, 4]);
        let lost = staged.prepare("t2", vec![of("a", Expected::Version(1), 1)]).await.unwrap_err();
        assert!(matches!(lost, EventStoreError::Conflict { actual: 4, .. }), "{lost}");
    }

    pub(super) async fn every_answer_is_the_same_again<DB: Backend>(
        store: EventStore<DB>,
        pool: sqlx::Pool<DB>,
    ) {
        // Two that know nothing of each other, as two processes.
        let (one, two) = (StagedEvents::new(pool.clone()), StagedEvents::new(pool));
        for _ in 0..2 {
            one.prepare("p:1", vec![of("a", Expected::Any, 2)]).await.unwrap();
        }
        assert_eq!(one.commit("p:1").await.unwrap(), StagedOutcome::Committed);
        for _ in 0..2 {
            assert_eq!(two.commit("p:1").await.unwrap(), StagedOutcome::Committed);
            assert_eq!(two.rollback("p:1").await.unwrap(), StagedOutcome::Committed, "it stays");
        }
        assert_eq!(store.version(&stream("a")).await.unwrap(), 2);

        one.prepare("p:2", vec![of("a", Expected::Version(2), 1)]).await.unwrap();
        for _ in 0..2 {
            assert_eq!(two.rollback("p:2").await.unwrap(), StagedOutcome::RolledBack);
            assert_eq!(two.commit("p:2").await.unwrap(), StagedOutcome::RolledBack);
        }
        // Rolled back before it was prepared: the late request is refused.
        assert_eq!(two.rollback("p:3").await.unwrap(), StagedOutcome::RolledBack);
        for (xid, state) in [("p:1", "committed"), ("p:2", "aborted"), ("p:3", "aborted")] {
            let late = one.prepare(xid, vec![of("a", Expected::Any, 1)]).await.unwrap_err();
            assert!(matches!(&late, EventStoreError::Ended { state: is, .. } if is == state), "{late}");
        }
        assert_eq!(one.commit("p:4").await.unwrap(), StagedOutcome::Missing);
        store.append(&stream("a"), Expected::Version(2), [counted(3)]).await.unwrap();

        one.prepare("q_1", vec![of("b", Expected::Any, 1)]).await.unwrap();
        one.forget("q_1").await.unwrap();
        assert_eq!(two.prepared("q_").await.unwrap(), ["q_1"], "what is prepared is not forgotten");
        assert!(two.prepared("qx").await.unwrap().is_empty() && two.prepared("p:").await.unwrap().is_empty());
        one.forget("p:1").await.unwrap();
        assert_eq!(one.commit("p:1").await.unwrap(), StagedOutcome::Missing);
        for bad in ["", "x ", "a\nb", &"x".repeat(201)] {
            let refused = one.prepare(bad, Vec::new()).await.unwrap_err();
            assert!(matches!(refused, EventStoreError::TransactionId { .. }), "{refused}");
        }
    }

    pub(super) async fn a_refusal_leaves_nothing<DB: Backend>(store: EventStore<DB>, _: sqlx::Pool<DB>) {
        let staged = StagedEvents::of(store.clone());
        let taken = Uuid::now_v7();
        store.append(&stream("a"), Expected::NoStream, [counted(1).id(taken)]).await.unwrap();
        let late = StagedAppend::new(stream("b"), Expected::Any).event(counted(1).id(taken));
        let refusals = [
            vec![of("b", Expected::Any, 1), of("z", Expected::Version(7), 1)],
            vec![of("b", Expected::Any, 1), of("a", Expected::NoStream, 0)],
            vec![late],
            vec![of("b", Expected::Any, 1), of("b", Expected::Any, 1)],
            vec![StagedAppend::new(stream("b"), Expected::Any).event(NewEvent::raw("a b", ""))],
        ];
        for (n, appends) in refusals.into_iter().enumerate() {
            let refused = staged.prepare(&format!("r{n}"), appends).await.unwrap_err();
            assert!(!refused.is_transient(), "{refused}");
        }
        assert!(staged.prepared("").await.unwrap().is_empty());
        store.append(&stream("b"), Expected::NoStream, [counted(1)]).await.unwrap();
    }

    /// Sixteen prepare for the same two streams, named in both orders; each ends, half of them by a rollback.
    pub(super) async fn many_transactions_at_once<DB: Backend>(store: EventStore<DB>, _: sqlx::Pool<DB>) {
        let tasks: Vec<_> = (0..16_u64)
            .map(|who| {
                let staged = StagedEvents::of(store.clone());
                tokio::spawn(async move {
                    for attempt in 0.. {
                        let xid = format!("{who}.{attempt}");
                        let mut appends = vec![of("a", Expected::Any, 2), of("b", Expected::Any, 1)];
                        if who % 2 == 0 {
                            appends.reverse();
                        }
                        match staged.prepare(&xid, appends).await {
                            Ok(()) => {}
                            Err(EventStoreError::Reserved { .. }) => {
                                tokio::task::yield_now().await;
                                continue;
                            }
                            Err(error) => panic!("{error}"),
                        }
                        let outcome = if who % 4 == 0 {
                            staged.rollback(&xid).await
                        } else {
                            staged.commit(&xid).await
                        };
                        let expected =
                            if who % 4 == 0 { StagedOutcome::RolledBack } else { StagedOutcome::Committed };
                        assert_eq!(outcome.unwrap(), expected);
                        return;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(store.version(&stream("a")).await.unwrap(), 24);
        let all = store.read_all(Slice::forward()).await.unwrap().events;
        let of_b: Vec<_> = all.iter().filter(|event| event.stream == "b").cloned().collect();
        assert_eq!(versions(&of_b), (1..=12).collect::<Vec<_>>());
        assert_eq!(all.len(), 36);
        assert!(StagedEvents::of(store).prepared("").await.unwrap().is_empty());
    }
}
