//! Whether everybody on the machine can read the secrets that the configuration's file holds.
//!
//! `run`, `check` and `doctor` ask. A file that only names other files, as `url_file` does, may be read by everybody.

use std::{os::unix::fs::PermissionsExt, path::Path};

use url::Url;

use super::{Config, read::Leaf};

/// What to warn of, and what to do about it. The folders above the file are not looked at.
#[must_use]
pub fn exposure(file: &Path, config: &Config) -> Option<(String, String)> {
    // A file that has just been read and cannot be looked at has gone since, and is no danger.
    let mode = std::fs::metadata(file).ok()?.permissions().mode();
    (config.secrets_in_file && mode & 0o004 != 0).then(|| {
        let what = format!(
            "{} holds a password or a token, and every user of this machine can read it",
            file.display()
        );
        let remedy = format!(
            "chmod o= {0}, or move the secret: url_file, password_file, token_file, BARID_RELAY__...",
            file.display()
        );
        (what, remedy)
    })
}

/// Whether this is a secret that stands in the file itself.
pub(super) fn is_secret_of(file: &str, leaf: &Leaf) -> bool {
    let in_file = leaf.origin.strip_prefix(file).is_some_and(|rest| rest.starts_with(':'));
    let (Some(key), Some(text)) = (leaf.path.last(), leaf.value.as_str()) else { return false };
    let secret = match key.as_str() {
        "url" => Url::parse(text).is_ok_and(|url| url.password().is_some()),
        "token" => true,
        key => key.ends_with("password"),
    };
    in_file && secret
}
