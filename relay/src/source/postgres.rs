//! PostgreSQL: the window reader.
//!
//! `seq` is taken when a row is inserted, rows appear when their transaction commits, so `seq > last` loses rows. This
//! source remembers the snapshot A of its last read, takes a snapshot B, and reads what is visible in B and was not in A,
//! in the order of `seq`. Every row is read once, as soon as it commits, however long other transactions stay open; and
//! when the writers of a key serialise before they insert, the rows of a key are read in their order (promises L and O).
//!
//! Three things look simpler and are wrong: `seq > last` loses rows, `ORDER BY xid` and several readers with `SKIP LOCKED`
//! invert keys. `tests/acceptance/window_reader.rs` keeps showing it.

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use barid::Doorbell;
use sqlx::{PgPool, postgres::PgConnectOptions};

use super::{
    At, Candidate, Leases, Reader, Source, SourceError, Writer, identifier::Identifier, mapping::Mapping,
};

/// Of every table that is read here, foreign ones included.
macro_rules! columns {
    () => {
        "seq, id, destination, aggregatetype, aggregateid, type, payload, headers::text, tracingspancontext, \
         (date_part('epoch', statement_timestamp() - created_at) * 1000000)::bigint"
    };
}

mod archive;
pub(super) mod doctor;
pub(super) mod explain;
mod foreign;
mod head;
mod lease;
mod listen;
pub(super) mod parked;
mod put_back;
mod reader;
pub(super) mod replay;
mod session;
pub mod snapshot;
pub(super) mod survey;
mod writer;

/// The outbox of a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresSource {
    name: String,
    options: PgConnectOptions,
    channel: Option<String>,
    table: Option<Mapping>,
    late_look: std::time::Duration,
    /// Whether the address has led to a primary since this was made.
    led_to_primary: AtomicBool,
}

impl PostgresSource {
    /// The outbox that `pool` finds by its search path. The pool only lends its address: the source keeps three
    /// connections of its own.
    #[must_use]
    pub fn new(name: impl Into<String>, pool: &PgPool) -> Self {
        let options = (*pool.connect_options()).clone().application_name("barid-relay");
        let late_look = head::LATE_LOOK;
        let led_to_primary = AtomicBool::new(false);
        Self { name: name.into(), options, channel: None, table: None, late_look, led_to_primary }
    }

    /// Reads this table instead of `outbox`. It has the same columns, `xid` excepted: what belongs to a transaction is told by
    /// positions, so `seq` must have a sequence without a cache.
    #[must_use]
    pub fn table(self, table: Identifier) -> Self {
        self.mapped(Mapping::new(table))
    }

    /// As [`PostgresSource::table`], with columns that have other names.
    #[must_use]
    pub fn mapped(mut self, mapping: Mapping) -> Self {
        self.table = Some(mapping);
        self
    }

    /// Of [`PostgresSource::table`]: how often rows are looked for that appeared where nothing can appear any more. Default: 5
    /// minutes.
    #[must_use]
    pub fn late_look(mut self, every: std::time::Duration) -> Self {
        self.late_look = every;
        self
    }

    /// Looks at the outbox at once when somebody notifies `channel`, on one more connection.
    #[must_use]
    pub fn listen_to(mut self, channel: impl Into<String>) -> Self {
        self.channel = Some(channel.into());
        self
    }

    fn at(&self) -> At<'_> {
        At { name: &self.name }
    }

    fn place(&self) -> String {
        let database = self.options.get_database().unwrap_or_else(|| self.options.get_username());
        format!("postgres://{}:{}/{database}", self.options.get_host(), self.options.get_port())
    }
}

#[async_trait]
impl Source for PostgresSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn needs_known(&self) -> bool {
        self.table.is_some()
    }

    async fn leases(&self, by: &Candidate) -> Result<Box<dyn Leases>, SourceError> {
        Ok(Box::new(lease::PostgresLeases::open(self, by).await?))
    }

    async fn reader(&self) -> Result<Box<dyn Reader>, SourceError> {
        Ok(match &self.table {
            None => Box::new(reader::WindowReader::open(self).await?),
            Some(mapping) => Box::new(head::HeadReader::open(self, mapping).await?),
        })
    }

    async fn writer(&self) -> Result<Box<dyn Writer>, SourceError> {
        Ok(Box::new(writer::PostgresWriter::open(self).await?))
    }

    async fn listen(&self, doorbell: &Doorbell) -> SourceError {
        match &self.channel {
            Some(channel) => listen::listen(self, channel, doorbell).await,
            None => std::future::pending().await,
        }
    }
}
