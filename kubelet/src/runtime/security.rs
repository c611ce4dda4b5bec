//! Security contexts in the runtime's terms: users, groups, capabilities, seccomp, namespaces, masked paths. Pure, but for
//! what there is to mask on a machine.
//!
//! Contract: core/v1 SecurityContext and PodSecurityContext; a container's setting wins over its pod's.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};

use super::cri;
use crate::{network::hosts::TooLong, pod};

/// Why a container may not run as specified; shown as `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecurityError {
    /// `runAsNonRoot` with user 0.
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    RunAsRoot {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// `runAsNonRoot` and an image that runs as root.
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    ImageRunsAsRoot {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// `runAsNonRoot` and an image whose user is a name.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root \
         (pod: \"{pod}\", container: {container})"
    )]
    ImageUserNotNumeric {
        /// The image's user.
        user: String,
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// The pod cannot have a user namespace of its own.
    #[error("{0}")]
    UserNamespace(String),
    /// The pod cannot have its name.
    #[error(transparent)]
    Name(#[from] TooLong),
    /// A localhost seccomp profile without a name.
    #[error("localhostProfile must be set if seccompProfile type is Localhost")]
    SeccompProfileMissing,
}

/// The user an image runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageUser {
    /// A number.
    Id(i64),
    /// A name; empty means root.
    Name(String),
}

/// Paths the runtime hides from containers unless `procMount` is `Unmasked`.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const MASKED_EXTRA: [&str; 1] = ["/sys/devices/virtual/powercap"];
/// Processors, one folder each.
const PROCESSORS: &str = "/sys/devices/system/cpu";
/// Paths containers may only read.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn context(container: &Container) -> SecurityContext {
    container.security_context.clone().unwrap_or_default()
}

fn pod_context(pod: &Pod) -> PodSecurityContext {
    pod::spec(pod).security_context.clone().unwrap_or_default()
}

/// The user that applies to a container, if any is given.
#[must_use]
pub fn run_as_user(pod: &Pod, container: &Container) -> Option<i64> {
    context(container).run_as_user.or(pod_context(pod).run_as_user)
}

/// Refuses a container that would run as root against its policy.
///
/// # Errors
/// When `runAsNonRoot` holds and the user is, or may be, root.
pub fn verify_non_root(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
) -> Result<(), SecurityError> {
    if context(container).run_as_non_root.or(pod_context(pod).run_as_non_root) != Some(true) {
        return Ok(());
    }
    let (pod_name, name) = (pod::display(pod), container.name.clone());
    if let Some(user) = run_as_user(pod, container) {
        return if user == 0 {
            Err(SecurityError::RunAsRoot { pod: pod_name, container: name })
        } else {
            Ok(())
        };
    }
    match image_user {
        ImageUser::Id(0) => Err(SecurityError::ImageRunsAsRoot { pod: pod_name, container: name }),
        ImageUser::Id(_) => Ok(()),
        ImageUser::Name(user) if user.is_empty() => {
            Err(SecurityError::ImageRunsAsRoot { pod: pod_name, container: name })
        }
        ImageUser::Name(user) => {
            Err(SecurityError::ImageUserNotNumeric { user: user.clone(), pod: pod_name, container: name })
        }
    }
}

/// The namespaces a pod shares with its node or among its containers.
#[must_use]
pub fn namespaces(pod: &Pod, users: Option<&cri::UserNamespace>) -> cri::NamespaceOption {
    let spec = pod::spec(pod);
    let mode = |host: Option<bool>, otherwise: cri::NamespaceMode| {
        if host == Some(true) { cri::NamespaceMode::Node as i32 } else { otherwise as i32 }
    };
    let pid = if spec.share_process_namespace == Some(true) {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: mode(spec.host_network, cri::NamespaceMode::Pod),
        pid: mode(spec.host_pid, pid),
        ipc: mode(spec.host_ipc, cri::NamespaceMode::Pod),
        userns_options: Some(users.cloned().unwrap_or(cri::UserNamespace {
            mode: cri::NamespaceMode::Node as i32,
            ..cri::UserNamespace::default()
        })),
        ..cri::NamespaceOption::default()
    }
}

