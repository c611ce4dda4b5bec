//! Joining a cluster: with a kubeconfig that may do no more than ask, the node gets a certificate of its own and a kubeconfig
//! that refers to it.

use std::path::{Path, PathBuf};

use component_base::client::{self, ClientOptions};
use jiff::Timestamp;
use kube::config::{AuthInfo, Context, Kubeconfig, NamedAuthInfo, NamedContext};

use super::{
    CertificateError,
    request::{self, Subject},
    rotation::until_had,
    store::Store,
};
use crate::checkpoint::replace;

/// Whether the node has to ask for a first certificate: it has no kubeconfig, or one whose certificate has run out.
#[must_use]
pub fn needed(kubeconfig: &Path, store: &Store, now: Timestamp) -> bool {
    if !kubeconfig.exists() {
        return true;
    }
    // Only a kubeconfig that refers to the store depends on what is there.
    let refers = Kubeconfig::read_from(kubeconfig).is_ok_and(|c| refers_to(&c, &store.current()));
    refers && store.load().is_none_or(|(_, validity)| validity.until <= now)
}

/// The kubeconfig's user shows the certificate in this file.
#[must_use]
pub fn refers_to(config: &Kubeconfig, file: &Path) -> bool {
    let users = config.auth_infos.iter().filter_map(|u| u.auth_info.as_ref());
    users.into_iter().any(|u| u.client_certificate.as_deref().is_some_and(|c| Path::new(c) == file))
}

/// Asks for the first certificate until it is there, then writes the kubeconfig.
///
/// # Errors
/// When the bootstrap kubeconfig cannot be used or the new one not be written.
pub async fn run(
    bootstrap: &Path,
    kubeconfig: &Path,
    node: &str,
    store: &Store,
) -> Result<(), CertificateError> {
    let options = ClientOptions { kubeconfig: Some(bootstrap.to_owned()), ..ClientOptions::new("kubelet") };
    let client = client::connect(&options).await?;
    let subject = Subject::client(node);
    let signed = until_had(|| request::obtain(&client, &subject)).await;
    store.save(&signed, Timestamp::now())?;
    let read = Kubeconfig::read_from(bootstrap).map_err(|source| {
        let source = Box::new(source);
        CertificateError::Client(client::ClientError::Kubeconfig { path: bootstrap.to_owned(), source })
    })?;
    let config =
        own(read, &store.current()).ok_or_else(|| CertificateError::NoCluster(bootstrap.to_owned()))?;
    write(kubeconfig, &config)
}

/// The bootstrap's cluster with the node's own certificate; `None` when it names no cluster.
fn own(bootstrap: Kubeconfig, certificate: &Path) -> Option<Kubeconfig> {
    let context = bootstrap.current_context.as_ref();
    let context = bootstrap.contexts.iter().find(|c| Some(&c.name) == context)?.context.as_ref()?;
    let cluster = bootstrap.clusters.iter().find(|c| c.name == context.cluster)?.clone();
    let certificate = Some(certificate.to_string_lossy().into_owned());
    let user =
        AuthInfo { client_certificate: certificate.clone(), client_key: certificate, ..AuthInfo::default() };
    let name = "default-auth".to_owned();
    Some(Kubeconfig {
        kind: Some("Config".into()),
        api_version: Some("v1".into()),
        current_context: Some("default-context".into()),
        contexts: vec![NamedContext {
            name: "default-context".into(),
            context: Some(Context {
                cluster: cluster.name.clone(),
                user: Some(name.clone()),
                ..Context::default()
            }),
            ..NamedContext::default()
        }],
        clusters: vec![cluster],
        auth_infos: vec![NamedAuthInfo { name, auth_info: Some(user), ..NamedAuthInfo::default() }],
        ..Kubeconfig::default()
    })
}

/// Written beside and renamed, so that there is never half a kubeconfig. JSON is YAML.
fn write(path: &Path, config: &Kubeconfig) -> Result<(), CertificateError> {
    let failed = |path: &Path| {
        let path: PathBuf = path.to_owned();
        move |source| CertificateError::File { path, source }
    };
    let text = serde_json::to_vec_pretty(config).map_err(|error| failed(path)(error.into()))?;
    replace(path, &text).map_err(failed(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::Purpose;

    #[test]
    fn the_new_kubeconfig_has_the_cluster_and_the_nodes_certificate() {
        let text = r#"{"apiVersion":"v1","kind":"Config","current-context":"b",
            "contexts":[{"name":"b","context":{"cluster":"k","user":"token"}}],
            "clusters":[{"name":"other","cluster":{"server":"https://no"}},
                {"name":"k","cluster":{"server":"https://192.0.2.1:6443","certificate-authority-data":"Y2E="}}],
            "users":[{"name":"token","user":{"token":"abcdef.0123456789abcdef"}}]}"#;
        let dir = tempfile::tempdir().unwrap();
        let (path, store) = (dir.path().join("kubelet.conf"), Store::new(dir.path(), Purpose::Client));
        assert!(needed(&path, &store, Timestamp::now()));
        let config = own(Kubeconfig::from_yaml(text).unwrap(), &store.current()).unwrap();
        write(&path, &config).unwrap();
        let read = Kubeconfig::read_from(&path).unwrap();
        assert!(refers_to(&read, &store.current()));
        assert!(!refers_to(&read, Path::new("/else")));
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://192.0.2.1:6443"));
        assert_eq!(read.auth_infos.len(), 1);
        // It refers to a certificate that is not there.
        assert!(needed(&path, &store, Timestamp::now()));
    }

    #[test]
    fn a_bootstrap_without_its_cluster_is_refused() {
        let text = r#"{"apiVersion":"v1","kind":"Config","current-context":"b","contexts":[],"clusters":[],"users":[]}"#;
        assert!(own(Kubeconfig::from_yaml(text).unwrap(), Path::new("/c")).is_none());
    }
}
