//! `/statusz` and `/flagz`: since when which version runs, and with which flags. Text for people, and objects for those
//! who name version and kind.
//!
//! Contract: KEP-4827 and KEP-4828; `config.k8s.io/v1beta1` `Statusz` and `Flagz`; text unless `g`, `v` and `as` in
//! `Accept` ask for an object.

use std::{cmp::Reverse, collections::BTreeMap, sync::OnceLock};

use http::{HeaderMap, header};
use jiff::{Timestamp, tz::TimeZone};
use proto::{cbor, node::Node};
use serde_json::{Value, json};

/// The group of the objects.
const GROUP: &str = "config.k8s.io";
/// Versions of the objects, the newest first; the others are deprecated.
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];
/// Media types of pages.
const OFFERED: [&str; 3] = ["application/json", "application/yaml", "text/plain"];
const NOTICE: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                      guarantees and is for debugging purposes only.";

static THIS: OnceLock<Process> = OnceLock::new();

/// What the pages tell.
#[derive(Clone, Debug)]
pub struct Process {
    name: &'static str,
    started: Timestamp,
    flags: BTreeMap<&'static str, String>,
    cbor: bool,
}

/// A page as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its Content-Type.
    pub content_type: &'static str,
    /// What it says.
    pub body: Vec<u8>,
    /// A `Warning` header, for versions that will not be there for long.
    pub warning: Option<String>,
}