/// Where seccomp profiles of type `Localhost` are looked up.
fn seccomp(
    own: Option<&SeccompProfile>,
    pods: Option<&SeccompProfile>,
    profile_root: &str,
    default: bool,
) -> Result<cri::SecurityProfile, SecurityError> {
    use cri::security_profile::ProfileType;
    let Some(profile) = own.or(pods) else {
        let kind = if default { ProfileType::RuntimeDefault } else { ProfileType::Unconfined };
        return Ok(cri::SecurityProfile { profile_type: kind as i32, ..Default::default() });
    };
    Ok(match profile.type_.as_str() {
        "RuntimeDefault" => {
            cri::SecurityProfile { profile_type: ProfileType::RuntimeDefault as i32, ..Default::default() }
        }
        "Localhost" => {
            let name = profile.localhost_profile.as_deref().ok_or(SecurityError::SeccompProfileMissing)?;
            cri::SecurityProfile {
                profile_type: ProfileType::Localhost as i32,
                localhost_ref: format!("{profile_root}/{name}"),
            }
        }
        _ => cri::SecurityProfile { profile_type: ProfileType::Unconfined as i32, ..Default::default() },
    })
}

/// What the node adds to every security context.
#[derive(Debug, Clone, Default)]
pub struct NodeSecurity {
    /// Folder of localhost seccomp profiles.
    pub seccomp_root: String,
    /// Containers without a profile get the runtime's default one.
    pub seccomp_default: bool,
    /// The kernel has AppArmor.
    pub apparmor: bool,
    /// What is hidden from containers on this machine besides.
    pub hidden: Vec<String>,
}

/// Where the machine tells how often its processors got too hot, from which containers could tell what others do. `root` is
/// `/` but in tests.
#[must_use]
pub fn hidden(root: &Path) -> Vec<String> {
    // A machine that does not list its processors has nothing to hide.
    let entries = std::fs::read_dir(root.join(&PROCESSORS[1..])).into_iter().flatten().filter_map(Result::ok);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mut found: Vec<String> = entries
        .filter(|entry| entry.path().join("thermal_throttle").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.strip_prefix("cpu").is_some_and(is_number))
        .map(|name| format!("{PROCESSORS}/{name}/thermal_throttle"))
        .collect();
    found.sort();
    found
}

/// SELinux labels; the container's win over its pod's.
fn selinux(own: Option<&SELinuxOptions>, pods: Option<&SELinuxOptions>) -> Option<cri::SeLinuxOption> {
    let options = own.or(pods)?;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Some(cri::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    })
}

/// The sandbox's security context. `users` is the pod's user namespace, where it has one of its own.
///
/// # Errors
/// When the pod asks for what cannot be given.
pub fn sandbox(
    pod: &Pod,
    node: &NodeSecurity,
    users: Option<&cri::UserNamespace>,
) -> Result<cri::LinuxSandboxSecurityContext, SecurityError> {
    let ctx = pod_context(pod);
    let privileged = pod::all_containers(pod).iter().any(|(_, c)| context(c).privileged == Some(true));
    Ok(cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, users)),
        selinux_options: selinux(None, ctx.se_linux_options.as_ref()),
        run_as_user: ctx.run_as_user.map(|value| cri::Int64Value { value }),
        run_as_group: ctx
            .run_as_group
            .filter(|_| ctx.run_as_user.is_some())
            .map(|value| cri::Int64Value { value }),
        supplemental_groups: groups(&ctx, &[]),
        supplemental_groups_policy: groups_policy(&ctx),
        privileged,
        seccomp: Some(seccomp(None, ctx.seccomp_profile.as_ref(), &node.seccomp_root, true)?),
        ..cri::LinuxSandboxSecurityContext::default()
    })
}

/// Whether groups of the image count.
fn groups_policy(ctx: &PodSecurityContext) -> i32 {
    let policy = match ctx.supplemental_groups_policy.as_deref() {
        Some("Strict") => cri::SupplementalGroupsPolicy::Strict,
        _ => cri::SupplementalGroupsPolicy::Merge,
    };
    policy as i32
}

fn groups(ctx: &PodSecurityContext, extra: &[i64]) -> Vec<i64> {
    let mut all: Vec<i64> = ctx.fs_group.into_iter().collect();
    all.extend(ctx.supplemental_groups.iter().flatten());
    all.extend(extra);
    all
}

