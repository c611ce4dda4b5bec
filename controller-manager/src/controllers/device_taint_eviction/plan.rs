//! When the users of a claim have to go. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use component_base::meta::{ObjectKey, controller_of, is_deleting};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::Pod,
    resource::{
        v1::{
            Device, DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim,
            ResourceClaimConsumerReference, ResourceSlice,
        },
        v1beta2::DeviceTaintRule,
    },
};

use super::super::pod_disruption::is_finished;

const NO_EXECUTE: &str = "NoExecute";

/// When a pod has to go, and which rules are among the causes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Eviction {
    pub(super) when: Timestamp,
    pub(super) rules: BTreeSet<Rule>,
}

/// Which rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) uid: String,
}

/// The slices of a pool.
type Slices<'a> = &'a dyn Fn(&str) -> Vec<Arc<ResourceSlice>>;

/// The pool of a slice, as `driver/pool`.
pub(super) fn pool(slice: &ResourceSlice) -> String {
    format!("{}/{}", slice.spec.driver, slice.spec.pool.name)
}

/// The pools that the devices of a claim are from.
pub(super) fn pools(claim: &ResourceClaim) -> Vec<String> {
    let all: BTreeSet<String> = devices(claim).map(pool_of).collect();
    all.into_iter().collect()
}

fn pool_of(device: &DeviceRequestAllocationResult) -> String {
    format!("{}/{}", device.driver, device.pool)
}

fn devices(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
    let results = allocation.and_then(|a| a.devices.as_ref()?.results.as_ref());
    results.into_iter().flatten()
}

/// The pods that may use a claim.
pub(super) fn consumers(claim: &ResourceClaim) -> impl Iterator<Item = ObjectKey> + '_ {
    let namespace = claim.metadata.namespace.clone().unwrap_or_default();
    let all = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
    all.filter(|c| c.resource == "pods").map(move |c| ObjectKey::new(namespace.as_str(), c.name.as_str()))
}

/// The groups of pods that may use a claim.
pub(super) fn consuming_groups(claim: &ResourceClaim) -> impl Iterator<Item = ObjectKey> + '_ {
    let namespace = claim.metadata.namespace.clone().unwrap_or_default();
    groups(claim).map(move |c| ObjectKey::new(namespace.as_str(), c.name.as_str()))
}

fn groups(claim: &ResourceClaim) -> impl Iterator<Item = &ResourceClaimConsumerReference> {
    let all = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
    all.filter(|c| c.api_group.as_deref() == Some("scheduling.k8s.io") && c.resource == "podgroups")
}

/// Whether a claim is reserved for exactly this pod, or for the group it is of, where that is asked.
pub(super) fn is_reserved(claim: &ResourceClaim, pod: &Pod, group: Option<&ObjectKey>) -> bool {
    let mut all = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
    all.any(|c| c.resource == "pods" && Some(&c.uid) == pod.metadata.uid.as_ref())
        || group.is_some_and(|group| groups(claim).any(|c| *c.name == *group.name))
}

/// Whether a claim is the pod's where it must be: one that a template made for a pod serves no other by its place.
pub(super) fn is_own(claim: &ResourceClaim, pod: &Pod) -> bool {
    let asked = pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten());
    let made = asked.filter(|asked| asked.resource_claim_template_name.is_some()).map(|asked| &asked.name);
    let known = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let named: BTreeSet<&String> = made.collect();
    let mut of_templates = known.filter(|status| named.contains(&status.name));
    let is_made = of_templates.any(|status| status.resource_claim_name == claim.metadata.name);
    let of_pod = controller_of(&claim.metadata).filter(|owner| owner.kind == "Pod");
    !is_made || of_pod.is_none_or(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref())
}

/// Whether a pod runs somewhere and is not on its way out.
pub(super) fn may_go(pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    !node.is_empty() && !is_finished(pod) && !is_deleting(&pod.metadata)
}

// === impl Eviction ===

impl Eviction {
    /// Both of them: the earlier time, and all causes.
    pub(super) fn join(mut self, other: Self) -> Self {
        self.when = self.when.min(other.when);
        self.rules.extend(other.rules);
        self
    }
}

// === impl Rule ===

impl Rule {
    pub(super) fn of(rule: &DeviceTaintRule) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self { name: text(&rule.metadata.name), uid: text(&rule.metadata.uid) }
    }
}

