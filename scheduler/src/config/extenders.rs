//! Extenders in the configuration file: where they are asked, for which pods, and over which connection.
//!
//! Contract: `Extender` of kubescheduler.config.k8s.io/v1.

use std::{collections::BTreeSet, time::Duration};

use component_base::{goduration, selector::label_key_errors};
use serde::{Deserialize, Serialize};

use super::{FileError, invalid};

/// How long an extender may take where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One extender. A verb that is empty is not asked.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtenderConfiguration {
    /// What the verbs are appended to.
    pub url_prefix: String,
    /// Says which nodes come into question.
    #[serde(default)]
    pub filter_verb: String,
    /// Says which victims of preemption there may be.
    #[serde(default)]
    pub preempt_verb: String,
    /// Gives nodes scores from 0 to 10.
    #[serde(default)]
    pub prioritize_verb: String,
    /// What those are multiplied with.
    #[serde(default)]
    pub weight: i64,
    /// Binds pods.
    #[serde(default)]
    pub bind_verb: String,
    /// Without a CA to check it with, its certificate is not checked.
    #[serde(default, rename = "enableHTTPS")]
    pub enable_https: bool,
    /// Its certificate and ours.
    #[serde(default)]
    pub tls_config: ExtenderTls,
    /// Longest call.
    pub http_timeout: Option<String>,
    /// It knows the nodes itself: names are enough.
    #[serde(default)]
    pub node_cache_capable: bool,
    /// Only pods that ask for one of these are its business; none for all pods.
    #[serde(default)]
    pub managed_resources: Vec<ManagedResource>,
    /// Pods are placed without it when it fails.
    #[serde(default)]
    pub ignorable: bool,
}

/// A resource that an extender cares for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManagedResource {
    /// Its name.
    pub name: String,
    /// Whether nodes need not have enough of it.
    #[serde(default)]
    pub ignored_by_scheduler: bool,
}

/// Certificates; `*_data` are base64 and go before files. `/configz` shows the files alone.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtenderTls {
    /// Whether its certificate is believed unchecked.
    pub insecure: bool,
    /// The name in its certificate, where that is not the address's.
    pub server_name: Option<String>,
    /// Our certificate, PEM.
    pub cert_file: Option<String>,
    /// Our key, PEM.
    pub key_file: Option<String>,
    /// The authority of its certificate, PEM.
    pub ca_file: Option<String>,
    /// Our certificate.
    #[serde(skip_serializing)]
    pub cert_data: Option<String>,
    /// Our key.
    #[serde(skip_serializing)]
    pub key_data: Option<String>,
    /// The authority.
    #[serde(skip_serializing)]
    pub ca_data: Option<String>,
}

impl ExtenderConfiguration {
    /// How long a call may take.
    ///
    /// # Errors
    /// When that is not a duration.
    pub fn timeout(&self) -> Result<Duration, FileError> {
        let Some(text) = &self.http_timeout else { return Ok(TIMEOUT) };
        let wrong = |_| FileError::Fields(vec![invalid("extenders.httpTimeout", text, "must be a duration")]);
        let parsed = goduration::parse(text).map_err(wrong)?;
        Ok(if parsed.is_zero() { TIMEOUT } else { parsed })
    }
}

/// Resources that nodes need not have enough of.
pub(super) fn ignored(all: &[ExtenderConfiguration]) -> Vec<&str> {
    let resources = all.iter().flat_map(|extender| &extender.managed_resources);
    resources.filter(|r| r.ignored_by_scheduler).map(|r| r.name.as_str()).collect()
}

/// Checks what each says, and that they do not contradict each other.
pub(super) fn check(all: &[ExtenderConfiguration], wrong: &mut Vec<String>) {
    let mut managed = BTreeSet::new();
    for (at, extender) in all.iter().enumerate() {
        let path = format!("extenders[{at}]");
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            let why = "must have a positive weight applied to it";
            wrong.push(invalid(&format!("{path}.weight"), extender.weight, why));
        }
        if let Err(FileError::Fields(why)) = extender.timeout() {
            wrong.extend(why);
        }
        for (number, resource) in extender.managed_resources.iter().enumerate() {
            let (field, name) = (format!("{path}.managedResources[{number}].name"), &resource.name);
            let unusual = label_key_errors(name);
            if unusual.is_empty() && !is_extended(name) {
                wrong.push(invalid(&field, name, "is an invalid extended resource name"));
            }
            wrong.extend(unusual.iter().map(|why| invalid(&field, name, why)));
            if !managed.insert(resource.name.as_str()) {
                wrong.push(invalid(&field, name, "duplicate extender managed resource name"));
            }
        }
    }
    let binders = all.iter().filter(|extender| !extender.bind_verb.is_empty()).count();
    if binders > 1 {
        let found = format!("found {binders} extenders implementing bind");
        wrong.push(invalid("extenders", found, "only one extender can implement bind"));
    }
}

/// Whether a resource's name is of a domain that is not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    // Quotas put this before it.
    let of_quota = format!("requests.{name}");
    let is_native = !name.contains('/') || name.contains("kubernetes.io/");
    !is_native
        && !name.starts_with("requests.")
        && [name, &of_quota].into_iter().all(|name| label_key_errors(name).is_empty())
}
