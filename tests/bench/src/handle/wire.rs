//! The wire between the client and the server: its round trips, counted, and a slower one.

use std::time::{Duration, Instant};

use barid_tests::Proxy;
use sqlx::{Connection, pool::PoolOptions};

use super::{
    bus,
    subject::{Subject, Work},
};

/// Messages that are handled before counting: the first ones connect and prepare the handler's statement.
const WARM_UP: usize = 20;
const COUNTED: usize = 100;

/// Round trips of one message beyond the handler's own statement, in the mean over some messages.
pub(super) async fn round_trips_beyond_handler<DB: Subject>(url: &str) -> anyhow::Result<f64> {
    let (proxy, url) = Proxy::in_front_of(url).await;
    let pool = PoolOptions::<DB>::new().max_connections(4).connect_lazy(&url)?;
    let bus = bus(pool.clone())?;
    let first = 1_000_000_000;
    for number in first..first + WARM_UP + COUNTED {
        if number == first + WARM_UP {
            proxy.reset();
        }
        bus.handle(Work::new(number).delivery).await.map_err(anyhow::Error::msg)?;
    }
    let all = proxy.round_trips();
    pool.close().await;
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    Ok(all as f64 / COUNTED as f64 - 1.0)
}

/// A slower network in front of a server.
pub(super) struct Network {
    /// What leads through it.
    pub(super) url: String,
    /// What the smallest round trip takes, in the median: the timer is coarse.
    pub(super) round_trip_ms: f64,
    /// Runs until it is dropped.
    _proxy: Proxy,
}

impl Network {
    pub(super) async fn new<DB: Subject>(url: &str, latency: Duration) -> anyhow::Result<Self> {
        let (proxy, url) = Proxy::in_front_of(url).await;
        let mut connection = <DB::Connection as Connection>::connect(&url).await?;
        proxy.add_latency(latency);
        let mut taken = Vec::with_capacity(COUNTED);
        for _ in 0..COUNTED {
            let began = Instant::now();
            connection.ping().await?;
            taken.push(began.elapsed());
        }
        connection.close().await?;
        taken.sort_unstable();
        Ok(Self { url, round_trip_ms: taken[COUNTED / 2].as_secs_f64() * 1e3, _proxy: proxy })
    }
}
