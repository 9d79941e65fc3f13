//! The statements that find a message, the same on all databases.
//!
//! Text that is built here is built from constants and the name of a table that was checked; ids and keys are always bound.

use sqlx::{Database, Encode, QueryBuilder, Type};
use uuid::Uuid;

use super::parked::Words;
use crate::explain::{COUNTED_ROWS_MAX, Holding, PLACES_MAX, Place, Table};

/// A found row: the table, `seq`, destination, key, name, bytes, times, and of a parked one its state and error.
pub(super) type Row = (
    i32,
    i64,
    String,
    String,
    Option<String>,
    String,
    Option<i64>,
    i64,
    Option<String>,
    Option<String>,
    Option<i64>,
);

pub(super) fn place(row: Row) -> Option<Place> {
    Some(Place {
        table: *Table::ALL.get(usize::try_from(row.0).ok()?)?,
        seq: row.1,
        destination: row.2,
        aggregatetype: row.3,
        aggregateid: row.4,
        name: row.5,
        payload_bytes: row.6,
        created_ms: row.7,
        state: row.8,
        error: row.9,
        moved_ms: row.10,
    })
}

pub(super) fn holding((id, seq, error): (Uuid, i64, Option<String>)) -> Holding {
    Holding { id, seq, error }
}

/// Builds statements for one source.
pub(super) struct Texts<'a> {
    pub(super) words: &'static Words,
    pub(super) source: &'a str,
    pub(super) outbox: &'a str,
}

/// What can be bound on all three.
macro_rules! builds {
    ($(#[$doc:meta])* $name:ident($self:ident, $($argument:ident: $type:ty),*) $body:block) => {
        $(#[$doc])*
        pub(super) fn $name<DB: Database>(&$self, $($argument: $type),*) -> QueryBuilder<DB>
        where
            DB::Arguments: Default,
            String: for<'q> Encode<'q, DB> + Type<DB>,
            i64: for<'q> Encode<'q, DB> + Type<DB>,
            Uuid: for<'q> Encode<'q, DB> + Type<DB>,
        $body
    };
}

impl Texts<'_> {
    builds! {
        /// One statement, and so one view of all tables: [`Row`]. The tables are numbered as in [`Table::ALL`].
        find(self, id: Uuid) {
            let Words { name, payload_bytes, .. } = self.words;
            let created = self.words.millis("created_at");
            let columns = format!(
                "seq, destination, aggregatetype, aggregateid, {name}, {payload_bytes}, {created}"
            );
            let (parked, published) = (self.words.millis("parked_at"), self.words.millis("published_at"));
            let mut query =
                QueryBuilder::new(format!("SELECT 0, {columns}, NULL, NULL, NULL FROM {} WHERE id = ", self.outbox));
            query.push_bind(id);
            for (place, moved) in [
                (1, format!("state, last_error, {parked} FROM relay_parked")),
                (2, format!("NULL, NULL, {published} FROM relay_archive")),
            ] {
                query.push(format!(" UNION ALL SELECT {place}, {columns}, {moved} WHERE source = "));
                query.push_bind(self.source.to_owned()).push(" AND id = ").push_bind(id);
            }
            query.push(format!(" ORDER BY 1, 2 LIMIT {PLACES_MAX}"));
            query
        }
    }

    builds! {
        /// How many rows of the outbox come before a position; those of a key, where one is given.
        before(self, seq: i64, key: Option<(&str, &str)>) {
            let mut query =
                QueryBuilder::new(format!("SELECT count(*) FROM (SELECT 1 AS one FROM {} WHERE seq < ", self.outbox));
            query.push_bind(seq);
            if let Some((aggregatetype, aggregateid)) = key {
                query.push(" AND aggregatetype = ").push_bind(aggregatetype.to_owned());
                query.push(" AND aggregateid = ").push_bind(aggregateid.to_owned());
            }
            query.push(format!(" LIMIT {COUNTED_ROWS_MAX}) t"));
            query
        }
    }

    builds! {
        /// The first poison message that holds a key from before a position.
        held_by(self, seq: i64, key: (&str, &str)) {
            let mut query = QueryBuilder::new("SELECT id, seq, last_error FROM relay_parked WHERE source = ");
            query.push_bind(self.source.to_owned()).push(" AND state = 'poison' AND aggregatetype = ");
            query.push_bind(key.0.to_owned()).push(" AND aggregateid = ").push_bind(key.1.to_owned());
            query.push(" AND seq < ").push_bind(seq).push(" ORDER BY seq LIMIT 1");
            query
        }
    }
}

/// The finder of one database: it differs from the others in its words.
macro_rules! finder {
    ($finder:ident, $database:ty, $words:expr) => {
        /// The tables in one database.
        pub(in crate::source) struct $finder {
            pub(in crate::source) source: String,
            pub(in crate::source) pool: sqlx::Pool<$database>,
            /// What is read as the outbox.
            pub(in crate::source) outbox: String,
        }

        impl $finder {
            fn texts(&self) -> crate::source::explain::Texts<'_> {
                let (source, outbox) = (&self.source, &self.outbox);
                crate::source::explain::Texts { words: $words, source, outbox }
            }

            async fn bounded<T>(
                &self,
                doing: &'static str,
                call: impl Future<Output = Result<T, sqlx::Error>>,
            ) -> Result<T, crate::source::SourceError> {
                crate::source::At { name: &self.source }.within(crate::parked::PATIENCE, doing, call).await
            }

            async fn count(
                &self,
                seq: i64,
                key: Option<(&str, &str)>,
            ) -> Result<i64, crate::source::SourceError> {
                let mut query = self.texts().before::<$database>(seq, key);
                let count = query.build_query_scalar().fetch_one(&self.pool);
                self.bounded("counting what comes before a message", count).await
            }
        }

        #[async_trait::async_trait]
        impl crate::explain::Finder for $finder {
            async fn find(
                &self,
                id: uuid::Uuid,
            ) -> Result<Vec<crate::explain::Place>, crate::source::SourceError> {
                let mut query = self.texts().find::<$database>(id);
                let rows = query.build_query_as().fetch_all(&self.pool);
                let rows = self.bounded("looking for a message", rows).await?;
                Ok(rows.into_iter().filter_map(crate::source::explain::place).collect())
            }

            async fn before(
                &self,
                row: &crate::explain::Place,
            ) -> Result<crate::explain::Before, crate::source::SourceError> {
                let mut before = crate::explain::Before::default();
                let key = row.aggregateid.as_deref().map(|id| (row.aggregatetype.as_str(), id));
                if row.table == crate::explain::Table::Waiting {
                    before.rows = self.count(row.seq, None).await?;
                    before.rows_of_key = match key {
                        Some(key) => self.count(row.seq, Some(key)).await?,
                        None => 0,
                    };
                }
                if let Some(key) = key {
                    let mut query = self.texts().held_by::<$database>(row.seq, key);
                    let held = query.build_query_as().fetch_optional(&self.pool);
                    let held = self.bounded("looking who holds a key", held).await?;
                    before.held_by = held.map(crate::source::explain::holding);
                }
                Ok(before)
            }
        }
    };
}
pub(super) use finder;
