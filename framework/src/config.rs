//! Configuration of buses from a TOML file and the environment: environment over file over code.
//!
//! ```toml
//! [bus.orders]
//! commit_with_transaction = true
//! parallelism = 32
//! ```
//!
//! Each key can be overridden by `BARID_BUS__<NAME>__<KEY>`, for instance `BARID_BUS__ORDERS__PARALLELISM=8`; in NAME every
//! character that a variable cannot have is `_`. All problems are reported at once, with file and line.

use std::{
    collections::BTreeMap,
    fmt,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::Path,
};

use serde::{Deserialize, de::DeserializeOwned};

/// The prefix of variables that override the file.
pub const ENV_PREFIX: &str = "BARID_";

/// The settings of all buses of a process.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// By the bus's name.
    pub bus: BTreeMap<String, BusConfig>,
}

/// The settings of one bus; what is absent is left to the code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct BusConfig {
    /// When the unit of work commits: with the transaction context, or right after the handlers. Default: false.
    pub commit_with_transaction: Option<bool>,
    /// Messages handled at the same time. Default: 16.
    pub parallelism: Option<NonZeroUsize>,
    /// Messages in one unit of work; 1 is one by one. Default: what the code says, 1 without.
    pub batch_messages_max: Option<usize>,
    /// How long a batch that is not full waits for more, in milliseconds. Default: 0.
    pub batch_wait_ms_max: Option<u64>,
    /// Deliveries held ready per consumer. Default: 64.
    pub prefetch: Option<u16>,
    /// Attempts before a message becomes a dead letter, the first included. Default: 10.
    pub attempts_max: Option<u32>,
    /// Attempts that follow one another without a pause, the first included. Default: 2.
    pub retry_immediate_max: Option<u32>,
    /// The first pause between attempts, in milliseconds; doubles. Default: 250.
    pub retry_pause_ms: Option<u64>,
    /// The longest pause between attempts, in milliseconds. Default: 30,000.
    pub retry_pause_max_ms: Option<u64>,
    /// How long running handlers may take when the bus stops, in milliseconds. Default: 30,000.
    pub stop_grace_ms: Option<u64>,
    /// The longest pause between two looks at the schedule, in milliseconds. Default: 1,000.
    pub schedule_poll_ms: Option<u64>,
    /// The pauses between looks while there is nothing to receive, in milliseconds, where the transport has to look. The last
    /// one repeats. Default: 1, doubling up to 50.
    pub receive_backoff_ms: Option<Vec<u64>>,
    /// The pauses after receiving failed, in milliseconds. The last one repeats. Default: 100, doubling up to 5,000.
    pub error_backoff_ms: Option<Vec<u64>>,
    /// Messages that each instance takes a second at most; 0 is no limit. Default: no limit.
    pub rate_limit_per_second: Option<u32>,
    /// Messages that may be taken at once after a quiet time. Default: 1.
    pub rate_limit_burst: Option<u32>,
    /// Pauses receiving when this share of the messages fails, in percent; 0 is never. Default: never.
    pub circuit_breaker_percent: Option<u8>,
    /// With fewer messages than this in its window it never pauses. Default: 10.
    pub circuit_breaker_messages_min: Option<NonZeroU32>,
    /// How long a message is counted, in milliseconds. Default: 60,000.
    pub circuit_breaker_window_ms: Option<NonZeroU64>,
    /// How long receiving pauses, in milliseconds, at most 600,000. Default: 30,000.
    pub circuit_breaker_pause_ms: Option<NonZeroU64>,
    /// The queue for messages that were given up. Default: `dead-letters`.
    pub dead_letter_queue: Option<String>,
    /// Where a relay on this machine listens, to be rung after each commit that wrote to the outbox: `unix:/run/barid/orders.sock`
    /// or `udp:127.0.0.1:7117`. Beside the doorbells that the code has. Default: none.
    pub doorbell: Option<String>,
    /// Where the settings came from, for the log.
    #[serde(skip)]
    pub origins: BTreeMap<String, String>,
}

/// A configuration that cannot be used. Prints every problem.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// One sentence for each problem, with its line where there is one.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error BRD018: the configuration in {} cannot be used", self.file)?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Config {
    /// Reads a file and the process's environment.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong: the file cannot be read, unknown keys, values of the wrong type.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            file: file.clone(),
            problems: vec![format!("cannot be read: {error}")],
        })?;
        Self::parse(&text, &file, std::env::vars())
    }

    /// Reads a text and the variables given, of which only those with the prefix `BARID_BUS__` matter.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(
        text: &str,
        file: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let variables: Vec<_> =
            variables.into_iter().filter(|(name, _)| name.starts_with("BARID_BUS__")).collect();
        let mut config: Self = read(text, file, ENV_PREFIX, &variables)?;
        for (name, bus) in &mut config.bus {
            let set = text_keys(text, &["bus", name]);
            bus.origins.extend(set.into_iter().map(|(key, line)| (key, format!("{file}:{line}"))));
            let prefix = format!("{ENV_PREFIX}BUS__{}__", variable_part(name));
            for (variable, _) in &variables {
                if let Some(key) = variable.strip_prefix(&prefix) {
                    bus.origins.insert(key.to_lowercase(), format!("variable {variable}"));
                }
            }
        }
        Ok(config)
    }

    /// The settings of the bus `name`; empty when nothing was said about it.
    #[must_use]
    pub fn bus(&self, name: &str) -> BusConfig {
        self.bus.get(name).cloned().unwrap_or_default()
    }
}