/// The container's security context. `volume_groups` are groups that volumes ask for; `target` is the id of the container
/// whose processes an ephemeral one is to see.
///
/// # Errors
/// When the pod asks for what cannot be given.
pub fn container(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    volume_groups: &[i64],
    target: Option<&str>,
    node: &NodeSecurity,
    users: Option<&cri::UserNamespace>,
) -> Result<cri::LinuxContainerSecurityContext, SecurityError> {
    verify_non_root(pod, container, image_user)?;
    let (ctx, pod_ctx) = (context(container), pod_context(pod));
    let privileged = ctx.privileged == Some(true);
    let user = ctx.run_as_user.or(pod_ctx.run_as_user);
    let (id, name) = match (user, image_user) {
        (Some(id), _) | (None, &ImageUser::Id(id)) => (Some(id), String::new()),
        (None, ImageUser::Name(name)) => (None, name.clone()),
    };
    let unmasked = ctx.proc_mount.as_deref() == Some("Unmasked") || privileged;
    let list = |paths: &[&str]| paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    let mut namespaces = namespaces(pod, users);
    if let Some(target) = target {
        namespaces.pid = cri::NamespaceMode::Target as i32;
        namespaces.target_id = target.to_owned();
    }
    let mut masked = list(&MASKED);
    masked.extend(list(&MASKED_EXTRA));
    masked.extend_from_slice(&node.hidden);
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: ctx.capabilities.as_ref().map(|c| cri::Capability {
            add_capabilities: c.add.clone().unwrap_or_default(),
            drop_capabilities: c.drop.clone().unwrap_or_default(),
            ..cri::Capability::default()
        }),
        privileged,
        namespace_options: Some(namespaces),
        selinux_options: selinux(ctx.se_linux_options.as_ref(), pod_ctx.se_linux_options.as_ref()),
        run_as_user: id.map(|value| cri::Int64Value { value }),
        run_as_username: name,
        run_as_group: ctx.run_as_group.or(pod_ctx.run_as_group).map(|value| cri::Int64Value { value }),
        readonly_rootfs: ctx.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&pod_ctx, volume_groups),
        supplemental_groups_policy: groups_policy(&pod_ctx),
        no_new_privs: ctx.allow_privilege_escalation == Some(false),
        masked_paths: if unmasked { vec![] } else { masked },
        readonly_paths: if unmasked { vec![] } else { list(&READONLY) },
        seccomp: Some(container_seccomp(&ctx, &pod_ctx, privileged, node)?),
        apparmor: node.apparmor.then(|| apparmor(&ctx, &pod_ctx)).flatten(),
        ..cri::LinuxContainerSecurityContext::default()
    })
}

fn container_seccomp(
    ctx: &SecurityContext,
    pod_ctx: &PodSecurityContext,
    privileged: bool,
    node: &NodeSecurity,
) -> Result<cri::SecurityProfile, SecurityError> {
    if privileged {
        return Ok(cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::Unconfined as i32,
            ..Default::default()
        });
    }
    seccomp(
        ctx.seccomp_profile.as_ref(),
        pod_ctx.seccomp_profile.as_ref(),
        &node.seccomp_root,
        node.seccomp_default,
    )
}

