//! Whether this node takes a pod on: the checks a kubelet makes of its own, since pods come not only from the scheduler and
//! the node may have changed since it decided. Pure.
//!
//! Contract: a pod that is refused is `Failed` with upstream's reasons (`OutOfcpu`, `NodeAffinity`, `NodePorts`,
//! `TaintToleration`, `SysctlForbidden`, `Evicted`, `PodOSNotSupported`...) and "Pod was rejected: " before the message.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use component_base::taints::tolerates;
use k8s_openapi::api::core::v1::{
    ContainerPort, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint,
};

use crate::{
    node::status::Pressure,
    pod::{
        self,
        qos::{self, QosClass},
        resources,
    },
    status::generate::Verdict,
};

/// Reasons for which pods are refused, as they are counted.
const REASONS: [&str; 20] = [
    "AppArmor",
    "Evicted",
    "InitContainerRestartPolicyForbidden",
    "InvalidNodeInfo",
    "NodeShutdown",
    "OutOfcpu",
    "OutOfephemeral-storage",
    "OutOfmemory",
    "OutOfpods",
    "PodFeatureUnsupported",
    "PodLevelResourcesNotSupported",
    "PodOSNotSupported",
    "PodOSSelectorNodeLabelDoesNotMatch",
    "SupplementalGroupsPolicyNotSupported",
    "SysctlForbidden",
    "TopologyAffinityError",
    "UnexpectedAdmissionError",
    "UnexpectedPredicateFailureType",
    "UnknownReason",
    "VolumeAttachmentLimitExceeded",
];

/// How a refusal is counted: there is no end of names of resources, and of what others may call their reasons.
#[must_use]
pub fn label(reason: &str) -> &'static str {
    match REASONS.into_iter().find(|known| *known == reason) {
        Some(known) => known,
        None if reason.starts_with("OutOf") => "OutOfExtendedResources",
        None => "Other",
    }
}

/// Sysctls every pod may set: they are confined to the pod and harm nobody else.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
/// Priority from which a pod is critical to its node or cluster.
const CRITICAL: i32 = 2_000_000_000;

/// What a pod is held against.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The node as the API server has it; `None` for a kubelet without one.
    pub node: Option<&'a Node>,
    /// What presses on it.
    pub pressure: Pressure,
    /// Sysctls beyond the safe ones that pods may set; `net.*` and the like name whole families.
    pub allowed_sysctls: &'a [String],
    /// Tolerations may compare numbers (the gate `TaintTolerationComparisonOperators`).
    pub comparing: bool,
    /// Pods that are on the node already, with the resources they were given.
    pub others: &'a [Arc<Pod>],
}

/// A resource the node has too little of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Its name.
    pub resource: String,
    /// What the pod asks for: thousandths of a cpu, else whole units.
    pub requested: i64,
    /// What the others have.
    pub used: i64,
    /// What there is.
    pub capacity: i64,
}

impl Shortage {
    /// Upstream's sentence.
    #[must_use]
    pub fn message(&self) -> String {
        let Self { resource, requested, used, capacity } = self;
        format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        )
    }
}

fn refuse(reason: &str, message: impl Into<String>) -> Verdict {
    Verdict { reason: reason.to_owned(), message: message.into(), disrupted: false }
}

fn predicate(name: &str, why: &str) -> Verdict {
    refuse(name, format!("Predicate {name} failed: {why}"))
}

