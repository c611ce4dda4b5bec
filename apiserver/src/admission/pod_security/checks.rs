//! The controls of the Pod Security Standards, one function each, in the order messages list them.

use serde_json::Value;

use super::Level;

/// Reasons of one control, or none.
type Check = fn(&Pod<'_>) -> Option<String>;

/// From which level on a control counts, and until which one (a stricter one takes its place).
const CHECKS: [(Level, Level, Check); 18] = [
    (Level::Restricted, Level::Restricted, privilege_escalation),
    (Level::Baseline, Level::Restricted, app_armor),
    (Level::Baseline, Level::Baseline, capabilities_baseline),
    (Level::Restricted, Level::Restricted, capabilities_restricted),
    (Level::Baseline, Level::Restricted, host_namespaces),
    (Level::Baseline, Level::Baseline, host_path),
    (Level::Baseline, Level::Restricted, host_ports),
    (Level::Baseline, Level::Restricted, probe_hosts),
    (Level::Baseline, Level::Restricted, privileged),
    (Level::Baseline, Level::Restricted, proc_mount),
    (Level::Restricted, Level::Restricted, volume_types),
    (Level::Restricted, Level::Restricted, run_as_non_root),
    (Level::Restricted, Level::Restricted, run_as_user),
    (Level::Baseline, Level::Restricted, se_linux),
    (Level::Baseline, Level::Baseline, seccomp_baseline),
    (Level::Restricted, Level::Restricted, seccomp_restricted),
    (Level::Baseline, Level::Restricted, sysctls),
    (Level::Baseline, Level::Restricted, host_process),
];

/// Capabilities runtimes give by default; these may be added.
const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Sysctls that change only the pod.
const SAFE_SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
];
const SE_LINUX_TYPES: [&str; 5] =
    ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
/// Volume types of the restricted level.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
];

struct Pod<'a> {
    spec: &'a Value,
    containers: Vec<&'a Value>,
    windows: bool,
}

/// Violations of a pod's spec at a level.
pub(super) fn run(spec: &Value, level: Level) -> Vec<String> {
    if level == Level::Privileged {
        return Vec::new();
    }
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let containers = lists.iter().filter_map(|l| spec.get(l)?.as_array()).flatten().collect();
    let windows = spec.pointer("/os/name").and_then(Value::as_str) == Some("windows");
    let pod = Pod { spec, containers, windows };
    let counting = CHECKS.iter().filter(|(from, until, _)| (*from..=*until).contains(&level));
    counting.filter_map(|(.., check)| check(&pod)).collect()
}

impl<'a> Pod<'a> {
    /// Quoted names of containers for which `bad` holds: `container "a"` or `containers "a", "b"`.
    fn which(&self, bad: impl Fn(&Value) -> bool) -> Option<String> {
        listed("container", self.containers.iter().filter(|c| bad(c)).map(|c| text(c, "/name")))
    }

    fn items(&self, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.spec.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
    }
}

fn listed<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<String> = names.map(|n| format!("{n:?}")).collect();
    match names.as_slice() {
        [] => None,
        [one] => Some(format!("{what} {one}")),
        many => Some(format!("{what}s {}", many.join(", "))),
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn is_true(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer) == Some(&Value::Bool(true))
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<String> {
    let unset =
        |c: &Value| c.pointer("/securityContext/allowPrivilegeEscalation") != Some(&Value::Bool(false));
    let who = pod.which(unset).filter(|_| !pod.windows)?;
    Some(format!(
        "allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
    ))
}

fn app_armor(pod: &Pod<'_>) -> Option<String> {
    let bad = |v: &Value| text(v, "/securityContext/appArmorProfile/type") == "Unconfined";
    let mut who: Vec<String> = bad(pod.spec).then(|| "pod".to_owned()).into_iter().collect();
    who.extend(pod.which(bad));
    (!who.is_empty()).then(|| {
        format!(
            "forbidden AppArmor profile ({} must not set AppArmor profile type to \"Unconfined\")",
            who.join(" and ")
        )
    })
}

/// Names in `capabilities.add` outside the allowed ones, with the containers that add them.
fn added(pod: &Pod<'_>, allowed: &[&str]) -> Option<String> {
    let adds = |c: &Value| -> Vec<String> {
        let list =
            c.pointer("/securityContext/capabilities/add").and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).filter(|n| !allowed.contains(n)).map(|n| format!("{n:?}")).collect()
    };
    let who = pod.which(|c| !adds(c).is_empty())?;
    let mut names: Vec<String> = pod.containers.iter().flat_map(|c| adds(c)).collect();
    names.sort_unstable();
    names.dedup();
    Some(format!("{who} must not include {} in securityContext.capabilities.add", names.join(", ")))
}

