//! The statements about archived messages that are the same on all databases.
//!
//! Text that is built here is built from constants, the name of a table that was checked, and integers; what an operator names is
//! always bound.

use std::fmt::Write as _;

use sqlx::{Database, Encode, QueryBuilder, Type};
use uuid::Uuid;

use super::{ARCHIVE_PAGE, parked::Words};
use crate::archive::{Archived, Selection};

/// Where messages go back to. The texts are the relay's own, or identifiers in quotes.
pub(super) struct Home {
    pub(super) table: String,
    /// All columns but the position.
    pub(super) columns: String,
    /// What goes into them, from the columns of `relay_archive`.
    pub(super) values: String,
}

impl Home {
    /// The outbox: a message is a new row there, written now.
    pub(super) fn outbox(words: &Words) -> Self {
        let columns = [
            "id, destination, aggregatetype, aggregateid",
            words.name,
            "payload, headers, tracingspancontext",
        ];
        let columns = columns.join(", ");
        Self { table: "outbox".to_owned(), values: columns.clone(), columns }
    }
}

/// A row of the count: messages, keys, first and last position, first and last time.
pub(super) type Row = (i64, i64, i64, i64, i64, i64);

pub(super) fn archived((messages, keys, first, last, from_ms, until_ms): Row) -> Archived {
    Archived { messages, keys, first, last, from_ms, until_ms }
}

/// Builds statements for one source.
pub(super) struct Texts<'a> {
    pub(super) words: &'static Words,
    pub(super) source: &'a str,
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
        /// What is selected: [`Row`].
        count(self, selection: &Selection) {
            let (words, published) = (self.words, |which: &str| self.words.millis(&format!("{which}(published_at)")));
            let (from, until) = (published("min"), published("max"));
            self.matching(format!(
                "SELECT count(*), count(DISTINCT {}), coalesce(min(position), 0), coalesce(max(position), 0), \
                 coalesce({from}, 0), coalesce({until}, 0) FROM relay_archive", words.key
            ), selection)
        }
    }

    builds! {
        /// The positions of a page of what is selected, from one position to another.
        page(self, selection: &Selection, after: i64, last: i64) {
            let mut query = self.matching("SELECT position FROM relay_archive".to_owned(), selection);
            query.push(" AND position > ").push_bind(after).push(" AND position <= ").push_bind(last);
            query.push(" ORDER BY position LIMIT ").push_bind(ARCHIVE_PAGE);
            query
        }
    }

    builds! {
        matching(self, text: String, selection: &Selection) {
            let mut query = QueryBuilder::new(text);
            query.push(" WHERE source = ").push_bind(self.source.to_owned());
            if let Some(id) = selection.id {
                query.push(" AND id = ").push_bind(id);
            }
            let (aggregatetype, aggregateid) = selection.key.clone().unzip();
            for (column, value) in [
                ("aggregatetype", aggregatetype),
                ("aggregateid", aggregateid),
                ("destination", selection.destination.clone()),
                (self.words.name, selection.name.clone()),
            ] {
                if let Some(value) = value {
                    query.push(" AND ").push(column).push(" = ").push_bind(value);
                }
            }
            for (is, ms) in [(">=", selection.from_ms), ("<", selection.until_ms)] {
                if let Some(ms) = ms {
                    let (before, after) = self.words.at;
                    query.push(" AND published_at ").push(is).push(" ").push(before).push_bind(ms).push(after);
                }
            }
            query
        }
    }

    /// Copies these rows into the outbox, in their order, and removes them here.
    pub(super) fn moves(home: &Home, positions: &[i64]) -> [String; 2] {
        let Home { table, columns, values } = home;
        let these = positions.iter().fold(String::new(), |mut text, position| {
            let comma = if text.is_empty() { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = write!(text, "{comma}{position}");
            text
        });
        let these = format!("FROM relay_archive WHERE position IN ({these})");
        [
            format!("INSERT INTO {table} ({columns}) SELECT {values} {these} ORDER BY position"),
            format!("DELETE {these}"),
        ]
    }
}

