//! Certificates by the name a client asks for (`--tls-sni-cert-key`).
//!
//! Contract: upstream's flag: `certfile,keyfile[:pattern,pattern]`, patterns are domain names, the first label of which
//! may be `*`; without patterns the names in the certificate count. What is said outdoes what is read from
//! certificates, whole names outdo wildcards, and of two equal ones the first counts.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::prelude::GeneralName;

use super::{ServingCertificate, TlsError, load_pair};

/// One value of `--tls-sni-cert-key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPair {
    /// File with the certificate.
    pub certificate: PathBuf,
    /// File with its key.
    pub key: PathBuf,
    /// Whom it is for; the certificate's own names when empty.
    pub patterns: Vec<String>,
}

/// Which certificate a client gets.
#[derive(Debug)]
pub struct Certificates {
    /// The one for all other names, and for those who ask for none.
    fallback: Arc<ServingCertificate>,
    pairs: Vec<NamedPair>,
    named: ArcSwap<Vec<Named>>,
}

#[derive(Debug)]
struct Named {
    pattern: String,
    /// Whether the flag says the pattern.
    said: bool,
    pair: Arc<CertifiedKey>,
}

// === impl NamedPair ===

impl NamedPair {
    /// Reads a value of the flag.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<NamedPair, String> {
        // Paths may have colons; patterns have none.
        let (files, patterns) = match text.rsplit_once(':') {
            Some((files, patterns)) if files.contains(',') => (files, patterns),
            _ => (text, ""),
        };
        let files: Vec<&str> = files.split(',').collect();
        let [certificate, key] = files.as_slice() else {
            return Err("expected comma separated certificate and key file paths".to_owned());
        };
        if certificate.trim().is_empty() || key.trim().is_empty() {
            return Err("expected comma separated certificate and key file paths".to_owned());
        }
        let patterns: Vec<String> =
            patterns.split(',').map(str::trim).filter(|p| !p.is_empty()).map(str::to_lowercase).collect();
        if let Some(wrong) = patterns.iter().find(|pattern| !is_pattern(pattern)) {
            return Err(format!(
                "domain pattern {wrong:?} is no domain name, optionally with a leading \"*.\""
            ));
        }
        Ok(NamedPair { certificate: certificate.trim().into(), key: key.trim().into(), patterns })
    }
}

/// Whether a text is a domain name, of which the first label may be a wildcard. Addresses are none: clients ask by name.
fn is_pattern(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && name.parse::<std::net::IpAddr>().is_err()
}

// === impl Certificates ===

impl Certificates {
    /// One for all, others for those who ask for their names.
    ///
    /// # Errors
    /// When a file is of no use.
    pub fn new(fallback: Arc<ServingCertificate>, pairs: Vec<NamedPair>) -> Result<Certificates, TlsError> {
        let certificates = Certificates { fallback, pairs, named: ArcSwap::default() };
        certificates.reload()?;
        Ok(certificates)
    }

    /// The files of the named ones.
    pub fn files(&self) -> Vec<PathBuf> {
        self.pairs.iter().flat_map(|pair| [pair.certificate.clone(), pair.key.clone()]).collect()
    }

    /// Reads the named ones again; when one is of no use, all stay as they were.
    ///
    /// # Errors
    /// When a file is of no use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let mut all = Vec::new();
        for NamedPair { certificate, key, patterns } in &self.pairs {
            let pair = Arc::new(load_pair(certificate, key)?);
            let said = !patterns.is_empty();
            let patterns = if said { patterns.clone() } else { names_in(&pair) };
            all.extend(patterns.into_iter().map(|pattern| Named { pattern, said, pair: pair.clone() }));
        }
        self.named.store(Arc::new(all));
        Ok(())
    }

    fn of(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let name = name.trim_end_matches('.').to_lowercase();
        let wildcard = name.split_once('.').map(|(_, domain)| format!("*.{domain}")).unwrap_or_default();
        let named = self.named.load();
        let find = |wanted: &str, said: bool| named.iter().find(|n| n.said == said && n.pattern == wanted);
        let found = find(&name, true)
            .or_else(|| find(&wildcard, true))
            .or_else(|| find(&name, false))
            .or_else(|| find(&wildcard, false));
        found.map(|named| named.pair.clone())
    }
}