/// Whether a rule drives pods away.
pub(super) fn evicts(rule: &DeviceTaintRule) -> bool {
    rule.spec.taint.effect == NO_EXECUTE
}

/// The same rule, driving pods away.
pub(super) fn as_evicting(rule: &DeviceTaintRule) -> DeviceTaintRule {
    let mut out = rule.clone();
    out.spec.taint.effect = NO_EXECUTE.to_owned();
    out
}

/// Whether a rule means a device. Without a selector it means none, with an empty one all.
fn selects(rule: &DeviceTaintRule, driver: &str, pool: &str, device: &str) -> bool {
    let is = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
    rule.spec.device_selector.as_ref().is_some_and(|selector| {
        is(&selector.driver, driver) && is(&selector.pool, pool) && is(&selector.device, device)
    })
}

fn selects_allocated(rule: &DeviceTaintRule, device: &DeviceRequestAllocationResult) -> bool {
    selects(rule, &device.driver, &device.pool, &device.device)
}

/// How many devices of a claim a rule means.
pub(super) fn selected(rule: &DeviceTaintRule, claim: &ResourceClaim) -> usize {
    devices(claim).filter(|device| selects_allocated(rule, device)).count()
}

/// How many of the devices that the newest slices of their pools have a rule means.
pub(super) fn published(rule: &DeviceTaintRule, slices: &[Arc<ResourceSlice>]) -> usize {
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    for slice in slices {
        let known = newest.entry(pool(slice)).or_insert(i64::MIN);
        *known = (*known).max(slice.spec.pool.generation);
    }
    let current = slices.iter().filter(|slice| newest.get(&pool(slice)) == Some(&slice.spec.pool.generation));
    let devices = current.flat_map(|slice| {
        let (driver, pool) = (&slice.spec.driver, &slice.spec.pool.name);
        slice.spec.devices.iter().flatten().filter(move |device| selects(rule, driver, pool, &device.name))
    });
    devices.count()
}

/// When the users of a claim have to go: the earliest time any taint of its devices leaves them.
pub(super) fn eviction(
    claim: &ResourceClaim,
    slices: Slices<'_>,
    rules: &[Arc<DeviceTaintRule>],
) -> Option<Eviction> {
    let of_device = |allocated: &DeviceRequestAllocationResult| {
        let published = find(allocated, &slices(&pool_of(allocated))).and_then(|device| device.taints);
        let published = published.into_iter().flatten().map(|taint| (taint, None));
        let ruled = rules.iter().filter(|rule| selects_allocated(rule, allocated));
        let ruled = ruled.map(|rule| (taint_of(rule), Some(Rule::of(rule))));
        let tolerations = allocated.tolerations.as_deref().unwrap_or_default();
        let leaves = |(taint, rule): (DeviceTaint, Option<Rule>)| {
            let when = leaves_until(&taint, tolerations)?;
            Some(Eviction { when, rules: rule.into_iter().collect() })
        };
        published.chain(ruled).filter_map(leaves).reduce(Eviction::join)
    };
    devices(claim).filter_map(of_device).reduce(Eviction::join)
}

fn taint_of(rule: &DeviceTaintRule) -> DeviceTaint {
    let taint = rule.spec.taint.clone();
    DeviceTaint { effect: taint.effect, key: taint.key, time_added: taint.time_added, value: taint.value }
}

/// The device in the pool's newest generation.
fn find(allocated: &DeviceRequestAllocationResult, slices: &[Arc<ResourceSlice>]) -> Option<Device> {
    let newest = slices.iter().map(|slice| slice.spec.pool.generation).max()?;
    let current = slices.iter().filter(|slice| slice.spec.pool.generation == newest);
    current
        .flat_map(|slice| slice.spec.devices.iter().flatten())
        .find(|d| d.name == allocated.device)
        .cloned()
}

