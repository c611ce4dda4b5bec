//! Secrets of type `kubernetes.io/service-account-token` hold a token of the service account they name.
//!
//! Contract: upstream's `serviceaccount-token-controller` (`pkg/controller/serviceaccount/tokens_controller.go`):
//! the secret is filled, goes with its account, and the account forgets a secret that is gone. Tokens are the old
//! kind, without an end (`pkg/serviceaccount/legacy.go`).

use std::{collections::BTreeMap, path::Path, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use component_base::{
    client,
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, annotation, object_key},
    tls::{self, TlsError},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use rustls::SignatureAlgorithm;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Context;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const ISSUER: &str = "kubernetes/serviceaccount";

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("cannot read the key")]
    Read(#[from] std::io::Error),
    #[error("cannot load the key")]
    Load(#[from] TlsError),
    #[error("the key is no RSA or ECDSA P-256/P-384 key")]
    Kind,
    #[error("cannot use the key")]
    Rustls(#[from] rustls::Error),
    #[error("cannot sign")]
    Sign(#[from] jsonwebtoken::errors::Error),
    #[error("the API server")]
    Api(#[from] kube::Error),
}

/// Signs tokens.
struct Signer {
    key: EncodingKey,
    header: Header,
}

#[derive(Clone)]
struct Controller {
    client: Client,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    signer: Arc<Signer>,
    root_ca: Option<Arc<str>>,
}

/// What to do with a secret.
#[derive(Debug, PartialEq)]
enum Decision {
    Keep,
    /// Its account is gone.
    Delete,
    /// These fields are missing or old; the token is among them if `true`.
    Fill {
        token: bool,
    },
}

pub(super) fn start(ctx: &Context) {
    let Some(path) = &ctx.settings.service_account_key else {
        tracing::info!("no --service-account-private-key-file: token secrets are not filled");
        return;
    };
    let signer = match Signer::load(path) {
        Ok(signer) => Arc::new(signer),
        Err(error) => return ctx.tasks.fail(format!("--service-account-private-key-file: {error}")),
    };
    let typed = ListWatch { fields: Some(format!("type={TYPE}")), ..ListWatch::default() };
    let controller = Controller {
        client: ctx.client.clone(),
        secrets: ctx.informers.get(typed),
        accounts: ctx.informers.get(ListWatch::default()),
        signer,
        root_ca: ctx.settings.root_ca.as_deref().map(Arc::from),
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("serviceaccount_tokens_service");
    super::enqueue_changes(&controller.secrets, &queue);
    let (secrets, of_account) = (controller.secrets.clone(), queue.clone());
    controller.accounts.on_event(move |event| {
        let account = event.object();
        if matches!(event, Event::Updated { .. }) {
            return;
        }
        let namespace = account.metadata.namespace.as_deref().unwrap_or_default();
        for secret in secrets.store().in_namespace(namespace) {
            if annotation(&secret.metadata, ACCOUNT) == account.metadata.name.as_deref() {
                of_account.add(object_key(secret.as_ref()));
            }
        }
    });
    let forgetter = controller.clone();
    let gone: WorkQueue<ObjectKey> = WorkQueue::new("serviceaccount_tokens_service");
    let of_secret = gone.clone();
    controller.secrets.on_event(move |event| {
        if matches!(event, Event::Deleted { .. }) {
            of_secret.add(object_key(event.object().as_ref()));
        }
    });
    run_workers(&ctx.tasks, &gone, 1, move |key| {
        let forgetter = forgetter.clone();
        async move { forgetter.forget(&key).await.map(|()| Outcome::Done) }
    });
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-serviceaccount-token-syncs"), move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await.map(|()| Outcome::Done) }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<(), TokenError> {
        self.secrets.wait_synced().await;
        self.accounts.wait_synced().await;
        let Some(secret) = self.secrets.store().get(key) else { return Ok(()) };
        let account = self.account(&secret, key).await?;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let result = match (decide(&secret, account.as_deref(), self.root_ca.as_deref()), account) {
            (Decision::Delete, _) => {
                let same = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
                api.delete(&key.name, &DeleteParams::default().preconditions(same)).await.map(drop)
            }
            (Decision::Fill { token }, Some(account)) => {
                let token = match token {
                    true => Some(self.signer.sign(&claims(&secret, &account))?),
                    false => None,
                };
                let next = filled(&secret, &account, token, self.root_ca.as_deref());
                api.replace(&key.name, &PostParams::default(), &next).await.map(drop)
            }
            _ => Ok(()),
        };
        match result {
            // Another version comes with its event.
            Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// The account a secret names; the server is asked before a secret is taken to be an orphan.
    async fn account(
        &self,
        secret: &Secret,
        key: &ObjectKey,
    ) -> Result<Option<Arc<ServiceAccount>>, kube::Error> {
        let Some(name) = annotation(&secret.metadata, ACCOUNT) else { return Ok(None) };
        let of_secret = |account: &ServiceAccount| {
            let uid = annotation(&secret.metadata, ACCOUNT_UID).unwrap_or_default();
            uid.is_empty() || account.metadata.uid.as_deref() == Some(uid)
        };
        let cached = self.accounts.store().get(&ObjectKey::new(key.namespace.clone(), name));
        if let Some(account) = cached.filter(|a| of_secret(a)) {
            return Ok(Some(account));
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
        Ok(api.get_opt(name).await?.filter(of_secret).map(Arc::new))
    }

    /// Takes a secret that is gone from the lists of the accounts that name it.
    async fn forget(&self, gone: &ObjectKey) -> Result<(), kube::Error> {
        if self.secrets.store().get(gone).is_some() {
            return Ok(());
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &gone.namespace);
        for account in self.accounts.store().in_namespace(&gone.namespace) {
            let names_it =
                |r: &k8s_openapi::api::core::v1::ObjectReference| r.name.as_deref() == Some(&gone.name);
            if !account.secrets.iter().flatten().any(names_it) {
                continue;
            }
            let mut next = (*account).clone();
            next.secrets.get_or_insert_default().retain(|r| !names_it(r));
            let name = account.metadata.name.as_deref().unwrap_or_default();
            match api.replace(name, &PostParams::default(), &next).await {
                Err(e) if !client::is_not_found(&e) => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

fn field<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
    secret.data.as_ref().and_then(|d| d.get(key)).map_or(&[], |v| v.0.as_slice())
}

fn decide(secret: &Secret, account: Option<&ServiceAccount>, root_ca: Option<&str>) -> Decision {
    // One that names no account is none of ours.
    if annotation(&secret.metadata, ACCOUNT).is_none_or(str::is_empty) {
        return Decision::Keep;
    }
    if account.is_none() {
        return Decision::Delete;
    }
    let token = field(secret, "token").is_empty();
    let old_ca = root_ca.is_some_and(|ca| field(secret, "ca.crt") != ca.as_bytes());
    if token || old_ca || field(secret, "namespace").is_empty() {
        Decision::Fill { token }
    } else {
        Decision::Keep
    }
}

fn filled(secret: &Secret, account: &ServiceAccount, token: Option<String>, root_ca: Option<&str>) -> Secret {
    let mut next = secret.clone();
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    let data = next.data.get_or_insert_default();
    if let Some(ca) = root_ca {
        data.insert("ca.crt".to_owned(), ByteString(ca.as_bytes().to_vec()));
    }
    if let Some(token) = token {
        data.insert("token".to_owned(), ByteString(token.into_bytes()));
    }
    data.entry("namespace".to_owned()).or_insert_with(|| ByteString(namespace.into_bytes()));
    let annotations: &mut BTreeMap<String, String> = next.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT.to_owned(), account.metadata.name.clone().unwrap_or_default());
    annotations.insert(ACCOUNT_UID.to_owned(), account.metadata.uid.clone().unwrap_or_default());
    next
}

fn claims(secret: &Secret, account: &ServiceAccount) -> Value {
    let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
    let name = account.metadata.name.as_deref().unwrap_or_default();
    json!({
        "iss": ISSUER,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.metadata.name,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.metadata.uid,
    })
}

impl Signer {
    fn load(path: &Path) -> Result<Signer, TokenError> {
        let pem = std::fs::read(path)?;
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&tls::load_key(path)?)?;
        let (algorithm, encoding) = match key.algorithm() {
            SignatureAlgorithm::RSA => (Algorithm::RS256, EncodingKey::from_rsa_pem(&pem)?),
            SignatureAlgorithm::ECDSA
                if key.choose_scheme(&[rustls::SignatureScheme::ECDSA_NISTP256_SHA256]).is_some() =>
            {
                (Algorithm::ES256, EncodingKey::from_ec_pem(&pem)?)
            }
            SignatureAlgorithm::ECDSA
                if key.choose_scheme(&[rustls::SignatureScheme::ECDSA_NISTP384_SHA384]).is_some() =>
            {
                (Algorithm::ES384, EncodingKey::from_ec_pem(&pem)?)
            }
            _ => return Err(TokenError::Kind),
        };
        let mut header = Header::new(algorithm);
        header.typ = None;
        // The key's name is the hash of its public half.
        let public = key.public_key().map(|spki| Sha256::digest(spki.as_ref()));
        header.kid = public.map(|hash| BASE64_URL_SAFE_NO_PAD.encode(hash));
        Ok(Signer { key: encoding, header })
    }

    fn sign(&self, claims: &Value) -> Result<String, TokenError> {
        Ok(jsonwebtoken::encode(&self.header, claims, &self.key)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(more: Value) -> Secret {
        let mut value = json!({
            "metadata": {"name": "s", "namespace": "n", "annotations": {ACCOUNT: "a"}}, "type": TYPE,
        });
        value["data"] = more;
        serde_json::from_value(value).unwrap()
    }

    fn account() -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n", "uid": "u"}})).unwrap()
    }

    #[test]
    fn secrets_are_filled_once_and_go_with_their_account() {
        let empty = secret(json!({}));
        assert_eq!(decide(&empty, Some(&account()), Some("CA")), Decision::Fill { token: true });
        assert_eq!(decide(&empty, None, Some("CA")), Decision::Delete);
        let full = filled(&empty, &account(), Some("t".into()), Some("CA"));
        assert_eq!(decide(&full, Some(&account()), Some("CA")), Decision::Keep);
        assert_eq!(decide(&full, Some(&account()), Some("NEW")), Decision::Fill { token: false });
        assert_eq!(decide(&full, Some(&account()), None), Decision::Keep);
        assert_eq!(field(&full, "namespace"), b"n");
        assert_eq!(annotation(&full.metadata, ACCOUNT_UID), Some("u"));
        let mut nameless = empty;
        nameless.metadata.annotations = None;
        assert_eq!(decide(&nameless, None, None), Decision::Keep);
    }

    #[test]
    fn a_token_says_whose_it_is_and_which_key_signed_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let signer = Signer::load(&path).unwrap();
        let token = signer.sign(&claims(&secret(json!({})), &account())).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let read = |part: &str| -> Value {
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        assert_eq!(read(parts[0])["alg"], "ES256");
        assert_eq!(read(parts[0])["kid"].as_str().unwrap().len(), 43);
        assert_eq!(read(parts[1])["sub"], "system:serviceaccount:n:a");
        assert_eq!(read(parts[1])["kubernetes.io/serviceaccount/secret.name"], "s");
    }
}
