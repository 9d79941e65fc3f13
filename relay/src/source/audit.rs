//! What operators did, as it is written down in the transaction that did it.

use sqlx::{Database, Encode, QueryBuilder, Type};

use super::parked::Words;

/// A row of `relay_audit`.
pub(super) struct Entry<'a> {
    pub(super) who: &'a str,
    pub(super) action: &'static str,
    /// Which messages, in words.
    pub(super) selection: String,
    pub(super) messages: i64,
    pub(super) reason: &'a str,
}

impl Entry<'_> {
    /// The statement that writes it down for one source.
    pub(super) fn insert<DB: Database>(self, words: &Words, source: &str) -> QueryBuilder<DB>
    where
        DB::Arguments: Default,
        String: for<'q> Encode<'q, DB> + Type<DB>,
        i64: for<'q> Encode<'q, DB> + Type<DB>,
    {
        let text =
            "INSERT INTO relay_audit (source, who, action, selection, messages, reason, db_user) VALUES (";
        let mut query = QueryBuilder::new(text);
        query.push_bind(source.to_owned()).push(", ");
        query.push_bind(self.who.to_owned()).push(", ");
        query.push_bind(self.action.to_owned()).push(", ");
        query.push_bind(self.selection).push(", ");
        query.push_bind(self.messages).push(", ");
        query.push_bind(self.reason.to_owned()).push(", ").push(words.db_user).push(")");
        query
    }
}
