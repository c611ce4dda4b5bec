//! Every controller as itself: a client with the token of the controller's own service account.
//!
//! Contract: `--use-service-account-credentials`; upstream's `staging/src/k8s.io/controller-manager/pkg/clientbuilder`:
//! accounts live in `kube-system`, are made when missing, and their tokens (TokenRequest) are renewed when a fifth of
//! their life is left. The roles `system:controller:*` are bound to these accounts.

use std::{collections::BTreeMap, time::Duration};

use component_base::{
    client::{self, ClientError, ClientOptions, SharedConnection},
    task::Tasks,
    workqueue::chain,
};
use http::HeaderValue;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use tokio::sync::watch;

const NAMESPACE: &str = "kube-system";
/// Life asked for.
const SECONDS: i64 = 7200;
/// After a failure, while the API server comes up.
const AGAIN: Duration = Duration::from_secs(1);

/// Controllers that act as the daemon itself: no role is bound to an account of theirs.
const AS_DAEMON: &[&str] = &["serviceaccount-token-controller"];
/// Accounts that are not called as their controllers are.
const ACCOUNTS: &[(&str, &str)] = &[
    ("bootstrap-signer-controller", "bootstrap-signer"),
    ("certificatesigningrequest-approving-controller", "certificate-controller"),
    ("certificatesigningrequest-cleaner-controller", "certificate-controller"),
    ("certificatesigningrequest-signing-controller", "certificate-controller"),
    ("daemonset-controller", "daemon-set-controller"),
    ("endpoints-controller", "endpoint-controller"),
    ("endpointslice-mirroring-controller", "endpointslicemirroring-controller"),
    ("garbage-collector-controller", "generic-garbage-collector"),
    ("horizontal-pod-autoscaler-controller", "horizontal-pod-autoscaler"),
    (
        "kube-apiserver-serving-clustertrustbundle-publisher-controller",
        "kube-apiserver-serving-clustertrustbundle-publisher",
    ),
    ("legacy-serviceaccount-token-cleaner-controller", "legacy-service-account-token-cleaner"),
    ("node-ipam-controller", "node-controller"),
    ("node-lifecycle-controller", "node-controller"),
    ("persistentvolume-attach-detach-controller", "attachdetach-controller"),
    ("persistentvolume-binder-controller", "persistent-volume-binder"),
    ("persistentvolume-expander-controller", "expand-controller"),
    ("persistentvolume-protection-controller", "pv-protection-controller"),
    ("persistentvolumeclaim-protection-controller", "pvc-protection-controller"),
    ("pod-garbage-collector-controller", "pod-garbage-collector"),
    ("podcertificaterequest-cleaner-controller", "podcertificaterequestcleaner"),
    ("replicationcontroller-controller", "replication-controller"),
    ("resourceclaim-controller", "resource-claim-controller"),
    ("root-ca-certificate-publisher-controller", "root-ca-cert-publisher"),
    ("service-ca-certificate-publisher-controller", "service-ca-cert-publisher"),
    ("service-cidr-controller", "service-cidrs-controller"),
    ("serviceaccount-controller", "service-account-controller"),
    ("storageversion-garbage-collector-controller", "storage-version-garbage-collector"),
    ("taint-eviction-controller", "node-controller"),
    ("token-cleaner-controller", "token-cleaner"),
];

/// Makes clients for controllers, one per account.
pub struct Identities {
    connection: SharedConnection,
    own: Client,
    made: Mutex<BTreeMap<&'static str, Client>>,
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Identities").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("the API server")]
    Api(#[from] kube::Error),
    #[error("the answer holds no usable token")]
    Empty,
}

impl Identities {
    /// Identities over one connection; `own`, a client of the daemon's, asks for their tokens.
    pub fn new(connection: SharedConnection, own: Client) -> Identities {
        Identities { connection, own, made: Mutex::default() }
    }

    /// The client of a controller, `daemon` for those without an identity of their own. The others' requests wait
    /// for their first token. `hurried` has the limits of a controller that sends many requests.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn client(
        &self,
        controller: &'static str,
        daemon: &Client,
        hurried: Option<&ClientOptions>,
        tasks: &Tasks,
    ) -> Result<Client, ClientError> {
        if AS_DAEMON.contains(&controller) {
            return Ok(daemon.clone());
        }
        let account = account(controller);
        let mut made = self.made.lock();
        if let Some(client) = made.get(account) {
            return Ok(client.clone());
        }
        let (sender, bearer) = watch::channel(None);
        let connection = match hurried {
            Some(options) => self.connection.with_limits_of(options),
            None => self.connection.clone(),
        };
        let client = connection.client(account, bearer)?;
        let (own, drain) = (self.own.clone(), tasks.drain());
        tasks.spawn(format!("token of {account}"), async move {
            drain.run_until_cancelled(keep(&own, account, &sender)).await;
        });
        made.insert(account, client.clone());
        Ok(client)
    }
}

/// The service account of a controller.
fn account(controller: &'static str) -> &'static str {
    ACCOUNTS.iter().find(|(name, _)| *name == controller).map_or(controller, |(_, account)| account)
}

/// Renews the token until it is cancelled.
async fn keep(own: &Client, account: &str, sender: &watch::Sender<Option<HeaderValue>>) {
    loop {
        match request(own, account).await {
            Ok(value) => {
                sender.send_replace(Some(value));
                // A fifth of its life is left then.
                tokio::time::sleep(Duration::from_secs(SECONDS.unsigned_abs() / 5 * 4)).await;
            }
            Err(error) => {
                tracing::warn!(account, error = chain(&error), "no token yet, will be retried");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn request(own: &Client, account: &str) -> Result<HeaderValue, TokenError> {
    let api: Api<ServiceAccount> = Api::namespaced(own.clone(), NAMESPACE);
    if api.get_opt(account).await?.is_none() {
        let mut missing = ServiceAccount::default();
        missing.metadata.name = Some(account.to_owned());
        match api.create(&PostParams::default(), &missing).await {
            Err(e) if !client::is_already_exists(&e) => return Err(e.into()),
            _ => {}
        }
    }
    let spec = TokenRequestSpec { expiration_seconds: Some(SECONDS), ..TokenRequestSpec::default() };
    let body = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let answer: TokenRequest =
        api.create_subresource("token", account, &PostParams::default(), &body).await?;
    let token = answer.status.and_then(|s| s.token).filter(|t| !t.is_empty()).ok_or(TokenError::Empty)?;
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| TokenError::Empty)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_have_upstreams_names() {
        assert_eq!(account("daemonset-controller"), "daemon-set-controller");
        assert_eq!(account("replicaset-controller"), "replicaset-controller");
    }
}
