//! Failures in the words clients and people know them by.

use std::{error::Error, io};

use rustls::CertificateError;

use super::{CallError, connect::ConnectError};

/// The cause of a request that got no answer.
pub(super) fn in_words(error: &(dyn Error + 'static)) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = error.to_string();
    while let Some(one) = cause {
        if let Some(connect) = one.downcast_ref::<ConnectError>() {
            return connect.0.clone();
        }
        if let Some(words) = one.downcast_ref::<rustls::Error>().map(of_tls) {
            return words;
        }
        // An I/O error hides what it carries from `source` in favour of that one's own source.
        let inner = one.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(inner) = inner {
            return in_words(inner);
        }
        last = one.to_string();
        cause = one.source();
    }
    if last.contains("closed before message completed") { "EOF".to_owned() } else { last }
}

fn of_tls(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(why) = error else { return format!("tls: {error}") };
    let why = match why {
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        other => other.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

/// An answer with a code that is no success, and no Status in it.
pub(super) fn of_code(code: u16, body: &[u8]) -> CallError {
    let said = String::from_utf8_lossy(body.get(..body.len().min(2048)).unwrap_or_default());
    let message = match code {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => said.trim().to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        409 => "the server reported a conflict".to_owned(),
        415 => "the server was unable to respond with a content type that the client supports".to_owned(),
        422 => "the server rejected our request due to an error in our request".to_owned(),
        429 => {
            "the server has received too many requests and has asked us to try again later".to_owned()
        }
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
                .to_owned()
        }
        500.. => format!("an error on the server ({:?}) has prevented the request from succeeding", said.trim()),
        _ => format!("the server responded with the status code {code} but did not return more information"),
    };
    CallError::new(code, message)
}
