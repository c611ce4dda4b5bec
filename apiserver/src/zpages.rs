//! `/statusz` and `/flagz`: since when which version runs, and with which flags.
//!
//! Contract: KEP-4827 and KEP-4828, `config.k8s.io/v1beta1` `Statusz` and `Flagz`.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue, Response, header};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use crate::{
    negotiation::page::{Form, GROUP},
    objects::rfc3339,
    response::{self, Body},
    status::Status,
};

const NAME: &str = "kube-apiserver";
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";
/// Where else to look, sorted.
const PATHS: &[&str] =
    &["/debug", "/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"];

/// What the pages tell.
#[derive(Debug)]
pub struct Pages {
    started: Timestamp,
    flags: BTreeMap<&'static str, String>,
}

impl Pages {
    /// Of a server that starts now with these flags.
    pub fn new(flags: BTreeMap<&'static str, String>) -> Self {
        Self { started: Timestamp::now(), flags }
    }

    /// The answer to a path; none where it is no page.
    pub fn answer(&self, path: &str, headers: &HeaderMap) -> Option<Result<Response<Body>, Status>> {
        let (kind, name): (&str, &str) = match path {
            "/statusz" => ("Statusz", "statusz"),
            "/flagz" => ("Flagz", "flagz"),
            _ => return None,
        };
        Some(Form::choose(headers, kind).and_then(|form| self.page(kind, name, form)))
    }

    fn page(&self, kind: &str, name: &str, form: Form) -> Result<Response<Body>, Status> {
        let now = Timestamp::now();
        let object = form.version().map(|version| self.object(kind, version, now));
        let mut answer = match (form, object) {
            (Form::Json(_), Some(object)) => response::json(200, &object),
            (Form::Yaml(_), Some(object)) => {
                let text = serde_saphyr::to_string(&object).map_err(|e| Status::internal(e.to_string()))?;
                response::of(200, "application/yaml", response::full(text))
            }
            _ => response::text(200, format!("\n{NAME} {name}\n{WARNING}\n{}", self.lines(kind, now))),
        };
        if form.is_deprecated() {
            let text = format!(
                "299 - \"This version of the {name} endpoint is deprecated. Please use a newer version.\""
            );
            if let Ok(value) = HeaderValue::from_str(&text) {
                answer.headers_mut().insert(header::WARNING, value);
            }
        }
        Ok(answer)
    }

    fn object(&self, kind: &str, version: &str, now: Timestamp) -> Value {
        let mut object =
            json!({"kind": kind, "apiVersion": format!("{GROUP}/{version}"), "metadata": {"name": NAME}});
        if kind == "Flagz" {
            object["flags"] = json!(self.flags);
            return object;
        }
        let info = component_base::version::info();
        object["startTime"] = rfc3339(self.started).into();
        object["uptimeSeconds"] = self.uptime(now).into();
        object["goVersion"] = info.go_version.into();
        object["binaryVersion"] = version_of(info.git_version).into();
        object["emulationVersion"] = format!("{}.{}", info.emulation_major, info.emulation_minor).into();
        object["paths"] = json!(PATHS);
        object
    }

    fn lines(&self, kind: &str, now: Timestamp) -> String {
        if kind == "Flagz" {
            return self.flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        }
        let info = component_base::version::info();
        let started = self.started.to_zoned(TimeZone::UTC).strftime("%a %b %e %H:%M:%S UTC %Y");
        let up = self.uptime(now);
        format!(
            "\nStarted: {started}\nUp: {} hr {:02} min {:02} sec\nGo version: {}\nBinary version: {}\nEmulation \
             version: {}.{}\nPaths: {}\n",
            up / 3600,
            up / 60 % 60,
            up % 60,
            info.go_version,
            version_of(info.git_version),
            info.emulation_major,
            info.emulation_minor,
            PATHS.join(" "),
        )
    }

    fn uptime(&self, now: Timestamp) -> i64 {
        (now.as_second() - self.started.as_second()).max(0)
    }
}

/// A version without the letter in front.
fn version_of(text: &str) -> &str {
    text.trim_start_matches('v')
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn ask(path: &str, accept: &str) -> (u16, HeaderMap, String) {
        let pages =
            Pages::new(BTreeMap::from([("etcd-servers", "http://a".to_owned()), ("v", "2".to_owned())]));
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        let (parts, body) = match pages.answer(path, &headers).unwrap() {
            Ok(answer) => answer.into_parts(),
            Err(status) => return (status.code, HeaderMap::new(), status.message),
        };
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn pages_are_text_or_objects() {
        let (code, headers, text) = ask("/flagz", "*/*").await;
        assert_eq!((code, &headers["content-type"]), (200, &"text/plain; charset=utf-8".parse().unwrap()));
        assert!(text.starts_with("\nkube-apiserver flagz\nWarning: This endpoint"), "{text}");
        assert!(text.ends_with("etcd-servers=http://a\nv=2\n"), "{text}");
        let (_, _, text) = ask("/statusz", "text/plain").await;
        assert!(
            text.contains("\nBinary version: 1.36.0\nEmulation version: 1.36\nPaths: /debug /flagz"),
            "{text}"
        );
        let (_, headers, text) = ask("/flagz", "application/json;g=config.k8s.io;v=v1beta1;as=Flagz").await;
        assert!(!headers.contains_key("warning"));
        let flags: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            flags,
            json!({"kind": "Flagz", "apiVersion": "config.k8s.io/v1beta1", "metadata": {"name": "kube-apiserver"},
                "flags": {"etcd-servers": "http://a", "v": "2"}})
        );
        let (_, headers, text) =
            ask("/statusz", "application/yaml;g=config.k8s.io;v=v1alpha1;as=Statusz").await;
        assert_eq!(headers["content-type"], "application/yaml");
        assert!(
            headers["warning"].to_str().unwrap().starts_with("299 - \"This version of the statusz endpoint")
        );
        let status: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(
            (&status["apiVersion"], &status["binaryVersion"]),
            (&json!("config.k8s.io/v1alpha1"), &json!("1.36.0"))
        );
        assert_eq!(ask("/statusz", "application/json").await.0, 406);
        assert!(Pages::new(BTreeMap::new()).answer("/statusz/x", &HeaderMap::new()).is_none());
    }
}
