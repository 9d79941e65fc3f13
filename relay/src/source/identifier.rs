//! Names that go into SQL text.

use std::{fmt, str::FromStr};

/// A plain name of a table or channel: `a-z`, `0-9` and `_`, not beginning with a digit, at most 63 characters, one part only. It
/// needs no quotes on any database, and nothing can be smuggled in with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identifier(String);

/// A text that is no plain name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no plain name: write a-z, 0-9 and _ only, no dots, at most 63 characters")]
pub struct NotPlain(String);

impl Identifier {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Identifier {
    type Err = NotPlain;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let begins = text.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
        let plain = begins && text.len() <= 63 && text.bytes().all(fits);
        plain.then(|| Self(text.to_owned())).ok_or_else(|| NotPlain(text.to_owned()))
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_and_others() {
        for name in ["outbox", "_x", "outbox_2", &"a".repeat(63)] {
            assert_eq!(name.parse::<Identifier>().unwrap().as_str(), name);
        }
        let long = "a".repeat(64);
        for name in ["", "2x", "a.b", "a b", "A", "a\"", "a;b", "a--", "ä", "a\0", &long] {
            assert!(
                name.parse::<Identifier>().unwrap_err().to_string().contains("no plain name"),
                "{name:?}"
            );
        }
    }
}
