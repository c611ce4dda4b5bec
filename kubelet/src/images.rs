//! Getting images: pull policies, pull secrets, one pull at a time, and back-off after failures.

pub mod providers;

use std::{collections::HashMap, sync::Arc, time::Instant};

use base64::Engine as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Secret};
use tokio::sync::Semaphore;

use self::providers::Providers;
use crate::{
    pod::{self, Role},
    runtime::{Runtime, cri, security::ImageUser},
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

/// The gate pulls go through, shared by all pods.
#[derive(Debug, Clone)]
pub struct PullGate(Arc<Semaphore>);

impl PullGate {
    /// So many pulls at a time.
    #[must_use]
    pub fn new(parallel: usize) -> Self {
        Self(Arc::new(Semaphore::new(parallel)))
    }
}

/// A pod's failed pulls, by image: when, and why.
#[derive(Debug, Default)]
pub struct PullHistory {
    backoffs: BackOffs,
    failures: HashMap<String, (Timestamp, String)>,
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
    /// The sandbox the container goes into.
    pub sandbox: &'a cri::PodSandboxConfig,
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
    let present = runtime.image(&name).await.map_err(|error| {
        let message = format!("Failed to inspect image {name:?}: {error}");
        tell(Warning, "InspectFailed", message.clone());
        not_there("ImageInspectError", message, None)
    })?;
    let policy = if matches!(role, Role::Ephemeral(_)) && container.image_pull_policy.is_none() {
        "IfNotPresent"
    } else {
        pod::image_pull_policy(container)
    };
    match (present, policy) {
        (Some(image), "IfNotPresent" | "Never") => {
            let text =
                format!("Container image {name:?} already present on machine and can be accessed by the pod");
            tell(Normal, "Pulled", text);
            return Ok(to_image(&image));
        }
        (None, "Never") => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            tell(Warning, "ErrImageNeverPull", message.clone());
            return Err(not_there("ErrImageNeverPull", message, None));
        }
        _ => {}
    }
    if let Some((failed, why)) = history.failures.get(&name)
        && let Some((until, _)) = history.backoffs.wait_until(&name, *failed, now)
    {
        tell(Normal, "BackOff", format!("Back-off pulling image {name:?}"));
        let message = format!("Back-off pulling image {name:?}: ErrImagePull: {why}");
        return Err(not_there("ImagePullBackOff", message, Some(until)));
    }
    tell(Normal, "Pulling", format!("Pulling image {name:?}"));
    let waited = Instant::now();
    // The semaphore is never closed; were it, pulling without waiting would still be right.
    let permit = gate.0.acquire().await.ok();
    let started = Instant::now();
    let pulled = pull(runtime, &name, request).await;
    drop(permit);
    let image = match pulled {
        Ok(()) => runtime.image(&name).await.ok().flatten(),
        Err(error) => {
            let why = error.to_string();
            tell(Warning, "Failed", format!("Failed to pull image {name:?}: {why}"));
            history.backoffs.next(&name, now, now);
            history.failures.insert(name, (now, why.clone()));
            let (until, _) =
                history.backoffs.wait_until(container.image.as_deref().unwrap_or_default(), now, now).unzip();
            return Err(not_there("ErrImagePull", why, until));
        }
    };
    let Some(image) = image else {
        return Err(not_there("ErrImagePull", format!("image {name:?} is missing after its pull"), None));
    };
    history.failures.remove(&name);
    history.backoffs.forget(&name);
    let took = component_base::goduration::format(started.elapsed());
    let with_waiting = component_base::goduration::format(waited.elapsed());
    let size = image.size;
    let text = format!(
        "Successfully pulled image {name:?} in {took} ({with_waiting} including waiting). Image size: {size} bytes."
    );
    tell(Normal, "Pulled", text);
    Ok(to_image(&image))
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
    name: &str,
    request: &Request<'_>,
) -> Result<(), crate::runtime::RuntimeError> {
    let sandbox = request.sandbox;
    let mut credentials = credentials(name, request.secrets);
    credentials.extend(request.providers.credentials(name).await);
    if credentials.is_empty() {
        runtime.pull(name, None, sandbox.clone()).await?;
        return Ok(());
    }
    let mut last = None;
    for auth in credentials {
        match runtime.pull(name, Some(auth), sandbox.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    last.map_or(Ok(()), Err)
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
pub fn credentials(image: &str, secrets: &[Arc<Secret>]) -> Vec<cri::AuthConfig> {
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
                found.extend(credential(entry));
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
    fn credentials_are_chosen_by_registry() {
        let secrets = [secret(
            r#"{"auths":{"https://reg.example:5000/v1/":{"auth":"dTpw"},"other":{"username":"x"}}}"#,
        )];
        let found = credentials("reg.example:5000/a/b:1", &secrets);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].username.as_str(), found[0].password.as_str()), ("u", "p"));
        assert!(credentials("busybox", &secrets).is_empty());
        assert!(credentials("busybox", &[secret("nonsense")]).is_empty());
    }
}