/// The client takes none of the forms of a page: 406.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("only the following media types are accepted: {}", .0.join(", "))]
pub struct NotAcceptable(pub Vec<&'static str>);

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json(&'static str),
    Yaml(&'static str),
    Cbor(&'static str),
}

/// Says what this process is; only the first call of a process does.
pub fn describe(name: &'static str, flags: BTreeMap<&'static str, String>) {
    // What was said first stays.
    let _is_first = THIS.set(Process::new(name, flags)).is_ok();
}

/// What was said of this process.
pub fn described() -> Option<&'static Process> {
    THIS.get()
}

impl Process {
    /// A process that starts now with these flags.
    pub fn new(name: &'static str, flags: BTreeMap<&'static str, String>) -> Self {
        Self { name, started: Timestamp::now(), flags, cbor: false }
    }

    /// The same; its pages are there as CBOR too if so.
    pub fn speaking_cbor(self, cbor: bool) -> Self {
        Self { cbor, ..self }
    }

    /// The answer to a path, none where it is no page; `paths` are where else to look, sorted.
    ///
    /// # Errors
    /// When the client takes none of the forms.
    pub fn answer(
        &self,
        path: &str,
        headers: &HeaderMap,
        paths: &[&str],
    ) -> Option<Result<Page, NotAcceptable>> {
        let (kind, name) = match path {
            "/statusz" => ("Statusz", "statusz"),
            "/flagz" => ("Flagz", "flagz"),
            _ => return None,
        };
        let form = Form::choose(headers, kind, self.cbor);
        let page = form.map(|form| self.page(kind, name, form, paths));
        let offered = || OFFERED.into_iter().chain(self.cbor.then_some(cbor::CONTENT_TYPE)).collect();
        Some(page.ok_or_else(|| NotAcceptable(offered())))
    }

    fn page(&self, kind: &str, name: &str, form: Form, paths: &[&str]) -> Page {
        let now = Timestamp::now();
        let object = |version| self.object(kind, version, now, paths);
        let (content_type, body, version) = match form {
            Form::Text => {
                let lines = self.lines(kind, now, paths);
                let text = format!("\n{} {name}\n{NOTICE}\n{lines}", self.name);
                ("text/plain; charset=utf-8", text.into_bytes(), VERSIONS[0])
            }
            Form::Json(version) => {
                ("application/json", format!("{}\n", object(version)).into_bytes(), version)
            }
            Form::Cbor(version) => {
                let order = cbor::Order::Turned(rand::random());
                (cbor::CONTENT_TYPE, cbor::encode(&Node::from(&object(version)), order), version)
            }
            Form::Yaml(version) => {
                // An object of texts, numbers and lists of texts can be written.
                let text = serde_saphyr::to_string(&object(version)).unwrap_or_default();
                ("application/yaml", text.into_bytes(), version)
            }
        };
        let warning = (version != VERSIONS[0]).then(|| {
            format!(
                "299 - \"This version of the {name} endpoint is deprecated. Please use a newer version.\""
            )
        });
        Page { content_type, body, warning }
    }

    fn object(&self, kind: &str, version: &str, now: Timestamp, paths: &[&str]) -> Value {
        let mut object = json!({"kind": kind, "apiVersion": format!("{GROUP}/{version}"), "metadata": {"name": self.name}});
        if kind == "Flagz" {
            object["flags"] = json!(self.flags);
            return object;
        }
        let info = crate::version::info();
        let started = self.started.round(jiff::Unit::Second).unwrap_or(self.started);
        object["startTime"] = started.to_string().into();
        object["uptimeSeconds"] = self.uptime(now).into();
        object["goVersion"] = info.go_version.into();
        object["binaryVersion"] = info.git_version.trim_start_matches('v').into();
        object["emulationVersion"] = format!("{}.{}", info.emulation_major, info.emulation_minor).into();
        object["paths"] = json!(paths);
        object
    }

    fn lines(&self, kind: &str, now: Timestamp, paths: &[&str]) -> String {
        if kind == "Flagz" {
            return self.flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        }
        let info = crate::version::info();
        let started = self.started.to_zoned(TimeZone::UTC).strftime("%a %b %e %H:%M:%S UTC %Y");
        let up = self.uptime(now);
        format!(
            "\nStarted: {started}\nUp: {} hr {:02} min {:02} sec\nGo version: {}\nBinary version: {}\nEmulation \
             version: {}.{}\nPaths: {}\n",
            up / 3600,
            up / 60 % 60,
            up % 60,
            info.go_version,
            info.git_version.trim_start_matches('v'),
            info.emulation_major,
            info.emulation_minor,
            paths.join(" "),
        )
    }

    fn uptime(&self, now: Timestamp) -> i64 {
        (now.as_second() - self.started.as_second()).max(0)
    }
}

impl Form {
    /// What the client wants of a page whose object is of this kind.
    fn choose(headers: &HeaderMap, kind: &str, cbor: bool) -> Option<Self> {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut clauses: Vec<(f64, Option<Self>)> = accepted
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|clause| !clause.is_empty())
            .map(|clause| Self::of_clause(clause, kind, cbor))
            .collect();
        if clauses.is_empty() {
            return Some(Self::Text);
        }
        // Thousandths, as more are not told apart.
        #[expect(clippy::cast_possible_truncation, reason = "it is between 0 and 1000 after clamping")]
        clauses.sort_by_key(|(quality, _)| Reverse((quality.clamp(0.0, 1.0) * 1000.0) as i64));
        clauses.into_iter().filter(|(quality, _)| *quality > 0.0).find_map(|(_, form)| form)
    }

    /// The quality of a clause of `Accept`, and the form it asks for, where there is one.
    fn of_clause(clause: &str, kind: &str, cbor: bool) -> (f64, Option<Self>) {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let of = |name: &str| parameters.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
        let quality = of("q").and_then(|text| text.parse().ok()).unwrap_or(1.0);
        let asked = [of("g"), of("v"), of("as")];
        if asked == [None; 3] {
            let is_text = matches!(media, "text/plain" | "text/*" | "*/*");
            return (quality, is_text.then_some(Self::Text));
        }
        let version = VERSIONS.into_iter().find(|v| asked == [Some(GROUP), Some(*v), Some(kind)]);
        let form = version.and_then(|version| match media {
            "application/json" | "application/*" | "*/*" => Some(Self::Json(version)),
            "application/yaml" => Some(Self::Yaml(version)),
            cbor::CONTENT_TYPE if cbor => Some(Self::Cbor(version)),
            _ => None,
        });
        (quality, form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> Process {
        let flags = [("etcd-servers", "http://a".to_owned()), ("v", "2".to_owned())];
        Process::new("kube-test", BTreeMap::from(flags))
    }

    fn ask(path: &str, accept: &str) -> Result<Page, NotAcceptable> {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        process().answer(path, &headers, &["/healthz", "/metrics"]).unwrap()
    }

    #[test]
    fn text_unless_an_object_is_named() {
        let text = "text/plain; charset=utf-8";
        for (accept, expected) in [
            ("", Some(text)),
            ("*/*", Some(text)),
            ("text/plain", Some(text)),
            ("application/json", None),
            ("application/json, */*;q=0.1", Some(text)),
            ("application/json;g=config.k8s.io;v=v1beta1;as=Statusz", Some("application/json")),
            ("application/yaml;as=Statusz;v=v1alpha1;g=config.k8s.io", Some("application/yaml")),
            (
                "*/*;q=0.2, application/yaml;as=Statusz;v=v1beta1;g=config.k8s.io;q=0.3",
                Some("application/yaml"),
            ),
            ("application/json;g=config.k8s.io;v=v1;as=Statusz", None),
            ("application/json;g=config.k8s.io;v=v1beta1;as=Flagz", None),
            ("text/plain;g=config.k8s.io;v=v1beta1;as=Statusz", None),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/plain;q=0", None),
        ] {
            let found = ask("/statusz", accept).ok().map(|page| page.content_type);
            assert_eq!(found, expected, "{accept}");
        }
        assert!(process().answer("/statusz/x", &HeaderMap::new(), &[]).is_none());
    }

    #[test]
    fn pages_are_cbor_where_it_is_spoken() {
        let accept = "application/cbor;g=config.k8s.io;v=v1beta1;as=Flagz";
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        let refused = process().answer("/flagz", &headers, &[]).unwrap().unwrap_err();
        assert!(
            refused.to_string().ends_with(": application/json, application/yaml, text/plain"),
            "{refused}"
        );
        let page = process().speaking_cbor(true).answer("/flagz", &headers, &[]).unwrap().unwrap();
        assert_eq!(page.content_type, "application/cbor");
        assert_eq!(cbor::decode(&page.body).unwrap().to_value()["flags"]["v"], "2");
    }

    #[test]
    fn pages_tell_of_the_process() {
        let flags = ask("/flagz", "*/*").unwrap();
        let text = |page: &Page| String::from_utf8(page.body.clone()).unwrap();
        let flags = text(&flags);
        assert!(flags.starts_with("\nkube-test flagz\nWarning: This endpoint"), "{flags}");
        assert!(flags.ends_with("etcd-servers=http://a\nv=2\n"), "{flags}");
        let status = text(&ask("/statusz", "").unwrap());
        let expected = "\nBinary version: 1.36.0\nEmulation version: 1.36\nPaths: /healthz /metrics\n";
        assert!(status.ends_with(expected), "{status}");
        let flags = ask("/flagz", "application/json;g=config.k8s.io;v=v1beta1;as=Flagz").unwrap();
        assert_eq!(flags.warning, None);
        assert_eq!(
            serde_json::from_slice::<Value>(&flags.body).unwrap(),
            json!({"kind": "Flagz", "apiVersion": "config.k8s.io/v1beta1", "metadata": {"name": "kube-test"},
                "flags": {"etcd-servers": "http://a", "v": "2"}})
        );
        let status = ask("/statusz", "application/yaml;g=config.k8s.io;v=v1alpha1;as=Statusz").unwrap();
        assert!(
            status.warning.as_deref().unwrap().starts_with("299 - \"This version of the statusz endpoint")
        );
        let status: Value = serde_saphyr::from_str(&text(&status)).unwrap();
        assert_eq!(
            (&status["apiVersion"], &status["binaryVersion"], &status["paths"]),
            (&json!("config.k8s.io/v1alpha1"), &json!("1.36.0"), &json!(["/healthz", "/metrics"]))
        );
        assert!(status["startTime"].as_str().unwrap().parse::<Timestamp>().is_ok());
    }
}
