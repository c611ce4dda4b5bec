//! Sources of volumes that pods name directly and persistent volumes hold.
//!
//! Contract: core/v1 `VolumeSource` and `PersistentVolumeSource`.

use std::sync::LazyLock;

use regex::Regex;

use crate::{at::At, field::ErrorList, format, validate};

/// What is wrong with an initiator whose portal leaves no room for the volume's name.
pub const LONG_PORTAL: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 \
     characters if iscsi.initiatorName is specified.";
const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

#[expect(clippy::expect_used, reason = "the patterns are constants that compile")]
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern compiles")
}

static IQN: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"iqn\.\d{4}-\d{2}\.([[:alnum:]\-.]+)(:[^,;*&$|\s]+)$"));
static EUI: LazyLock<Regex> = LazyLock::new(|| pattern(r"^eui.[[:alnum:]]{16}$"));
static NAA: LazyLock<Regex> = LazyLock::new(|| pattern(r"^naa.[[:alnum:]]{32}$"));

/// Bits of a file.
pub fn check_mode(mode: &At<'_>, errors: &mut ErrorList) {
    if mode.number().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        mode.invalid(errors, FILE_MODE);
    }
}

/// The name of a CSI driver.
pub fn check_driver(driver: &At<'_>, errors: &mut ErrorList) {
    if !driver.check_required(errors) {
        return;
    }
    driver.check_length(errors, 63);
    for detail in validate::dns_subdomain(&driver.text().to_lowercase(), false) {
        driver.invalid(errors, detail);
    }
}

/// A source by the name of its field; `persistent` when a persistent volume holds it.
pub fn check(kind: &str, source: &At<'_>, persistent: bool, errors: &mut ErrorList) {
    let required = |fields: &[&str], errors: &mut ErrorList| {
        for field in fields {
            source.get(field).check_required(errors);
        }
    };
    match kind {
        "hostPath" => host_path(source, errors),
        "local" => {
            let path = source.get("path");
            if path.check_required(errors) {
                path.check_format(errors, format::no_backsteps);
            }
        }
        "gcePersistentDisk" => disk(source, "pdName", errors),
        "awsElasticBlockStore" => disk(source, "volumeID", errors),
        "nfs" => {
            required(&["server", "path"], errors);
            let path = source.get("path");
            if !path.text().starts_with('/') {
                path.invalid_as(errors, path.text(), "must be an absolute path");
            }
        }
        "iscsi" => iscsi(source, persistent, errors),
        "glusterfs" => {
            required(&["endpoints", "path"], errors);
            let namespace = source.get("endpointsNamespace");
            if persistent && namespace.is_set() && namespace.is_empty() {
                let detail = "if the endpointnamespace is set, it must be a valid namespace name";
                namespace.invalid(errors, detail);
            } else if persistent {
                namespace.check_option_format(errors, format::dns_label);
            }
        }
        "flocker" => flocker(source, errors),
        "rbd" => required(&["monitors", "image"], errors),
        "cinder" => {
            required(&["volumeID"], errors);
            secret_of_volume(source, persistent, errors);
        }
        "cephfs" => required(&["monitors"], errors),
        "quobyte" => quobyte(source, errors),
        "fc" => fibre_channel(source, errors),
        "flexVolume" => flex(source, errors),
        "azureFile" => {
            required(&["secretName", "shareName"], errors);
            let namespace = source.get("secretNamespace");
            if persistent && namespace.is_set() {
                namespace.check_required(errors);
            }
        }
        "azureDisk" => azure_disk(source, errors),
        "vsphereVolume" => required(&["volumePath"], errors),
        "photonPersistentDisk" => required(&["pdID"], errors),
        "portworxVolume" => required(&["volumeID"], errors),
        "scaleIO" => required(&["gateway", "system", "volumeName"], errors),
        "storageos" => {
            source.get("volumeName").check_required_format(errors, format::dns_label);
            source.get("volumeNamespace").check_option_format(errors, format::dns_label);
            secret_of_volume(source, persistent, errors);
        }
        _ => {}
    }
}

/// What a path of the host may be asked to be; the empty word asks nothing.
pub const HOST_PATHS: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

fn host_path(source: &At<'_>, errors: &mut ErrorList) {
    let path = source.get("path");
    if path.check_required(errors) {
        path.check_format(errors, format::no_backsteps);
        source.get("type").check_option_of(errors, HOST_PATHS);
    }
}

fn disk(source: &At<'_>, name: &str, errors: &mut ErrorList) {
    source.get(name).check_required(errors);
    let partition = source.get("partition");
    if !(0..=255).contains(&partition.int()) {
        partition.invalid(errors, "must be between 1 and 255, inclusive");
    }
}

