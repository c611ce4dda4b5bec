//! The formats a schema may name for texts.
//!
//! Contract: kube-openapi `strfmt`; formats that are not here are not checked.

use std::{net::IpAddr, str::FromStr, sync::LazyLock};

use base64::{Engine, prelude::BASE64_STANDARD};
use regex::Regex;

use crate::validate;

/// The check of a format, by name without dashes.
type Check = fn(&str) -> bool;

const FORMATS: &[(&str, Check)] = &[
    ("bsonobjectid", |s| s.len() == 24 && s.bytes().all(|b| b.is_ascii_hexdigit())),
    ("uri", is_uri),
    ("email", is_email),
    ("hostname", is_hostname),
    ("ipv4", |s| matches!(s.parse(), Ok(IpAddr::V4(_)))),
    ("ipv6", |s| matches!(s.parse(), Ok(IpAddr::V6(_)))),
    ("cidr", is_cidr),
    ("mac", is_mac),
    ("uuid", |s| is_uuid(s, None)),
    ("uuid3", |s| is_uuid(s, Some('3'))),
    ("uuid4", |s| is_uuid(s, Some('4'))),
    ("uuid5", |s| is_uuid(s, Some('5'))),
    ("isbn", |s| is_isbn10(s) || is_isbn13(s)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("creditcard", is_credit_card),
    ("ssn", is_ssn),
    ("hexcolor", is_hex_color),
    ("rgbcolor", is_rgb_color),
    ("byte", |s| BASE64_STANDARD.decode(s).is_ok()),
    ("password", |_| true),
    ("date", |s| s.len() == 10 && jiff::civil::Date::from_str(s).is_ok()),
    ("duration", is_duration),
    ("datetime", is_date_time),
    ("k8sshortname", |s| validate::dns_label(s, false).is_empty()),
    ("k8slongname", |s| validate::dns_subdomain(s, false).is_empty()),
];

fn find(format: &str) -> Option<Check> {
    let name = format.replace('-', "");
    FORMATS.iter().find(|(known, _)| *known == name).map(|(_, check)| *check)
}

/// Whether a format is checked for values of a type.
pub fn is_known(format: &str, kind: &str) -> bool {
    match kind {
        "" | "string" => find(format).is_some(),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

/// Whether a text has a format; what is not known has it.
pub fn has_format(text: &str, format: &str) -> bool {
    find(format).is_none_or(|check| check(text))
}

fn is_uri(text: &str) -> bool {
    let has_scheme = text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
            && rest.starts_with('/')
    });
    (text.starts_with('/') || has_scheme) && !text.contains(|c: char| c.is_control() || c == ' ')
}

fn is_email(text: &str) -> bool {
    let address = text.rsplit_once('<').and_then(|(_, a)| a.strip_suffix('>')).unwrap_or(text);
    let part =
        |s: &str| !s.is_empty() && !s.contains(|c: char| c.is_whitespace() || "<>()[],;:\\\"@".contains(c));
    address.rsplit_once('@').is_some_and(|(local, domain)| {
        part(local)
            && part(domain)
            && !local.starts_with('.')
            && !local.ends_with('.')
            && !local.contains("..")
    })
}

fn is_hostname(text: &str) -> bool {
    let label = |s: &str| {
        !s.is_empty()
            && s.len() <= 63
            && !s.starts_with('-')
            && !s.ends_with('-')
            && s.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    !text.is_empty() && text.len() <= 255 && text.trim_end_matches('.').split('.').all(label)
}

fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        !bits.is_empty()
            && bits.bytes().all(|b| b.is_ascii_digit())
            && bits.parse::<u16>().is_ok_and(|n| n <= most)
    })
}

