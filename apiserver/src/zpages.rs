//! `/statusz` and `/flagz` of this server: [`component_base::zpages`] in its answers.

use std::collections::BTreeMap;

use component_base::zpages::Process;
use http::{HeaderMap, HeaderValue, Response, header};

use crate::{
    response::{self, Body},
    status::Status,
};

/// Where else to look, sorted.
const PATHS: &[&str] =
    &["/debug", "/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"];

/// The pages.
#[derive(Debug)]
pub struct Pages(Process);

impl Pages {
    /// Of a server that starts now with these flags, and speaks CBOR if so.
    pub fn new(flags: BTreeMap<&'static str, String>, cbor: bool) -> Self {
        Self(Process::new("kube-apiserver", flags).speaking_cbor(cbor))
    }

    /// The answer to a path; none where it is no page.
    pub fn answer(&self, path: &str, headers: &HeaderMap) -> Option<Result<Response<Body>, Status>> {
        let page = match self.0.answer(path, headers, PATHS)? {
            Ok(page) => page,
            Err(refused) => return Some(Err(Status::not_acceptable(&refused.0))),
        };
        let mut answer = response::of(200, page.content_type, response::full(page.body));
        if let Some(warning) = page.warning.and_then(|warning| HeaderValue::from_str(&warning).ok()) {
            answer.headers_mut().insert(header::WARNING, warning);
        }
        Some(Ok(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_answers_and_what_nobody_takes_is_406() {
        let pages = Pages::new(BTreeMap::new(), false);
        let ask = |path: &str, accept: &'static str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            pages.answer(path, &headers)
        };
        let old = ask("/flagz", "application/json;g=config.k8s.io;v=v1alpha1;as=Flagz").unwrap().unwrap();
        assert_eq!(
            (old.status().as_u16(), &old.headers()["content-type"]),
            (200, &"application/json".parse().unwrap())
        );
        assert!(old.headers().contains_key("warning"));
        assert_eq!(ask("/statusz", "application/json").unwrap().unwrap_err().code, 406);
        assert!(ask("/healthz", "*/*").is_none());
    }
}
