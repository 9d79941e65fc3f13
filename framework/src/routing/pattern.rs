//! Name patterns such as `orders.*`, and which of two is the more specific one. Pure.

use crate::limits::NAME_BYTES_MAX;

/// A message name in which each `*` stands for any characters, also for none and for dots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(String);

impl Pattern {
    /// Takes any text; [`Pattern::problem`] says whether it can match a name.
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Why no message name can ever match it.
    pub(crate) fn problem(&self) -> Option<String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'*');
        let fits = (1..=NAME_BYTES_MAX).contains(&self.0.len()) && self.0.bytes().all(allowed);
        (!fits).then(|| {
            format!("pattern {:?} is not 1 to {NAME_BYTES_MAX} characters out of A-Z a-z 0-9 . _ - *", self.0)
        })
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        covers(self.0.as_bytes(), name.as_bytes())
    }

    /// Whether it matches everything that `other` matches.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        covers(self.0.as_bytes(), other.0.as_bytes())
    }

    /// Whether some name matches both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.0.as_bytes(), other.0.as_bytes());
        // reach[j]: the rest of `a` and the rest of `b` from j on can be the same text.
        let mut reach: Vec<bool> = (0..=b.len()).map(|j| b[j..].iter().all(|c| *c == b'*')).collect();
        for i in (0..a.len()).rev() {
            let mut next = vec![false; b.len() + 1];
            next[b.len()] = a[i] == b'*' && reach[b.len()];
            for j in (0..b.len()).rev() {
                next[j] = match (a[i], b[j]) {
                    // A star ends, or takes what the other side has next.
                    (b'*', _) => reach[j] || next[j + 1],
                    (_, b'*') => next[j + 1] || reach[j],
                    (one, other) => one == other && reach[j + 1],
                };
            }
            reach = next;
        }
        reach[0]
    }

    /// Letters that are not wild: of two patterns of which one contains the other, the more specific one has more.
    pub(crate) fn literals(&self) -> usize {
        self.0.bytes().filter(|b| *b != b'*').count()
    }
}

/// Whether `pattern` matches `text`. A star in the text is a letter that only a star matches, which makes this the question
/// whether one pattern contains another.
fn covers(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p, t));
                p += 1;
            }
            Some(letter) if *letter == text[t] => (p, t) = (p + 1, t + 1),
            _ => match back {
                // The last star takes one letter more.
                Some((star, taken)) => {
                    back = Some((star, taken + 1));
                    (p, t) = (star + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_characters() {
        for (pattern, name, expected) in [
            ("orders.*", "orders.place", true),
            ("orders.*", "orders.place.now", true),
            ("orders.*", "orders", false),
            ("*", "anything", true),
            ("*.placed", "orders.placed", true),
            ("*.placed", "orders.placed.v2", false),
            ("a*b*c", "a.b.b.c", true),
            ("a*b*c", "a.c.b", false),
            ("orders.place", "orders.place", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn one_pattern_contains_another_overlaps_it_or_has_nothing_to_do_with_it() {
        for (a, b, contains, overlaps) in [
            ("*", "orders.*", true, true),
            ("orders.*", "orders.*", true, true),
            ("orders.*", "orders.p*", true, true),
            ("orders.p*", "orders.*", false, true),
            ("orders.*", "*.placed", false, true),
            ("orders.*", "billing.*", false, false),
            ("a*", "*b", false, true),
            ("a*c", "a*b", false, false),
            ("a*b", "ab", true, true),
            ("a*b", "a", false, false),
            ("x", "x", true, true),
        ] {
            let (pa, pb) = (Pattern::new(a), Pattern::new(b));
            assert_eq!(pa.contains(&pb), contains, "{a} contains {b}");
            assert_eq!(pa.overlaps(&pb), overlaps, "{a} overlaps {b}");
            assert_eq!(pb.overlaps(&pa), overlaps, "{b} overlaps {a}");
        }
    }

    #[test]
    fn what_no_name_matches_is_a_problem() {
        assert!(Pattern::new("orders.*").problem().is_none());
        for text in ["", "orders place", "orders/#"] {
            assert!(Pattern::new(text).problem().is_some(), "{text:?}");
        }
    }
}
