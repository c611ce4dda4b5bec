//! Requests to another API server: who asks goes along in headers, which that server believes because of our certificate.
//!
//! Contract: "Authenticating proxy"; upstream's aggregator `proxyHandler`.

use std::sync::Arc;

use component_base::features::Gate;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Remote, availability, unavailable};
use crate::{
    auth::User,
    proxy,
    request_path::{Peer, info::RequestInfo},
    response::{self, Body},
    server::Server,
    status::Status,
};

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// What a header's name may hold besides letters and digits (RFC 9110 tchar, without the percent sign).
const TOKEN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'*')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Says in the headers who asks, and only that.
pub(crate) fn set_user(headers: &mut HeaderMap, user: &User) {
    let told: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in told {
        headers.remove(name);
    }
    // Names and values that are no header text cannot be told; the other server then knows less, never more.
    let mut add = |name: Option<HeaderName>, value: &str| {
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add(Some(USER), &user.name);
    if !user.uid.is_empty() {
        add(Some(UID), &user.uid);
    }
    for group in &user.groups {
        add(Some(GROUP), group);
    }
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", utf8_percent_encode(&key.to_lowercase(), TOKEN));
        for value in values {
            add(name.parse().ok(), value);
        }
    }
}

/// Answers a request by the server it is for.
///
/// # Errors
/// 503 when that server does not work.
pub async fn serve(
    server: Arc<Server>,
    remote: &Remote,
    info: Arc<RequestInfo>,
    user: &Arc<User>,
    peer: &Peer,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    if !remote.is_available {
        return Err(unavailable());
    }
    let target = availability::locate(&server, remote).await.map_err(|why| {
        tracing::warn!(group = remote.group, version = remote.version, why, "API server cannot be found");
        unavailable()
    })?;
    let tells_uid = server.gates.has(Gate::RemoteRequestHeaderUID);
    let without = (!tells_uid).then(|| User { uid: String::new(), ..(**user).clone() });
    set_user(request.headers_mut(), without.as_ref().unwrap_or(user));
    let refuses = server.aggregated.refuses_redirects();
    let answer = proxy::forward_to(server, target, info, user, peer, request).await?;
    let leads_away = answer.status().is_redirection() && answer.headers().contains_key(header::LOCATION);
    if refuses && leads_away {
        let why = "the backend attempted to redirect this request, which is not permitted";
        return Ok(response::text(502, why));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_who_asks_and_nothing_of_what_was_claimed() {
        let mut headers = HeaderMap::new();
        headers.insert(USER, HeaderValue::from_static("admin"));
        headers.insert("x-remote-extra-a", HeaderValue::from_static("b"));
        let user = User {
            name: "me".to_owned(),
            groups: vec!["a".to_owned(), "b".to_owned()],
            extra: [("example.org/Key".to_owned(), vec!["v".to_owned()])].into(),
            ..User::default()
        };
        set_user(&mut headers, &user);
        assert_eq!(headers[USER], "me");
        assert_eq!(headers.get_all(GROUP).iter().count(), 2);
        assert_eq!(
            headers["x-remote-extra-example.org%2fkey".replace("%2f", "%2F").to_lowercase().as_str()],
            "v"
        );
        assert!(!headers.contains_key("x-remote-extra-a") && !headers.contains_key(UID));
    }
}
