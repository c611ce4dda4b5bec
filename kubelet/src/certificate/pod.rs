//! Certificates of pods: for each projected source a key, a request to its signer, and what came back; asked for again in
//! time, with another key.
//!
//! ```text
//! due -> request (key) -> issued -> in the volume -> due again at beginRefreshAt
//!              +--------> denied, failed: for good
//! ```
//! Nothing is kept over a restart: the pod then gets a new certificate. A volume asks on every round of its pod; answers of
//! signers wake the pod. Contract: projected podCertificate sources and PodCertificateRequest
//! certificates.k8s.io/v1beta1 (KEP-4317).

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_lc_rs::signature::Ed25519KeyPair;
use component_base::{informer::Informer, meta::ObjectKey};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1beta1::{PodCertificateRequest, PodCertificateRequestSpec},
        core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, RsaKeySize, SignatureAlgorithm};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use tokio::sync::watch;

use super::to_pem;
use crate::{
    events::{EventSink, Severity, pod_reference},
    metrics, pod,
};

/// A request that does not show this long after it was made has been deleted.
const ABANDONED: Duration = Duration::from_secs(600);
/// A certificate that is this much older than it should get is overdue.
const OVERDUE: Duration = Duration::from_secs(600);
/// What times are put off by at most, so that pods that began together do not ask together.
const JITTER: f64 = 300.0;

/// Why a pod's certificate cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PodCertificateError {
    /// Nobody has answered yet.
    #[error("credential bundle is not issued yet")]
    NotYet,
    /// The signer's last word.
    #[error("PodCertificateRequest was permanently {what}: reason={reason:?} message={message:?}")]
    Refused {
        /// `denied` or `failed`.
        what: &'static str,
        /// Why, in a word.
        reason: String,
        /// Why.
        message: String,
    },
    /// A kind of key that nobody makes.
    #[error("while generating keypair: unknown key type {0:?}")]
    KeyType(String),
    /// No key or request could be made.
    #[error("while generating keypair: {0}")]
    Generate(#[from] rcgen::Error),
    /// No key could be made.
    #[error("while generating keypair: the key cannot be made")]
    Key,
    /// The account is not there.
    #[error("while fetching service account: {0}")]
    Account(Box<kube::Error>),
    /// The node is not registered.
    #[error("while getting node object from local cache: not found")]
    Node,
    /// The API server does not take the request.
    #[error("while creating on API: {0}")]
    Send(Box<kube::Error>),
}

/// A key with its certificates, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// PKCS #8.
    pub key: String,
    /// The leaf first.
    pub chain: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Issued {
    bundle: Bundle,
    refresh_at: Timestamp,
    not_after: Timestamp,
    told_overdue: bool,
    told_expired: bool,
}

#[derive(Debug, Clone)]
struct Asked {
    key: String,
    request: String,
    abandon_at: Timestamp,
}