fn is_mac(text: &str) -> bool {
    let groups = |sign: char, size: usize| {
        let parts: Vec<&str> = text.split(sign).collect();
        let bytes = parts.len() * size / 2;
        matches!(bytes, 6 | 8 | 20)
            && parts.iter().all(|p| p.len() == size && p.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    groups(':', 2) || groups('-', 2) || groups('.', 4)
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let bare: String = match text.len() {
        36 => {
            let dashes = [8, 13, 18, 23].iter().all(|at| text.as_bytes()[*at] == b'-');
            if !dashes || text.matches('-').count() != 4 {
                return false;
            }
            text.replace('-', "")
        }
        32 => text.to_owned(),
        _ => return false,
    };
    let digits: Vec<char> = bare.chars().collect();
    let right_variant = match version {
        Some('4' | '5') => matches!(digits.get(16), Some('8' | '9' | 'a' | 'b' | 'A' | 'B')),
        _ => true,
    };
    digits.len() == 32
        && digits.iter().all(char::is_ascii_hexdigit)
        && version.is_none_or(|v| digits[12] == v)
        && right_variant
}

fn digits_of(text: &str) -> Vec<u32> {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| c.to_digit(10).unwrap_or(99)).collect()
}

fn is_isbn10(text: &str) -> bool {
    let Some(last) = text.chars().last() else { return false };
    let mut digits = digits_of(&text[..text.len() - last.len_utf8()]);
    digits.push(if matches!(last, 'X' | 'x') { 10 } else { last.to_digit(10).unwrap_or(99) });
    digits.len() == 10
        && digits.iter().all(|d| *d <= 10)
        && (1..).zip(&digits).map(|(i, d)| i * d).sum::<u32>() % 11 == 0
}

fn is_isbn13(text: &str) -> bool {
    let digits = digits_of(text);
    digits.len() == 13
        && digits.iter().all(|d| *d <= 9)
        && digits.iter().zip([1, 3].iter().cycle()).map(|(d, f)| d * f).sum::<u32>() % 10 == 0
}

fn is_credit_card(text: &str) -> bool {
    static CARD: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let issuers = "^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|\
                       3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$";
        Regex::new(issuers).ok()
    });
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let sum: u32 = digits
        .chars()
        .rev()
        .filter_map(|c| c.to_digit(10))
        .enumerate()
        .map(|(i, d)| if i % 2 == 1 { d * 2 / 10 + d * 2 % 10 } else { d })
        .sum();
    CARD.as_ref().is_some_and(|card| card.is_match(&digits)) && sum.is_multiple_of(10)
}

fn is_ssn(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect::<String>();
    let separated = |at: usize| bytes.get(at).is_some_and(|b| matches!(b, b'-' | b' '));
    digits.len() == 9
        && digits.bytes().all(|b| b.is_ascii_digit())
        && match bytes.len() {
            9 => true,
            10 => separated(3) || separated(5),
            11 => separated(3) && separated(6),
            _ => false,
        }
}

fn is_hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_rgb_color(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|t| t.strip_suffix(')'));
    inner.is_some_and(|inner| {
        let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
        parts.len() == 3 && parts.iter().all(|p| p.parse::<u8>().is_ok())
    })
}

fn is_duration(text: &str) -> bool {
    static WORDS: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let units = "ns|nano|nanos|nanosecond|nanoseconds|us|µs|micro|micros|microsecond|microseconds|ms|milli|millis|\
                     millisecond|milliseconds|s|sec|secs|second|seconds|m|min|mins|minute|minutes|h|hr|hrs|hour|hours|\
                     d|day|days|w|wk|wks|week|weeks";
        Regex::new(&format!("^[0-9]+ ?(?:{units})$")).ok()
    });
    component_base::goduration::parse(text).is_ok()
        || WORDS.as_ref().is_some_and(|words| words.is_match(text))
}

fn is_date_time(text: &str) -> bool {
    let Some((date, time)) = text.split_once(['T', 't']) else { return false };
    date.len() == 10
        && jiff::civil::Date::from_str(date).is_ok()
        && time.len() >= 8
        && time.as_bytes().get(2) == Some(&b':')
        && (text.ends_with(['Z', 'z']) || time.contains(['+', '-']))
        && text.to_uppercase().parse::<jiff::Timestamp>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_formats() {
        for (format, good, bad) in [
            ("uri", "https://example.com/a", "not a uri"),
            ("email", "a.b@example.com", "a@b@c"),
            ("hostname", "example.com", "-a"),
            ("ipv4", "1.2.3.4", "::1"),
            ("ipv6", "::1", "1.2.3.4"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e"),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("isbn10", "0321751043", "0321751044"),
            ("isbn13", "978-0321751041", "978-0321751042"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("ssn", "111-22-3333", "11-222-3333"),
            ("hexcolor", "#FFFFFF", "#FFFFG"),
            ("rgbcolor", "rgb(1, 2, 3)", "rgb(1,2,256)"),
            ("byte", "aGVsbG8=", "a"),
            ("date", "2006-01-02", "2006-13-02"),
            ("duration", "22 ns", "x"),
            ("duration", "1h30m", "1"),
            ("date-time", "2014-12-15T19:30:20.000Z", "2014-12-15"),
            ("k8s-short-name", "a-b", "A"),
            ("k8s-long-name", "a.b", "a..b"),
        ] {
            assert!(has_format(good, format), "{format} {good}");
            assert!(!has_format(bad, format), "{format} {bad}");
        }
        assert!(has_format("x", "unknown") && !is_known("unknown", "string") && is_known("date-time", ""));
    }
}
