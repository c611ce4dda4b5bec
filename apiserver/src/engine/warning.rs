//! Warnings as headers of an answer: each once, and no more of them than clients can be expected to read.
//!
//! Contract: RFC 7234, section 5.5; KEP-1693 for the code 299 and the bounds.

use http::{HeaderMap, header::WARNING};

/// Characters of all warnings together.
const MAX_TOTAL: usize = 4 * 1024;
/// Characters of each warning where all together are too long.
const MAX_EACH: usize = 256;

/// Adds a header for each warning.
pub(crate) fn append(headers: &mut HeaderMap, warnings: &[String]) {
    for warning in bounded(warnings) {
        let text = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
        // A warning that is no legal header value is dropped: it must not fail a write that happened.
        if let Ok(value) = text.parse() {
            headers.append(WARNING, value);
        }
    }
}

/// Each warning once; shortened, and only the first ones, where they are too long together.
fn bounded(warnings: &[String]) -> Vec<&str> {
    let mut once: Vec<&str> = Vec::new();
    for warning in warnings.iter().map(String::as_str).filter(|warning| !warning.is_empty()) {
        if !once.contains(&warning) {
            once.push(warning);
        }
    }
    if once.iter().map(|warning| warning.chars().count()).sum::<usize>() <= MAX_TOTAL {
        return once;
    }
    let mut total = 0;
    let mut fits = |warning: &&str| {
        let room = total < MAX_TOTAL;
        total += warning.chars().count();
        room
    };
    once.into_iter().map(shortened).take_while(|warning| fits(warning)).collect()
}

fn shortened(warning: &str) -> &str {
    warning.char_indices().nth(MAX_EACH).map_or(warning, |(end, _)| &warning[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_once_and_within_bounds() {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(bounded(&texts(&["a", "", "b", "a"])), ["a", "b"]);
        let long = "é".repeat(300);
        assert_eq!(bounded(&texts(&[&long])), [long.as_str()]);
        let many: Vec<String> = (0..40).map(|i| format!("{i} {long}")).collect();
        let told = bounded(&many);
        assert_eq!((told.len(), told[0].chars().count()), (MAX_TOTAL / MAX_EACH, MAX_EACH));
        let mut headers = HeaderMap::new();
        append(&mut headers, &texts(&["say \"x\\y\"", "bad\n"]));
        let all: Vec<_> = headers.get_all(WARNING).iter().collect();
        assert_eq!(all, [r#"299 - "say \"x\\y\"""#]);
    }
}
