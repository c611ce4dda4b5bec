//! How the devices of claims are, as their drivers tell in a stream of words, and what pods' statuses say of it.
//!
//! Contract: KEP-4680; drahealth/v1alpha1 `DRAResourceHealth.NodeWatchResources`. What a driver has not told again in time is
//! unknown from that moment on, and so is everything of a driver that is silent; nothing is kept over a restart, as drivers
//! tell all at once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceHealth, ResourceStatus};
use parking_lot::Mutex;
use proto::drahealth::v1alpha1::{
    DeviceHealth, HealthStatus, NodeWatchResourcesRequest,
    dra_resource_health_client::DraResourceHealthClient,
};
use tokio::sync::Notify;

use super::{
    Claims,
    state::{Device, Info},
};
use crate::{plugin::channel, pod};

/// How long a word counts when its driver does not say.
const DEFAULT: SignedDuration = SignedDuration::from_secs(30);
/// After which what lasted so long has ended.
const INSTANT: SignedDuration = SignedDuration::from_nanos(1);
/// How long is waited before a driver is asked again.
const RETRY: Duration = Duration::from_secs(5);
/// Most letters of a driver's message.
const LONGEST: usize = 1024;

/// A driver's word on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    health: HealthStatus,
    message: String,
    counts: SignedDuration,
    heard: Timestamp,
}

impl Word {
    fn counts_at(&self, now: Timestamp) -> bool {
        now < self.end()
    }

    /// The first moment at which it does not count.
    fn end(&self) -> Timestamp {
        self.heard.checked_add(self.counts.saturating_add(INSTANT)).unwrap_or(Timestamp::MAX)
    }
}

/// Pool and name of a device.
type Place = (String, String);

/// What all drivers tell.
#[derive(Debug, Default)]
pub struct Health {
    words: Mutex<BTreeMap<String, BTreeMap<Place, Word>>>,
    changed: Notify,
    /// Words may run out at other times than before.
    heard: Notify,
}

impl Health {
    /// A driver tells of all its devices.
    pub fn told(&self, driver: &str, devices: Vec<DeviceHealth>, now: Timestamp) {
        let mut all = self.words.lock();
        let known = all.entry(driver.to_owned()).or_default();
        let before = shown(known, now);
        for device in devices {
            let place = device.device.clone().unwrap_or_default();
            known.insert((place.pool_name, place.device_name), word(device.health(), &device, now));
        }
        // One that is no longer told of counts as long as its last word does, and is not kept for longer.
        known.retain(|_, word| word.counts_at(now));
        if shown(known, now) != before {
            self.changed.notify_one();
        }
        self.heard.notify_one();
    }

    /// A driver has fallen silent.
    pub fn silent(&self, driver: &str) {
        if self.words.lock().remove(driver).is_some_and(|known| !known.is_empty()) {
            self.changed.notify_one();
        }
    }