fn capabilities_baseline(pod: &Pod<'_>) -> Option<String> {
    added(pod, &DEFAULT_CAPABILITIES).map(|why| format!("non-default capabilities ({why})"))
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<String> {
    let keeps = |c: &Value| {
        let drops = c.pointer("/securityContext/capabilities/drop").and_then(Value::as_array);
        !drops.is_some_and(|d| d.iter().any(|n| n == "ALL"))
    };
    let must = |who: String| format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]");
    let reasons: Vec<String> =
        pod.which(keeps).map(must).into_iter().chain(added(pod, &["NET_BIND_SERVICE"])).collect();
    (!reasons.is_empty() && !pod.windows)
        .then(|| format!("unrestricted capabilities ({})", reasons.join("; ")))
}

fn host_namespaces(pod: &Pod<'_>) -> Option<String> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].iter().filter(|f| is_true(pod.spec, &format!("/{f}")));
    let shared: Vec<String> = shared.map(|f| format!("{f}=true")).collect();
    (!shared.is_empty()).then(|| format!("host namespaces ({})", shared.join(", ")))
}

fn host_path(pod: &Pod<'_>) -> Option<String> {
    let volumes = pod.items("/volumes").filter(|v| v.get("hostPath").is_some()).map(|v| text(v, "/name"));
    listed("volume", volumes).map(|who| format!("hostPath volumes ({who})"))
}

fn host_ports(pod: &Pod<'_>) -> Option<String> {
    let ports = |c: &Value| -> Vec<u64> {
        let list = c.get("ports").and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|p| p.get("hostPort")?.as_u64()).filter(|p| *p != 0).collect()
    };
    let who = pod.which(|c| !ports(c).is_empty())?;
    let mut all: Vec<u64> = pod.containers.iter().flat_map(|c| ports(c)).collect();
    all.sort_unstable();
    all.dedup();
    let (verb, word) = (
        if who.starts_with("containers") { "use" } else { "uses" },
        if all.len() == 1 { "hostPort" } else { "hostPorts" },
    );
    let all: Vec<String> = all.iter().map(u64::to_string).collect();
    Some(format!("hostPort ({who} {verb} {word} {})", all.join(", ")))
}

fn probe_hosts(pod: &Pod<'_>) -> Option<String> {
    let places = [
        "/livenessProbe/httpGet",
        "/livenessProbe/tcpSocket",
        "/readinessProbe/httpGet",
        "/readinessProbe/tcpSocket",
        "/startupProbe/httpGet",
        "/startupProbe/tcpSocket",
        "/lifecycle/postStart/httpGet",
        "/lifecycle/postStart/tcpSocket",
        "/lifecycle/preStop/httpGet",
        "/lifecycle/preStop/tcpSocket",
    ];
    let hosts = |c: &Value| -> Vec<String> {
        let stated = places.iter().map(|p| text(c, &format!("{p}/host"))).filter(|h| !h.is_empty());
        stated.map(|h| format!("{h:?}")).collect()
    };
    let who = pod.which(|c| !hosts(c).is_empty())?;
    let mut all: Vec<String> = pod.containers.iter().flat_map(|c| hosts(c)).collect();
    all.sort_unstable();
    all.dedup();
    let verb = if who.starts_with("containers") { "use" } else { "uses" };
    Some(format!("probe or lifecycle host ({who} {verb} probe or lifecycle host {})", all.join(", ")))
}

fn privileged(pod: &Pod<'_>) -> Option<String> {
    let who = pod.which(|c| is_true(c, "/securityContext/privileged"))?;
    Some(format!("privileged ({who} must not set securityContext.privileged=true)"))
}

fn proc_mount(pod: &Pod<'_>) -> Option<String> {
    let who = pod.which(|c| !["", "Default"].contains(&text(c, "/securityContext/procMount")))?;
    Some(format!("procMount ({who} must not set securityContext.procMount to \"Unmasked\")"))
}

