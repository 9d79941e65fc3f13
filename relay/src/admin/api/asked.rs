//! What a query or a body may say. A name that there is not is an error: a filter that was misspelled would mean everything.

use axum::http::StatusCode;
use serde::Deserialize;
use uuid::Uuid;

use super::ApiError;
use crate::{
    lane::RowId,
    parked::{Filter, words},
};

/// Messages or groups of an answer where nothing else is said.
pub(super) const LIMIT: u32 = 50;

/// Messages or groups of an answer at most.
const LIMIT_MAX: u32 = 1_000;

macro_rules! asked {
    ($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            id: Option<Uuid>,
            /// Separated by commas.
            state: Option<String>,
            destination: Option<String>,
            r#type: Option<String>,
            key: Option<String>,
            fingerprint: Option<String>,
            older_than: Option<String>,
            newer_than: Option<String>,
            $($(#[$attribute])* pub(super) $field: $type,)*
        }

        impl $name {
            /// Which messages are meant.
            pub(super) fn filter(&self) -> Result<Filter, ApiError> {
                let states = self.state.iter().flat_map(|states| states.split(',')).map(words::state);
                Ok(Filter {
                    id: self.id,
                    states: states.collect::<Result<_, _>>().map_err(bad)?,
                    destination: self.destination.clone(),
                    name: self.r#type.clone(),
                    key: self.key.as_deref().map(words::key).transpose().map_err(bad)?,
                    fingerprint: self.fingerprint.clone(),
                    older_than: self.older_than.as_deref().map(words::age).transpose().map_err(bad)?,
                    newer_than: self.newer_than.as_deref().map(words::age).transpose().map_err(bad)?,
                })
            }
        }
    };
}

asked! {
    /// A page of a list.
    Listing {
        limit: Option<u32>,
        after: Option<String>,
    }
}

asked! {
    /// A change.
    Changing {
        #[serde(default)]
        all: bool,
        reason: String,
        by: Option<String>,
        #[serde(default)]
        dry_run: bool,
    }
}

/// One message.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Showing {
    /// It may hold what is nobody's business.
    #[serde(default)]
    pub(super) body: bool,
}

impl Listing {
    pub(super) fn limit(&self) -> Result<u32, ApiError> {
        let limit = self.limit.unwrap_or(LIMIT);
        let fits = (1..=LIMIT_MAX).contains(&limit);
        fits.then_some(limit).ok_or_else(|| bad(format!("limit is a number from 1 to {LIMIT_MAX}")))
    }

    pub(super) fn after(&self) -> Result<Option<RowId>, ApiError> {
        self.after.as_deref().map(words::after).transpose().map_err(bad)
    }
}

fn bad(why: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_filter_is_refused() {
        let read = |text: &str| serde_json::from_str::<Changing>(text);
        assert!(read(r#"{"reason": "x", "all": true}"#).is_ok());
        assert!(read(r#"{"reason": "x", "all": true, "fingerprnt": "x"}"#).is_err());
        assert!(read(r#"{"all": true}"#).is_err(), "no reason");
    }

    #[test]
    fn what_is_asked_becomes_a_filter() {
        let asked = Listing {
            state: Some("poison,behind".to_owned()),
            key: Some("order/7".to_owned()),
            older_than: Some("2h".to_owned()),
            ..Listing::default()
        };
        let filter = asked.filter().unwrap();
        assert_eq!(filter.to_string(), "state = poison|behind, key = order/7, older than = 7200 s");
        assert!(Listing { state: Some("gone".to_owned()), ..Listing::default() }.filter().is_err());
        assert!(Listing { limit: Some(1_001), ..Listing::default() }.limit().is_err());
    }
}
