//! Records, stored answers, results, high-water marks.

use barid::{DuplicatePolicy, MessageResult, SqlIdempotency, SqlQueue, headers, transport::memory::Memory};
use uuid::Uuid;

use super::{
    databases::{KINDS, Kind},
    subject::{ANSWER, GetPrice, Price, SOON, Subject},
};

#[tokio::test]
async fn a_fresh_message_is_handled_and_a_duplicate_gets_the_stored_answer_and_no_second_effect() {
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        let (bus, id) = (subject.bus(SqlIdempotency::new()), Uuid::now_v7());
        for _ in 0..3 {
            bus.handle(subject.delivery(id, "tea", ANSWER)).await.unwrap();
        }
        assert_eq!(subject.ran(), 1, "{kind:?}: it was handled again");
        assert_eq!(*subject.told.0.lock().unwrap(), ["ack"; 3]);
        assert_eq!(
            subject.number("SELECT count(*) FROM outbox").await,
            3,
            "{kind:?}: every delivery is answered"
        );
        let same =
            "SELECT count(DISTINCT id) FROM outbox WHERE destination='queue:shop' AND type='prices.price'";
        assert_eq!(
            subject
                .number(
                    &same.replace("type=", if matches!(kind, Kind::MariaDb) { "`type`=" } else { "type=" })
                )
                .await,
            1,
            "{kind:?}: under one id"
        );
        assert_eq!(
            subject.number("SELECT count(DISTINCT payload) FROM outbox").await,
            1,
            "{kind:?}: with one body"
        );
        // One that nobody asked is not answered.
        bus.handle(subject.delivery(Uuid::now_v7(), "tea", &[])).await.unwrap();
        assert_eq!(subject.number("SELECT count(*) FROM outbox").await, 3);
        assert_eq!(subject.number("SELECT count(*) FROM idempotency WHERE reply IS NULL").await, 1);
    }
}

#[tokio::test]
async fn invoked_duplicates_run_again_and_keep_the_first_answer() {
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        let invoking = SqlIdempotency::new().duplicates(DuplicatePolicy::Invoke);
        let (bus, skipping, id) = (subject.bus(invoking), subject.bus(SqlIdempotency::new()), Uuid::now_v7());
        for bus in [&bus, &bus, &skipping] {
            bus.handle(subject.delivery(id, "tea", ANSWER)).await.unwrap();
        }
        assert_eq!(subject.ran(), 2);
        assert_eq!(subject.number("SELECT count(DISTINCT id) FROM outbox").await, 2, "{kind:?}");
        assert_eq!(subject.number("SELECT count(*) FROM outbox").await, 3, "{kind:?}");
    }
}

#[tokio::test]
async fn an_error_is_an_error_and_leaves_no_record() {
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        let (bus, id) = (subject.bus(SqlIdempotency::new()), Uuid::now_v7());
        // The insert of the record fails, and not because the record is there (W2).
        subject.run("ALTER TABLE idempotency RENAME TO elsewhere").await;
        bus.handle(subject.delivery(id, "tea", ANSWER)).await.unwrap_err();
        assert_eq!((subject.ran(), subject.told.0.lock().unwrap().pop()), (0, Some("nack")), "{kind:?}");
        subject.run("ALTER TABLE elsewhere RENAME TO idempotency").await;
        bus.handle(subject.delivery(id, "tea", ANSWER)).await.unwrap();
        assert_eq!(subject.ran(), 1, "{kind:?}");
        assert_eq!(subject.number("SELECT count(*) FROM idempotency").await, 1);
    }
}

#[tokio::test]
async fn results_go_from_accepted_to_succeeded_or_failed() {
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        let bus = subject.bus(SqlIdempotency::new());
        let wanted: &[(&str, &str)] = &[(headers::RESULT, "true")];
        assert_eq!(bus.result(Uuid::now_v7()).await.unwrap(), None);

        let id = bus.submit(GetPrice { sku: "tea".to_owned() }).await.unwrap();
        assert_eq!(bus.result(id).await.unwrap(), Some(MessageResult::Accepted), "{kind:?}");
        assert_eq!(
            subject.number("SELECT count(*) FROM outbox").await,
            1,
            "{kind:?}: it leaves through the outbox"
        );
        bus.handle(subject.delivery(id, "tea", wanted)).await.unwrap();
        let result = bus.wait_result(id, SOON).await.unwrap().unwrap();
        assert_eq!(bus.decode_result::<Price>(&result).unwrap(), Price { cents: 1 }, "{kind:?}");
        assert_eq!(subject.number("SELECT count(*) FROM outbox").await, 1, "the answer was sent to nobody");
        bus.handle(subject.delivery(id, "tea", wanted)).await.unwrap();
        assert_eq!(bus.result(id).await.unwrap(), Some(result), "{kind:?}: the duplicate changed it");

        let id = Uuid::now_v7();
        bus.declare().await.unwrap();
        bus.handle(subject.delivery(id, "gone", wanted)).await.unwrap_err();
        let Some(MessageResult::Failed { problem }) = bus.result(id).await.unwrap() else {
            panic!("{kind:?}")
        };
        assert_eq!((problem.title.as_str(), problem.status), ("The article is gone", Some(410)));
        assert_eq!(problem.instance, Some(format!("urn:uuid:{id}")));
        // A dead letter that is replayed and succeeds.
        bus.handle(subject.delivery(id, "tea", wanted)).await.unwrap();
        assert!(matches!(bus.result(id).await.unwrap(), Some(MessageResult::Succeeded { .. })), "{kind:?}");
    }
}

const NUMBER: &str = "x-number";

#[tokio::test]
async fn a_high_water_mark_knows_a_duplicate_by_its_number() {
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        let numbered = || SqlIdempotency::new().high_water_mark(NUMBER);
        let refused = subject.builder("prices").transport(Memory::new()).idempotency(numbered()).build();
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("BRD051"), "{said}");
        let queue = SqlQueue::new(subject.pool.clone());
        let bus = subject.builder("prices").transport(queue).idempotency(numbered()).build().unwrap();
        bus.declare().await.unwrap();
        let handle = async |key: &str, number: &str, sku: &str, expected: usize| {
            let more = [(headers::KEY, key), (NUMBER, number)];
            let handled = bus.handle(subject.delivery(Uuid::now_v7(), sku, &more)).await;
            assert_eq!(subject.ran(), expected, "{kind:?}: {key} {number}");
            handled
        };
        handle("a", "5", "tea", 1).await.unwrap();
        handle("a", "5", "tea", 1).await.unwrap();
        handle("a", "4", "tea", 1).await.unwrap();
        handle("b", "4", "tea", 2).await.unwrap();
        handle("a", "9", "tea", 3).await.unwrap();
        // Rolled back with everything else: only a committed number counts.
        handle("a", "10", "gone", 4).await.unwrap_err();
        handle("a", "10", "tea", 5).await.unwrap();
        handle("a", "10", "tea", 5).await.unwrap();
        handle("a", "ten", "tea", 5).await.unwrap_err();
        assert_eq!(subject.number("SELECT count(*) FROM high_water").await, 2);
        assert_eq!(subject.number("SELECT count(*) FROM idempotency").await, 0);
        // Without a number, by its id.
        let id = Uuid::now_v7();
        for _ in 0..2 {
            bus.handle(subject.delivery(id, "tea", &[(headers::KEY, "a")])).await.unwrap();
        }
        assert_eq!(
            (subject.ran(), subject.number("SELECT count(*) FROM idempotency").await),
            (6, 1),
            "{kind:?}"
        );
    }
}
