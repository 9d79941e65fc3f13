//! Barid: message handlers with a unit of work. (Placeholder documentation.)

pub mod clock;
pub mod destination;
pub mod headers;
pub mod limits;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod store;
pub mod transport;

pub use destination::Destination;
pub use headers::Headers;
#[cfg(feature = "rabbitmq")]
pub use transport::rabbitmq::RabbitMq;
