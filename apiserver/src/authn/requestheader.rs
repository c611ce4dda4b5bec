//! Users named by a front proxy: headers count on connections whose certificate the proxy's own CA signed.
//!
//! Contract: "Authenticating proxy"; upstream's `headerrequest`.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;

use super::x509::{CaError, ClientCertificates};
use crate::{
    auth::{Authenticator, Credentials, User},
    bootstrap::authentication_facts::RequestHeader,
};

/// The front proxy that is believed.
pub struct FrontProxy {
    certificates: ClientCertificates,
    header: RequestHeader,
}

impl FrontProxy {
    /// Believes holders of certificates that `pem` signed, of the allowed names if there are any.
    ///
    /// # Errors
    /// When the bundle holds no usable certificate.
    pub fn new(pem: &[u8], header: RequestHeader) -> Result<Self, CaError> {
        Ok(Self { certificates: ClientCertificates::new(pem)?, header })
    }

    /// Believes certificates of another bundle from now on.
    ///
    /// # Errors
    /// When it holds no usable certificate; the old one stays.
    pub fn reload(&self, pem: &[u8]) -> Result<(), CaError> {
        self.certificates.reload(pem)
    }

    /// Takes the headers out that name a user, whoever sent them.
    pub fn clear(&self, headers: &mut HeaderMap) {
        let RequestHeader { username_headers, uid_headers, group_headers, extra_headers_prefix, .. } =
            &self.header;
        for name in username_headers.iter().chain(uid_headers).chain(group_headers) {
            headers.remove(name.to_ascii_lowercase().as_str());
        }
        let is_extra =
            |name: &&HeaderName| extra_headers_prefix.iter().any(|p| rest(name.as_str(), p).is_some());
        let extra: Vec<HeaderName> = headers.keys().filter(is_extra).cloned().collect();
        for name in extra {
            headers.remove(name);
        }
    }

    /// Whether a request names a user.
    pub fn names_user(&self, headers: &HeaderMap) -> bool {
        self.header.username_headers.iter().any(|name| headers.contains_key(name.as_str()))
    }

    fn user(&self, headers: &HeaderMap) -> Option<User> {
        let all = |names: &[String]| -> Vec<String> {
            let values = names.iter().flat_map(|name| headers.get_all(name.to_ascii_lowercase().as_str()));
            let texts = values.filter_map(|v| v.to_str().ok()).filter(|v| !v.is_empty());
            texts.map(str::to_owned).collect()
        };
        let name = all(&self.header.username_headers).into_iter().next()?;
        let uid = all(&self.header.uid_headers).into_iter().next().unwrap_or_default();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.header.extra_headers_prefix {
            for (header, value) in headers {
                let Some(key) = rest(header.as_str(), prefix) else { continue };
                let key = percent_decode_str(key).decode_utf8().map_or_else(|_| key.to_owned(), Into::into);
                let value = value.to_str().unwrap_or_default();
                extra.entry(key.to_lowercase()).or_default().push(value.to_owned());
            }
        }
        Some(User { name, uid, groups: all(&self.header.group_headers), extra })
    }
}

/// What follows a prefix, whatever its case.
fn rest<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = name.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[async_trait]
impl Authenticator for FrontProxy {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Option<Arc<User>>, String> {
        // Nearly all requests name nobody, and then their certificates are none of a proxy's business.
        let Some(user) = self.user(&credentials.headers) else { return Ok(None) };
        let now = Timestamp::now().as_second();
        let Some(proxy) = self.certificates.user_at(&credentials.peer_certificates, now)? else {
            return Ok(None);
        };
        let allowed = &self.header.allowed_names;
        if !allowed.is_empty() && !allowed.contains(&proxy.name) {
            return Err(format!("x509: subject with cn={} is not in the allowed list", proxy.name));
        }
        Ok(Some(Arc::new(user)))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };

    use std::sync::Arc;

    use super::*;
    use crate::auth::PeerCertificates;

    fn authority() -> (String, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
    }

    fn certificate(issuer: &Issuer<'static, KeyPair>, name: &str) -> Vec<Vec<u8>> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        vec![params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().to_vec()]
    }

    #[tokio::test]
    async fn only_the_front_proxy_names_users() {
        let (pem, issuer) = authority();
        let (_, stranger) = authority();
        let list = |text: &str| vec![text.to_owned()];
        let header = RequestHeader {
            client_ca: String::new(),
            allowed_names: list("front"),
            username_headers: vec!["X-Other".to_owned(), "X-Remote-User".to_owned()],
            uid_headers: list("X-Remote-Uid"),
            group_headers: list("X-Remote-Group"),
            extra_headers_prefix: list("X-Remote-Extra-"),
        };
        let proxy = FrontProxy::new(pem.as_bytes(), header).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "me"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-example.org%2fk", "v"),
            ("x-remote-extra-k", "w"),
            ("accept", "*/*"),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let ask = |chain: Vec<Vec<u8>>, headers: HeaderMap| {
            let credentials = Credentials {
                peer_certificates: Arc::new(PeerCertificates::new(chain)),
                headers,
                ..Credentials::default()
            };
            let proxy = &proxy;
            async move { proxy.authenticate(&credentials).await }
        };
        let user = ask(certificate(&issuer, "front"), headers.clone()).await.unwrap().unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.as_slice()),
            ("me", &["a".to_owned(), "b".to_owned()][..])
        );
        assert_eq!((&user.extra["example.org/k"], &user.extra["k"]), (&list("v"), &list("w")));
        assert_eq!(ask(vec![], headers.clone()).await.unwrap(), None);
        assert_eq!(ask(certificate(&issuer, "front"), HeaderMap::new()).await.unwrap(), None);
        assert!(ask(certificate(&issuer, "other"), headers.clone()).await.unwrap_err().contains("cn=other"));
        assert!(ask(certificate(&stranger, "front"), headers.clone()).await.is_err());
        proxy.clear(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
