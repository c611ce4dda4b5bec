//! Policies from a file: a line for each, saying who may do what with which resources or paths.
//!
//! Contract: "Using ABAC Authorization"; kinds `Policy` of `abac.authorization.kubernetes.io/v1beta1` and the form without
//! a version that came before it.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::{Attributes, Authorizer, Decision, User};

const GROUP: &str = "abac.authorization.kubernetes.io";
const ALL_AUTHENTICATED: &str = "system:authenticated";
/// A line of more bytes is an error, as upstream.
const MAX_LINE: u64 = 64 << 10;

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("error reading policy file {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// A line is no policy.
    #[error("error reading policy file {}, line {line}: {text}: {why}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What it says.
        text: String,
        /// What is wrong with that.
        why: String,
    },
}

/// All policies of a file, of which one that fits is enough.
#[derive(Debug, Default)]
pub struct Policies(Vec<Policy>);

/// Who may do what. `*` stands for any, and what is empty fits only what is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

#[derive(Deserialize)]
struct Versioned {
    #[serde(default)]
    spec: Policy,
}

// === impl Policies ===

impl Policies {
    /// Reads them.
    ///
    /// # Errors
    /// For a file that cannot be read, and for the first line that is no policy.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let failed = |error| LoadError::Read(path.to_owned(), error);
        let mut reader = BufReader::new(File::open(path).map_err(failed)?);
        let (mut policies, mut line, mut dated) = (Vec::new(), 0, false);
        loop {
            let mut text = String::new();
            line += 1;
            if io::Read::take(&mut reader, MAX_LINE).read_line(&mut text).map_err(failed)? == 0 {
                break;
            }
            let wrong = |why| LoadError::Line {
                path: path.to_owned(),
                line,
                text: text.trim_end_matches(['\r', '\n']).to_owned(),
                why,
            };
            if text.len() as u64 == MAX_LINE && !text.ends_with('\n') {
                return Err(failed(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("line {line} is too long"),
                )));
            }
            match text.trim() {
                "" => continue,
                comment if comment.starts_with('#') => continue,
                _ => {}
            }
            let (policy, is_dated) = parse(&text).map_err(wrong)?;
            policies.push(policy);
            dated |= is_dated;
        }
        if dated {
            tracing::warn!(path = %path.display(), "policy file contains unversioned rules");
        }
        Ok(Self(policies))
    }
}

/// The policy of a line, and whether it is in the form without a version.
fn parse(line: &str) -> Result<(Policy, bool), String> {
    let value: Value = match line.trim_start().starts_with('{') {
        true => serde_json::from_str(line).map_err(|error| error.to_string())?,
        false => serde_saphyr::from_str(line).map_err(|error| error.to_string())?,
    };
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    match (version.strip_prefix(GROUP), kind.as_str()) {
        (Some("/v1beta1"), "Policy") => {
            let versioned: Versioned = serde_json::from_value(value).map_err(|error| error.to_string())?;
            Ok((versioned.spec.of_the_authenticated(), false))
        }
        (at, "" | "Policy") if version.is_empty() || at == Some("/v0") => {
            let policy: Policy = serde_json::from_value(value).map_err(|error| error.to_string())?;
            Ok((policy.before_versions(), true))
        }
        _ => Err(format!("no kind {kind:?} is registered for version {version:?}")),
    }
}

#[async_trait]
impl Authorizer for Policies {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        match self.0.iter().any(|policy| policy.allows(attributes)) {
            true => Decision::Allow(String::new()),
            false => Decision::NoOpinion("No policy matched.".to_owned()),
        }
    }

    async fn rules(&self, user: &User, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        let fits = |policy: &&Policy| policy.is_of(user) && is_any_or(&policy.namespace, namespace);
        for policy in self.0.iter().filter(fits) {
            let verbs: &[&str] = if policy.readonly { &["get", "list", "watch"] } else { &["*"] };
            if !policy.resource.is_empty() {
                let (group, resource) = (&policy.api_group, &policy.resource);
                resources.push(json!({"verbs": verbs, "apiGroups": [group], "resources": [resource]}));
            }
            if !policy.non_resource_path.is_empty() {
                paths.push(json!({"verbs": verbs, "nonResourceURLs": [policy.non_resource_path]}));
            }
        }
        (resources, paths, false)
    }
}

