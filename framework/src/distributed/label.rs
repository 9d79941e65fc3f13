//! What people call a transaction: a name that leads to it from every process, and what it is for.

use std::{fmt, str::FromStr};

use serde::Serialize;

use super::{access::Principal, error::DistributedError};
use crate::clock;

/// The longest name, in bytes.
const NAME_MAX: usize = 120;

/// The name of a distributed transaction: one that is not over has it alone.
///
/// Derive it from what the transaction is about (a message id, an order), so that who tries again uses the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct TransactionName(String);

impl TransactionName {
    /// A letter or digit, and then up to 119 letters, digits, `.`, `_`, `:`, `@` and `-`.
    ///
    /// # Errors
    /// [`DistributedError::BadName`] when it is anything else.
    pub fn new(name: impl Into<String>) -> Result<Self, DistributedError> {
        let name = name.into();
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:@-".contains(&byte));
        let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        match plain && begins && name.len() <= NAME_MAX {
            true => Ok(Self(name)),
            false => Err(DistributedError::BadName(name.chars().take(NAME_MAX).collect())),
        }
    }

    /// A name that nobody else makes: `{operation}_{entity}_{milliseconds}_{nine random characters}`. For what is never tried again
    /// under the same name.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn generate(operation: &str, entity: &str) -> Result<Self, DistributedError> {
        let random = uuid::Uuid::now_v7().simple().to_string();
        let millis = clock::now().timestamp_millis();
        // The last digits of a UUIDv7 are the random ones.
        Self::new(format!("{operation}_{entity}_{millis}_{}", &random[random.len() - 9..]))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TransactionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TransactionName {
    type Err = DistributedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

/// What is written down about a transaction beside what it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// Its name, if it has one.
    pub name: Option<TransactionName>,
    /// What kind of transaction it is for the application, such as `order`: metrics are counted by it, so keep them few.
    pub kind: Option<String>,
    /// What the application wants to be found with it, such as an order number as JSON.
    pub metadata: Option<String>,
    /// What it belongs to: the correlation id of a message.
    pub correlation_id: Option<String>,
    /// Who begins it. Default: the coordinator's own [`Settings::principal`](super::Settings::principal).
    pub principal: Option<Principal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_plain() {
        let longest = "x".repeat(NAME_MAX);
        for good in ["order-4711", "a", "ann@example.org:7", "9._:@-", &longest] {
            assert_eq!(TransactionName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "it's", "a b", "-a", "a%", "a\\b", "ä", "a\n", &format!("{longest}x")] {
            let refused = TransactionName::new(bad).unwrap_err().to_string();
            assert!(refused.contains("letters, digits"), "{refused}");
        }
    }

    #[test]
    fn a_generated_name_says_what_it_is_for_and_is_alone() {
        let (one, other) = (
            TransactionName::generate("refund", "7").unwrap(),
            TransactionName::generate("refund", "7").unwrap(),
        );
        assert!(one.as_str().starts_with("refund_7_") && one != other, "{one} {other}");
        assert_eq!(one.as_str().rsplit('_').next().map(str::len), Some(9), "{one}");
        assert!(TransactionName::generate("refund of", "7").is_err());
    }
}
