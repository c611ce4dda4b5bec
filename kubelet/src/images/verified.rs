//! Whether a pod may use an image that is on the node already: an image that was pulled with somebody's credentials is only for
//! those who have them as well; anybody else's are tried by pulling it again.
//!
//! ```text
//! before a pull   image_manager/pulling/<hash of the name>       "this image is being pulled by the kubelet"
//! after it        image_manager/pulled/<hash of the reference>   with which credentials that was, name by name
//! ```
//! Contract: KEP-2535; `imagePullCredentialsVerificationPolicy`, `preloadedImagesVerificationAllowlist`; records are
//! ImagePullIntent and ImagePulledRecord of kubelet.config.k8s.io/v1beta1, as upstream's.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use jiff::{Timestamp, Unit};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Credential, Origin};
use crate::{checkpoint, metrics, runtime::cri};

const FOLDER: &str = "image_manager";
const PREFIX: &str = "sha256-";
/// The ends of names of what is being written, here and by upstream.
const UNFINISHED: [&str; 2] = [checkpoint::NEXT, ".tmp"];
const PULLED: &str = "ImagePulledRecord";
const VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// From so many secrets on, a record no longer takes in those that prove to have the same credentials.
const MANY: usize = 100;

/// Whose credentials are verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nobody's.
    Never,
    /// Everybody's, but for images that something else than the kubelet has brought.
    #[default]
    NotPreloaded,
    /// Everybody's, but for images of these names; those that end in `/` are prefixes.
    NotListed(Vec<String>),
    /// Everybody's.
    Always,
}

/// A policy that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No such policy.
    #[error(
        "option {0:?} specified for imagePullCredentialsVerificationPolicy. Valid options are \"NeverVerify\", \"NeverVerifyPreloadedImages\", \"NeverVerifyAllowlistedImages\" or \"AlwaysVerify\""
    )]
    Unknown(String),
    /// A list that nobody reads.
    #[error(
        "can't set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVertificationPolicy` is not \"NeverVerifyAllowlistedImages\""
    )]
    List,
    /// No name of images.
    #[error("invalid image pattern in `preloadedImagesVerificationAllowlist`: {0}: {1:?}")]
    Pattern(&'static str, String),
}

impl Policy {
    /// By the configuration's words; an empty name is the default.
    ///
    /// # Errors
    /// When they make no sense.
    pub fn named(name: &str, list: &[String]) -> Result<Self, PolicyError> {
        let policy = match name {
            "NeverVerify" => Self::Never,
            "" | "NeverVerifyPreloadedImages" => Self::NotPreloaded,
            "NeverVerifyAllowlistedImages" => {
                return Ok(Self::NotListed(list.iter().map(|p| pattern(p)).collect::<Result<_, _>>()?));
            }
            "AlwaysVerify" => Self::Always,
            other => return Err(PolicyError::Unknown(other.to_owned())),
        };
        if list.is_empty() { Ok(policy) } else { Err(PolicyError::List) }
    }

    fn verifies(&self, image: &str, ours: bool) -> bool {
        match self {
            Self::Never => false,
            Self::NotPreloaded => ours,
            Self::Always => true,
            Self::NotListed(list) => {
                let name = untagged(image).unwrap_or(image);
                !list.iter().any(|p| if p.ends_with('/') { name.starts_with(p) } else { name == p })
            }
        }
    }
}

/// A pattern of the list: a name without tag and digest, or all names below one: `registry.example/team/*`.
fn pattern(text: &str) -> Result<String, PolicyError> {
    let bad = |why| PolicyError::Pattern(why, text.to_owned());
    if text.trim() != text {
        return Err(bad("leading/trailing spaces are not allowed"));
    }
    let prefix = text.strip_suffix('*').filter(|rest| rest.ends_with('/'));
    let plain = prefix.unwrap_or(text);
    if plain.is_empty() {
        return Err(bad("the supplied pattern is too short"));
    }
    if plain.contains('*') {
        return Err(bad("not a valid wildcard pattern, only patterns ending with '/*' are allowed"));
    }
    if plain == "/" {
        return Err(bad("at least registry hostname is required"));
    }
    if prefix.is_none() && untagged(plain) != Some(plain) {
        return Err(bad("neither tag nor digest is accepted in an image reference"));
    }
    Ok(plain.to_owned())
}

