//! Until when the owner of a source may hand rows to a broker.

use std::time::Instant;

use tokio::{sync::watch, time::sleep_until};

/// Until when the owner may publish, by its own monotonic clock. Each renewal of the lease moves it on.
///
/// The session asks it before every row. A sink that hands rows to a client with a queue of its own watches it: when it has
/// [passed](Self::passed), whatever is still in that queue has to be thrown away, as an unknown outcome.
#[derive(Clone, Debug)]
pub struct Deadline(watch::Receiver<Instant>);

impl Deadline {
    /// The deadline that the other end moves.
    #[must_use]
    pub fn new(at: watch::Receiver<Instant>) -> Self {
        Self(at)
    }

    /// When it is, as far as is known now.
    #[must_use]
    pub fn at(&self) -> Instant {
        *self.0.borrow()
    }

    /// Whether it is over at `now`.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.at()
    }

    /// Returns when it has passed without having been moved on. Cancel safe.
    pub async fn passed(&mut self) {
        loop {
            let at = *self.0.borrow_and_update();
            tokio::select! {
                () = sleep_until(at.into()) => return,
                moved = self.0.changed() => if moved.is_err() {
                    // Nobody renews it any more.
                    return sleep_until(at.into()).await;
                },
            }
        }
    }

    /// Returns when it has been moved. Cancel safe; pends for ever when nobody renews it any more.
    pub async fn moved(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_passes_unless_it_is_moved_on() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let (moves, seen) = watch::channel(at(100_000));
        let mut deadline = Deadline::new(seen);
        assert!(!deadline.is_over(at(99_999)) && deadline.is_over(at(100_000)));
        let mut other = deadline.clone();
        let moved = async {
            other.moved().await;
            moves.send_replace(at(150));
        };
        let passed = async {
            moves.send_replace(at(50_000));
            deadline.passed().await;
            now.elapsed()
        };
        let (passed, ()) = tokio::join!(passed, moved);
        assert!(passed >= Duration::from_millis(150), "{passed:?}");
    }
}