/// What is known of one projected source.
#[derive(Debug, Clone, Default)]
struct Held {
    signer: String,
    issued: Option<Issued>,
    asked: Option<Asked>,
    refused: Option<(&'static str, String, String)>,
}

/// Something to tell about the pod: reason and text.
type Told = (&'static str, String);

impl Held {
    /// Looks at what became of the request. `jitter` puts off the next one.
    fn settle(
        &mut self,
        seen: Option<&PodCertificateRequest>,
        now: Timestamp,
        jitter: Duration,
    ) -> Option<Told> {
        let asked = self.asked.as_ref()?;
        let Some(request) = seen else {
            // It is not known yet, or no longer.
            self.asked = Some(asked.clone()).filter(|asked| now <= asked.abandon_at);
            return None;
        };
        let status = request.status.as_ref()?;
        let of = |kind: &str| status.conditions.iter().flatten().find(|c| c.type_ == kind);
        let name = format!("{}/{}", request.metadata.namespace.as_deref().unwrap_or_default(), asked.request);
        for (kind, what, said) in [("Denied", "denied", "was denied"), ("Failed", "failed", "failed")] {
            let Some(condition) = of(kind) else { continue };
            let (reason, message) = (condition.reason.clone(), condition.message.clone());
            let told = format!("PodCertificateRequest {name} {said}, reason={reason:?}, message={message:?}");
            self.refused = Some((what, reason, message));
            self.asked = None;
            return Some((kind, told));
        }
        if of("Issued").is_some() {
            let chain = status.certificate_chain.as_deref().unwrap_or_default();
            let read = CertificateDer::pem_slice_iter(chain.as_bytes()).map_while(Result::ok);
            let time = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
                time.as_ref().map_or(now, |time| time.0)
            };
            let refresh_at = time(&status.begin_refresh_at);
            self.issued = Some(Issued {
                bundle: Bundle { key: asked.key.clone(), chain: to_pem(read) },
                refresh_at: refresh_at.checked_add(jitter).unwrap_or(refresh_at),
                not_after: time(&status.not_after),
                told_overdue: false,
                told_expired: false,
            });
            self.asked = None;
        }
        None
    }

    /// A request has to be made.
    fn is_due(&self, now: Timestamp) -> bool {
        let old = self.issued.as_ref().is_none_or(|issued| issued.refresh_at <= now);
        self.refused.is_none() && self.asked.is_none() && old
    }

    /// What is to be told of a certificate that should have been replaced; each once.
    fn lateness(&mut self, now: Timestamp) -> Vec<Told> {
        let Some(issued) = self.issued.as_mut().filter(|_| self.refused.is_none()) else { return vec![] };
        let mut told = Vec::new();
        if is_overdue(issued, now) && !std::mem::replace(&mut issued.told_overdue, true) {
            told.push(("CertificateOverdueForRefresh", "PodCertificate refresh overdue".to_owned()));
        }
        if now > issued.not_after && !std::mem::replace(&mut issued.told_expired, true) {
            told.push(("CertificateExpired", "PodCertificate expired".to_owned()));
        }
        told
    }

    fn answer(&self) -> Result<Bundle, PodCertificateError> {
        match (&self.refused, &self.issued) {
            (Some((what, reason, message)), _) => {
                Err(PodCertificateError::Refused { what, reason: reason.clone(), message: message.clone() })
            }
            (None, Some(issued)) => Ok(issued.bundle.clone()),
            (None, None) => Err(PodCertificateError::NotYet),
        }
    }

    /// Upstream's word for how it is.
    fn state(&self, now: Timestamp) -> &'static str {
        match (&self.refused, &self.issued) {
            (Some((what, ..)), _) => what,
            (None, None) => "not_yet_issued",
            (None, Some(issued)) if now > issued.not_after => "expired",
            (None, Some(issued)) if is_overdue(issued, now) => "overdue_for_refresh",
            (None, Some(_)) => "fresh",
        }
    }
}

fn is_overdue(issued: &Issued, now: Timestamp) -> bool {
    issued.refresh_at.checked_add(OVERDUE).is_ok_and(|end| now > end)
}

/// Where a projected source is: pod, volume, place among the volume's sources.
type Key = (String, String, usize);

/// The certificates of the pods on this node.
pub struct PodCertificates {
    client: Client,
    requests: Informer<PodCertificateRequest>,
    node: watch::Receiver<Option<Arc<Node>>>,
    events: Arc<dyn EventSink>,
    held: Mutex<HashMap<Key, Held>>,
}

impl PodCertificates {
    /// None yet. `requests` are those of this node.
    #[must_use]
    pub fn new(
        client: Client,
        requests: Informer<PodCertificateRequest>,
        node: watch::Receiver<Option<Arc<Node>>>,
        events: Arc<dyn EventSink>,
    ) -> Self {
        Self { client, requests, node, events, held: Mutex::default() }
    }

    /// The key and the certificates of a projected source, as they are now; asks for what is due.
    ///
    /// # Errors
    /// When there are none, or there never will be.
    pub async fn bundle(
        &self,
        pod: &Pod,
        volume: &str,
        index: usize,
        source: &PodCertificateProjection,
        now: Timestamp,
    ) -> Result<Bundle, PodCertificateError> {
        let key = (pod::uid(pod).to_owned(), volume.to_owned(), index);
        let (due, told) = {
            let mut held = self.held.lock();
            let own = held.entry(key.clone()).or_default();
            own.signer.clone_from(&source.signer_name);
            let seen = own.asked.as_ref().and_then(|asked| {
                let namespace = pod::namespace(pod).into();
                self.requests.store().get(&ObjectKey { namespace, name: asked.request.as_str().into() })
            });
            let mut told: Vec<Told> = own.settle(seen.as_deref(), now, jitter()).into_iter().collect();
            told.extend(own.lateness(now));
            (own.is_due(now), told)
        };
        for (reason, text) in told {
            self.events.send(pod_reference(pod), Severity::Warning, reason, &text);
        }
        let asked = if due { Some(self.ask(pod, source, now).await) } else { None };
        let mut held = self.held.lock();
        let own = held.entry(key).or_default();
        let answer = match asked {
            Some(Ok(asked)) => {
                own.asked = Some(asked);
                own.answer()
            }
            // What there is is good until it runs out.
            Some(Err(error)) => own.answer().map_err(|_| error),
            None => own.answer(),
        };
        count(&held, now);
        answer
    }

