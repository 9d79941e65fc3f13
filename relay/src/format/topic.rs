//! From a value to a topic by a regular expression, as Kafka Connect's `RegexRouter` does it.
//!
//! When the expression matches the whole value, the first match in it is replaced; otherwise the value itself is the topic. The
//! replacement is Java's: `$1`, `${name}`, and a backslash before what is meant literally. The expressions are those of the crate
//! `regex`: Java's without look-around and back references.

use regex::{Captures, Regex};

use super::Problem;

/// A regular expression and what replaces its first match.
#[derive(Debug)]
pub(super) struct Router {
    whole: Regex,
    first: Regex,
    replacement: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A group, by its number.
    Group(usize),
}

impl Router {
    /// As the two settings say.
    pub(super) fn new(regex: &str, replacement: &str) -> Result<Self, Vec<Problem>> {
        let compiled =
            Regex::new(regex).and_then(|first| Ok((Regex::new(&format!(r"\A(?:{regex})\z"))?, first)));
        let (whole, first) = compiled.map_err(|error| {
            // The last line says what is wrong; the ones before it draw where.
            let error = error.to_string();
            let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            let what = format!("{regex:?} is no regular expression: {why} (look-around and back references are not supported)");
            vec![Problem::new("topic_regex", what)]
        })?;
        let replacement = parts(replacement, &first)
            .map_err(|why| vec![Problem::new("topic_replacement", format!("{replacement:?}: {why}"))])?;
        Ok(Self { whole, first, replacement })
    }

    /// The topic for `value`.
    pub(super) fn route(&self, value: &str) -> String {
        if !self.whole.is_match(value) {
            return value.to_owned();
        }
        let replace = |found: &Captures<'_>| {
            self.replacement
                .iter()
                .map(|part| match part {
                    Part::Text(text) => text.as_str(),
                    Part::Group(group) => found.get(*group).map_or("", |text| text.as_str()),
                })
                .collect::<String>()
        };
        self.first.replacen(value, 1, replace).into_owned()
    }
}

/// The parts of a replacement text.
fn parts(text: &str, regex: &Regex) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        match character {
            '\\' => {
                let next = rest.chars().next().ok_or("a backslash at the end stands before nothing")?;
                plain.push(next);
                rest = &rest[next.len_utf8()..];
            }
            '$' => {
                let (group, behind) = group(rest, regex)?;
                rest = behind;
                parts.extend((!plain.is_empty()).then(|| Part::Text(std::mem::take(&mut plain))));
                parts.push(Part::Group(group));
            }
            other => plain.push(other),
        }
    }
    parts.extend((!plain.is_empty()).then_some(Part::Text(plain)));
    Ok(parts)
}

/// The group that follows a `$`, and what is behind it.
fn group<'a>(text: &'a str, regex: &Regex) -> Result<(usize, &'a str), String> {
    if let Some(named) = text.strip_prefix('{') {
        let (name, behind) = named.split_once('}').ok_or("\"${\" has no \"}\"")?;
        let at = regex.capture_names().position(|known| known == Some(name));
        return Ok((at.ok_or_else(|| format!("topic_regex has no group called {name:?}"))?, behind));
    }
    let digit =
        |text: &str| text.bytes().next().filter(u8::is_ascii_digit).map(|digit| usize::from(digit - b'0'));
    let mut group =
        digit(text).ok_or("a \"$\" stands before a number or {name}; write \\$ for the character")?;
    let mut behind = &text[1..];
    // More digits belong to it as long as there is such a group.
    while let Some(next) =
        digit(behind).map(|digit| group * 10 + digit).filter(|next| *next < regex.captures_len())
    {
        group = next;
        behind = &behind[1..];
    }
    if group >= regex.captures_len() {
        return Err(format!("topic_regex has no group {group}"));
    }
    Ok((group, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(regex: &str, replacement: &str, value: &str, topic: &str) {
        let routed = Router::new(regex, replacement).unwrap().route(value);
        assert_eq!(routed, topic, "{regex} {replacement} {value}");
    }

    #[test]
    fn a_value_becomes_a_topic_as_in_java() {
        check("(?<routedByValue>.*)", "outbox.event.${routedByValue}", "order", "outbox.event.order");
        check("(?<routedByValue>.*)", "outbox.event.${routedByValue}", "", "outbox.event.");
        check("(.*)\\.(.*)", "$2-$1", "eu.orders", "orders-eu");
        check("(.*)", "$10", "a", "a0");
        check("(o)rder", "x\\$\\\\$1", "order", "x$\\o");
        check("order", "fixed", "order", "fixed");
        check("a|ab", "x", "ab", "xb");
    }

    #[test]
    fn a_value_that_does_not_match_as_a_whole_is_the_topic() {
        check("order", "x", "orders", "orders");
        check("order", "x", "reorder", "reorder");
    }

    #[test]
    fn what_cannot_be_used_names_its_key() {
        for (regex, replacement, key, says) in [
            ("(", "x", "topic_regex", "no regular expression"),
            ("(?=a)", "x", "topic_regex", "look-around"),
            ("(.*)", "$2", "topic_replacement", "no group 2"),
            ("(.*)", "${name}", "topic_replacement", "no group called \"name\""),
            ("(.*)", "${name", "topic_replacement", "has no \"}\""),
            ("(.*)", "a$", "topic_replacement", "stands before a number"),
            ("(.*)", "a\\", "topic_replacement", "backslash"),
        ] {
            let problems = Router::new(regex, replacement).unwrap_err();
            assert!(problems[0].key == key && problems[0].what.contains(says), "{problems:?}");
        }
    }
}
