//! The statements about parked messages that are the same on all databases, and what differs in words.
//!
//! Text that is built here is built from the constants of this file; what an operator names is always bound.

use sqlx::{Database, Encode, QueryBuilder, Type};
use uuid::Uuid;

use crate::parked::{Change, Filter, Group, Page, ParkedMessage};

/// How one database says it.
pub(super) struct Words {
    /// A time column in milliseconds since 1970: before and after its name.
    pub(super) ms: (&'static str, &'static str),
    /// So many milliseconds ago: before and after the number.
    pub(super) ago: (&'static str, &'static str),
    /// Milliseconds since 1970 as a time: before and after the number.
    pub(super) at: (&'static str, &'static str),
    /// Now, in milliseconds since 1970.
    pub(super) now: &'static str,
    /// The column `type`.
    pub(super) name: &'static str,
    /// The column `headers` as text.
    pub(super) headers: &'static str,
    /// The length of the payload in bytes.
    pub(super) payload_bytes: &'static str,
    /// The key as one text, or NULL.
    pub(super) key: &'static str,
    /// Who is connected.
    pub(super) db_user: &'static str,
    /// Raises the counter of a source, which is bound once.
    pub(super) release: &'static str,
}

impl Words {
    /// A time column in milliseconds since 1970.
    pub(super) fn millis(&self, column: &str) -> String {
        let (before, after) = self.ms;
        format!("{before}{column}{after}")
    }
}

/// A row of the list.
pub(super) type Row = (
    Uuid,
    i64,
    String,
    String,
    Option<String>,
    String,
    String,
    Option<Vec<u8>>,
    Option<i64>,
    Option<String>,
    i64,
    String,
    i32,
    Option<String>,
    Option<String>,
    i64,
);

/// A row of the groups.
pub(super) type GroupRow = (Option<String>, String, i64, i64, i64, i64, String, Option<String>);

pub(super) fn message(row: Row) -> ParkedMessage {
    ParkedMessage {
        row: crate::lane::RowId { id: row.0, seq: row.1 },
        destination: row.2,
        aggregatetype: row.3,
        aggregateid: row.4,
        name: row.5,
        headers: row.6,
        payload: row.7,
        payload_bytes: row.8,
        tracingspancontext: row.9,
        created_ms: row.10,
        state: row.11,
        attempts: row.12,
        last_error: row.13,
        fingerprint: row.14,
        parked_ms: row.15,
    }
}

pub(super) fn group(row: GroupRow) -> Group {
    let (fingerprint, state, messages, keys, oldest_ms, newest_ms, destination, error) = row;
    Group { fingerprint, state, messages, keys, oldest_ms, newest_ms, destination, error }
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
        /// The list of messages: [`Row`].
        list(self, filter: &Filter, page: &Page) {
            let Words { name, headers, payload_bytes, .. } = self.words;
            let (created, parked) = (self.words.millis("created_at"), self.words.millis("parked_at"));
            let bodies = if page.bodies { "1 = 1" } else { "1 = 0" };
            let text = format!(
                "SELECT id, seq, destination, aggregatetype, aggregateid, {name}, {headers}, CASE WHEN {bodies} THEN payload END, \
                 {payload_bytes}, tracingspancontext, {created}, state, attempts, last_error, fingerprint, {parked} \
                 FROM relay_parked"
            );
            let mut query = self.matching(text, filter);
            if let Some(after) = page.after {
                query.push(" AND seq >= ").push_bind(after.seq);
                query.push(" AND (seq, id) > (").push_bind(after.seq).push(", ").push_bind(after.id).push(")");
            }
            query.push(" ORDER BY seq, id LIMIT ").push_bind(i64::from(page.limit));
            query
        }
    }

    builds! {
        /// The groups: [`GroupRow`].
        groups(self, filter: &Filter, limit: u32) {
            let (oldest, newest) = (self.words.millis("min(parked_at)"), self.words.millis("max(parked_at)"));
            let text = format!(
                "SELECT fingerprint, state, count(*) AS messages, count(DISTINCT {}), {oldest}, {newest}, min(destination), \
                 min(last_error) FROM relay_parked",
                self.words.key
            );
            let mut query = self.matching(text, filter);
            query.push(" GROUP BY fingerprint, state ORDER BY messages DESC, fingerprint LIMIT ");
            query.push_bind(i64::from(limit));
            query
        }
    }

    builds! {
        /// How many messages match, and of how many keys.
        count(self, filter: &Filter) {
            self.matching(format!("SELECT count(*), count(DISTINCT {}) FROM relay_parked", self.words.key), filter)
        }
    }

    builds! {
        /// The change itself.
        change(self, change: &Change) {
            use crate::parked::Action;

            let states = change.action.states();
            let mut filter = change.filter.clone();
            filter.states.retain(|state| states.contains(state));
            let none_left = filter.states.is_empty() && !change.filter.states.is_empty();
            if filter.states.is_empty() {
                filter.states = states.to_vec();
            }
            let text = match change.action {
                Action::Retry => "UPDATE relay_parked SET state = 'behind'",
                Action::Skip => "UPDATE relay_parked SET state = 'skipped'",
                Action::Purge => "DELETE FROM relay_parked",
            };
            let mut query = self.matching(text.to_owned(), &filter);
            if none_left {
                query.push(" AND 1 = 0");
            }
            query
        }
    }

    builds! {
        matching(self, text: String, filter: &Filter) {
            let mut query = QueryBuilder::new(text);
            query.push(" WHERE source = ").push_bind(self.source.to_owned());
            if let Some(id) = filter.id {
                query.push(" AND id = ").push_bind(id);
            }
            for (at, state) in filter.states.iter().enumerate() {
                query.push(if at == 0 { " AND state IN (" } else { ", " }).push_bind(state.as_str().to_owned());
            }
            if !filter.states.is_empty() {
                query.push(")");
            }
            let (aggregatetype, aggregateid) = filter.key.clone().unzip();
            for (column, value) in [
                ("destination", filter.destination.clone()),
                (self.words.name, filter.name.clone()),
                ("aggregatetype", aggregatetype),
                ("aggregateid", aggregateid),
                ("fingerprint", filter.fingerprint.clone()),
            ] {
                if let Some(value) = value {
                    query.push(" AND ").push(column).push(" = ").push_bind(value);
                }
            }
            for (is, age) in [("<", filter.older_than), (">", filter.newer_than)] {
                if let Some(age) = age {
                    let (before, after) = self.words.ago;
                    let ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                    query.push(" AND parked_at ").push(is).push(" ").push(before).push_bind(ms).push(after);
                }
            }
            query
        }
    }
}

