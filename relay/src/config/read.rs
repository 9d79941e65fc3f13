//! From a file and the environment to a [`Config`], or to everything that is wrong with it.

use std::{fs, path::Path};

use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use super::{
    Config, check,
    keys::{self, Kind},
};

/// What every overriding variable begins with.
const PREFIX: &str = "BARID_RELAY__";

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("\n"))]
pub struct ConfigError {
    /// One line each: where, what, and what to do.
    pub problems: Vec<String>,
}

/// One value and where it was written.
pub(super) struct Leaf {
    /// `["source", "main", "url"]`, `["route", "0", "sink"]`.
    pub(super) path: Vec<String>,
    pub(super) value: Value,
    /// `relay.toml:3`, or the name of a variable.
    pub(super) origin: String,
}

/// Reads `file`, puts `environment` over it and checks the result.
///
/// # Errors
/// [`ConfigError`] with every problem that was found.
pub fn read(file: &Path, environment: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let text = fs::read_to_string(file).map_err(|error| ConfigError {
        problems: vec![format!(
            "{}: cannot be read: {error}; name another file with --config",
            file.display()
        )],
    })?;
    parse(&file.display().to_string(), &text, environment)
}

/// As [`read`], with the text of the file.
pub(super) fn parse(
    file: &str,
    text: &str,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let mut leaves = Vec::new();
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().map_or(1, |span| line(text, span.start));
        // Not the error's own text: it would show the line, and with it a password.
        problems.push(format!("{file}:{at}: {}", error.message()));
    }
    if problems.is_empty() {
        let from = File { name: file, text };
        from.tables(table.get_ref(), &mut leaves, &mut problems);
    }
    override_from(environment, &mut leaves, &mut problems);
    leaves.retain(|leaf| fits(leaf, &mut problems));
    if !problems.is_empty() {
        // In the order of the lines; variables after them.
        problems.sort_by_key(|problem| line_of(file, problem));
        return Err(ConfigError { problems });
    }
    let mut config: Config = match assemble(&leaves).try_into() {
        Ok(config) => config,
        Err(error) => {
            let problem = check::locate(&leaves, error.message());
            return Err(ConfigError { problems: vec![problem] });
        }
    };
    super::foreign::places(&mut config, &leaves);
    let problems = check::problems(&config, &leaves, file);
    if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
}

struct File<'a> {
    name: &'a str,
    text: &'a str,
}

impl File<'_> {
    fn origin<T>(&self, of: &Spanned<T>) -> String {
        format!("{}:{}", self.name, line(self.text, of.span().start))
    }

    fn tables(&self, root: &DeTable<'_>, leaves: &mut Vec<Leaf>, problems: &mut Vec<String>) {
        for (section, value) in root {
            let name: &str = section.get_ref();
            let origin = self.origin(section);
            match (name, value.get_ref()) {
                ("source" | "sink" | "resource" | "format", DeValue::Table(named)) => {
                    for (of, table) in named {
                        self.table(&[name, of.get_ref()], table, leaves, problems);
                    }
                }
                ("relay" | "admin", DeValue::Table(_)) => {
                    if name == "admin" {
                        // The section alone turns it on.
                        let (path, value) = (vec![name.to_owned()], Value::Table(Table::new()));
                        leaves.push(Leaf { path, value, origin });
                    }
                    self.table(&[name], value, leaves, problems);
                }
                ("route", DeValue::Array(routes)) => {
                    for (at, table) in routes.iter().enumerate() {
                        self.table(&[name, &at.to_string()], table, leaves, problems);
                    }
                }
                ("source" | "sink" | "resource" | "format", _) => {
                    problems.push(format!("{origin}: write [{name}.NAME], each with a name"))
                }
                ("relay" | "admin", _) => problems.push(format!("{origin}: write [{name}]")),
                ("route", _) => problems.push(format!("{origin}: write [[route]], with two brackets")),
                _ => problems.push(format!(
                    "{origin}: unknown section \"{name}\"; {}",
                    keys::hint(name, keys::SECTIONS.iter().copied())
                )),
            }
        }
    }

    fn table(
        &self,
        path: &[&str],
        table: &Spanned<DeValue<'_>>,
        leaves: &mut Vec<Leaf>,
        problems: &mut Vec<String>,
    ) {
        let DeValue::Table(table) = table.get_ref() else {
            let origin = self.origin(table);
            return problems
                .push(format!("{origin}: \"{}\" is a single value where a section belongs", path.join(".")));
        };
        for (key, value) in table {
            let name: &str = key.get_ref();
            let origin = self.origin(key);
            let path: Vec<String> = path.iter().copied().chain([name]).map(str::to_owned).collect();
            match value.get_ref() {
                DeValue::Table(inner) => {
                    for (property, value) in inner {
                        let path = path.iter().cloned().chain([property.get_ref().to_string()]).collect();
                        let origin = self.origin(property);
                        leaves.push(Leaf { path, value: plain(value.get_ref()), origin });
                    }
                }
                value => leaves.push(Leaf { path, value: plain(value), origin }),
            }
        }
    }
}

