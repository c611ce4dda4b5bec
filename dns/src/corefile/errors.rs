//! The `errors` directive.
//!
//! Contract: CoreDNS' `errors`.

use tracing::Level;

use super::{CorefileError, Line, rules};
use crate::failures::Consolidate;

/// `errors [stdout] { stacktrace; consolidate DURATION REGEXP [LEVEL] [show_first] }`.
pub(super) fn errors(line: &Line) -> Result<Vec<Consolidate>, CorefileError> {
    if let Some(place) = line.args().first().filter(|place| *place != "stdout") {
        return line.error(format!("errors: invalid log file: {place}"));
    }
    let mut out = Vec::new();
    for option in &line.block {
        match option.name() {
            // Where a panic comes from is told in any case.
            "stacktrace" => {}
            "consolidate" => out.push(consolidate(option)?),
            other => return option.error(format!("errors: unknown option {other}")),
        }
    }
    Ok(out)
}

fn consolidate(option: &Line) -> Result<Consolidate, CorefileError> {
    let [_, pattern, rest @ ..] = option.args() else {
        return option.error("consolidate needs a duration and a regular expression");
    };
    let (period, pattern) = (option.duration()?, rules::regex(option, pattern)?);
    let (mut level, mut show_first) = (None, false);
    for word in rest {
        let named = match word.as_str() {
            "warning" => Some(Level::WARN),
            "error" => Some(Level::ERROR),
            "info" => Some(Level::INFO),
            "debug" => Some(Level::DEBUG),
            _ => None,
        };
        match (named, word.as_str()) {
            (Some(_), _) if show_first => {
                return option.error("consolidate: the level must come before show_first");
            }
            (Some(_), _) if level.is_some() => return option.error("consolidate: there is one level"),
            (Some(named), _) => level = Some(named),
            (None, "show_first") => show_first = true,
            (None, other) => return option.error(format!("consolidate: unknown option {other}")),
        }
    }
    Ok(Consolidate { period, pattern, level: level.unwrap_or(Level::ERROR), show_first })
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn options_are_read_as_coredns_has_them() {
        let text = ". {\nerrors stdout {\nstacktrace\nconsolidate 5m \".* timeout$\" warning show_first\n\
                    consolidate 30s ^Failed\n}\n}";
        let all = parse(text).unwrap().remove(0).errors.unwrap();
        let told: Vec<String> =
            all.iter().map(|c| format!("{:?} {} {}", c.period, c.level, c.show_first)).collect();
        assert_eq!(told, ["300s WARN true", "30s ERROR false"]);
        for (text, want) in [
            ("consolidate 5m", "consolidate needs a duration and a regular expression"),
            ("consolidate soon x", "soon is no duration"),
            ("consolidate 5m x show_first error", "consolidate: the level must come before show_first"),
            ("consolidate 5m x error info", "consolidate: there is one level"),
            ("consolidate 5m x loud", "consolidate: unknown option loud"),
            ("consolidated", "errors: unknown option consolidated"),
        ] {
            let error = parse(&format!(". {{\nerrors {{\n{text}\n}}\n}}")).unwrap_err();
            assert_eq!(error.message, want, "{text}");
        }
    }
}
