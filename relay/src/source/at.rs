//! Calls to a database, each within a bound and with words for what was being done.

use std::time::Duration;

use super::SourceError;

/// Runs statements within the bound of every database call, and says what was being done when one fails.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) name: &'a str,
}

impl At<'_> {
    pub(super) async fn bounded<T>(
        self,
        doing: &'static str,
        call: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, SourceError> {
        self.within(barid::limits::CALL_TIMEOUT, doing, call).await
    }

    pub(super) async fn within<T>(
        self,
        after: Duration,
        doing: &'static str,
        call: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, SourceError> {
        let source_name = || self.name.to_owned();
        match tokio::time::timeout(after, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(cause)) => Err(SourceError::said(source_name(), doing, cause)),
            Err(_) => {
                Err(SourceError::Timeout { source_name: source_name(), doing, after_s: after.as_secs() })
            }
        }
    }
}
