//! What the API server serves, for controllers that handle objects of any kind.
//!
//! Contract: aggregated discovery, `apidiscovery.k8s.io/v2` (KEP-3352); one request each for `/api` and `/apis`, which
//! the server answers briefly (304) while nothing has changed.

use std::{sync::Arc, time::Duration};

use component_base::informer::GroupVersionResource;
use http::{Request, StatusCode, header};
use kube::client::Body;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

/// One resource in the version the server prefers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Served {
    /// API group; empty for core.
    pub group: String,
    /// The preferred version that has the resource.
    pub version: String,
    /// Plural, lower case.
    pub resource: String,
    /// Kind of its objects.
    pub kind: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What may be done with it.
    pub verbs: Vec<String>,
    /// Its subresources: `status`, `scale`.
    pub subresources: Vec<String>,
}

/// How long what the server serves is believed.
const BELIEVED: Duration = Duration::from_secs(30);

/// What the server serves, asked anew when something is looked for and the last answer is old.
pub struct Directory {
    discovery: Discovery,
    asked: Mutex<Option<(Instant, Arc<Catalog>)>>,
}

/// Asks the server what it serves; what has not changed is not read again.
#[derive(Clone)]
pub struct Discovery {
    client: kube::Client,
    /// What each root answered last.
    known: Arc<Mutex<[Option<Answer>; 2]>>,
}

/// A root's resources, as of a version of its document.
#[derive(Clone)]
struct Answer {
    tag: header::HeaderValue,
    catalog: Arc<Catalog>,
}

/// The resources, and the group versions whose lists were stale or missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// All resources, each in its preferred version.
    pub resources: Vec<Served>,
    /// Group versions the server could not tell about just now.
    pub stale: Vec<String>,
}

impl Served {
    /// Whether all the verbs are served.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|v| v == verb))
    }

    /// The names of the resource.
    pub fn names(&self) -> GroupVersionResource {
        GroupVersionResource {
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.resource.clone(),
        }
    }

    /// `pods`, `deployments.apps`.
    pub fn group_resource(&self) -> String {
        match self.group.is_empty() {
            true => self.resource.clone(),
            false => format!("{}.{}", self.resource, self.group),
        }
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The path of the collection, in a namespace where one is given.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let version = self.api_version();
        match namespace {
            Some(namespace) => format!("{root}/{version}/namespaces/{namespace}/{}", self.resource),
            None => format!("{root}/{version}/{}", self.resource),
        }
    }
}

// === impl Directory ===

impl std::fmt::Debug for Directory {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Directory").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Directory {
    /// A directory that has not been asked yet.
    pub fn new(client: kube::Client) -> Directory {
        Directory { discovery: Discovery::new(client), asked: Mutex::default() }
    }

    /// The first resource that `matches`.
    ///
    /// # Errors
    /// When the server had to be asked and did not answer.
    pub async fn find(&self, matches: impl Fn(&Served) -> bool) -> Result<Option<Served>, kube::Error> {
        let now = Instant::now();
        let last = self.asked.lock().clone().filter(|(asked, _)| now - *asked < BELIEVED);
        let catalog = match last {
            Some((_, catalog)) => catalog,
            None => {
                let catalog = Arc::new(self.discovery.ask().await?);
                *self.asked.lock() = Some((now, catalog.clone()));
                catalog
            }
        };
        Ok(catalog.resources.iter().find(|s| matches(s)).cloned())
    }
}

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: Named,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Resource>,
    #[serde(default)]
    freshness: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    resource: String,
    response_kind: Option<Kind>,
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    subresources: Vec<Subresource>,
}

#[derive(Deserialize)]
struct Subresource {
    subresource: String,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    kind: String,
}

// === impl Discovery ===

const ROOTS: [&str; 2] = ["/api", "/apis"];

impl Discovery {
    /// For what the client's server serves.
    pub fn new(client: kube::Client) -> Discovery {
        Discovery { client, known: Arc::default() }
    }

    /// What the server serves now.
    ///
    /// # Errors
    /// When either request fails; a single stale group is not an error but named in the answer.
    pub async fn ask(&self) -> Result<Catalog, kube::Error> {
        let mut all = Catalog::default();
        for (root, path) in ROOTS.into_iter().enumerate() {
            let one = self.ask_root(root, path).await?;
            all.resources.extend_from_slice(&one.resources);
            all.stale.extend_from_slice(&one.stale);
        }
        Ok(all)
    }

