//! From a configuration to relays that can run: opens databases, makes transports, checks schemas.

use std::{collections::BTreeMap, sync::Arc};

use barid::{
    Destination,
    store::{
        AnyPool,
        pool::ConnectError,
        schema::{self, SchemaError},
    },
    transport::{Transport, TransportError},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::OnceCell;

use crate::{
    config::{Config, ResourceConfig, RouteConfig, SinkConfig, SinkKind, SourceConfig},
    format::Problem,
    lane::Order,
    relay::{BuildError, Relay, RelayBuilder},
    sink::{Pattern, Sink, Topology},
    source::{self, SourceError},
};

/// Connections to a database: the reader's, the writer's, and one to look around.
const CONNECTIONS: u32 = 4;

mod transport;

use self::transport::transactional;
pub use self::transport::transport;

/// Why a configuration does not become a running relay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A database cannot be opened.
    #[error("{section}: {cause}")]
    Connect {
        /// The section of the configuration.
        section: String,
        /// Why.
        #[source]
        cause: ConnectError,
    },
    /// A database has not the schema that this program needs.
    #[error("{section}: {cause}")]
    Schema {
        /// The section of the configuration.
        section: String,
        /// Why.
        #[source]
        cause: Box<SchemaError>,
    },
    /// A broker cannot be used.
    #[error("{section}: {cause}")]
    Transport {
        /// The section of the configuration.
        section: String,
        /// Why.
        #[source]
        cause: TransportError,
    },
    /// An outbox cannot be read or deleted from.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file with an address or a password cannot be read.
    #[error("{section}: {key} {file}: {cause}")]
    SecretFile {
        /// The section of the configuration.
        section: String,
        /// The key that names the file.
        key: &'static str,
        /// The file.
        file: String,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// This program was built without it.
    #[error(
        "{section}: no client for kind = \"{feature}\" in this program: it was built without the cargo feature {feature:?}; \
         build it with --features {feature}"
    )]
    Feature {
        /// The section of the configuration.
        section: String,
        /// The cargo feature that is missing.
        feature: &'static str,
    },
    /// The parts do not fit together.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl SetupError {
    /// Whether trying again later can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { cause, .. } => cause.is_transient(),
            Self::Transport { cause, .. } => cause.is_transient(),
            Self::Source(error) => error.is_transient(),
            Self::Schema { cause, .. } => matches!(**cause, SchemaError::Database { .. }),
            Self::SecretFile { .. } | Self::Feature { .. } | Self::Build(_) => false,
        }
    }
}

/// Makes the relays of a configuration, one for each source. What is shared between them is made once.
pub struct Setup<'a> {
    config: &'a Config,
    /// By name; made when a relay first needs it.
    sinks: BTreeMap<&'a str, OnceCell<Arc<dyn Transport>>>,
}

impl std::fmt::Debug for Setup<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("config", self.config).finish_non_exhaustive()
    }
}

impl<'a> Setup<'a> {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(config: &'a Config) -> Self {
        let sinks = config.sink.keys().map(|name| (name.as_str(), OnceCell::new())).collect();
        Self { config, sinks }
    }

    /// The relay of one source. Its database is opened and the schema checked; brokers are connected to when the relay runs.
    ///
    /// # Errors
    /// The first thing that does not work; [`SetupError::is_transient`] says whether waiting can help.
    ///
    /// # Panics
    /// When the configuration has no such source.
    pub async fn relay(&self, name: &str) -> Result<Relay, SetupError> {
        let (config, source) = (self.config, &self.config.source[name]);
        let pool = database(name, source).await?;
        let outbox = source::open::source_with(name, &pool, &source.options())?;
        let mut builder = Relay::builder(outbox);
        builder = builder.settings(config.settings(source)).instance(&config.relay.instance);
        if let Some(address) = &source.doorbell {
            builder = builder.doorbell_at(address.clone());
        }
        for sink in self.config.sink.keys() {
            builder = self.add_sink(builder, name, sink).await?;
        }
        for route in &config.route {
            let strict = in_transactions(config, route);
            let sink = if strict { strict_name(&route.sink) } else { route.sink.clone() };
            builder = builder.route(&route.destination, sink, config.order(route));
            builder = builder.on_poison(route.on_poison);
            if let Some(format) = config.format(route, name).map_err(format_problems)? {
                builder = builder.format(format);
            }
        }
        Ok(builder.build()?)
    }

    /// The sink of a relay as its routes need it: rows in Kafka transactions have a publisher of their own.
    async fn add_sink(
        &self,
        mut builder: RelayBuilder,
        source: &str,
        name: &str,
    ) -> Result<RelayBuilder, SetupError> {
        let (config, sink) = (self.config, &self.config.sink[name]);
        let with =
            |name: &str, transport| Sink::new(name, transport).window(sink.window()).topology(sink.topology);
        let routes = || config.route.iter().filter(|route| route.sink == name);
        let strict = routes().any(|route| in_transactions(config, route));
        if strict {
            builder = builder.sink(with(&strict_name(name), transactional(config, source, name, sink)?));
        }
        if !strict || routes().any(|route| !in_transactions(config, route)) {
            let transport = self.sinks[name].get_or_try_init(|| transport(config, name, sink)).await?;
            builder = builder.sink(with(name, transport.clone()));
        }
        Ok(builder)
    }
}

/// Whether the rows of this route are published in Kafka transactions: they have a publisher of their own.
fn in_transactions(config: &Config, route: &RouteConfig) -> bool {
    let kafka = config.sink.get(&route.sink).is_some_and(|sink| sink.kind == SinkKind::Kafka);
    kafka && config.order(route) == Order::Strict
}

