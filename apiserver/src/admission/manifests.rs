//! Webhooks and policies of files instead of objects: there when the server starts, whoever may write what, and nobody can
//! change them through the API.
//!
//! Contract: KEP-5793; upstream's `plugin/manifest`, `plugin/webhook/manifest` and `plugin/policy/manifest`.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use component_base::{
    features::{Gate, Gates},
    metrics::{self, Stability},
    task::Tasks,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec};
use proto::node::Node;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    auth::User,
    object::Object,
    registry::{STATIC_SUFFIX, StrategyContext, catalog},
    schema,
};

const GROUP: &str = "admissionregistration.k8s.io";
const VERSION: &str = "admissionregistration.k8s.io/v1";
/// How often the directory is read again.
const INTERVAL: Duration = Duration::from_secs(5);

/// The kinds that a plugin takes from files: what it does, and for policies what binds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kinds {
    pub(super) plugin: &'static str,
    pub(super) what: &'static str,
    pub(super) binding: Option<&'static str>,
}

/// What a directory says.
pub(super) struct Manifests {
    kinds: Kinds,
    folder: PathBuf,
    gates: Gates,
    current: ArcSwap<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    /// By kind, each in the order of their names.
    objects: BTreeMap<&'static str, Vec<Arc<Object>>>,
    /// Of the files' contents.
    hash: String,
}

/// All directories that are read, of the server with an identity.
#[derive(Clone, Default)]
pub struct Directories {
    all: Arc<Mutex<Vec<Arc<Manifests>>>>,
}

// === impl Directories ===

impl Directories {
    /// Reads a plugin's directory.
    ///
    /// # Errors
    /// In words, when the gate is off, or something in it is of no use.
    pub(super) fn read(
        &self,
        kinds: Kinds,
        folder: &Path,
        gates: Gates,
    ) -> Result<Option<Arc<Manifests>>, String> {
        if folder == Path::new("") {
            return Ok(None);
        }
        let invalid = |why: &str| Err(format!("staticManifestsDir: Invalid value: {folder:?}: {why}"));
        if !gates.has(Gate::ManifestBasedAdmissionControlConfig) {
            let why = "staticManifestsDir requires the ManifestBasedAdmissionControlConfig feature gate to be enabled";
            return Err(format!("staticManifestsDir: Forbidden: {why}"));
        }
        if !folder.is_absolute() {
            return invalid("must be an absolute file path");
        }
        match std::fs::metadata(folder) {
            Err(error) => return invalid(&format!("unable to read: {error}")),
            Ok(found) if !found.is_dir() => return invalid("must be a directory"),
            Ok(_) => {}
        }
        let loaded = load(folder, kinds, gates)?;
        let manifests =
            Manifests { kinds, folder: folder.to_owned(), gates, current: ArcSwap::from_pointee(loaded) };
        let manifests = Arc::new(manifests);
        self.all.lock().push(manifests.clone());
        Ok(Some(manifests))
    }

    /// Reads the directories again and again, for the server of this identity.
    pub fn follow(&self, tasks: &Tasks, identity: &str) {
        let all = self.all.lock().clone();
        if all.is_empty() {
            return;
        }
        let server = hashed(identity.as_bytes());
        for manifests in &all {
            manifests.told(&server, true, "");
        }
        let drain = tasks.drain();
        tasks.spawn("admission manifests", async move {
            while drain.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
                for manifests in &all {
                    manifests.look(&server);
                }
            }
        });
    }
}