// === impl Policy ===

impl Policy {
    /// Any user or group means those who are somebody.
    fn of_the_authenticated(mut self) -> Self {
        if self.user == "*" || self.group == "*" {
            self.user.clear();
            ALL_AUTHENTICATED.clone_into(&mut self.group);
        }
        self
    }

    /// Before versions, what was not said was anything, and there were no groups of resources and no paths.
    fn before_versions(self) -> Self {
        let or_any = |text: &str| if text.is_empty() { "*".to_owned() } else { text.to_owned() };
        let nobody = self.user.is_empty() && self.group.is_empty();
        let everywhere = self.namespace.is_empty() && self.resource.is_empty();
        let group = if nobody { ALL_AUTHENTICATED.to_owned() } else { self.group };
        let all = Self {
            api_group: "*".to_owned(),
            resource: or_any(&self.resource),
            namespace: or_any(&self.namespace),
            non_resource_path: if everywhere { "*".to_owned() } else { String::new() },
            group,
            ..self
        };
        all.of_the_authenticated()
    }

    fn allows(&self, attributes: &Attributes) -> bool {
        let reads = matches!(attributes.verb.as_str(), "get" | "list" | "watch");
        (reads || !self.readonly) && self.is_of(&attributes.user) && self.covers(attributes)
    }

    /// Whether it is a policy of this user: by name, by group, or where it names both by both.
    fn is_of(&self, user: &User) -> bool {
        let (names, groups) = (!self.user.is_empty(), !self.group.is_empty());
        (names || groups)
            && (!names || is_any_or(&self.user, &user.name))
            && (!groups || self.group == "*" || user.in_group(&self.group))
    }

    fn covers(&self, attributes: &Attributes) -> bool {
        if attributes.is_resource {
            return is_any_or(&self.namespace, &attributes.namespace)
                && is_any_or(&self.resource, &attributes.resource)
                && is_any_or(&self.api_group, &attributes.group);
        }
        match self.non_resource_path.trim_end_matches('*') {
            prefix if prefix.len() < self.non_resource_path.len() => attributes.path.starts_with(prefix),
            path => attributes.path == path,
        }
    }
}

