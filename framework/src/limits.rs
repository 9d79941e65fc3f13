//! Every bound and its default. Nothing in Barid waits, queues or retries without one of these.

use std::time::Duration;

/// Longest name of a queue, topic or message, in bytes.
pub const NAME_BYTES_MAX: usize = 200;

/// Largest body that a bus or the relay accepts, in bytes. RabbitMQ refuses more than 16 MiB by default since 4.0.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Outbox rows whose statement text would be longer than this go back to bound parameters. In bytes of SQL text; a body
/// doubles in size when it is written as hex.
pub const OUTBOX_TEXT_BYTES_MAX: usize = 64 * 1024;

/// How many messages one handler may send.
pub const STAGED_MESSAGES_MAX: usize = 10_000;

/// How long the opening statement waits for a concurrent duplicate before it answers *in progress*.
pub const IDEMPOTENCY_WAIT: Duration = Duration::from_secs(2);

/// How long a unit of work waits for a connection guard that a handler still holds before the message fails.
pub const GUARD_WAIT: Duration = Duration::from_secs(1);

/// How long any single broker or database call may take before its outcome counts as unknown.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Messages that one bus handles at the same time.
pub const PARALLELISM: usize = 16;

/// Deliveries that a transport holds ready per consumer.
pub const PREFETCH: u16 = 64;

/// Attempts at handling one message before it becomes a dead letter.
pub const ATTEMPTS_MAX: u32 = 5;

/// How long handlers that are running when the bus stops may take to finish.
pub const STOP_GRACE: Duration = Duration::from_secs(30);

/// How long the background tasks of a bus may take to end when it stops.
pub const BACKGROUND_STOP_WAIT: Duration = Duration::from_secs(5);

/// Rows that a publisher has in flight unless it is told otherwise.
///
/// Quorum queues need some thousands to amortise their fsyncs; classic queues gain nothing beyond 256.
pub const WINDOW_ROWS_MAX: usize = 256;

/// Bytes of bodies that a publisher has in flight.
pub const WINDOW_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Largest body of an answer that is kept, with the idempotency record or as a result, in bytes. It is written in hex, with the
/// closing text of the unit of work.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;

/// Requests of one bus that wait for their answers at the same time.
pub const REQUESTS_WAITING_MAX: usize = 10_000;

/// How long idempotency records, results and high-water marks are kept unless somebody says otherwise. Must be longer than any
/// message can stay in a broker, a dead-letter queue or a log before it comes again.
pub const RECORDS_KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Rows that one statement of the retention looks at.
pub const PURGE_ROWS_MAX: u32 = 1_000;

/// Statements of the retention in a row, before it pauses.
pub const PURGE_STATEMENTS_MAX: u32 = 50;

/// The pause of the retention when there may be more to remove, and when there is not.
pub const PURGE_PAUSE: Duration = Duration::from_secs(1);
/// See [`PURGE_PAUSE`].
pub const PURGE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How long changing the partitions of a table may make units of work wait. It is tried again later.
pub const PARTITION_LOCK_WAIT: Duration = Duration::from_millis(100);

/// Days for which partitions are made ahead.
pub const PARTITION_DAYS_AHEAD: u32 = 3;

/// How long a reply queue stays after the process that owned it died without removing it.
pub const REPLY_QUEUE_KEPT: Duration = Duration::from_secs(600);

/// The pauses between looks of somebody who waits for a result: first, and at most.
pub const RESULT_POLL: Duration = Duration::from_millis(20);
/// See [`RESULT_POLL`].
pub const RESULT_POLL_MAX: Duration = Duration::from_secs(1);
