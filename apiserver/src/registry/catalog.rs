//! The resources a server serves, found by group and plural name.

use std::{collections::BTreeMap, sync::Arc};

use super::{Resource, core};

/// All served resources; replaced as a whole when custom resources come or go.
#[derive(Clone, Default)]
pub struct Catalog {
    resources: BTreeMap<(String, String), Arc<Resource>>,
}

impl Catalog {
    /// A catalog of these resources; a second one of the same group and plural replaces the first.
    pub fn new(resources: impl IntoIterator<Item = Resource>) -> Self {
        let key = |r: &Resource| (r.group.to_owned(), r.plural.to_owned());
        Self { resources: resources.into_iter().map(|r| (key(&r), Arc::new(r))).collect() }
    }

    /// The resource, if the version is served.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.get(&(group.to_owned(), plural.to_owned())).filter(|r| r.versions.contains(&version))
    }

    /// All resources, by group and plural.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
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

/// The built-in resources.
pub fn builtin() -> Catalog {
    Catalog::new([core::namespaces(), core::configmaps()])
}

/// Kubernetes version order: GA over beta over alpha, higher numbers first.
fn priority(version: &str) -> (u8, u32, u32) {
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
    use super::priority;

    #[test]
    fn stable_versions_come_first() {
        let mut versions = ["v1beta1", "v1", "v2alpha1", "v2", "v1beta2"];
        versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        assert_eq!(versions, ["v2", "v1", "v1beta2", "v1beta1", "v2alpha1"]);
    }
}
