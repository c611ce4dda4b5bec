//! Which claims are ready, on disk: `dra_manager_state` in the kubelet's folder, written whole and atomically.
//!
//! Contract: the file is upstream's, checksum and all, so that either kubelet goes on with the other's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::checkpoint::replace;

/// The file's name.
pub const FILE: &str = "dra_manager_state";
const API_VERSION: &str = "checkpoint.dra.kubelet.k8s.io/v1";
const KIND: &str = "DRACheckpoint";

/// What is on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what a kubelet writes.
    #[error("{path}: {source}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It was changed, or only a part of it was written.
    #[error("{path}: checkpoint is corrupted: its checksum is {found}, and not {stated} as it says")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The sum of what is there.
        found: u32,
        /// The sum it says.
        stated: u32,
    },
    /// It is of another version.
    #[error("{path}: {found} is not {API_VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
}

/// A device of a claim, as its driver tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Device {
    /// Its pool.
    pub pool_name: String,
    /// Its name.
    pub device_name: String,
    /// Which share of it, where it is shared.
    #[serde(rename = "ShareID")]
    pub share_id: Option<String>,
    /// The requests it is for; none is all of the claim.
    #[serde(deserialize_with = "nullable")]
    pub request_names: Vec<String>,
    /// Names by which the runtime finds it.
    #[serde(rename = "CDIDeviceIDs", deserialize_with = "nullable")]
    pub cdi: Vec<String>,
}

impl From<proto::dra::v1::Device> for Device {
    fn from(device: proto::dra::v1::Device) -> Self {
        Self {
            pool_name: device.pool_name,
            device_name: device.device_name,
            share_id: device.share_id,
            request_names: device.request_names,
            cdi: device.cdi_device_ids,
        }
    }
}

/// What one driver gives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct OfDriver {
    /// Its devices.
    #[serde(deserialize_with = "nullable")]
    pub devices: Vec<Device>,
}

/// No more than that it is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Present {}

/// A claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Info {
    /// The object's uid.
    #[serde(rename = "ClaimUID")]
    pub uid: String,
    /// The object's name.
    #[serde(rename = "ClaimName")]
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    #[serde(rename = "PodUIDs", deserialize_with = "nullable")]
    pods: BTreeMap<String, Present>,
    /// By driver.
    #[serde(rename = "DriverState", deserialize_with = "nullable")]
    pub drivers: BTreeMap<String, OfDriver>,
    /// All drivers have been called in this kubelet's life. A restarted one calls them again for a new sandbox.
    #[serde(skip)]
    ready: bool,
}