/// Only of a configuration that was put together and not read.
fn format_problems(problems: Vec<Problem>) -> SetupError {
    let problems = problems.into_iter().map(|Problem { key, what }| format!("{key} of a format: {what}"));
    SetupError::Build(BuildError { problems: problems.collect() })
}

fn strict_name(sink: &str) -> String {
    format!("{sink} (strict)")
}

/// Opens the database of a source and checks its schema.
///
/// # Errors
/// When it cannot be opened, or its schema does not fit.
pub async fn database(name: &str, source: &SourceConfig) -> Result<AnyPool, SetupError> {
    database_with(name, source, CONNECTIONS).await
}

/// The same with so many connections at most.
///
/// # Errors
/// As [`database`].
pub async fn database_with(
    name: &str,
    source: &SourceConfig,
    connections_max: u32,
) -> Result<AnyPool, SetupError> {
    open(format!("[source.{name}]"), &source_address(name, source)?, connections_max).await
}

/// Opens the database of a source, whatever its schema is.
///
/// # Errors
/// When it cannot be opened.
pub async fn unchecked(name: &str, source: &SourceConfig) -> Result<AnyPool, SetupError> {
    connect(&format!("[source.{name}]"), &source_address(name, source)?, CONNECTIONS).await
}

/// Opens a database that takes part in distributed transactions, whatever its schema is.
///
/// # Errors
/// When it cannot be opened.
pub async fn resource(name: &str, resource: &ResourceConfig) -> Result<AnyPool, SetupError> {
    let section = format!("[resource.{name}]");
    let url = address(&section, resource.url.as_ref(), resource.url_file.as_deref())?;
    connect(&section, &url, CONNECTIONS).await
}

/// The address of a source.
///
/// # Errors
/// When the file that should hold it cannot be read.
pub fn source_address(name: &str, source: &SourceConfig) -> Result<SecretString, SetupError> {
    address(&format!("[source.{name}]"), source.url.as_ref(), source.url_file.as_deref())
}

/// The address of a sink's database, if it has one.
///
/// # Errors
/// When the file that should hold it cannot be read.
pub fn sql_address(name: &str, sink: &SinkConfig) -> Result<Option<SecretString>, SetupError> {
    let section = format!("[sink.{name}]");
    let sql = sink.kind == SinkKind::Sql;
    sql.then(|| address(&section, sink.url.as_ref(), sink.url_file.as_deref())).transpose()
}

/// Whether the broker lets us publish, and has what the routes name. Makes nothing, whatever the configuration says.
///
/// # Errors
/// When it does not.
pub async fn sink_works(
    config: &Config,
    name: &str,
    transport: Arc<dyn Transport>,
) -> Result<(), TransportError> {
    let topology =
        if config.sink[name].topology == Topology::Check { Topology::Check } else { Topology::None };
    let mut sink = Sink::new(name, transport).topology(topology);
    sink.destinations = destinations(config, name);
    sink.open().await.map(drop)
}

/// The destinations that routes to this sink name one by one.
#[must_use]
pub fn destinations(config: &Config, sink: &str) -> Vec<Destination> {
    // A format that chooses topics itself says nothing about which there have to be.
    let fixed =
        |route: &&RouteConfig| !matches!(config.format(route, ""), Ok(Some(format)) if format.reroutes());
    let routes = config.route.iter().filter(|route| route.sink == sink).filter(fixed);
    let patterns = routes.map(|route| &route.destination);
    // The configuration was read, so that every pattern is one.
    patterns.filter_map(|text| text.parse::<Pattern>().ok()?.fixed()).collect()
}

/// Scheme and host of a sink's url; none where it has none, or its file cannot be read.
#[must_use]
pub fn sink_host(sink: &SinkConfig) -> Option<(String, String)> {
    let url = address("", sink.url.as_ref(), sink.url_file.as_deref()).ok()?;
    let url = url::Url::parse(url.expose_secret()).ok()?;
    Some((url.scheme().to_owned(), url.host_str()?.to_owned()))
}

async fn connect(section: &str, url: &SecretString, connections_max: u32) -> Result<AnyPool, SetupError> {
    let connected = AnyPool::connect(url.expose_secret(), connections_max).await;
    connected.map_err(|cause| SetupError::Connect { section: section.to_owned(), cause })
}

async fn open(section: String, url: &SecretString, connections_max: u32) -> Result<AnyPool, SetupError> {
    let pool = connect(&section, url, connections_max).await?;
    schema::check(&pool).await.map_err(|cause| SetupError::Schema { section, cause: Box::new(cause) })?;
    Ok(pool)
}

fn address(
    section: &str,
    url: Option<&SecretString>,
    file: Option<&std::path::Path>,
) -> Result<SecretString, SetupError> {
    file_or_value(section, "url_file", url, file)
}

/// A secret that is written down, or that a file holds.
pub(crate) fn file_or_value(
    section: &str,
    key: &'static str,
    value: Option<&SecretString>,
    file: Option<&std::path::Path>,
) -> Result<SecretString, SetupError> {
    match (value, file) {
        (Some(value), _) => Ok(value.clone()),
        (None, Some(path)) => match std::fs::read_to_string(path) {
            Ok(text) => Ok(text.trim().to_owned().into()),
            Err(cause) => {
                let (section, file) = (section.to_owned(), path.display().to_string());
                Err(SetupError::SecretFile { section, key, file, cause })
            }
        },
        // The configuration was checked to have one of the two.
        (None, None) => Ok(String::new().into()),
    }
}
