//! The systemd driver: every cgroup is a slice of systemd, made, limited and removed by it.
//!
//! systemd writes the limits it knows again whenever it reads its files, so it is told them as well; the kernel's files are
//! written besides, as they have more.
//!
//! Contract: org.freedesktop.systemd1.Manager; systemd.slice(5), systemd.resource-control(5). A slice's name has the names of
//! all above it, separated by dashes, so dashes of its own become underscores: `kubepods-burstable-pod1_2.slice`.

use std::{path::Path, time::Duration};

use futures::StreamExt as _;
use tokio::sync::Mutex;
use zbus::{
    Connection, connection, proxy,
    zvariant::{OwnedObjectPath, Value},
};

use super::{Version, v2};
use crate::pod::resources::CgroupLimits;

/// How long systemd may take for one answer, and for one job.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is there when the machine was booted with systemd: sd_booted(3).
const BOOTED: &str = "run/systemd/system";
/// Ends the name of a slice.
pub const SUFFIX: &str = ".slice";

const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// A property of a unit.
type Property = (&'static str, Value<'static>);

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;

    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[Property],
        aux: &[(&str, Vec<Property>)],
    ) -> zbus::Result<OwnedObjectPath>;

    fn set_unit_properties(&self, name: &str, runtime: bool, properties: &[Property]) -> zbus::Result<()>;

    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

/// systemd cannot be talked to, or does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// Something else is the machine's first process.
    #[error(
        "the systemd cgroup driver needs a machine that was booted with systemd, and there is no /run/systemd/system: set cgroupDriver to cgroupfs, here and in the container runtime"
    )]
    NotBooted,
    /// The bus or systemd.
    #[error("systemd: {0}")]
    Bus(#[from] zbus::Error),
    /// The job did not end well.
    #[error("systemd: {unit}: the job ended with {result:?}")]
    Job {
        /// The slice.
        unit: String,
        /// systemd's word.
        result: String,
    },
    /// The job did not end.
    #[error("systemd: {0}: the job takes too long")]
    TooLong(String),
}

impl SystemdError {
    fn is(&self, name: &str) -> bool {
        matches!(self, Self::Bus(zbus::Error::MethodError(other, _, _)) if other.as_str() == name)
    }

    fn is_of_the_line(&self) -> bool {
        matches!(self, Self::Bus(zbus::Error::InputOutput(_)))
    }
}

/// A line to systemd.
#[derive(Debug)]
pub struct Systemd {
    bus: Mutex<Connection>,
}

async fn dial() -> Result<Connection, SystemdError> {
    let bus = connection::Builder::system()?.method_timeout(PATIENCE).build().await?;
    // Without that systemd does not tell when its jobs are done.
    ManagerProxy::new(&bus).await?.subscribe().await?;
    Ok(bus)
}

/// Connects to systemd on the system's bus; `root` is `/` but in tests.
///
/// # Errors
/// When the machine does not run it, or there is no bus.
pub async fn connect(root: &Path) -> Result<Systemd, SystemdError> {
    if !root.join(BOOTED).is_dir() {
        return Err(SystemdError::NotBooted);
    }
    Ok(Systemd { bus: Mutex::new(dial().await?) })
}