fn volume_types(pod: &Pod<'_>) -> Option<String> {
    let kind = |v: &'_ Value| -> Option<String> {
        v.as_object()?.keys().find(|k| *k != "name" && !VOLUMES.contains(&k.as_str())).cloned()
    };
    let bad: Vec<(&str, String)> =
        pod.items("/volumes").filter_map(|v| Some((text(v, "/name"), kind(v)?))).collect();
    let who = listed("volume", bad.iter().map(|(name, _)| *name))?;
    let mut kinds: Vec<String> = bad.iter().map(|(_, k)| format!("{k:?}")).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let verb = if bad.len() == 1 { "uses" } else { "use" };
    let word = if kinds.len() == 1 { "type" } else { "types" };
    Some(format!("restricted volume types ({who} {verb} restricted volume {word} {})", kinds.join(", ")))
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<String> {
    const FIELD: &str = "/securityContext/runAsNonRoot";
    let pod_wide = pod.spec.pointer(FIELD).and_then(Value::as_bool);
    if is_true(pod.spec, "/hostUsers") || pod.spec.pointer("/hostUsers") != Some(&Value::Bool(false)) {
        let denied = pod.which(|c| c.pointer(FIELD) == Some(&Value::Bool(false)));
        if let Some(who) = denied {
            return Some(format!(
                "runAsNonRoot != true ({who} must not set securityContext.runAsNonRoot=false)"
            ));
        }
        if pod_wide == Some(true) {
            return None;
        }
        if pod_wide == Some(false) {
            return Some(
                "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)".to_owned(),
            );
        }
        let who = pod.which(|c| !is_true(c, FIELD))?;
        return Some(format!(
            "runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"
        ));
    }
    // In a user namespace of its own, root inside is nobody outside.
    None
}

fn run_as_user(pod: &Pod<'_>) -> Option<String> {
    if pod.spec.pointer("/hostUsers") == Some(&Value::Bool(false)) {
        return None;
    }
    let root = |v: &Value| v.pointer("/securityContext/runAsUser").and_then(Value::as_i64) == Some(0);
    let mut who: Vec<String> = root(pod.spec).then(|| "pod".to_owned()).into_iter().collect();
    who.extend(pod.which(root));
    (!who.is_empty()).then(|| format!("runAsUser=0 ({} must not set runAsUser=0)", who.join(" and ")))
}

fn se_linux(pod: &Pod<'_>) -> Option<String> {
    const OPTIONS: &str = "/securityContext/seLinuxOptions";
    let bad = |v: &Value| {
        !SE_LINUX_TYPES.contains(&text(v, &format!("{OPTIONS}/type")))
            || !text(v, &format!("{OPTIONS}/user")).is_empty()
            || !text(v, &format!("{OPTIONS}/role")).is_empty()
    };
    let mut who: Vec<String> = bad(pod.spec).then(|| "pod".to_owned()).into_iter().collect();
    who.extend(pod.which(bad));
    (!who.is_empty()).then(|| {
        format!("seLinuxOptions ({} set forbidden securityContext.seLinuxOptions)", who.join(" and "))
    })
}

const SECCOMP: &str = "/securityContext/seccompProfile/type";

fn seccomp_baseline(pod: &Pod<'_>) -> Option<String> {
    let bad = |v: &Value| text(v, SECCOMP) == "Unconfined";
    let mut who: Vec<String> = bad(pod.spec).then(|| "pod".to_owned()).into_iter().collect();
    who.extend(pod.which(bad));
    (!who.is_empty()).then(|| {
        format!(
            "seccompProfile ({} must not set securityContext.seccompProfile.type to \"Unconfined\")",
            who.join(" and ")
        )
    })
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<String> {
    if pod.windows {
        return None;
    }
    if let Some(bad) = seccomp_baseline(pod) {
        return Some(bad);
    }
    let good = |v: &Value| ["RuntimeDefault", "Localhost"].contains(&text(v, SECCOMP));
    if good(pod.spec) {
        return None;
    }
    let who = pod.which(|c| !good(c))?;
    Some(format!(
        "seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    ))
}

fn sysctls(pod: &Pod<'_>) -> Option<String> {
    let names = pod.items("/securityContext/sysctls").map(|s| text(s, "/name"));
    let bad: Vec<&str> = names.filter(|n| !SAFE_SYSCTLS.contains(n)).collect();
    (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
}

fn host_process(pod: &Pod<'_>) -> Option<String> {
    let bad = |v: &Value| is_true(v, "/securityContext/windowsOptions/hostProcess");
    let mut who: Vec<String> = bad(pod.spec).then(|| "pod".to_owned()).into_iter().collect();
    who.extend(pod.which(bad));
    (!who.is_empty()).then(|| {
        format!(
            "hostProcess ({} must not set securityContext.windowsOptions.hostProcess=true)",
            who.join(" and ")
        )
    })
}
