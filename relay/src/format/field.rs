//! What a format can take out of a row by name.

use std::borrow::Cow;

use barid::transport::OutgoingRow;

/// A column of the outbox, or a header: columns of foreign tables that the outbox has not come as headers of their name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Id,
    AggregateType,
    AggregateId,
    Type,
    Header(String),
}

impl Field {
    /// The field called `name`.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "id" => Self::Id,
            "aggregatetype" => Self::AggregateType,
            "aggregateid" => Self::AggregateId,
            "type" => Self::Type,
            other => Self::Header(other.to_owned()),
        }
    }

    /// What the row has there; a header that is missing is null.
    pub(super) fn of<'a>(&self, row: &'a OutgoingRow) -> Option<Cow<'a, str>> {
        match self {
            Self::Id => Some(row.id.to_string().into()),
            Self::AggregateType => Some(row.aggregatetype.as_str().into()),
            Self::AggregateId => row.aggregateid.as_deref().map(Cow::from),
            Self::Type => Some(row.name.as_str().into()),
            Self::Header(name) => row.headers.get(name).map(Cow::from),
        }
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Id => "id",
            Self::AggregateType => "aggregatetype",
            Self::AggregateId => "aggregateid",
            Self::Type => "type",
            Self::Header(name) => name,
        }
    }
}