    async fn ask(
        &self,
        pod: &Pod,
        source: &PodCertificateProjection,
        now: Timestamp,
    ) -> Result<Asked, PodCertificateError> {
        let namespace = pod::namespace(pod);
        let account = pod::spec(pod).service_account_name.clone().unwrap_or_else(|| "default".to_owned());
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get(&account).await.map_err(|e| PodCertificateError::Account(Box::new(e)))?;
        let node = self.node.borrow().clone().ok_or(PodCertificateError::Node)?;
        let kind = source.key_type.clone();
        // A large key takes seconds to find.
        let made = tokio::task::spawn_blocking(move || key_and_request(&kind)).await;
        let (key, request) = made.map_err(|_| PodCertificateError::Key)??;
        let wanted = PodCertificateRequest {
            metadata: ObjectMeta {
                namespace: Some(namespace.to_owned()),
                generate_name: Some("req-".to_owned()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Pod".to_owned(),
                    name: pod::name(pod).to_owned(),
                    uid: pod::uid(pod).to_owned(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: PodCertificateRequestSpec {
                signer_name: source.signer_name.clone(),
                pod_name: pod::name(pod).to_owned(),
                pod_uid: pod::uid(pod).to_owned(),
                service_account_name: account,
                service_account_uid: found.metadata.uid.unwrap_or_default(),
                node_name: node.metadata.name.clone().unwrap_or_default(),
                node_uid: node.metadata.uid.clone().unwrap_or_default(),
                max_expiration_seconds: source.max_expiration_seconds,
                stub_pkc_s10_request: ByteString(request),
                unverified_user_annotations: source.user_annotations.clone(),
                ..PodCertificateRequestSpec::default()
            },
            status: None,
        };
        let api: Api<PodCertificateRequest> = Api::namespaced(self.client.clone(), namespace);
        let made = api
            .create(&PostParams::default(), &wanted)
            .await
            .map_err(|e| PodCertificateError::Send(Box::new(e)))?;
        let abandon_at = now.checked_add(ABANDONED + jitter()).unwrap_or(now);
        Ok(Asked { key, request: made.metadata.name.unwrap_or_default(), abandon_at })
    }

    /// The pod has ended.
    pub fn forget(&self, uid: &str) {
        let mut held = self.held.lock();
        held.retain(|(own, ..), _| own != uid);
        count(&held, Timestamp::now());
    }
}

fn jitter() -> Duration {
    Duration::from_secs_f64(rand::random::<f64>() * JITTER)
}

/// Shows how many sources there are in which state.
fn count(held: &HashMap<Key, Held>, now: Timestamp) {
    let states = &metrics::get().pod_certificates;
    states.reset();
    for own in held.values() {
        states.with_label_values(&[own.signer.as_str(), own.state(now)]).inc();
    }
}

/// A new key of this kind as PEM, and an empty signing request that it has signed.
fn key_and_request(kind: &str) -> Result<(String, Vec<u8>), PodCertificateError> {
    let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
    let curve = |algorithm: &'static SignatureAlgorithm| KeyPair::generate_for(algorithm);
    let key = match kind {
        "RSA3072" => rsa(RsaKeySize::_3072)?,
        "RSA4096" => rsa(RsaKeySize::_4096)?,
        "ECDSAP256" => curve(&rcgen::PKCS_ECDSA_P256_SHA256)?,
        "ECDSAP384" => curve(&rcgen::PKCS_ECDSA_P384_SHA384)?,
        "ECDSAP521" => curve(&rcgen::PKCS_ECDSA_P521_SHA512)?,
        "ED25519" => {
            // Not every library reads the second version of PKCS #8.
            let key = Ed25519KeyPair::generate().and_then(|key| key.to_pkcs8v1());
            let key = key.map_err(|_| PodCertificateError::Key)?;
            KeyPair::from_pkcs8_der_and_sign_algo(
                &PrivatePkcs8KeyDer::from(key.as_ref()),
                &rcgen::PKCS_ED25519,
            )?
        }
        other => return Err(PodCertificateError::KeyType(other.to_owned())),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?.der().to_vec();
    Ok((key.serialize_pem(), request))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use x509_parser::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn asked() -> Held {
        let asked = Asked { key: "KEY".into(), request: "req-1".into(), abandon_at: at(600) };
        Held { signer: "s".into(), asked: Some(asked), ..Held::default() }
    }

    fn request(kind: Option<&str>, chain: &str) -> PodCertificateRequest {
        let conditions: Vec<Value> = kind
            .map(|kind| {
                json!({"type": kind, "status": "True", "reason": "R", "message": "m",
                "lastTransitionTime": at(0).to_string()})
            })
            .into_iter()
            .collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "req-1"},
            "spec": {"nodeName": "n", "nodeUID": "", "podName": "p", "podUID": "u", "serviceAccountName": "a",
                "serviceAccountUID": "", "signerName": "s", "stubPKCS10Request": ""},
            "status": {"conditions": conditions, "certificateChain": chain,
                "beginRefreshAt": at(1000).to_string(), "notAfter": at(5000).to_string()},
        }))
        .unwrap()
    }

