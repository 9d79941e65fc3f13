//! Waiting for a condition, with a bound.

use std::time::{Duration, Instant};

/// How long after an unsuccessful look the next one comes.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until `condition` holds.
///
/// # Panics
/// When it does not hold within `timeout`; the message says `what` was waited for, and how often it was looked at.
pub async fn eventually<F, Fut>(timeout: Duration, what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let began = Instant::now();
    let mut looks = 0_u32;
    let waiting = async {
        loop {
            looks += 1;
            if condition().await {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    // Around the whole loop, so that a look that hangs is bounded too.
    if tokio::time::timeout(timeout, waiting).await.is_err() {
        panic!("not within {:?}: {what} (looked {looks} times)", began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_as_soon_as_the_condition_holds() {
        let mut looks = 0;
        eventually(Duration::from_secs(5), "three looks", || {
            looks += 1;
            let enough = looks == 3;
            async move { enough }
        })
        .await;
        assert_eq!(looks, 3);
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_bounded_and_named() {
        let hanging = eventually(Duration::from_millis(30), "a miracle", std::future::pending);
        let panic = tokio::spawn(hanging).await.unwrap_err().into_panic();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains("a miracle (looked 1 times)"), "{message}");
    }
}
