//! Streams of events: one suite on the three databases, against real servers.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use barid::{
    Message,
    event_store::{
        EventStore, EventStoreError, Expected, NewEvent, RecordedEvent, Slice, Snapshot, StreamName,
    },
    headers, limits,
    store::{AnyPool, Backend, schema},
};
use databases::{Fresh, KINDS};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[allow(dead_code)] // other suites need more of it
mod databases;
#[path = "event_store/feed.rs"]
mod feed;
#[path = "event_store/order.rs"]
mod order;
#[path = "event_store/staged.rs"]
mod staged;
#[path = "event_store/units.rs"]
mod units;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "things.counted")]
struct Counted {
    n: u64,
    text: String,
}

fn counted(n: u64) -> NewEvent {
    NewEvent::new(Counted { n, text: String::new() })
}

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

/// Runs a test with the store of each database.
macro_rules! on_each {
    ($test:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $test() {
            for kind in $crate::KINDS {
                let database = $crate::Fresh::new(kind).await;
                let pool = database.pool().await;
                $crate::schema::apply(&pool).await.unwrap();
                println!("{kind:?}");
                match pool.clone() {
                    $crate::AnyPool::Postgres(on) => {
                        suite::$test($crate::EventStore::new(on.clone()), on).await
                    }
                    $crate::AnyPool::MySql(on) => suite::$test($crate::EventStore::new(on.clone()), on).await,
                    $crate::AnyPool::Sqlite(on) => {
                        suite::$test($crate::EventStore::new(on.clone()), on).await
                    }
                    _ => unreachable!("there are three databases"),
                }
                pool.close().await;
            }
        }
    };
}
pub(crate) use on_each;

/// All pages of a stream, or of all streams, two events each.
async fn pages<DB: Backend>(
    store: &EventStore<DB>,
    of: Option<&StreamName>,
    mut slice: Slice,
) -> Vec<RecordedEvent> {
    let mut all = Vec::new();
    slice = slice.max(2);
    loop {
        let page = match of {
            Some(stream) => store.read(stream, slice).await.unwrap(),
            None => store.read_all(slice).await.unwrap(),
        };
        all.extend(page.events);
        let Some(next) = page.next else { return all };
        slice = slice.after(next);
    }
}

fn versions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.version).collect()
}

on_each!(who_comes_second_is_told);
on_each!(pages_go_both_ways);
on_each!(text_is_kept_as_it_is);
on_each!(what_is_too_large_is_refused);
on_each!(a_repeated_append_changes_nothing);
on_each!(sixteen_append_to_one_stream);
on_each!(big_streams_are_read_in_pages);
on_each!(the_newest_snapshot_stays);

mod suite {
    use super::*;

