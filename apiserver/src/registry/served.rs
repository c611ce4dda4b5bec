//! `--runtime-config`: which versions and resources are served.
//!
//! What is stable is served unless said otherwise, what is beta or alpha where it is asked for: by stage (`api/all`,
//! then `api/ga`, `api/beta` and `api/alpha`), by `group/version`, by `group/version/resource`; the narrower counts.
//!
//! Contract: upstream's `apiserver/pkg/server/resourceconfig` and `DefaultAPIResourceConfigSource`.

use std::collections::{BTreeMap, BTreeSet};

use proto::table;

use super::catalog::{self, Catalog};

/// What is served besides what is by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConfig(BTreeMap<String, bool>);

/// Why a runtime configuration is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeConfigError {
    /// Nothing would be left.
    #[error("invalid runtime-config with only api/all=false")]
    Nothing,
    /// A stage is on or off, in these words.
    #[error("invalid value {0}={1}")]
    Stage(String, String),
    /// A version or resource is on or off.
    #[error("invalid value of {0}: {1}, err: strconv.ParseBool: parsing {1:?}: invalid syntax")]
    Value(String, String),
    /// Neither a version nor a resource.
    #[error("runtime-config invalid key {0}")]
    Key(String),
    /// Not a group of this server.
    #[error("unknown api groups {0}")]
    Groups(String),
    /// Not a version of the group.
    #[error("group version {0} that has not been registered")]
    Version(String),
    /// Resources are in lower case.
    #[error("invalid key {0}: group/version/resource and resource is always lowercase plural, not {1:?}")]
    Resource(String, String),
}

const STAGES: [&str; 4] = ["api/all", "api/ga", "api/beta", "api/alpha"];

impl RuntimeConfig {
    /// What `key=value` pairs say.
    ///
    /// # Errors
    /// For keys that name nothing and values that are neither true nor false.
    pub fn new(pairs: &BTreeMap<String, String>) -> Result<Self, RuntimeConfigError> {
        if pairs.len() == 1 && pairs.get("api/all").is_some_and(|value| value == "false") {
            return Err(RuntimeConfigError::Nothing);
        }
        let of_names = || pairs.iter().filter(|(key, _)| !STAGES.contains(&key.as_str()));
        let (groups, versions) = known();
        let mut unknown = BTreeSet::new();
        for (key, _) in of_names() {
            let (group, version, _) = split(key).ok_or_else(|| RuntimeConfigError::Key(key.clone()))?;
            if !groups.contains(group) {
                unknown.insert(format!("{group}/{version}"));
            }
        }
        if !unknown.is_empty() {
            return Err(RuntimeConfigError::Groups(unknown.into_iter().collect::<Vec<_>>().join(",")));
        }
        let mut says = BTreeMap::new();
        for (key, value) in pairs {
            let stage = STAGES.contains(&key.as_str());
            let on = match value.as_str() {
                "true" => true,
                "false" => false,
                _ if stage => return Err(RuntimeConfigError::Stage(key.clone(), value.clone())),
                "" | "1" | "t" | "T" | "TRUE" | "True" => true,
                "0" | "f" | "F" | "FALSE" | "False" => false,
                _ => return Err(RuntimeConfigError::Value(key.clone(), value.clone())),
            };
            says.insert(key.clone(), on);
        }
        for (key, _) in of_names() {
            let Some((group, version, resource)) = split(key) else { continue };
            if !versions.contains(&(group.to_owned(), version.to_owned())) {
                return Err(RuntimeConfigError::Version(format!("{group}/{version}")));
            }
            if let Some(resource) = resource.filter(|name| name.to_lowercase() != **name) {
                return Err(RuntimeConfigError::Resource(key.clone(), resource.to_owned()));
            }
        }
        Ok(Self(says))
    }

    /// Everything, alpha included.
    pub fn everything() -> Self {
        Self(BTreeMap::from([("api/all".to_owned(), true)]))
    }