/// An image's name without tag and digest; nothing for what is no name.
pub(super) fn untagged(image: &str) -> Option<&str> {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let name = match name.rsplit_once(':') {
        // A colon before the last slash is that of a port.
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-/:[]".contains(c);
    (!name.is_empty() && !name.ends_with('/') && name.chars().all(fine)).then_some(name)
}

/// A secret with credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PullSecret {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// What its credentials come to: see [`super::credentials`].
    pub credential_hash: String,
}

/// A service account whose token credentials came of.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PullAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl PullSecret {
    fn is_at(&self, other: &Self) -> bool {
        (&self.namespace, &self.name, &self.uid) == (&other.namespace, &other.name, &other.uid)
    }
}

/// Who had credentials for an image of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Known {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<PullSecret>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_service_accounts: Vec<PullAccount>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Pulled {
    kind: String,
    api_version: String,
    last_updated_time: Timestamp,
    image_ref: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    credential_mapping: BTreeMap<String, Known>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Intent {
    kind: String,
    api_version: String,
    image: String,
}

/// What is known of the images that the kubelet pulled.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
    policy: Policy,
    /// Pulls that go on, by image. Whoever reads or writes a record holds it.
    pulling: Mutex<HashMap<String, usize>>,
}

impl Records {
    /// Those that earlier kubelets left in `root`.
    ///
    /// # Errors
    /// When their folders cannot be made.
    pub fn new(root: &Path, policy: Policy) -> io::Result<Self> {
        let records = Self { folder: root.join(FOLDER), policy, pulling: Mutex::default() };
        fs::create_dir_all(records.folder.join("pulling"))?;
        fs::create_dir_all(records.folder.join("pulled"))?;
        Ok(records)
    }

    /// Records of images whose pull an earlier kubelet did not see the end of: they are there, and nobody knows who may use
    /// them. `images` is what the runtime has.
    pub fn recover(&self, images: &[cri::Image], now: Timestamp) {
        let _held = self.pulling.lock();
        for (path, intent) in self.all::<Intent>("pulling") {
            let is_it =
                |i: &&cri::Image| i.repo_tags.iter().chain(&i.repo_digests).any(|n| *n == intent.image);
            if let Some(image) = images.iter().find(is_it) {
                self.write_down(&intent.image, &image.id, None, now);
                report("remove the record of a pull", fs::remove_file(path));
            }
        }
    }

    /// An intent of an earlier kubelet is there.
    #[must_use]
    pub fn has_intents(&self) -> bool {
        !self.all::<Intent>("pulling").is_empty()
    }