fn iscsi(source: &At<'_>, persistent: bool, errors: &mut ErrorList) {
    source.get("targetPortal").check_required(errors);
    let name = source.get("iqn");
    if name.check_required(errors) {
        initiator(&name, persistent, errors);
    }
    if !(0..=255).contains(&source.get("lun").int()) {
        source.get("lun").check_range(errors, 0, 255);
    }
    let secret = source.get("secretRef");
    let by_secret = source.get("chapAuthDiscovery").is_true() || source.get("chapAuthSession").is_true();
    if by_secret && !secret.is_set() {
        secret.required(errors, "");
    }
    if persistent && secret.is_set() {
        secret.get("name").check_required(errors);
    }
    if source.has("initiatorName") {
        let own = source.get("initiatorName").named(source.path().child("initiatorname"));
        initiator(&own, persistent, errors);
    }
}

fn initiator(name: &At<'_>, persistent: bool, errors: &mut ErrorList) {
    let text = name.text();
    let good = match text.get(..3) {
        Some("iqn") => IQN.is_match(text),
        Some("eui") => EUI.is_match(text),
        Some("naa") => NAA.is_match(text),
        _ if persistent => false,
        _ => {
            let detail = "must be valid format starting with iqn, eui, or naa";
            return name.invalid_as(errors, text, detail);
        }
    };
    if !good {
        name.invalid_as(errors, text, "must be valid format");
    }
}

fn flocker(source: &At<'_>, errors: &mut ErrorList) {
    let (name, uuid) = (source.get("datasetName"), source.get("datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        source.required(errors, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        source.invalid_as(errors, "resource", detail);
    }
    if name.text().contains('/') {
        name.invalid(errors, "must not contain '/'");
    }
}

fn quobyte(source: &At<'_>, errors: &mut ErrorList) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let (registry, tenant) = (source.get("registry"), source.get("tenant"));
    if registry.is_empty() {
        registry.required(errors, PAIRS);
    } else if tenant.text().len() >= 65 {
        tenant.required(errors, "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for _ in registry.text().split(',').filter(|pair| !is_host_port(pair)) {
            registry.invalid(errors, PAIRS);
        }
    }
    source.get("volume").check_required(errors);
}

/// `host:port` as dialers read it: an IPv6 address stands in brackets.
fn is_host_port(pair: &str) -> bool {
    match pair.strip_prefix('[') {
        Some(rest) => rest.split_once(']').is_some_and(|(host, port)| {
            !host.contains('[') && port.starts_with(':') && !port[1..].contains(':')
        }),
        None => pair.matches(':').count() == 1 && !pair.contains([']', '[']),
    }
}

fn fibre_channel(source: &At<'_>, errors: &mut ErrorList) {
    let (names, ids, lun) = (source.get("targetWWNs"), source.get("wwids"), source.get("lun"));
    if names.is_empty() && ids.is_empty() {
        names.required(errors, "must specify either targetWWNs or wwids, but not both");
    }
    if !names.is_empty() && !ids.is_empty() {
        names.invalid(errors, "targetWWNs and wwids can not be specified simultaneously");
    }
    if names.is_empty() {
        return;
    }
    if lun.is_set() {
        lun.check_range(errors, 0, 255);
    } else {
        lun.required(errors, "lun is required if targetWWNs is specified");
    }
}

fn flex(source: &At<'_>, errors: &mut ErrorList) {
    source.get("driver").check_required(errors);
    for (key, option) in source.get("options").entries() {
        let namespace = key.split_once('/').map_or(key, |(namespace, _)| namespace);
        let normalized = format!(".{}", namespace.to_lowercase());
        if normalized.ends_with(".kubernetes.io") || normalized.ends_with(".k8s.io") {
            option.invalid_as(errors, key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn azure_disk(source: &At<'_>, errors: &mut ErrorList) {
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    source.get("diskName").check_required(errors);
    let (uri, kind) = (source.get("diskURI"), source.get("kind"));
    uri.check_required(errors);
    source.get("cachingMode").check_option_of(errors, &["None", "ReadOnly", "ReadWrite"]);
    kind.check_option_of(errors, &["Dedicated", "Managed", "Shared"]);
    if !kind.is_set() {
        return;
    }
    if kind.text() == "Managed" && !uri.text().starts_with("/subscriptions/") {
        uri.not_among(errors, &[MANAGED]);
    }
    if kind.text() != "Managed" && !uri.text().starts_with("https://") {
        uri.not_among(errors, &[BLOB]);
    }
}

fn secret_of_volume(source: &At<'_>, persistent: bool, errors: &mut ErrorList) {
    let secret = source.get("secretRef");
    if secret.is_set() {
        secret.get("name").check_required(errors);
        if persistent {
            secret.get("namespace").check_required(errors);
        }
    }
}

/// A reference to a secret from a persistent CSI volume.
pub fn check_secret(secret: &At<'_>, errors: &mut ErrorList) {
    if secret.is_set() {
        secret.get("name").check_required_format(errors, format::dns_subdomain);
        secret.get("namespace").check_required_format(errors, format::dns_label);
    }
}
