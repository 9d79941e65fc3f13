//! Looks whether buses are stuck, and tells each change once.

use std::{convert::Infallible, time::Duration};

use super::Liveness;
use crate::bus::Bus;

/// How often it looks within the patience.
const LOOKS: u32 = 4;

/// Looks for ever; without a patience it never does.
pub(super) async fn watch(
    buses: Vec<Bus>,
    patience: Option<Duration>,
    mut tell: Option<Box<dyn FnMut(&Liveness) + Send>>,
) -> Infallible {
    let Some(patience) = patience else { return std::future::pending().await };
    let mut stuck = vec![false; buses.len()];
    loop {
        tokio::time::sleep((patience / LOOKS).max(Duration::from_millis(1))).await;
        for (bus, was_stuck) in buses.iter().zip(&mut stuck) {
            let now = bus.health().stuck(patience);
            if now.is_some() == *was_stuck {
                continue;
            }
            *was_stuck = now.is_some();
            match now {
                Some(stuck) => tracing::error!(bus = bus.name(), %stuck, "a bus does not respond"),
                None => tracing::info!(bus = bus.name(), "a bus responds again"),
            }
            if let Some(tell) = &mut tell {
                tell(&Liveness { bus: bus.name().to_owned(), stuck: now });
            }
        }
    }
}
