//! One statement for whichever database the shop is on.

/// Runs `$run` with `$pool` bound to the driver's own pool. Both databases understand the statements of the examples as they
/// are; only the types around them differ.
macro_rules! on_database {
    ($any:expr, $pool:ident => $run:expr) => {
        match $any {
            #[cfg(feature = "postgres")]
            barid::store::AnyPool::Postgres($pool) => $run.map_err(anyhow::Error::from),
            barid::store::AnyPool::Sqlite($pool) => $run.map_err(anyhow::Error::from),
            other => Err(anyhow::anyhow!("the examples do not run on {}", other.dialect())),
        }
    };
}