    fn pem(letters: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{letters}\n-----END CERTIFICATE-----\n")
    }

    #[test]
    fn what_is_issued_is_used_and_asked_for_again_in_time() {
        let mut held = Held::default();
        assert!(held.is_due(at(0)));
        held = asked();
        assert!(!held.is_due(at(0)));
        assert!(matches!(held.answer(), Err(PodCertificateError::NotYet)));
        assert_eq!(held.settle(Some(&request(None, "")), at(1), Duration::ZERO), None);
        assert!(held.asked.is_some());
        let chain = format!("words\n{}between\n{}", pem("YWE="), pem("YmI="));
        assert_eq!(held.settle(Some(&request(Some("Issued"), &chain)), at(1), Duration::from_secs(9)), None);
        let bundle = held.answer().unwrap();
        assert_eq!((bundle.key.as_str(), bundle.chain), ("KEY", (pem("YWE=") + &pem("YmI=")).into_bytes()));
        assert_eq!((held.is_due(at(1008)), held.is_due(at(1009))), (false, true));
        assert_eq!(held.state(at(1)), "fresh");
        // The old one is good while the next is waited for, and it is told once how late that is.
        held.asked = asked().asked;
        assert!(held.lateness(at(1609)).is_empty());
        assert_eq!(held.lateness(at(1610)).len(), 1);
        assert!(held.lateness(at(1611)).is_empty());
        assert_eq!(held.state(at(1611)), "overdue_for_refresh");
        assert_eq!(held.lateness(at(5001)), [("CertificateExpired", "PodCertificate expired".to_owned())]);
        assert_eq!(held.state(at(5001)), "expired");
        assert!(held.answer().is_ok());
    }

    #[test]
    fn a_request_that_vanishes_is_made_again_after_a_while() {
        let mut held = asked();
        assert_eq!(held.settle(None, at(600), Duration::ZERO), None);
        assert!(!held.is_due(at(600)));
        assert_eq!(held.settle(None, at(601), Duration::ZERO), None);
        assert!(held.is_due(at(601)));
    }

    #[test]
    fn a_refusal_is_for_good() {
        for (kind, what) in [("Denied", "denied"), ("Failed", "failed")] {
            let mut held = asked();
            let (reason, text) = held.settle(Some(&request(Some(kind), "")), at(1), Duration::ZERO).unwrap();
            assert_eq!(reason, kind);
            assert!(text.contains("ns/req-1") && text.contains("reason=\"R\", message=\"m\""), "{text}");
            assert_eq!(
                held.answer().unwrap_err().to_string(),
                format!("PodCertificateRequest was permanently {what}: reason=\"R\" message=\"m\"")
            );
            assert!(!held.is_due(at(100_000)));
            assert_eq!(held.state(at(1)), what);
        }
    }

    #[test]
    fn keys_of_every_kind_sign_an_empty_request() {
        // Large keys of RSA take long without optimization, and differ in their size alone.
        for kind in ["RSA3072", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"] {
            let (key, request) = key_and_request(kind).unwrap();
            assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{kind}");
            let (_, parsed) = X509CertificationRequest::from_der(&request).unwrap();
            assert_eq!(parsed.certification_request_info.subject.iter().count(), 0, "{kind}");
            // Whoever reads it here does not know signatures of the largest curve.
            assert!(kind == "ECDSAP521" || parsed.verify_signature().is_ok(), "{kind}");
        }
        let error = key_and_request("DSA").map(drop).unwrap_err().to_string();
        assert_eq!(error, "while generating keypair: unknown key type \"DSA\"");
    }
}
