//! What pods and containers may do on their node: users, capabilities, profiles, sysctls, operating systems.
//!
//! Contract: core/v1 `PodSecurityContext`, `SecurityContext`; user namespaces are KEP-127.

use std::{collections::BTreeSet, sync::LazyLock};

use regex::Regex;

use super::{containers, validation::Whole};
use crate::{
    at::At,
    capabilities::{MOUNTED_LABELS, PRIVILEGED},
    field::{Error, ErrorList},
    format, shape,
};

const SYSCTL: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const SYSCTL_MAX: usize = 253;
const IPC_SYSCTLS: &[&str] = &[
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.shm",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.msg",
];

#[expect(clippy::expect_used, reason = "the patterns are constants that compile")]
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern compiles")
}

static SYSCTL_NAME: LazyLock<Regex> = LazyLock::new(|| pattern(SYSCTL));
static NETBIOS: LazyLock<Regex> = LazyLock::new(|| pattern(r#"^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$"#));
static WINDOWS_DOMAIN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$",
    )
});

/// The security context of a pod.
pub(super) fn check_pod(whole: &Whole<'_>, errors: &mut ErrorList) {
    let context = whole.spec.get("securityContext");
    if !context.is_set() {
        return;
    }
    ids(&context, &["fsGroup", "runAsUser", "runAsGroup"], errors);
    for group in context.get("supplementalGroups").items() {
        id(&group, errors);
    }
    let shared = whole.spec.get("shareProcessNamespace").named(context.path().child("shareProcessNamespace"));
    if shared.is_true() && whole.spec.get("hostPID").is_true() {
        shared.invalid(errors, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    sysctls(&context.get("sysctls"), whole, errors);
    context.get("fsGroupChangePolicy").check_option_of(errors, &["Always", "OnRootMismatch"]);
    profiles(&context, errors);
    context.get("supplementalGroupsPolicy").check_option_of(errors, &["Merge", "Strict"]);
    let mounted = whole.allowed.mounted_labels || MOUNTED_LABELS.is_allowed();
    let labels: &[&str] = if mounted { &["MountOption", "Recursive"] } else { &["Recursive"] };
    context.get("seLinuxChangePolicy").check_option_of(errors, labels);
}

/// The security context of a container.
pub(super) fn check_container(context: &At<'_>, host_users: bool, errors: &mut ErrorList) {
    if !context.is_set() {
        return;
    }
    if context.get("privileged").is_true() && !PRIVILEGED.is_allowed() {
        context.get("privileged").forbidden(errors, "disallowed by cluster policy");
    }
    ids(context, &["runAsUser", "runAsGroup"], errors);
    let proc = context.get("procMount");
    if proc.is_set() {
        if !["Default", "Unmasked"].contains(&proc.text()) {
            proc.not_among(errors, &["Default", "Unmasked"]);
        }
        if host_users && proc.text() == "Unmasked" {
            proc.invalid(errors, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(&context.get("seccompProfile"), errors);
    if context.get("allowPrivilegeEscalation").is_false() {
        if context.get("privileged").is_true() {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            context.invalid_go(errors, &shape::SECURITY_CONTEXT, detail);
        }
        for capability in context.get("capabilities").get("add").items() {
            if capability.text() == "CAP_SYS_ADMIN" {
                let detail =
                    "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
                context.invalid_go(errors, &shape::SECURITY_CONTEXT, detail);
            }
        }
    }
    windows(&context.get("windowsOptions"), errors);
    apparmor(&context.get("appArmorProfile"), errors);
}

fn ids(context: &At<'_>, fields: &[&str], errors: &mut ErrorList) {
    for field in fields.iter().map(|field| context.get(field)).filter(At::is_set) {
        id(&field, errors);
    }
}

fn id(at: &At<'_>, errors: &mut ErrorList) {
    at.check_range(errors, 0, i64::from(i32::MAX));
}

fn profiles(context: &At<'_>, errors: &mut ErrorList) {
    seccomp(&context.get("seccompProfile"), errors);
    windows(&context.get("windowsOptions"), errors);
    apparmor(&context.get("appArmorProfile"), errors);
}

fn sysctls(sysctls: &At<'_>, whole: &Whole<'_>, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for name in sysctls.items().map(|sysctl| sysctl.get("name")) {
        let text = name.text();
        if text.is_empty() {
            name.required(errors, "");
        } else if text.len() > SYSCTL_MAX || !SYSCTL_NAME.is_match(text) {
            let detail = format!("must have at most {SYSCTL_MAX} characters and match regex {SYSCTL}");
            name.invalid(errors, detail);
        } else if names.contains(text) {
            name.duplicate(errors);
        }
        if !whole.allowed.host_sysctls
            && let Some(detail) = of_host(text, &whole.spec)
        {
            name.invalid_as(errors, text, detail);
        }
        names.insert(text);
    }
}

/// Why a pod that shares a namespace with its node may not set a sysctl.
pub(super) fn of_host(sysctl: &str, spec: &At<'_>) -> Option<&'static str> {
    let first = sysctl.find(['.', '/']).and_then(|at| sysctl.as_bytes().get(at));
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let dotted: String =
        if first == Some(&b'/') { sysctl.chars().map(swapped).collect() } else { sysctl.to_owned() };
    if dotted.starts_with("net.") && spec.get("hostNetwork").is_true() {
        Some("may not be specified when 'hostNetwork' is true")
    } else if (IPC_SYSCTLS.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue."))
        && spec.get("hostIPC").is_true()
    {
        Some("may not be specified when 'hostIPC' is true")
    } else {
        None
    }
}

fn seccomp(profile: &At<'_>, errors: &mut ErrorList) {
    if !profile.is_set() {
        return;
    }
    let (kind, local) = (profile.get("type"), profile.get("localhostProfile"));
    if kind.is_empty() {
        kind.required(errors, "type is required when seccompProfile is set");
    } else if !["Localhost", "RuntimeDefault", "Unconfined"].contains(&kind.text()) {
        kind.not_among(errors, &["Localhost", "RuntimeDefault", "Unconfined"]);
    }
    match (kind.text() == "Localhost", local.is_set()) {
        (true, false) => local.required(errors, "must be set when seccomp type is Localhost"),
        (true, true) => local.check_format(errors, format::descending_path),
        (false, true) => {
            let detail = "can only be set when seccomp type is Localhost";
            local.invalid_as(errors, profile.value().clone(), detail);
        }
        (false, false) => {}
    }
}

fn apparmor(profile: &At<'_>, errors: &mut ErrorList) {
    if !profile.is_set() {
        return;
    }
    let (kind, local) = (profile.get("type"), profile.get("localhostProfile"));
    match kind.text() {
        "Localhost" if local.text().trim() != local.text() => {
            local.invalid(errors, "must not be padded with whitespace");
            local.check_length(errors, 4095);
        }
        "Localhost" if local.is_empty() => {
            local.required(errors, "must be set when AppArmor type is Localhost");
        }
        "Localhost" => local.check_length(errors, 4095),
        "RuntimeDefault" | "Unconfined" if local.is_set() => {
            local.invalid(errors, "can only be set when AppArmor type is Localhost");
        }
        "RuntimeDefault" | "Unconfined" => {}
        "" => kind.required(errors, "type is required when appArmorProfile is set"),
        _ => kind.not_among(errors, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

fn windows(options: &At<'_>, errors: &mut ErrorList) {
    if options.has("gmsaCredentialSpecName") {
        options.get("gmsaCredentialSpecName").check_format(errors, format::dns_subdomain);
    }
    let spec = options.get("gmsaCredentialSpec");
    match spec.text().len() {
        _ if !spec.is_set() => {}
        0 => spec.invalid(errors, "gmsaCredentialSpec cannot be an empty string"),
        length if length > 64 * 1024 => {
            spec.invalid(errors, "gmsaCredentialSpec size must be under 64 KiB");
        }
        _ => {}
    }
    let user = options.get("runAsUserName");
    if user.is_set() {
        windows_user(&user, errors);
    }
}

/// `DOMAIN\user` or `user`.
fn windows_user(name: &At<'_>, errors: &mut ErrorList) {
    let text = name.text();
    if text.is_empty() {
        return name.invalid(errors, "runAsUserName cannot be an empty string");
    }
    if text.chars().any(|c| c.is_ascii_control()) {
        return name.invalid(errors, "runAsUserName cannot contain control characters");
    }
    if text.matches('\\').count() > 1 {
        return name.invalid(errors, "runAsUserName cannot contain more than one backslash");
    }
    let (domain, user) = text.split_once('\\').map_or((None, text), |(domain, user)| (Some(domain), user));
    if let Some(domain) = domain {
        if domain.len() >= 256 {
            name.invalid(errors, "runAsUserName's Domain length must be under 256 characters");
        }
        if !NETBIOS.is_match(domain) && !WINDOWS_DOMAIN.is_match(domain) {
            name.invalid(errors, "runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        name.invalid(errors, "runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        name.invalid(errors, "runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        name.invalid(errors, "runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(|c| r#""/\:;|=,+*?<>@[]"#.contains(c)) {
        let detail = r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#;
        name.invalid(errors, detail);
    }
}

/// Either all containers are processes of the Windows host, or none.
pub(super) fn check_host_processes(whole: &Whole<'_>, errors: &mut ErrorList) {
    let spec = &whole.spec;
    let of_pod = spec.get("securityContext").get("windowsOptions").get("hostProcess").value().as_bool();
    let (mut all, mut on_host) = (0, 0);
    for container in containers::all(spec) {
        all += 1;
        let own = container.get("securityContext").get("windowsOptions").get("hostProcess");
        let value = own.value().as_bool();
        if let (Some(pod), Some(_)) = (of_pod, value)
            && of_pod != value
        {
            own.invalid(
                errors,
                format!("pod hostProcess value must be identical if both are specified, was {pod}"),
            );
        }
        on_host += usize::from(value.or(of_pod) == Some(true));
    }
    if on_host == 0 {
        return;
    }
    if on_host != all {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        spec.invalid_as(errors, "", detail);
    }
    if !spec.get("hostNetwork").is_true() {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        spec.get("hostNetwork").invalid_as(errors, false, detail);
    }
}

/// A pod with users of its own shares no namespace with its node.
pub(super) fn check_own_users(whole: &Whole<'_>, errors: &mut ErrorList) {
    if whole.host_users {
        return;
    }
    let (spec, detail) = (&whole.spec, "when `hostUsers` is false");
    let mut host = |field: &str, name: &str| {
        if spec.get(field).is_true() {
            errors.push(Error::forbidden(&spec.path().child(name), detail));
        }
    };
    host("hostPID", "HostPID");
    host("hostIPC", "HostIPC");
    if whole.allowed.devices_of_users {
        return;
    }
    for devices in containers::all(spec).map(|container| container.get("volumeDevices")) {
        if !devices.is_empty() {
            devices.forbidden(errors, detail);
        }
    }
}

/// The operating system of a pod, and fields that mean nothing to it.
pub(super) fn check_os(spec: &At<'_>, errors: &mut ErrorList) {
    let os = spec.get("os");
    if !os.is_set() {
        return;
    }
    match os.text_of("name") {
        "linux" => not_of_linux(spec, errors),
        "windows" => not_of_windows(spec, errors),
        "" => os.get("name").required(errors, ""),
        other => errors.push(Error::not_supported(os.path(), other, &["linux", "windows"])),
    }
}

fn not_of_linux(spec: &At<'_>, errors: &mut ErrorList) {
    let pod = std::iter::once(spec.clone());
    for options in pod.chain(containers::all(spec)).map(|at| at.get("securityContext").get("windowsOptions"))
    {
        if options.is_set() {
            options.forbidden(errors, "windows options cannot be set for a linux pod");
        }
    }
}

fn not_of_windows(spec: &At<'_>, errors: &mut ErrorList) {
    const OF_POD: &[&str] =
        &["runAsUser", "runAsGroup", "supplementalGroups", "supplementalGroupsPolicy", "seLinuxChangePolicy"];
    const OF_CONTAINER: &[&str] = &[
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    let mut forbid = |at: &At<'_>, fields: &[&str]| {
        for field in fields.iter().filter(|field| at.has(field)) {
            at.get(field).forbidden(errors, "cannot be set for a windows pod");
        }
    };
    let context = spec.get("securityContext");
    forbid(&context, &["appArmorProfile", "seLinuxOptions"]);
    forbid(spec, &["hostUsers"]);
    for switch in ["hostPID", "hostIPC"] {
        if spec.get(switch).is_true() {
            forbid(spec, &[switch]);
        }
    }
    forbid(&context, &["seccompProfile", "fsGroup", "fsGroupChangePolicy"]);
    if !context.get("sysctls").is_empty() {
        forbid(&context, &["sysctls"]);
    }
    forbid(spec, &["shareProcessNamespace"]);
    forbid(&context, OF_POD);
    for container in containers::all(spec) {
        forbid(&container.get("securityContext"), OF_CONTAINER);
    }
}
