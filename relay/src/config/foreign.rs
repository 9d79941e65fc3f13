//! A table of somebody else: its keys in `[source.NAME]`, and the mapping that they make.

use super::{Config, SourceConfig, keys, read::Leaf};
use crate::source::{
    identifier::Identifier,
    mapping::{EXTRA_COLUMNS_MAX, Mapping, Named, Preset, Role},
};

/// What the relay calls the table itself: a view of that name would hide it.
const OUTBOX: &str = "outbox";

/// Notes where the keys are, because what they name is only looked for once the database is open.
pub(super) fn places(config: &mut Config, leaves: &[Leaf]) {
    for leaf in leaves.iter().filter(|leaf| leaf.path[0] == "source" && leaf.path.len() > 2) {
        if let Some(source) = config.source.get_mut(&leaf.path[1]) {
            let key = leaf.path[2..].join(".");
            source.places.insert(key.clone(), format!("{}: {key}", leaf.origin));
        }
    }
}

impl SourceConfig {
    /// The table of somebody else that is read, if one is.
    pub(super) fn mapping(&self) -> Option<Mapping> {
        let preset = self.preset.as_deref().and_then(Preset::named);
        let by_preset = || preset.and_then(|preset| preset.table().parse().ok());
        let table = self.table.clone().or_else(by_preset)?;
        let place = |key: &str| self.places.get(key).cloned();
        let named = |key: String, column: &str| {
            let column = column.parse().ok()?;
            Some(Named { column, place: place(&key).unwrap_or(key) })
        };
        let columns = self.columns.iter();
        let columns = columns.filter_map(|(role, column)| {
            Some((Role::named(role)?, named(format!("columns.{role}"), column)?))
        });
        let extra = self.extra().filter_map(|column| named("extra_columns".to_owned(), column));
        Some(Mapping {
            table,
            place: place("table").or_else(|| place("preset")).unwrap_or_else(|| "table".to_owned()),
            preset,
            columns: columns.collect(),
            extra: extra.collect(),
        })
    }

    fn extra(&self) -> impl Iterator<Item = &str> {
        let all = self.extra_columns.as_deref().unwrap_or_default().split(',').map(str::trim);
        all.filter(|column| !column.is_empty())
    }
}

/// Everything that does not fit together, as far as it can be told without the database.
pub(super) fn check(config: &Config, say: &mut impl FnMut(&[&str], String)) {
    for (name, source) in &config.source {
        let mut at = |key: &[&str], what: String| {
            let path: Vec<&str> = ["source", name.as_str()].into_iter().chain(key.iter().copied()).collect();
            say(&path, format!("{} in [source.{name}]: {what}", key.join(".")));
        };
        if let Some(preset) = source.preset.as_deref().filter(|preset| Preset::named(preset).is_none()) {
            let known = Preset::ALL.map(|(name, _)| name);
            let hint = keys::hint(preset, known.into_iter());
            at(&["preset"], format!("there is no preset {preset:?}; {hint} (presets: {})", known.join(", ")));
        }
        if source.table.as_ref().is_some_and(|table| table.as_str() == OUTBOX) {
            let what = "\"outbox\" is what the relay calls the table itself; rename the table, or leave the key out for Barid's own";
            at(&["table"], what.to_owned());
        }
        if source.table.is_none() && source.preset.is_none() {
            let keys =
                [("columns", !source.columns.is_empty()), ("extra_columns", source.extra_columns.is_some())];
            for (key, _) in keys.into_iter().filter(|(_, set)| *set) {
                at(
                    &[key],
                    "is about a table of somebody else: name it with table, or with preset".to_owned(),
                );
            }
        }
        for (role, column) in &source.columns {
            if Role::named(role).is_none() {
                let hint = keys::hint(role, Role::ALL.into_iter().map(Role::name));
                at(&["columns", role], format!("the outbox has no column {role:?}; {hint}"));
            }
            plain(&["columns", role], column, &mut at);
        }
        for column in source.extra() {
            plain(&["extra_columns"], column, &mut at);
        }
        if source.extra().count() > EXTRA_COLUMNS_MAX {
            at(&["extra_columns"], format!("names more than {EXTRA_COLUMNS_MAX} columns; name fewer"));
        }
    }
}

fn plain(key: &[&str], column: &str, at: &mut impl FnMut(&[&str], String)) {
    if let Err(error) = column.parse::<Identifier>() {
        at(key, error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::{super::read::parse, *};

    fn with(keys: &str) -> Result<Config, Vec<String>> {
        let text = format!(
            "[source.main]\nurl = \"postgres://db/shop\"\n{keys}\n\
             [sink.log]\nkind = \"kafka\"\nbrokers = \"k:1\"\n[[route]]\ndestination = \"*\"\nsink = \"log\"\n"
        );
        parse("relay.toml", &text, std::iter::empty()).map_err(|error| error.problems)
    }

    #[test]
    fn a_preset_and_columns_make_a_mapping_that_knows_where_it_was_said() {
        let keys = "preset = \"debezium\"\nextra_columns = \"tenant, part\"\n[source.main.columns]\npayload = \"body\"";
        let config = with(keys).unwrap();
        let mapping = config.source["main"].options().table.unwrap();
        assert_eq!((mapping.table.as_str(), mapping.preset), ("outboxevent", Some(Preset::Debezium)));
        assert_eq!(mapping.place, "relay.toml:3: preset");
        assert_eq!(mapping.columns[&Role::Payload].place, "relay.toml:6: columns.payload");
        let extra: Vec<_> = mapping.extra.iter().map(|named| named.column.as_str()).collect();
        assert_eq!(extra, ["tenant", "part"]);
        let shown = config.to_string();
        assert!(
            shown.contains("preset = \"debezium\"") && shown.contains("columns.payload = \"body\""),
            "{shown}"
        );
        assert!(with("").unwrap().source["main"].options().table.is_none());
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let problems = with(
            "preset = \"debezum\"\ntable = \"outbox\"\nextra_columns = \"a b\"\n\
             [source.main.columns]\nbody = \"payload\"\nid = \"x\\\"; DROP TABLE outbox\"",
        )
        .unwrap_err();
        let expected = [
            "relay.toml:3: preset in [source.main]: there is no preset \"debezum\"; did you mean \"debezium\"?",
            "relay.toml:4: table in [source.main]: \"outbox\" is what the relay calls",
            "relay.toml:7: columns.body in [source.main]: the outbox has no column \"body\"; known keys: seq",
            "relay.toml:8: columns.id in [source.main]: \"x\\\"; DROP TABLE outbox\" is no plain name",
            "relay.toml:5: extra_columns in [source.main]: \"a b\" is no plain name",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}\n  is not\n{expected}");
        }
        let alone = with("extra_columns = \"a\"").unwrap_err();
        assert!(alone[0].contains("name it with table, or with preset"), "{alone:?}");
    }
}
