//! The same without Barid: two connections that are kept, bound statements, and the texts that cannot be bound.

use anyhow::ensure;
use sqlx::{AssertSqlSafe, Executor, PgConnection, raw_sql};

use super::{INSERT, NOTE};

/// What somebody would keep who writes decisions down by hand.
pub(super) const LOG: &str = "\
    CREATE TABLE log_transaction (id BIGINT PRIMARY KEY, decision TEXT, begun_at TIMESTAMPTZ NOT NULL DEFAULT now(), \
      ended_at TIMESTAMPTZ);\
    CREATE TABLE log_branch (id BIGINT REFERENCES log_transaction ON DELETE CASCADE, place INT, name TEXT NOT NULL, \
      status TEXT NOT NULL, PRIMARY KEY (id, place))";

async fn say(db: &mut PgConnection, text: String) -> Result<(), sqlx::Error> {
    db.execute(raw_sql(AssertSqlSafe(text))).await.map(drop)
}

async fn insert(db: &mut PgConnection, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query(INSERT).bind(id).bind(NOTE).execute(db).await.map(drop)
}

async fn begin(home: &mut PgConnection, other: &mut PgConnection, id: i64) -> anyhow::Result<()> {
    home.execute("BEGIN").await?;
    other.execute("BEGIN").await?;
    insert(home, id).await?;
    Ok(insert(other, id).await?)
}

const PHASES: [&str; 2] = ["PREPARE TRANSACTION", "COMMIT PREPARED"];

/// Both prepared, and both told to commit.
pub(super) async fn prepared(
    home: &mut PgConnection,
    other: &mut PgConnection,
    id: i64,
) -> anyhow::Result<()> {
    begin(home, other, id).await?;
    for verb in PHASES {
        say(home, format!("{verb} 'hand-{id}-0'")).await?;
        say(other, format!("{verb} 'hand-{id}-1'")).await?;
    }
    Ok(())
}

/// The same, the two databases at the same time.
pub(super) async fn at_once(
    home: &mut PgConnection,
    other: &mut PgConnection,
    id: i64,
) -> anyhow::Result<()> {
    let (one, two) = tokio::join!(home.execute("BEGIN"), other.execute("BEGIN"));
    one.and(two)?;
    let (one, two) = tokio::join!(insert(home, id), insert(other, id));
    one.and(two)?;
    for verb in PHASES {
        let (one, two) = tokio::join!(
            say(home, format!("{verb} 'hand-{id}-0'")),
            say(other, format!("{verb} 'hand-{id}-1'"))
        );
        one.and(two)?;
    }
    Ok(())
}

/// Home only commits, when the other one is prepared. Nobody knows after a crash what the prepared one should do.
pub(super) async fn undecided(
    home: &mut PgConnection,
    other: &mut PgConnection,
    id: i64,
) -> anyhow::Result<()> {
    begin(home, other, id).await?;
    say(other, format!("PREPARE TRANSACTION 'hand-{id}'")).await?;
    home.execute("COMMIT").await?;
    Ok(say(other, format!("COMMIT PREPARED 'hand-{id}'")).await?)
}

/// The same with the decision: who takes part is written down before the prepare, the decision commits with home, and the end is
/// written down.
pub(super) async fn decided(
    home: &mut PgConnection,
    other: &mut PgConnection,
    id: i64,
) -> anyhow::Result<()> {
    say(
        home,
        format!(
            "BEGIN;INSERT INTO log_transaction (id) VALUES ({id});\
             INSERT INTO log_branch (id, place, name, status) VALUES ({id}, 0, 'other', 'registered');COMMIT"
        ),
    )
    .await?;
    begin(home, other, id).await?;
    say(other, format!("PREPARE TRANSACTION 'hand-{id}'")).await?;
    let decide = "UPDATE log_transaction SET decision = 'commit' WHERE id = $1 AND decision IS NULL";
    let decided = sqlx::query(decide).bind(id).execute(&mut *home).await?;
    ensure!(decided.rows_affected() == 1, "{id} is decided already");
    home.execute("COMMIT").await?;
    say(other, format!("COMMIT PREPARED 'hand-{id}'")).await?;
    let end = format!(
        "BEGIN;UPDATE log_branch SET status = 'committed' WHERE id = {id};\
         UPDATE log_transaction SET ended_at = now() WHERE id = {id};COMMIT"
    );
    Ok(say(home, end).await?)
}
