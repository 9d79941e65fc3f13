//! Hears NOTIFY, for programs that ring no doorbell.
//!
//! A notification is a hint and nothing more. The relay never sends one and the framework neither: inside a business transaction
//! NOTIFY takes a lock of the whole cluster until the commit. `migrations/optional/postgres_notify.sql` has a function to call after it.

use std::time::Duration;

use barid::Doorbell;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::time::timeout;

use super::PostgresSource;
use crate::source::SourceError;

/// After this silence the connection is asked whether it still lives: a peer that vanished says nothing either.
const PROBE: Duration = Duration::from_secs(60);

/// Rings `doorbell` for what comes on `channel`, until the connection is lost.
pub(super) async fn listen(source: &PostgresSource, channel: &str, doorbell: &Doorbell) -> SourceError {
    match hear(source, channel, doorbell).await {
        Err(error) => error,
        Ok(()) => {
            let cause = sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into());
            SourceError::Database { source_name: source.name.clone(), doing: "listening", cause }
        }
    }
}

async fn hear(source: &PostgresSource, channel: &str, doorbell: &Doorbell) -> Result<(), SourceError> {
    let at = source.at();
    // The listener wants a pool; it has this one connection of it for good.
    let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
    let pool = pool.connect_lazy_with(source.options.clone());
    let mut listener = at.bounded("connecting to listen", PgListener::connect_with(&pool)).await?;
    listener.eager_reconnect(false);
    listener.ignore_pool_close_event(true);
    at.bounded("listening", listener.listen(channel)).await?;
    tracing::debug!(source = source.name, channel, "listening for notifications");
    // What came before that was not heard.
    doorbell.ring();
    loop {
        match timeout(PROBE, listener.try_recv()).await {
            Ok(heard) => match at.bounded("listening", async { heard }).await? {
                Some(_) => doorbell.ring(),
                None => return Ok(()),
            },
            Err(_) => {
                let probe = sqlx::query("SELECT 1").execute(&mut listener);
                at.bounded("probing the listening connection", probe).await?;
            }
        }
    }
}
