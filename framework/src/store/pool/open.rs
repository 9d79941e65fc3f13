//! Opens a pool for each kind of database, with every option that matters written out.

#[cfg(any(feature = "postgres", feature = "mysql"))]
use sqlx::Connection;
use sqlx::{Database, pool::PoolOptions};

#[cfg(any(feature = "postgres", feature = "mysql"))]
use super::is_local;
use super::{ACQUIRE_TIMEOUT, AnyPool, ConnectError, redacted};

#[cfg(feature = "postgres")]
const POSTGRES_REMEDY: &str = "add ?sslmode=verify-full&sslrootcert=FILE to the address with the certificate of its authority, or, where nobody else is on the way, \
     ?sslmode=disable";

#[cfg(feature = "mysql")]
const MYSQL_REMEDY: &str = "add ?ssl-mode=VERIFY_IDENTITY&ssl-ca=FILE to the address with the certificate of its authority, or, where nobody else is on the \
     way, ?ssl-mode=DISABLED";

#[cfg(feature = "postgres")]
pub(super) async fn postgres(url: &str, connections_max: u32) -> Result<AnyPool, ConnectError> {
    use sqlx::postgres::{PgConnectOptions, PgSslMode};

    let mut options: PgConnectOptions = url.parse().map_err(|e| unusable(url, &e))?;
    let here = options.get_socket().is_some() || is_local(options.get_host());
    if !here && !chooses_encryption(url) && std::env::var_os("PGSSLMODE").is_none() {
        options = options.ssl_mode(PgSslMode::VerifyFull);
    }
    // A pool tries again and again until its timeout and then says only that it timed out: a connection says why.
    probe::<sqlx::Postgres>(url, POSTGRES_REMEDY, sqlx::PgConnection::connect_with(&options)).await?;
    Ok(AnyPool::Postgres(pool_options(connections_max).connect_lazy_with(options)))
}

#[cfg(feature = "mysql")]
pub(super) async fn mysql(url: &str, connections_max: u32) -> Result<AnyPool, ConnectError> {
    use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};

    let mut options: MySqlConnectOptions = url.parse().map_err(|e| unusable(url, &e))?;
    let here = options.get_socket().is_some() || is_local(options.get_host());
    if !here && !chooses_encryption(url) {
        options = options.ssl_mode(MySqlSslMode::VerifyIdentity);
    }
    let options = options.timezone(Some("+00:00".to_owned()));
    probe::<sqlx::MySql>(url, MYSQL_REMEDY, sqlx::MySqlConnection::connect_with(&options)).await?;
    Ok(AnyPool::MySql(pool_options(connections_max).connect_lazy_with(options)))
}

#[cfg(feature = "sqlite")]
pub(super) async fn sqlite(url: &str, connections_max: u32) -> Result<AnyPool, ConnectError> {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};

    let (url, synchronous) = take_synchronous(url)?;
    let options: SqliteConnectOptions = url.parse().map_err(|e| unusable(&url, &e))?;
    let in_memory = url.contains(":memory:") || url.contains("mode=memory");
    let read_only = url.contains("mode=ro");
    let mut options = options
        .synchronous(synchronous)
        .foreign_keys(true)
        .busy_timeout(std::time::Duration::from_secs(5))
        .create_if_missing(!read_only);
    if !in_memory && !read_only {
        options = options.journal_mode(SqliteJournalMode::Wal);
    }
    let pool = if in_memory {
        // Connections of a shared cache lock each other's tables and ignore the busy timeout; the last one takes the
        // database with it. Nor is it tested when it is taken: whoever is cancelled during the test closes it.
        pool_options(1).idle_timeout(None).max_lifetime(None).test_before_acquire(false)
    } else {
        pool_options(connections_max)
    };
    let pool = pool.connect_with(options).await.map_err(|error| ConnectError::Address {
        address: redacted(&url),
        cause: format!("{error}; check that the folder exists and can be written"),
    })?;
    Ok(AnyPool::Sqlite(pool))
}

/// Takes `synchronous=..` out of the address: sqlx does not know it.
#[cfg(feature = "sqlite")]
fn take_synchronous(url: &str) -> Result<(String, sqlx::sqlite::SqliteSynchronous), ConnectError> {
    use sqlx::sqlite::SqliteSynchronous;

    let Some((file, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), SqliteSynchronous::Full));
    };
    let mut rest = Vec::new();
    let mut synchronous = SqliteSynchronous::Full;
    for pair in query.split('&') {
        match pair.strip_prefix("synchronous=") {
            Some(value) => synchronous = value.parse().map_err(|e| unusable(url, &e))?,
            None => rest.push(pair),
        }
    }
    let url = if rest.is_empty() { file.to_owned() } else { format!("{file}?{}", rest.join("&")) };
    Ok((url, synchronous))
}

fn pool_options<DB: Database>(connections_max: u32) -> PoolOptions<DB> {
    PoolOptions::new().max_connections(connections_max.max(1)).acquire_timeout(ACQUIRE_TIMEOUT)
}

fn unusable(url: &str, error: &sqlx::Error) -> ConnectError {
    ConnectError::Address { address: redacted(url), cause: error.to_string() }
}

/// Whether the address says how safe the connection shall be. The drivers' own choice, to encrypt when the server offers it, gives the
/// password to anybody who stands in between and offers nothing.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn chooses_encryption(url: &str) -> bool {
    let chosen =
        |parsed: url::Url| parsed.query_pairs().any(|(name, _)| matches!(&*name, "sslmode" | "ssl-mode"));
    url::Url::parse(url).is_ok_and(chosen)
}

/// No encryption, or a certificate that proves nothing: the driver has one kind of error for the first and hides the second in
/// what it read.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn is_untrusted(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(cause) => cause.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// Makes one connection, within a bound, and closes it.
#[cfg(any(feature = "postgres", feature = "mysql"))]
async fn probe<DB: Database>(
    url: &str,
    remedy: &'static str,
    connecting: impl Future<Output = Result<DB::Connection, sqlx::Error>>,
) -> Result<(), ConnectError> {
    let address = redacted(url);
    match tokio::time::timeout(ACQUIRE_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => {
            // The connection has done its work; how its closing went says nothing about the next one.
            let _ = connection.close().await;
            Ok(())
        }
        Ok(Err(error)) if is_going_up_or_down(&error) => {
            Err(ConnectError::Unreachable { address, cause: error.to_string() })
        }
        Ok(Err(error)) if error.as_database_error().is_some() => {
            Err(ConnectError::Refused { address, cause: error.to_string() })
        }
        Ok(Err(error)) if is_untrusted(&error) => {
            Err(ConnectError::Untrusted { address, cause: error.to_string(), remedy })
        }
        Ok(Err(error @ sqlx::Error::Configuration(_))) => {
            Err(ConnectError::Address { address, cause: error.to_string() })
        }
        Ok(Err(error)) => Err(ConnectError::Unreachable { address, cause: error.to_string() }),
        Err(_) => {
            Err(ConnectError::Unreachable { address, cause: format!("no answer within {ACQUIRE_TIMEOUT:?}") })
        }
    }
}

/// The server answers, but only to say that it cannot serve now: starting or stopping (57P), too many connections.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn is_going_up_or_down(error: &sqlx::Error) -> bool {
    let Some(answer) = error.as_database_error() else { return false };
    let code = answer.code().unwrap_or_default();
    // 08004: MariaDB's and MySQL's "too many connections"; 53300: PostgreSQL's.
    code.starts_with("57P") || code == "53300" || code == "08004"
}