    pub(super) async fn who_comes_second_is_told<DB: Backend>(store: EventStore<DB>, _: sqlx::Pool<DB>) {
        store.ready().await.unwrap();
        let a = stream("a");
        assert_eq!(store.version(&a).await.unwrap(), 0);
        assert!(store.read(&a, Slice::forward()).await.unwrap().events.is_empty());
        let first = store.append(&a, Expected::NoStream, [counted(1), counted(2)]).await.unwrap();
        assert_eq!((first.version, first.repeated), (2, false));
        for (expected, fits) in [
            (Expected::NoStream, false),
            (Expected::Version(0), false),
            (Expected::Version(1), false),
            (Expected::Version(3), false),
            (Expected::Version(2), true),
            (Expected::Any, true),
        ] {
            let before = store.version(&a).await.unwrap();
            match store.append(&a, expected, [counted(9)]).await {
                Ok(appended) if fits => assert_eq!(appended.version, before + 1),
                Err(EventStoreError::Conflict { stream, expected: said, actual }) if !fits => {
                    assert_eq!((stream.as_str(), said, actual), ("a", expected, before));
                    assert_eq!(store.version(&a).await.unwrap(), before, "{expected}");
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
        let missing = store.append(&stream("b"), Expected::Version(1), [counted(1)]).await.unwrap_err();
        assert!(matches!(missing, EventStoreError::Conflict { actual: 0, .. }), "{missing}");
        // Only an expectation: nothing is written, and it is checked.
        store.append(&a, Expected::Version(4), Vec::<NewEvent>::new()).await.unwrap();
        store.append(&a, Expected::Version(3), Vec::<NewEvent>::new()).await.unwrap_err();
        store.append(&stream("b"), Expected::NoStream, [counted(1)]).await.unwrap();
    }

    pub(super) async fn pages_go_both_ways<DB: Backend>(store: EventStore<DB>, _: sqlx::Pool<DB>) {
        let (a, b) = (stream("a"), stream("b"));
        for n in 1..=5 {
            store.append(&a, Expected::Any, [counted(n)]).await.unwrap();
            store.append(&b, Expected::Any, [counted(n)]).await.unwrap();
        }
        assert_eq!(versions(&pages(&store, Some(&a), Slice::forward()).await), [1, 2, 3, 4, 5]);
        assert_eq!(versions(&pages(&store, Some(&a), Slice::backward()).await), [5, 4, 3, 2, 1]);
        assert_eq!(versions(&pages(&store, Some(&a), Slice::forward().after(3)).await), [4, 5]);
        assert_eq!(versions(&pages(&store, Some(&a), Slice::backward().after(3)).await), [2, 1]);
        // Nobody has read all streams: what is new is ordered by who does, also backward.
        let back = pages(&store, None, Slice::backward()).await;
        let mut all = pages(&store, None, Slice::forward()).await;
        let positions: Vec<_> = all.iter().map(|event| event.position.unwrap()).collect();
        assert_eq!(positions, (1..=10).collect::<Vec<_>>());
        let order: Vec<_> = all.iter().map(|event| (event.stream.clone(), event.version)).collect();
        let expected: Vec<_> = (1..=5).flat_map(|n| [("a".to_owned(), n), ("b".to_owned(), n)]).collect();
        assert_eq!(order, expected);
        all.reverse();
        assert_eq!(all, back);
        let last = store.read_all(Slice::backward().max(1)).await.unwrap();
        assert_eq!(last.events[0].position, Some(10));
        assert_eq!(last.events[0].decode::<Counted>().unwrap().n, 5);
    }

    pub(super) async fn text_is_kept_as_it_is<DB: Backend>(store: EventStore<DB>, _: sqlx::Pool<DB>) {
        let names =
            ["Auftr\u{e4}ge \u{1f600}", "x", "x ", "X", "' OR 1=1; --", "\\", "%_", "e\u{301}", "\u{e9}"];
        for (n, name) in names.iter().enumerate() {
            let text = format!("{name} \0 \u{1f600} '\\\"");
            let event = NewEvent::new(Counted { n: n as u64, text: text.clone() })
                .header("what's", "\u{fc}ber \\ \" '")
                .header(headers::CORRELATION_ID, "mine");
            store.append(&stream(name), Expected::NoStream, [event]).await.unwrap();
            let page = store.read(&stream(name), Slice::forward()).await.unwrap();
            assert_eq!(page.events.len(), 1, "{name:?} is one stream and not another");
            let event = &page.events[0];
            assert_eq!(event.stream, *name);
            assert_eq!(event.decode::<Counted>().unwrap(), Counted { n: n as u64, text });
            assert_eq!(event.headers.get("what's"), Some("\u{fc}ber \\ \" '"));
            assert_eq!(event.headers.get(headers::CORRELATION_ID), Some("mine"));
            assert_eq!(event.headers.get(headers::CONTENT_TYPE), Some("application/json"));
            let age = chrono::Utc::now() - event.recorded_at;
            assert!(age.num_hours().abs() < 12, "a time in UTC: {age}");
        }
        let bytes: Vec<u8> = (0..=255).collect();
        store
            .append(&stream("raw"), Expected::Any, [NewEvent::raw("raw.bytes", bytes.clone())])
            .await
            .unwrap();
        let page = store.read(&stream("raw"), Slice::forward()).await.unwrap();
        assert_eq!(page.events[0].data, bytes);
        assert!(page.events[0].decode::<Counted>().unwrap_err().to_string().contains("things.counted"));
    }

    pub(super) async fn what_is_too_large_is_refused<DB: Backend>(store: EventStore<DB>, _: sqlx::Pool<DB>) {
        let a = stream("a");
        let of = |bytes: usize| NewEvent::raw("large", vec![0x27; bytes]).header(headers::CORRELATION_ID, "");
        let spare = headers::CORRELATION_ID.len();
        let largest = limits::EVENT_BYTES_MAX - spare;
        store.append(&a, Expected::NoStream, [of(largest), of(largest), of(0)]).await.unwrap();
        let page = store.read(&a, Slice::forward()).await.unwrap();
        let lengths: Vec<_> = page.events.iter().map(|event| event.data.len()).collect();
        assert_eq!(lengths, [largest, largest, 0]);
        let many = (0..=limits::EVENTS_APPEND_MAX).map(|_| of(1)).collect::<Vec<_>>();
        for events in [vec![of(largest + 1)], (0..5).map(|_| of(largest)).collect(), many] {
            let refused = store.append(&a, Expected::Any, events).await.unwrap_err();
            assert!(matches!(refused, EventStoreError::TooLarge { .. }), "{refused}");
        }
        let most = (0..limits::EVENTS_APPEND_MAX).map(|_| of(1));
        store.append(&a, Expected::Version(3), most).await.unwrap();
        assert_eq!(store.version(&a).await.unwrap(), 1_003);
    }

    pub(super) async fn a_repeated_append_changes_nothing<DB: Backend>(
        store: EventStore<DB>,
        _: sqlx::Pool<DB>,
    ) {
        let (a, b) = (stream("a"), stream("b"));
        let ids = [Uuid::now_v7(), Uuid::now_v7()];
        let events = || ids.map(|id| counted(7).id(id));
        store.append(&a, Expected::NoStream, events()).await.unwrap();
        store.append(&a, Expected::Version(2), [counted(8)]).await.unwrap();
        let again = store.append(&a, Expected::NoStream, events()).await.unwrap();
        assert_eq!((again.version, again.repeated), (2, true));
        assert_eq!(store.version(&a).await.unwrap(), 3);
        let [one, two] = events();
        let swapped = store.append(&a, Expected::NoStream, [two, one]).await.unwrap_err();
        assert!(matches!(swapped, EventStoreError::Conflict { .. }), "{swapped}");
        for (stream, expected) in [(&b, Expected::NoStream), (&a, Expected::Any)] {
            let taken = store.append(stream, expected, events()).await.unwrap_err();
            assert!(matches!(taken, EventStoreError::DuplicateId { .. }), "{taken}");
        }
        assert_eq!((store.version(&a).await.unwrap(), store.version(&b).await.unwrap()), (3, 0));
    }

    pub(super) async fn sixteen_append_to_one_stream<DB: Backend>(store: EventStore<DB>, _: sqlx::Pool<DB>) {
        const EACH: u64 = 10;
        let appenders: Vec<_> = (0..16_u64)
            .map(|who| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut conflicts = 0;
                    let mut left = (0..EACH).map(|n| who * EACH + n).collect::<Vec<_>>();
                    while let Some(&n) = left.last() {
                        // Half of them do not care, the others must be right.
                        let expected = match who % 2 {
                            0 => Expected::Any,
                            _ => Expected::Version(store.version(&stream("busy")).await.unwrap()),
                        };
                        match store.append(&stream("busy"), expected, [counted(n)]).await {
                            Ok(_) => left.truncate(left.len() - 1),
                            Err(EventStoreError::Conflict { .. }) => conflicts += 1,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    conflicts
                })
            })
            .collect();
        let mut conflicts = 0;
        for appender in appenders {
            conflicts += appender.await.unwrap();
        }
        println!("{conflicts} conflicts");
        let events = store.read(&stream("busy"), Slice::forward().max(1_000)).await.unwrap().events;
        assert_eq!(versions(&events), (1..=16 * EACH).collect::<Vec<_>>());
        let mut seen: Vec<_> = events.iter().map(|event| event.decode::<Counted>().unwrap().n).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..16 * EACH).collect::<Vec<_>>());
    }

