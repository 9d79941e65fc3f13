//! A connection pool of whichever database the address names.
//!
//! The relay and the SQL queue work with the database that the configuration names, so the choice is made at run time. What
//! is written for one database takes that database's pool and needs none of this.

use std::{fmt, time::Duration};

use url::Url;

mod open;

/// A pool on one of the databases that this program was compiled for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AnyPool {
    /// PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgPool),
    /// MariaDB or MySQL.
    #[cfg(feature = "mysql")]
    MySql(sqlx::MySqlPool),
    /// SQLite.
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::SqlitePool),
}

/// Which SQL a database speaks. MariaDB and MySQL are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// MariaDB or MySQL.
    MySql,
    /// SQLite.
    Sqlite,
}

/// How long a caller waits for a connection of a pool that [`AnyPool::connect`] opened.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a database could not be opened. No variant ever shows a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address has a scheme that names no database.
    #[error(
        "database address {address:?} does not begin with postgres://, mysql://, mariadb:// or sqlite:; \
         write for instance postgres://user:password@host/database"
    )]
    Scheme {
        /// The address without its password.
        address: String,
    },
    /// The driver of that database was not compiled in. Build with the feature.
    #[error(
        "no driver for {scheme:?} in this program: it was built without the cargo feature {feature:?}; \
         build it with --features {feature}"
    )]
    Driver {
        /// What the address begins with.
        scheme: String,
        /// The cargo feature that is missing.
        feature: &'static str,
    },
    /// The address or one of its parameters cannot be understood.
    #[error("database address {address:?} cannot be used: {cause}")]
    Address {
        /// The address without its password.
        address: String,
        /// Why not.
        cause: String,
    },
    /// The database refused user, password or database name. Check them.
    #[error("{address} refused the connection: {cause}; check user, password and database name")]
    Refused {
        /// The address without its password.
        address: String,
        /// What the database said.
        cause: String,
    },
    /// Nobody can be sure that it is this database that answers, or nobody may listen in: it has no encryption, or a certificate of
    /// another name or of an authority that is not trusted. Say whom to trust, or do without, in the address.
    #[error("no safe connection to {address}: {cause}; {remedy}")]
    Untrusted {
        /// The address without its password.
        address: String,
        /// What is wrong.
        cause: String,
        /// What to write into the address.
        remedy: &'static str,
    },
    /// Nobody answers there. Check host and port, and that the database runs.
    #[error("cannot reach {address}: {cause}; check host and port, and that the database runs")]
    Unreachable {
        /// The address without its password.
        address: String,
        /// What the driver said.
        cause: String,
    },
}

impl ConnectError {
    /// Whether trying again later can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

impl AnyPool {
    /// Opens the database that `url` names, with at most `connections_max` connections, and makes one to see that it works.
    ///
    /// A PostgreSQL, MariaDB or MySQL on another machine has to be encrypted and to prove its name, unless the address says how it shall
    /// be: `sslmode=` and `sslrootcert=FILE` on PostgreSQL, `ssl-mode=` and `ssl-ca=FILE` on the others. The public authorities are
    /// trusted, and whom the file names.
    ///
    /// SQLite files are made when they do not exist, and opened with a write-ahead log, `synchronous = FULL` (or what
    /// `?synchronous=normal` says), foreign keys, and a busy timeout of 5 seconds. An in-memory database has one connection,
    /// which is never closed. MariaDB and MySQL sessions work in UTC.
    ///
    /// # Errors
    /// [`ConnectError`]; `is_transient` says whether trying again can help.
    pub async fn connect(url: &str, connections_max: u32) -> Result<Self, ConnectError> {
        let scheme = url.split([':', '/']).next().unwrap_or_default();
        match scheme {
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => open::postgres(url, connections_max).await,
            #[cfg(not(feature = "postgres"))]
            "postgres" | "postgresql" => {
                Err(ConnectError::Driver { scheme: scheme.to_owned(), feature: "postgres" })
            }
            #[cfg(feature = "mysql")]
            "mysql" | "mariadb" => open::mysql(url, connections_max).await,
            #[cfg(not(feature = "mysql"))]
            "mysql" | "mariadb" => Err(ConnectError::Driver { scheme: scheme.to_owned(), feature: "mysql" }),
            #[cfg(feature = "sqlite")]
            "sqlite" => open::sqlite(url, connections_max).await,
            #[cfg(not(feature = "sqlite"))]
            "sqlite" => Err(ConnectError::Driver { scheme: scheme.to_owned(), feature: "sqlite" }),
            _ => Err(ConnectError::Scheme { address: redacted(url) }),
        }
    }