    /// The image on the node has to be pulled again before who has these credentials may use it. `image` is the name a
    /// container has for it, `reference` the runtime's.
    #[must_use]
    pub fn must_pull(
        &self,
        image: &str,
        reference: &str,
        credentials: &[Credential],
        now: Timestamp,
    ) -> bool {
        let pulling = self.pulling.lock();
        let (must, result) = match self.judge(image, reference, pulling.contains_key(image), credentials, now)
        {
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::error!(%error, image, "cannot read the records of pulled images");
                (true, "error")
            }
        };
        metrics::get().must_pull.with_label_values(&[result]).inc();
        must
    }

    fn judge(
        &self,
        image: &str,
        reference: &str,
        is_pulling: bool,
        credentials: &[Credential],
        now: Timestamp,
    ) -> io::Result<(bool, &'static str)> {
        let (again, fine) = ((true, "mustAuthenticate"), (false, "credentialRecordFound"));
        let record = self.pulled_record(reference)?;
        let ours = record.is_some()
            || is_pulling
            || self.read::<Intent>("pulling", image)?.is_some_and(|i| i.image == image);
        if !self.policy.verifies(image, ours) {
            return Ok((false, "credentialPolicyAllowed"));
        }
        let known = record.as_ref().and_then(|r| r.credential_mapping.get(untagged(image)?));
        let Some(known) = known else { return Ok(again) };
        if known.node_pods_accessible {
            return Ok(fine);
        }
        for credential in credentials {
            let own = match &credential.origin {
                Origin::Node => continue,
                Origin::Account(own) if known.kubernetes_service_accounts.contains(own) => return Ok(fine),
                Origin::Account(_) => continue,
                Origin::Secret(own) => own,
            };
            let same =
                |s: &&PullSecret| !s.credential_hash.is_empty() && s.credential_hash == own.credential_hash;
            let at = known.kubernetes_secrets.iter().any(|s| s.is_at(own));
            let hash = known.kubernetes_secrets.iter().any(|s| same(&s));
            let has_room = known.kubernetes_secrets.len() < MANY;
            // A secret that was changed is trusted as the one before, as the pod's owner may read both.
            if hash || (at && has_room) {
                if has_room && !known.kubernetes_secrets.contains(own) {
                    self.write_down(image, reference, Some(&credential.origin), now);
                }
                return Ok(fine);
            }
        }
        Ok(again)
    }

    /// Service accounts have credentials for the image, so that it matters whether the pod's is one of them.
    #[must_use]
    pub fn asks_for_account(&self, image: &str, reference: &str) -> bool {
        let _held = self.pulling.lock();
        // What does not read is told when it is judged.
        let record = self.pulled_record(reference).ok().flatten();
        let known = record.as_ref().and_then(|r| r.credential_mapping.get(untagged(image)?));
        known
            .is_some_and(|known| !known.node_pods_accessible && !known.kubernetes_service_accounts.is_empty())
    }

    /// The kubelet is about to pull the image.
    ///
    /// # Errors
    /// When that cannot be written down; then it must not.
    pub fn pulling(&self, image: &str) -> io::Result<()> {
        let mut pulling = self.pulling.lock();
        let (kind, api_version) = ("ImagePullIntent".to_owned(), VERSION.to_owned());
        self.write("pulling", image, &Intent { kind, api_version, image: image.to_owned() })?;
        *pulling.entry(image.to_owned()).or_default() += 1;
        Ok(())
    }

    /// It has pulled it, with credentials from there.
    pub fn pulled(&self, image: &str, reference: &str, with: &Origin, now: Timestamp) {
        let held = self.pulling.lock();
        let written = self.write_down(image, reference, Some(with), now);
        drop(held);
        // Without the record the intent says that the image is the kubelet's.
        if written {
            self.failed(image);
        }
    }

    /// It has not pulled it.
    pub fn failed(&self, image: &str) {
        let mut pulling = self.pulling.lock();
        let left = pulling.get(image).copied().unwrap_or(0).saturating_sub(1);
        if left > 0 {
            pulling.insert(image.to_owned(), left);
            return;
        }
        pulling.remove(image);
        report("remove the record of a pull", fs::remove_file(self.path("pulling", image)));
    }

    /// Shows how many records there are.
    pub fn count(&self) {
        let many = |folder: &str| {
            // A folder that cannot be read has nothing to show.
            let files = fs::read_dir(self.folder.join(folder)).map_or(0, |entries| entries.flatten().count());
            i64::try_from(files).unwrap_or(i64::MAX)
        };
        metrics::get().pulled_records.set(many("pulled"));
        metrics::get().pull_intents.set(many("pulling"));
    }

    /// Removes records of images that are no longer there; those that were written since `until` stay.
    pub fn prune(&self, is_there: impl Fn(&str) -> bool, until: Timestamp) {
        let _held = self.pulling.lock();
        for (path, record) in self.all::<Pulled>("pulled") {
            if record.last_updated_time < until && !is_there(&record.image_ref) {
                report("remove the record of an image", fs::remove_file(path));
            }
        }
    }

    fn pulled_record(&self, reference: &str) -> io::Result<Option<Pulled>> {
        let Some(record) = self.read::<Pulled>("pulled", reference)? else { return Ok(None) };
        if record.kind != PULLED {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("no kind {:?} is known", record.kind),
            ));
        }
        Ok(Some(record).filter(|record| record.image_ref == reference))
    }

    /// Adds to an image's record; says whether it is right now.
    fn write_down(&self, image: &str, reference: &str, with: Option<&Origin>, now: Timestamp) -> bool {
        let Some(name) = untagged(image) else {
            tracing::error!(image, "cannot write down who may use an image without a proper name");
            return false;
        };
        // A record that does not read is written anew.
        let before = self.pulled_record(reference).unwrap_or_default();
        let mut record = before.clone().unwrap_or_default();
        if let Some(origin) = with {
            record.credential_mapping.entry(name.to_owned()).or_default().add(origin);
        }
        if before.is_some_and(|before| before.credential_mapping == record.credential_mapping) {
            return true;
        }
        record.kind = PULLED.to_owned();
        record.api_version = VERSION.to_owned();
        record.last_updated_time = now.round(Unit::Second).unwrap_or(now);
        record.image_ref = reference.to_owned();
        let written = self.write("pulled", reference, &record);
        written
            .inspect_err(|error| tracing::error!(%error, image, "cannot write down who may use an image"))
            .is_ok()
    }

    fn path(&self, folder: &str, key: &str) -> PathBuf {
        let hash = digest(&SHA256, key.as_bytes());
        self.folder.join(folder).join(format!("{PREFIX}{}", hex(hash.as_ref())))
    }

    fn read<T: DeserializeOwned>(&self, folder: &str, key: &str) -> io::Result<Option<T>> {
        match fs::read(self.path(folder, key)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, folder: &str, key: &str, what: &impl Serialize) -> io::Result<()> {
        checkpoint::replace(&self.path(folder, key), &serde_json::to_vec(what)?)
    }

    /// All records of a folder that read.
    fn all<T: DeserializeOwned>(&self, folder: &str) -> Vec<(PathBuf, T)> {
        let entries = fs::read_dir(self.folder.join(folder)).into_iter().flatten().filter_map(Result::ok);
        let one = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            if !name.starts_with(PREFIX) || UNFINISHED.iter().any(|end| name.ends_with(end)) {
                return None;
            }
            let read = fs::read(entry.path()).and_then(|text| Ok(serde_json::from_slice(&text)?));
            let read = read.inspect_err(
                |error| tracing::error!(file = name, %error, "a record of images does not read"),
            );
            Some((entry.path(), read.ok()?))
        };
        entries.filter_map(one).collect()
    }
}

impl Known {
    fn add(&mut self, origin: &Origin) {
        match origin {
            _ if self.node_pods_accessible => {}
            Origin::Node => *self = Self { node_pods_accessible: true, ..Self::default() },
            Origin::Account(account) => {
                let all = &mut self.kubernetes_service_accounts;
                if !all.contains(account) {
                    all.push(account.clone());
                    all.sort();
                }
            }
            Origin::Secret(secret) => {
                let mut all: BTreeSet<PullSecret> = self.kubernetes_secrets.drain(..).collect();
                all.retain(|other| !other.is_at(secret));
                all.insert(secret.clone());
                self.kubernetes_secrets = all.into_iter().collect();
            }
        }
    }
}

/// Bytes as the letters of their numbers.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn report(what: &str, done: io::Result<()>) {
    if let Err(error) = done
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!(%error, "cannot {what}");
    }
}

#[cfg(test)]
mod tests;
