//! Where a message is, and what it waits for: what `barid-relay explain` is made of.
//!
//! A row is in the outbox, parked, or in the archive, and its database says which, in one statement, so that a row that moves
//! meanwhile is seen once. No relay has to run.

use async_trait::async_trait;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{parked::json::time, source::SourceError};

/// Rows in front of a message that are counted; beyond, there are at least so many.
pub const COUNTED_ROWS_MAX: i64 = 10_000;

/// Rows of one id that are looked at: ids are made by applications, and nothing keeps one from using the same one twice.
pub const PLACES_MAX: i64 = 20;

/// The tables of one source.
#[async_trait]
pub trait Finder: Send + Sync {
    /// Every row with this id. The outbox has no index of ids: this reads all of it.
    ///
    /// # Errors
    /// When the database fails.
    async fn find(&self, id: Uuid) -> Result<Vec<Place>, SourceError>;

    /// What comes before a row of the outbox, or before a parked one.
    ///
    /// # Errors
    /// When the database fails.
    async fn before(&self, row: &Place) -> Result<Before, SourceError>;
}

/// A row, and where it is. Times are milliseconds since 1970, by the database's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which table.
    pub table: Table,
    /// Its position in the outbox, now or once.
    pub seq: i64,
    /// `queue:NAME` or `topic:NAME`, or whatever else somebody wrote there.
    pub destination: String,
    /// The key: `aggregatetype`
    pub aggregatetype: String,
    /// The key: `aggregateid`. Without one it waits for nobody.
    pub aggregateid: Option<String>,
    /// The message name.
    pub name: String,
    /// The length of its body; none for a tombstone.
    pub payload_bytes: Option<i64>,
    /// When it was written.
    pub created_ms: i64,
    /// Of a parked row `poison`, `behind` or `skipped`.
    pub state: Option<String>,
    /// Of a parked row what went wrong.
    pub error: Option<String>,
    /// When it was parked or published.
    pub moved_ms: Option<i64>,
}

/// Where a row can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// In the outbox: it was not published, or its confirm was not written down yet.
    Waiting,
    /// In `relay_parked`.
    Parked,
    /// In `relay_archive`: it was published.
    Archived,
}

impl Table {
    /// All of them, in the order in which a row meets them.
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Parked, Self::Archived];

    /// As programs read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Parked => "parked",
            Self::Archived => "archived",
        }
    }
}

impl Place {
    /// Its ordering key as AGGREGATETYPE/AGGREGATEID; none without order.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        self.aggregateid.as_ref().map(|id| format!("{}/{id}", self.aggregatetype))
    }
}

/// What comes before a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Rows of the outbox with smaller positions; counted up to [`COUNTED_ROWS_MAX`].
    pub rows: i64,
    /// Those of its key among them; counted likewise.
    pub rows_of_key: i64,
    /// The poison message that holds its key.
    pub held_by: Option<Holding>,
}

/// A poison message that holds a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Its id.
    pub id: Uuid,
    /// Where it was in the outbox.
    pub seq: i64,
    /// What went wrong.
    pub error: Option<String>,
}

/// What there is to say about one row.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The source.
    pub source: String,
    /// The row.
    pub place: Place,
    /// What comes before it; nothing before one that was published.
    pub before: Before,
    /// The route that its destination has in the configuration, and the sink of that.
    pub route: Option<(String, String)>,
    /// What it waits for, in words; nothing once it was published.
    pub waits_for: Vec<String>,
}

/// As programs read it.
#[must_use]
pub fn json(id: Uuid, all: &[Explained]) -> Value {
    json!({"id": id.to_string(), "places": all.iter().map(one).collect::<Vec<_>>()})
}

fn one(explained: &Explained) -> Value {
    let Explained { source, place, before, route, waits_for } = explained;
    let held_by = before.held_by.as_ref();
    let held_by = held_by.map(|by| json!({"id": by.id.to_string(), "seq": by.seq, "error": by.error}));
    let mut value = json!({
        "source": source, "place": place.table.as_str(), "seq": place.seq, "destination": place.destination,
        "aggregatetype": place.aggregatetype, "aggregateid": place.aggregateid, "type": place.name,
        "payload_bytes": place.payload_bytes, "created_at": time(place.created_ms),
        "route": route.as_ref().map(|(destination, sink)| json!({"destination": destination, "sink": sink})),
    });
    let moved = place.moved_ms.map(time);
    match place.table {
        Table::Waiting => {
            value["before"] = json!({"messages": before.rows, "of_its_key": before.rows_of_key});
        }
        Table::Parked => {
            value["state"] = json!(place.state);
            value["error"] = json!(place.error);
            value["parked_at"] = json!(moved);
        }
        Table::Archived => value["published_at"] = json!(moved),
    }
    if place.table != Table::Archived {
        value["held_by"] = json!(held_by);
        value["waits_for"] = json!(waits_for);
    }
    value
}
