//! `proxy`: a request made again at a pod, service or node, and the answer handed back.
//!
//! Contract: upstream's `UpgradeAwareHandler` and proxy transport: path and query are kept, hop-by-hop headers and
//! credentials are not, `X-Forwarded-*` say where the request was, links and redirects lead back through the proxy.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, uri::PathAndQuery,
};
use http_body_util::BodyExt;

use super::{
    Connect,
    dial::{self, DialError, Outgoing, Target},
    log, rewrite, upgrade,
};
use crate::{
    response::{self, Body},
    status::{Reason, Status},
};

/// Headers of one connection only (RFC 9110 §7.6.1, and those Go's reverse proxy knows beside).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// Takes out what belongs to one connection, and what its Connection header names.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Takes out what was meant for this server: credentials and impersonation.
fn remove_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    super::websocket::remove_token(headers);
    let names: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// The path of a proxy request cut where the subresource ends: what leads here, and what follows (empty, or from the
/// slash on). `segments` counts those before the cut.
fn split_path(path: &str, segments: usize) -> (&str, &str) {
    let mut left = segments;
    let mut in_segment = false;
    for (at, byte) in path.bytes().enumerate() {
        match (byte == b'/', in_segment) {
            (true, true) => {
                left -= 1;
                if left == 0 {
                    return path.split_at(at);
                }
                in_segment = false;
            }
            (false, false) => in_segment = true,
            _ => {}
        }
    }
    (path, "")
}

impl Connect {
    /// `/api/v1[/namespaces/x]/<resource>/<name>/proxy` has this many segments.
    fn prefix_segments(&self) -> usize {
        if self.info.namespace.is_empty() { 5 } else { 7 }
    }

    pub(super) async fn proxy(self) -> Result<Response<Body>, Status> {
        let target = self.proxied().await?;
        let uri = self.request.uri().clone();
        let (prefix, rest) = split_path(uri.path(), self.prefix_segments());
        let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
        let is_upgrade = upgrade::is_upgrade(self.request.headers());
        if rest.is_empty() && !is_upgrade && matches!(*self.request.method(), Method::GET | Method::HEAD) {
            return redirect(&format!("{prefix}/{query}"));
        }
        let path = if rest.is_empty() { format!("/{query}") } else { format!("{rest}{query}") };
        if is_upgrade {
            let request = self.onward(&path, &target)?;
            let answer = target.request(request, &self.server.tasks).await;
            let answer = answer.map_err(|e| super::stream::dial_failed(&e))?;
            return upgrade::join(self.request, answer, &self.server.tasks);
        }
        self.exchange(target, prefix, rest, &path).await
    }

    /// The request as it is, at another place.
    pub(super) async fn forward(self, target: Target) -> Result<Response<Body>, Status> {
        let path = self.request.uri().path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
        if upgrade::is_upgrade(self.request.headers()) {
            let request = self.onward(&path, &target)?;
            let answer = target.request(request, &self.server.tasks).await.map_err(|e| unreachable(&e))?;
            return upgrade::join(self.request, answer, &self.server.tasks);
        }
        let rest = self.request.uri().path().to_owned();
        self.exchange(target, "", &rest, &path).await
    }

    pub(super) async fn exchange(
        self,
        target: Target,
        prefix: &str,
        rest: &str,
        path: &str,
    ) -> Result<Response<Body>, Status> {
        let mut onward = self.onward(path, &target)?;
        let headers = onward.headers_mut();
        remove_hop_by_hop(headers);
        let seen = HeaderValue::from_str(&format!("{prefix}{}", if rest.is_empty() { "/" } else { rest }));
        headers.insert(FORWARDED_URI, seen.map_err(Status::internal)?);
        let wants_pages =
            headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("html"));
        if wants_pages {
            // Links in pages are rewritten, which needs them as they are.
            headers.remove(header::ACCEPT_ENCODING);
        }
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default().to_owned();
        let is_head = *self.request.method() == Method::HEAD;
        let (parts, _) = onward.into_parts();
        let onward = Request::from_parts(parts, self.request.into_body().boxed_unsync());
        let answer = target.request(onward, &self.server.tasks).await.map_err(|e| unreachable(&e))?;
        let links = rewrite::Links { prefix: prefix.to_owned(), backend: target.authority(), host };
        let code = answer.response.status();
        let mut headers = answer.response.headers().clone();
        remove_hop_by_hop(&mut headers);
        let is_page = rewrite::headers(&links, &mut headers) && !is_head;
        let body = log::body(answer);
        let mut response = Response::new(if is_page { rewrite::page(links, body) } else { body });
        *response.status_mut() = code;
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// The request's head for the backend, without a body.
    pub(super) fn onward(&self, uri: &str, target: &Target) -> Result<Request<Outgoing>, Status> {
        let uri: PathAndQuery = uri.parse().map_err(|e| Status::bad_request(format!("{e}")))?;
        let mut onward = Request::new(dial::empty());
        *onward.method_mut() = self.request.method().clone();
        *onward.uri_mut() = uri.into();
        let mut headers = self.request.headers().clone();
        remove_credentials(&mut headers);
        if !headers.contains_key(header::HOST) {
            // HTTP/2 has it in the URI.
            let host = self.request.uri().authority().map_or_else(|| target.authority(), ToString::to_string);
            headers.insert(header::HOST, HeaderValue::from_str(&host).map_err(Status::internal)?);
        }
        if let Some(client) = self.client {
            let earlier: Vec<&str> =
                headers.get_all(FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()).collect();
            let all = if earlier.is_empty() {
                client.to_string()
            } else {
                format!("{}, {client}", earlier.join(", "))
            };
            headers.insert(FORWARDED_FOR, HeaderValue::from_str(&all).map_err(Status::internal)?);
        }
        *onward.headers_mut() = headers;
        Ok(onward)
    }
}

fn unreachable(error: &DialError) -> Status {
    Status::new(503, Reason::ServiceUnavailable, format!("error trying to reach service: {error}"))
}

/// A path without a slash at its end gets one: relative links would lead nowhere.
fn redirect(to: &str) -> Result<Response<Body>, Status> {
    let mut response = Response::new(response::full(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(to).map_err(Status::internal)?);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_after_the_subresource() {
        for (path, segments, want) in [
            ("/api/v1/nodes/n/proxy", 5, ("/api/v1/nodes/n/proxy", "")),
            ("/api/v1/nodes/n/proxy/", 5, ("/api/v1/nodes/n/proxy", "/")),
            ("/api/v1/nodes/n/proxy/logs//a%2Fb/", 5, ("/api/v1/nodes/n/proxy", "/logs//a%2Fb/")),
            (
                "/api/v1/namespaces/x/pods/https:p:1/proxy/a",
                7,
                ("/api/v1/namespaces/x/pods/https:p:1/proxy", "/a"),
            ),
        ] {
            assert_eq!(split_path(path, segments), want);
        }
    }

    #[test]
    fn headers_of_the_connection_and_credentials_stay_behind() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Own"),
            ("x-own", "1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
            ("authorization", "Bearer x"),
            ("impersonate-user", "me"),
            ("impersonate-extra-a", "b"),
            ("cookie", "c"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        remove_credentials(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "cookie"]);
    }
}