fn hashed(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

// === impl Manifests ===

impl Manifests {
    /// The objects of a kind.
    pub(super) fn of(&self, kind: &str) -> Vec<Arc<Object>> {
        self.current.load().objects.get(kind).cloned().unwrap_or_default()
    }

    /// Takes over what has changed, if it is of use.
    fn look(&self, server: &str) {
        let before = self.current.load();
        match load(&self.folder, self.kinds, self.gates) {
            Ok(loaded) if loaded.hash == before.hash => {}
            Ok(loaded) => {
                tracing::info!(plugin = self.kinds.plugin, folder = %self.folder.display(), "admission manifests reloaded");
                let gone = before.hash.clone();
                self.current.store(Arc::new(loaded));
                self.told(server, true, &gone);
            }
            Err(why) => {
                let (plugin, folder) = (self.kinds.plugin, self.folder.display());
                tracing::error!(plugin, %folder, why, "admission manifests are of no use, what was loaded before stays");
                self.told(server, false, "");
            }
        }
    }

    fn told(&self, server: &str, taken: bool, gone: &str) {
        let labels = [if taken { "success" } else { "failure" }, self.kinds.plugin, server];
        RELOADS.with_label_values(&labels).inc();
        RELOADED.with_label_values(&labels).set(Timestamp::now().as_duration().as_secs_f64());
        let current = self.current.load();
        if gone != current.hash && !gone.is_empty() {
            // The error says that there is no such series, which is what is wanted.
            let _had_one = INFO.remove_label_values(&[self.kinds.plugin, server, gone]).is_ok();
        }
        if !current.hash.is_empty() {
            INFO.with_label_values(&[self.kinds.plugin, server, current.hash.as_str()]).set(1);
        }
    }
}

/// Reads all documents of a directory's files, in the order of their names.
fn load(folder: &Path, kinds: Kinds, gates: Gates) -> Result<Loaded, String> {
    let unreadable = |error: std::io::Error| format!("failed to read manifest directory {folder:?}: {error}");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default().to_lowercase();
        if matches!(kind.as_str(), "yaml" | "yml" | "json") && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort_unstable();
    let (mut hash, mut objects) = (Sha256::new(), Vec::new());
    let mut has_data = false;
    for file in &files {
        let failed = |why: String| format!("error loading {}: {why}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
        if text.is_empty() {
            continue;
        }
        has_data = true;
        hash.update(&text);
        hash.update([0]);
        for document in documents(&text) {
            let (node, duplicates) = schema::read_yaml(document.as_bytes()).map_err(failed)?;
            if !duplicates.is_empty() {
                return Err(failed(schema::strict_error(&duplicates)));
            }
            read(&node, None, kinds, gates, &mut objects).map_err(failed)?;
        }
    }
    let hash = if has_data {
        hash.finalize().iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
    } else {
        String::new()
    };
    Ok(Loaded { objects: checked(objects, kinds)?, hash })
}

/// The documents of a file, which lines of three dashes stand between.
fn documents(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for line in text.lines() {
        let is_end =
            line.strip_prefix("---").is_some_and(|rest| rest.trim().is_empty() || rest.starts_with(" #"));
        match all.last_mut() {
            Some(last) if !is_end => {
                last.push_str(line);
                last.push('\n');
            }
            _ => all.push(String::new()),
        }
    }
    let is_empty =
        |text: &String| text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#'));
    all.retain(|text| !is_empty(text));
    all
}

/// Reads an object, or those of a list; `within` is the kind of a list's items that need not say it.
fn read(
    node: &Node<'_>,
    within: Option<&'static str>,
    kinds: Kinds,
    gates: Gates,
    into: &mut Vec<(&'static str, Object)>,
) -> Result<(), String> {
    let text = |field: &str| node.get(field).and_then(Node::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let items = || match node.get("items") {
        Some(Node::Array(items)) => items.as_slice(),
        _ => &[],
    };
    if (version, kind) == ("v1", "List") {
        return items().iter().try_for_each(|item| read(item, None, kinds, gates, into));
    }
    let own = [Some(kinds.what), kinds.binding].into_iter().flatten();
    let unsaid = within.filter(|_| version.is_empty() && kind.is_empty());
    for one in own {
        if version == VERSION && kind.strip_suffix("List") == Some(one) {
            return items().iter().try_for_each(|item| read(item, Some(one), kinds, gates, into));
        }
        if unsaid == Some(one) || (version, kind) == (VERSION, one) {
            into.push((one, object(node, one, gates)?));
            return Ok(());
        }
    }
    Err(format!("unsupported resource type {version:?} {kind:?}"))
}

/// An object as the API would have taken it.
fn object(node: &Node<'_>, kind: &'static str, gates: Gates) -> Result<Object, String> {
    let all = catalog::builtin();
    let resource = all.iter().find(|resource| resource.group == GROUP && resource.kind == kind);
    let resource = resource.ok_or_else(|| format!("no kind {kind:?}"))?;
    let id = schema::type_of(VERSION, kind).ok_or_else(|| format!("no kind {kind:?}"))?;
    let decoded = schema::decode(node, id)?;
    if !decoded.strict.is_empty() {
        return Err(schema::strict_error(&decoded.strict));
    }
    let mut object = Object::from_value(decoded.object).map_err(|status| status.message)?;
    object.set("apiVersion", VERSION);
    object.set("kind", kind);
    resource.strategy.default(&mut object, "v1");
    let user = User::apiserver();
    let ctx = StrategyContext {
        now: Timestamp::now(),
        version: "v1",
        subresource: "",
        user: &user,
        // What is reserved is reserved for these.
        gates: gates.with(Gate::ManifestBasedAdmissionControlConfig, false),
    };
    resource.prepare_create(&mut object, &ctx).map_err(|status| status.message)?;
    let errors = resource.strategy.validate_create(&object, &ctx);
    match errors.iter().next() {
        None => Ok(object),
        Some(first) => Err(format!("{kind} {:?} is invalid: {first}", object.name())),
    }
}

/// What is asked of such objects beside, and of all of them together.
fn checked(
    objects: Vec<(&'static str, Object)>,
    kinds: Kinds,
) -> Result<BTreeMap<&'static str, Vec<Arc<Object>>>, String> {
    let mut seen = HashSet::new();
    for (kind, object) in &objects {
        let name = object.name();
        if name.is_empty() {
            return Err(format!("{kind} must have a name"));
        }
        if !name.ends_with(STATIC_SUFFIX) {
            return Err(format!("{name:?} must have a name ending with {STATIC_SUFFIX:?}"));
        }
        if !seen.insert((*kind, name.to_owned())) {
            return Err(format!("duplicate name {name:?} found"));
        }
        alone(kind, object)?;
    }
    for (kind, binding) in objects.iter().filter(|(kind, _)| Some(*kind) == kinds.binding) {
        let policy = binding.pointer("/spec/policyName").and_then(Value::as_str).unwrap_or_default();
        if !seen.contains(&(kinds.what, policy.to_owned())) {
            return Err(format!(
                "{kind} {:?} references policy {policy:?} which does not exist in the manifest directory",
                binding.name()
            ));
        }
    }
    let mut all = BTreeMap::<_, Vec<Arc<Object>>>::new();
    for (kind, object) in objects {
        all.entry(kind).or_default().push(Arc::new(object));
    }
    all.values_mut().for_each(|list| list.sort_by(|a, b| a.name().cmp(b.name())));
    Ok(all)
}

/// Files know nothing of what is in the cluster.
fn alone(kind: &str, object: &Object) -> Result<(), String> {
    let name = object.name();
    for field in ["paramKind", "paramRef"] {
        if object.pointer(&format!("/spec/{field}")).is_some() {
            return Err(format!("{kind} {name:?}: spec.{field} is not supported for static manifests"));
        }
    }
    let webhooks = object.get("webhooks").and_then(Value::as_array).into_iter().flatten();
    for webhook in webhooks {
        let (own, client) = (&webhook["name"], &webhook["clientConfig"]);
        if client.get("service").is_some_and(|service| !service.is_null()) {
            return Err(format!(
                "webhook {own} in {name:?}: clientConfig.service is not supported for static manifests; use clientConfig.url instead"
            ));
        }
        if client["url"].as_str().unwrap_or_default().is_empty() {
            return Err(format!(
                "webhook {own} in {name:?}: clientConfig.url is required for static manifests"
            ));
        }
    }
    Ok(())
}

static RELOADS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "apiserver_manifest_admission_config_controller_automatic_reloads_total",
        "Total number of automatic reloads of admission manifest configuration split by status, plugin, and apiserver identity.",
        Stability::Alpha,
        &["status", "plugin", "apiserver_id_hash"],
    )
});
static RELOADED: LazyLock<GaugeVec> = LazyLock::new(|| {
    metrics::float_gauge_vec(
        "apiserver_manifest_admission_config_controller_automatic_reload_last_timestamp_seconds",
        "Timestamp of the last automatic reload of admission manifest configuration split by status, plugin, and apiserver identity.",
        Stability::Alpha,
        &["status", "plugin", "apiserver_id_hash"],
    )
});
static INFO: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    metrics::gauge_vec(
        "apiserver_manifest_admission_config_controller_last_config_info",
        "Information about the last applied admission manifest configuration with hash as label, split by plugin and apiserver identity.",
        Stability::Alpha,
        &["plugin", "apiserver_id_hash", "hash"],
    )
});

