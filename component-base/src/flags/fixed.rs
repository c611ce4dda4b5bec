//! Flags of upstream of which not every value can be served: the others are refused by name, never ignored.
//!
//! Contract: upstream's flags of the same names and defaults, so that a command line made for its daemons starts ours
//! as well; what a refused value would ask for stands in the reason.

use super::{Flag, Kind, Values};

/// A flag, and the values of it that the daemon can serve.
#[derive(Clone, Copy, Debug)]
pub struct Fixed {
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
    serves: fn(&str) -> bool,
    why: &'static str,
}

/// A value that cannot be served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{name}: Invalid value: {value:?}: {why}")]
pub struct Refused {
    /// The flag.
    pub name: &'static str,
    /// What was given.
    pub value: String,
    /// Why it cannot be served.
    pub why: &'static str,
}

/// A flag any value of which changes nothing here; the help says why.
pub const fn fixed(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Fixed {
    Fixed { name, kind, default, help, serves: |_| true, why: "" }
}

impl Fixed {
    /// Serves these values only.
    #[must_use]
    pub const fn only(self, serves: fn(&str) -> bool, why: &'static str) -> Self {
        Self { serves, why, ..self }
    }
}

/// `false`, or nothing at all.
pub fn is_off(value: &str) -> bool {
    matches!(value, "" | "false" | "f" | "F" | "FALSE" | "False" | "0")
}

/// `true`.
pub fn is_on(value: &str) -> bool {
    !is_off(value)
}

/// Nothing.
pub fn is_empty(value: &str) -> bool {
    value.is_empty()
}

/// Whether versions are said of this component only, and are all the one that is wanted.
fn are(value: &str, wanted: &str) -> bool {
    let is = |one: &str| one.strip_prefix("kube=").unwrap_or(one).trim_start_matches('v') == wanted;
    value.split(',').filter(|one| !one.is_empty()).all(is)
}

/// Those that all daemons of the control plane have.
pub const COMMON: &[Fixed] = &[
    fixed("emulated-version", Kind::Strings, "", "version whose features are served, as kube=1.36")
        .only(|value| are(value, "1.36"), "no version but 1.36 is emulated"),
    fixed("min-compatibility-version", Kind::Strings, "", "oldest version of other daemons, as kube=1.35")
        .only(|value| are(value, "1.35"), "must be 1.35, the version before the emulated one"),
    fixed(
        "show-hidden-metrics-for-version",
        Kind::String,
        "",
        "version, the one before this, whose hidden metrics are shown; there are none",
    )
    .only(
        |value| matches!(value, "" | "1.35"),
        "must be omitted or have the value '1.35': only the previous minor version is allowed",
    ),
];

/// One that most of them have beside those.
pub const OVER_LOCALHOST: Fixed = fixed(
    "unsupported-kube-api-over-localhost",
    Kind::Bool,
    "false",
    "reach the API server as localhost, whatever the kubeconfig says",
)
.only(is_off, "the API server is reached as the kubeconfig says");

/// The flags.
pub fn flags(of: &'static [Fixed]) -> impl Iterator<Item = Flag> {
    of.iter().map(|flag| Flag::new(flag.name, flag.kind, flag.default, flag.help))
}

/// Refuses values that cannot be served.
///
/// # Errors
/// For the first of them.
pub fn check(of: &[Fixed], values: &Values) -> Result<(), Refused> {
    let given = values.effective();
    for flag in of {
        let value = given.get(flag.name).map_or("", String::as_str);
        if !(flag.serves)(value) {
            return Err(Refused { name: flag.name, value: value.to_owned(), why: flag.why });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{FlagSet, Parsed};

    fn refusal(flag: &str) -> Option<String> {
        let all = FlagSet::new("test", "Test.", []).with(flags(COMMON));
        match all.parse([flag.to_owned()]).unwrap() {
            Parsed::Run(values) => check(COMMON, &values).err().map(|refused| refused.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_asks_for_nothing_else_passes_and_the_rest_is_refused_by_name() {
        for flag in [
            "--emulated-version=kube=1.36",
            "--emulated-version=1.36",
            "--min-compatibility-version=kube=1.35",
            "--show-hidden-metrics-for-version=1.35",
        ] {
            assert_eq!(refusal(flag), None, "{flag}");
        }
        for flag in [
            "--emulated-version=kube=1.35",
            "--min-compatibility-version=1.30",
            "--show-hidden-metrics-for-version=1.20",
        ] {
            let name = flag.trim_start_matches('-').split('=').next().unwrap();
            assert!(refusal(flag).unwrap().starts_with(&format!("--{name}: Invalid value: ")), "{flag}");
        }
    }
}
