//! `[admin]`: what each key means.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};

use super::secret;

/// Where `/metrics` is when nothing else is said: where nobody else can reach it.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7118);

/// The shortest token: nobody guesses 16 random characters.
pub const TOKEN_CHARS_MIN: usize = 16;

/// The shortest pause between two looks at a database for `/metrics`, in milliseconds.
const SURVEY_MS_MIN: u64 = 500;

/// `[admin]`: the section alone turns it on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address and port of `/livez`, `/readyz`, `/metrics` and the API. Any but a loopback address needs a token. Default:
    /// `127.0.0.1:7118`.
    #[serde(deserialize_with = "listen")]
    pub listen: SocketAddr,
    /// What `/metrics` and the API demand as `Authorization: Bearer TOKEN`; from the environment. Without a token the API changes
    /// nothing.
    #[serde(deserialize_with = "secret")]
    pub token: Option<SecretString>,
    /// A file that holds the token instead.
    pub token_file: Option<PathBuf>,
    /// How often each source's database is asked what is pending, parked and blocked. Default: 10,000.
    pub survey_ms: u64,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: LISTEN, token: None, token_file: None, survey_ms: 10_000 }
    }
}

/// What does not fit together.
pub(super) fn check(admin: &AdminConfig, say: &mut impl FnMut(&[&str], String)) {
    let section = ["admin"];
    if admin.token.is_some() && admin.token_file.is_some() {
        say(&section, "[admin] has both, and may have one of \"token\" and \"token_file\"".to_owned());
    }
    let short = |token: &SecretString| token.expose_secret().chars().count() < TOKEN_CHARS_MIN;
    if admin.token.as_ref().is_some_and(short) {
        let what = format!(
            "token in [admin] must have at least {TOKEN_CHARS_MIN} characters: `openssl rand -hex 16`"
        );
        say(&["admin", "token"], what);
    }
    if !admin.listen.ip().is_loopback() && admin.token.is_none() && admin.token_file.is_none() {
        let what = format!(
            "[admin] listens at {}, where others can reach it, and has no token: set token_file (or BARID_RELAY__ADMIN__TOKEN), \
             or listen at 127.0.0.1:{}",
            admin.listen,
            admin.listen.port()
        );
        say(&["admin", "listen"], what);
    }
    if admin.survey_ms < SURVEY_MS_MIN {
        say(&["admin", "survey_ms"], format!("survey_ms in [admin] must be at least {SURVEY_MS_MIN}"));
    }
}

fn listen<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "{text:?} is no IP address with a port; write for instance \"{LISTEN}\""
        ))
    })
}
