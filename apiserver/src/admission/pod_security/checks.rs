//! The controls of the Pod Security Standards, one function each, in the order messages list them.

use serde_json::Value;

use super::{Level, Version};

/// Reasons of one control, or none.
type Check = fn(&Pod<'_>) -> Option<String>;

/// A control and when it counts.
struct Control {
    from: Level,
    until: Level,
    /// The minor release it came with.
    since: u16,
    check: Check,
}

/// A control of the baseline level and above.
const fn baseline(since: u16, check: Check) -> Control {
    Control { from: Level::Baseline, until: Level::Restricted, since, check }
}

/// A control of the restricted level.
const fn restricted(since: u16, check: Check) -> Control {
    Control { from: Level::Restricted, until: Level::Restricted, since, check }
}

/// Controls of baseline whose place a stricter one takes at the restricted level are told apart inside.
const CHECKS: [Control; 16] = [
    restricted(8, privilege_escalation),
    baseline(0, app_armor),
    baseline(0, capabilities),
    baseline(0, host_namespaces),
    Control { from: Level::Baseline, until: Level::Baseline, since: 0, check: host_path },
    baseline(0, host_ports),
    baseline(34, probe_hosts),
    baseline(0, privileged),
    baseline(0, proc_mount),
    restricted(0, volume_types),
    restricted(0, run_as_non_root),
    restricted(23, run_as_user),
    baseline(0, se_linux),
    baseline(19, seccomp),
    baseline(0, sysctls),
    baseline(0, host_process),
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
/// Sysctls that change only the pod, and the minor release they are safe since.
const SAFE_SYSCTLS: [(&str, u16); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];
const SE_LINUX_TYPES: [&str; 4] = ["", "container_t", "container_init_t", "container_kvm_t"];
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
    level: Level,
    version: Version,
    /// Whether it says that it is for Windows, in a release that listens to that.
    windows: bool,
    /// Whether root inside is nobody outside, in a release that cares.
    own_users: bool,
}

/// Violations of a pod's spec at a level, by the rules of a release.
pub(super) fn run(spec: &Value, level: Level, version: Version) -> Vec<String> {
    if level == Level::Privileged {
        return Vec::new();
    }
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let containers = lists.iter().filter_map(|l| spec.get(l)?.as_array()).flatten().collect();
    let windows = spec.pointer("/os/name").and_then(Value::as_str) == Some("windows");
    let own_users = spec.pointer("/hostUsers") == Some(&Value::Bool(false));
    let pod = Pod {
        spec,
        containers,
        level,
        version,
        windows: windows && version >= Version::Minor(25),
        own_users: own_users && version >= Version::Minor(35),
    };
    let counts = |control: &&Control| {
        (control.from..=control.until).contains(&level) && version >= Version::Minor(control.since)
    };
    CHECKS.iter().filter(counts).filter_map(|control| (control.check)(&pod)).collect()
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

fn capabilities(pod: &Pod<'_>) -> Option<String> {
    match pod.level == Level::Restricted && pod.version >= Version::Minor(22) {
        true => capabilities_restricted(pod),
        false => capabilities_baseline(pod),
    }
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
    let word = if all.len() == 1 { "host" } else { "hosts" };
    Some(format!("probe or lifecycle host ({who} {verb} probe or lifecycle {word} {})", all.join(", ")))
}

fn privileged(pod: &Pod<'_>) -> Option<String> {
    let who = pod.which(|c| is_true(c, "/securityContext/privileged"))?;
    Some(format!("privileged ({who} must not set securityContext.privileged=true)"))
}

fn proc_mount(pod: &Pod<'_>) -> Option<String> {
    if pod.level == Level::Baseline && pod.own_users {
        return None;
    }
    let kind = |c: &Value| text(c, "/securityContext/procMount").to_owned();
    let is_bad = |kind: &str| !["", "Default"].contains(&kind);
    let who = pod.which(|c| is_bad(&kind(c)))?;
    let mut kinds: Vec<String> = pod
        .containers
        .iter()
        .map(|c| kind(c))
        .filter(|kind| is_bad(kind))
        .map(|k| format!("{k:?}"))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    Some(format!("procMount ({who} must not set securityContext.procMount to {})", kinds.join(", ")))
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
    if pod.own_users {
        return None;
    }
    let denied = |v: &Value| v.pointer(FIELD) == Some(&Value::Bool(false));
    let mut who: Vec<String> = denied(pod.spec).then(|| "pod".to_owned()).into_iter().collect();
    who.extend(pod.which(denied));
    if !who.is_empty() {
        let who = who.join(" and ");
        return Some(format!("runAsNonRoot != true ({who} must not set securityContext.runAsNonRoot=false)"));
    }
    if is_true(pod.spec, FIELD) {
        return None;
    }
    let who = pod.which(|c| !is_true(c, FIELD))?;
    Some(format!("runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"))
}

fn run_as_user(pod: &Pod<'_>) -> Option<String> {
    if pod.own_users {
        return None;
    }
    let root = |v: &Value| v.pointer("/securityContext/runAsUser").and_then(Value::as_i64) == Some(0);
    let mut who: Vec<String> = root(pod.spec).then(|| "pod".to_owned()).into_iter().collect();
    who.extend(pod.which(root));
    (!who.is_empty()).then(|| format!("runAsUser=0 ({} must not set runAsUser=0)", who.join(" and ")))
}

fn se_linux(pod: &Pod<'_>) -> Option<String> {
    const OPTIONS: &str = "/securityContext/seLinuxOptions";
    let good = |kind: &str| {
        SE_LINUX_TYPES.contains(&kind) || (kind == "container_engine_t" && pod.version >= Version::Minor(31))
    };
    let bad = |v: &Value| {
        !good(text(v, &format!("{OPTIONS}/type")))
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

fn seccomp(pod: &Pod<'_>) -> Option<String> {
    match pod.level {
        Level::Restricted => seccomp_restricted(pod),
        _ => seccomp_baseline(pod),
    }
}

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
    let safe = |name: &str| {
        SAFE_SYSCTLS.iter().any(|(safe, since)| *safe == name && pod.version >= Version::Minor(*since))
    };
    let bad: Vec<&str> = names.filter(|name| !safe(name)).collect();
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
