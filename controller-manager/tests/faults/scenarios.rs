//! What each controller is to do while it is disturbed: one line per controller, and what the line is about below.

mod devices;
mod groups;
pub(crate) mod keys;
mod storage;
mod versions;

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    QUIET, Scenario, seed,
    states::settles,
    store::{Key, Part, RESOURCES, Store},
    survives,
};

macro_rules! scenarios {
    ($($name:ident $controller:literal $with:tt $flags:tt $objects:expr, $then:tt;)*) => {
        const COVERED: &[&str] = &[$($controller),*];
        $(mod $name {
            use super::*;

            fn scenario() -> Scenario {
                Scenario {
                    controller: $controller, with: &$with, flags: &$flags, objects: $objects, then: &$then,
                    except: except($controller), quiet: quiet($controller),
                }
            }

            #[test]
            fn faults_change_nothing_in_the_end() {
                survives(&scenario());
            }

            #[test]
            fn any_state_comes_to_rest() {
                settles(&scenario());
            }
        })*
    };
}

scenarios! {
    replicasets "replicaset-controller" [] [] vec![set("apps/v1", "ReplicaSet", 2), orphan()],
        [|s, _| scale(s, "replicasets", 3)];
    replicationcontrollers "replicationcontroller-controller" [] [] vec![controller(2)],
        [|s, _| scale(s, "replicationcontrollers", 1)];
    deployments "deployment-controller" ["replicaset-controller"] [] vec![deployment()],
        [|s, _| renew(s, "deployments")];
    statefulsets "statefulset-controller" [] [] vec![set("apps/v1", "StatefulSet", 2)],
        [|s, _| renew(s, "statefulsets"), |s, _| scale(s, "statefulsets", 1)];
    claims_of_sets "statefulset-controller" ["garbage-collector-controller"] [] vec![set_with_claims()],
        [|s, _| scale(s, "statefulsets", 1), |s, _| scale(s, "statefulsets", 2),
            |s, _| edit(s, "statefulsets", "web", |set| set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] = "Retain".into())];
    daemonsets "daemonset-controller" [] [] vec![node("n1"), set("apps/v1", "DaemonSet", 0)],
        [|s, now| seed(s, node("n3"), now), |s, _| renew(s, "daemonsets")];
    jobs "job-controller" [] [] vec![job("plain", json!({"completions": 3}), "well")], [];
    indexed_jobs "job-controller" [] []
        vec![job("indexed", json!({"completions": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1,
            "backoffLimit": 100}), "badly-at-1")], [];
    jobs_of_gangs "job-controller" [] ["--feature-gates=GenericWorkload=true,WorkloadWithJob=true"]
        vec![job("gang", json!({"completions": 2, "completionMode": "Indexed"}), "well")], [];
    failing_jobs "job-controller" [] [] vec![job("failing", json!({"backoffLimit": 1}), "badly")], [];
    suspended_jobs "job-controller" [] [] vec![job("held", json!({}), "never")],
        [|s, _| edit(s, "jobs", "held", |job| job["spec"]["suspend"] = true.into()),
            |s, _| edit(s, "jobs", "held", |job| job["spec"]["suspend"] = false.into())];
    cronjobs "cronjob-controller" ["job-controller"] [] vec![cronjob()], [];
    service_endpoints "endpoints-controller" [] [] vec![service(), backend("a", 1), backend("b", 2)],
        [|s, _| unready(s, "a"), |s, _| remove(s, "pods", "b")];
    endpointslices "endpointslice-controller" [] [] vec![node("n1"), service(), backend("a", 1), backend("b", 2)],
        [|s, _| unready(s, "a"), |s, _| remove(s, "pods", "b")];
    mirrored_endpoints "endpointslice-mirroring-controller" [] [] vec![bare_service(), endpoints(1)],
        [|s, _| readdress(s, 2), |s, _| remove(s, "endpoints", "web")];
    budgets "disruption-controller" [] [] vec![budget(), set("apps/v1", "ReplicaSet", 2), backend("a", 1), backend("b", 2)],
        [|s, _| unready(s, "a")];
    garbage "garbage-collector-controller" [] [] garbage_there(),
        [|s, now| remove_with(s, "configmaps", "front", "Foreground", now), |s, now| remove_with(s, "configmaps", "orphaning", "Orphan", now)];
    namespaces "namespace-controller" [] [] vec![namespace("d"), config("one", json!([])), config("two", json!([])), backend("a", 1),
        namespace("e"), elsewhere(config("three", json!([])))],
        [|s, _| { remove(s, "namespaces", "d"); remove(s, "namespaces", "e"); }];
    quotas "resourcequota-controller" [] [] vec![quota(), config("one", json!([])), backend("a", 1)],
        [|s, now| seed(s, config("two", json!([])), now), |s, _| remove(s, "pods", "a")];
    volumes "persistentvolume-binder-controller" [] [] vec![volume("v", "Retain"), claim("c")],
        [|s, _| remove(s, "persistentvolumeclaims", "c")];
    recycled_volumes "persistentvolume-binder-controller" []
        ["--pv-recycler-pod-template-filepath-hostpath=KEYS/recycler.yaml"] vec![volume("v", "Recycle"), claim("c")],
        [|s, _| remove(s, "persistentvolumeclaims", "c")];
    made_paths "persistentvolume-binder-controller" [] ["--enable-hostpath-provisioner"] storage::asked_path(),
        [|s, _| remove(s, "persistentvolumeclaims", "c")];
    protected_claims "persistentvolumeclaim-protection-controller" [] [] vec![claim("c")],
        [|s, _| remove(s, "persistentvolumeclaims", "c")];
    unused_claims "persistentvolumeclaim-protection-controller" []
        ["--feature-gates=PersistentVolumeClaimUnusedSinceTime=true"] vec![claim("c"), claim("free"), storage::waiting("user", "c")],
        [|s, _| remove(s, "pods", "user"), |s, now| seed(s, storage::waiting("other", "free"), now)];
    protected_volumes "persistentvolume-protection-controller" [] [] vec![volume("v", "Retain")],
        [|s, _| remove(s, "persistentvolumes", "v")];
    accounts "serviceaccount-controller" [] [] vec![namespace("d")], [|s, _| remove(s, "serviceaccounts", "default")];
    finished_jobs "ttl-after-finished-controller" [] [] vec![finished_job()], [];
    lost_pods "pod-garbage-collector-controller" [] [] vec![node("n1"), lost_pod(), backend("a", 1)], [];
    aggregated_roles "clusterrole-aggregation-controller" [] [] vec![role("all", &[], true), role("one", &["pods"], false)],
        [|s, now| seed(s, role("two", &["nodes"], false), now)];
    node_ttls "ttl-controller" [] [] vec![node("n1"), node("n2")], [];
    node_ranges "node-ipam-controller" [] ["--allocate-node-cidrs", "--cluster-cidr=10.4.0.0/16"]
        vec![node("n1")], [|s, now| seed(s, node("n2"), now)];
    silent_nodes "node-lifecycle-controller" [] [] vec![node("n1"), backend("a", 1)], [];
    evicted_pods "taint-eviction-controller" [] [] vec![node("n1"), backend("a", 1), tolerant()],
        [|s, _| edit(s, "nodes", "n1", |node| node["spec"]["taints"] = json!([{"key": "k", "effect": "NoExecute"}]))];
    service_ranges "service-cidr-controller" [] [] vec![range("kubernetes"), range("more")],
        [|s, _| remove(s, "servicecidrs", "more")];
    old_requests "certificatesigningrequest-cleaner-controller" [] [] vec![old_request()], [];
    own_claims "ephemeral-volume-controller" [] [] vec![ephemeral()], [];
    expired_tokens "token-cleaner-controller" [] [] vec![token()], [];
    autoscalers "horizontal-pod-autoscaler-controller" ["replicaset-controller"] [] vec![autoscaler(), busy()],
        [|s, _| edit(s, "replicasets", "web", |set| set["metadata"]["annotations"] = json!({"load": "200m"}))];
    token_secrets "serviceaccount-token-controller" [] ["--service-account-private-key-file=KEYS/ca.key"]
        vec![keys::account(), keys::token_secret("unused", false), keys::token_secret("other", false)],
        [|s, _| remove(s, "secrets", "unused"), |s, _| remove(s, "serviceaccounts", "default")];
    unused_tokens "legacy-serviceaccount-token-cleaner-controller" [] []
        vec![keys::tracked(), keys::account(), keys::token_secret("unused", true), keys::marked_secret()], [];
    signed_information "bootstrap-signer-controller" [] [] vec![keys::information(), keys::signing_token("abcdef")],
        [|s, now| seed(s, keys::signing_token("fedcba"), now)];
    root_certificates "root-ca-certificate-publisher-controller" [] ["--root-ca-file=KEYS/ca.crt"] vec![namespace("d")],
        [|s, now| seed(s, namespace("e"), now), |s, _| remove(s, "configmaps", "kube-root-ca.crt")];
    certificates_of_services "service-ca-certificate-publisher-controller" [] [] vec![namespace("d")],
        [|s, now| seed(s, namespace("e"), now), |s, _| remove(s, "configmaps", "openshift-service-ca.crt")];
    tainted_devices "device-taint-eviction-controller" [] []
        vec![node("n1"), devices::tainted_slice(), devices::claim("c", "a", 0), devices::claim("d", "b", 60),
            devices::user("a", "c"), devices::user("b", "d")], [];
    devices_of_rules "device-taint-eviction-controller" [] ["--feature-gates=DRADeviceTaintRules=true"]
        vec![node("n1"), devices::claim("c", "a", 0), devices::claim("d", "b", 60), devices::user("a", "c"), devices::user("b", "d"),
            devices::rule("idle", "e.io", "None"), devices::rule("apart", "d.io", "NoSchedule")],
        [|s, now| seed(s, devices::rule("away", "d.io", "NoExecute"), now),
            // How many pods went is known to the process alone that drove them away.
            |s, _| remove(s, "devicetaintrules", "away")];
    approved_requests "certificatesigningrequest-signing-controller" [] ["--cluster-signing-cert-file=KEYS/ca.crt", "--cluster-signing-key-file=KEYS/ca.key"]
        vec![keys::approved_request()], [];
    own_requests "certificatesigningrequest-approving-controller" [] [] vec![keys::own_request()], [];
    protected_classes "volumeattributesclass-protection-controller" [] [] storage::classified(),
        [|s, _| remove(s, "volumeattributesclasses", "fast"), |s, _| remove(s, "persistentvolumeclaims", "c")];
    small_volumes "persistentvolume-expander-controller" [] [] storage::small_volume(), [];
    attached_volumes "persistentvolume-attach-detach-controller" [] [] storage::used_volume(),
        [|s, _| remove(s, "pods", "user")];
    attached_disks "persistentvolume-attach-detach-controller" [] [] storage::used_disks(),
        [|s, _| remove(s, "pods", "user")];
    device_claims "resourceclaim-controller" [] [] vec![devices::template(), devices::asking(), devices::claim("c", "a", 0),
        devices::user("a", "c")], [|s, _| remove(s, "pods", "a")];
    device_claims_of_groups "resourceclaim-controller" [] ["--feature-gates=GenericWorkload=true,DRAWorkloadResourceClaims=true"]
        vec![devices::template(), groups::sharing("all"), groups::sharer("a", "all"), groups::sharer("b", "all")],
        [|s, now| seed(s, groups::sharer("c", "all"), now), |s, _| remove(s, "pods", "a")];
    trust_bundles "kube-apiserver-serving-clustertrustbundle-publisher-controller" []
        ["--root-ca-file=KEYS/ca.crt", "--feature-gates=ClusterTrustBundle=true"] vec![keys::old_bundle()],
        [|s, _| remove_bundles(s)];
    old_pod_requests "podcertificaterequest-cleaner-controller" [] ["--feature-gates=PodCertificateRequest=true"]
        vec![keys::pod_request("old", "2026-03-02T11:30:00Z"), keys::pod_request("new", "2026-03-02T11:59:00Z")], [];
    checked_policies "validatingadmissionpolicy-status-controller" [] [] vec![policy("object.spec.none > 1")],
        [|s, _| edit(s, "validatingadmissionpolicies", "p", |p| p["spec"] = policy("object.spec.replicas > 1")["spec"].clone())];
    pod_groups "podgroup-protection-controller" [] ["--feature-gates=GenericWorkload=true"]
        vec![groups::group("all"), groups::member("a", "all"), groups::member("b", "all"), groups::group("none")],
        [|s, _| remove(s, "podgroups", "all"), |s, _| remove(s, "podgroups", "none"),
            |s, _| edit_status(s, "pods", "a", |pod| pod["status"]["phase"] = "Succeeded".into()), |s, _| remove(s, "pods", "b")];
    asked_pools "resourcepoolstatusrequest-controller" [] ["--feature-gates=DRAResourcePoolStatus=true"]
        vec![devices::tainted_slice(), devices::claim("c", "a", 0), devices::asked_pools("new"),
            devices::answered_pools()], [|s, now| seed(s, devices::asked_pools("late"), now)];
    storage_versions "storageversion-garbage-collector-controller" [] ["--feature-gates=StorageVersionAPI=true"]
        vec![versions::server("stays"), versions::server("goes"), versions::stored("both", &["stays", "goes"]),
            versions::stored("one", &["goes"]), versions::stored("lost", &["stays", "lost"])],
        [|s, _| versions::end(s, "goes")];
    migrations "storage-version-migrator-controller" [] ["--feature-gates=StorageVersionMigrator=true"]
        vec![versions::definition(), deployment(), versions::migration("first", "deployments"),
            versions::migration("second", "deployments"), versions::migration("unserved", "things")], [];
}

