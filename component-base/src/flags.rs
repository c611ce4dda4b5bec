//! Command line flags with pflag's semantics: one table per daemon from which parsing, defaults and `--help` follow.
//!
//! `--name=value`, `--name value`, bare booleans, `-v=2`, `-v 2`, `-v2`; `_` reads as `-`; of repeated scalars the last wins;
//! lists and maps add up over repetitions. An unknown flag is an error that names the nearest one.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, time::Duration};

use crate::{goduration, quantity::Quantity};

pub mod fixed;
pub mod group;

/// What values a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int,
    Float,
    String,
    Duration,
    Ip,
    Quantity,
    /// Comma-separated, repetitions add (`strings`).
    Strings,
    /// One element per repetition (`stringArray`).
    StringArray,
    /// `key=value` pairs, comma-separated, repetitions add.
    Map,
    /// `key=true|false` pairs, comma-separated, repetitions add.
    BoolMap,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Kind::Bool => "",
            Kind::Int => "int",
            Kind::Float => "float",
            Kind::String => "string",
            Kind::Duration => "duration",
            Kind::Ip => "ip",
            Kind::Quantity => "quantity",
            Kind::Strings => "strings",
            Kind::StringArray => "stringArray",
            Kind::Map => "mapStringString",
            Kind::BoolMap => "mapStringBool",
        }
    }

    const fn adds_up(self) -> bool {
        matches!(self, Kind::Strings | Kind::StringArray | Kind::Map | Kind::BoolMap)
    }

    /// Why a text is no value of this kind.
    fn check(self, text: &str) -> Result<(), String> {
        let syntax = |function: &str| format!("strconv.{function}: parsing {text:?}: invalid syntax");
        match self {
            Kind::Bool => parse_bool(text).map(drop).ok_or_else(|| syntax("ParseBool")),
            Kind::Int => parse_int(text).map(drop).ok_or_else(|| syntax("ParseInt")),
            Kind::Float => text.parse::<f64>().map(drop).map_err(|_| syntax("ParseFloat")),
            Kind::Duration => goduration::parse_nanos(text).map(drop).map_err(|error| error.to_string()),
            Kind::Ip if text.is_empty() => Ok(()),
            Kind::Ip => text.parse::<IpAddr>().map(drop).map_err(|_| format!("failed to parse IP: {text:?}")),
            Kind::Quantity if text.is_empty() => Ok(()),
            Kind::Quantity => text.parse::<Quantity>().map(drop).map_err(|error| error.to_string()),
            Kind::Map => pairs(text).map(drop),
            Kind::BoolMap => {
                let bad = |(key, value): &(String, String)| {
                    parse_bool(value).is_none().then(|| {
                        format!("invalid value of {key}: {value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")
                    })
                };
                pairs(text)?.iter().find_map(bad).map_or(Ok(()), Err)
            }
            Kind::String | Kind::Strings | Kind::StringArray => Ok(()),
        }
    }
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `ParseInt(.., 0, 64)` for decimal, hexadecimal and octal numbers.
fn parse_int(text: &str) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let number = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => i64::from_str_radix(&digits[2..], 16),
        [b'0', b'o' | b'O', ..] => i64::from_str_radix(&digits[2..], 8),
        _ => digits.parse(),
    };
    number.ok().map(|number| sign * number)
}

fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |part: &str| match part.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
        None => Err(format!("malformed pair, expect string=string: {part:?}")),
    };
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(pair).collect()
}

/// One flag.
#[derive(Clone, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    /// In the flag's own notation.
    pub default: String,
    pub help: &'static str,
    /// Heading in `--help`.
    pub section: &'static str,
}

impl Flag {
    /// A flag of the section `generic`.
    pub fn new(name: &'static str, kind: Kind, default: impl Into<String>, help: &'static str) -> Flag {
        Flag { name, short: None, kind, default: default.into(), help, section: "generic" }
    }

    /// With a one-letter form.
    #[must_use]
    pub fn short(mut self, short: char) -> Flag {
        self.short = Some(short);
        self
    }

    /// Under another heading.
    #[must_use]
    pub fn section(mut self, section: &'static str) -> Flag {
        self.section = section;
        self
    }
}

/// All flags of a daemon.
#[derive(Clone, Debug)]
pub struct FlagSet {
    program: &'static str,
    summary: &'static str,
    flags: Vec<Flag>,
    single_dash: bool,
}

