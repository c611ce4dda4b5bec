//! `/statusz` and `/flagz` of this server: [`component_base::zpages`] in its answers.

use std::collections::BTreeMap;

use component_base::{
    features::{Gate, Gates},
    zpages::Process,
};
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
pub struct Pages {
    process: Process,
    /// Those that are shown.
    shown: Vec<&'static str>,
}

impl Pages {
    /// Of a server that starts now with these flags and gates.
    pub fn new(flags: BTreeMap<&'static str, String>, gates: Gates) -> Self {
        let cbor = gates.has(Gate::CBORServingAndStorage);
        let pages = [("/flagz", Gate::ComponentFlagz), ("/statusz", Gate::ComponentStatusz)];
        Self {
            process: Process::new("kube-apiserver", flags).speaking_cbor(cbor),
            shown: pages.iter().filter(|(_, gate)| gates.has(*gate)).map(|(page, _)| *page).collect(),
        }
    }

    /// The answer to a path; none where it is no page.
    pub fn answer(&self, path: &str, headers: &HeaderMap) -> Option<Result<Response<Body>, Status>> {
        if !self.shown.contains(&path) {
            return None;
        }
        let hidden = |path: &&str| ["/flagz", "/statusz"].contains(path) && !self.shown.contains(path);
        let paths: Vec<&str> = PATHS.iter().copied().filter(|path| !hidden(path)).collect();
        let page = match self.process.answer(path, headers, &paths)? {
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
        let pages = Pages::new(BTreeMap::new(), Gates::default());
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
        for (gate, gone) in [(Gate::ComponentFlagz, "/flagz"), (Gate::ComponentStatusz, "/statusz")] {
            let pages = Pages::new(BTreeMap::new(), Gates::default().with(gate, false));
            for path in ["/flagz", "/statusz"] {
                let there = pages.answer(path, &HeaderMap::new()).is_some();
                assert_eq!(there, path != gone, "{path} without {gate}");
            }
        }
    }
}