#[test]
fn every_controller_is_covered_or_named() {
    for controller in controller_manager::controllers::ALL {
        let (covered, named) = (COVERED.contains(&controller.name), WITHOUT.contains(&controller.name));
        assert!(covered != named, "{} is covered: {covered}, named: {named}", controller.name);
    }
}

/// A job that ends kills pods that an old view shows running: how many finished ones are left depends on it.
fn except(controller: &str) -> &'static [&'static str] {
    if controller == "job-controller" { &["pods"] } else { &[] }
}

/// One that looks once a day does so again before it is taken to be done.
fn quiet(controller: &str) -> Duration {
    let daily = controller == "legacy-serviceaccount-token-cleaner-controller";
    if daily { Duration::from_secs(25 * 3600) } else { QUIET }
}

/// Controllers without a scenario: this one writes nothing but events.
const WITHOUT: &[&str] = &["selinux-warning-controller"];

// === What there is ===

fn template(labels: &Value) -> Value {
    json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i:1"}],
        "restartPolicy": "Always"}})
}

fn set(version: &str, kind: &str, replicas: i32) -> Value {
    let labels = json!({"app": "web"});
    let mut out = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "web", "labels": labels},
        "spec": {"selector": {"matchLabels": labels}, "template": template(&labels)}});
    let spec = &mut out["spec"];
    match kind {
        "DaemonSet" => {
            spec["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate":
            {"maxUnavailable": 1, "maxSurge": 0}})
        }
        "StatefulSet" => {
            spec["serviceName"] = "web".into();
            spec["podManagementPolicy"] = "OrderedReady".into();
            spec["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}});
        }
        _ => {}
    }
    if kind != "DaemonSet" {
        spec["replicas"] = replicas.into();
    }
    if kind == "DaemonSet" || kind == "StatefulSet" {
        spec["revisionHistoryLimit"] = 10.into();
    }
    out
}