/// A command line that is not usable. Display is pflag's wording, with a suggestion for unknown flags.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    #[error("unknown flag: --{name}{}", suggestion.as_ref().map(|near| format!(" (did you mean --{near}?)")).unwrap_or_default())]
    Unknown { name: String, suggestion: Option<&'static str> },
    #[error("unknown shorthand flag: '{letter}' in {argument}")]
    UnknownShort { letter: char, argument: String },
    #[error("flag needs an argument: --{0}")]
    NoValue(String),
    #[error("invalid argument {value:?} for \"--{name}\" flag: {reason}")]
    Value { name: String, value: String, reason: String },
    #[error("unknown argument {0:?}: this command takes flags only")]
    Positional(String),
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Parsed {
    Run(Values),
    /// Print this and exit with 0.
    Print(String),
}

impl FlagSet {
    /// The flags of a program, besides `--help` and `--version` which all have.
    pub fn new(
        program: &'static str,
        summary: &'static str,
        flags: impl IntoIterator<Item = Flag>,
    ) -> FlagSet {
        FlagSet { program, summary, flags: flags.into_iter().collect(), single_dash: false }
    }

    /// One dash is as good as two, as with Go's package `flag`.
    #[must_use]
    pub fn or_single_dash(mut self) -> FlagSet {
        self.single_dash = true;
        self
    }

    /// More flags; one of the same name replaces the earlier one (other default, other help).
    #[must_use]
    pub fn with(mut self, flags: impl IntoIterator<Item = Flag>) -> FlagSet {
        for flag in flags {
            match self.flags.iter_mut().find(|own| own.name == flag.name) {
                Some(own) => *own = flag,
                None => self.flags.push(flag),
            }
        }
        self
    }

    /// The flags, in order.
    pub fn flags(&self) -> &[Flag] {
        &self.flags
    }

    /// The program's name.
    pub fn program(&self) -> &'static str {
        self.program
    }

    /// Parses arguments (without the program's name).
    ///
    /// # Errors
    /// For unknown flags, missing or malformed values, and positional arguments.
    pub fn parse(&self, arguments: impl IntoIterator<Item = String>) -> Result<Parsed, FlagError> {
        let mut values = Values { flags: self.flags.clone(), given: BTreeMap::new() };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let one = argument.strip_prefix('-').filter(|rest| self.single_dash && rest.len() > 1);
            let (name, value) = match argument.strip_prefix("--").or(one) {
                Some("") => match arguments.next() {
                    Some(extra) => return Err(FlagError::Positional(extra)),
                    None => break,
                },
                Some(long) => {
                    let (name, value) = split_value(long);
                    (name.replace('_', "-"), value)
                }
                None if argument.len() > 1 && argument.starts_with('-') => self.short(&argument)?,
                None => return Err(FlagError::Positional(argument)),
            };
            match name.as_str() {
                "help" => return Ok(Parsed::Print(self.help())),
                "version" if value.as_deref().is_none_or(|value| value != "false") => {
                    return Ok(Parsed::Print(format!("{}\n", crate::version::text())));
                }
                "version" => continue,
                _ => {}
            }
            let Some(flag) = self.flags.iter().find(|flag| flag.name == name) else {
                return Err(FlagError::Unknown { suggestion: self.nearest(&name), name });
            };
            let value = match value {
                Some(value) => value,
                None if flag.kind == Kind::Bool => "true".to_owned(),
                None => arguments.next().ok_or(FlagError::NoValue(name))?,
            };
            values.set(flag, value)?;
        }
        Ok(Parsed::Run(values))
    }

    fn short(&self, argument: &str) -> Result<(String, Option<String>), FlagError> {
        let mut characters = argument.chars().skip(1);
        let letter = characters.next().unwrap_or('-');
        let rest: String = characters.collect();
        let value = rest.strip_prefix('=').unwrap_or(&rest);
        let value = (!rest.is_empty()).then(|| value.to_owned());
        if letter == 'h' {
            return Ok(("help".to_owned(), None));
        }
        match self.flags.iter().find(|flag| flag.short == Some(letter)) {
            Some(flag) => Ok((flag.name.to_owned(), value)),
            None => Err(FlagError::UnknownShort { letter, argument: argument.to_owned() }),
        }
    }

    fn nearest(&self, name: &str) -> Option<&'static str> {
        let distance = |flag: &&Flag| edit_distance(flag.name.as_bytes(), name.as_bytes());
        let nearest = self.flags.iter().min_by_key(distance)?;
        (distance(&nearest) <= name.len().div_ceil(2)).then_some(nearest.name)
    }

    /// The text of `--help`.
    pub fn help(&self) -> String {
        let mut text = format!("{}\n\nUsage:\n  {} [flags]\n", self.summary, self.program);
        let mut sections: BTreeMap<&str, Vec<&Flag>> = BTreeMap::new();
        for flag in &self.flags {
            sections.entry(flag.section).or_default().push(flag);
        }
        for (section, mut flags) in sections {
            flags.sort_by_key(|flag| flag.name);
            // Writing to a String cannot fail.
            let _infallible =
                write!(text, "\n{}{} flags:\n\n", section[..1].to_uppercase(), &section[1..]).is_ok();
            for flag in flags {
                text.push_str(&help_entry(flag));
            }
        }
        text.push_str("\nGlobal flags:\n\n  -h, --help\n        help for ");
        text.push_str(self.program);
        text.push_str("\n      --version\n        print version information and quit\n");
        text
    }
}

