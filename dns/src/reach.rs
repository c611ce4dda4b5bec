//! How the API server is reached: as the Corefile says, else as the flags do, else as a pod.

use std::path::PathBuf;

use component_base::client::{self, ClientError, ClientOptions};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use serde_json::json;

use crate::{corefile::Reach, options::Config};

/// Why it cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// A kubeconfig, or what the Corefile says in the place of one.
    #[error("kubeconfig {0}")]
    Kubeconfig(PathBuf, #[source] Box<KubeconfigError>),
    /// What the Corefile says makes no kubeconfig.
    #[error("endpoint")]
    Endpoint(#[from] serde_json::Error),
    /// The client.
    #[error("API client")]
    Client(#[from] ClientError),
}

/// A client; it connects lazily.
///
/// # Errors
/// When files are unusable.
pub async fn connect(reach: &Reach, config: &Config) -> Result<kube::Client, ReachError> {
    let options = ClientOptions {
        kubeconfig: config.kubeconfig.clone(),
        master: config.master.clone(),
        qps: reach.qps,
        burst: reach.burst,
        ..ClientOptions::new("kube-dns")
    };
    let Some((file, context, from)) = kubeconfig(reach)? else {
        return Ok(client::connect(&options).await?);
    };
    let choice = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let failed = |error| ReachError::Kubeconfig(from.clone(), Box::new(error));
    let config =
        kube::Config::from_custom_kubeconfig(file.map_err(failed)?, &choice).await.map_err(failed)?;
    Ok(client::from_config(config, &options)?)
}

type Read = (Result<Kubeconfig, KubeconfigError>, Option<String>, PathBuf);

/// The kubeconfig of the Corefile: a file, or one made of `endpoint` and `tls`, which a file goes before.
fn kubeconfig(reach: &Reach) -> Result<Option<Read>, serde_json::Error> {
    if let Some((file, context)) = &reach.kubeconfig {
        return Ok(Some((Kubeconfig::read_from(file), context.clone(), file.clone())));
    }
    let Some(endpoint) = &reach.endpoint else { return Ok(None) };
    let file = |at: usize| reach.tls.as_ref().and_then(|files| files.get(at));
    let made = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "corefile",
        "clusters": [{"name": "corefile", "cluster": {"server": endpoint, "certificate-authority": file(2)}}],
        "users": [{"name": "corefile", "user": {"client-certificate": file(0), "client-key": file(1)}}],
        "contexts": [{"name": "corefile", "context": {"cluster": "corefile", "user": "corefile"}}],
    });
    Ok(Some((Ok(serde_json::from_value(made)?), None, "Corefile".into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_with_certificates_is_a_kubeconfig() {
        let reach = Reach {
            endpoint: Some("https://10.0.0.1:6443".into()),
            tls: Some(["c".into(), "k".into(), "a".into()]),
            ..Reach::default()
        };
        let made = kubeconfig(&reach).unwrap().unwrap().0.unwrap();
        let cluster = made.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://10.0.0.1:6443"));
        assert_eq!(cluster.certificate_authority.as_deref(), Some("a"));
        let user = made.auth_infos[0].auth_info.as_ref().unwrap();
        assert_eq!((user.client_certificate.as_deref(), user.client_key.as_deref()), (Some("c"), Some("k")));
        assert!(kubeconfig(&Reach::default()).unwrap().is_none());
        // A file goes before it.
        let both = Reach { kubeconfig: Some(("/nowhere".into(), Some("other".into()))), ..reach };
        let (read, context, from) = kubeconfig(&both).unwrap().unwrap();
        assert!(read.is_err() && context.as_deref() == Some("other") && from.ends_with("nowhere"));
    }
}