/// A set whose claims go with what is no longer wanted.
fn set_with_claims() -> Value {
    let mut out = set("apps/v1", "StatefulSet", 2);
    let spec = &mut out["spec"];
    spec["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}}]);
    spec["persistentVolumeClaimRetentionPolicy"] = json!({"whenScaled": "Delete", "whenDeleted": "Delete"});
    out
}

fn orphan() -> Value {
    json!({"kind": "Pod", "metadata": {"name": "orphan", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

fn controller(replicas: i32) -> Value {
    let labels = json!({"app": "web"});
    json!({"kind": "ReplicationController", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": labels, "template": template(&labels)}})
}

fn deployment() -> Value {
    let mut out = set("apps/v1", "Deployment", 2);
    let spec = &mut out["spec"];
    spec["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    spec["revisionHistoryLimit"] = 1.into();
    spec["progressDeadlineSeconds"] = 600.into();
    out
}

fn node(name: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "allocatable": {"cpu": "4", "memory": "4Gi", "pods": "110"}}})
}

fn job(name: &str, spec: Value, ends: &str) -> Value {
    let mut labels = json!({"batch.kubernetes.io/controller-uid": name});
    if ends != "never" {
        labels["ends"] = ends.into();
    }
    let mut all = json!({"completions": 1, "parallelism": 2, "backoffLimit": 6, "completionMode": "NonIndexed",
        "suspend": false, "podReplacementPolicy": "TerminatingOrFailed",
        "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": name}}, "template": template(&labels)});
    all["template"]["spec"]["restartPolicy"] = "Never".into();
    for (field, value) in spec.as_object().into_iter().flatten() {
        all[field] = value.clone();
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": all})
}

fn cronjob() -> Value {
    let job = job("hourly", json!({}), "well");
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "hourly"}, "spec": {
        "schedule": "0 * * * *", "timeZone": "Etc/UTC", "concurrencyPolicy": "Forbid", "suspend": false,
        "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
        "jobTemplate": {"metadata": {}, "spec": job["spec"]}}})
}

fn service() -> Value {
    json!({"kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "type": "ClusterIP",
        "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}})
}

fn bare_service() -> Value {
    let mut out = service();
    out["spec"].as_object_mut().map(|spec| spec.remove("selector"));
    out
}

fn endpoints(last: u8) -> Value {
    json!({"kind": "Endpoints", "metadata": {"name": "web"}, "subsets": [{
        "addresses": [{"ip": format!("10.3.0.{last}")}], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}]})
}

/// A pod with an address behind the service.
fn backend(name: &str, last: u8) -> Value {
    let address = format!("10.2.0.{last}");
    json!({"kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i:1"}]},
        "status": {"podIP": address, "podIPs": [{"ip": address}]}})
}