fn help_entry(flag: &Flag) -> String {
    let short = flag.short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
    let default = match (flag.kind, flag.default.as_str()) {
        (_, "") | (Kind::Bool, "false") => String::new(),
        (Kind::String, default) => format!(" (default {default:?})"),
        (Kind::Strings | Kind::StringArray, default) => format!(" (default [{default}])"),
        (_, default) => format!(" (default {default})"),
    };
    let kind = flag.kind.as_str();
    let space = if kind.is_empty() { "" } else { " " };
    format!("  {short}--{}{space}{kind}\n        {}{default}\n", flag.name, flag.help)
}

fn split_value(argument: &str) -> (String, Option<String>) {
    match argument.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (argument.to_owned(), None),
    }
}

fn edit_distance(left: &[u8], right: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replace = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

/// Parsed and checked values, with defaults for what was not given. Asking for a flag that is not in the table, or as
/// another kind, is a bug that any start of the daemon shows: it panics.
#[derive(Clone, Debug)]
pub struct Values {
    flags: Vec<Flag>,
    given: BTreeMap<&'static str, Vec<String>>,
}

impl Values {
    fn set(&mut self, flag: &Flag, value: String) -> Result<(), FlagError> {
        if let Err(reason) = flag.kind.check(&value) {
            return Err(FlagError::Value { name: flag.name.to_owned(), value, reason });
        }
        let values = self.given.entry(flag.name).or_default();
        if !flag.kind.adds_up() {
            values.clear();
        }
        values.push(value);
        Ok(())
    }

    /// Whether the flag was given.
    pub fn is_set(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// All flags with the values that count, in their own notation.
    pub fn effective(&self) -> BTreeMap<&'static str, String> {
        let value = |flag: &Flag| match self.given.get(flag.name) {
            Some(values) => values.join(","),
            None => flag.default.clone(),
        };
        self.flags.iter().map(|flag| (flag.name, value(flag))).collect()
    }

    /// Whether the program has this flag.
    pub fn has(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag.name == name)
    }

    fn raw(&self, name: &str, kinds: &[Kind]) -> Vec<&str> {
        let flag = self.flags.iter().find(|flag| flag.name == name);
        let flag = flag.unwrap_or_else(|| panic!("flag --{name} is not in the table of flags"));
        assert!(kinds.contains(&flag.kind), "flag --{name} is of another kind");
        match self.given.get(name) {
            Some(values) => values.iter().map(String::as_str).collect(),
            None => vec![&flag.default],
        }
    }

    /// The text of any scalar flag.
    pub fn string(&self, name: &str) -> &str {
        let scalar = [Kind::String, Kind::Ip, Kind::Quantity, Kind::Duration, Kind::Int, Kind::Float];
        self.raw(name, &scalar).first().copied().unwrap_or("")
    }

    /// A file name or other text that may be absent (empty).
    pub fn optional(&self, name: &str) -> Option<&str> {
        Some(self.string(name)).filter(|text| !text.is_empty())
    }

    /// A boolean.
    pub fn bool(&self, name: &str) -> bool {
        self.raw(name, &[Kind::Bool]).first().copied().and_then(parse_bool).unwrap_or(false)
    }

    /// A whole number.
    pub fn int(&self, name: &str) -> i64 {
        self.raw(name, &[Kind::Int]).first().copied().and_then(parse_int).unwrap_or(0)
    }

    /// A number.
    pub fn float(&self, name: &str) -> f64 {
        self.raw(name, &[Kind::Float]).first().and_then(|text| text.parse().ok()).unwrap_or(0.0)
    }

    /// A duration; negative ones count as zero.
    pub fn duration(&self, name: &str) -> Duration {
        let text = self.raw(name, &[Kind::Duration]);
        text.first().and_then(|text| goduration::parse(text).ok()).unwrap_or(Duration::ZERO)
    }

    /// An address, if given.
    pub fn ip(&self, name: &str) -> Option<IpAddr> {
        self.raw(name, &[Kind::Ip]).first()?.parse().ok()
    }

    /// A quantity, if given.
    pub fn quantity(&self, name: &str) -> Option<Quantity> {
        self.raw(name, &[Kind::Quantity]).first()?.parse().ok()
    }

    /// The elements of a list.
    pub fn list(&self, name: &str) -> Vec<String> {
        let values = self.raw(name, &[Kind::Strings, Kind::StringArray]);
        let split = self.flags.iter().any(|flag| flag.name == name && flag.kind == Kind::Strings);
        let elements: Vec<&str> =
            if split { values.iter().flat_map(|value| value.split(',')).collect() } else { values };
        elements.into_iter().filter(|element| !element.is_empty()).map(str::to_owned).collect()
    }

    /// The pairs of a map; later ones win.
    pub fn map(&self, name: &str) -> BTreeMap<String, String> {
        let values = self.raw(name, &[Kind::Map, Kind::BoolMap]);
        values.iter().flat_map(|value| pairs(value).unwrap_or_default()).collect()
    }

    /// The pairs of a map of booleans (`--feature-gates`, `--controllers` by name are lists); later ones win.
    pub fn bool_map(&self, name: &str) -> BTreeMap<String, bool> {
        let parsed = |(key, value): (String, String)| Some((key, parse_bool(&value)?));
        self.map(name).into_iter().filter_map(parsed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> FlagSet {
        FlagSet::new("kube-test", "Tests.", group::logging()).with([
            Flag::new("secure-port", Kind::Int, "10259", "Port."),
            Flag::new("leader-elect", Kind::Bool, "true", "Elect."),
            Flag::new("period", Kind::Duration, "15s", "Period."),
            Flag::new("paths", Kind::Strings, "/a,/b", "Paths."),
            Flag::new("labels", Kind::Map, "", "Labels."),
            Flag::new("feature-gates", Kind::BoolMap, "", "Gates."),
            Flag::new("kubeconfig", Kind::String, "", "File."),
        ])
    }

    fn values(arguments: &[&str]) -> Values {
        match set().parse(arguments.iter().map(|argument| (*argument).to_owned())) {
            Ok(Parsed::Run(values)) => values,
            other => panic!("{other:?}"),
        }
    }

    fn error(arguments: &[&str]) -> String {
        set().parse(arguments.iter().map(|argument| (*argument).to_owned())).unwrap_err().to_string()
    }

    #[test]
    fn parses_as_pflag() {
        let defaults = values(&[]);
        assert_eq!((defaults.int("secure-port"), defaults.bool("leader-elect")), (10259, true));
        assert_eq!(defaults.list("paths"), ["/a", "/b"]);
        assert!(!defaults.is_set("paths") && defaults.optional("kubeconfig").is_none());
        let given = values(&[
            "--secure_port",
            "1",
            "--secure-port=0x10",
            "--leader-elect=false",
            "-v2",
            "--period",
            "1m30s",
            "--paths=/x",
            "--paths=/y,/z",
            "--labels=a=b",
            "--labels=c=d,a=e",
            "--feature-gates=A=true,B=false",
            "--kubeconfig",
            "-f=1",
        ]);
        assert_eq!(given.int("secure-port"), 16);
        assert!(!given.bool("leader-elect"));
        assert_eq!(given.int("v"), 2);
        assert_eq!(given.duration("period"), Duration::from_secs(90));
        assert_eq!(given.list("paths"), ["/x", "/y", "/z"]);
        assert_eq!(given.map("labels"), BTreeMap::from([("a".into(), "e".into()), ("c".into(), "d".into())]));
        let all = given.effective();
        assert_eq!(
            (all["feature-gates"].as_str(), all["leader-elect"].as_str()),
            ("A=true,B=false", "false")
        );
        assert!(!given.bool_map("feature-gates")["B"]);
        assert_eq!(given.string("kubeconfig"), "-f=1");
        assert_eq!(values(&["-v=4"]).int("v"), 4);
        assert_eq!(values(&["-v", "5"]).int("v"), 5);
        assert!(values(&["--leader-elect"]).bool("leader-elect"));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (arguments, message) in [
            (&["--secure-prot=1"][..], "unknown flag: --secure-prot (did you mean --secure-port?)"),
            (&["--zzzzzzzzzz"], "unknown flag: --zzzzzzzzzz"),
            (&["-x"], "unknown shorthand flag: 'x' in -x"),
            (&["--kubeconfig"], "flag needs an argument: --kubeconfig"),
            (
                &["--secure-port=a"],
                "invalid argument \"a\" for \"--secure-port\" flag: strconv.ParseInt: parsing \"a\": invalid syntax",
            ),
            (&["start"], "unknown argument \"start\": this command takes flags only"),
        ] {
            assert_eq!(error(arguments), message);
        }
        assert!(error(&["--period=1"]).contains("missing unit"));
        assert!(error(&["--feature-gates=A=maybe"]).contains("invalid value of A"));
    }

    #[test]
    fn help_and_version_are_printed() {
        let printed = |argument: &str| match set().parse([argument.to_owned()]) {
            Ok(Parsed::Print(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(printed("--version"), "Kubernetes v1.36.0\n");
        let help = printed("-h");
        assert!(
            help.contains("Logs flags:")
                && help.contains("      --secure-port int\n        Port. (default 10259)\n")
        );
    }
}