/// A value without its place in the file. What no key can hold becomes a date, which no key can hold either.
fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::Float(f64::NAN), Value::Integer),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Float(_) => Value::Float(f64::NAN),
        _ => Value::Array(Vec::new()),
    }
}

/// Variables replace what the file says, or add to it.
fn override_from(
    environment: impl Iterator<Item = (String, String)>,
    leaves: &mut Vec<Leaf>,
    problems: &mut Vec<String>,
) {
    let mut variables: Vec<_> = environment.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort();
    for (origin, text) in variables {
        let path: Vec<String> = origin[PREFIX.len()..].split("__").map(str::to_lowercase).collect();
        let known = leaves.iter().find(|leaf| alike(&leaf.path, &path)).map(|leaf| leaf.path.clone());
        let path = known.unwrap_or_else(|| named_alike(leaves, path));
        let depth = if keys::is_single(&path[0]) { 2 } else { 3 };
        if !keys::SECTIONS.contains(&path[0].as_str()) || path.len() < depth {
            problems.push(format!("{origin}: unknown; write for instance {PREFIX}SOURCE__NAME__URL"));
            continue;
        }
        let value = match key(&path) {
            Some(Kind::Whole) => text.parse().map_or_else(|_| Value::String(text), Value::Integer),
            Some(Kind::Switch) => text.parse().map_or_else(|_| Value::String(text), Value::Boolean),
            _ => Value::String(text),
        };
        leaves.retain(|leaf| leaf.path != path);
        leaves.push(Leaf { path, value, origin });
    }
}

/// The path with the name of the section as the file spells it, if it does.
fn named_alike(leaves: &[Leaf], mut path: Vec<String>) -> Vec<String> {
    let section = |leaf: &&Leaf| path.len() > 2 && leaf.path.len() > 2 && alike(&leaf.path[..2], &path[..2]);
    if let Some(spelled) = leaves.iter().find(section).map(|leaf| leaf.path[1].clone()) {
        path[1] = spelled;
    }
    path
}

fn alike(a: &[String], b: &[String]) -> bool {
    let folded = |text: &String| text.to_lowercase().replace(['-', '.'], "_");
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| folded(a) == folded(b))
}

/// What the key at the end of a path holds, if there is such a key.
fn key(path: &[String]) -> Option<Kind> {
    let at = if keys::is_single(&path[0]) { 1 } else { 2 };
    let kind = keys::of(&path[0]).iter().find(|(name, _)| *name == path[at])?.1;
    let depth = at + 1 + usize::from(kind == Kind::Properties);
    (path.len() == depth).then_some(kind)
}

/// Whether there is such a key and it can hold such a value.
fn fits(leaf: &Leaf, problems: &mut Vec<String>) -> bool {
    let Leaf { path, value, origin } = leaf;
    if path.len() == 1 {
        return true;
    }
    let (section, rest) = path.split_at(if keys::is_single(&path[0]) { 1 } else { 2 });
    let section =
        if path[0] == "route" { "[[route]]".to_owned() } else { format!("[{}]", section.join(".")) };
    let name = rest.join(".");
    let wants = match (key(path), value) {
        (Some(Kind::Text | Kind::Properties), Value::String(_)) => return true,
        (Some(Kind::Whole), Value::Integer(number)) if *number >= 0 => return true,
        (Some(Kind::Switch), Value::Boolean(_)) => return true,
        (None, _) => {
            let hint = keys::hint(&rest[0], keys::of(&path[0]).iter().map(|(name, _)| *name));
            problems.push(format!("{origin}: unknown key \"{name}\" in {section}; {hint}"));
            return false;
        }
        (Some(Kind::Whole), _) => "a whole number, 0 or more",
        (Some(Kind::Switch), _) => "true or false",
        (Some(_), _) => "a text in quotes",
    };
    problems.push(format!("{origin}: \"{name}\" in {section} must be {wants}"));
    false
}

/// The leaves as one table; routes in the order of their numbers.
fn assemble(leaves: &[Leaf]) -> Table {
    let mut root = Table::new();
    let mut routes = std::collections::BTreeMap::<usize, Table>::new();
    for Leaf { path, value, .. } in leaves {
        if path[0] == "route" {
            let at = path[1].parse().unwrap_or(usize::MAX);
            routes.entry(at).or_default().insert(path[2].clone(), value.clone());
            continue;
        }
        insert(&mut root, path, value);
    }
    if !routes.is_empty() {
        root.insert("route".to_owned(), Value::Array(routes.into_values().map(Value::Table).collect()));
    }
    root
}

fn line_of(file: &str, problem: &str) -> usize {
    let at = problem.strip_prefix(file).and_then(|rest| rest.split(':').nth(1)?.parse().ok());
    at.unwrap_or(usize::MAX)
}

fn insert(table: &mut Table, path: &[String], value: &Value) {
    let [section, rest @ ..] = path else { return };
    if rest.is_empty() {
        table.insert(section.clone(), value.clone());
    } else if let Value::Table(inner) = table.entry(section).or_insert_with(|| Value::Table(Table::new())) {
        insert(inner, rest, value);
    }
}

fn line(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}