fn budget() -> Value {
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}})
}

fn namespace(name: &str) -> Value {
    json!({"kind": "Namespace", "metadata": {"name": name}, "status": {"phase": "Active"}})
}

fn config(name: &str, owners: Value) -> Value {
    json!({"kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": owners}})
}

/// The object in another namespace.
fn elsewhere(mut object: Value) -> Value {
    object["metadata"]["namespace"] = "e".into();
    object
}

/// Owners that go in each of the ways there are, and one that is not there.
fn garbage_there() -> Vec<Value> {
    let owner = |name: &str| {
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": name,
        "uid": format!("uid-{name}-"), "blockOwnerDeletion": true}])
    };
    let mut out = vec![config("absent-child", owner("absent"))];
    for name in ["front", "orphaning"] {
        let mut one = config(name, json!([]));
        one["metadata"]["uid"] = format!("uid-{name}-").into();
        out.push(one);
        out.push(config(&format!("{name}-child"), owner(name)));
    }
    out
}

fn quota() -> Value {
    json!({"kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "5", "configmaps": "10"}}})
}

fn volume(name: &str, policy: &str) -> Value {
    json!({"kind": "PersistentVolume", "metadata": {"name": name}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": policy, "volumeMode": "Filesystem",
        "hostPath": {"path": "/x"}}, "status": {"phase": "Pending"}})
}

fn claim(name: &str) -> Value {
    json!({"kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "", "volumeMode": "Filesystem"},
        "status": {"phase": "Pending"}})
}

fn finished_job() -> Value {
    let mut out = job("done", json!({"ttlSecondsAfterFinished": 60}), "never");
    out["status"] = json!({"completionTime": "2026-03-02T11:59:00Z", "conditions": [{"type": "Complete",
        "status": "True", "lastTransitionTime": "2026-03-02T11:59:00Z"}]});
    out
}

fn lost_pod() -> Value {
    let mut out = backend("lost", 9);
    out["spec"]["nodeName"] = "gone".into();
    out["status"]["phase"] = "Running".into();
    out
}

/// A role that has the rules of others, or one of the others.
fn role(name: &str, resources: &[&str], aggregates: bool) -> Value {
    let mut out = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name}, "rules": []});
    if aggregates {
        out["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]});
    } else {
        out["metadata"]["labels"] = json!({"to": "all"});
        out["rules"] = json!([{"apiGroups": [""], "resources": resources, "verbs": ["get"]}]);
    }
    out
}

