//! What a request asks for, read from its method, path and query alone.
//!
//! Contract: upstream's `endpoints/request.RequestInfoFactory`: the URL grammar of the resource API,
//! `/api/v1/...` and `/apis/<group>/<version>/...`, and the mapping of HTTP methods to verbs.

use std::sync::Arc;

use component_base::selector::FieldSelector;
use http::Method;
use percent_encoding::percent_decode_str;
use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::{
    auth::{Attributes, Selected, User},
    validate::path_segment,
};

/// The decoded query parameters, by name; the first value of each name counts, as in Go's `Values.Get`, unless all are asked for.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, Vec<String>)>);

/// The resource or plain path a request is about.
#[derive(Clone, Debug, Default)]
pub struct RequestInfo {
    /// Upstream verb: `get`, `list`, `watch`, ... or the lower-case method of a plain path.
    pub verb: SmolStr,
    /// Whether the path names a resource.
    pub is_resource: bool,
    /// Whether the path names the verb, as the first paths of watches did.
    pub verb_in_path: bool,
    /// API group; empty for core.
    pub group: SmolStr,
    /// API version.
    pub version: SmolStr,
    /// Namespace; empty at cluster scope.
    pub namespace: SmolStr,
    /// Plural resource.
    pub resource: SmolStr,
    /// Subresource; empty for the object itself.
    pub subresource: SmolStr,
    /// Object name; empty for collections.
    pub name: SmolStr,
    /// What follows the subresource (`proxy/<rest>`), without a leading slash.
    pub rest: String,
    /// The URL path.
    pub path: String,
    /// Query parameters.
    pub query: Query,
}

// === impl Query ===

impl Query {
    /// Parses `a=b&c=d`; malformed escapes stay as they are.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut all: Vec<(String, Vec<String>)> =
            pairs.map(|(name, value)| (unescape(name), vec![unescape(value)])).collect();
        // Equal names keep their order, and become one.
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all.dedup_by(|(name, values), (first, kept)| {
            let same = name == first;
            if same {
                kept.append(values);
            }
            same
        });
        all.shrink_to_fit();
        Self(all)
    }

    /// The parameter's value; empty when missing.
    pub fn get(&self, name: &str) -> &str {
        self.all(name).first().map_or("", String::as_str)
    }

    /// All values of a parameter, in their order.
    pub fn all(&self, name: &str) -> &[String] {
        self.place(name).map_or(&[], |at| self.0[at].1.as_slice())
    }

    /// Whether the parameter is present.
    pub fn has(&self, name: &str) -> bool {
        self.place(name).is_some()
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.0.binary_search_by(|(own, _)| own.as_str().cmp(name)).ok()
    }

    /// Go's conversion of a boolean query parameter: present and not `false` or `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.has(name) && !matches!(self.get(name).to_ascii_lowercase().as_str(), "false" | "0")
    }
}

/// The parts of a path; few have more of them.
type Parts<'a> = SmallVec<[&'a str; 8]>;

/// What authorizers call a method on a path that is no resource.
fn plain_verb(method: &Method) -> SmolStr {
    match *method {
        Method::GET => SmolStr::new_static("get"),
        Method::POST => SmolStr::new_static("post"),
        _ => method.as_str().to_ascii_lowercase().into(),
    }
}

/// What authorizers call a method on a resource.
fn resource_verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