/// Whether the node takes the pod.
///
/// # Errors
/// Why it does not.
pub fn admit(pod: &Pod, view: &View<'_>) -> Result<(), Verdict> {
    under_pressure(pod, view.pressure)?;
    sysctls(pod, view.allowed_sysctls)?;
    let spec = pod::spec(pod);
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let text = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(refuse("PodOSNotSupported", text));
    }
    if pod.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/os")).is_some_and(|os| os != "linux") {
        let text = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(refuse("PodOSSelectorNodeLabelDoesNotMatch", text));
    }
    let strict = spec.security_context.as_ref().and_then(|s| s.supplemental_groups_policy.as_deref())
        == Some("Strict");
    let node_features = view.node.and_then(|n| n.status.as_ref()?.features.as_ref());
    if strict && view.node.is_some() && node_features.and_then(|f| f.supplemental_groups_policy) != Some(true)
    {
        let text = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return Err(refuse("SupplementalGroupsPolicyNotSupported", text));
    }
    if let Some(short) = shortages(pod, view).into_iter().next() {
        return Err(refuse(&format!("OutOf{}", short.resource), short.message()));
    }
    if let Some(node) = view.node
        && !affine(pod, node)
    {
        return Err(predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    if ports(pod).iter().any(|port| view.others.iter().flat_map(|o| ports(o)).any(|o| clash(port, &o))) {
        let why = "node(s) didn't have free ports for the requested pod ports";
        return Err(predicate("NodePorts", why));
    }
    let taints = view.node.and_then(|n| n.spec.as_ref()).and_then(|s| s.taints.as_deref());
    let untolerated = taints.unwrap_or_default().iter().any(|taint| {
        taint.effect == "NoExecute"
            && !spec.tolerations.iter().flatten().any(|t| tolerates(t, taint, view.comparing))
    });
    if untolerated && !pod::is_static(pod) {
        return Err(predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    Ok(())
}

/// The pod is needed for node or cluster to work.
#[must_use]
pub fn is_critical(pod: &Pod) -> bool {
    pod::is_static(pod) || pod::is_mirror(pod) || pod::spec(pod).priority.is_some_and(|p| p >= CRITICAL)
}

fn under_pressure(pod: &Pod, pressure: Pressure) -> Result<(), Verdict> {
    let Pressure { memory, disk, pids } = pressure;
    let named = [(disk, "DiskPressure"), (memory, "MemoryPressure"), (pids, "PIDPressure")];
    let on: Vec<&str> = named.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
    if on.is_empty() || is_critical(pod) {
        return Ok(());
    }
    if on == ["MemoryPressure"] {
        let taint = Taint {
            key: "node.kubernetes.io/memory-pressure".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        let tolerated = pod::spec(pod).tolerations.iter().flatten().any(|t| tolerates(t, &taint, false));
        if qos::class(pod) != QosClass::BestEffort || tolerated {
            return Ok(());
        }
    }
    Err(refuse("Evicted", format!("The node had condition: [{}]. ", on.join(" "))))
}

// === sysctls ===

fn sysctls(pod: &Pod, allowed: &[String]) -> Result<(), Verdict> {
    let spec = pod::spec(pod);
    let wanted = spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten());
    for name in wanted.map(|s| s.name.replace('/', ".")) {
        let listed = SAFE_SYSCTLS.contains(&name.as_str())
            || allowed.iter().any(|pattern| match pattern.replace('/', ".").strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => *pattern == name,
            });
        if !listed {
            return Err(refuse("SysctlForbidden", format!("forbidden sysctl: {name:?} not allowlisted")));
        }
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        let shared = [
            (spec.host_network, name.starts_with("net."), "host net"),
            (spec.host_ipc, ipc.iter().any(|p| name.starts_with(p)), "host ipc"),
        ];
        for (host, concerns, what) in shared {
            if host == Some(true) && concerns {
                let text = format!("sysctl {name:?} not allowed with {what} enabled");
                return Err(refuse("SysctlForbidden", text));
            }
        }
    }
    Ok(())
}

// === resources ===

/// The pod without what comes out of a claim: that is not the node's to give.
fn unclaimed(pod: &Pod) -> Cow<'_, Pod> {
    if pod.status.as_ref().is_none_or(|s| s.extended_resource_claim_status.is_none()) {
        return Cow::Borrowed(pod);
    }
    let mut rest = pod.clone();
    let spec = rest.spec.get_or_insert_default();
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let Some(own) = &mut container.resources else { continue };
        for list in [&mut own.requests, &mut own.limits].into_iter().flatten() {
            list.retain(|name, _| !pod::is_claimed(pod, &container.name, name));
        }
    }
    Cow::Owned(rest)
}

