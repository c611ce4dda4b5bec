//! Getting images: pull policies, pull secrets, one pull at a time, and back-off after failures. Whether a pod may use one that
//! is there is in `verified`.

pub mod providers;
pub mod reference;
pub mod verified;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use component_base::workqueue::Bucket;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Secret};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use self::{
    providers::{Providers, account::Asker},
    verified::{PullAccount, PullSecret, Records, untagged},
};
use crate::{
    pod::{self, Role},
    runtime::{Runtime, RuntimeError, cri, security::ImageUser},
    starts::STARTS,
    status::generate::Waiting,
    worker::backoff::BackOffs,
};

/// An image that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its id in the runtime.
    pub reference: String,
    /// Its user.
    pub user: ImageUser,
}

/// Where credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The node itself, or nowhere: every pod has them.
    Node,
    /// A secret.
    Secret(PullSecret),
    /// A service account, by its token.
    Account(PullAccount),
}

/// What a registry may ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Credential {
    /// For the runtime.
    pub auth: cri::AuthConfig,
    /// Whose they are.
    pub origin: Origin,
}

/// The gate pulls go through, shared by all pods.
#[derive(Debug, Clone)]
pub struct PullGate(Arc<Gate>);

#[derive(Debug)]
struct Gate {
    at_once: Semaphore,
    rate: Option<Mutex<Bucket>>,
}

impl PullGate {
    /// So many pulls at a time, and in a second with so many at once; a rate of zero is none.
    #[must_use]
    pub fn new(parallel: usize, qps: i32, burst: i32) -> Self {
        let rate = (qps > 0).then(|| Mutex::new(Bucket::new(qps.into(), burst.into())));
        Self(Arc::new(Gate { at_once: Semaphore::new(parallel), rate }))
    }

    /// One more may begin.
    fn admits(&self, now: tokio::time::Instant) -> bool {
        self.0.rate.as_ref().is_none_or(|rate| rate.lock().try_take(now))
    }
}

/// A pull that failed.
#[derive(Debug)]
struct Failed {
    at: Timestamp,
    reason: &'static str,
    why: String,
}

/// A pod's failed pulls, by image: when, and why.
#[derive(Debug, Default)]
pub struct PullHistory {
    backoffs: BackOffs,
    failures: HashMap<String, Failed>,
}

/// Why an image is not there yet, and when to try again.
#[derive(Debug)]
pub struct NotThere {
    /// For the container's state.
    pub waiting: Waiting,
    /// When to try again.
    pub retry: Option<Timestamp>,
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The container's place in its pod.
    pub role: Role,
    /// The container that needs the image.
    pub container: &'a Container,
    /// The pod's pull secrets.
    pub secrets: &'a [Arc<Secret>],
    /// Programs that know credentials.
    pub providers: &'a Providers,
    /// The pod that they are asked for.
    pub asker: Asker<'a>,
    /// Who may use what is there.
    pub records: &'a Records,
    /// The sandbox the container goes into.
    pub sandbox: &'a cri::PodSandboxConfig,
    /// The image, if it has just been seen.
    pub seen: Option<&'a cri::Image>,
    /// The time.
    pub now: Timestamp,
}

/// Says what happens: reason and text, for an event of the container.
pub type Tell<'a> = &'a (dyn Fn(crate::events::Severity, &str, String) + Sync);