    pub(super) async fn big_streams_are_read_in_pages<DB: Backend>(store: EventStore<DB>, _: sqlx::Pool<DB>) {
        let appends = if barid_tests::servers::long() { 100 } else { 3 };
        let all = appends * 1_000;
        for at in 0..appends {
            let events = (1..=1_000).map(|n| counted(at * 1_000 + n));
            store.append(&stream("big"), Expected::Version(at * 1_000), events).await.unwrap();
        }
        let mut slice = Slice::forward().max(1_000);
        let mut next = 1;
        loop {
            let page = store.read_all(slice).await.unwrap();
            for event in &page.events {
                assert_eq!((event.version, event.position), (next, Some(next)));
                assert_eq!(event.decode::<Counted>().unwrap().n, next);
                next += 1;
            }
            let Some(after) = page.next else { break };
            slice = slice.after(after);
        }
        assert_eq!(next, all + 1);
        let newest = store.read(&stream("big"), Slice::backward().max(2)).await.unwrap();
        assert_eq!(versions(&newest.events), [all, all - 1]);
    }

    pub(super) async fn the_newest_snapshot_stays<DB: Backend>(store: EventStore<DB>, _: sqlx::Pool<DB>) {
        let a = stream("a");
        let of = |version, format, state: &str| Snapshot::json(version, format, &state).unwrap();
        let ahead = store.save_snapshot(&a, &of(1, 1, "none")).await.unwrap_err();
        assert!(matches!(ahead, EventStoreError::SnapshotAhead { snapshot: 1, actual: 0, .. }), "{ahead}");
        store.append(&a, Expected::NoStream, (1..=5).map(counted)).await.unwrap();
        assert_eq!(store.load_snapshot(&a, 1).await.unwrap(), None);
        for (version, state, stays) in
            [(2, "two", "two"), (4, "four", "four"), (3, "late", "four"), (4, "other", "four")]
        {
            store.save_snapshot(&a, &of(version, 1, state)).await.unwrap();
            let kept = store.load_snapshot(&a, 1).await.unwrap().unwrap();
            assert_eq!(kept.state::<String>(&a).unwrap(), stays);
        }
        // A newer program writes another format; the older one keeps its own.
        store.save_snapshot(&a, &of(5, 2, "newer")).await.unwrap();
        assert_eq!(store.load_snapshot(&a, 1).await.unwrap().unwrap().version, 4);
        assert_eq!(store.load_snapshot(&a, 2).await.unwrap().unwrap().version, 5);
        assert_eq!(store.load_snapshot(&a, 3).await.unwrap(), None);
        let ahead = store.save_snapshot(&a, &of(6, 2, "ahead")).await.unwrap_err();
        assert!(matches!(ahead, EventStoreError::SnapshotAhead { .. }), "{ahead}");
        let large = Snapshot { version: 5, format: 9, data: vec![0; limits::EVENT_BYTES_MAX + 1].into() };
        let refused = store.save_snapshot(&a, &large).await.unwrap_err();
        assert!(matches!(refused, EventStoreError::TooLarge { .. }), "{refused}");
    }
}