    /// Waits until something is otherwise than before: a driver tells so, or what it told has run out.
    pub async fn changed(&self, now: impl Fn() -> Timestamp) {
        loop {
            let left = self.first_end().map(|end| end.duration_since(now()).try_into().unwrap_or_default());
            let over = async {
                match left {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => return,
                () = self.heard.notified() => {}
                () = over => {}
            }
            if self.run_out(now()) {
                return;
            }
        }
    }

    /// When the first word no longer counts.
    fn first_end(&self) -> Option<Timestamp> {
        let all = self.words.lock();
        all.values().flat_map(BTreeMap::values).map(Word::end).min()
    }

    /// Forgets what no longer counts, and says whether there was any.
    fn run_out(&self, now: Timestamp) -> bool {
        let mut any = false;
        for known in self.words.lock().values_mut() {
            let before = known.len();
            known.retain(|_, word| word.counts_at(now));
            any |= known.len() < before;
        }
        any
    }

    fn of(&self, driver: &str, device: &Device, now: Timestamp) -> (HealthStatus, Option<String>) {
        let all = self.words.lock();
        let place = (device.pool_name.clone(), device.device_name.clone());
        let word = all.get(driver).and_then(|known| known.get(&place));
        match word.filter(|word| word.counts_at(now)) {
            Some(word) => (word.health, Some(word.message.clone()).filter(|m| !m.is_empty())),
            None => (HealthStatus::Unknown, None),
        }
    }

    /// Listens to a driver for good, or until it turns out that it tells nothing.
    pub async fn listen(&self, driver: &str, endpoint: &Path) {
        let endpoint: PathBuf = endpoint.to_owned();
        loop {
            let mut client = DraResourceHealthClient::new(channel(&endpoint));
            match client.node_watch_resources(NodeWatchResourcesRequest {}).await {
                Ok(answer) => {
                    let mut words = answer.into_inner();
                    while let Ok(Some(word)) = words.message().await {
                        self.told(driver, word.devices, Timestamp::now());
                    }
                    self.silent(driver);
                }
                Err(status) if status.code() == tonic::Code::Unimplemented => return,
                Err(error) => tracing::debug!(driver, %error, "cannot ask for the health of devices yet"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn word(health: HealthStatus, device: &DeviceHealth, now: Timestamp) -> Word {
    let counts = match device.health_check_timeout_seconds {
        ..=0 => DEFAULT,
        seconds => SignedDuration::from_secs(seconds),
    };
    let mut message = device.message.clone();
    if message.chars().count() > LONGEST {
        message = message.chars().take(LONGEST - 3).chain("...".chars()).collect();
    }
    Word { health, message, counts, heard: now }
}

/// What of the words shows in statuses.
fn shown(known: &BTreeMap<Place, Word>, now: Timestamp) -> Vec<(Place, HealthStatus, String)> {
    let all = known.iter().filter(|(_, word)| word.counts_at(now));
    all.map(|(place, word)| (place.clone(), word.health, word.message.clone())).collect()
}

fn name(health: HealthStatus) -> &'static str {
    match health {
        HealthStatus::Unknown => "Unknown",
        HealthStatus::Healthy => "Healthy",
        HealthStatus::Unhealthy => "Unhealthy",
    }
}

/// The request without what follows its name: `gpu/large` is the alternative `large` of the request `gpu`.
fn base(request: &str) -> &str {
    request.split('/').next().unwrap_or(request)
}

impl Claims {
    /// How the devices are that a container gets by its claims, for its status.
    #[must_use]
    pub fn statuses(&self, pod: &Pod, container: &Container, now: Timestamp) -> Vec<ResourceStatus> {
        let named = container.resources.as_ref().and_then(|r| r.claims.as_ref());
        let own = pod::spec(pod).resource_claims.iter().flatten();
        let mut all = Vec::new();
        for claim in named.into_iter().flatten() {
            let object = own.clone().find(|c| c.name == claim.name).map(|c| super::object_name(pod, c));
            // A claim without an object has no devices.
            let Some(Ok(Some((object, _)))) = object else { continue };
            let Some(info) = self.state.lock().get(pod::namespace(pod), &object).cloned() else { continue };
            let request = claim.request.as_deref().filter(|r| !r.is_empty());
            let resources = self.of_request(&info, request, now);
            let name = match request {
                Some(request) => format!("claim:{}/{request}", claim.name),
                None => format!("claim:{}", claim.name),
            };
            if !resources.is_empty() {
                all.push(ResourceStatus { name, resources: Some(resources) });
            }
        }
        all
    }

    fn of_request(&self, info: &Info, request: Option<&str>, now: Timestamp) -> Vec<ResourceHealth> {
        let mut all: Vec<ResourceHealth> = Vec::new();
        let devices =
            info.drivers.iter().flat_map(|(driver, of)| of.devices.iter().map(move |d| (driver, d)));
        for (driver, device) in devices {
            let names = &device.request_names;
            if request.is_some_and(|r| !names.is_empty() && !names.iter().any(|n| n == base(r))) {
                continue;
            }
            let whole = || format!("{driver}/{}/{}", device.pool_name, device.device_name);
            let resource_id = device.cdi.first().cloned().unwrap_or_else(whole);
            let (health, message) = self.drivers.health().of(driver, device, now);
            if all.iter().all(|known| known.resource_id != resource_id) {
                all.push(ResourceHealth { health: Some(name(health).to_owned()), message, resource_id });
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use proto::drahealth::v1alpha1::DeviceIdentifier;

    use super::*;
    use crate::testing::at;

    fn device(name: &str, health: HealthStatus, seconds: i64, message: &str) -> DeviceHealth {
        let device = Some(DeviceIdentifier { pool_name: "p".into(), device_name: name.into() });
        DeviceHealth {
            device,
            health: health.into(),
            health_check_timeout_seconds: seconds,
            message: message.into(),
            ..DeviceHealth::default()
        }
    }

    fn of(health: &Health, name: &str, seconds: i64) -> (&'static str, Option<String>) {
        let device = Device { pool_name: "p".into(), device_name: name.into(), ..Device::default() };
        let (state, message) = health.of("d", &device, at(seconds));
        (super::name(state), message)
    }

    fn has_changed(health: &Health) -> bool {
        health.changed(|| at(0)).now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn words_count_for_their_time() {
        use HealthStatus::{Healthy, Unhealthy};
        let health = Health::default();
        assert_eq!(of(&health, "a", 0), ("Unknown", None));
        health.told("d", vec![device("a", Healthy, 0, ""), device("b", Unhealthy, 100, "hot")], at(0));
        assert!(has_changed(&health));
        assert_eq!(of(&health, "a", 30), ("Healthy", None));
        assert_eq!(of(&health, "a", 31), ("Unknown", None));
        assert_eq!(of(&health, "b", 100), ("Unhealthy", Some("hot".into())));
        health.told("d", vec![device("a", Healthy, -1, ""), device("b", Unhealthy, 100, "hot")], at(20));
        assert!(!has_changed(&health), "the same again");
        health.told("d", vec![device("b", Unhealthy, 100, "hotter")], at(21));
        assert!(has_changed(&health));
        assert_eq!(of(&health, "a", 49), ("Healthy", None), "its last word still counts");
        health.told("d", vec![device("b", Unhealthy, 100, "hotter")], at(60));
        assert_eq!(of(&health, "a", 60), ("Unknown", None));
        health.silent("d");
        assert!(has_changed(&health));
        assert_eq!(of(&health, "b", 61), ("Unknown", None));
        health.silent("d");
        assert!(!has_changed(&health));
    }

    #[tokio::test(start_paused = true)]
    async fn a_word_that_runs_out_is_a_change() {
        let (health, begun) = (Health::default(), tokio::time::Instant::now());
        let now = || at(0) + SignedDuration::try_from(begun.elapsed()).unwrap();
        let healthy = |name, seconds| device(name, HealthStatus::Healthy, seconds, "");
        health.told("d", vec![healthy("a", 10), healthy("b", 60)], now());
        health.changed(now).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "it was told of");
        health.changed(now).await;
        assert_eq!(begun.elapsed().as_secs(), 10, "the first one's time is over");
        assert_eq!((of(&health, "a", 11).0, of(&health, "b", 11).0), ("Unknown", "Healthy"));
        // The same word again counts for longer.
        health.told("d", vec![healthy("b", 60)], now());
        health.changed(now).await;
        assert_eq!(begun.elapsed().as_secs(), 70);
        assert!(health.changed(now).now_or_never().is_none(), "there is nothing left to run out");
    }

    #[test]
    fn messages_are_cut() {
        let health = Health::default();
        health.told("d", vec![device("a", HealthStatus::Healthy, 0, &"é".repeat(1025))], at(0));
        let (_, message) = of(&health, "a", 0);
        let message = message.unwrap();
        assert_eq!((message.chars().count(), message.ends_with("é...")), (1024, true));
    }
}
