//! MariaDB and MySQL: the head of the table, again and again.
//!
//! There are no snapshots to compare here, so each read looks at the table from its beginning, under READ COMMITTED, and
//! leaves out what the relay still has. That finds every row as soon as it commits, and two rows of a key in their order:
//! when the second is visible, the first is visible too and has the smaller `seq`. The price is that rows in flight are
//! passed over by every read, whose number is bounded by the relay's buffer, and deleted ones that purge could not remove yet,
//! because somebody has an old snapshot. With the privilege PROCESS the open transactions tell from where nothing can appear any
//! more (`source/bound.rs`), and reads begin there.

use async_trait::async_trait;
use sqlx::{MySqlPool, mysql::MySqlConnectOptions};

use super::{At, Candidate, Leases, Reader, Source, SourceError, Writer};

mod archive;
pub(super) mod doctor;
pub(super) mod explain;
mod lease;
pub(super) mod parked;
mod reader;
pub(super) mod replay;
mod session;
pub(super) mod survey;
mod writer;

/// The outbox of a MariaDB or MySQL database.
#[derive(Debug)]
pub struct MySqlSource {
    name: String,
    options: MySqlConnectOptions,
}

impl MySqlSource {
    /// The outbox in the database that `pool` is connected to. The pool only lends its address: the source keeps three
    /// connections of its own.
    #[must_use]
    pub fn new(name: impl Into<String>, pool: &MySqlPool) -> Self {
        Self { name: name.into(), options: (*pool.connect_options()).clone() }
    }

    fn at(&self) -> At<'_> {
        At { name: &self.name }
    }
}

#[async_trait]
impl Source for MySqlSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn needs_known(&self) -> bool {
        true
    }

    async fn leases(&self, by: &Candidate) -> Result<Box<dyn Leases>, SourceError> {
        Ok(Box::new(lease::MySqlLeases::open(self, by).await?))
    }

    async fn reader(&self) -> Result<Box<dyn Reader>, SourceError> {
        Ok(Box::new(reader::HeadReader::open(self).await?))
    }

    async fn writer(&self) -> Result<Box<dyn Writer>, SourceError> {
        Ok(Box::new(writer::MySqlWriter::open(self).await?))
    }
}
