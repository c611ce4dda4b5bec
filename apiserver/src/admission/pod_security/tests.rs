//! What each level refuses, one control at a time.

use serde_json::json;

use super::{
    super::{
        config::Configurations,
        testing::{Write, configured_over},
    },
    *,
};
use crate::{
    auth::User,
    objects::{Kind, memory::Memory},
};

fn cluster() -> Arc<Memory> {
    let namespace =
        |name: &str, labels: Value| (NAMESPACES, json!({"metadata": {"name": name, "labels": labels}}));
    Memory::with(vec![
        namespace("open", json!({})),
        namespace("base", json!({"pod-security.kubernetes.io/enforce": "baseline"})),
        namespace(
            "strict",
            json!({"pod-security.kubernetes.io/enforce": "restricted",
            "pod-security.kubernetes.io/enforce-version": "v1.30"}),
        ),
    ])
}

fn pod(namespace: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": "p"}, "spec": spec})
}

/// A pod that satisfies every control, changed at one place.
fn restricted(change: impl Fn(&mut Value)) -> Value {
    let mut spec = json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}}}]});
    change(&mut spec);
    spec
}

#[tokio::test]
async fn levels_refuse_what_they_say() {
    let objects = cluster();
    type Change = fn(&mut Value);
    // Change, refused by baseline, refused by restricted.
    let cases: [(&str, Change, bool, bool); 18] = [
        ("nothing", |_| {}, false, false),
        ("privileged", |s| s["containers"][0]["securityContext"]["privileged"] = json!(true), true, true),
        ("host network", |s| s["hostNetwork"] = json!(true), true, true),
        ("host path", |s| s["volumes"] = json!([{"name": "v", "hostPath": {}}]), true, true),
        ("nfs", |s| s["volumes"] = json!([{"name": "v", "nfs": {}}]), false, true),
        ("empty dir", |s| s["volumes"] = json!([{"name": "v", "emptyDir": {}}]), false, false),
        ("host port", |s| s["containers"][0]["ports"] = json!([{"hostPort": 80}]), true, true),
        ("sysctl", |s| s["securityContext"]["sysctls"] = json!([{"name": "kernel.msgmax"}]), true, true),
        (
            "safe sysctl",
            |s| s["securityContext"]["sysctls"] = json!([{"name": "net.ipv4.tcp_syncookies"}]),
            false,
            false,
        ),
        ("unmasked", |s| s["containers"][0]["securityContext"]["procMount"] = json!("Unmasked"), true, true),
        ("unconfined", |s| s["securityContext"]["seccompProfile"]["type"] = json!("Unconfined"), true, true),
        ("no seccomp", |s| s["securityContext"]["seccompProfile"] = json!({}), false, true),
        ("root", |s| s["securityContext"]["runAsUser"] = json!(0), false, true),
        ("maybe root", |s| s["securityContext"]["runAsNonRoot"] = json!(null), false, true),
        (
            "sys admin",
            |s| s["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["SYS_ADMIN"]),
            true,
            true,
        ),
        (
            "chown",
            |s| s["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["CHOWN"]),
            false,
            true,
        ),
        ("selinux", |s| s["securityContext"]["seLinuxOptions"] = json!({"type": "spc_t"}), true, true),
        (
            "init",
            |s| s["initContainers"] = json!([{"name": "i", "securityContext": {"privileged": true}}]),
            true,
            true,
        ),
    ];
    for (what, change, base, strict) in cases {
        for (namespace, refused) in [("open", false), ("base", base), ("strict", strict)] {
            let write = Write::create(PODS, pod(namespace, restricted(change)));
            let got = write.run(&objects, &[NAME]).await;
            assert_eq!(got.is_err(), refused, "{what} in {namespace}: {got:?}");
        }
    }
}

#[tokio::test]
async fn messages_list_the_reasons() {
    let bare = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let refused = Write::create(PODS, pod("strict", bare)).run(&cluster(), &[NAME]).await.unwrap_err();
    assert_eq!(
        refused.message,
        "pods \"p\" is forbidden: violates PodSecurity \"restricted:v1.30\": allowPrivilegeEscalation != false (containers \
         \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers \
         \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or containers \
         \"a\", \"b\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or containers \"a\", \"b\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
}

#[tokio::test]
async fn updates_that_leave_the_spec_alone_pass_and_labels_are_checked() {
    let objects = cluster();
    let old = pod("base", json!({"hostPID": true}));
    assert!(Write::update(PODS, old.clone(), old).run(&objects, &[NAME]).await.is_ok());
    let deployment = Kind { group: "apps", resource: "deployments" };
    let template = json!({"metadata": {"namespace": "base", "name": "d"}, "spec": {"template": {"spec": {"hostPID": true}}}});
    assert!(
        Write::create(deployment, template).run(&objects, &[NAME]).await.is_ok(),
        "only pods are refused"
    );
    for (label, value, ok) in [
        ("enforce", "baseline", true),
        ("warn", "strict", false),
        ("audit-version", "latest", true),
        ("enforce-version", "1.30", false),
    ] {
        let labels = json!({format!("{LABEL}{label}"): value});
        let write = Write::create(NAMESPACES, json!({"metadata": {"name": "n", "labels": labels}}));
        assert_eq!(write.run(&objects, &[NAME]).await.is_ok(), ok, "{label}={value}");
    }
}

#[test]
fn rules_are_those_of_the_release_asked_for() {
    let refused = |minor: u16, level: Level, change: fn(&mut Value)| {
        let version = if minor == 0 { Version::Latest } else { Version::Minor(minor) };
        !checks::run(&restricted(change), level, version).is_empty()
    };
    let sysctl: fn(&mut Value) = |s| s["securityContext"]["sysctls"] = json!([{"name": "net.ipv4.tcp_rmem"}]);
    assert!(refused(31, Level::Baseline, sysctl) && !refused(32, Level::Baseline, sysctl));
    let probe: fn(&mut Value) =
        |s| s["containers"][0]["livenessProbe"] = json!({"httpGet": {"host": "h", "port": 1}});
    assert!(!refused(33, Level::Baseline, probe) && refused(34, Level::Baseline, probe));
    let root: fn(&mut Value) = |s| s["securityContext"]["runAsUser"] = json!(0);
    assert!(!refused(22, Level::Restricted, root) && refused(23, Level::Restricted, root));
    let own_users: fn(&mut Value) = |s| {
        s["securityContext"]["runAsUser"] = json!(0);
        s["hostUsers"] = json!(false);
    };
    assert!(refused(34, Level::Restricted, own_users) && !refused(0, Level::Restricted, own_users));
    let windows: fn(&mut Value) = |s| {
        s["os"] = json!({"name": "windows"});
        s["securityContext"]["seccompProfile"] = json!({});
    };
    assert!(refused(24, Level::Restricted, windows) && !refused(25, Level::Restricted, windows));
}

#[test]
fn existing_pods_are_told_by_their_reasons() {
    let of = |name: &str, spec: Value| {
        let pod = json!({"metadata": {"name": name, "namespace": "a"}, "spec": spec});
        Arc::new(Object::from_value(pod).unwrap())
    };
    let shared = json!({"hostNetwork": true, "containers": []});
    let pods = [
        of("b", shared.clone()),
        of("a", shared),
        of("c", json!({"hostPID": true, "containers": []})),
        of("d", json!({})),
    ];
    let policy = Policy { level: Level::Baseline, version: Version::Minor(30) };
    assert_eq!(
        policy.warnings("ns", &pods),
        [
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:v1.30\"",
            "a (and 2 other pods): host namespaces",
        ]
    );
}

#[tokio::test]
async fn defaults_count_where_labels_do_not_and_the_exempt_are_let_in() {
    let text = "apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\n\
        defaults: {enforce: baseline, enforce-version: v1.31}\n\
        exemptions: {usernames: [boss], namespaces: [strict], runtimeClasses: [sandbox]}\n";
    let configurations = Configurations::with(NAME, text);
    let chain = configured_over(&cluster(), &[NAME], &configurations).unwrap();
    let host =
        |class: &str| json!({"hostNetwork": true, "runtimeClassName": class, "containers": [{"name": "c"}]});
    let write = |namespace: &str, class: &str| Write::create(PODS, pod(namespace, host(class)));
    let refused = write("open", "").through_chain(&chain).await.unwrap_err();
    assert!(refused.message.contains("violates PodSecurity \"baseline:v1.31\""), "{}", refused.message);
    assert!(write("strict", "").through_chain(&chain).await.is_ok());
    assert!(write("open", "sandbox").through_chain(&chain).await.is_ok());
    let boss = User { name: "boss".to_owned(), ..User::default() };
    assert!(Write { user: boss, ..write("open", "") }.through_chain(&chain).await.is_ok());
}

#[test]
fn exempt_namespaces_are_told_what_is_ignored() {
    let settings = Settings::read(None).unwrap();
    let ignored = |labels: Value| {
        let namespace = json!({"metadata": {"name": "n", "labels": labels}});
        settings.ignored(&Object::from_value(namespace).unwrap())
    };
    assert_eq!(ignored(json!({})), None);
    let told = ignored(json!({format!("{LABEL}enforce"): "baseline", format!("{LABEL}warn"): "restricted"}));
    let want = "namespace \"n\" is exempt from Pod Security, and the policy (enforce=baseline:latest, \
        warn=restricted:latest) will be ignored";
    assert_eq!(told.as_deref(), Some(want));
}

#[test]
fn configurations_without_sense_are_refused() {
    for (fields, want) in [
        ("defaults: {enforce: strict}", "defaults.enforce: Invalid value: \"strict\""),
        ("defaults: {warn-version: '1.2'}", "defaults.warn-version: Invalid value: \"1.2\""),
        ("exemptions: {namespaces: [A]}", "exemptions.namespaces[0]: Invalid value: \"A\""),
        ("exemptions: {usernames: [a, a]}", "exemptions.usernames[1]: Duplicate value: \"a\""),
        ("exemptions: {usernames: ['']}", "exemptions.usernames[0]: Invalid value: \"\""),
    ] {
        let head = "apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\n";
        let configurations = Configurations::with(NAME, &format!("{head}{fields}\n"));
        let refused = Settings::read(configurations.of(NAME)).unwrap_err();
        assert!(refused.starts_with(want), "{refused}");
    }
}