/// The names in a certificate, the common one where it says no other.
fn names_in(pair: &CertifiedKey) -> Vec<String> {
    let Some(leaf) = pair.cert.first() else { return Vec::new() };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(leaf) else { return Vec::new() };
    let mut names = Vec::new();
    if let Ok(Some(alternatives)) = parsed.subject_alternative_name() {
        for name in &alternatives.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push(name.to_lowercase()),
                // Not asked for by name, but then the common name is none either.
                _ => names.push(String::new()),
            }
        }
    }
    if names.is_empty() {
        let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.map(str::to_lowercase));
    }
    names.retain(|name| is_pattern(name));
    names
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(named) = hello.server_name().and_then(|name| self.of(name)) {
            return Some(named);
        }
        self.fallback.resolve(hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_files_and_domains() {
        let pair = |certificate: &str, key: &str, patterns: &[&str]| NamedPair {
            certificate: certificate.into(),
            key: key.into(),
            patterns: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
        };
        for (text, expected) in [
            ("a.crt,a.key", pair("a.crt", "a.key", &[])),
            ("a.crt, a.key:*.Foo.com,foo.com", pair("a.crt", "a.key", &["*.foo.com", "foo.com"])),
            ("/c:/a.crt,/c:/a.key:x", pair("/c:/a.crt", "/c:/a.key", &["x"])),
        ] {
            assert_eq!(NamedPair::parse(text), Ok(expected), "{text}");
        }
        for text in ["", "a.crt", "a.crt,", "a,b,c", "a,b:*", "a,b:foo.*.com", "a,b:10.0.0.1", "a,b:-x"] {
            assert!(NamedPair::parse(text).is_err(), "{text}");
        }
    }

    /// The files of a certificate for these names.
    fn files(directory: &std::path::Path, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let at = |end: &str| directory.join(format!("{file}.{end}"));
        std::fs::write(at("crt"), made.cert.pem()).unwrap();
        std::fs::write(at("key"), made.signing_key.serialize_pem()).unwrap();
        (at("crt"), at("key"))
    }

    #[test]
    fn what_is_said_outdoes_what_is_read_and_names_outdo_wildcards() {
        let directory = tempfile::tempdir().unwrap();
        let pair = |file: &str, names: &[&str], patterns: &[&str]| {
            let (certificate, key) = files(directory.path(), file, names);
            let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            NamedPair { certificate, key, patterns }
        };
        let fallback = super::super::self_signed(std::path::Path::new(""), "x", &["x".to_owned()]).unwrap();
        let pairs = vec![
            pair("read", &["a.test", "*.b.test", "c.test"], &[]),
            pair("said", &["unread.test"], &["c.test", "*.d.test"]),
            pair("whole", &["z.test"], &["www.d.test"]),
            pair("late", &["y.test"], &["c.test"]),
        ];
        let loaded: Vec<_> = pairs.iter().map(|p| load_pair(&p.certificate, &p.key).unwrap().cert).collect();
        let certificates = Certificates::new(Arc::new(ServingCertificate::new(fallback)), pairs).unwrap();
        let which = |name: &str| {
            let found = certificates.of(name)?;
            loaded.iter().position(|cert| *cert == found.cert)
        };
        for (name, expected) in [
            ("a.test", Some(0)),
            ("A.test.", Some(0)),
            ("x.b.test", Some(0)),
            ("x.y.b.test", None),
            ("b.test", None),
            ("c.test", Some(1)),
            ("x.d.test", Some(1)),
            ("www.d.test", Some(2)),
            ("unread.test", None),
            ("other", None),
        ] {
            assert_eq!(which(name), expected, "{name}");
        }
        // What replaces a certificate's file may be for other names.
        files(directory.path(), "read", &["e.test"]);
        certificates.reload().unwrap();
        assert!(certificates.of("e.test").is_some() && certificates.of("a.test").is_none());
        // Half of a new pair changes nothing.
        std::fs::write(directory.path().join("whole.crt"), "no certificate").unwrap();
        assert!(certificates.reload().is_err());
        assert!(certificates.of("www.d.test").is_some());
    }
}