    async fn ask_root(&self, root: usize, path: &str) -> Result<Arc<Catalog>, kube::Error> {
        let last = self.known.lock()[root].clone();
        let mut request = Request::get(path).header(header::ACCEPT, ACCEPT);
        if let Some(last) = &last {
            request = request.header(header::IF_NONE_MATCH, &last.tag);
        }
        let response = self.client.send(request.body(Body::empty()).map_err(kube::Error::HttpError)?).await?;
        match last {
            Some(last) if response.status() == StatusCode::NOT_MODIFIED => return Ok(last.catalog),
            _ => {}
        }
        let (status, tag) = (response.status(), response.headers().get(header::ETAG).cloned());
        let body = response.into_body().collect_bytes().await?;
        if !status.is_success() {
            return Err(refused(status, &body));
        }
        let mut catalog = Catalog::default();
        catalog.add(serde_json::from_slice(&body).map_err(kube::Error::SerdeError)?);
        let catalog = Arc::new(catalog);
        self.known.lock()[root] = tag.map(|tag| Answer { tag, catalog: catalog.clone() });
        Ok(catalog)
    }
}

/// The error a server answered with.
fn refused(status: StatusCode, body: &[u8]) -> kube::Error {
    let told = serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body).into_owned();
        kube::core::Status::failure(&text, "Unknown").with_code(status.as_u16())
    });
    kube::Error::Api(Box::new(told))
}

impl Catalog {
    fn add(&mut self, groups: GroupList) {
        for group in groups.items {
            let name = group.metadata.name;
            for version in group.versions {
                if version.freshness == "Stale" {
                    self.stale.push(format!("{name}/{}", version.version));
                }
                for resource in version.resources {
                    self.add_one(&name, &version.version, resource);
                }
            }
        }
    }

    /// Versions come preferred first: a resource seen before stays.
    fn add_one(&mut self, group: &str, version: &str, resource: Resource) {
        let known = self.resources.iter().any(|r| r.group == group && r.resource == resource.resource);
        let Some(kind) = resource.response_kind.filter(|k| !known && !k.kind.is_empty()) else { return };
        self.resources.push(Served {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: resource.resource,
            kind: kind.kind,
            namespaced: resource.scope == "Namespaced",
            verbs: resource.verbs,
            subresources: resource.subresources.into_iter().map(|s| s.subresource).collect(),
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn catalog(groups: serde_json::Value) -> Catalog {
        let mut catalog = Catalog::default();
        catalog.add(serde_json::from_value(groups).unwrap());
        catalog
    }

    #[test]
    fn a_resource_counts_once_in_its_preferred_version() {
        let resource = |name: &str, scope: &str| {
            json!({"resource": name, "scope": scope, "verbs": ["delete", "list"], "subresources": [{"subresource": "scale"}],
                "responseKind": {"group": "", "version": "", "kind": "K"}})
        };
        let catalog = catalog(json!({"items": [{"metadata": {"name": "g"}, "versions": [
            {"version": "v2", "freshness": "Current", "resources": [resource("a", "Namespaced")]},
            {"version": "v1", "freshness": "Stale",
                "resources": [resource("a", "Namespaced"), resource("b", "Cluster")]},
        ]}]}));
        let found: Vec<String> = catalog.resources.iter().map(|r| r.path(None)).collect();
        assert_eq!(found, ["/apis/g/v2/a", "/apis/g/v1/b"]);
        assert_eq!(catalog.stale, ["g/v1"]);
        assert!(catalog.resources[0].namespaced && !catalog.resources[1].namespaced);
        assert_eq!(
            (catalog.resources[0].subresources[0].as_str(), catalog.resources[0].group_resource()),
            ("scale", "a.g".to_owned())
        );
        assert!(catalog.resources[0].can(&["list", "delete"]) && !catalog.resources[0].can(&["watch"]));
    }

    #[test]
    fn paths_of_core_and_other_groups() {
        let served = |group: &str| Served {
            group: group.into(),
            version: "v1".into(),
            resource: "things".into(),
            kind: "Thing".into(),
            namespaced: true,
            verbs: Vec::new(),
            subresources: Vec::new(),
        };
        assert_eq!(served("").path(Some("x")), "/api/v1/namespaces/x/things");
        assert_eq!(served("g").path(Some("x")), "/apis/g/v1/namespaces/x/things");
        assert_eq!(served("g").api_version(), "g/v1");
    }
}
