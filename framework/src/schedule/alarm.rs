//! Ends the pause between two looks at the schedule when this process has scheduled something that is due earlier.
//!
//! It only ever makes a pause shorter: what it does not know of, the next look finds. So it costs no query by itself, however
//! much is scheduled.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{clock, limits, store::schedule::Due};

#[derive(Debug, Default)]
pub(crate) struct Alarm {
    earliest: Mutex<Option<Instant>>,
    changed: Notify,
}

impl Alarm {
    /// Something is due then. Called after its commit: the local clock only measures how long to sleep, and the database's
    /// says what is due.
    pub(crate) fn set(&self, due: Due) {
        let after = match due {
            Due::In(after) => after,
            Due::At(at) => (at - clock::now()).to_std().unwrap_or(Duration::ZERO),
        };
        // Further away than any pause is long.
        let Some(at) = Instant::now().checked_add(after) else { return };
        let mut earliest = self.earliest();
        if earliest.is_none_or(|known| at < known) {
            *earliest = Some(at);
            self.changed.notify_one();
        }
    }

    /// Waits for `pause`, or until what was set is due, but for no less than [`limits::SCHEDULE_POLL_MIN`]. Cancel safe.
    pub(crate) async fn wait(&self, pause: Duration) {
        let now = Instant::now();
        let (first, last) = (now + limits::SCHEDULE_POLL_MIN, now + pause.max(limits::SCHEDULE_POLL_MIN));
        loop {
            let until = self.earliest().map_or(last, |at| at.clamp(first, last));
            tokio::select! {
                () = sleep_until(until) => break,
                () = self.changed.notified() => {}
            }
        }
        // The look that follows sees everything that was committed before it was set here.
        let mut earliest = self.earliest();
        if earliest.is_some_and(|at| at <= Instant::now()) {
            *earliest = None;
        }
    }

    fn earliest(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // One value: a panic elsewhere cannot have left it half changed.
        self.earliest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    /// How long a wait of an hour takes when `dues` are set, some before it and some while it runs.
    async fn waited(before: &[Due], meanwhile: &[Due]) -> Duration {
        let alarm = Arc::new(Alarm::default());
        before.iter().for_each(|due| alarm.set(*due));
        let began = Instant::now();
        let waiting = tokio::spawn({
            let alarm = Arc::clone(&alarm);
            async move { alarm.wait(LONG).await }
        });
        tokio::task::yield_now().await;
        meanwhile.iter().for_each(|due| alarm.set(*due));
        waiting.await.unwrap();
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_ends_the_pause() {
        let after = |seconds| Due::In(Duration::from_secs(seconds));
        assert_eq!(waited(&[], &[]).await.as_secs(), 3_600);
        assert_eq!(waited(&[after(9), after(5), after(7)], &[]).await.as_secs(), 5);
        assert_eq!(waited(&[after(9)], &[after(3)]).await.as_secs(), 3);
        assert_eq!(waited(&[after(9)], &[after(30)]).await.as_secs(), 9);
        assert_eq!(waited(&[after(7_200)], &[]).await.as_secs(), 3_600);
        assert!(waited(&[Due::In(Duration::ZERO)], &[]).await >= limits::SCHEDULE_POLL_MIN);
        assert_eq!(waited(&[Due::In(Duration::MAX)], &[]).await.as_secs(), 3_600);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_answered_does_not_ring_again() {
        let alarm = Alarm::default();
        alarm.set(Due::In(Duration::from_secs(1)));
        alarm.wait(LONG).await;
        let began = Instant::now();
        alarm.wait(LONG).await;
        assert_eq!(began.elapsed().as_secs(), 3_600);
    }
}