/// Go writes what is empty as `null`.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl Info {
    /// A claim that nobody has and that is not ready.
    #[must_use]
    pub fn new(namespace: &str, name: &str, uid: &str, drivers: BTreeSet<String>) -> Self {
        Self {
            uid: uid.to_owned(),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            drivers: drivers.into_iter().map(|driver| (driver, OfDriver::default())).collect(),
            ..Self::default()
        }
    }

    /// The pod has it from now on; says whether it is ready.
    pub fn used_by(&mut self, pod: &str) -> bool {
        self.pods.insert(pod.to_owned(), Present {});
        self.ready
    }

    /// CDI names of the devices of these requests; an empty one is all of them.
    pub fn cdi<'a>(&'a self, requests: &'a [String]) -> impl Iterator<Item = String> + 'a {
        let of_all = requests.iter().any(String::is_empty);
        let devices = self.drivers.values().flat_map(|d| &d.devices);
        let wanted = devices.filter(move |d| {
            of_all || d.request_names.is_empty() || d.request_names.iter().any(|r| requests.contains(r))
        });
        wanted.flat_map(|d| d.cdi.iter().cloned())
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Data {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    #[serde(rename = "ClaimInfoStateList", deserialize_with = "nullable")]
    claims: Vec<Info>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checkpoint {
    data: String,
    checksum: u32,
}

/// All claims, by namespace and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State(BTreeMap<(String, String), Info>);

impl State {
    /// What was written down, or nothing.
    ///
    /// # Errors
    /// When the file does not read.
    pub fn load(path: &Path) -> Result<Self, StateError> {
        let here = || path.to_owned();
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.map_err(|source| StateError::File { path: here(), source })?,
        };
        let decode = |source| StateError::Decode { path: here(), source };
        let Checkpoint { data, checksum: stated } = serde_json::from_slice(&text).map_err(decode)?;
        let found = crc32fast::hash(data.as_bytes());
        if found != stated {
            return Err(StateError::Corrupt { path: here(), found, stated });
        }
        let data: Data = serde_json::from_str(&data).map_err(decode)?;
        if (data.kind.as_str(), data.api_version.as_str()) != (KIND, API_VERSION) {
            let found = format!("{} {}", data.kind, data.api_version);
            return Err(StateError::Version { path: here(), found });
        }
        let keyed = data.claims.into_iter().map(|info| ((info.namespace.clone(), info.name.clone()), info));
        Ok(Self(keyed.collect()))
    }

    /// Writes it down.
    ///
    /// # Errors
    /// When the folder cannot be written to; what was written before then still stands.
    pub fn write(&self, path: &Path) -> Result<(), StateError> {
        let claims = self.0.values().cloned().collect();
        let data = Data { kind: KIND.to_owned(), api_version: API_VERSION.to_owned(), claims };
        let decode = |source| StateError::Decode { path: path.to_owned(), source };
        let data = serde_json::to_string(&data).map_err(decode)?;
        let checksum = crc32fast::hash(data.as_bytes());
        let text = serde_json::to_vec(&Checkpoint { data, checksum }).map_err(decode)?;
        replace(path, &text).map_err(|source| StateError::File { path: path.to_owned(), source })
    }

    /// A claim.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Info> {
        self.0.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// A claim, made when it is not there.
    pub fn claim(&mut self, namespace: &str, name: &str, make: impl FnOnce() -> Info) -> &mut Info {
        self.0.entry((namespace.to_owned(), name.to_owned())).or_insert_with(make)
    }

    fn with_uid(&mut self, uid: &str) -> Option<&mut Info> {
        self.0.values_mut().find(|info| info.uid == uid)
    }

    /// What a driver gives for a claim.
    pub fn devices(&mut self, uid: &str, driver: &str, devices: Vec<Device>) {
        if let Some(info) = self.with_uid(uid) {
            info.drivers.insert(driver.to_owned(), OfDriver { devices });
        }
    }

    /// All drivers have been called for the claim.
    pub fn is_ready(&mut self, uid: &str) {
        if let Some(info) = self.with_uid(uid) {
            info.ready = true;
        }
    }

    /// The pod gives up the claims that others have, too. Answers with those that it alone has, if it has any claims; they
    /// are not ready from now on.
    pub fn leave(&mut self, pod: &str) -> Option<Vec<Info>> {
        let mut any = false;
        let mut last = Vec::new();
        for info in self.0.values_mut().filter(|info| info.pods.contains_key(pod)) {
            any = true;
            if info.pods.len() > 1 {
                info.pods.remove(pod);
            } else {
                info.ready = false;
                last.push(info.clone());
            }
        }
        any.then_some(last)
    }

    /// The claim has been taken back from the pod; it stays when another pod has come to it in the meantime.
    pub fn forget(&mut self, uid: &str, pod: &str) {
        if let Some(info) = self.with_uid(uid) {
            info.pods.remove(pod);
        }
        self.0.retain(|_, info| info.uid != uid || !info.pods.is_empty());
    }

    /// Shows how many claims pods have: by driver, and all together.
    pub fn count(&self) {
        let mut counts: BTreeMap<&str, i64> = BTreeMap::from([("<any>", 0)]);
        for info in self.0.values().filter(|info| !info.pods.is_empty()) {
            for driver in info.drivers.keys().map(String::as_str).chain(["<any>"]) {
                *counts.entry(driver).or_default() += 1;
            }
        }
        let gauges = &crate::metrics::get().claims_in_use;
        gauges.reset();
        counts.into_iter().for_each(|(driver, count)| gauges.with_label_values(&[driver]).set(count));
    }

    /// All pods that have claims.
    #[must_use]
    pub fn pods(&self) -> BTreeSet<String> {
        self.0.values().flat_map(|info| info.pods.keys().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As upstream's kubelet writes it.
    const THEIRS: &str = r#"{"kind":"DRACheckpoint","apiVersion":"checkpoint.dra.kubelet.k8s.io/v1","ClaimInfoStateList":[{"ClaimUID":"u1","ClaimName":"c","Namespace":"ns","PodUIDs":{"p1":{}},"DriverState":{"gpu.example":{"Devices":[{"PoolName":"n","DeviceName":"d","ShareID":null,"RequestNames":["r"],"CDIDeviceIDs":["example/gpu=0"]}]},"net.example":{"Devices":null}}}]}"#;

    fn theirs(checksum: u32) -> Vec<u8> {
        serde_json::to_vec(&Checkpoint { data: THEIRS.to_owned(), checksum }).unwrap()
    }

    #[test]
    fn the_file_is_upstreams() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(State::load(&path).unwrap(), State::default());
        fs::write(&path, theirs(crc32fast::hash(THEIRS.as_bytes()))).unwrap();
        let state = State::load(&path).unwrap();
        let info = state.get("ns", "c").unwrap();
        assert_eq!(info.cdi(&[String::new()]).collect::<Vec<_>>(), ["example/gpu=0"]);
        assert_eq!(info.cdi(&["other".to_owned()]).count(), 0);
        assert_eq!(state.pods(), BTreeSet::from(["p1".to_owned()]));
        state.write(&path).unwrap();
        let written: Checkpoint = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(written.data, THEIRS.replace("null}", "[]}"), "an empty list is written as one");
        assert_eq!(State::load(&path).unwrap(), state);
    }

    #[test]
    fn a_damaged_file_is_told_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for (text, expected) in [
            (theirs(1), "corrupted"),
            (b"{\"Data\":\"x".to_vec(), "EOF"),
            (vec![], "EOF"),
            (b"[]".to_vec(), FILE),
            (
                serde_json::to_vec(&Checkpoint { data: "{}".into(), checksum: crc32fast::hash(b"{}") })
                    .unwrap(),
                "is not checkpoint",
            ),
        ] {
            fs::write(&path, &text).unwrap();
            let error = State::load(&path).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(FILE), "{error}");
        }
    }

    #[test]
    fn a_claim_lasts_as_long_as_its_last_pod() {
        let mut state = State::default();
        let make = || Info::new("ns", "c", "u1", BTreeSet::from(["d".to_owned()]));
        assert!(!state.claim("ns", "c", make).used_by("p1"));
        state.is_ready("u1");
        assert!(state.claim("ns", "c", make).used_by("p2"));
        assert_eq!(state.leave("p3"), None);
        assert_eq!(state.leave("p1"), Some(vec![]));
        assert_eq!(state.leave("p2").unwrap().len(), 1);
        assert!(!state.claim("ns", "c", make).used_by("p4"), "it was about to be taken back");
        state.forget("u1", "p2");
        assert!(state.get("ns", "c").is_some());
        state.forget("u1", "p4");
        assert_eq!(state, State::default());
    }
}