    /// Whether a resource is served in a version.
    pub fn serves(&self, group: &str, version: &str, plural: &str) -> bool {
        let says = |key: &str| self.0.get(key).copied();
        let stage = stage(version);
        says(&format!("{group}/{version}/{plural}"))
            .or_else(|| says(&format!("{group}/{version}")))
            .or_else(|| says(stage))
            .or_else(|| says("api/all"))
            .unwrap_or(stage == "api/ga")
    }
}

/// The word for all versions of a version's stage.
fn stage(version: &str) -> &'static str {
    match catalog::priority(version).0 {
        0 => "api/alpha",
        1 => "api/beta",
        _ => "api/ga",
    }
}

/// Group, version and perhaps resource of a key.
fn split(key: &str) -> Option<(&str, &str, Option<&str>)> {
    let mut parts = key.split('/');
    let (group, version) = (parts.next()?, parts.next()?);
    let resource = parts.next();
    (parts.next().is_none() && !version.is_empty()).then_some((group, version, resource))
}

/// Groups, and versions of groups, that there is a kind of.
fn known() -> (BTreeSet<String>, BTreeSet<(String, String)>) {
    let of_catalog = |catalog: Catalog| {
        let pairs =
            catalog.iter().flat_map(|r| r.versions.iter().map(|v| (r.group.to_owned(), (*v).to_owned())));
        pairs.collect::<BTreeSet<_>>()
    };
    let mut versions = of_catalog(catalog::builtin());
    versions.extend(
        table::builtin().kinds().map(|((group, version, _), _)| (group.to_owned(), version.to_owned())),
    );
    (versions.iter().map(|(group, _)| group.clone()).collect(), versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<RuntimeConfig, String> {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        RuntimeConfig::new(&pairs).map_err(|error| error.to_string())
    }

    #[test]
    fn the_narrower_counts_and_only_what_is_stable_needs_no_asking() {
        let nothing = parse(&[]).unwrap();
        assert!(
            nothing.serves("batch", "v1", "jobs")
                && !nothing.serves("networking.k8s.io", "v1beta1", "ipaddresses")
        );
        let said = parse(&[
            ("api/all", "false"),
            ("api/beta", "true"),
            ("batch/v1", "true"),
            ("batch/v1/cronjobs", "false"),
            ("scheduling.k8s.io/v1alpha2/podgroups", ""),
            ("/v1", "true"),
        ]);
        let said = said.unwrap();
        for (group, version, plural, served) in [
            ("apps", "v1", "deployments", false),
            ("batch", "v1", "jobs", true),
            ("batch", "v1", "cronjobs", false),
            ("networking.k8s.io", "v1beta1", "ipaddresses", true),
            ("scheduling.k8s.io", "v1alpha2", "podgroups", true),
            ("scheduling.k8s.io", "v1alpha2", "workloads", false),
            ("", "v1", "pods", true),
        ] {
            assert_eq!(said.serves(group, version, plural), served, "{group}/{version} {plural}");
        }
        assert!(RuntimeConfig::everything().serves("scheduling.k8s.io", "v1alpha2", "workloads"));
    }

    #[test]
    fn what_names_nothing_is_refused_in_upstreams_words() {
        for (pairs, why) in [
            (&[("api/all", "false")][..], "invalid runtime-config with only api/all=false"),
            (&[("api/all", "x")], "invalid value api/all=x"),
            (&[("v1", "true")], "runtime-config invalid key v1"),
            (&[("a/b/c/d", "true")], "runtime-config invalid key a/b/c/d"),
            (&[("none.io/v1", "true"), ("other/v2", "false")], "unknown api groups none.io/v1,other/v2"),
            (&[("batch/v7", "true")], "group version batch/v7 that has not been registered"),
            (
                &[("batch/v1", "maybe")],
                "invalid value of batch/v1: maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            (
                &[("batch/v1/Jobs", "true")],
                "invalid key batch/v1/Jobs: group/version/resource and resource is always lowercase plural, not \"Jobs\"",
            ),
        ] {
            assert_eq!(parse(pairs).unwrap_err(), why);
        }
    }
}