/// Makes sure that the container's image is there.
///
/// # Errors
/// When it is not: why, and when to try again.
pub async fn ensure(
    runtime: &Runtime,
    gate: &PullGate,
    history: &mut PullHistory,
    request: &Request<'_>,
    tell: Tell<'_>,
) -> Result<Image, NotThere> {
    use crate::events::Severity::{Normal, Warning};
    let Request { role, container, now, .. } = *request;
    let name = container.image.clone().unwrap_or_default();
    let tagged = reference::with_tag(&name).map_err(|error| {
        let why = format!("couldn't parse image name {name:?}: {error}");
        let message = format!("Failed to apply default image tag {name:?}: {why}");
        tell(Warning, "InspectFailed", message.clone());
        not_there("InvalidImageName", message, None)
    })?;
    let present = match request.seen {
        Some(image) => Some(image.clone()),
        None => runtime.image(&tagged).await.map_err(|error| {
            let message = format!("Failed to inspect image {name:?}: {error}");
            tell(Warning, "InspectFailed", message.clone());
            not_there("ImageInspectError", message, None)
        })?,
    };
    let policy = if matches!(role, Role::Ephemeral(_)) && container.image_pull_policy.is_none() {
        "IfNotPresent"
    } else {
        pod::image_pull_policy(container)
    };
    let usable = match &present {
        None => false,
        Some(image) => {
            let mut own = credentials(&name, request.secrets);
            if request.records.asks_for_account(&name, &image.id) {
                own.extend(request.providers.credentials(&name, request.asker).await);
            }
            !request.records.must_pull(&name, &image.id, &own, now)
        }
    };
    let is_present = present.is_some();
    let pulls = policy == "Always" || (policy != "Never" && !usable);
    let told = |is: bool| if is { "true" } else { "false" };
    let kind = match policy {
        "Always" => "always",
        "Never" => "never",
        _ => "ifnotpresent",
    };
    let labels = [told(is_present), kind, told(pulls)];
    crate::metrics::get().ensure_image.with_label_values(&labels).inc();
    match (present, policy) {
        (Some(image), "IfNotPresent" | "Never") if usable => {
            let text =
                format!("Container image {name:?} already present on machine and can be accessed by the pod");
            tell(Normal, "Pulled", text);
            return Ok(to_image(&image));
        }
        (_, "Never") => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            tell(Warning, "ErrImageNeverPull", message.clone());
            return Err(not_there("ErrImageNeverPull", message, None));
        }
        _ => {}
    }
    if let Some(Failed { at: failed, reason, why }) = history.failures.get(&name)
        && let Some((until, _)) = history.backoffs.wait_until(&name, *failed, now)
    {
        tell(Normal, "BackOff", format!("Back-off pulling image {name:?}"));
        let message = format!("Back-off pulling image {name:?}: {reason}: {why}");
        return Err(not_there("ImagePullBackOff", message, Some(until)));
    }
    let intent = |why: std::io::Error| {
        let message = format!("Failed to record image pull intent for container image {name:?}: {why}");
        not_there("ErrImagePull", message, None)
    };
    request.records.pulling(&name).map_err(intent)?;
    let intent = Intent { records: request.records, image: &name, ended: false };
    tell(Normal, "Pulling", format!("Pulling image {name:?}"));
    let waited = Instant::now();
    // The semaphore is never closed; were it, pulling without waiting would still be right.
    let permit = gate.0.at_once.acquire().await.ok();
    let started = Instant::now();
    let uid = request.sandbox.metadata.as_ref().map_or("", |metadata| &metadata.uid);
    STARTS.pulls(uid, Timestamp::now());
    let pulled = pull(runtime, gate, &name, &tagged, request).await;
    STARTS.has_pulled(uid, Timestamp::now());
    drop(permit);
    let image = match pulled {
        Ok(origin) => {
            let image = runtime.image(&tagged).await.ok().flatten();
            image.inspect(|image| intent.pulled(&image.id, &origin))
        }
        Err(error) => {
            drop(intent);
            let said = words(&error);
            tell(Warning, "Failed", format!("Failed to pull image {name:?}: {said}"));
            history.backoffs.next(&name, now, now);
            let (reason, why) = refused(&name, &said);
            history.failures.insert(name.clone(), Failed { at: now, reason, why: why.clone() });
            let (until, _) =
                history.backoffs.wait_until(container.image.as_deref().unwrap_or_default(), now, now).unzip();
            return Err(not_there(reason, why, until));
        }
    };
    let Some(image) = image else {
        return Err(not_there("ErrImagePull", format!("image {name:?} is missing after its pull"), None));
    };
    history.failures.remove(&name);
    history.backoffs.forget(&name);
    let shown = |since: Instant| component_base::goduration::format(whole_millis(since.elapsed()));
    let (took, with_waiting) = (shown(started), shown(waited));
    let size = image.size;
    let pulls = crate::metrics::get().image_pulls.with_label_values(&[crate::metrics::image_size(size)]);
    pulls.observe(started.elapsed().as_secs_f64());
    let text = format!(
        "Successfully pulled image {name:?} in {took} ({with_waiting} including waiting). Image size: {size} bytes."
    );
    tell(Normal, "Pulled", text);
    Ok(to_image(&image))
}

/// As long as it took, as far as anybody wants to know.
fn whole_millis(took: Duration) -> Duration {
    Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
}

/// What the runtime said of a pull; that an error is of no known kind is no news.
fn words(error: &RuntimeError) -> String {
    match error {
        RuntimeError::Call { code: tonic::Code::Unknown, message } => message.clone(),
        error => error.to_string(),
    }
}

