//! Named formats: `format.dns1123Label().validate("x")` gives the reasons why a text is not of the format.

use std::any::Any;

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{Line, time, url::Url};
use crate::value::{EvalError, Opaque, Value};

pub(super) const FUNCTIONS: &[Line] = &[
    ("format-validate", "format :: validate(string) -> optional<list<string>>", |c| {
        let wrong = (c.opaque::<Named>(0)?.0.validate)(c.str(1)?);
        if wrong.is_empty() {
            return Ok(Value::Optional(None));
        }
        Ok(Value::some(Value::list(wrong.into_iter().map(Value::text).collect())))
    }),
    ("format-named", "format.named(string) -> optional<format>", |c| {
        let name = c.str(0)?;
        let format = FORMATS.iter().find(|f| f.name == name);
        Ok(Value::Optional(format.map(|f| std::sync::Arc::new(Value::opaque(Named(f))))))
    }),
    ("format.dns1123Label", "format.dns1123Label() -> format", |_| named("dns1123Label")),
    ("format.dns1123Subdomain", "format.dns1123Subdomain() -> format", |_| named("dns1123Subdomain")),
    ("format.dns1035Label", "format.dns1035Label() -> format", |_| named("dns1035Label")),
    ("format.qualifiedName", "format.qualifiedName() -> format", |_| named("qualifiedName")),
    ("format.dns1123LabelPrefix", "format.dns1123LabelPrefix() -> format", |_| named("dns1123LabelPrefix")),
    ("format.dns1123SubdomainPrefix", "format.dns1123SubdomainPrefix() -> format", |_| {
        named("dns1123SubdomainPrefix")
    }),
    ("format.dns1035LabelPrefix", "format.dns1035LabelPrefix() -> format", |_| named("dns1035LabelPrefix")),
    ("format.labelValue", "format.labelValue() -> format", |_| named("labelValue")),
    ("format.uri", "format.uri() -> format", |_| named("uri")),
    ("format.uuid", "format.uuid() -> format", |_| named("uuid")),
    ("format.byte", "format.byte() -> format", |_| named("byte")),
    ("format.date", "format.date() -> format", |_| named("date")),
    ("format.datetime", "format.datetime() -> format", |_| named("datetime")),
];

/// One format.
#[derive(Debug)]
pub(crate) struct Format {
    name: &'static str,
    validate: fn(&str) -> Vec<String>,
    /// Upstream's length of the pattern, for cost.
    pub(crate) max_regex_size: u64,
}

const FORMATS: &[Format] = &[
    Format { name: "dns1123Label", validate: |s| dns_label(s, LABEL), max_regex_size: 30 },
    Format { name: "dns1123Subdomain", validate: subdomain, max_regex_size: 60 },
    Format { name: "dns1035Label", validate: |s| dns_label(s, LABEL_1035), max_regex_size: 30 },
    Format { name: "qualifiedName", validate: qualified_name, max_regex_size: 60 },
    Format { name: "dns1123LabelPrefix", validate: |s| dns_label(&unprefixed(s), LABEL), max_regex_size: 30 },
    Format { name: "dns1123SubdomainPrefix", validate: |s| subdomain(&unprefixed(s)), max_regex_size: 60 },
    Format {
        name: "dns1035LabelPrefix",
        validate: |s| dns_label(&unprefixed(s), LABEL_1035),
        max_regex_size: 30,
    },
    Format { name: "labelValue", validate: label_value, max_regex_size: 40 },
    Format { name: "uri", validate: uri, max_regex_size: 1000 },
    Format { name: "uuid", validate: uuid, max_regex_size: 86 },
    Format { name: "byte", validate: byte, max_regex_size: 84 },
    Format { name: "date", validate: date, max_regex_size: 150 },
    Format { name: "datetime", validate: datetime, max_regex_size: 150 },
];

