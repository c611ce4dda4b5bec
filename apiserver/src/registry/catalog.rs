//! The resources a server serves, found by group and plural name.

use std::{collections::BTreeMap, sync::Arc};

use component_base::features::Gates;
use indexmap::{Equivalent, IndexMap};

use super::{Resource, served::RuntimeConfig};

/// Group and plural.
type Name = (&'static str, &'static str);

/// A name as a request has it.
#[derive(Hash)]
struct Asked<'a>(&'a str, &'a str);

impl Equivalent<Name> for Asked<'_> {
    fn equivalent(&self, (group, plural): &Name) -> bool {
        self.0 == *group && self.1 == *plural
    }
}

/// All served resources; replaced as a whole when custom resources come or go.
#[derive(Clone, Default)]
pub struct Catalog {
    /// In the order of their names. Versions of a custom resource stand apart, in their order.
    resources: IndexMap<Name, Vec<Arc<Resource>>>,
}

impl Catalog {
    /// A catalog of these resources; a second one of the same group and plural replaces the first.
    pub fn new(resources: impl IntoIterator<Item = Resource>) -> Self {
        let named = resources.into_iter().map(|r| ((r.group, r.plural), vec![Arc::new(r)]));
        let mut resources: IndexMap<_, _> = named.collect();
        resources.sort_unstable_keys();
        Self { resources }
    }

    /// The same with these custom resources; one that has the name of a resource that is here is left out.
    #[must_use]
    pub fn with(&self, custom: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let mut resources = self.resources.clone();
        for resource in custom {
            let name = (resource.group, resource.plural);
            if !self.resources.contains_key(&name) {
                resources.entry(name).or_default().push(resource);
            }
        }
        resources.sort_unstable_keys();
        Self { resources }
    }

    /// Only what is served: what a runtime configuration says, of kinds whose gate is on.
    #[must_use]
    pub fn served(self, says: &RuntimeConfig, gates: Gates) -> Self {
        let left = |resource: &Arc<Resource>| {
            let is_served = |version: &&str| says.serves(resource.group, version, resource.plural);
            let versions = super::intern::texts(resource.versions.iter().copied().filter(is_served));
            let kept = Resource { versions, ..resource.as_ref().clone() };
            let is_on = resource.gate.is_none_or(|gate| gates.has(gate));
            (is_on && !versions.is_empty()).then(|| Arc::new(kept))
        };
        let resources = self.resources.into_iter().filter_map(|(key, all)| {
            let all: Vec<_> = all.iter().filter_map(left).collect();
            (!all.is_empty()).then_some((key, all))
        });
        Self { resources: resources.collect() }
    }

    /// Whether there is a resource of this name in any version.
    pub fn contains(&self, group: &str, plural: &str) -> bool {
        self.named(group, plural).is_some()
    }

    /// The resource, if the version is served.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.named(group, plural)?.iter().find(|r| r.versions.contains(&version))
    }

    fn named(&self, group: &str, plural: &str) -> Option<&Vec<Arc<Resource>>> {
        self.resources.get(&Asked(group, plural))
    }

    /// All resources, by group and plural.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values().flatten()
    }

    /// Groups with their versions, preferred first, in name order (core, the empty name, first).
    pub fn groups(&self) -> BTreeMap<&'static str, Vec<&'static str>> {
        let mut groups: BTreeMap<&'static str, Vec<&'static str>> = BTreeMap::new();
        for resource in self.iter() {
            let versions = groups.entry(resource.group).or_default();
            for version in resource.versions {
                if !versions.contains(version) {
                    versions.push(version);
                }
            }
        }
        for versions in groups.values_mut() {
            versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        }
        groups
    }
}

/// The built-in resources: one line a group.
pub fn builtin() -> Catalog {
    let groups = [
        super::admissionregistration::resources(),
        super::apiextensions::resources(),
        super::apiregistration::resources(),
        super::apiserverinternal::resources(),
        super::apps::resources(),
        super::authentication::resources(),
        super::authorization::resources(),
        super::autoscaling::resources(),
        super::batch::resources(),
        super::certificates::resources(),
        super::coordination::resources(),
        super::core::resources(),
        super::discovery::resources(),
        super::events_k8s_io::resources(),
        super::flowcontrol::resources(),
        super::networking::resources(),
        super::node::resources(),
        super::policy::resources(),
        super::rbac::resources(),
        super::resource::resources(),
        super::scheduling::resources(),
        super::storage::resources(),
        super::storagemigration::resources(),
    ];
    Catalog::new(groups.into_iter().flatten())
}

