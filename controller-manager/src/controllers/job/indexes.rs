//! Completion indexes as text: `0-3,5`, the form of `status.completedIndexes` (KEP-2214).

use std::{collections::BTreeSet, fmt::Write};

/// Reads the text form; what is no index, or not below `completions`, is left out.
pub(super) fn parse(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut out = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<i32>(), last.trim().parse::<i32>()) {
            out.extend(first.max(0)..=last.min(completions - 1));
        }
    }
    out
}

/// Writes the text form: runs of three and more are shortened, two stand side by side.
pub(super) fn print(indexes: &BTreeSet<i32>) -> String {
    let mut out = String::new();
    let mut all = indexes.iter().copied().peekable();
    while let Some(first) = all.next() {
        let mut last = first;
        while let Some(next) = all.next_if(|n| *n == last + 1) {
            last = next;
        }
        let comma = if out.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _infallible = match last - first {
            0 => write!(out, "{comma}{first}"),
            1 => write!(out, "{comma}{first},{last}"),
            _ => write!(out, "{comma}{first}-{last}"),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_indexes_are_the_same_thing() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7,8"] {
            assert_eq!(print(&parse(text, 100)), text);
        }
        assert_eq!(print(&parse("2-9", 4)), "2,3");
        assert_eq!(print(&parse("x,1,-", 4)), "1");
    }
}
