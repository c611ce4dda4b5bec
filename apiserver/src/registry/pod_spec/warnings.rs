//! What is allowed in a pod and still most likely a mistake: told in `Warning` headers.
//!
//! Contract: upstream's `GetWarningsForPod` and `GetWarningsForPodTemplate`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use super::containers;
use crate::{
    field::Path,
    object::Object,
    registry::kit::{address, at::At, format, semantic},
    validate,
};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// Labels of nodes nobody should select by any more.
const NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

const ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

/// Types of volumes that are gone: field, how it is called, since when.
const VOLUMES: &[(&str, &str, &str)] = &[
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
];

/// Where a warning belongs and what it is.
struct Warnings(Vec<String>);

impl Warnings {
    fn tell(&mut self, path: &Path, message: impl fmt::Display) {
        self.0.push(format!("{path}: {message}"));
    }
}

/// What to warn of at a label of nodes.
pub(in crate::registry) fn of_node_label(key: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, message)| *message)
}

/// What to warn of at the address in a loosely checked field.
pub(in crate::registry) fn of_ip(path: &Path, text: &str) -> Option<String> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => match v6.to_ipv4_mapped() {
            Some(v4) => Some(format!("{path}: non-standard IP address {text:?} is invalid: use \"{v4}\"")),
            None if v6.to_string() != text => Some(format!(
                "{path}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{v6}\")"
            )),
            None => None,
        },
        Ok(IpAddr::V4(_)) => None,
        Err(_) => {
            let plain = address::without_leading_zeros(text);
            let good = plain.parse::<IpAddr>().is_ok();
            good.then(|| format!("{path}: non-standard IP address {text:?} is invalid: use {plain:?}"))
        }
    }
}

/// What to warn of at the addresses a load balancer has.
pub(in crate::registry) fn of_balancer(object: &Object) -> Vec<String> {
    let points = At::status(object).get("loadBalancer").get("ingress");
    let addressed = points.items().filter(|point| !point.text_of("ip").is_empty());
    addressed.filter_map(|point| of_ip(point.path(), point.text_of("ip"))).collect()
}

/// What to warn of at the network in a loosely checked field.
pub(in crate::registry) fn of_cidr(path: &Path, text: &str) -> Vec<String> {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let bits = match length.trim_start_matches('0') {
        "" if !length.is_empty() => "0",
        bits => bits,
    };
    let plain = format!("{}/{bits}", address::without_leading_zeros(address));
    let Ok(network) = plain.parse::<ipnet::IpNet>() else { return Vec::new() };
    let mapped = matches!(network.addr(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let truncated = network.trunc();
    let mut warnings = Vec::new();
    if network.addr() != network.network() {
        let single = network.max_prefix_len();
        warnings.push(format!(
            "{path}: CIDR value {text:?} is ambiguous in this context (should be \"{truncated}\" or \"{}/{single}\"?)",
            network.addr()
        ));
    }
    if mapped || plain != text {
        warnings.push(format!("{path}: non-standard CIDR value {text:?} is invalid: use \"{truncated}\""));
    }
    if warnings.is_empty() && network.addr().is_ipv6() && network.to_string() != text {
        warnings.push(format!(
            "{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format (\"{network}\")"
        ));
    }
    warnings
}

/// Warnings of a new pod.
pub(in crate::registry) fn of_pod(pod: &Object) -> Vec<String> {
    let mut warnings = Warnings(Vec::new());
    let wrong = validate::dns_label(pod.name(), false);
    if !wrong.is_empty() {
        warnings.0.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
             recommended: [{}]",
            wrong.join(" ")
        ));
    }
    of_spec(&At::field(pod, "metadata"), &At::spec(pod), false, &mut warnings);
    warnings.0
}

/// Warnings of a template of pods.
pub(in crate::registry) fn of_template(template: &At<'_>) -> Vec<String> {
    let mut warnings = Warnings(Vec::new());
    of_spec(&template.get("metadata"), &template.get("spec"), true, &mut warnings);
    warnings.0
}