/// The store of one database: it differs from the others in its words and in how a transaction begins.
macro_rules! archive_store {
    ($store:ident, $database:ty, $words:expr, $begin:expr) => {
        /// The archived messages in one database.
        pub(in crate::source) struct $store {
            pub(in crate::source) source: String,
            pub(in crate::source) pool: sqlx::Pool<$database>,
            pub(in crate::source) home: crate::source::replay::Home,
        }

        impl $store {
            fn texts(&self) -> crate::source::replay::Texts<'_> {
                crate::source::replay::Texts { words: $words, source: &self.source }
            }

            async fn bounded<T>(
                &self,
                doing: &'static str,
                call: impl Future<Output = Result<T, sqlx::Error>>,
            ) -> Result<T, crate::source::SourceError> {
                crate::source::At { name: &self.source }.within(crate::parked::PATIENCE, doing, call).await
            }

            /// Dropped before its COMMIT, the transaction rolls back. `Err` says whether it is worth looking again: somebody
            /// else took some of them meanwhile.
            async fn moved(
                &self,
                replay: &crate::archive::Replay,
                after: i64,
                last: i64,
            ) -> Result<Result<Option<crate::archive::Moved>, ()>, sqlx::Error> {
                let mut transaction = $begin(&self.pool).await?;
                let mut page = self.texts().page::<$database>(&replay.selection, after, last);
                let page: Vec<i64> = page.build_query_scalar().fetch_all(transaction.connection()).await?;
                let Some(after) = page.last().copied() else {
                    transaction.rollback().await?;
                    return Ok(Ok(None));
                };
                let mut counts = [0, 0];
                for (text, count) in
                    crate::source::replay::Texts::moves(&self.home, &page).into_iter().zip(&mut counts)
                {
                    // Its text is another one each time: the server need not keep it.
                    let statement = sqlx::query(sqlx::AssertSqlSafe(text)).persistent(false);
                    *count = statement.execute(transaction.connection()).await?.rows_affected();
                }
                if counts[0] != counts[1] || counts[0] == 0 {
                    transaction.rollback().await?;
                    return Ok(Err(()));
                }
                let messages = i64::try_from(counts[0]).unwrap_or(i64::MAX);
                let entry = crate::source::audit::Entry {
                    who: &replay.who,
                    action: "replay",
                    selection: replay.selection.to_string(),
                    messages,
                    reason: &replay.reason,
                };
                let mut audit = entry.insert::<$database>($words, &self.source);
                audit.build().execute(transaction.connection()).await?;
                let committed = transaction.commit().await;
                committed.map_err(|error| sqlx::Error::Protocol(format!("{error}; relay_audit tells")))?;
                Ok(Ok(Some(crate::archive::Moved { messages, after })))
            }
        }

        #[async_trait::async_trait]
        impl crate::archive::ArchiveStore for $store {
            async fn now_ms(&self) -> Result<i64, crate::source::SourceError> {
                let now = format!("SELECT {}", $words.now);
                let now = sqlx::query_scalar(sqlx::AssertSqlSafe(now)).fetch_one(&self.pool);
                self.bounded("asking for the time", now).await
            }

            async fn count(
                &self,
                selection: &crate::archive::Selection,
            ) -> Result<crate::archive::Archived, crate::source::SourceError> {
                let mut query = self.texts().count::<$database>(selection);
                let count = query.build_query_as().fetch_one(&self.pool);
                self.bounded("counting archived messages", count).await.map(crate::source::replay::archived)
            }

            async fn replay(
                &self,
                replay: &crate::archive::Replay,
                after: i64,
                last: i64,
            ) -> Result<Option<crate::archive::Moved>, crate::source::SourceError> {
                let moved = async {
                    loop {
                        if let Ok(moved) = self.moved(replay, after, last).await? {
                            return Ok(moved);
                        }
                    }
                };
                self.bounded("replaying archived messages", moved).await
            }
        }
    };
}
pub(super) use archive_store;
