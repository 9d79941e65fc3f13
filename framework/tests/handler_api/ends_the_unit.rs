//! What a handler gets cannot end the unit of work: none of this exists.

use barid::{Context, Result, UnitConnection, store::Savepoint};
use sqlx::{Acquire, Connection, Sqlite};

async fn guard(cx: Context) -> Result<()> {
    let mut db = cx.unit_of_work::<Sqlite>().await?;
    db.begin().await?;
    db.commit().await?;
    db.rollback().await?;
    db.close().await?;
    db.acquire().await?;
    Ok(())
}

async fn connection(db: &mut UnitConnection<Sqlite>) -> Result<()> {
    db.begin().await?;
    db.commit().await?;
    db.rollback().await?;
    db.close().await?;
    db.acquire().await?;
    Ok(())
}

async fn savepoint(mut nested: Savepoint<'_, Sqlite>) -> Result<()> {
    nested.begin().await?;
    nested.commit().await?;
    nested.close().await?;
    nested.acquire().await?;
    Ok(())
}

fn main() {}