/// What the pod asks for of every resource: thousandths of a cpu, else whole units.
fn requests(pod: &Pod) -> BTreeMap<String, i64> {
    let pod = &*unclaimed(pod);
    let spec = pod::spec(pod);
    let lists = pod::init_containers(pod).iter().chain(&spec.containers).filter_map(|c| c.resources.as_ref());
    let lists = lists.chain(&spec.resources).flat_map(|r| [&r.requests, &r.limits]).chain([&spec.overhead]);
    let names: Vec<&String> = lists.flatten().flat_map(BTreeMap::keys).collect();
    names.into_iter().map(|name| (name.clone(), asks(pod, name))).collect()
}

/// What the pod asks for of one resource: thousandths of a cpu, else whole units.
#[must_use]
pub fn asks(pod: &Pod, name: &str) -> i64 {
    let milli = resources::pod_request(pod, name);
    if name == resources::CPU { milli } else { milli / 1000 }
}

/// What the node can give of a resource, in the units of [`requests`].
fn allocatable(node: &Node, name: &str) -> Option<i64> {
    let list = node.status.as_ref()?.allocatable.as_ref();
    let milli = resources::amount(list, name)?;
    Some(if name == resources::CPU { milli } else { milli / 1000 })
}

/// The resources the node has too little of. What it does not list at all is not its to give, and is not asked for.
#[must_use]
pub fn shortages(pod: &Pod, view: &View<'_>) -> Vec<Shortage> {
    let Some(node) = view.node else { return vec![] };
    let mut short = Vec::new();
    let count = i64::try_from(view.others.len()).unwrap_or(i64::MAX);
    if let Some(most) = allocatable(node, "pods").filter(|most| count >= *most) {
        short.push(Shortage { resource: "pods".into(), requested: 1, used: count, capacity: most });
    }
    let wanted = requests(pod);
    let first = ["cpu", "memory", "ephemeral-storage"];
    let rest = wanted.keys().map(String::as_str).filter(|n| !first.contains(n) && *n != "pods");
    for name in first.into_iter().chain(rest) {
        let Some(requested) = wanted.get(name).copied().filter(|r| *r > 0) else { continue };
        let Some(capacity) = allocatable(node, name) else { continue };
        let used = view
            .others
            .iter()
            .fold(0i64, |sum, other| sum.saturating_add(requests(other).get(name).copied().unwrap_or(0)));
        if requested > capacity.saturating_sub(used) {
            short.push(Shortage { resource: name.to_owned(), requested, used, capacity });
        }
    }
    short
}

// === affinity, taints, ports ===

fn affine(pod: &Pod, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let spec = pod::spec(pod);
    if spec.node_selector.iter().flatten().any(|(key, value)| labels.get(key) != Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    required.is_none_or(|r| r.node_selector_terms.iter().any(|term| matches_term(term, labels, name)))
}

/// An empty term selects nothing.
fn matches_term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| matches(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| r.key == "metadata.name" && matches(r, Some(name)))
}

fn matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|w| w == v));
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
    let bound = number(values.first().map(String::as_str));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => matches!((number(value), bound), (Some(v), Some(b)) if v > b),
        "Lt" => matches!((number(value), bound), (Some(v), Some(b)) if v < b),
        _ => false,
    }
}

/// Ports of the node that the pod wants.
fn ports(pod: &Pod) -> Vec<ContainerPort> {
    let sidecars = pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c));
    let all = pod::containers(pod).iter().chain(sidecars).flat_map(|c| c.ports.clone().unwrap_or_default());
    all.filter(|p| p.host_port.is_some_and(|port| port > 0)).collect()
}