impl Systemd {
    /// Makes a slice with its limits, or sets those of one that is there.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn ensure(
        &self,
        name: &str,
        version: Version,
        limits: &CgroupLimits,
    ) -> Result<(), SystemdError> {
        let mut properties = of_slice(name, version);
        properties.extend(of_limits(version, limits));
        let result = match self.start(name, &properties).await {
            Err(error) if error.is_of_the_line() => {
                *self.bus.lock().await = dial().await?;
                self.start(name, &properties).await
            }
            result => result,
        };
        match result {
            Err(error) if error.is(EXISTS) => self.set(name, version, limits).await,
            result => result,
        }
    }

    async fn start(&self, name: &str, properties: &[Property]) -> Result<(), SystemdError> {
        let bus = self.bus.lock().await.clone();
        let manager = ManagerProxy::new(&bus).await?;
        // Listening comes first, since the job may be done before its name is told.
        let mut removed = manager.receive_job_removed().await?;
        let job = manager.start_transient_unit(name, "replace", properties, &[]).await?;
        let result = async {
            while let Some(signal) = removed.next().await {
                let args = signal.args()?;
                if args.job == job {
                    return Ok(args.result);
                }
            }
            Err(zbus::Error::InputOutput(std::sync::Arc::new(std::io::ErrorKind::BrokenPipe.into())))
        };
        let result: Result<String, zbus::Error> = tokio::time::timeout(PATIENCE, result)
            .await
            .map_err(|_| SystemdError::TooLong(name.to_owned()))?;
        match result?.as_str() {
            "done" => Ok(()),
            result => Err(SystemdError::Job { unit: name.to_owned(), result: result.to_owned() }),
        }
    }

    /// Sets a slice's limits until the machine is booted again.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn set(&self, name: &str, version: Version, limits: &CgroupLimits) -> Result<(), SystemdError> {
        let properties = of_limits(version, limits);
        if properties.is_empty() {
            return Ok(());
        }
        let bus = self.bus.lock().await.clone();
        Ok(ManagerProxy::new(&bus).await?.set_unit_properties(name, true, &properties).await?)
    }

    /// Takes a slice away; one that is not there is fine.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn remove(&self, name: &str) -> Result<(), SystemdError> {
        let bus = self.bus.lock().await.clone();
        let stopped = ManagerProxy::new(&bus).await?.stop_unit(name, "replace").await;
        match stopped.map(drop).map_err(SystemdError::Bus) {
            Err(error) if error.is(NO_SUCH) => Ok(()),
            result => result,
        }
    }
}

/// The slices from the outermost to the one with these names.
#[must_use]
pub fn slices(names: &[String]) -> Vec<String> {
    let mut name = String::new();
    let one = |part: &String| {
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(&part.replace('-', "_"));
        format!("{name}{SUFFIX}")
    };
    names.iter().map(one).collect()
}

/// What every slice has.
fn of_slice(name: &str, version: Version) -> Vec<Property> {
    let io = if version == Version::V2 { "IOAccounting" } else { "BlockIOAccounting" };
    let mut properties =
        vec![("Description", Value::from("pods of Kubernetes")), ("DefaultDependencies", false.into())];
    // The slice above it is in its name; it has to be there as long as this one is.
    if let Some((above, _)) = name.rsplit_once('-') {
        properties.push(("Wants", Value::from(vec![format!("{above}{SUFFIX}")])));
    }
    let accounting = ["MemoryAccounting", "CPUAccounting", "TasksAccounting", io];
    properties.extend(accounting.into_iter().map(|name| (name, Value::from(true))));
    properties
}

/// Limits in systemd's words.
fn of_limits(version: Version, limits: &CgroupLimits) -> Vec<Property> {
    let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let names = match version {
        Version::V1 => ("CPUShares", "MemoryLimit"),
        Version::V2 => ("CPUWeight", "MemoryMax"),
    };
    let weight = limits.cpu_shares.map(|s| if version == Version::V2 { v2::weight(s) } else { s });
    let period = limits.cpu_period.filter(|p| *p > 0).unwrap_or(100_000);
    // systemd counts in hundredths of a processor; more is better than less, since containers ask for what is below.
    let quota = limits.cpu_quota.map(|quota| match quota {
        ..=0 => u64::MAX,
        quota => {
            number(quota.saturating_mul(1_000_000).div_euclid(period)).div_ceil(10_000).saturating_mul(10_000)
        }
    });
    [
        (names.0, weight.map(number)),
        ("CPUQuotaPerSecUSec", quota),
        (names.1, limits.memory_limit.map(number)),
        ("TasksMax", limits.pids_limit.map(number)),
        ("MemoryMin", limits.memory_min.filter(|_| version == Version::V2).map(number)),
        ("MemoryLow", limits.memory_low.filter(|_| version == Version::V2).map(number)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, Value::from(value?))))
    .collect()
}

#[cfg(test)]
pub(super) mod tests;