#[cfg(test)]
mod tests {
    use super::*;

    const POLICIES: Kinds = Kinds {
        plugin: "ValidatingAdmissionPolicy",
        what: "ValidatingAdmissionPolicy",
        binding: Some("ValidatingAdmissionPolicyBinding"),
    };
    const HOOKS: Kinds =
        Kinds { plugin: "ValidatingAdmissionWebhook", what: "ValidatingWebhookConfiguration", binding: None };

    fn policy(name: &str) -> String {
        format!(
            "apiVersion: {VERSION}\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: {name}}}\nspec:\n  matchConstraints: {{resourceRules: \
             [{{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]}}\n  validations: [{{expression: 'true'}}]\n"
        )
    }

    fn binding(name: &str, policy: &str) -> String {
        format!(
            "apiVersion: {VERSION}\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {{name: {name}}}\n\
             spec: {{policyName: {policy}, validationActions: [Deny]}}\n"
        )
    }

    fn hook(client: &str) -> String {
        format!(
            "apiVersion: {VERSION}\nkind: ValidatingWebhookConfiguration\nmetadata: {{name: h.static.k8s.io}}\nwebhooks: [{{name: \
             h.example.com, clientConfig: {client}, sideEffects: None, admissionReviewVersions: [v1], rules: [{{apiGroups: [''], \
             apiVersions: [v1], operations: [CREATE], resources: [pods]}}]}}]\n"
        )
    }

