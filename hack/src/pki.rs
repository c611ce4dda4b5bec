//! The cluster's certificates and keys, as `kubeadm` users would expect them.
//!
//! Existing files are kept, so that a second run converges; a serving certificate whose addresses
//! changed is made anew. Names follow the Kubernetes "PKI certificates and requirements" page.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// A certificate and its key on disk.
#[derive(Clone, Debug)]
pub struct Pair {
    /// PEM certificate.
    pub cert: PathBuf,
    /// PEM key, readable by root alone.
    pub key: PathBuf,
}

/// What a leaf certificate is for.
#[derive(Clone, Debug, Default)]
pub struct Leaf<'a> {
    /// File stem under the PKI folder.
    pub file: &'a str,
    /// Common name: the user.
    pub name: &'a str,
    /// Organisation: the group; empty for none.
    pub group: &'a str,
    /// DNS names and IP addresses a server certificate is valid for; empty for clients.
    pub hosts: Vec<String>,
}

/// The folder of a certificate authority and its leaves.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    name: &'static str,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Loads `<dir>/<name>.crt`, or makes it.
    pub fn load_or_create(dir: &Path, name: &'static str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        let pair = Pair { cert: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) };
        if !pair.cert.exists() {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, format!("keelson-{name}"));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
                KeyUsagePurpose::DigitalSignature,
            ];
            set_validity(&mut params, 3650);
            write(&pair.cert, &params.self_signed(&key)?.pem(), 0o644)?;
            write(&pair.key, &key.serialize_pem(), 0o600)?;
        }
        let pem = fs::read_to_string(&pair.cert)?;
        let key = KeyPair::from_pem(&fs::read_to_string(&pair.key)?)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).context("unreadable CA certificate")?;
        Ok(Self { dir: dir.to_owned(), name, issuer })
    }

    /// The authority's certificate file.
    pub fn cert(&self) -> PathBuf {
        self.dir.join(format!("{}.crt", self.name))
    }

    /// The authority's key file.
    pub fn key(&self) -> PathBuf {
        self.dir.join(format!("{}.key", self.name))
    }

    /// The pair of a leaf, made when missing or when its hosts changed.
    pub fn leaf(&self, leaf: &Leaf<'_>) -> Result<Pair> {
        let at = |ending: &str| self.dir.join(format!("{}.{ending}", leaf.file));
        let pair = Pair { cert: at("crt"), key: at("key") };
        let hosts = leaf.hosts.join("\n");
        let known = fs::read_to_string(at("hosts")).unwrap_or_default();
        if pair.cert.exists() && known == hosts {
            return Ok(pair);
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(leaf.hosts.clone())?;
        params.distinguished_name.push(DnType::CommonName, leaf.name);
        if !leaf.group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, leaf.group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !leaf.hosts.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, 365);
        write(&pair.cert, &params.signed_by(&key, &self.issuer)?.pem(), 0o644)?;
        write(&pair.key, &key.serialize_pem(), 0o600)?;
        write(&at("hosts"), &hosts, 0o644)?;
        Ok(pair)
    }
}

/// The key pair that signs service-account tokens: (private, public) files.
pub fn service_account_keys(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let (private, public) = (dir.join("sa.key"), dir.join("sa.pub"));
    if !private.exists() || !public.exists() {
        let key = KeyPair::generate()?;
        write(&private, &key.serialize_pem(), 0o600)?;
        write(&public, &key.public_key_pem(), 0o644)?;
    }
    Ok((private, public))
}

fn set_validity(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    // Clocks of joining hosts may run behind.
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(days);
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode))?;
    fs::rename(&fresh, path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_keeps_certificates_until_the_hosts_change() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = |hosts: &[&str]| Leaf {
            file: "server",
            name: "kube-apiserver",
            group: "",
            hosts: hosts.iter().map(|s| (*s).to_owned()).collect(),
        };
        let first = Authority::load_or_create(dir.path(), "ca").unwrap().leaf(&leaf(&["127.0.0.1"])).unwrap();
        let before = fs::read(&first.cert).unwrap();
        let again = Authority::load_or_create(dir.path(), "ca").unwrap();
        again.leaf(&leaf(&["127.0.0.1"])).unwrap();
        assert_eq!(fs::read(&first.cert).unwrap(), before);
        again.leaf(&leaf(&["127.0.0.1", "10.0.0.1"])).unwrap();
        assert_ne!(fs::read(&first.cert).unwrap(), before);
        assert_eq!(fs::metadata(&first.key).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
