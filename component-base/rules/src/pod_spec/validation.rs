//! What is wrong with a pod's spec, in a pod or in a template.
//!
//! Contract: upstream's `ValidatePodSpec`: every error, with its path and words. Errors an old pod already has do not
//! keep it from being updated; what these are is in [`Allowed`].

use std::collections::{BTreeMap, BTreeSet};

use super::{affinity, annotations, containers, security, volumes};
use crate::{
    Fields,
    at::At,
    field::{Error, ErrorList, Path},
    format, items, metadata,
    resources::{self, Rule},
    shape, validate,
};

/// What an old pod breaks, which then stays allowed.
#[derive(Clone, Copy, Default)]
pub(super) struct Allowed {
    pub(super) broken_pages: bool,
    pub(super) node_labels: bool,
    pub(super) pod_labels: bool,
    pub(super) spread_selector: bool,
    pub(super) spread_keys: bool,
    pub(super) token_paths: bool,
    pub(super) host_sysctls: bool,
    pub(super) mounted_labels: bool,
    pub(super) devices_of_users: bool,
    pub(super) restarting_init: bool,
    pub(super) deletion_cost: bool,
}

/// What the parts of a spec are held against.
pub(super) struct Whole<'v> {
    /// The spec.
    pub(super) spec: At<'v>,
    /// The good volumes by name.
    pub(super) volumes: BTreeMap<&'v str, At<'v>>,
    /// Names of claims on devices.
    pub(super) claims: BTreeSet<&'v str>,
    /// Seconds the pod has to end.
    pub(super) grace: Option<i64>,
    /// `linux`, `windows` or nothing.
    pub(super) os: &'v str,
    /// Whether users in the pod are those of the node.
    pub(super) host_users: bool,
    /// Whether this is a pod, not a template of pods.
    pub(super) pod: bool,
    /// The name of the pod; empty in a template.
    pub(super) pod_name: &'v str,
    /// Whether the pod is the copy of one that a kubelet runs from a file.
    pub(super) mirror: bool,
    /// What is let pass.
    pub(super) allowed: Allowed,
}

impl Allowed {
    /// What an old pod breaks.
    fn by(old: &dyn Fields) -> Self {
        Self::by_spec(&At::spec(old), &At::field(old, "metadata").get("annotations"))
    }

    /// What an old template breaks.
    fn by_template(old: &At<'_>) -> Self {
        Self::by_spec(&old.get("spec"), &old.get("metadata").get("annotations"))
    }

    fn by_spec(spec: &At<'_>, annotations: &At<'_>) -> Self {
        let [node_labels, pod_labels, spread_selector, spread_keys] = affinity::broken(spec);
        let context = spec.get("securityContext");
        let own_users = spec.get("hostUsers").is_false();
        let sources = |volume: At<'_>| {
            let sources = volume.get("projected").get("sources");
            sources.items().any(|source| {
                let path = source.get("serviceAccountToken").text_of("path");
                !format::volume_path(path).is_empty()
            })
        };
        let mut pages = ErrorList::new();
        let none = BTreeSet::new();
        let rule = Rule { names: |_, _, _| {}, claims: &none, broken_pages: false };
        for container in containers::all(spec) {
            resources::check_requirements(&container.get("resources"), rule, &mut pages);
        }
        let restarts = |container: At<'_>| {
            container.text_of("restartPolicy") != "Always"
                && container
                    .get("resizePolicy")
                    .items()
                    .any(|p| p.text_of("restartPolicy") == "RestartContainer")
        };
        Self {
            broken_pages: pages
                .iter()
                .any(|error| error.detail.contains("is not positive integer multiple of")),
            node_labels,
            pod_labels,
            spread_selector,
            spread_keys,
            token_paths: spec.get("volumes").items().any(sources),
            host_sysctls: context
                .get("sysctls")
                .items()
                .any(|sysctl| security::of_host(sysctl.text_of("name"), spec).is_some()),
            mounted_labels: context.has("seLinuxChangePolicy"),
            devices_of_users: own_users && containers::all(spec).any(|c| !c.get("volumeDevices").is_empty()),
            restarting_init: spec.get("initContainers").items().any(restarts),
            deletion_cost: annotations::has_wrong_cost(annotations),
        }
    }
}