    fn names(files: &[(&str, &str)], kinds: Kinds) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let gates = Gates::default().with(Gate::ManifestBasedAdmissionControlConfig, true);
        let loaded = load(dir.path(), kinds, gates)?;
        let of = |(kind, all): (&&str, &Vec<Arc<Object>>)| {
            all.iter().map(|object| format!("{kind}/{}", object.name())).collect::<Vec<_>>()
        };
        Ok(loaded.objects.iter().flat_map(of).collect())
    }

    #[test]
    fn files_have_documents_lists_and_what_belongs_to_others() {
        let (b, a) = (policy("b.static.k8s.io"), policy("a.static.k8s.io"));
        let bound = binding("x.static.k8s.io", "a.static.k8s.io");
        let item = serde_json::to_string(&serde_saphyr::from_str::<Value>(&b).unwrap()).unwrap();
        let list = format!("{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{item}]}}");
        let found = names(
            &[
                ("1.yaml", &format!("---\n# none\n---\n{a}--- \n{bound}")),
                ("2.json", &list),
                ("3.txt", "nonsense"),
                ("4.yml", ""),
            ],
            POLICIES,
        );
        assert_eq!(
            found.unwrap(),
            [
                "ValidatingAdmissionPolicy/a.static.k8s.io",
                "ValidatingAdmissionPolicy/b.static.k8s.io",
                "ValidatingAdmissionPolicyBinding/x.static.k8s.io"
            ]
        );
        let own = names(&[("h.yaml", &hook("{url: 'https://h.example.com/x'}"))], HOOKS);
        assert_eq!(own.unwrap(), ["ValidatingWebhookConfiguration/h.static.k8s.io"]);
        assert_eq!(names(&[], HOOKS), Ok(Vec::new()));
    }

    #[test]
    fn what_is_of_no_use_is_named() {
        let good = policy("a.static.k8s.io");
        for (text, kinds, why) in [
            (policy("a"), POLICIES, "must have a name ending with \".static.k8s.io\""),
            (format!("{good}---\n{good}"), POLICIES, "duplicate name"),
            (
                good.replace("spec:", "spec:\n  paramKind: {apiVersion: v1, kind: ConfigMap}"),
                POLICIES,
                "paramKind is not supported",
            ),
            (good.replace("spec:", "spec:\n  strange: 1"), POLICIES, "unknown field \"spec.strange\""),
            (good.replace("'true'", "'1 +'"), POLICIES, "is invalid: spec.validations[0].expression"),
            (
                binding("x.static.k8s.io", "b.static.k8s.io"),
                POLICIES,
                "references policy \"b.static.k8s.io\" which does not exist",
            ),
            (good.clone(), HOOKS, "unsupported resource type"),
            (hook("{service: {name: svc, namespace: web}}"), HOOKS, "clientConfig.service is not supported"),
            ("a: [".to_owned(), HOOKS, "error loading"),
        ] {
            let error = names(&[("f.yaml", &text)], kinds).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