/// Reasons that runtimes give by the first word of what they say (CRI's `errors`), with what that means.
const REASONS: [(&str, &str); 2] = [
    ("RegistryUnavailable", "the registry is unavailable"),
    ("SignatureValidationFailed", "the signature validation failed"),
];

/// Why a container waits whose image was not pulled: reason and text.
fn refused(name: &str, said: &str) -> (&'static str, String) {
    for (reason, meaning) in REASONS {
        if let Some(more) = said.strip_prefix(reason) {
            return (reason, format!("image pull failed for {name} because {meaning}{more}"));
        }
    }
    ("ErrImagePull", said.to_owned())
}

fn not_there(reason: &str, message: String, retry: Option<Timestamp>) -> NotThere {
    NotThere { waiting: Waiting { reason: reason.to_owned(), message }, retry }
}

fn to_image(image: &cri::Image) -> Image {
    let user = match &image.uid {
        Some(uid) => ImageUser::Id(uid.value),
        None if image.username.is_empty() => ImageUser::Id(0),
        None => ImageUser::Name(image.username.clone()),
    };
    Image { reference: image.id.clone(), user }
}

async fn pull(
    runtime: &Runtime,
    gate: &PullGate,
    name: &str,
    tagged: &str,
    request: &Request<'_>,
) -> Result<Origin, RuntimeError> {
    let pull = async |auth| match gate.admits(tokio::time::Instant::now()) {
        true => runtime.pull(tagged, auth, request.sandbox.clone()).await,
        false => Err(RuntimeError::Throttled),
    };
    let mut credentials = credentials(name, request.secrets);
    credentials.extend(request.providers.credentials(name, request.asker).await);
    if credentials.is_empty() {
        pull(None).await?;
        return Ok(Origin::Node);
    }
    let mut last = None;
    for Credential { auth, origin } in credentials {
        match pull(Some(auth)).await {
            Ok(_) => return Ok(origin),
            Err(error) => last = Some(error),
        }
    }
    last.map_or(Ok(Origin::Node), Err)
}

/// The record of a pull that goes on: it ends with the pull, also with one that is broken off.
struct Intent<'a> {
    records: &'a Records,
    image: &'a str,
    ended: bool,
}

impl Intent<'_> {
    fn pulled(mut self, reference: &str, with: &Origin) {
        self.records.pulled(self.image, reference, with, Timestamp::now());
        self.ended = true;
    }
}

impl Drop for Intent<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.records.failed(self.image);
        }
    }
}

/// An image's name with its registry, and without tag and digest.
#[must_use]
pub fn repository(image: &str) -> String {
    let name = untagged(image).unwrap_or(image);
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// The host of an image's registry.
#[must_use]
pub fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// The credentials in pull secrets that are for the image's registry.
#[must_use]
pub fn credentials(image: &str, secrets: &[Arc<Secret>]) -> Vec<Credential> {
    let mut found = Vec::new();
    for secret in secrets {
        let Some(data) = &secret.data else { continue };
        let (bytes, nested) = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
            (Some(bytes), _) => (bytes, true),
            (None, Some(bytes)) => (bytes, false),
            _ => continue,
        };
        // A secret that is no such document has no credentials.
        let Ok(document) = serde_json::from_slice::<serde_json::Value>(&bytes.0) else { continue };
        let entries = if nested { &document["auths"] } else { &document };
        for (server, entry) in entries.as_object().into_iter().flatten() {
            if server_matches(server, image) {
                let text = |field: &Option<String>| field.clone().unwrap_or_default();
                let origin = |credential_hash| {
                    let (namespace, name) = (text(&secret.metadata.namespace), text(&secret.metadata.name));
                    let uid = text(&secret.metadata.uid);
                    Origin::Secret(PullSecret { namespace, name, uid, credential_hash })
                };
                let auth = credential(entry);
                found.extend(auth.map(|auth| Credential { origin: origin(hash(&auth, entry)), auth }));
            }
        }
    }
    found
}

fn server_matches(server: &str, image: &str) -> bool {
    let plain = server.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = plain.split_once('/').unwrap_or((plain, ""));
    let wanted = registry(image);
    let docker =
        wanted == "docker.io" && matches!(host, "index.docker.io" | "docker.io" | "registry-1.docker.io");
    let path = path.trim_end_matches('/');
    docker
        || (host == wanted
            && (matches!(path, "" | "v1" | "v2") || image.starts_with(&format!("{host}/{path}"))))
}

