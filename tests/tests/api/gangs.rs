//! Groups of pods that are placed together: KEP-4671 (gangs), KEP-5710 (room for a whole group), on two nodes of four
//! processors each.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Client, ControlPlane, control_plane::Options, runner::Test};

use crate::scheduling::{Daemon, Scheduler, node};

pub(crate) const TESTS: &[Test<()>] = &[
    ("a gang is bound when all of it is there and fits, and not before", gangs),
    ("a group of basic policy is bound as far as it fits", basic),
    ("a gang gets the room of less important pods as a whole, or of none", room),
    ("without room for groups each pod of a gang makes its own", rooms),
    ("of pods that end together all make room for a gang", units),
    ("the pods of a group share the claims that it has", claims),
];

const GROUPS: &str = "/apis/scheduling.k8s.io/v1alpha2/namespaces/d/podgroups";
const PODS: &str = "/api/v1/namespaces/d/pods";

/// A control plane with two nodes and a scheduler, under gates.
struct Stand {
    plane: ControlPlane,
    admin: Client,
    _scheduler: Scheduler,
}

impl Stand {
    fn start(gates: &str) -> Result<Stand> {
        let gates = format!("--feature-gates={gates}");
        let served = "--runtime-config=scheduling.k8s.io/v1alpha2=true".to_owned();
        let plane =
            ControlPlane::start(Options { flags: vec![gates.clone(), served], ..Options::default() })?;
        plane.namespace("d")?;
        let admin = plane.admin()?;
        for name in ["a", "b"] {
            node(&admin, name)?;
        }
        for (name, value) in [("low", 1), ("high", 1000)] {
            let class = json!({"metadata": {"name": name}, "value": value});
            admin.post("/apis/scheduling.k8s.io/v1/priorityclasses", &class)?.ok()?;
        }
        let scheduler = Scheduler::start(&plane, &json!({}), &[&gates])?;
        Ok(Stand { plane, admin, _scheduler: scheduler })
    }

    fn group(&self, name: &str, spec: &Value) -> Result<()> {
        self.admin.post(GROUPS, &json!({"metadata": {"name": name}, "spec": spec}))?.ok().map(drop)
    }

    /// A pod that asks for so many processors, in a group unless that is empty.
    fn pod(&self, name: &str, group: &str, cpu: &str, class: &str) -> Result<()> {
        let mut spec = json!({"priorityClassName": class, "containers": [{"name": "c", "image": "keelson.local/none:1",
            "resources": {"requests": {"cpu": cpu}}}]});
        if !group.is_empty() {
            spec["schedulingGroup"] = json!({"podGroupName": group});
        }
        self.admin.post(PODS, &json!({"metadata": {"name": name}, "spec": spec}))?.ok().map(drop)
    }

    fn get(&self, pod: &str) -> Result<Value> {
        self.admin.get(&format!("{PODS}/{pod}"))?.ok()
    }

    fn node_of(&self, pod: &str) -> Result<Option<String>> {
        Ok(self.get(pod)?["spec"]["nodeName"].as_str().map(str::to_owned))
    }

