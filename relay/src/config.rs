//! placeholder
/// What kind of sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// RabbitMQ.
    Rabbitmq,
    /// Kafka.
    Kafka,
    /// A queue in a SQL database.
    Sql,
}