/// The store of one database: it differs from the others in its words and in how a transaction begins.
macro_rules! parked_store {
    ($store:ident, $database:ty, $words:expr, $begin:expr) => {
        /// The parked messages in one database.
        pub(in crate::source) struct $store {
            pub(in crate::source) source: String,
            pub(in crate::source) pool: sqlx::Pool<$database>,
        }

        impl $store {
            fn texts(&self) -> crate::source::parked::Texts<'_> {
                crate::source::parked::Texts { words: $words, source: &self.source }
            }

            async fn bounded<T>(
                &self,
                doing: &'static str,
                call: impl Future<Output = Result<T, sqlx::Error>>,
            ) -> Result<T, crate::source::SourceError> {
                crate::source::At { name: &self.source }.within(crate::parked::PATIENCE, doing, call).await
            }

            /// Dropped before its COMMIT, the transaction rolls back.
            async fn changed(&self, change: &crate::parked::Change) -> Result<i64, sqlx::Error> {
                let mut transaction = $begin(&self.pool).await?;
                let mut statement = self.texts().change::<$database>(change);
                let done = statement.build().execute(transaction.connection()).await?;
                let messages = i64::try_from(done.rows_affected()).unwrap_or(i64::MAX);
                if messages == 0 {
                    transaction.rollback().await?;
                    return Ok(0);
                }
                let entry = crate::source::audit::Entry {
                    who: &change.who,
                    action: change.action.as_str(),
                    selection: change.filter.to_string(),
                    messages,
                    reason: &change.reason,
                };
                let mut audit = entry.insert::<$database>($words, &self.source);
                audit.build().execute(transaction.connection()).await?;
                if change.releases() {
                    // Last, so that two operators wait for one another as briefly as possible.
                    let release = sqlx::query($words.release).bind(&self.source);
                    release.execute(transaction.connection()).await?;
                }
                let committed = transaction.commit().await;
                committed.map_err(|error| sqlx::Error::Protocol(format!("{error}; relay_audit tells")))?;
                Ok(messages)
            }
        }

        #[async_trait::async_trait]
        impl crate::parked::ParkedStore for $store {
            async fn list(
                &self,
                filter: &crate::parked::Filter,
                page: &crate::parked::Page,
            ) -> Result<Vec<crate::parked::ParkedMessage>, crate::source::SourceError> {
                let mut query = self.texts().list::<$database>(filter, page);
                let rows = query.build_query_as().fetch_all(&self.pool);
                let rows = self.bounded("listing parked messages", rows).await?;
                Ok(rows.into_iter().map(crate::source::parked::message).collect())
            }

            async fn groups(
                &self,
                filter: &crate::parked::Filter,
                limit: u32,
            ) -> Result<Vec<crate::parked::Group>, crate::source::SourceError> {
                let mut query = self.texts().groups::<$database>(filter, limit);
                let rows = query.build_query_as().fetch_all(&self.pool);
                let rows = self.bounded("grouping parked messages", rows).await?;
                Ok(rows.into_iter().map(crate::source::parked::group).collect())
            }

            async fn count(
                &self,
                filter: &crate::parked::Filter,
            ) -> Result<crate::parked::Count, crate::source::SourceError> {
                let mut query = self.texts().count::<$database>(filter);
                let count = query.build_query_as().fetch_one(&self.pool);
                let (messages, keys) = self.bounded("counting parked messages", count).await?;
                Ok(crate::parked::Count { messages, keys })
            }

            async fn change(
                &self,
                change: &crate::parked::Change,
            ) -> Result<i64, crate::source::SourceError> {
                self.bounded("changing parked messages", self.changed(change)).await
            }
        }
    };
}
pub(super) use parked_store;
