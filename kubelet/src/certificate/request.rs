//! One signing request: a new key, the request for it, and the wait until somebody has approved and a signer signed.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
        core::v1::NodeAddress,
    },
};
use kube::{Api, Client, api::PostParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{CertificateError, Purpose};

/// How long the answer is waited for.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How often it is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What it is for.
    pub purpose: Purpose,
    /// The node's name.
    pub node: String,
    /// The names the node serves under; in serving certificates only.
    pub names: Vec<String>,
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
    /// The node as a caller.
    #[must_use]
    pub fn client(node: &str) -> Self {
        Self { purpose: Purpose::Client, node: node.to_owned(), names: vec![], ips: vec![] }
    }

    /// The node as a server, by the addresses of its status.
    #[must_use]
    pub fn serving(node: &str, addresses: &[NodeAddress]) -> Self {
        let (mut names, mut ips) = (BTreeSet::new(), BTreeSet::new());
        for NodeAddress { address, type_ } in addresses.iter().filter(|a| !a.address.is_empty()) {
            match (address.parse::<IpAddr>(), type_.as_str()) {
                (Ok(ip), "Hostname" | "InternalIP" | "ExternalIP") => drop(ips.insert(ip)),
                (_, "Hostname" | "InternalDNS" | "ExternalDNS") => drop(names.insert(address.clone())),
                _ => {}
            }
        }
        Self {
            purpose: Purpose::Serving,
            node: node.to_owned(),
            names: names.into_iter().collect(),
            ips: ips.into_iter().collect(),
        }
    }

    /// Whether enough is known to ask: a node that serves has an address, or where that is enough a name.
    #[must_use]
    pub fn is_known(&self, by_name: bool) -> bool {
        self.purpose != Purpose::Serving || !self.ips.is_empty() || (by_name && !self.names.is_empty())
    }

    /// Whether a certificate is for all of this.
    #[must_use]
    pub fn is_of(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
        let mut names = certificate.subject().iter_common_name();
        let own = format!("system:node:{}", self.node);
        let extension = certificate.subject_alternative_name().ok().flatten();
        let listed: Vec<&GeneralName<'_>> =
            extension.iter().flat_map(|extension| &extension.value.general_names).collect();
        let has_name = |wanted: &String| {
            listed.iter().any(|name| matches!(name, GeneralName::DNSName(name) if name == wanted))
        };
        let has_ip = |wanted: &IpAddr| {
            let octets = match wanted {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            listed.iter().any(|name| matches!(name, GeneralName::IPAddress(ip) if *ip == octets))
        };
        names.any(|name| name.as_str().is_ok_and(|name| name == own))
            && self.names.iter().all(has_name)
            && self.ips.iter().all(has_ip)
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
        for name in &subject.names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
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

    fn addresses(list: &[(&str, &str)]) -> Vec<NodeAddress> {
        let one = |(kind, address): &(&str, &str)| NodeAddress {
            address: (*address).to_owned(),
            type_: (*kind).to_owned(),
        };
        list.iter().map(one).collect()
    }

    #[test]
    fn a_node_serves_under_what_its_status_tells() {
        let of = |list: &[(&str, &str)]| {
            let subject = Subject::serving("n1", &addresses(list));
            let ips: Vec<String> = subject.ips.iter().map(ToString::to_string).collect();
            (subject.names.join(" "), ips.join(" "), subject.is_known(false), subject.is_known(true))
        };
        for (list, names, ips, known, by_name) in [
            (&[][..], "", "", false, false),
            (&[("Hostname", "n1")], "n1", "", false, true),
            (
                &[("InternalIP", "192.0.2.2"), ("ExternalIP", "192.0.2.1"), ("Hostname", "n1")],
                "n1",
                "192.0.2.1 192.0.2.2",
                true,
                true,
            ),
            (
                &[("Hostname", "192.0.2.1"), ("InternalIP", "192.0.2.1"), ("InternalIP", "none")],
                "",
                "192.0.2.1",
                true,
                true,
            ),
            (
                &[("InternalDNS", "b"), ("ExternalDNS", "a"), ("Hostname", ""), ("Other", "x")],
                "a b",
                "",
                false,
                true,
            ),
        ] {
            assert_eq!(of(list), (names.to_owned(), ips.to_owned(), known, by_name), "{list:?}");
        }
        assert!(Subject::client("n1").is_known(false));
    }

    #[test]
    fn a_certificate_is_for_all_that_it_lists() {
        let subject = |node: &str, list: &[(&str, &str)]| Subject::serving(node, &addresses(list));
        let listed = [("Hostname", "n1"), ("InternalIP", "192.0.2.1"), ("InternalIP", "2001:db8::1")];
        let mut params =
            CertificateParams::new(vec!["n1".to_owned(), "192.0.2.1".to_owned(), "2001:db8::1".to_owned()])
                .unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let is_of = |subject: Subject| subject.is_of(made.der());
        assert!(
            is_of(subject("n1", &listed))
                && is_of(subject("n1", &listed[..1]))
                && is_of(Subject::client("n1"))
        );
        assert!(!is_of(subject("n2", &listed)));
        assert!(!is_of(subject("n1", &[("Hostname", "n2")])));
        assert!(!is_of(subject("n1", &[("InternalIP", "192.0.2.2")])));
        assert!(!subject("n1", &listed).is_of(&CertificateDer::from(vec![1, 2])));
    }

    fn parsed(purpose: Purpose) -> (String, usize) {
        let listed = addresses(&[("Hostname", "n1"), ("InternalIP", "192.0.2.1")]);
        let subject = match purpose {
            Purpose::Client => Subject::client("n1"),
            Purpose::Serving => Subject::serving("n1", &listed),
        };
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
