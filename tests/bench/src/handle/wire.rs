//! Round trips of a handled message, counted on the wire.

use barid_tests::Proxy;
use sqlx::pool::PoolOptions;

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
