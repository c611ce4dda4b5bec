//! Flags of the server's front.

use component_base::flags::{Kind, Values};
use http::HeaderValue;
use regex::Regex;

use super::{Line, OptionsError, invalid};
use crate::front::Options;

pub(super) const FLAGS: &[Line] = &[
    (
        "cors-allowed-origins",
        Kind::Strings,
        "",
        "expressions of origins whose pages may read answers; each is pinned to both ends of the host by ^ or // and $ or :",
    ),
    (
        "strict-transport-security-directives",
        Kind::Strings,
        "",
        "directives of the Strict-Transport-Security header: max-age=seconds, includeSubDomains, preload",
    ),
    (
        "goaway-chance",
        Kind::Float,
        "0",
        "share of HTTP/2 requests after which the client is to connect again, at most 0.02",
    ),
    (
        "send-retry-after-while-not-ready-once",
        Kind::Bool,
        "false",
        "answer 503 until the server has been ready, but to probes",
    ),
    (
        "shutdown-send-retry-after",
        Kind::Bool,
        "false",
        "answer new requests 429 after --shutdown-delay-duration, and end when those in flight have",
    ),
    (
        "shutdown-watch-termination-grace-period",
        Kind::Duration,
        "0s",
        "time in which watches are ended one after the other at the end of the server",
    ),
];

/// The options.
///
/// # Errors
/// For expressions, directives and chances that are none.
pub(super) fn options(values: &Values) -> Result<Options, OptionsError> {
    let goaway = values.float("goaway-chance");
    if !(0.0..=0.02).contains(&goaway) {
        let why = "can not be less than 0 or greater than 0.02";
        return Err(invalid("goaway-chance", goaway.to_string(), why));
    }
    let origins = values.list("cors-allowed-origins");
    Ok(Options {
        origins: origins.iter().map(|text| origin(text)).collect::<Result<_, _>>()?,
        transport_security: directives(&values.list("strict-transport-security-directives"))?,
        goaway,
        wait_until_ready: values.bool("send-retry-after-while-not-ready-once"),
        turn_away: values.bool("shutdown-send-retry-after"),
        watch_grace: values.duration("shutdown-watch-termination-grace-period"),
    })
}

/// An expression that is pinned to both ends of the host, so that no longer name of somebody else matches.
fn origin(text: &str) -> Result<Regex, OptionsError> {
    const FLAG: &str = "cors-allowed-origins";
    let pinned = (text.contains('^') || text.contains("//")) && (text.contains('$') || text.contains(':'));
    if !pinned {
        return Err(invalid(
            FLAG,
            text,
            "regular expression does not pin to start/end of host in the origin header",
        ));
    }
    Regex::new(text).map_err(|error| invalid(FLAG, text, error.to_string()))
}

fn directives(all: &[String]) -> Result<Option<HeaderValue>, OptionsError> {
    const FLAG: &str = "strict-transport-security-directives";
    let is_directive = |text: &str| {
        let age = text.strip_prefix("max-age=").is_some_and(|age| !age.contains('='));
        age || matches!(text, "includeSubDomains" | "preload")
    };
    if let Some(wrong) = all.iter().find(|text| !is_directive(text)) {
        let why = "allowed values: max-age=expireTime, includeSubDomains, preload";
        return Err(invalid(FLAG, wrong, why));
    }
    if all.is_empty() {
        return Ok(None);
    }
    let text = all.join("; ");
    HeaderValue::from_str(&text).map(Some).map_err(|error| invalid(FLAG, text, error.to_string()))
}
