//! Sagas in SQL: how they are found, and the statements that save them.

use std::{future::Future, marker::PhantomData, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{Database, error::DatabaseError};
use uuid::Uuid;

use super::{Change, Conflict, Correlation, Lookup, Replaced, SagaStore, Saved, Saving, Stored};
use crate::{
    error::{Error, Result},
    store::{
        backend::Backend,
        kept::Kept,
        statement::Statement,
        unit::{SqlUnit, bounded},
    },
    unit_of_work::Unit,
};

/// One row of what [`SagaStore::read`] reads: a saga with one of its correlations.
pub struct SagaRow {
    pub(crate) id: Uuid,
    pub(crate) revision: i64,
    pub(crate) data: Option<String>,
    pub(crate) timeouts: Option<String>,
    pub(crate) property: Option<String>,
    pub(crate) value: Option<String>,
}

/// The tables `saga` and `saga_correlation` of one database.
pub trait SagaRows: Database {
    /// Now, by the database's clock.
    const NOW: &'static str;

    /// What a read ends with that makes others wait.
    const FOR_UPDATE: &'static str;

    /// Removes up to `rows_max` sagas that were completed longer ago than this.
    fn purge(completed_for: Duration, rows_max: u32) -> Statement;

    /// Reads a row.
    ///
    /// # Errors
    /// When it has other columns.
    fn row(row: &Self::Row) -> Result<SagaRow, sqlx::Error>;

    /// Whether the server ended one of two transactions that met, so that doing it again is all that is needed.
    fn lost_a_race(answer: &dyn DatabaseError) -> bool;

    /// Runs one statement; how many rows it touched, and those it found.
    fn ask(
        connection: &mut Self::Connection,
        statement: &Statement,
    ) -> impl Future<Output = Result<(u64, Vec<Self::Row>), sqlx::Error>> + Send;
}

/// Sagas in the database of the unit of work.
pub(crate) struct SqlSagas<DB: Backend> {
    kept: Arc<Kept<DB>>,
}

impl<DB: Backend> SqlSagas<DB> {
    pub(crate) fn new(kept: Arc<Kept<DB>>) -> Self {
        Self { kept }
    }

    fn unit(unit: Option<&mut dyn Unit>) -> Result<&mut SqlUnit<DB>> {
        unit.and_then(SqlUnit::of)
            .ok_or_else(|| Error::new("there is no open unit of work to keep a saga in"))
    }
}

#[async_trait]
impl<DB: Backend> SagaStore for SqlSagas<DB> {
    fn read(&self, saga: &str, lookup: &Lookup, lock: bool) -> Option<Statement> {
        Some(read(saga, lookup).sql(if lock { DB::FOR_UPDATE } else { "" }))
    }

    fn found(
        &self,
        unit: Option<&mut dyn Unit>,
        position: Option<usize>,
        _: &str,
        lookup: &Lookup,
    ) -> Result<Option<Stored>> {
        let unit = Self::unit(unit)?;
        let rows = position.and_then(|at| unit.reads.get_mut(at)).map(std::mem::take);
        let rows = rows.ok_or_else(|| Error::new("the unit of work did not read the saga"))?;
        Ok(choose(lookup, &rows.iter().map(DB::row).collect::<Result<Vec<_>, _>>()?))
    }

    fn save(&self, changes: &[Saved]) -> Result<Saving> {
        let mut statements = Vec::new();
        for Saved { change, replaced } in changes {
            if !replaced {
                statements.push(Write::<DB>(PhantomData).row(change));
            }
            statements.extend(correlations(change));
        }
        Ok(Saving::Statements(statements))
    }

    async fn replace(&self, unit: Option<&mut dyn Unit>, change: &Change) -> Result<Replaced> {
        let unit = Self::unit(unit)?;
        bounded(async {
            let statement = Write::<DB>(PhantomData).replacement(change);
            if unit.connection.ask(&statement).await?.0 == 1 {
                return Ok(Replaced::Done);
            }
            // A plain read could show an older state than the one that is in the way.
            let lookup = Lookup::Id(change.id);
            let (_, rows) = unit.connection.ask(&read(&change.saga, &lookup).sql(DB::FOR_UPDATE)).await?;
            let rows = rows.iter().map(DB::row).collect::<Result<Vec<_>, _>>()?;
            Ok(Replaced::Stale(choose(&lookup, &rows)))
        })
        .await
    }

    fn is_conflict(&self, error: &Error) -> bool {
        let answer = error.cause().downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
        error.cause().is::<Conflict>()
            || answer.is_some_and(|answer| violates(answer) || DB::lost_a_race(answer))
    }

    async fn purge(&self, completed_for: Duration, rows_max: u32) -> Result<u64> {
        bounded(async {
            let _writer = DB::writer(self.kept.pool()).await;
            let mut connection = self.kept.acquire().await?;
            Ok(DB::ask(&mut connection, &DB::purge(completed_for, rows_max)).await?.0)
        })
        .await
    }
}

/// Whether one of the two constraints was violated that a conflict violates.
fn violates(answer: &dyn DatabaseError) -> bool {
    let ours = ["saga_revision", "saga_correlation"].iter().any(|name| answer.message().contains(name));
    ours && (answer.is_check_violation() || answer.is_unique_violation())
}

/// The saga that a lookup means, among the rows that were read for it.
fn choose(lookup: &Lookup, rows: &[SagaRow]) -> Option<Stored> {
    let has = |row: &SagaRow, wanted: &Correlation| {
        row.property.as_ref() == Some(&wanted.property) && row.value.as_ref() == Some(&wanted.value)
    };
    let first = match lookup {
        Lookup::Id(id) => rows.iter().find(|row| row.id == *id)?,
        Lookup::Values(values) => {
            values.iter().find_map(|wanted| rows.iter().find(|row| has(row, wanted)))?
        }
    };
    let of_it = rows.iter().filter(|row| row.id == first.id);
    let mut correlations = Vec::new();
    for row in of_it {
        if let (Some(property), Some(value)) = (&row.property, &row.value) {
            let correlation = Correlation { property: property.clone(), value: value.clone() };
            if !correlations.contains(&correlation) {
                correlations.push(correlation);
            }
        }
    }
    Some(Stored {
        id: first.id,
        revision: first.revision,
        data: first.data.clone(),
        timeouts: first.timeouts.clone(),
        correlations,
    })
}

fn read(saga: &str, lookup: &Lookup) -> Statement {
    let values = match lookup {
        Lookup::Id(id) => {
            return Statement::new(
                "SELECT s.id,s.revision,s.data,s.timeouts,k.property,k.value FROM saga s \
                 LEFT JOIN saga_correlation k ON k.id=s.id WHERE s.id=",
            )
            .id(*id)
            .sql(" AND s.saga=")
            .text(saga);
        }
        Lookup::Values(values) => values,
    };
    let mut statement = Statement::new(
        "SELECT s.id,s.revision,s.data,s.timeouts,k.property,k.value FROM saga_correlation c JOIN saga s ON s.id=c.id \
         LEFT JOIN saga_correlation k ON k.id=c.id WHERE c.saga=",
    )
    .text(saga);
    for (at, Correlation { property, value }) in values.iter().enumerate() {
        statement = statement.sql(if at == 0 { " AND(c.property=" } else { " OR c.property=" });
        statement = statement.text(property).sql(" AND c.value=").text(value);
    }
    statement.sql(")")
}

fn correlations(change: &Change) -> impl Iterator<Item = Statement> + '_ {
    let replaced = change.replaced.iter().map(|correlation| {
        Statement::new("UPDATE saga_correlation SET value=")
            .text(&correlation.value)
            .sql(" WHERE id=")
            .id(change.id)
            .sql(" AND property=")
            .text(&correlation.property)
    });
    let added = change.added.iter().map(|correlation| {
        Statement::new("INSERT INTO saga_correlation(id,saga,property,value)VALUES(")
            .id(change.id)
            .sql(",")
            .text(&change.saga)
            .sql(",")
            .text(&correlation.property)
            .sql(",")
            .text(&correlation.value)
            .sql(")")
    });
    replaced.chain(added)
}