fn tolerant() -> Value {
    let mut out = backend("tolerant", 7);
    out["spec"]["tolerations"] =
        json!([{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]);
    out
}

fn range(name: &str) -> Value {
    let cidr = if name == "kubernetes" { "10.0.0.0/24" } else { "10.5.0.0/24" };
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
        "spec": {"cidrs": [cidr]}})
}

fn old_request() -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "old",
        "creationTimestamp": "2026-02-01T00:00:00Z"}, "spec": {"request": "", "signerName": "example.com/own"}})
}

fn ephemeral() -> Value {
    let mut out = backend("scratch", 8);
    out["spec"]["volumes"] = json!([{"name": "own", "ephemeral": {"volumeClaimTemplate": {"spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}]);
    out
}

fn token() -> Value {
    json!({"kind": "Secret", "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        // 2026-03-02T12:01:00Z
        "data": {"expiration": "MjAyNi0wMy0wMlQxMjowMTowMFo="}})
}

/// An autoscaler of a replica set, whose pods share a load.
fn autoscaler() -> Value {
    json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web"},
        "minReplicas": 1, "maxReplicas": 5, "metrics": [{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 100}}}]}})
}

fn busy() -> Value {
    let mut out = set("apps/v1", "ReplicaSet", 1);
    out["metadata"]["annotations"] = json!({"load": "300m"});
    out["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    out
}

fn policy(expression: &str) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"},
        "spec": {"matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
            "operations": ["CREATE"], "resources": ["deployments"]}]}, "validations": [{"expression": expression}]}})
}