fn named<'a>(name: &str) -> Result<Value<'a>, EvalError> {
    let format = FORMATS.iter().find(|f| f.name == name).ok_or(EvalError::NoSuchOverload)?;
    Ok(Value::opaque(Named(format)))
}

/// A prefix of a generated name may end where a name may not.
fn unprefixed(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) => format!("{rest}a"),
        None => text.to_owned(),
    }
}

/// A kind of label: whether it may begin with a digit, and what is said of a wrong one.
struct Label {
    digit_first: bool,
    message: &'static str,
}

const LABEL: Label = Label {
    digit_first: true,
    message: "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
};

const LABEL_1035: Label = Label {
    digit_first: false,
    message: "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

fn is_lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_label(text: &str, digit_first: bool) -> bool {
    let bytes = text.as_bytes();
    let first = |b: &u8| if digit_first { is_lower(*b) } else { b.is_ascii_lowercase() };
    bytes.first().is_some_and(first)
        && bytes.last().is_some_and(|b| is_lower(*b))
        && bytes.iter().all(|b| is_lower(*b) || *b == b'-')
}

fn too_long(text: &str, max: usize) -> Option<String> {
    (text.len() > max).then(|| format!("must be no more than {max} characters"))
}

fn dns_label(text: &str, label: Label) -> Vec<String> {
    let mut wrong: Vec<String> = too_long(text, 63).into_iter().collect();
    if !is_label(text, label.digit_first) {
        wrong.push(label.message.to_owned());
    }
    wrong
}

fn subdomain(text: &str) -> Vec<String> {
    let mut wrong: Vec<String> = too_long(text, 253).into_iter().collect();
    if !text.split('.').all(|part| is_label(part, true)) {
        wrong.push(SUBDOMAIN.to_owned());
    }
    wrong
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn qualified_name(text: &str) -> Vec<String> {
    let shape = "consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let mut wrong = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                wrong.extend(subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a qualified name must {shape} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if let Some(long) = too_long(name, 63) {
        wrong.push(format!("name part {long}"));
    }
    if !is_name_part(name) {
        wrong.push(format!("name part must {shape}"));
    }
    wrong
}

fn label_value(text: &str) -> Vec<String> {
    let mut wrong: Vec<String> = too_long(text, 63).into_iter().collect();
    if !text.is_empty() && !is_name_part(text) {
        wrong.push("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')".to_owned());
    }
    wrong
}

fn uri(text: &str) -> Vec<String> {
    Url::parse(text).err().map(|why| format!("parse {text:?}: {why}")).into_iter().collect()
}

fn uuid(text: &str) -> Vec<String> {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    let hex = plain.len() == 32 && plain.bytes().all(|b| b.is_ascii_hexdigit());
    // Each dash is optional, but only between the groups.
    let dashes = text.char_indices().filter(|(_, c)| *c == '-').enumerate();
    let mut at = dashes.map(|(seen, (i, _))| i - seen);
    if hex && at.all(|i| [8, 12, 16, 20].contains(&i)) && !text.contains("--") {
        return Vec::new();
    }
    vec!["does not match the UUID format".to_owned()]
}

fn byte(text: &str) -> Vec<String> {
    if !text.is_empty() && BASE64_STANDARD.decode(text).is_ok() {
        return Vec::new();
    }
    vec!["invalid base64".to_owned()]
}

fn date(text: &str) -> Vec<String> {
    if text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok() {
        return Vec::new();
    }
    vec!["invalid date".to_owned()]
}

fn datetime(text: &str) -> Vec<String> {
    if time::parse_timestamp(text).is_some() {
        return Vec::new();
    }
    vec!["invalid datetime".to_owned()]
}

/// A format as a value.
#[derive(Debug)]
pub(crate) struct Named(pub(crate) &'static Format);

impl Opaque for Named {
    fn type_name(&self) -> &str {
        "kubernetes.NamedFormat"
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Named>().is_some_and(|other| self.0.name == other.0.name)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