/// Until when a taint leaves users that tolerate this much; nothing where it leaves them for good.
fn leaves_until(taint: &DeviceTaint, tolerations: &[DeviceToleration]) -> Option<Timestamp> {
    if taint.effect != NO_EXECUTE {
        return None;
    }
    let since = taint.time_added.as_ref()?.0;
    let mut seconds = None::<i64>;
    for toleration in tolerations.iter().filter(|t| tolerates(t, taint)) {
        let more = toleration.toleration_seconds?.max(0);
        seconds = Some(seconds.map_or(more, |least| least.min(more)));
    }
    let stay = Duration::from_secs(seconds.unwrap_or(0).unsigned_abs());
    // A time that cannot be told never comes.
    since.checked_add(stay).ok()
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        "Exists" => true,
        _ => false,
    };
    toleration.effect.as_deref() == Some(NO_EXECUTE) && (key.is_empty() || key == taint.key) && value
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SINCE: &str = "2026-01-01T00:00:00Z";

    fn slice(generation: i64, taints: Value) -> Arc<ResourceSlice> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {
                "driver": "d", "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
                "devices": [{"name": "gpu", "taints": taints}],
            }}))
            .unwrap(),
        )
    }

    fn claim(tolerations: Value) -> ResourceClaim {
        let result =
            json!({"driver": "d", "pool": "p", "device": "gpu", "request": "r", "tolerations": tolerations});
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "n"}, "spec": {},
            "status": {
                "allocation": {"devices": {"results": [result]}},
                "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}],
            },
        }))
        .unwrap()
    }

    fn seconds(claim: &ResourceClaim, slices: &[Arc<ResourceSlice>]) -> Option<i64> {
        let all = |pool: &str| if pool == "d/p" { slices.to_vec() } else { vec![] };
        let since: Timestamp = SINCE.parse().unwrap();
        eviction(claim, &all, &[]).map(|found| found.when.as_second() - since.as_second())
    }

    #[test]
    fn users_go_when_their_tolerations_end() {
        let taint = |effect: &str| json!([{"key": "k", "value": "v", "effect": effect, "timeAdded": SINCE}]);
        let forever = json!({"key": "k", "operator": "Exists", "effect": NO_EXECUTE});
        let a_while = |n: i64| json!({"operator": "Exists", "effect": NO_EXECUTE, "tolerationSeconds": n});
        let other = json!({"key": "k", "value": "w", "effect": NO_EXECUTE});
        let table = [
            (taint(NO_EXECUTE), json!([]), Some(0)),
            (taint("NoSchedule"), json!([]), None),
            (json!([]), json!([]), None),
            (taint(NO_EXECUTE), json!([forever]), None),
            (taint(NO_EXECUTE), json!([other]), Some(0)),
            (taint(NO_EXECUTE), json!([a_while(30)]), Some(30)),
            (taint(NO_EXECUTE), json!([a_while(30), a_while(10), a_while(-1)]), Some(0)),
            (taint(NO_EXECUTE), json!([a_while(30), forever]), None),
        ];
        for (taints, tolerations, expected) in table {
            let found = seconds(&claim(tolerations.clone()), &[slice(1, taints.clone())]);
            assert_eq!(found, expected, "{taints} with {tolerations}");
        }
    }

    #[test]
    fn only_the_newest_generation_counts() {
        let taints = json!([{"key": "k", "effect": NO_EXECUTE, "timeAdded": SINCE}]);
        let (old, new) = (slice(1, taints), slice(2, json!([])));
        assert_eq!(seconds(&claim(json!([])), std::slice::from_ref(&old)), Some(0));
        assert_eq!(seconds(&claim(json!([])), &[old, new]), None);
        assert_eq!(seconds(&claim(json!([])), &[]), None);
    }

    fn rule(name: &str, selector: Value, effect: &str, second: u8) -> Arc<DeviceTaintRule> {
        let taint =
            json!({"key": "k", "effect": effect, "timeAdded": format!("2026-01-01T00:00:{second:02}Z")});
        let rule = json!({"metadata": {"name": name, "uid": name}, "spec": {"deviceSelector": selector, "taint": taint}});
        Arc::new(serde_json::from_value(rule).unwrap())
    }

    #[test]
    fn rules_taint_the_devices_they_select() {
        let none = |_: &str| vec![];
        let all = json!({});
        for (selector, meant) in [
            (all.clone(), true),
            (json!(null), false),
            (json!({"driver": "d"}), true),
            (json!({"driver": "d", "pool": "p", "device": "gpu"}), true),
            (json!({"driver": "e"}), false),
            (json!({"pool": "q"}), false),
            (json!({"driver": "d", "device": "other"}), false),
        ] {
            let rules = [rule("r", selector.clone(), NO_EXECUTE, 0)];
            let found = eviction(&claim(json!([])), &none, &rules);
            assert_eq!(found.is_some(), meant, "{selector}");
            assert_eq!(selected(&rules[0], &claim(json!([]))), usize::from(meant), "{selector}");
            let slices = [slice(1, json!([])), slice(2, json!([]))];
            assert_eq!(published(&rules[0], &slices), usize::from(meant), "{selector}");
        }
        let (late, soon) =
            (rule("late", all.clone(), NO_EXECUTE, 9), rule("soon", all.clone(), NO_EXECUTE, 5));
        let taints = json!([{"key": "k", "effect": NO_EXECUTE, "timeAdded": "2026-01-01T00:00:07Z"}]);
        let published = slice(1, taints);
        let slices = |_: &str| vec![published.clone()];
        let found = eviction(&claim(json!([])), &slices, &[late.clone(), soon]).unwrap();
        let names: Vec<&str> = found.rules.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!((found.when.to_string().as_str(), names), ("2026-01-01T00:00:05Z", vec!["late", "soon"]));
        let found = eviction(&claim(json!([])), &slices, &[late]).unwrap();
        assert_eq!(found.when.to_string(), "2026-01-01T00:00:07Z");
        let forever = json!([{"key": "k", "operator": "Exists", "effect": NO_EXECUTE}]);
        assert_eq!(eviction(&claim(forever), &none, &[rule("r", all.clone(), NO_EXECUTE, 0)]), None);
        let idle = rule("r", all, "None", 0);
        assert!(!evicts(&idle) && evicts(&as_evicting(&idle)));
        assert_eq!(eviction(&claim(json!([])), &none, &[idle]), None);
    }

    #[test]
    fn claims_of_templates_are_those_of_their_pods() {
        let pod = |asks: Value| -> Pod {
            let status = json!([{"name": "gpu", "resourceClaimName": "c"}]);
            serde_json::from_value(json!({
                "metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [], "resourceClaims": [asks]},
                "status": {"resourceClaimStatuses": status},
            }))
            .unwrap()
        };
        let made = pod(json!({"name": "gpu", "resourceClaimTemplateName": "t"}));
        let named = pod(json!({"name": "gpu", "resourceClaimName": "c"}));
        let of = |kind: &str, uid: &str| {
            let mut claim = claim(json!([]));
            let owner =
                json!([{"apiVersion": "v1", "kind": kind, "name": "x", "uid": uid, "controller": true}]);
            claim.metadata.owner_references = serde_json::from_value(owner).unwrap();
            claim
        };
        assert!(is_own(&of("Pod", "u"), &made));
        assert!(!is_own(&of("Pod", "another"), &made));
        assert!(is_own(&of("Pod", "another"), &named), "it is asked for by its name");
        assert!(is_own(&of("PodGroup", "g"), &made), "its group has it");
    }

    #[test]
    fn only_running_pods_that_hold_the_claim_go() {
        let pod = |uid: &str, node: &str, phase: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p", "uid": uid}, "spec": {"containers": [], "nodeName": node},
                "status": {"phase": phase},
            }))
            .unwrap()
        };
        assert!(is_reserved(&claim(json!([])), &pod("u", "n", "Running"), None));
        assert!(!is_reserved(&claim(json!([])), &pod("w", "n", "Running"), None));
        let mut shared = claim(json!([]));
        let group =
            json!([{"apiGroup": "scheduling.k8s.io", "resource": "podgroups", "name": "g", "uid": "x"}]);
        shared.status.as_mut().unwrap().reserved_for = serde_json::from_value(group).unwrap();
        let key = |name: &str| ObjectKey::new("n", name);
        assert!(is_reserved(&shared, &pod("w", "n", "Running"), Some(&key("g"))));
        assert!(!is_reserved(&shared, &pod("w", "n", "Running"), Some(&key("h"))));
        assert!(!is_reserved(&shared, &pod("w", "n", "Running"), None), "the gate is off");
        assert_eq!(consuming_groups(&shared).collect::<Vec<_>>(), [key("g")]);
        assert!(may_go(&pod("u", "n", "Running")));
        assert!(!may_go(&pod("u", "", "Pending")));
        assert!(!may_go(&pod("u", "n", "Failed")));
        let keys: Vec<String> = consumers(&claim(json!([]))).map(|k| k.to_string()).collect();
        assert_eq!((keys, pools(&claim(json!([])))), (vec!["n/p".to_owned()], vec!["d/p".to_owned()]));
    }
}