// === What happens ===

fn remove(store: &mut Store, resource: &str, name: &str) {
    store.delete(&key(resource, name), None, true, "2026-03-02T13:00:00Z").unwrap();
}

fn remove_with(store: &mut Store, resource: &str, name: &str, policy: &str, now: &str) {
    store.delete(&key(resource, name), Some(policy), true, now).unwrap();
}

fn remove_bundles(store: &mut Store) {
    let bundles = store.all().map(|(key, _)| key).filter(|key| key.resource.plural == "clustertrustbundles");
    for key in bundles.cloned().collect::<Vec<_>>() {
        store.delete(&key, None, true, "2026-03-02T13:00:00Z").unwrap();
    }
}

fn unready(store: &mut Store, name: &str) {
    let key = key("pods", name);
    let mut next = store.get(&key).unwrap().clone();
    next["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    store.replace(&key, Part::Status, next).unwrap();
}

fn readdress(store: &mut Store, last: u8) {
    edit(store, "endpoints", "web", |object| object["subsets"] = endpoints(last)["subsets"].clone());
}

fn key(resource: &str, name: &str) -> Key {
    let resource = RESOURCES.iter().find(|r| r.plural == resource).unwrap();
    let namespace = if resource.namespaced { "d" } else { "" };
    Key { resource, namespace: namespace.to_owned(), name: name.to_owned() }
}

fn edit(store: &mut Store, resource: &str, name: &str, change: impl FnOnce(&mut Value)) {
    let key = key(resource, name);
    let mut next = store.get(&key).unwrap().clone();
    change(&mut next);
    store.replace(&key, Part::Main, next).unwrap();
}

fn edit_status(store: &mut Store, resource: &str, name: &str, change: impl FnOnce(&mut Value)) {
    let key = key(resource, name);
    let mut next = store.get(&key).unwrap().clone();
    change(&mut next);
    store.replace(&key, Part::Status, next).unwrap();
}

fn scale(store: &mut Store, resource: &str, replicas: i32) {
    edit(store, resource, "web", |object| object["spec"]["replicas"] = replicas.into());
}

/// Another version of the template.
fn renew(store: &mut Store, resource: &str) {
    let image = "/spec/template/spec/containers/0/image";
    edit(store, resource, "web", |object| *object.pointer_mut(image).unwrap() = "i:2".into());
}
