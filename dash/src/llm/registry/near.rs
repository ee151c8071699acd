//! Names that are near another.

/// Characters of a name that are looked at.
pub(super) const NAME_CHARS_MAX: usize = 100;
/// Most names that are suggested.
const NEAR_MAX: usize = 3;
/// A part of a name must have as many characters to suggest the whole.
const PART_CHARS_MIN: usize = 3;

/// The names nearest to `name`, nearest first: few edits away, or names it is a part of.
pub(super) fn nearest(name: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let wanted: Vec<char> = lower(name);
    let far = (wanted.len() / 3).max(2);
    let mut near: Vec<(usize, String)> = names
        .filter_map(|one| {
            let other = lower(&one);
            let edits = distance(&wanted, &other);
            if edits <= far {
                return Some((edits, one));
            }
            let is_part = wanted.len() >= PART_CHARS_MIN
                && other.windows(wanted.len()).any(|part| part == wanted);
            is_part.then_some((far + 1, one))
        })
        .collect();
    near.sort();
    near.dedup();
    near.into_iter()
        .take(NEAR_MAX)
        .map(|(_, one)| one)
        .collect()
}

fn lower(name: &str) -> Vec<char> {
    let chars = name.chars().take(NAME_CHARS_MAX);
    chars.flat_map(char::to_lowercase).collect()
}

/// Levenshtein's distance: insertions, deletions and replacements of one character.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, x) in a.iter().enumerate() {
        // `left` is the cell before, `corner` the one before in the row above.
        let (mut left, mut corner) = (at + 1, at);
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b) {
            let replaced = corner + usize::from(x != y);
            corner = *cell;
            left = replaced.min(left + 1).min(corner + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn the_distance_counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
            ("gpt-5", "gpt-5", 0),
        ] {
            assert_eq!(distance(&lower(a), &lower(b)), edits, "{a} {b}");
        }
    }

    #[test]
    fn near_names_come_first_and_far_ones_not_at_all() {
        let names = ["claude-opus-5", "claude-haiku-4-5", "gpt-5-mini"].map(str::to_owned);
        let near = |name| nearest(name, names.clone().into_iter());
        assert_eq!(near("claude-opus-4"), ["claude-opus-5"]);
        assert_eq!(near("GPT5-mini"), ["gpt-5-mini"]);
        assert_eq!(near("haiku"), ["claude-haiku-4-5"]);
        assert_eq!(near("llama"), Vec::<String>::new());
    }
}