fn of_spec(meta: &At<'_>, spec: &At<'_>, template: bool, warnings: &mut Warnings) {
    of_scheduling(spec, warnings);
    let marks = meta.get("annotations");
    for (key, message) in ANNOTATIONS.iter().filter(|(key, _)| marks.has(key)) {
        warnings.tell(&marks.path().key(key), message);
    }
    of_volumes(spec, warnings);
    overlapping(spec, warnings);
    twice(&spec.get("hostAliases"), "ip", warnings);
    let secrets = spec.get("imagePullSecrets");
    twice(&secrets, "name", warnings);
    for name in secrets.items().map(|secret| secret.get("name")).filter(At::is_empty) {
        warnings.tell(name.path(), "invalid empty name \"\"");
    }
    fractions(&spec.get("overhead"), warnings);
    if !spec.get("securityContext").has("seccompProfile") && marks.has(SECCOMP_POD) {
        let message = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
        warnings.tell(&marks.path().key(SECCOMP_POD), message);
    }
    for container in containers::all(spec) {
        of_container(&container, &marks, spec, template, warnings);
    }
    of_ports(spec, warnings);
    let grace = spec.get("terminationGracePeriodSeconds");
    if grace.int() < 0 {
        warnings.tell(grace.path(), "must be >= 0; negative values are invalid and will be treated as 1");
    }
    let affinity = spec.get("affinity");
    let kinds = ["podAffinity", "podAntiAffinity"].into_iter().filter(|kind| affinity.has(kind));
    for kind in kinds.map(|kind| affinity.get(kind)) {
        let preferred = kind.get(PREFERRED);
        let terms = kind.get(REQUIRED);
        for term in terms.items().chain(preferred.items().map(|term| term.get("podAffinityTerm"))) {
            if !term.has("labelSelector") {
                warnings.tell(term.get("labelSelector").path(), NO_SELECTOR);
            }
        }
    }
    let servers = spec.get("dnsConfig").get("nameservers");
    let aliases = spec.get("hostAliases");
    let ips = servers.items().chain(aliases.items().map(|alias| alias.get("ip")));
    warnings.0.extend(ips.filter_map(|ip| of_ip(ip.path(), ip.text())));
}

fn of_scheduling(spec: &At<'_>, warnings: &mut Warnings) {
    for (key, at) in spec.get("nodeSelector").entries() {
        if let Some(message) = of_node_label(key) {
            warnings.tell(at.path(), message);
        }
    }
    let affinity = spec.get("affinity");
    if affinity.has("nodeAffinity") {
        let nodes = affinity.get("nodeAffinity");
        let required = nodes.get(REQUIRED).get("nodeSelectorTerms");
        required.items().for_each(|term| warnings.0.extend(of_node_term(&term, false)));
        for term in nodes.get(PREFERRED).items() {
            warnings.0.extend(of_node_term(&term.get("preference"), true));
        }
    }
    for constraint in spec.get("topologySpreadConstraints").items() {
        let key = constraint.get("topologyKey");
        if let Some(message) = of_node_label(key.text()) {
            warnings.tell(key.path(), format!("{} is {message}", key.text()));
        }
        if !constraint.has("labelSelector") {
            warnings.tell(constraint.get("labelSelector").path(), NO_SELECTOR);
        }
    }
}

/// What to warn of at a term that selects nodes; values matter where they are not checked.
pub(in crate::registry) fn of_node_term(term: &At<'_>, values: bool) -> Vec<String> {
    let mut warnings = Warnings(Vec::new());
    for expression in term.get("matchExpressions").items() {
        let key = expression.get("key");
        if let Some(message) = of_node_label(key.text()) {
            warnings.tell(key.path(), format!("{} is {message}", key.text()));
        }
        if !values {
            continue;
        }
        for value in expression.get("values").items() {
            for detail in format::label_value(value.text()) {
                warnings.tell(value.path(), format!("{} is invalid, {detail}", value.text()));
            }
        }
    }
    warnings.0
}

fn of_volumes(spec: &At<'_>, warnings: &mut Warnings) {
    for volume in spec.get("volumes").items() {
        let gone = volume.entries().filter(|(_, source)| source.is_set());
        let gone = gone.filter_map(|(key, _)| VOLUMES.iter().find(|(field, ..)| *field == key));
        for (_, name, message) in gone {
            warnings.tell(&volume.path().child(name), message);
        }
        if volume.has("ephemeral") {
            let claim = volume.get("ephemeral").get("volumeClaimTemplate").get("spec");
            warnings.0.extend(of_claim(&claim));
        }
        for field in ["cephfs", "rbd"].into_iter().filter(|field| volume.has(field)) {
            warnings.tell(&volume.path().child(field), "deprecated in v1.28, non-functional in v1.31+");
        }
    }
}

/// What to warn of at the spec of a claim.
pub(in crate::registry) fn of_claim(spec: &At<'_>) -> Vec<String> {
    let mut warnings = Warnings(Vec::new());
    for field in ["requests", "limits"] {
        let size = spec.get("resources").get(field).get("storage");
        let at = spec.path().child("resources").child(field).key("storage");
        fraction(&size.named(at), &mut warnings);
    }
    warnings.0
}