    /// Which SQL it speaks.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => Dialect::Postgres,
            #[cfg(feature = "mysql")]
            Self::MySql(_) => Dialect::MySql,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Where the database is, without user and password: for errors and logs.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => {
                let to = pool.connect_options();
                let database = to.get_database().unwrap_or_else(|| to.get_username());
                format!("postgres://{}:{}/{database}", to.get_host(), to.get_port())
            }
            #[cfg(feature = "mysql")]
            Self::MySql(pool) => {
                let to = pool.connect_options();
                format!(
                    "mysql://{}:{}/{}",
                    to.get_host(),
                    to.get_port(),
                    to.get_database().unwrap_or_default()
                )
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite(pool) => format!("sqlite:{}", pool.connect_options().get_filename().display()),
        }
    }

    /// Closes every connection and waits until they are closed.
    pub async fn close(&self) {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => pool.close().await,
            #[cfg(feature = "mysql")]
            Self::MySql(pool) => pool.close().await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(pool) => pool.close().await,
        }
    }
}

#[cfg(feature = "postgres")]
impl From<sqlx::PgPool> for AnyPool {
    fn from(pool: sqlx::PgPool) -> Self {
        Self::Postgres(pool)
    }
}

#[cfg(feature = "mysql")]
impl From<sqlx::MySqlPool> for AnyPool {
    fn from(pool: sqlx::MySqlPool) -> Self {
        Self::MySql(pool)
    }
}

#[cfg(feature = "sqlite")]
impl From<sqlx::SqlitePool> for AnyPool {
    fn from(pool: sqlx::SqlitePool) -> Self {
        Self::Sqlite(pool)
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
            Self::Sqlite => "sqlite",
        })
    }
}

/// Whether an address, a host or a host with a port, leads to this machine.
#[must_use]
pub fn is_local(address: &str) -> bool {
    let host = address.trim();
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None if host.matches(':').count() == 1 => host.split(':').next().unwrap_or_default(),
        None => host,
    };
    host == "localhost"
        || host.starts_with('/')
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `url` as it may be shown: every password is replaced by `***`. What cannot be read as an address keeps its scheme only.
#[must_use]
pub fn redacted(url: &str) -> String {
    let scheme =
        || format!("{}:***", url.split(':').next().filter(|s| s.len() < url.len()).unwrap_or_default());
    let Ok(mut parsed) = Url::parse(url) else { return scheme() };
    // An `@` outside the user part means that a password was not escaped and is spread over the address.
    if parsed.path().contains('@') || parsed.query().is_some_and(|q| q.contains('@')) {
        return scheme();
    }
    if parsed.password().is_some() && parsed.set_password(Some("***")).is_err() {
        return scheme();
    }
    let secret = |name: &str| name.to_ascii_lowercase().contains("pass");
    if parsed.query_pairs().any(|(name, _)| secret(&name)) {
        let pairs: Vec<(String, String)> = parsed.query_pairs().into_owned().collect();
        let shown =
            pairs.iter().map(|(name, value)| format!("{name}={}", if secret(name) { "***" } else { value }));
        let shown: Vec<String> = shown.collect();
        parsed.set_query(Some(&shown.join("&")));
    }
    parsed.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_ever_shown() {
        for (url, shown) in [
            ("postgres://u:s3cret@h:5432/d", "postgres://u:***@h:5432/d"),
            (
                "postgres://u@h/d?password=s3cret&sslmode=require",
                "postgres://u@h/d?password=***&sslmode=require",
            ),
            ("postgres://u:s3c/ret@h/d", "postgres:***"),
            ("mysql://u:s3cret@h/d", "mysql://u:***@h/d"),
            ("sqlite::memory:", "sqlite::memory:"),
            ("s3cret", ":***"),
            ("postgres://u:s3cret@[h/d", "postgres:***"),
        ] {
            assert_eq!(redacted(url), shown, "{url}");
        }
    }

    #[tokio::test]
    async fn an_unknown_scheme_says_what_may_be_written() {
        let error = AnyPool::connect("oracle://u:s3cret@h/d", 1).await.unwrap_err().to_string();
        assert!(error.contains("oracle://u:***@h/d") && error.contains("postgres://"), "{error}");
    }

    #[test]
    fn this_machine_has_several_names() {
        for address in [
            "localhost",
            "localhost:9092",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5672",
            "::1",
            "/run/postgresql",
        ] {
            assert!(is_local(address), "{address}");
        }
        for address in ["db", "db:5432", "10.0.0.1", "localhost.example:1", "[2001:db8::1]:1", ""] {
            assert!(!is_local(address), "{address}");
        }
    }

    #[cfg(not(feature = "postgres"))]
    #[tokio::test]
    async fn a_missing_driver_names_the_feature() {
        let error = AnyPool::connect("postgres://u:s3cret@h/d", 1).await.unwrap_err().to_string();
        assert!(error.contains("--features postgres") && !error.contains("s3cret"), "{error}");
    }
}
