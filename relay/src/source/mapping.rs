//! Which column of a table of somebody else is which of the outbox's.
//!
//! A [`Mapping`] is what the configuration says; whether the table has such columns is found out when it is opened. Columns that
//! nobody names are looked for under the outbox's own names, or those of a preset.

use std::collections::BTreeMap;

use super::identifier::Identifier;

/// Columns beyond the outbox's that may travel as headers: each is a part of every row that is read.
pub const EXTRA_COLUMNS_MAX: usize = 32;

/// What a column of the outbox is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The position: a `bigint` with a sequence.
    Seq,
    /// The message id: a `uuid`.
    Id,
    /// When the row was written. Without it rows are as old as their reading.
    CreatedAt,
    /// `queue:NAME` or `topic:NAME`. Without it a row goes to the topic of its aggregate type.
    Destination,
    /// First half of the ordering key.
    AggregateType,
    /// Second half of the ordering key; null is unordered.
    AggregateId,
    /// The message name.
    Type,
    /// The body: `bytea`, text or JSON.
    Payload,
    /// Headers, as a JSON object of strings. Without it there are none.
    Headers,
    /// W3C trace context. Without it there is none.
    TracingSpanContext,
}

impl Role {
    /// All of them, in the order of the outbox's columns.
    pub const ALL: [Self; 10] = [
        Self::Seq,
        Self::Id,
        Self::CreatedAt,
        Self::Destination,
        Self::AggregateType,
        Self::AggregateId,
        Self::Type,
        Self::Payload,
        Self::Headers,
        Self::TracingSpanContext,
    ];

    /// The outbox's own name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Seq => "seq",
            Self::Id => "id",
            Self::CreatedAt => "created_at",
            Self::Destination => "destination",
            Self::AggregateType => "aggregatetype",
            Self::AggregateId => "aggregateid",
            Self::Type => "type",
            Self::Payload => "payload",
            Self::Headers => "headers",
            Self::TracingSpanContext => "tracingspancontext",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether a table without it cannot be read.
    #[must_use]
    pub fn is_required(self) -> bool {
        !matches!(self, Self::CreatedAt | Self::Destination | Self::Headers | Self::TracingSpanContext)
    }
}

/// The layout of somebody else's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Debezium's outbox: `outboxevent` with `id`, `aggregatetype`, `aggregateid`, `type`, `payload`, and often `timestamp` and
    /// `tracingspancontext`. A column `seq` has to be added.
    Debezium,
}

impl Preset {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 1] = [("debezium", Self::Debezium)];

    /// The preset of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find_map(|(known, preset)| (known == name).then_some(preset))
    }

    /// The table, unless the configuration names another one.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::Debezium => "outboxevent",
        }
    }

    fn column(self, role: Role) -> &'static str {
        match (self, role) {
            (Self::Debezium, Role::CreatedAt) => "timestamp",
            _ => role.name(),
        }
    }
}

/// A column that somebody named, and where: `relay.toml:7: columns.payload`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The column.
    pub column: Identifier,
    /// Where, for messages.
    pub place: String,
}

/// A table, and what its columns are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The table.
    pub table: Identifier,
    /// Where it is named, for messages: `relay.toml:3: table`.
    pub place: String,
    /// Whose layout it has.
    pub preset: Option<Preset>,
    /// Columns that have other names.
    pub columns: BTreeMap<Role, Named>,
    /// Columns beyond the outbox's that travel as headers of their name.
    pub extra: Vec<Named>,
}

impl Mapping {
    /// A table with the outbox's own names.
    #[must_use]
    pub fn new(table: Identifier) -> Self {
        Self { table, place: "table".to_owned(), preset: None, columns: BTreeMap::new(), extra: Vec::new() }
    }

    /// The name of the column for `role`, whether or not the table has it.
    #[must_use]
    pub fn name_of(&self, role: Role) -> &str {
        match self.columns.get(&role) {
            Some(named) => named.column.as_str(),
            None => self.preset.map_or(role.name(), |preset| preset.column(role)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_called_as_it_was_named_or_by_the_preset_or_as_ours() {
        let mut mapping = Mapping::new("events".parse().unwrap());
        assert_eq!(mapping.name_of(Role::CreatedAt), "created_at");
        mapping.preset = Some(Preset::Debezium);
        assert_eq!(
            (mapping.name_of(Role::CreatedAt), mapping.name_of(Role::Payload)),
            ("timestamp", "payload")
        );
        let named = Named { column: "at".parse().unwrap(), place: String::new() };
        mapping.columns.insert(Role::CreatedAt, named);
        assert_eq!(mapping.name_of(Role::CreatedAt), "at");
        for role in Role::ALL {
            assert_eq!(Role::named(role.name()), Some(role));
        }
    }
}
