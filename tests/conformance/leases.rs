//! Whose a source is, on every database: one owner, by compare-and-set, and nothing is written with an old epoch.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{sync::Arc, time::Duration};

use barid::store::{AnyPool, schema};
use barid_relay::{
    lane::{Park, ParkState, RowId},
    lease::{Candidate, Epoch, Leases, Take},
    source::{Source, SourceError, open::source},
};
use databases::{Fresh, KINDS, Kind, run};
use futures::future::join_all;
use uuid::Uuid;

mod databases;

const LONG: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(60);

struct Place {
    pool: AnyPool,
    source: Arc<dyn Source>,
    _database: Fresh,
}

impl Place {
    async fn new(kind: Kind) -> Self {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        schema::apply(&pool).await.unwrap();
        let source = source("main", &pool);
        Self { pool, source, _database: database }
    }

    async fn candidate(&self, name: &str) -> Box<dyn Leases> {
        let candidate = Candidate { name: name.to_owned(), process: format!("{name}'s process") };
        self.source.leases(&candidate).await.unwrap()
    }
}

fn over(epoch: i64, renewals: i64) -> Take {
    Take { over: Epoch(epoch), renewals, early: false }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, SourceError>, says: &[&str]) {
    let error = result.unwrap_err();
    assert!(error.is_fenced() && !error.is_transient(), "{error:?}");
    for part in says {
        assert!(error.to_string().contains(part), "{error} lacks {part:?}");
    }
}

#[tokio::test]
async fn of_many_at_once_one_takes_it() {
    for kind in KINDS {
        let place = Place::new(kind).await;
        for epoch in 0..5 {
            let takes = (0..6).map(async |at| {
                let mut leases = place.candidate(&format!("relay {epoch}.{at}")).await;
                leases.take(over(epoch, 0), LONG).await.unwrap()
            });
            let won: Vec<Epoch> = join_all(takes).await.into_iter().flatten().collect();
            assert_eq!(won, [Epoch(epoch + 1)], "{kind:?}");
            run(&place.pool, "UPDATE relay_source SET lease_until = NULL").await;
        }
        place.pool.close().await;
    }
}

#[tokio::test]
async fn it_is_taken_when_it_is_free_or_over_and_compared() {
    for kind in KINDS {
        let place = Place::new(kind).await;
        let (mut one, mut two) = (place.candidate("one").await, place.candidate("two").await);
        let nobody = two.look().await.unwrap();
        assert!(nobody.released() && nobody.epoch == Epoch(0), "{kind:?}: {nobody}");
        assert_eq!(one.take(over(0, 0), LONG).await.unwrap(), Some(Epoch(1)));
        let seen = two.look().await.unwrap();
        assert_eq!((seen.epoch, seen.owner.as_str(), seen.lease), (Epoch(1), "one", LONG), "{kind:?}");
        assert!(seen.left <= LONG && seen.left > LONG / 2 && !seen.released(), "{kind:?}: {seen:?}");
        assert!(seen.to_string().contains("one (epoch 1) until 20"), "{seen}");
        assert_eq!(two.take(over(1, 0), LONG).await.unwrap(), None, "{kind:?}: it is held");
        assert_eq!(one.take(over(1, 0), LONG).await.unwrap(), Some(Epoch(2)), "{kind:?}: by itself");
        one.renew(Epoch(2), Duration::from_millis(1)).await.unwrap();
        let is_over = async { while !two.look().await.unwrap().left.is_zero() {} };
        tokio::time::timeout(PATIENCE, is_over).await.expect("the lease ends");
        assert_eq!(two.take(over(2, 0), LONG).await.unwrap(), None, "{kind:?}: it was renewed since");
        assert_eq!(two.take(over(1, 1), LONG).await.unwrap(), None, "{kind:?}: it has another epoch");
        assert_eq!(two.take(over(2, 1), LONG).await.unwrap(), Some(Epoch(3)), "{kind:?}: it is over");
        let early = Take { early: true, ..over(3, 0) };
        assert_eq!(one.take(early, LONG).await.unwrap(), Some(Epoch(4)), "{kind:?}: its owner is dead");
        one.release(Epoch(4)).await.unwrap();
        assert!(two.look().await.unwrap().released(), "{kind:?}");
        assert_eq!(two.take(over(4, 0), LONG).await.unwrap(), Some(Epoch(5)), "{kind:?}: it is free");
        place.pool.close().await;
    }
}

#[tokio::test]
async fn nothing_is_written_with_an_old_epoch() {
    for kind in KINDS {
        let place = Place::new(kind).await;
        let (mut one, mut two) = (place.candidate("one").await, place.candidate("two").await);
        let old = one.take(over(0, 0), LONG).await.unwrap().unwrap();
        let new = two.take(Take { early: true, ..over(1, 0) }, LONG).await.unwrap().unwrap();
        let says = ["epoch 1 refused, 2 is the owner", "two"];
        refused(one.renew(old, LONG).await, &says);
        refused(one.release(old).await, &says);
        // The number alone is not enough: after a fail-over of the database it may have been given out twice.
        refused(one.renew(new, LONG).await, &["epoch 2 refused, 2 is the owner", "two"]);
        assert!(two.look().await.unwrap().left > LONG / 2, "{kind:?}: nothing was released");

        let insert = "INSERT INTO outbox (seq, id, destination, aggregatetype, aggregateid, type) \
            VALUES (7, ID, 'queue:a', 'order', '1', 'm')";
        let id = if matches!(kind, Kind::Postgres) {
            "'00000000-0000-0000-0000-000000000009'"
        } else {
            "x'00000000000000000000000000000009'"
        };
        let insert = insert
            .replace("ID", id)
            .replace(" type)", if matches!(kind, Kind::MariaDb) { " `type`)" } else { " type)" });
        run(&place.pool, Box::leak(insert.into_boxed_str())).await;
        let row = RowId { seq: 7, id: Uuid::from_u128(9) };
        let park = [Park {
            row,
            state: ParkState::Poison,
            attempts: 1,
            reason: "too large".to_owned(),
            sink: None,
            fingerprint: None,
        }];
        let mut writer = place.source.writer().await.unwrap();
        refused(writer.park(old, &park).await, &["parking rows", says[0]]);
        assert!(writer.held_keys(None).await.unwrap().is_empty(), "{kind:?}: nothing was parked");
        // What was confirmed is deleted by whoever knows it.
        assert_eq!(writer.delete(&[row]).await.unwrap(), 1, "{kind:?}: and it was still there");
        writer.park(new, &park).await.unwrap();

        let mut reader = place.source.reader().await.unwrap();
        reader.adopt(new).await.unwrap();
        if matches!(kind, Kind::Postgres) {
            refused(reader.adopt(old).await, &["adopting foreign rows", says[0]]);
        }
        drop(reader); // on SQLite it has a connection of the pool
        place.pool.close().await;
    }
}
