//! One signing request: a new key, the request for it, and the wait until somebody has approved and a signer signed.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
};
use kube::{Api, Client, api::PostParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::{CertificateError, Purpose};

/// How long the answer is waited for.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How often it is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Whom a certificate is for.
#[derive(Debug, Clone)]
pub struct Subject {
    /// What it is for.
    pub purpose: Purpose,
    /// The node's name.
    pub node: String,
    /// The node's addresses; in serving certificates only.
    pub ips: Vec<IpAddr>,
}

/// A certificate with its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The chain, the node's first.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Subject {
    /// Whether enough is known to ask: a node that serves has an address, or where that is enough a name.
    #[must_use]
    pub fn is_known(&self, by_name: bool) -> bool {
        self.purpose != Purpose::Serving || by_name || !self.ips.is_empty()
    }
}

/// The request as PEM: the node's identity, and the names it serves under.
///
/// # Errors
/// When a name cannot stand in a certificate.
pub fn pem(subject: &Subject, key: &KeyPair) -> Result<String, CertificateError> {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "system:nodes");
    name.push(DnType::CommonName, format!("system:node:{}", subject.node));
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    if subject.purpose == Purpose::Serving {
        params.subject_alt_names.push(SanType::DnsName(subject.node.as_str().try_into()?));
        params.subject_alt_names.extend(subject.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    }
    Ok(params.serialize_request(key)?.pem()?)
}

fn object(subject: &Subject, request: String) -> CertificateSigningRequest {
    let mut object = CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: subject.purpose.signer().to_owned(),
            usages: Some(subject.purpose.usages().iter().map(|u| (*u).to_owned()).collect()),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    object.metadata.generate_name = Some("csr-".to_owned());
    object
}

/// Asks for a certificate and waits for it, a quarter of an hour at most.
///
/// # Errors
/// When it is refused, not answered, or the API server cannot be asked.
pub async fn obtain(client: &Client, subject: &Subject) -> Result<Signed, CertificateError> {
    let key = KeyPair::generate()?;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let wanted = object(subject, pem(subject, &key)?);
    let made = api.create(&PostParams::default(), &wanted).await.map_err(Box::new)?;
    let name = made.metadata.name.unwrap_or_default();
    tracing::info!(
        request = name,
        signer = subject.purpose.signer(),
        "waiting until the request is approved and signed"
    );
    let answered = async {
        loop {
            match api.get(&name).await {
                Ok(request) => {
                    if let Some(certificate) = answer(&request)? {
                        return Ok(certificate);
                    }
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    let message = "it was deleted".to_owned();
                    return Err(CertificateError::Refused { name: name.clone(), what: "denied", message });
                }
                Err(error) => tracing::warn!(request = name, %error, "cannot look for the certificate"),
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let certificate = tokio::time::timeout(PATIENCE, answered)
        .await
        .map_err(|_| CertificateError::Unanswered(name.clone()))??;
    Ok(Signed { certificate, key: key.serialize_pem() })
}

/// The certificate, `None` while there is no answer.
fn answer(request: &CertificateSigningRequest) -> Result<Option<String>, CertificateError> {
    let Some(status) = &request.status else { return Ok(None) };
    for condition in status.conditions.iter().flatten().filter(|c| c.status == "True") {
        let what = match condition.type_.as_str() {
            "Denied" => "denied",
            "Failed" => "failed",
            _ => continue,
        };
        return Err(CertificateError::Refused {
            name: request.metadata.name.clone().unwrap_or_default(),
            what,
            message: condition.message.clone().unwrap_or_default(),
        });
    }
    let signed = status.certificate.as_ref().filter(|c| !c.0.is_empty());
    Ok(signed.map(|c| String::from_utf8_lossy(&c.0).into_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use x509_parser::prelude::*;

    use super::*;

    fn parsed(purpose: Purpose) -> (String, usize) {
        let subject = Subject { purpose, node: "n1".into(), ips: vec!["192.0.2.1".parse().unwrap()] };
        let text = pem(&subject, &KeyPair::generate().unwrap()).unwrap();
        let (_, block) = parse_x509_pem(text.as_bytes()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&block.contents).unwrap();
        request.verify_signature().unwrap();
        let names = request.requested_extensions().into_iter().flatten().map(|e| match e {
            ParsedExtension::SubjectAlternativeName(names) => names.general_names.len(),
            _ => 0,
        });
        (request.certification_request_info.subject.to_string(), names.sum())
    }

    #[test]
    fn requests_name_the_node_and_where_it_serves() {
        assert_eq!(parsed(Purpose::Client), ("O=system:nodes, CN=system:node:n1".to_owned(), 0));
        assert_eq!(parsed(Purpose::Serving), ("O=system:nodes, CN=system:node:n1".to_owned(), 2));
    }

    #[test]
    fn an_answer_is_a_certificate_or_a_refusal() {
        let of = |status: serde_json::Value| {
            let object = json!({"metadata": {"name": "csr-1"}, "status": status,
                "spec": {"request": "", "signerName": "s"}});
            answer(&serde_json::from_value(object).unwrap()).map_err(|e| e.to_string())
        };
        let condition =
            |kind: &str| json!({"conditions": [{"type": kind, "status": "True", "message": "no"}]});
        assert_eq!(of(json!({})), Ok(None));
        assert_eq!(of(condition("Approved")), Ok(None));
        assert_eq!(of(condition("Denied")), Err("certificate signing request csr-1 was denied: no".into()));
        assert_eq!(of(condition("Failed")), Err("certificate signing request csr-1 was failed: no".into()));
        assert_eq!(of(json!({"certificate": "cGVt"})), Ok(Some("pem".into())));
    }
}