    fn bound(&self, pods: &[&str]) -> Result<()> {
        self.eventually(&format!("{pods:?} are bound"), || {
            for pod in pods {
                if self.node_of(pod)?.is_none() {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    fn not_bound(&self, pods: &[&str]) -> Result<()> {
        for pod in pods {
            let node = self.node_of(pod)?;
            ensure!(node.is_none(), "{pod} is on {node:?}");
        }
        Ok(())
    }

    /// Has the scheduler decide on a pod made now: all that it had to do about those before it is done.
    fn settle(&self, marker: &str) -> Result<()> {
        self.pod(marker, "", "1m", "low")?;
        self.bound(&[marker])
    }

    /// Waits for what a pod is told of why it has no node.
    fn told(&self, pod: &str, part: &str) -> Result<()> {
        self.eventually(&format!("{pod} is told {part:?}"), || {
            let found = condition(&self.get(pod)?, "PodScheduled");
            ensure!(found["status"] == "False" && found["reason"] == "Unschedulable", "{found}");
            ensure!(found["message"].as_str().is_some_and(|text| text.contains(part)), "{found}");
            Ok(Some(()))
        })
    }

    /// Waits for how a group stands.
    fn stands(&self, group: &str, status: &str, reason: &str, part: &str) -> Result<()> {
        self.eventually(&format!("{group} stands {status} {reason} {part:?}"), || {
            let found = condition(&self.admin.get(&format!("{GROUPS}/{group}"))?.ok()?, "PodGroupScheduled");
            ensure!(found["status"] == status && found["reason"] == reason, "{found}");
            ensure!(found["message"].as_str().unwrap_or_default().contains(part), "{found}");
            Ok(Some(()))
        })
    }

    /// Waits until pods are being deleted for others, and ends them as their kubelet would.
    fn end(&self, pods: &[&str]) -> Result<()> {
        for pod in pods {
            self.eventually(&format!("{pod} is evicted"), || {
                let found = self.get(pod)?;
                ensure!(found["metadata"]["deletionTimestamp"].is_string(), "{found}");
                let target = condition(&found, "DisruptionTarget");
                ensure!(target["reason"] == "PreemptionByScheduler", "{target}");
                Ok(Some(()))
            })?;
        }
        for pod in pods {
            self.admin.delete(&format!("{PODS}/{pod}?gracePeriodSeconds=0"))?.ok()?;
        }
        Ok(())
    }

    /// The event of a pod with this reason.
    fn event(&self, pod: &str, reason: &str) -> Result<Value> {
        let path = format!(
            "/api/v1/namespaces/d/events?fieldSelector=involvedObject.name%3D{pod},reason%3D{reason}"
        );
        self.eventually(&format!("{pod} has an event {reason}"), || {
            Ok(self.admin.get(&path)?.ok()?["items"].get(0).cloned())
        })
    }

    fn eventually<T>(&self, what: &str, probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        self.plane.eventually(what, 60, probe).with_context(|| self.plane.logs())
    }
}

fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["type"] == kind).unwrap_or_default()
}

fn gang(count: u32) -> Value {
    json!({"schedulingPolicy": {"gang": {"minCount": count}}})
}

fn gangs(_: &(), _: &str) -> Result<()> {
    let stand = Stand::start("GenericWorkload=true,GangScheduling=true")?;
    // Two of three are there.
    stand.group("three", &gang(3))?;
    stand.pod("three-0", "three", "1", "low")?;
    stand.pod("three-1", "three", "1", "low")?;
    stand.settle("first")?;
    stand.not_bound(&["three-0", "three-1"])?;
    stand.pod("three-2", "three", "1", "low")?;
    stand.bound(&["three-0", "three-1", "three-2"])?;
    stand.stands("three", "True", "Scheduled", "")?;
    stand.event("three-0", "Scheduled")?;
    // One that comes later belongs to a gang that has been placed.
    stand.pod("three-3", "three", "100m", "low")?;
    stand.bound(&["three-3"])?;
    // The group itself comes last.
    stand.pod("late-0", "late", "100m", "low")?;
    stand.pod("late-1", "late", "100m", "low")?;
    stand.settle("second")?;
    stand.not_bound(&["late-0", "late-1"])?;
    stand.group("late", &gang(2))?;
    stand.bound(&["late-0", "late-1"])?;
    for pod in ["three-0", "three-1", "three-2", "three-3", "late-0", "late-1", "first", "second"] {
        stand.admin.delete(&format!("{PODS}/{pod}?gracePeriodSeconds=0"))?.ok()?;
    }
    // Two of three fit: none is bound, and all say why.
    stand.group("wide", &gang(3))?;
    for pod in ["wide-0", "wide-1", "wide-2"] {
        stand.pod(pod, "wide", "3", "low")?;
    }
    stand.stands("wide", "False", "Unschedulable", "pod group is unschedulable")?;
    stand.eventually("two of the gang wait for the third, which fits nowhere", || {
        let mut said = Vec::new();
        for pod in ["wide-0", "wide-1", "wide-2"] {
            let found = condition(&stand.get(pod)?, "PodScheduled");
            said.push(found["message"].as_str().unwrap_or_default().to_owned());
        }
        let count = |part: &str| said.iter().filter(|text| text.contains(part)).count();
        let waiting = count("waiting for minCount pods from a gang to be scheduled");
        let refused = count("0/2 nodes are available: 2 Insufficient cpu");
        ensure!((waiting, refused) == (2, 1), "{said:?}");
        Ok(Some(()))
    })?;
    let event = stand.event("wide-0", "FailedScheduling")?;
    ensure!(event["type"] == "Warning", "{event}");
    stand.not_bound(&["wide-0", "wide-1", "wide-2"])?;
    // What the gang cannot use, others may.
    stand.pod("other", "", "3", "low")?;
    stand.bound(&["other"])?;
    stand.admin.delete(&format!("{PODS}/other?gracePeriodSeconds=0"))?.ok()?;
    // A node more, and it fits.
    node(&stand.admin, "c")?;
    stand.bound(&["wide-0", "wide-1", "wide-2"])?;
    stand.stands("wide", "True", "Scheduled", "")
}

fn basic(_: &(), _: &str) -> Result<()> {
    let stand = Stand::start("GenericWorkload=true,GangScheduling=true")?;
    stand.group("some", &json!({"schedulingPolicy": {"basic": {}}}))?;
    stand.pod("some-0", "some", "3", "low")?;
    stand.bound(&["some-0"])?;
    stand.pod("some-1", "some", "3", "low")?;
    stand.bound(&["some-1"])?;
    stand.pod("some-2", "some", "3", "low")?;
    stand.told("some-2", "0/2 nodes are available: 2 Insufficient cpu")?;
    // A group that was placed stays so, whatever becomes of the rest.
    stand.stands("some", "True", "Scheduled", "")
}

fn room(_: &(), _: &str) -> Result<()> {
    let stand = Stand::start("GenericWorkload=true,GangScheduling=true,WorkloadAwarePreemption=true")?;
    for pod in ["low-0", "low-1"] {
        stand.pod(pod, "", "3", "low")?;
    }
    stand.bound(&["low-0", "low-1"])?;
    let important = |count: u32| {
        let mut spec = gang(count);
        spec["priorityClassName"] = "high".into();
        spec
    };
    // It would not fit even on empty nodes: nobody goes for it.
    stand.group("three", &important(3))?;
    for pod in ["three-0", "three-1", "three-2"] {
        stand.pod(pod, "three", "3", "high")?;
    }
    stand.stands("three", "False", "Unschedulable", "pod group is unschedulable")?;
    stand.settle("marker")?;
    stand.bound(&["low-0", "low-1"])?;
    for pod in ["low-0", "low-1"] {
        ensure!(stand.get(pod)?["metadata"]["deletionTimestamp"].is_null(), "{pod} goes for nothing");
    }
    for pod in ["three-0", "three-1", "three-2"] {
        stand.admin.delete(&format!("{PODS}/{pod}?gracePeriodSeconds=0"))?.ok()?;
    }
    stand.group("two", &important(2))?;
    for pod in ["two-0", "two-1"] {
        stand.pod(pod, "two", "3", "high")?;
    }
    stand.end(&["low-0", "low-1"])?;
    stand.bound(&["two-0", "two-1"])?;
    stand.stands("two", "True", "Scheduled", "")?;
    let event = stand.event("low-0", "Preempted")?;
    let uid = stand.admin.get(&format!("{GROUPS}/two"))?.ok()?["metadata"]["uid"].clone();
    let expected = format!("Preempted by podgroup {} on node cluster", uid.as_str().unwrap_or_default());
    ensure!(event["message"] == expected.as_str(), "{event}");
    ensure!(event["related"]["kind"] == "PodGroup" && event["related"]["uid"] == uid, "{event}");
    Ok(())
}

fn rooms(_: &(), _: &str) -> Result<()> {
    let stand = Stand::start("GenericWorkload=true,GangScheduling=true")?;
    for pod in ["low-0", "low-1"] {
        stand.pod(pod, "", "3", "low")?;
    }
    stand.bound(&["low-0", "low-1"])?;
    stand.group("two", &gang(2))?;
    for pod in ["two-0", "two-1"] {
        stand.pod(pod, "two", "3", "high")?;
    }
    stand.end(&["low-0", "low-1"])?;
    stand.bound(&["two-0", "two-1"])?;
    let event = stand.event("low-0", "Preempted")?;
    ensure!(event["related"]["kind"] == "Pod", "{event}");
    Ok(())
}

fn units(_: &(), _: &str) -> Result<()> {
    let stand = Stand::start("GenericWorkload=true,GangScheduling=true,WorkloadAwarePreemption=true")?;
    let low = json!({"schedulingPolicy": {"gang": {"minCount": 2}}, "priorityClassName": "low",
        "disruptionMode": "PodGroup"});
    stand.group("low", &low)?;
    for pod in ["low-0", "low-1"] {
        stand.pod(pod, "low", "3", "low")?;
    }
    stand.bound(&["low-0", "low-1"])?;
    // One node would be enough.
    let mut one = gang(1);
    one["priorityClassName"] = "high".into();
    stand.group("one", &one)?;
    stand.pod("one-0", "one", "3", "high")?;
    stand.end(&["low-0", "low-1"])?;
    stand.bound(&["one-0"])
}

/// KEP-5729: a claim is made once for the group, is the group's, has one device, and is given back when the group is gone.
fn claims(_: &(), _: &str) -> Result<()> {
    let gates = "GenericWorkload=true,GangScheduling=true,DRAWorkloadResourceClaims=true";
    let stand = Stand::start(gates)?;
    let gates = format!("--feature-gates={gates}");
    let _manager = Daemon::start(&stand.plane, "kube-controller-manager", &[&gates])?;
    let api = "/apis/resource.k8s.io/v1";
    let claims = format!("{api}/namespaces/d/resourceclaims");
    stand
        .admin
        .post(&format!("{api}/deviceclasses"), &json!({"metadata": {"name": "gpu"}, "spec": {}}))?
        .ok()?;
    let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "d.io", "nodeName": "b",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "one"}]}});
    stand.admin.post(&format!("{api}/resourceslices"), &slice)?.ok()?;
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
    let template = json!({"metadata": {"name": "t"}, "spec": {"spec": {"devices": {"requests": [request]}}}});
    stand.admin.post(&format!("{api}/namespaces/d/resourceclaimtemplates"), &template)?.ok()?;
    let entry = json!([{"name": "shared", "resourceClaimTemplateName": "t"}]);
    let mut spec = gang(2);
    spec["resourceClaims"] = entry.clone();
    stand.group("pair", &spec)?;
    let pod = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {
            "schedulingGroup": {"podGroupName": "pair"}, "resourceClaims": entry,
            "containers": [{"name": "c", "image": "keelson.local/none:1", "resources": {"claims": [{"name": "shared"}]}}]}})
    };
    for name in ["pair-0", "pair-1"] {
        stand.admin.post(PODS, &pod(name))?.ok()?;
    }
    stand.bound(&["pair-0", "pair-1"])?;
    for name in ["pair-0", "pair-1"] {
        ensure!(stand.node_of(name)?.as_deref() == Some("b"), "{name} is not where the device is");
    }
    let all = stand.admin.get(&claims)?.ok()?;
    let [claim] = all["items"].as_array().map(Vec::as_slice).unwrap_or_default() else {
        anyhow::bail!("one claim for both: {all}");
    };
    let owner = &claim["metadata"]["ownerReferences"][0];
    ensure!(owner["kind"] == "PodGroup" && owner["name"] == "pair", "{claim}");
    let users = claim["status"]["reservedFor"].as_array().cloned().unwrap_or_default();
    let of_group = |user: &Value| user["resource"] == "podgroups" && user["name"] == "pair";
    ensure!(users.len() == 1 && users.iter().all(of_group), "{claim}");
    let device = &claim["status"]["allocation"]["devices"]["results"][0]["device"];
    ensure!(device == "one", "{claim}");
    let named = |object: &Value| object["status"]["resourceClaimStatuses"][0]["resourceClaimName"].clone();
    let name = &claim["metadata"]["name"];
    let group = stand.admin.get(&format!("{GROUPS}/pair"))?.ok()?;
    ensure!(named(&group) == *name, "the group does not say which claim it has: {group}");
    // Whoever else wants the device waits until the group and its pods are gone.
    let single = json!({"metadata": {"name": "single"}, "spec": {"devices": {"requests": [request]}}});
    stand.admin.post(&claims, &single)?.ok()?;
    let mut waiting = pod("waits");
    waiting["spec"]["resourceClaims"] = json!([{"name": "shared", "resourceClaimName": "single"}]);
    if let Some(spec) = waiting["spec"].as_object_mut() {
        spec.remove("schedulingGroup");
    }
    stand.admin.post(PODS, &waiting)?.ok()?;
    stand.told("waits", "cannot allocate all claims")?;
    for name in ["pair-0", "pair-1"] {
        stand.admin.delete(&format!("{PODS}/{name}?gracePeriodSeconds=0"))?.ok()?;
    }
    stand.admin.delete(&format!("{GROUPS}/pair"))?.ok()?;
    stand.bound(&["waits"])
}
