//! What is removed, and what that costs.

use barid::{SqlIdempotency, limits, store::AnyPool};
use barid_tests::eventually;
use sqlx::{AssertSqlSafe, Row};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    databases::{KINDS, Kind},
    subject::{ANSWER, SOON, Subject},
};

fn id_of(days_ago: i64) -> Uuid {
    let seconds = barid::clock::now().timestamp() - days_ago * 24 * 60 * 60;
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds.unsigned_abs(), 0))
}

fn foreign(n: usize) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_be_bytes())
}

#[tokio::test]
async fn retention_removes_what_is_old_whatever_its_id_is_and_nothing_else() {
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        let (old, fresh): (Vec<_>, Vec<_>) =
            ((0..2500).map(|_| id_of(30)).collect(), (0..20).map(|_| id_of(3)).collect());
        subject.records(&old, 30).await;
        subject.records(&fresh, 3).await;
        subject.records(&(0..1500).map(foreign).collect::<Vec<_>>(), 30).await;
        subject.records(&(1500..1700).map(foreign).collect::<Vec<_>>(), 3).await;
        let (one, two) = (subject.bus(SqlIdempotency::new()), subject.bus(SqlIdempotency::new()));
        let stop = CancellationToken::new();
        let running = [one, two].map(|bus| {
            let stop = stop.clone();
            tokio::spawn(async move { bus.run_until(stop.cancelled_owned()).await })
        });
        eventually(SOON, &format!("{kind:?}: old records are gone"), || async {
            subject.number("SELECT count(*) FROM idempotency").await <= 220
        })
        .await;
        stop.cancel();
        for bus in running {
            bus.await.unwrap().unwrap();
        }
        assert_eq!(subject.number("SELECT count(*) FROM idempotency").await, 220, "{kind:?}");
    }
}

/// What the database would do for a statement of the retention.
async fn plan(subject: &Subject, explained: String) -> String {
    let explained = AssertSqlSafe(explained);
    match &subject.pool {
        AnyPool::Postgres(pool) => {
            let mut connection = pool.acquire().await.unwrap();
            sqlx::raw_sql("SET enable_seqscan=off").execute(&mut *connection).await.unwrap();
            let lines: Vec<String> = sqlx::query_scalar(explained).fetch_all(&mut *connection).await.unwrap();
            lines.join("\n")
        }
        AnyPool::MySql(pool) => {
            let row = sqlx::query(explained).fetch_one(pool).await.unwrap();
            format!("{} {}", row.get::<String, _>("type"), row.get::<String, _>("key"))
        }
        AnyPool::Sqlite(pool) => {
            let rows = sqlx::query(explained).fetch_all(pool).await.unwrap();
            rows.iter().map(|row| row.get::<String, _>("detail")).collect::<Vec<_>>().join("\n")
        }
        _ => unreachable!("there are three databases"),
    }
}

#[tokio::test]
async fn retention_never_scans_a_table() {
    use barid::idempotency::{Table, delete, look};
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        subject.records(&(0..3000).map(|_| id_of(30)).collect::<Vec<_>>(), 30).await;
        for table in Table::ALL {
            let statements = match kind {
                Kind::Postgres => [look::<sqlx::Postgres>(table, 1000), delete::<sqlx::Postgres>(table)],
                Kind::MariaDb => [look::<sqlx::MySql>(table, 1000), delete::<sqlx::MySql>(table)],
                Kind::Sqlite => [look::<sqlx::Sqlite>(table, 1000), delete::<sqlx::Sqlite>(table)],
            };
            for statement in statements {
                let mut filled = statement;
                for (n, value) in
                    [subject.id(id_of(60)), subject.id(id_of(7)), "604800000".to_owned()].iter().enumerate()
                {
                    let placeholder = match kind {
                        Kind::Postgres => format!("${}", n + 1),
                        Kind::MariaDb => "?".to_owned(),
                        Kind::Sqlite => format!("?{}", n + 1),
                    };
                    filled = filled.replacen(&placeholder, value, 1);
                }
                let explain = if matches!(kind, Kind::Sqlite) { "EXPLAIN QUERY PLAN" } else { "EXPLAIN" };
                let plan = plan(&subject, format!("{explain} {filled}")).await;
                let by_key = match kind {
                    Kind::Postgres => plan.contains("Index") && !plan.contains("Seq Scan"),
                    Kind::MariaDb => plan == "range PRIMARY",
                    Kind::Sqlite => plan.contains("SEARCH") && !plan.contains("SCAN"),
                };
                assert!(by_key, "{kind:?}: {filled}\n{plan}");
            }
        }
    }
}

#[tokio::test]
async fn partitions_are_made_ahead_and_dropped_where_the_table_has_them() {
    let subject = Subject::new(Kind::Postgres).await;
    let (bus, before) = (subject.bus(SqlIdempotency::new()), Uuid::now_v7());
    bus.handle(subject.delivery(before, "tea", ANSWER)).await.unwrap();
    subject.run(include_str!("../../../migrations/optional/postgres_idempotency_partitions.sql")).await;
    subject
        .run(
            "CREATE TABLE idempotency_20200101 PARTITION OF idempotency
             FOR VALUES FROM ('016f5e66-e800-0000-0000-000000000000') TO ('016f638d-4400-0000-0000-000000000000')",
        )
        .await;
    subject.records(&[foreign(1), "016f5e66-e800-7000-8000-000000000000".parse().unwrap()], 30).await;
    let stop = CancellationToken::new();
    let running = [bus.clone(), subject.bus(SqlIdempotency::new())].map(|bus| {
        let stop = stop.clone();
        tokio::spawn(async move { bus.run_until(stop.cancelled_owned()).await })
    });
    let children = "SELECT count(*) FROM pg_inherits WHERE inhparent='idempotency'::regclass";
    eventually(SOON, "three days ahead, the old one gone, old rows gone", || async {
        // low, high, default, and the days ahead; today's rows are in the default partition already.
        subject.number(children).await == 3 + i64::from(limits::PARTITION_DAYS_AHEAD)
            && subject.number("SELECT count(*) FROM pg_class WHERE relname='idempotency_20200101'").await == 0
            && subject.number("SELECT count(*) FROM idempotency").await == 1
    })
    .await;
    let fresh = Uuid::now_v7();
    for id in [before, fresh, fresh] {
        bus.handle(subject.delivery(id, "tea", ANSWER)).await.unwrap();
    }
    assert_eq!(subject.ran(), 2, "records are recognised across the change");
    assert_eq!(subject.number("SELECT count(DISTINCT id) FROM outbox").await, 2);
    stop.cancel();
    for bus in running {
        bus.await.unwrap().unwrap();
    }
}