fn twice(list: &At<'_>, field: &str, warnings: &mut Warnings) {
    let mut seen = BTreeSet::new();
    for one in list.items().map(|one| one.get(field)) {
        if !seen.insert(one.text()) {
            warnings.tell(one.path(), format!("duplicate {field} {:?}", one.text()));
        }
    }
}

/// Fractions of bytes mean nothing.
fn fractions(amounts: &At<'_>, warnings: &mut Warnings) {
    ["memory", "ephemeral-storage"].iter().for_each(|name| amount(amounts, name, warnings));
}

/// The amount of one resource.
fn amount(amounts: &At<'_>, name: &str, warnings: &mut Warnings) {
    if amounts.has(name) {
        fraction(&amounts.get(name).named(amounts.path().key(name)), warnings);
    }
}

fn fraction(amount: &At<'_>, warnings: &mut Warnings) {
    if let Some(quantity) = amount.quantity().filter(|quantity| quantity.milli_value() % 1000 != 0) {
        let text = quantity.to_string();
        warnings
            .tell(amount.path(), format!("fractional byte value {text:?} is invalid, must be an integer"));
    }
}

fn of_container(container: &At<'_>, marks: &At<'_>, spec: &At<'_>, template: bool, warnings: &mut Warnings) {
    let context = container.get("securityContext");
    let seccomp = [SECCOMP_CONTAINER, container.text_of("name")].concat();
    if !context.has("seccompProfile") && marks.has(&seccomp) {
        let message = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
        warnings.tell(&marks.path().key(&seccomp), message);
    }
    let apparmor = [APPARMOR, container.text_of("name")].concat();
    // Pods get the field of the annotation, templates do not.
    if template && !context.has("appArmorProfile") && marks.has(&apparmor) {
        let of_pod = spec.get("securityContext").get("appArmorProfile");
        let told = profile(marks.text_of(&apparmor));
        if !of_pod.is_set() || !told.is_some_and(|told| semantic::same(&told, of_pod.value())) {
            let message = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
            warnings.tell(&marks.path().key(&apparmor), message);
        }
    }
    let resources = container.get("resources");
    if resources.is_set() {
        let amounts = ["limits", "requests"].map(|field| resources.get(field));
        for name in ["memory", "ephemeral-storage"] {
            amounts.iter().for_each(|amounts| amount(amounts, name, warnings));
        }
    }
    hidden_variables(&container.get("env"), warnings);
}

fn profile(annotation: &str) -> Option<serde_json::Value> {
    match annotation {
        "unconfined" => Some(serde_json::json!({"type": "Unconfined"})),
        "runtime/default" => Some(serde_json::json!({"type": "RuntimeDefault"})),
        _ => annotation
            .strip_prefix("localhost/")
            .map(|path| serde_json::json!({"type": "Localhost", "localhostProfile": path})),
    }
}

/// A variable set a second time is meant to add to the first, or it hides it.
fn hidden_variables(env: &At<'_>, warnings: &mut Warnings) {
    let mut seen = BTreeSet::new();
    for variable in env.items() {
        let (name, value) = (variable.text_of("name"), variable.text_of("value"));
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        if variable.has("valueFrom") || value == reference || !value.contains(&reference) {
            warnings.tell(
                variable.path(),
                format!("hides previous definition of {name:?}, which may be dropped when using apply"),
            );
        }
    }
}

fn of_ports(spec: &At<'_>, warnings: &mut Warnings) {
    let mut all: BTreeMap<(i64, &str), Vec<At<'_>>> = BTreeMap::new();
    let ports: Vec<At<'_>> = containers::all(spec)
        .flat_map(|container| container.get("ports").items().collect::<Vec<_>>())
        .collect();
    fn outside<'v>(port: &At<'v>) -> (&'v str, i64) {
        (port.text_of("hostIP"), port.get("hostPort").int())
    }
    for port in &ports {
        let (ip, number) = outside(port);
        if !ip.is_empty() && number == 0 {
            warnings.tell(
                port.path(),
                format!(
                    "hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{ip}}}",
                    port.text_of("name"),
                    port.get("containerPort").int(),
                    port.text_of("protocol"),
                ),
            );
        }
        let key = (port.get("containerPort").int(), port.text_of("protocol"));
        let others = all.entry(key).or_default();
        for other in others.iter() {
            let (other_ip, other_number) = outside(other);
            let what = if ip == other_ip && number == other_number {
                "duplicate"
            } else if number == 0 || other_number == 0 {
                "overlapping"
            } else if number == other_number && ip.is_empty() != other_ip.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            warnings.tell(port.path(), format!("{what} port definition with {}", other.path()));
        }
        others.push(port.clone());
    }
    let mut names: BTreeMap<&str, &At<'_>> = BTreeMap::new();
    for port in ports.iter().filter(|port| !port.text_of("name").is_empty()) {
        let name = port.text_of("name");
        match names.get(name).map(|other| other.path()) {
            Some(other) => warnings.tell(
                port.path(),
                format!(
                    "duplicate port name {name:?} with {other}, services and probes that select ports by name will use \
                     {other}"
                ),
            ),
            None => drop(names.insert(name, port)),
        }
    }
}