/// Kubernetes version order: GA over beta over alpha, higher numbers first.
pub(super) fn priority(version: &str) -> (u8, u32, u32) {
    let number = |s: &str| s.parse::<u32>().unwrap_or(0);
    let rest = version.trim_start_matches('v');
    if let Some((major, minor)) = rest.split_once("alpha") {
        (0, number(major), number(minor))
    } else if let Some((major, minor)) = rest.split_once("beta") {
        (1, number(major), number(minor))
    } else {
        (2, number(rest), 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use component_base::{
        features::{Gate, Gates},
        reference::reference,
    };
    use serde_json::Value;

    use super::{Catalog, RuntimeConfig, builtin, priority};
    use crate::registry::{Resource, Subresource};

    #[test]
    fn what_is_switched_off_is_not_served() {
        let served = |pairs: &[(&str, &str)], gates: Gates| {
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            builtin().served(&RuntimeConfig::new(&pairs).unwrap(), gates)
        };
        let off = Gates::default();
        let stable =
            served(&[("resource.k8s.io/v1beta1/resourceslices", "true"), ("batch/v1", "false")], off);
        let groups = stable.groups();
        assert_eq!((groups.get("networking.k8s.io"), groups.get("batch")), (Some(&vec!["v1"]), None));
        assert_eq!(groups["resource.k8s.io"], ["v1", "v1beta1"]);
        let slices = |version| stable.find("resource.k8s.io", version, "resourceslices").is_some();
        assert!(slices("v1") && slices("v1beta1") && !slices("v1beta2"));
        assert!(stable.find("resource.k8s.io", "v1beta1", "resourceclaims").is_none());
        let core = served(&[("api/all", "false"), ("/v1", "true")], off).groups();
        assert_eq!(core.into_keys().collect::<Vec<_>>(), [""]);
        let bundles = [("certificates.k8s.io/v1beta1", "true")];
        for (gates, there) in [(off, false), (off.with(Gate::ClusterTrustBundle, true), true)] {
            assert_eq!(served(&bundles, gates).contains("certificates.k8s.io", "clustertrustbundles"), there);
        }
    }

    fn strings(value: &Value) -> Vec<&str> {
        let mut out: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        out.sort_unstable();
        out
    }

    fn subresource_names(resource: &Resource) -> Vec<&'static str> {
        resource.subresources.iter().map(Subresource::name).collect()
    }

    fn check(catalog: &Catalog, group: &str, version: &str, list: &Value) -> usize {
        let resources: Vec<&Value> = list["resources"].as_array().into_iter().flatten().collect();
        let mut checked = 0;
        for fact in &resources {
            let name = fact["name"].as_str().unwrap();
            if let Some((parent, sub)) = name.split_once('/') {
                let resource = catalog.find(group, version, parent).unwrap();
                assert!(subresource_names(resource).contains(&sub), "{group}/{version} {name}");
                continue;
            }
            let r = catalog
                .find(group, version, name)
                .unwrap_or_else(|| panic!("{group}/{version} {name} is missing"));
            assert_eq!(r.kind, fact["kind"], "{name}");
            assert_eq!(r.singular, fact["singularName"], "{name}");
            assert_eq!(r.namespaced, fact["namespaced"].as_bool().unwrap(), "{name}");
            assert_eq!(r.short_names, strings(&fact["shortNames"]), "{name}");
            assert_eq!(r.categories, strings(&fact["categories"]), "{name}");
            assert_eq!(r.verbs, strings(&fact["verbs"]), "{name}");
            checked += 1;
        }
        checked
    }

    #[test]
    fn every_resource_is_served_as_upstream_does() {
        let Some(dir) = reference("discovery") else { return };
        let catalog = builtin();
        let mut checked = 0;
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let (group, version) = match name.split("__").collect::<Vec<_>>()[..] {
                ["api", version] => (String::new(), version.to_owned()),
                ["apis", group, version] => (group.to_owned(), version.to_owned()),
                _ => continue,
            };
            let list: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            checked += check(&catalog, &group, &version, &list);
        }
        assert!(checked > 80, "{checked} resources");
    }

    #[test]
    fn columns_and_cells_go_together() {
        let catalog = builtin();
        for r in catalog.iter() {
            let mut object = crate::object::Object::new();
            object.set_meta_str("name", "n");
            let row = r.strategy.row(&object, jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(row.len(), r.columns.len(), "{}", r.plural);
        }
    }

    #[test]
    fn stable_versions_come_first() {
        let mut versions = ["v1beta1", "v1", "v2alpha1", "v2", "v1beta2"];
        versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        assert_eq!(versions, ["v2", "v1", "v1beta2", "v1beta1", "v2alpha1"]);
    }
}