fn apparmor(ctx: &SecurityContext, pod_ctx: &PodSecurityContext) -> Option<cri::SecurityProfile> {
    use cri::security_profile::ProfileType;
    let profile = ctx.app_armor_profile.as_ref().or(pod_ctx.app_armor_profile.as_ref())?;
    let kind = match profile.type_.as_str() {
        "Localhost" => ProfileType::Localhost,
        "Unconfined" => ProfileType::Unconfined,
        _ => ProfileType::RuntimeDefault,
    };
    Some(cri::SecurityProfile {
        profile_type: kind as i32,
        localhost_ref: profile.localhost_profile.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn made(
        change: impl FnOnce(&mut SecurityContext),
        user: ImageUser,
    ) -> Result<cri::LinuxContainerSecurityContext, SecurityError> {
        let mut c = testing::container("c");
        change(c.security_context.get_or_insert_default());
        container(&testing::pod("a").build(), &c, &user, &[], None, &NodeSecurity::default(), None)
    }

    #[test]
    fn namespaces_and_labels_are_handed_on() {
        let mut pod = testing::pod("a").build();
        let users = |pod: &Pod, own| namespaces(pod, own).userns_options.unwrap();
        assert_eq!(users(&pod, None).mode, cri::NamespaceMode::Node as i32);
        let own = cri::UserNamespace { mode: cri::NamespaceMode::Pod as i32, ..Default::default() };
        assert_eq!(users(&pod, Some(&own)), own);
        let labels = |level: &str| Some(SELinuxOptions { level: Some(level.into()), ..Default::default() });
        let context = pod.spec.as_mut().unwrap().security_context.get_or_insert_default();
        context.se_linux_options = labels("s0:c1");
        let made = sandbox(&pod, &NodeSecurity::default(), None).unwrap();
        assert_eq!(made.selinux_options.unwrap().level, "s0:c1");
        let own = labels("s0:c2");
        let of_pod = &pod_context(&pod).se_linux_options;
        assert_eq!(selinux(own.as_ref(), of_pod.as_ref()).unwrap().level, "s0:c2");
        assert_eq!(selinux(None, None), None);
    }

    #[test]
    fn non_root_is_verified_against_spec_and_image() {
        let strict = |c: &mut SecurityContext| c.run_as_non_root = Some(true);
        assert!(made(strict, ImageUser::Id(5)).is_ok());
        assert!(matches!(made(strict, ImageUser::Id(0)), Err(SecurityError::ImageRunsAsRoot { .. })));
        assert!(matches!(
            made(strict, ImageUser::Name(String::new())),
            Err(SecurityError::ImageRunsAsRoot { .. })
        ));
        assert!(matches!(
            made(strict, ImageUser::Name("x".into())),
            Err(SecurityError::ImageUserNotNumeric { .. })
        ));
        let root = |c: &mut SecurityContext| {
            c.run_as_non_root = Some(true);
            c.run_as_user = Some(0);
        };
        assert!(matches!(made(root, ImageUser::Id(5)), Err(SecurityError::RunAsRoot { .. })));
    }

    #[test]
    fn privileged_unmasks_and_is_unconfined() {
        let made = made(|c| c.privileged = Some(true), ImageUser::Id(0)).unwrap();
        assert!(made.masked_paths.is_empty());
        assert_eq!(made.seccomp.unwrap().profile_type, cri::security_profile::ProfileType::Unconfined as i32);
    }

    #[test]
    fn groups_of_the_image_count_for_sandboxes_as_for_containers() {
        for (policy, expected) in [
            (None, cri::SupplementalGroupsPolicy::Merge),
            (Some("Merge"), cri::SupplementalGroupsPolicy::Merge),
            (Some("Strict"), cri::SupplementalGroupsPolicy::Strict),
        ] {
            let mut pod = testing::pod("a").container("c").build();
            let context = pod.spec.as_mut().unwrap().security_context.get_or_insert_default();
            context.supplemental_groups_policy = policy.map(str::to_owned);
            let node = NodeSecurity::default();
            let of_sandbox = sandbox(&pod, &node, None).unwrap().supplemental_groups_policy;
            let user = ImageUser::Id(1);
            let made = container(&pod, &testing::container("c"), &user, &[], None, &node, None).unwrap();
            assert_eq!([of_sandbox, made.supplemental_groups_policy], [expected as i32; 2], "{policy:?}");
        }
    }

    #[test]
    fn what_tells_of_other_containers_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(hidden(dir.path()), Vec::<String>::new());
        let root = dir.path().join("sys/devices/system/cpu");
        for name in ["cpu0/thermal_throttle", "cpu12/thermal_throttle", "cpu1", "cpufreq/thermal_throttle"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        let found = hidden(dir.path());
        assert_eq!(found, [0, 12].map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle")));
        let node = NodeSecurity { hidden: found, ..NodeSecurity::default() };
        let (pod, user) = (testing::pod("a").build(), ImageUser::Id(1));
        let made = container(&pod, &testing::container("c"), &user, &[], None, &node, None).unwrap();
        assert_eq!(made.masked_paths.len(), MASKED.len() + MASKED_EXTRA.len() + 2);
    }

    #[test]
    fn user_comes_from_spec_then_image() {
        let value =
            |m: cri::LinuxContainerSecurityContext| (m.run_as_user.map(|v| v.value), m.run_as_username);
        assert_eq!(value(made(|_| {}, ImageUser::Id(7)).unwrap()), (Some(7), String::new()));
        assert_eq!(value(made(|_| {}, ImageUser::Name("www".into())).unwrap()), (None, "www".into()));
        assert_eq!(
            value(made(|c| c.run_as_user = Some(9), ImageUser::Id(7)).unwrap()),
            (Some(9), String::new())
        );
    }
}