fn is_any_or(pattern: &str, what: &str) -> bool {
    pattern == "*" || pattern == what
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Arc};

    use smol_str::SmolStr;

    use super::*;

    fn load(text: &str) -> Result<Policies, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let named = |error: LoadError| component_base::workqueue::chain(&error);
        Policies::load(file.path())
            .map_err(|error| named(error).replace(&*file.path().to_string_lossy(), "FILE"))
    }

    fn user(name: &str) -> User {
        let groups = match name {
            "system:anonymous" => vec!["system:unauthenticated".to_owned()],
            _ => vec![ALL_AUTHENTICATED.to_owned(), format!("{name}s")],
        };
        User { name: name.to_owned(), groups, ..User::default() }
    }

    /// `verb group/resource namespace`, or `verb /path`.
    fn asked(name: &str, what: &str) -> Attributes {
        let mut words = what.split(' ');
        let mut word = || SmolStr::new(words.next().unwrap_or_default());
        let (verb, what, namespace) = (word(), word(), word());
        let user = Arc::new(user(name));
        if what.starts_with('/') {
            return Attributes { user, verb, path: what.to_string(), ..Attributes::default() };
        }
        let (group, resource) = what.split_once('/').unwrap_or(("", &what));
        let (group, resource) = (group.into(), resource.into());
        Attributes { user, verb, group, resource, namespace, is_resource: true, ..Attributes::default() }
    }

    async fn allowed(policies: &Policies, name: &str, what: &str) -> bool {
        matches!(policies.authorize(&asked(name, what)).await, Decision::Allow(_))
    }

    fn of(spec: &str) -> String {
        format!("{{\"apiVersion\": \"{GROUP}/v1beta1\", \"kind\": \"Policy\", \"spec\": {spec}}}")
    }

    #[tokio::test]
    async fn a_policy_that_fits_is_enough() {
        let lines = [
            "# who may do what",
            "",
            &of(r#"{"user": "alice", "namespace": "*", "resource": "*", "apiGroup": "*"}"#),
            &of(r#"{"user": "kubelet", "namespace": "*", "resource": "pods", "readonly": true}"#),
            &of(
                r#"{"group": "bobs", "namespace": "projects", "resource": "deployments", "apiGroup": "apps"}"#,
            ),
            &of(r#"{"group": "*", "readonly": true, "nonResourcePath": "/api*"}"#),
            &of(r#"{"user": "carol", "nonResourcePath": "/metrics"}"#),
            &of(r#"{"user": "dave", "group": "bobs", "namespace": "*", "resource": "*", "apiGroup": "*"}"#),
            &of(r#"{"namespace": "*", "resource": "*", "apiGroup": "*"}"#),
        ];
        let policies = load(&lines.join("\n")).unwrap();
        for (name, what, expected) in [
            ("alice", "create apps/deployments x", true),
            ("alice", "get nodes", true),
            ("alice", "get /metrics", false),
            ("kubelet", "list pods x", true),
            ("kubelet", "create pods x", false),
            ("kubelet", "get services x", false),
            ("kubelet", "get apps/pods x", false),
            ("bob", "delete apps/deployments projects", true),
            ("bob", "delete apps/deployments other", false),
            ("bob", "get /apis/apps", true),
            ("bob", "post /apis", false),
            ("system:anonymous", "get /api", false),
            ("carol", "post /metrics", true),
            ("carol", "get /metrics/x", false),
            // Who names a user and a group means those who are both.
            ("dave", "get pods x", false),
        ] {
            assert_eq!(allowed(&policies, name, what).await, expected, "{name} {what}");
        }
        let (resources, paths, incomplete) = policies.rules(&user("kubelet"), "x").await;
        let pods = json!({"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["pods"]});
        assert_eq!((resources, paths, incomplete), (vec![pods], vec![], false));
    }

    #[tokio::test]
    async fn lines_without_a_version_say_more() {
        let policies = load(
            "{\"user\": \"admin\"}\n{\"group\": \"readers\", \"readonly\": true, \"resource\": \"pods\"}\n{\"user\": \"*\", \"namespace\": \"open\"}",
        );
        let policies = policies.unwrap();
        for (name, what, expected) in [
            ("admin", "delete batch/jobs x", true),
            ("admin", "post /anything", true),
            ("reader", "get batch/pods x", true),
            ("reader", "get /api", false),
            ("reader", "delete pods x", false),
            ("reader", "delete pods open", true),
            ("system:anonymous", "get pods open", false),
        ] {
            assert_eq!(allowed(&policies, name, what).await, expected, "{name} {what}");
        }
        let all = load("{}").unwrap();
        assert!(
            allowed(&all, "anybody", "delete nodes").await
                && !allowed(&all, "system:anonymous", "get pods").await
        );
    }

    #[test]
    fn a_line_that_is_no_policy_is_named() {
        for (text, told) in [
            ("{}\n{\"user\": 1}", "FILE, line 2: {\"user\": 1}: invalid type: integer"),
            ("#\n\nnonsense {", "FILE, line 3: nonsense {: "),
            (&of("[]").replace("v1beta1", "v9"), "line 1: {\"apiVersion\": "),
            (&of("{}").replace("Policy", "Other"), "no kind \"Other\" is registered"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.starts_with("error reading policy file FILE") && error.contains(told), "{error}");
        }
        let missing = Policies::load(Path::new("/no/such/file")).unwrap_err();
        assert!(component_base::workqueue::chain(&missing).contains("No such file"), "{missing}");
    }
}