/// A file in a volume and what brings it.
struct File<'v> {
    path: &'v str,
    by: Option<Source<'v>>,
}

/// What brings files: its kind and, of an object, its name.
#[derive(Clone, Copy)]
struct Source<'v>(&'static str, Option<&'v str>);

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(kind, Some(name)) => write!(f, "{kind} {name:?}"),
            Self(kind, None) => f.write_str(kind),
        }
    }
}

impl fmt::Display for File<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.by {
            Some(source) => write!(f, "{:?} ({source})", self.path),
            None => write!(f, "{:?}", self.path),
        }
    }
}

/// Files that stand in each other's way.
fn overlapping(spec: &At<'_>, warnings: &mut Warnings) {
    for volume in spec.get("volumes").items() {
        let name = volume.text_of("name");
        let kinds = [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")];
        let mut sources: Vec<(Source<'_>, Vec<File<'_>>)> = Vec::new();
        for (field, kind, of) in kinds.into_iter().filter(|(field, ..)| volume.has(field)) {
            let source = volume.get(field);
            sources.push((Source(kind, Some(source.text_of(of))), files(&source, None)));
        }
        if volume.has("downwardAPI") {
            sources.push((Source("DownwardAPI", None), files(&volume.get("downwardAPI"), None)));
        }
        if volume.has("projected") {
            let mut projected = Vec::new();
            for source in volume.get("projected").get("sources").items() {
                if source.is_empty() {
                    warnings.0.push(format!("volume {name:?} (Projected) has no sources provided"));
                }
                projected.extend(projected_files(&source));
            }
            sources.push((Source("Projected", None), projected));
        }
        for (what, files) in sources {
            for (i, file) in files.iter().enumerate() {
                for other in files[..i].iter().filter(|other| overlap(file, other)) {
                    warnings
                        .0
                        .push(format!("volume {name:?} ({what}): overlapping paths: {file} with {other}"));
                }
            }
        }
    }
}

fn overlap(a: &File<'_>, b: &File<'_>) -> bool {
    let is_in = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    !a.path.is_empty() && !b.path.is_empty() && (is_in(a.path, b.path) || is_in(b.path, a.path))
}

fn file<'v>(path: &'v str, by: Option<Source<'v>>) -> File<'v> {
    File { path: path.trim_end_matches('/'), by }
}

fn files<'v>(source: &At<'v>, by: Option<Source<'v>>) -> Vec<File<'v>> {
    source.get("items").items().map(|item| file(item.text_of("path"), by)).collect()
}

fn projected_files<'v>(source: &At<'v>) -> Vec<File<'v>> {
    let mut all = Vec::new();
    let given = |field: &'static str| source.has(field).then(|| source.get(field));
    for (field, kind) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
        if let Some(at) = given(field) {
            all.extend(files(&at, Some(Source(kind, Some(at.text_of("name"))))));
        }
    }
    if let Some(at) = given("downwardAPI") {
        all.extend(files(&at, Some(Source("DownwardAPI", None))));
    }
    if let Some(token) = given("serviceAccountToken") {
        all.push(file(token.text_of("path"), Some(Source("ServiceAccountToken", None))));
    }
    if let Some(bundle) = given("clusterTrustBundle") {
        let name = if bundle.has("name") { bundle.text_of("name") } else { bundle.text_of("signerName") };
        all.push(file(bundle.text_of("path"), Some(Source("ClusterTrustBundle", Some(name)))));
    }
    let Some(certificate) = given("podCertificate") else { return all };
    for (field, by) in [
        ("certificateChainPath", "PodCertificate chain"),
        ("keyPath", "PodCertificate key"),
        ("credentialBundlePath", "PodCertificate credential bundle"),
    ] {
        let path = certificate.text_of(field);
        if !path.is_empty() {
            all.push(file(path, Some(Source(by, None))));
        }
    }
    all
}