fn credential(entry: &serde_json::Value) -> Option<cri::AuthConfig> {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let (mut username, mut password) = (text("username"), text("password"));
    if username.is_empty()
        && let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(text("auth"))
        && let Some((user, pass)) = String::from_utf8_lossy(&bytes).split_once(':')
    {
        (username, password) = (user.to_owned(), pass.to_owned());
    }
    let token = text("identitytoken");
    if username.is_empty() && token.is_empty() {
        return None;
    }
    Some(cri::AuthConfig { username, password, identity_token: token, ..cri::AuthConfig::default() })
}

/// What credentials come to: the SHA-256 of the text that Go makes of them.
fn hash(auth: &cri::AuthConfig, entry: &serde_json::Value) -> String {
    let email = entry["email"].as_str().unwrap_or_default();
    let fields = [("username", auth.username.as_str()), ("password", &auth.password), ("email", email)];
    let named = |(key, value): (&str, &str)| format!("{key:?}:{}", serde_json::Value::from(value));
    let text: Vec<String> = fields.into_iter().filter(|(_, value)| !value.is_empty()).map(named).collect();
    let mut text = format!("{{{}}}", text.join(","));
    for (letter, written) in [
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u{2028}", "\\u2028"),
        ("\u{2029}", "\\u2029"),
    ] {
        text = text.replace(letter, written);
    }
    verified::hex(digest(&SHA256, text.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(json: &str) -> Arc<Secret> {
        let data = std::collections::BTreeMap::from([(
            ".dockerconfigjson".to_owned(),
            k8s_openapi::ByteString(json.as_bytes().to_vec()),
        )]);
        Arc::new(Secret { data: Some(data), ..Secret::default() })
    }

    #[test]
    fn runtimes_say_why_nothing_was_pulled() {
        let error = |code, message: &str| RuntimeError::Call { code, message: message.to_owned() };
        for (error, reason, text) in [
            (
                error(tonic::Code::Unknown, "RegistryUnavailable: no route"),
                "RegistryUnavailable",
                "image pull failed for a because the registry is unavailable: no route",
            ),
            (
                error(tonic::Code::Unknown, "SignatureValidationFailed"),
                "SignatureValidationFailed",
                "image pull failed for a because the signature validation failed",
            ),
            (error(tonic::Code::Unknown, "no such host"), "ErrImagePull", "no such host"),
            (
                error(tonic::Code::NotFound, "no such tag"),
                "ErrImagePull",
                "rpc error: code = NotFound desc = no such tag",
            ),
        ] {
            assert_eq!(refused("a", &words(&error)), (reason, text.to_owned()));
        }
        assert_eq!(whole_millis(Duration::from_micros(1_234_567)), Duration::from_millis(1234));
    }

    #[test]
    fn images_have_a_registry_and_no_tag() {
        for (image, name) in [
            ("busybox:1", "docker.io/library/busybox"),
            ("team/app@sha256:00", "docker.io/team/app"),
            ("reg.example:5000/app:1@sha256:00", "reg.example:5000/app"),
            ("localhost/app", "localhost/app"),
        ] {
            assert_eq!(repository(image), name);
        }
    }

    #[test]
    fn credentials_are_chosen_by_registry() {
        let secrets = [secret(
            r#"{"auths":{"https://reg.example:5000/v1/":{"auth":"dTpw"},"other":{"username":"x"}}}"#,
        )];
        let found = credentials("reg.example:5000/a/b:1", &secrets);
        assert_eq!(found.len(), 1);
        let auth = &found[0].auth;
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("u", "p"));
        // printf '{"username":"u","password":"p"}' | sha256sum
        let Origin::Secret(origin) = &found[0].origin else { panic!("it is from a secret") };
        assert_eq!(
            origin.credential_hash,
            "edbd57ca9372e64eb1c9070ecf3a049ac553596b0529acf034c7a71d4e618e88"
        );
        let odd = serde_json::json!({ "email": "e" });
        let auth = cri::AuthConfig { password: "<&>\u{2028}".into(), ..cri::AuthConfig::default() };
        // printf '{"password":"\\u003c\\u0026\\u003e\\u2028","email":"e"}' | sha256sum
        assert_eq!(hash(&auth, &odd), "b371fd5af292ae80f98f3fc30246093f8cf7adb605092417bad414498956e514");
        assert!(credentials("busybox", &secrets).is_empty());
        assert!(credentials("busybox", &[secret("nonsense")]).is_empty());
    }
}
