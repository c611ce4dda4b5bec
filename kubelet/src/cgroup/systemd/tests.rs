//! A systemd at the other end of a socket: it makes and removes folders as the real one does.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use parking_lot::Mutex as Lock;
use tokio::net::UnixStream;
use zbus::{fdo, interface, object_server::SignalEmitter, zvariant::OwnedValue};

use super::*;

#[derive(Clone, Default)]
pub(in crate::cgroup) struct Fake {
    /// Where slices become folders.
    pub(in crate::cgroup) mount: PathBuf,
    /// Slices with their properties, as text.
    pub(in crate::cgroup) units: Arc<Lock<BTreeMap<String, BTreeMap<String, String>>>>,
    /// What jobs end with.
    pub(in crate::cgroup) result: Arc<Lock<String>>,
}

fn folder(name: &str) -> PathBuf {
    let parts: Vec<&str> = name.trim_end_matches(SUFFIX).split('-').collect();
    (1..=parts.len()).map(|count| format!("{}{SUFFIX}", parts[..count].join("-"))).collect()
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    #[zbus(error)]
    ZBus(zbus::Error),
    UnitExists(String),
    NoSuchUnit(String),
}

/// A value without its type.
fn plain(value: &Value<'_>) -> String {
    let text = value.to_string();
    text.rsplit(' ').next().unwrap_or_default().to_owned()
}

impl Fake {
    fn told(&self, name: &str, properties: Vec<(String, OwnedValue)>) {
        let texts = properties.into_iter().map(|(key, value)| (key, plain(&value)));
        self.units.lock().entry(name.to_owned()).or_default().extend(texts);
    }
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Fake {
    async fn start_transient_unit(
        &self,
        name: String,
        mode: String,
        properties: Vec<(String, OwnedValue)>,
        _aux: Vec<(String, Vec<(String, OwnedValue)>)>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, Refusal> {
        assert_eq!(mode, "replace");
        if self.units.lock().contains_key(&name) {
            return Err(Refusal::UnitExists(name));
        }
        let result = self.result.lock().clone();
        if result == "done" {
            std::fs::create_dir_all(self.mount.join(folder(&name))).map_err(zbus::Error::from)?;
            self.told(&name, properties);
        }
        let job = |id: u32| OwnedObjectPath::try_from(format!("/job/{id}")).unwrap();
        Self::job_removed(&emitter, 1, job(1), "other.slice".to_owned(), "failed".to_owned()).await?;
        Self::job_removed(&emitter, 2, job(2), name, result).await?;
        Ok(job(2))
    }

    async fn set_unit_properties(&self, name: String, runtime: bool, properties: Vec<(String, OwnedValue)>) {
        assert!(runtime);
        self.told(&name, properties);
    }

    async fn stop_unit(&self, name: String, mode: String) -> Result<OwnedObjectPath, Refusal> {
        assert_eq!(mode, "replace");
        self.units.lock().remove(&name).ok_or(Refusal::NoSuchUnit(name))?;
        OwnedObjectPath::try_from("/job/3")
            .map_err(|_| fdo::Error::Failed(String::new()).into())
            .map_err(Refusal::ZBus)
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

/// A line to it, and its end of the line.
pub(in crate::cgroup) async fn connected(fake: Fake) -> (Systemd, Connection) {
    let (near, far) = UnixStream::pair().unwrap();
    let served = connection::Builder::unix_stream(far)
        .server(zbus::Guid::generate())
        .unwrap()
        .p2p()
        .serve_at("/org/freedesktop/systemd1", fake)
        .unwrap();
    let asking = connection::Builder::unix_stream(near).p2p();
    let (near, far) = tokio::try_join!(asking.build(), served.build()).unwrap();
    (Systemd { bus: Mutex::new(near) }, far)
}

pub(in crate::cgroup) fn fake(mount: &Path) -> Fake {
    Fake { mount: mount.to_owned(), result: Arc::new(Lock::new("done".to_owned())), ..Fake::default() }
}

#[tokio::test]
async fn slices_are_made_limited_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let fake = fake(dir.path());
    let (systemd, _far) = connected(fake.clone()).await;
    let of = |name: &str, key: &str| fake.units.lock().get(name).and_then(|u| u.get(key).cloned());
    let limits = CgroupLimits { memory_limit: Some(42), cpu_quota: Some(50_001), ..CgroupLimits::default() };
    let name = "kubepods-podx.slice";
    systemd.ensure(name, Version::V2, &limits).await.unwrap();
    assert!(dir.path().join("kubepods.slice/kubepods-podx.slice").is_dir());
    assert_eq!(of(name, "MemoryMax").as_deref(), Some("42"));
    assert_eq!(of(name, "CPUQuotaPerSecUSec").as_deref(), Some("510000"), "to the next hundredth");
    assert_eq!(of(name, "Wants").as_deref(), Some("[\"kubepods.slice\"]"));
    assert_eq!(of(name, "DefaultDependencies").as_deref(), Some("false"));
    // One that is there is only told its limits.
    systemd.ensure(name, Version::V2, &CgroupLimits { pids_limit: Some(7), ..limits }).await.unwrap();
    assert_eq!(of(name, "TasksMax").as_deref(), Some("7"));
    systemd.remove(name).await.unwrap();
    systemd.remove(name).await.unwrap();
    "failed".clone_into(&mut fake.result.lock());
    let error = systemd.ensure(name, Version::V2, &limits).await.unwrap_err();
    assert_eq!(error.to_string(), "systemd: kubepods-podx.slice: the job ended with \"failed\"");
}

#[tokio::test]
async fn a_machine_without_systemd_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let error = connect(dir.path()).await.unwrap_err();
    assert!(error.to_string().contains("booted with systemd"), "{error}");
}

#[test]
fn names_have_all_above_them() {
    let names = |text: &str| slices(&text.split('/').map(str::to_owned).collect::<Vec<_>>());
    assert_eq!(names("kubepods"), ["kubepods.slice"]);
    assert_eq!(
        names("kubepods/burstable/pod1-2-3"),
        ["kubepods.slice", "kubepods-burstable.slice", "kubepods-burstable-pod1_2_3.slice"]
    );
    assert!(slices(&[]).is_empty());
}

#[test]
fn limits_are_told_in_the_words_of_either_version() {
    let limits = CgroupLimits {
        cpu_shares: Some(1024),
        cpu_quota: Some(-1),
        cpu_period: Some(100_000),
        memory_limit: Some(5),
        pids_limit: None,
        memory_min: Some(3),
        memory_low: None,
    };
    let of = |version| {
        let list = of_limits(version, &limits);
        list.into_iter().map(|(name, value)| format!("{name}={}", plain(&value))).collect::<Vec<_>>()
    };
    let unlimited = format!("CPUQuotaPerSecUSec={}", u64::MAX);
    assert_eq!(of(Version::V1), ["CPUShares=1024", &unlimited, "MemoryLimit=5"]);
    assert_eq!(of(Version::V2), ["CPUWeight=39", &unlimited, "MemoryMax=5", "MemoryMin=3"]);
}