fn clash(a: &ContainerPort, b: &ContainerPort) -> bool {
    let protocol = |p: &ContainerPort| p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let any = |p: &ContainerPort| matches!(p.host_ip.as_deref(), None | Some("" | "0.0.0.0" | "::"));
    a.host_port == b.host_port && protocol(a) == protocol(b) && (any(a) || any(b) || a.host_ip == b.host_ip)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    fn node(extra: serde_json::Value) -> Node {
        let mut node = json!({
            "metadata": {"name": "n", "labels": {"zone": "a", "cores": "4"}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2"}},
        });
        if let (Some(node), Some(extra)) = (node.as_object_mut(), extra.as_object()) {
            node.extend(extra.clone());
        }
        serde_json::from_value(node).unwrap()
    }

    fn pod(name: &str, spec: serde_json::Value) -> Pod {
        testing::pod(name).with(|p| p.spec = Some(serde_json::from_value(spec).unwrap())).build()
    }

    fn asking(cpu: &str) -> serde_json::Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    fn judge(pod: &Pod, node: &Node, others: &[Arc<Pod>]) -> Option<(String, String)> {
        let view = View {
            node: Some(node),
            pressure: Pressure::default(),
            allowed_sysctls: &[],
            comparing: true,
            others,
        };
        admit(pod, &view).err().map(|v| (v.reason, v.message))
    }

    fn reason(spec: serde_json::Value, extra: serde_json::Value) -> Option<String> {
        judge(&pod("a", spec), &node(extra), &[]).map(|(reason, _)| reason)
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_amounts() {
        let other = Arc::new(pod("b", asking("1500m")));
        let (reason, message) =
            judge(&pod("a", asking("600m")), &node(json!({})), std::slice::from_ref(&other)).unwrap();
        assert_eq!(reason, "OutOfcpu");
        assert_eq!(
            message,
            "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000"
        );
        assert_eq!(judge(&pod("a", asking("500m")), &node(json!({})), std::slice::from_ref(&other)), None);
        let full = [other.clone(), other];
        let (reason, _) = judge(&pod("a", json!({"containers": []})), &node(json!({})), &full).unwrap();
        assert_eq!(reason, "OutOfpods");
    }

    #[test]
    fn what_the_node_does_not_list_is_not_asked_of_it() {
        let spec = |n: &str| {
            json!({"containers": [{"name": "c", "resources": {"limits": {"example.com/gpu": n},
                "requests": {"example.com/gpu": n}}}]})
        };
        assert_eq!(reason(spec("3"), json!({})), None);
        let listed = json!({"status": {"allocatable": {"example.com/gpu": "2"}}});
        assert_eq!(reason(spec("3"), listed.clone()).as_deref(), Some("OutOfexample.com/gpu"));
        assert_eq!(reason(spec("2"), listed), None);
    }

    #[test]
    fn what_comes_out_of_a_claim_is_not_asked_of_the_node() {
        let claimed = |container: &str| {
            let mapping =
                json!({"containerName": container, "resourceName": "example.com/gpu", "requestName": "r"});
            let mut pod = pod(
                "a",
                json!({"containers": [{"name": "c", "resources": {
                "limits": {"example.com/gpu": "3"}, "requests": {"example.com/gpu": "3"}}}]}),
            );
            pod.status = serde_json::from_value(json!({"extendedResourceClaimStatus":
                {"resourceClaimName": "made", "requestMappings": [mapping]}}))
            .unwrap();
            pod
        };
        let listed = node(json!({"status": {"allocatable": {"example.com/gpu": "2"}}}));
        assert_eq!(judge(&claimed("c"), &listed, &[]), None);
        assert_eq!(judge(&claimed("other"), &listed, &[]).unwrap().0, "OutOfexample.com/gpu");
    }

    #[test]
    fn selectors_and_affinity_hold_on_the_node() {
        let affinity = |operator: &str, key: &str, values: &[&str]| {
            json!({"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}})
        };
        let refused = Some("NodeAffinity".to_owned());
        for (spec, expected) in [
            (json!({"containers": [], "nodeSelector": {"zone": "a"}}), None),
            (json!({"containers": [], "nodeSelector": {"zone": "b"}}), refused.clone()),
            (affinity("In", "zone", &["a", "b"]), None),
            (affinity("NotIn", "zone", &["a"]), refused.clone()),
            (affinity("Exists", "zone", &[]), None),
            (affinity("DoesNotExist", "zone", &[]), refused.clone()),
            (affinity("Gt", "cores", &["3"]), None),
            (affinity("Lt", "cores", &["3"]), refused.clone()),
            (affinity("Gt", "zone", &["3"]), refused),
        ] {
            assert_eq!(reason(spec.clone(), json!({})), expected, "{spec}");
        }
    }

    #[test]
    fn taints_that_drive_away_need_a_toleration() {
        let taints = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"},
            {"key": "x", "effect": "NoSchedule"}]}});
        let with = |toleration: serde_json::Value| {
            reason(json!({"containers": [], "tolerations": [toleration]}), taints.clone())
        };
        let less = json!({"containers": [], "tolerations": [{"key": "n", "operator": "Lt", "value": "8"}]});
        for (value, expected) in [("7", None), ("8", Some("TaintToleration"))] {
            let taints = json!({"spec": {"taints": [{"key": "n", "value": value, "effect": "NoExecute"}]}});
            assert_eq!(reason(less.clone(), taints).as_deref(), expected, "{value}");
        }
        assert_eq!(with(json!({"key": "k", "value": "v"})), None);
        assert_eq!(with(json!({"operator": "Exists"})), None);
        assert_eq!(with(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})), None);
        assert_eq!(with(json!({"key": "k", "value": "w"})).as_deref(), Some("TaintToleration"));
        assert_eq!(
            with(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"})).as_deref(),
            Some("TaintToleration")
        );
    }

    #[test]
    fn ports_of_the_node_are_given_once() {
        let with = |name: &str, ip: &str, protocol: &str| {
            pod(
                name,
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80,
                "hostIP": ip, "protocol": protocol}]}]}),
            )
        };
        let taken = [Arc::new(with("b", "10.0.0.1", "TCP"))];
        let refused = |ip: &str, protocol: &str| {
            judge(&with("a", ip, protocol), &node(json!({})), &taken).map(|(reason, _)| reason)
        };
        assert_eq!(refused("10.0.0.1", "TCP").as_deref(), Some("NodePorts"));
        assert_eq!(refused("", "TCP").as_deref(), Some("NodePorts"));
        assert_eq!(refused("10.0.0.2", "TCP"), None);
        assert_eq!(refused("10.0.0.1", "UDP"), None);
    }

    #[test]
    fn only_listed_sysctls_are_set() {
        let asks = |name: &str, host: bool| {
            pod(
                "a",
                json!({"containers": [], "hostNetwork": host,
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}),
            )
        };
        let allowed = ["net.core.*".to_owned(), "kernel.msgmax".to_owned()];
        let view = View {
            node: None,
            pressure: Pressure::default(),
            allowed_sysctls: &allowed,
            comparing: false,
            others: &[],
        };
        for (name, host, fits) in [
            ("net.ipv4.tcp_syncookies", false, true),
            ("net/ipv4/tcp_syncookies", false, true),
            ("net.ipv4.tcp_syncookies", true, false),
            ("net.core.somaxconn", false, true),
            ("kernel.msgmax", false, true),
            ("kernel.msgmnb", false, false),
        ] {
            assert_eq!(admit(&asks(name, host), &view).is_ok(), fits, "{name} {host}");
        }
    }

    #[test]
    fn pressure_keeps_new_pods_away() {
        let judge = |pod: &Pod, pressure: Pressure| {
            let view = View { node: None, pressure, allowed_sysctls: &[], comparing: false, others: &[] };
            admit(pod, &view).err().map(|v| v.message)
        };
        let memory = Pressure { memory: true, ..Pressure::default() };
        let disk = Pressure { disk: true, ..memory };
        let best_effort = pod("a", json!({"containers": [{"name": "c"}]}));
        let burstable = pod("b", asking("1m"));
        let critical = pod("c", json!({"containers": [], "priority": 2_000_000_000}));
        assert_eq!(
            judge(&best_effort, memory).as_deref(),
            Some("The node had condition: [MemoryPressure]. ")
        );
        assert_eq!(judge(&burstable, memory), None);
        assert_eq!(
            judge(&burstable, disk).as_deref(),
            Some("The node had condition: [DiskPressure MemoryPressure]. ")
        );
        assert_eq!(judge(&critical, disk), None);
    }
}