/// What is wrong with a pod, whether it is created or updated from an old one.
pub fn check_pod(pod: &dyn Fields, old: Option<&dyn Fields>, errors: &mut ErrorList) {
    let allowed = old.map(Allowed::by).unwrap_or_default();
    let (meta, spec) = (At::field(pod, "metadata"), At::spec(pod));
    let marks = meta.get("annotations");
    annotations::check(&marks, &spec, allowed.deletion_cost, errors);
    let mirror = marks.has(annotations::MIRROR);
    check_spec(whole(spec.clone(), true, meta.text_of("name"), mirror, allowed), errors);
    if spec.text_of("serviceAccountName").is_empty() {
        for volume in spec.get("volumes").items() {
            for source in volume.get("projected").get("sources").items() {
                if source.has("serviceAccountToken") {
                    let detail = "must not be specified when serviceAccountName is not set";
                    source.get("serviceAccountToken").forbidden(errors, detail);
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        spec.get(list).items().for_each(|container| containers::image_of_pod(&container, errors));
    }
}

/// All that is wrong with a new pod, for who has no other way to know its metadata.
pub fn check_new(pod: &dyn Fields, errors: &mut ErrorList) {
    let meta = At::field(pod, "metadata");
    meta.get("generateName").check_option_format(errors, |stem| validate::dns_subdomain(stem, true));
    meta.get("name").check_required_format(errors, format::dns_subdomain);
    meta.get("namespace").check_required_format(errors, format::dns_label);
    metadata::check(&meta, errors);
    check_pod(pod, None, errors);
    check_new_pod(pod, errors);
    // Where pods are stored a gate has a say in this.
    let spec = At::spec(pod);
    if spec.get("hostUsers").is_false() && spec.get("hostNetwork").is_true() {
        spec.get("hostNetwork").forbidden(errors, "when `hostUsers` is false");
    }
}

/// What is wrong with a new pod beside that.
pub fn check_new_pod(pod: &dyn Fields, errors: &mut ErrorList) {
    let (meta, spec) = (At::field(pod, "metadata"), At::spec(pod));
    if !spec.get("ephemeralContainers").is_empty() {
        spec.get("ephemeralContainers").forbidden(errors, "cannot be set on create");
    }
    if !spec.text_of("nodeName").is_empty() && !spec.get("schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        spec.get("nodeName").forbidden(errors, detail);
    }
    annotations::check_match(&meta.get("annotations"), &spec, errors);
}

/// What an update of a pod does to annotations it may not.
pub fn check_annotation_change(new: &dyn Fields, old: &dyn Fields, errors: &mut ErrorList) {
    let of = |pod| At::field(pod, "metadata").get("annotations");
    annotations::check_change(&of(new), &of(old), errors);
    annotations::check(&of(new), &At::spec(new), annotations::has_wrong_cost(&of(old)), errors);
}

/// What is wrong with a template of pods, whether it is new or replaces an old one.
pub fn check_template(template: &At<'_>, old: Option<&At<'_>>, errors: &mut ErrorList) {
    let allowed = old.map(Allowed::by_template).unwrap_or_default();
    let (meta, spec) = (template.get("metadata"), template.get("spec"));
    meta.get("labels").named(template.path().child("labels")).check_labels(errors);
    let marks = meta.get("annotations").named(template.path().child("annotations"));
    metadata::check_annotations(&marks, errors);
    annotations::check(&marks, &spec, allowed.deletion_cost, errors);
    check_spec(whole(spec.clone(), false, "", false, allowed), errors);
    annotations::check_match(&marks, &spec, errors);
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        ephemeral.forbidden(errors, "ephemeral containers not allowed in pod template");
    }
}

fn whole<'v>(spec: At<'v>, pod: bool, pod_name: &'v str, mirror: bool, allowed: Allowed) -> Whole<'v> {
    let claims = spec.get("resourceClaims");
    let names = claims.items().map(|claim| claim.text_of("name")).filter(|name| !name.is_empty());
    Whole {
        volumes: BTreeMap::new(),
        claims: names.collect(),
        grace: spec.get("terminationGracePeriodSeconds").number(),
        os: spec.get("os").text_of("name"),
        host_users: !spec.get("hostUsers").is_false(),
        pod,
        pod_name,
        mirror,
        allowed,
        spec,
    }
}

fn check_spec(mut whole: Whole<'_>, errors: &mut ErrorList) {
    whole.spec.get("terminationGracePeriodSeconds").check_there(errors);
    whole.volumes = volumes::check(&whole, errors);
    let (whole, spec) = (&whole, &whole.spec);
    check_claims(whole, errors);
    containers::check(whole, errors);
    check_resources(whole, errors);
    check_host_network(whole, errors);
    spec.get("restartPolicy").check_among(errors, &["Always", "OnFailure", "Never"]);
    spec.get("dnsPolicy")
        .check_among(errors, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    spec.get("nodeSelector").check_labels(errors);
    security::check_pod(whole, errors);
    affinity::check(&spec.get("affinity"), whole, errors);
    check_dns(spec, errors);
    for gate in spec.get("readinessGates").items() {
        gate.get("conditionType").check_format(errors, format::qualified_name);
    }
    affinity::check_gates(&spec.get("schedulingGates"), errors);
    affinity::check_spreading(&spec.get("topologySpreadConstraints"), whole, errors);
    security::check_host_processes(whole, errors);
    security::check_own_users(whole, errors);
    check_host_name(spec, errors);
    check_names(whole, errors);
    security::check_os(spec, errors);
    check_scheduling_group(&spec.get("schedulingGroup"), errors);
    check_env_files(spec, errors);
}

/// Single fields, each with a form of its own.
fn check_names(whole: &Whole<'_>, errors: &mut ErrorList) {
    let spec = &whole.spec;
    let name = |field: &str, errors: &mut ErrorList, form| spec.get(field).check_option_format(errors, form);
    name("serviceAccountName", errors, format::dns_subdomain);
    name("nodeName", errors, format::dns_subdomain);
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.is_set() {
        deadline.check_range(errors, 1, i64::from(i32::MAX));
    }
    name("hostname", errors, format::dns_label);
    name("subdomain", errors, format::dns_label);
    affinity::check_tolerations(&spec.get("tolerations"), errors);
    for alias in spec.get("hostAliases").items() {
        alias.get("ip").check_format(errors, format::legacy_ip);
        alias.get("hostnames").items().for_each(|host| host.check_format(errors, format::dns_subdomain));
    }
    name("priorityClassName", errors, format::dns_subdomain);
    if spec.has("runtimeClassName") {
        spec.get("runtimeClassName").check_format(errors, format::dns_subdomain);
    }
    if spec.has("preemptionPolicy") {
        spec.get("preemptionPolicy").check_among(errors, &["PreemptLowerPriority", "Never"]);
    }
    if spec.has("overhead") {
        let limits = serde_json::json!({"limits": spec.get("overhead").value()});
        let none = BTreeSet::new();
        let rule = Rule {
            names: resources::check_container_name,
            claims: &none,
            broken_pages: whole.allowed.broken_pages,
        };
        resources::check_requirements(&At::new(&limits, spec.path().child("overhead")), rule, errors);
    }
}

/// Claims of the pod on devices.
fn check_claims(whole: &Whole<'_>, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for claim in whole.spec.get("resourceClaims").items() {
        if whole.mirror {
            let detail = "static pods do not support resource claims".to_owned();
            errors.push(Error { field: String::new(), ..Error::forbidden(&Path::root(), detail) });
            continue;
        }
        let name = claim.get("name");
        if name.check_required(errors) {
            if names.insert(name.text()) {
                name.check_format(errors, format::dns_label);
            } else {
                name.duplicate(errors);
            }
        }
        let (own, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        match (own.is_set(), template.is_set()) {
            (true, true) => {
                let detail =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                claim.invalid_go(errors, &shape::POD_RESOURCE_CLAIM, detail);
            }
            (false, false) => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                claim.invalid_go(errors, &shape::POD_RESOURCE_CLAIM, detail);
            }
            _ => {}
        }
        for reference in [own, template].iter().filter(|reference| reference.is_set()) {
            reference.check_format(errors, format::dns_subdomain);
        }
    }
}

/// Resources of the pod as a whole: no less than its containers have.
fn check_resources(whole: &Whole<'_>, errors: &mut ErrorList) {
    let own = whole.spec.get("resources");
    if !own.is_set() {
        return;
    }
    if whole.os == "windows" {
        return own.forbidden(errors, "may not be set for a windows pod");
    }
    if own.has("claims") {
        own.get("claims").forbidden(errors, "claims may not be set for Resources at pod-level");
    }
    let rule = Rule {
        names: resources::check_pod_name,
        claims: &whole.claims,
        broken_pages: whole.allowed.broken_pages,
    };
    resources::check_requirements(&own, rule, errors);
    let spec = whole.spec.value();
    let own_amount =
        |field: &'static str, name: &str| At::new(own.get(field).value().get(name)?, Path::root()).quantity();
    for (field, all) in [("requests", true), ("limits", false)] {
        for (name, needed) in resources::of_containers(spec, field) {
            let Some(amount) = own_amount(field, &name) else { continue };
            if (all || resources::is_huge_page(&name)) && needed > amount {
                let path = own.path().child(field).key(&name);
                let detail =
                    format!("must be greater than or equal to aggregate container {field} of {needed}");
                errors.push(Error::invalid(&path, amount.to_string(), detail));
            }
        }
    }
    for (i, container) in items(spec.get("containers")).enumerate() {
        let limits = At::new(container, Path::root()).get("resources").get("limits");
        for (name, limit) in limits.entries() {
            let Some(most) = own_amount("limits", name) else { continue };
            if let Some(limit) = limit.quantity().filter(|limit| *limit > most) {
                let path = own.path().child("containers").index(i).key(name).child("limits");
                let detail = format!("must be less than or equal to pod limits of {most}");
                errors.push(Error::invalid(&path, limit.to_string(), detail));
            }
        }
    }
}

/// In the node's network a port is the node's.
fn check_host_network(whole: &Whole<'_>, errors: &mut ErrorList) {
    if !whole.spec.get("hostNetwork").is_true() {
        return;
    }
    for container in whole.spec.get("containers").items() {
        for port in container.get("ports").items() {
            let (outside, inside) = (port.get("hostPort"), port.get("containerPort"));
            if (whole.pod || outside.int() != 0) && outside.int() != inside.int() {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                outside.invalid_as(errors, outside.int(), detail);
            }
        }
    }
}

fn check_dns(spec: &At<'_>, errors: &mut ErrorList) {
    let config = spec.get("dnsConfig");
    let servers = config.get("nameservers");
    if spec.text_of("dnsPolicy") == "None" {
        if !config.is_set() {
            return config.required(errors, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return servers.required(errors, detail);
        }
    }
    if servers.len() > 3 {
        servers.invalid(errors, "must not have more than 3 nameservers");
    }
    servers.items().for_each(|server| server.check_format(errors, format::legacy_ip));
    let searches = config.get("searches");
    if searches.len() > 32 {
        searches.invalid(errors, "must not have more than 32 search paths");
    }
    let length: usize = searches.items().map(|search| search.text().len() + 1).sum();
    if length > 2049 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        searches.invalid(errors, detail);
    }
    for search in searches.items().filter(|search| search.text() != ".") {
        let domain = search.text().strip_suffix('.').unwrap_or(search.text());
        for detail in format::search_domain(domain) {
            search.invalid_as(errors, domain, detail);
        }
    }
    for option in config.get("options").items() {
        if option.text_of("name").is_empty() {
            option.required(errors, "must not be empty");
        }
    }
}

fn check_host_name(spec: &At<'_>, errors: &mut ErrorList) {
    let name = spec.get("hostnameOverride");
    if !name.is_set() {
        return;
    }
    if spec.get("setHostnameAsFQDN").is_true() {
        name.forbidden(errors, "may not be specified when setHostnameAsFQDN is true");
    }
    if spec.get("hostNetwork").is_true() {
        name.forbidden(errors, "may not be specified when hostNetwork is true");
    }
    name.check_length(errors, 64);
    name.check_format(errors, format::dns_subdomain);
}

fn check_scheduling_group(group: &At<'_>, errors: &mut ErrorList) {
    if !group.is_set() {
        return;
    }
    let name = group.get("podGroupName");
    if name.is_set() {
        name.check_format(errors, format::dns_subdomain);
    } else {
        name.invalid(errors, "must specify one of: `podGroupName`");
    }
}

/// Files with variables are in volumes that start empty.
fn check_env_files(spec: &At<'_>, errors: &mut ErrorList) {
    let volumes = spec.get("volumes");
    for container in containers::all(spec) {
        for variable in container.get("env").items() {
            let file = variable.get("valueFrom").get("fileKeyRef");
            if !file.is_set() {
                continue;
            }
            let name = file.get("volumeName");
            match volumes.items().filter(|volume| volume.text_of("name") == name.text()).last() {
                None => name.not_found(errors),
                Some(volume) if !volume.has("emptyDir") => {
                    name.invalid_as(errors, name.text(), "referenced volume must be of type emptyDir");
                }
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_has_no_gates_lets_no_users_of_pods_into_networks_of_nodes() {
        let told = |users: bool| {
            let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
                "hostUsers": users, "hostNetwork": true, "restartPolicy": "Always", "dnsPolicy": "Default",
                "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "i",
                    "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}});
            let mut errors = ErrorList::new();
            check_new(pod.as_object().expect("it is one"), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(told(true), Vec::<String>::new());
        assert_eq!(told(false), ["spec.hostNetwork: Forbidden: when `hostUsers` is false"]);
    }
}