/// The statements for the row of a saga.
struct Write<DB>(PhantomData<DB>);

impl<DB: SagaRows> Write<DB> {
    fn row(&self, change: &Change) -> Statement {
        let Some(read) = change.read else {
            let completed_at = if change.data.is_none() { DB::NOW } else { "NULL" };
            return Statement::new(
                "INSERT INTO saga(id,saga,revision,data,timeouts,last_message_id,completed_at)VALUES(",
            )
            .id(change.id)
            .sql(",")
            .text(&change.saga)
            .sql(",0,")
            .opt_text(change.data.as_deref())
            .sql(",")
            .opt_text(change.timeouts.as_deref())
            .sql(",")
            .id(change.message_id)
            .sql(",")
            .sql(completed_at)
            .sql(")");
        };
        let update = Statement::new("UPDATE saga SET revision=CASE WHEN revision=").int(read);
        self.values(update.sql(" THEN ").int(read + 1).sql(" ELSE -1 END"), change)
    }

    fn replacement(&self, change: &Change) -> Statement {
        // A new saga has no row to replace, and none is ever replaced.
        let read = change.read.unwrap_or(-1);
        let update = Statement::new("UPDATE saga SET revision=").int(read + 1);
        self.values(update, change).sql(" AND revision=").int(read)
    }

    fn values(&self, update: Statement, change: &Change) -> Statement {
        let update = update.sql(",data=").opt_text(change.data.as_deref());
        let update = update.sql(",timeouts=").opt_text(change.timeouts.as_deref());
        let update = update.sql(",last_message_id=").id(change.message_id).sql(",updated_at=").sql(DB::NOW);
        let update = if change.data.is_none() { update.sql(",completed_at=").sql(DB::NOW) } else { update };
        update.sql(" WHERE id=").id(change.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u128, property: &str, value: &str) -> SagaRow {
        SagaRow {
            id: Uuid::from_u128(id),
            revision: 3,
            data: Some("{}".to_owned()),
            timeouts: None,
            property: Some(property.to_owned()),
            value: Some(value.to_owned()),
        }
    }

    fn wanted(property: &str, value: &str) -> Correlation {
        Correlation { property: property.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn the_first_value_that_finds_a_saga_decides() {
        let rows = [row(1, "order", "7"), row(2, "payment", "a"), row(2, "order", "8")];
        let check = |values: &[(&str, &str)], expected: Option<u128>| {
            let lookup = Lookup::Values(values.iter().map(|(p, v)| wanted(p, v)).collect());
            let found = choose(&lookup, &rows);
            assert_eq!(found.map(|stored| stored.id.as_u128()), expected, "{values:?}");
        };
        check(&[("order", "7"), ("payment", "a")], Some(1));
        check(&[("payment", "a"), ("order", "7")], Some(2));
        check(&[("payment", "b"), ("order", "8")], Some(2));
        check(&[("payment", "7")], None);
        let by_id = choose(&Lookup::Id(Uuid::from_u128(2)), &rows).unwrap();
        assert_eq!(by_id.correlations, [wanted("payment", "a"), wanted("order", "8")]);
    }
}