/// Reads `T` from TOML with variables over it. `PREFIX` + `A__B` overrides key `b` of table `a`.
///
/// # Errors
/// [`ConfigError`] with everything that is wrong, unknown keys included.
pub fn read<T: DeserializeOwned>(
    text: &str,
    file: &str,
    prefix: &str,
    variables: &[(String, String)],
) -> Result<T, ConfigError> {
    let failed = |problems| ConfigError { file: file.to_owned(), problems };
    let mut table: toml::Table =
        toml::from_str(text).map_err(|error| failed(vec![error.to_string().trim_end().to_owned()]))?;
    let mut named = BTreeMap::new();
    for (variable, value) in variables {
        let Some(path) = variable.strip_prefix(prefix) else { continue };
        let path: Vec<_> = path.split("__").collect();
        let keys = overlay(&mut table, &path, value);
        named.insert(keys.join("."), variable.clone());
    }
    let place = |path: &str| match (named.get(path), line_of(text, path)) {
        (Some(variable), _) => format!("variable {variable}"),
        (None, Some(line)) => format!("{file}:{line}"),
        (None, None) => file.to_owned(),
    };
    let mut problems = Vec::new();
    let parsed: Result<T, _> = serde_ignored::deserialize(table, |path| {
        let path = path.to_string();
        problems.push(format!("{}: unknown key {path:?}", place(&path)));
    });
    match parsed {
        Ok(parsed) if problems.is_empty() => Ok(parsed),
        Ok(_) => Err(failed(problems)),
        Err(error) => {
            let said = error.to_string();
            let path = said.split("in `").nth(1).and_then(|rest| rest.split('`').next()).unwrap_or_default();
            problems.push(format!("{}: {}", place(path), said.trim().replace('\n', " ")));
            Err(failed(problems))
        }
    }
}

/// Sets the value at `path` and returns the keys as the file spells them.
fn overlay(table: &mut toml::Table, path: &[&str], value: &str) -> Vec<String> {
    let Some((first, rest)) = path.split_first() else { return Vec::new() };
    let spelled = table.keys().find(|key| variable_part(key) == first.to_uppercase()).cloned();
    let key = spelled.unwrap_or_else(|| first.to_lowercase());
    let mut keys = vec![key.clone()];
    if rest.is_empty() {
        table.insert(key, scalar(value));
    } else {
        let entry = table.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let toml::Value::Table(inner) = entry {
            keys.extend(overlay(inner, rest, value));
        }
    }
    keys
}

/// A variable's text as the TOML value that it looks like.
fn scalar(text: &str) -> toml::Value {
    if let Ok(yes) = text.parse::<bool>() {
        return yes.into();
    }
    if text.starts_with('[')
        && let Ok(mut list) = toml::from_str::<toml::Table>(&format!("list = {text}"))
        && let Some(list) = list.remove("list")
    {
        return list;
    }
    match text.parse::<i64>() {
        Ok(number) => number.into(),
        Err(_) => text.into(),
    }
}

/// How a key is spelled in the name of a variable.
fn variable_part(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// The line on which the dotted `path` is set, from 1.
fn line_of(text: &str, path: &str) -> Option<usize> {
    let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
    let table: Vec<_> = table.split('.').filter(|part| !part.is_empty()).collect();
    text_keys(text, &table)
        .into_iter()
        .find(|(name, _)| name == key)
        .map(|(_, line)| line)
        .or_else(|| text_header(text, path))
}

/// The keys that are set under the header of `table`, with their lines.
fn text_keys(text: &str, table: &[&str]) -> Vec<(String, usize)> {
    let wanted = table.join(".");
    let mut current = String::new();
    let mut keys = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            current = line.trim_matches(['[', ']', ' ']).replace('"', "");
        } else if let Some((key, _)) = line.split_once('=')
            && current == wanted
        {
            keys.push((key.trim().trim_matches('"').to_owned(), at + 1));
        }
    }
    keys
}

fn text_header(text: &str, path: &str) -> Option<usize> {
    let header = |line: &str| line.trim().trim_matches(['[', ']', ' ']).replace('"', "");
    text.lines().position(|line| line.trim_start().starts_with('[') && header(line) == path).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_origin_is_known() {
        let text = "[bus.order-desk]\ncommit_with_transaction = true\nparallelism = 4\n";
        let config =
            Config::parse(text, "barid.toml", variables(&[("BARID_BUS__ORDER_DESK__PARALLELISM", "8")]))
                .unwrap();
        let bus = config.bus("order-desk");
        assert_eq!(bus.parallelism, NonZeroUsize::new(8));
        assert_eq!(bus.commit_with_transaction, Some(true));
        assert_eq!(bus.origins["commit_with_transaction"], "barid.toml:2");
        assert_eq!(bus.origins["parallelism"], "variable BARID_BUS__ORDER_DESK__PARALLELISM");
    }

    #[test]
    fn all_unknown_keys_are_reported_at_once_with_file_and_line() {
        let text = "[bus.a]\nparalelism = 1\n\n[bus.b]\nprefetch = 2\ncommit = true\n\n[buz]\nx = 1\n";
        let said = Config::parse(text, "barid.toml", variables(&[("BARID_BUS__A__ATEMPTS", "1")]))
            .unwrap_err()
            .to_string();
        for part in [
            "barid.toml:2",
            "paralelism",
            "barid.toml:6",
            "commit",
            "barid.toml:8",
            "buz",
            "BARID_BUS__A__ATEMPTS",
        ] {
            assert!(said.contains(part), "{part} is missing in {said}");
        }
    }

    #[test]
    fn a_wrong_type_names_the_line() {
        let said =
            Config::parse("[bus.a]\nparallelism = \"many\"\n", "barid.toml", []).unwrap_err().to_string();
        assert!(said.contains("barid.toml:2") && said.contains("parallelism"), "{said}");
    }
}
