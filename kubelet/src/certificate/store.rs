//! Certificates on disk: each in a file of its own, and a link `<prefix>-current.pem` to the newest. A file holds the
//! certificate and its key, so the two never come apart, and the link is swapped as a whole.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
};

use component_base::tls;
use jiff::Timestamp;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{CertificateError, Purpose, request::Signed};

/// The certificates of one purpose.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    purpose: Purpose,
}

/// When a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From then.
    pub from: Timestamp,
    /// Until then.
    pub until: Timestamp,
}

impl Store {
    /// Certificates in this folder.
    #[must_use]
    pub fn new(folder: &Path, purpose: Purpose) -> Self {
        Self { folder: folder.to_owned(), purpose }
    }

    /// The link to the newest.
    #[must_use]
    pub fn current(&self) -> PathBuf {
        self.folder.join(format!("{}-current.pem", self.purpose.prefix()))
    }

    /// The newest and when it holds; `None` when there is none, or none that reads.
    #[must_use]
    pub fn load(&self) -> Option<(CertifiedKey, Validity)> {
        let path = self.current();
        if !path.exists() {
            return None;
        }
        let loaded = tls::load_pair(&path, &path)
            .inspect_err(|error| {
                tracing::warn!(file = %path.display(), %error, "the certificate cannot be used");
            })
            .ok()?;
        let validity = validity(&loaded)?;
        Some((loaded, validity))
    }

    /// Keeps a new one and makes it the current one.
    ///
    /// # Errors
    /// When the folder cannot be written, or certificate and key do not belong together.
    pub fn save(
        &self,
        signed: &Signed,
        now: Timestamp,
    ) -> Result<(CertifiedKey, Option<Held>), CertificateError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| CertificateError::File { path, source }
        };
        fs::create_dir_all(&self.folder).map_err(failed(&self.folder))?;
        let name = format!("{}-{}.pem", self.purpose.prefix(), now.strftime("%Y-%m-%d-%H-%M-%S"));
        let path = self.folder.join(&name);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path))?;
        let text = format!("{}\n{}", signed.certificate.trim_end(), signed.key);
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed(&path))?;
        let pair = tls::load_pair(&path, &path)?;
        let next = self.folder.join(format!("{}-updated.pem", self.purpose.prefix()));
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&next)(error)),
            _ => {}
        }
        symlink(&name, &next).map_err(failed(&next))?;
        fs::rename(&next, self.current()).map_err(failed(&next))?;
        let held = Held::of(&pair);
        Ok((pair, held))
    }
}

/// A certificate that is held.
#[derive(Debug, Clone)]
pub struct Held {
    /// When it holds.
    pub validity: Validity,
    /// The node's own, without those that signed it.
    pub certificate: CertificateDer<'static>,
}

impl Held {
    /// Of this pair; `None` for one that does not parse.
    #[must_use]
    pub fn of(pair: &CertifiedKey) -> Option<Self> {
        Some(Self { validity: validity(pair)?, certificate: pair.cert.first()?.clone() })
    }
}

/// When a certificate holds; `None` for one that does not parse.
#[must_use]
pub fn validity(pair: &CertifiedKey) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(pair.cert.first()?).ok()?;
    // Beyond what a timestamp can hold, a certificate holds at no time at all.
    let at = |time: &x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some(Validity {
        from: at(&certificate.validity().not_before)?,
        until: at(&certificate.validity().not_after)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn signed() -> Signed {
        let made = rcgen::generate_simple_self_signed(vec!["n".to_owned()]).unwrap();
        Signed { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    #[test]
    fn the_newest_is_current_and_older_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), Purpose::Client);
        assert!(store.load().is_none());
        store.save(&signed(), at(0)).unwrap();
        let (first, validity) = store.load().unwrap();
        assert!(validity.from < validity.until);
        store.save(&signed(), at(1)).unwrap();
        let (second, _) = store.load().unwrap();
        assert_ne!(first.cert, second.cert);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        let mode = fs::metadata(store.current()).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
    }

    #[test]
    fn what_does_not_belong_together_does_not_become_current() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), Purpose::Serving);
        let mixed = Signed { key: signed().key, ..signed() };
        assert!(store.save(&mixed, at(0)).is_err());
        assert!(store.load().is_none());
    }
}