fn unescape(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

// === impl RequestInfo ===

impl RequestInfo {
    /// The path with placeholders for what is named in it, by which requests that are alike are known.
    pub fn pattern(&self) -> String {
        let mut pattern = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if !self.namespace.is_empty() {
            pattern.push_str("/namespaces/{:namespace}");
        }
        pattern.push('/');
        pattern.push_str(&self.resource);
        if !self.name.is_empty() {
            pattern.push_str("/{:name}");
        }
        if !self.subresource.is_empty() {
            pattern.push('/');
            pattern.push_str(&self.subresource);
        }
        pattern
    }

    /// Reads method, path and query.
    pub fn new(method: &Method, path: &str, query: &str) -> Self {
        let mut info = Self {
            verb: plain_verb(method),
            path: path.to_owned(),
            query: Query::parse(query),
            ..Self::default()
        };
        // As upstream: escaped slashes divide as well, and there is a part, an empty one, between two of them.
        let decoded = percent_decode_str(path).decode_utf8_lossy();
        let parts: Parts<'_> = decoded.trim_matches('/').split('/').collect();
        let tail = match parts.as_slice() {
            ["api", version, tail @ ..] if !tail.is_empty() => {
                info.version = SmolStr::new(version);
                tail
            }
            ["apis", group, version, tail @ ..] if !tail.is_empty() => {
                info.group = SmolStr::new(group);
                info.version = SmolStr::new(version);
                tail
            }
            _ => return info,
        };
        info.is_resource = true;
        info.verb = SmolStr::new_static(resource_verb(method));
        let tail = match tail {
            [first @ ("watch" | "proxy"), rest @ ..] if !rest.is_empty() => {
                info.verb = SmolStr::new(first);
                info.verb_in_path = true;
                rest
            }
            all => all,
        };
        info.read_resource(tail);
        info.finish_verb();
        info
    }

    fn read_resource(&mut self, tail: &[&str]) {
        let tail = match tail {
            // `namespaces/<ns>/<resource>`, unless what follows is a subresource of the namespace itself.
            ["namespaces", ns, third, ..] if !matches!(*third, "status" | "finalize") => {
                self.namespace = SmolStr::new(ns);
                &tail[2..]
            }
            ["namespaces", ns, ..] => {
                self.namespace = SmolStr::new(ns);
                tail
            }
            all => all,
        };
        let at = |i: usize| tail.get(i).map(SmolStr::new).unwrap_or_default();
        (self.resource, self.name, self.subresource) = (at(0), at(1), at(2));
        if self.verb == "proxy" {
            self.subresource = SmolStr::default();
        }
        self.rest = tail.get(3..).map(|r| r.join("/")).unwrap_or_default();
    }

    fn finish_verb(&mut self) {
        if self.name.is_empty() && self.verb == "get" {
            self.verb = SmolStr::new_static(if self.query.flag("watch") { "watch" } else { "list" });
            // One that reads a single name is authorized for that name.
            if let Ok(selector) = self.query.get("fieldSelector").parse::<FieldSelector>()
                && let Some(name) = selector.exact("metadata.name")
                && path_segment(name, false).is_empty()
            {
                self.name = name.into();
            }
        } else if self.name.is_empty() && self.verb == "delete" {
            self.verb = SmolStr::new_static("deletecollection");
        }
    }

    /// `group/version`, or the version alone for core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether the path is below no root: nothing is served there, whatever it goes on with.
    pub fn is_rootless(&self) -> bool {
        let after = self.path.strip_prefix('/').unwrap_or_default();
        after.starts_with('/') || after.get(..3).is_some_and(|first| first.eq_ignore_ascii_case("%2f"))
    }

    /// Whether the request may outlive the server's request timeout.
    pub fn is_long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(self.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy" | "log")
    }

    /// A selector, where the verb has any.
    fn selector(&self, name: &str) -> &str {
        // Watches whose path says so do not all have selectors, so that nobody is asked about any.
        let selects = self.is_resource
            && !self.verb_in_path
            && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection");
        if selects { self.query.get(name) } else { "" }
    }

    /// What authorizers and admission see.
    pub fn attributes(&self, user: &Arc<User>) -> Attributes {
        Attributes {
            user: user.clone(),
            verb: self.verb.clone(),
            namespace: self.namespace.clone(),
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.resource.clone(),
            subresource: self.subresource.clone(),
            name: self.name.clone(),
            is_resource: self.is_resource,
            path: self.path.clone(),
            field_selector: Selected::fields(self.selector("fieldSelector")),
            label_selector: Selected::labels(self.selector("labelSelector")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_verbs_and_names() {
        let cases = [
            ("GET", "/api/v1/pods", "", "list", "", "pods", "", ""),
            ("GET", "/api/v1/pods", "watch=true", "watch", "", "pods", "", ""),
            ("GET", "/api/v1/pods", "watch=0", "list", "", "pods", "", ""),
            ("GET", "/api/v1/namespaces/a", "", "get", "a", "namespaces", "a", ""),
            ("PUT", "/api/v1/namespaces/a/finalize", "", "update", "a", "namespaces", "a", "finalize"),
            ("GET", "/api/v1/namespaces/a/pods/p/log", "", "get", "a", "pods", "p", "log"),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/a/deployments",
                "",
                "deletecollection",
                "a",
                "deployments",
                "",
                "",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "",
                "patch",
                "a",
                "deployments",
                "d",
                "scale",
            ),
            ("GET", "/api/v1/watch/pods", "", "watch", "", "pods", "", ""),
            ("GET", "/api/v1/pods", "fieldSelector=metadata.name%3Dx", "list", "", "pods", "x", ""),
            ("GET", "/api/v1/pods", "fieldSelector=a!%3Db,metadata.name%3D%3Dx", "list", "", "pods", "x", ""),
            ("GET", "/api/v1/pods", "fieldSelector=metadata.name!%3Dx", "list", "", "pods", "", ""),
            ("GET", "/api/v1/pods", "fieldSelector=metadata.name%3Dx%252Fy", "list", "", "pods", "", ""),
            (
                "DELETE",
                "/api/v1/pods",
                "fieldSelector=metadata.name%3Dx",
                "deletecollection",
                "",
                "pods",
                "",
                "",
            ),
            ("GET", "/api/v1/pods/", "", "list", "", "pods", "", ""),
            ("GET", "/api/v1//pods", "", "get", "", "", "pods", ""),
            ("GET", "/api/v1/namespaces//pods", "", "list", "", "pods", "", ""),
            ("GET", "/api/v1/namespaces/a/pods//log", "", "list", "a", "pods", "", "log"),
            ("GET", "/api/v1/namespaces/a%2fpods%2fp", "", "get", "a", "pods", "p", ""),
            ("GET", "/api/v1/namespaces/a/pods/p%252fq", "", "get", "a", "pods", "p%2fq", ""),
            ("GET", "/api/v1/proxy/namespaces/a/pods/p", "", "proxy", "a", "pods", "p", ""),
            ("GET", "/api/v1/proxy/namespaces/a/pods/p/x/y", "", "proxy", "a", "pods", "p", ""),
        ];
        for (method, path, query, verb, namespace, resource, name, sub) in cases {
            let info = RequestInfo::new(&method.parse().unwrap(), path, query);
            assert!(info.is_resource, "{path}");
            let got = (&*info.verb, &*info.namespace, &*info.resource, &*info.name, &*info.subresource);
            assert_eq!(got, (verb, namespace, resource, name, sub), "{method} {path}?{query}");
        }
    }

    #[test]
    fn selectors_are_those_of_collections() {
        for (method, path, has) in [
            ("GET", "/api/v1/pods", true),
            ("DELETE", "/api/v1/namespaces/a/pods", true),
            ("GET", "/api/v1/watch/pods", false),
            ("GET", "/api/v1/namespaces/a/pods/p", false),
        ] {
            let query = "labelSelector=a%3Db&watch=1";
            let info = RequestInfo::new(&method.parse().unwrap(), path, query);
            assert_eq!(!info.selector("labelSelector").is_empty(), has, "{method} {path}");
        }
    }

    #[test]
    fn plain_paths_keep_the_method() {
        for path in ["/", "/healthz", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/version"] {
            let info = RequestInfo::new(&Method::GET, path, "");
            assert!(!info.is_resource, "{path}");
            assert_eq!(info.verb, "get");
        }
    }
}
