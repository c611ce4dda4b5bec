//! The event recorder: core/v1 events with the fields of both generations filled, so that every reader sees them
//! (client-go's `tools/events` and `tools/record`). events.k8s.io/v1 takes no event with `source`, counts and timestamps,
//! which readers of the older generation look for.
//!
//! Recording never blocks: a bounded channel leads to one task that writes. The task folds repetitions into a series,
//! aggregates more than ten similar events within ten minutes into one, and drops what one source says about one object
//! beyond a burst of 25 and one per five minutes.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    sync::{Arc, LazyLock},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSeries, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams, PostParams},
};
use prometheus::IntCounterVec;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    clock::SharedClock,
    metrics::{self, Stability},
    task::Tasks,
    workqueue::{Bucket, chain},
};

/// Events waiting to be written: about 1 KB each, so at most 1 MB.
const CAPACITY: usize = 1000;
/// Series and aggregates remembered; beyond this, the oldest are forgotten (client-go's LRU size).
const REMEMBERED: usize = 4096;
/// Similar events beyond this many within the interval become one.
const SIMILAR: usize = 10;
const SIMILAR_INTERVAL: Duration = Duration::from_secs(600);
const SPAM_BURST: f64 = 25.0;
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;
/// Longest note the API accepts.
const MAX_NOTE: usize = 1024;

/// Whether something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    const fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// One thing to tell.
#[derive(Clone, Debug)]
struct Record {
    regarding: ObjectReference,
    related: Option<ObjectReference>,
    kind: EventType,
    reason: String,
    action: String,
    note: String,
    at: Timestamp,
}

/// Records events for one component. Clones share the writer.
#[derive(Clone, Debug)]
pub struct Recorder {
    sender: mpsc::Sender<Record>,
    clock: SharedClock,
}

impl Recorder {
    /// Starts the writer. `controller` is the reporting component (such as `deployment-controller`), `instance` its host or
    /// pod; the component on this host where it is empty, since an event must name one.
    pub fn new(
        client: kube::Client,
        clock: SharedClock,
        controller: &str,
        instance: &str,
        tasks: &Tasks,
    ) -> Recorder {
        let (sender, mut records) = mpsc::channel::<Record>(CAPACITY);
        let reporter = Reporter::new(controller, instance);
        let drain = tasks.drain();
        tasks.spawn(format!("events of {controller}"), async move {
            let mut correlator = Correlator::new(reporter);
            while let Some(Some(record)) = drain.run_until_cancelled(records.recv()).await {
                write(&client, &mut correlator, record).await;
            }
        });
        Recorder { sender, clock }
    }

    /// Records an event; drops and counts it when the writer cannot keep up. Notes beyond 1024 bytes are cut.
    pub fn event(
        &self,
        regarding: &ObjectReference,
        kind: EventType,
        reason: &str,
        action: &str,
        note: impl Into<String>,
        related: Option<&ObjectReference>,
    ) {
        let mut note: String = note.into();
        if note.len() > MAX_NOTE {
            let end = (0..=MAX_NOTE).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
            note.truncate(end);
        }
        let record = Record {
            regarding: regarding.clone(),
            related: related.cloned(),
            kind,
            reason: reason.to_owned(),
            action: action.to_owned(),
            note,
            at: self.clock.now(),
        };
        if self.sender.try_send(record).is_err() {
            OUTCOMES.with_label_values(&["dropped"]).inc();
        }
    }
}

/// A reference to an object for [`Recorder::event`].
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

#[derive(Clone, Debug)]
struct Reporter {
    controller: String,
    instance: String,
}

impl Reporter {
    fn new(controller: &str, instance: &str) -> Reporter {
        let instance = match instance {
            "" => {
                // A host without a name still reports.
                let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
                format!("{controller}-{}", host.unwrap_or_default())
            }
            named => named.to_owned(),
        };
        Reporter { controller: controller.to_owned(), instance }
    }
}

/// What makes events the same, as a hash that is taken for it: thousands of them are remembered. Two that differ have the
/// same one about never, and would then be counted as one.
type Key = (u64, u64);

/// An event on the server that repetitions are added to.
#[derive(Clone, Debug)]
struct Series {
    name: Box<str>,
    namespace: Arc<str>,
    count: i32,
    touched: Instant,
}

#[derive(Debug)]
struct Similar {
    /// Hashes of the notes that there were.
    notes: Vec<Key>,
    last: Instant,
}

/// What to send for a record.
#[derive(Debug)]
enum Plan {
    Create(Box<Event>, Key),
    Patch { key: Key, name: String, namespace: String, patch: serde_json::Value },
    Drop,
}

/// Decides what becomes of each record.
#[derive(Debug)]
struct Correlator {
    reporter: Reporter,
    /// What hashes are made with.
    seeds: [RandomState; 2],
    spam: HashMap<Key, (Bucket, Instant)>,
    similar: HashMap<Key, Similar>,
    series: HashMap<Key, Series>,
    /// The last namespace that was named: most events of one moment are of one.
    namespace: Arc<str>,
}

impl Correlator {
    fn new(reporter: Reporter) -> Correlator {
        Correlator {
            reporter,
            seeds: [RandomState::new(), RandomState::new()],
            spam: HashMap::new(),
            similar: HashMap::new(),
            series: HashMap::new(),
            namespace: Arc::default(),
        }
    }

    fn hash(&self, value: impl Hash) -> Key {
        let [one, other] = &self.seeds;
        (one.hash_one(&value), other.hash_one(&value))
    }

    fn plan(&mut self, mut record: Record, now: Instant) -> Plan {
        let object = self.hash(identity(&record.regarding));
        if !self.admits(object, now) {
            return Plan::Drop;
        }
        let alike = (object, record.kind, record.reason.as_str(), record.action.as_str());
        let (all, note) = (self.hash(alike), self.hash(&record.note));
        let exact = self.hash((alike, &record.note));
        let combined = self.aggregates(all, note, now);
        let key = if combined { all } else { exact };
        if combined {
            record.note = format!("(combined from similar events): {}", record.note);
        }
        match self.series.get_mut(&key) {
            Some(series) => {
                series.count = series.count.saturating_add(1);
                series.touched = now;
                let patch = serde_json::json!({
                    "series": EventSeries {
                        count: Some(series.count),
                        last_observed_time: Some(MicroTime(record.at)),
                    },
                    "count": series.count,
                    "lastTimestamp": Time(record.at),
                    "message": record.note,
                });
                let (name, namespace) = (series.name.to_string(), series.namespace.to_string());
                Plan::Patch { key, name, namespace, patch }
            }
            None => Plan::Create(Box::new(self.event(&record)), key),
        }
    }

    /// The spam filter: a token bucket per object.
    fn admits(&mut self, object: Key, now: Instant) -> bool {
        forget_oldest(&mut self.spam, |(_, touched)| *touched);
        let fresh = || (Bucket::new(SPAM_PER_SECOND, SPAM_BURST), now);
        let (bucket, touched) = self.spam.entry(object).or_insert_with(fresh);
        *touched = now;
        bucket.try_take(now)
    }

    /// Whether this is one too many of events that differ only in their notes.
    fn aggregates(&mut self, key: Key, note: Key, now: Instant) -> bool {
        forget_oldest(&mut self.similar, |similar| similar.last);
        let similar = self.similar.entry(key).or_insert_with(|| Similar { notes: Vec::new(), last: now });
        if now.saturating_duration_since(similar.last) > SIMILAR_INTERVAL {
            similar.notes.clear();
        }
        similar.last = now;
        if similar.notes.len() < SIMILAR && !similar.notes.contains(&note) {
            similar.notes.push(note);
        }
        similar.notes.len() >= SIMILAR
    }

    fn event(&self, record: &Record) -> Event {
        let namespace = record.regarding.namespace.clone().filter(|namespace| !namespace.is_empty());
        let base = record.regarding.name.as_deref().unwrap_or("unknown");
        let stamp = u64::try_from(record.at.as_nanosecond()).unwrap_or(0);
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{base}.{stamp:x}")),
                namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(record.at)),
            reporting_component: Some(self.reporter.controller.clone()),
            reporting_instance: Some(self.reporter.instance.clone()),
            action: Some(record.action.clone()),
            reason: Some(record.reason.clone()),
            involved_object: record.regarding.clone(),
            related: record.related.clone(),
            message: Some(record.note.clone()),
            type_: Some(record.kind.as_str().to_owned()),
            source: Some(EventSource {
                component: Some(self.reporter.controller.clone()),
                host: Some(self.reporter.instance.clone()),
            }),
            count: Some(1),
            first_timestamp: Some(Time(record.at)),
            last_timestamp: Some(Time(record.at)),
            series: None,
        }
    }

    /// The event is on the server; repetitions go there.
    fn created(&mut self, key: Key, event: &Event, now: Instant) {
        forget_oldest(&mut self.series, |series| series.touched);
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        if *self.namespace != *namespace {
            self.namespace = namespace.into();
        }
        let series = Series {
            name: event.metadata.name.clone().unwrap_or_default().into(),
            namespace: Arc::clone(&self.namespace),
            count: 1,
            touched: now,
        };
        self.series.insert(key, series);
    }
}

/// Keeps a memory bounded: when it is full, the older half is forgotten.
fn forget_oldest<K: Eq + Hash, V>(map: &mut HashMap<K, V>, touched: impl Fn(&V) -> Instant) {
    if map.len() < REMEMBERED {
        return;
    }
    let mut times: Vec<Instant> = map.values().map(&touched).collect();
    times.sort_unstable();
    let middle = times[times.len() / 2];
    map.retain(|_, value| touched(value) > middle);
}

fn identity(object: &ObjectReference) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let parts =
        [&object.kind, &object.namespace, &object.name, &object.uid, &object.api_version, &object.field_path];
    parts.map(part).join("\u{0}")
}

/// Sends what the correlator decides; failures are logged and the record is given up.
async fn write(client: &kube::Client, correlator: &mut Correlator, record: Record) {
    let (key, event) = match correlator.plan(record.clone(), Instant::now()) {
        Plan::Drop => return OUTCOMES.with_label_values(&["discarded"]).inc(),
        Plan::Create(event, key) => (key, event),
        Plan::Patch { key, name, namespace, patch } => {
            let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
            match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => return OUTCOMES.with_label_values(&["patched"]).inc(),
                Err(error) if crate::client::is_not_found(&error) => {
                    // It has expired on the server: begin a new one.
                    correlator.series.remove(&key);
                    (key, Box::new(correlator.event(&record)))
                }
                Err(error) => return failed(&error),
            }
        }
    };
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    match api.create(&PostParams::default(), &event).await {
        Ok(_) => {
            correlator.created(key, &event, Instant::now());
            OUTCOMES.with_label_values(&["created"]).inc();
        }
        // Events about what is going away with its namespace have no place to be.
        Err(error) if crate::client::is_namespace_terminating(&error) => {}
        Err(error) => failed(&error),
    }
}

fn failed(error: &kube::Error) {
    tracing::warn!(error = chain(error), "event cannot be written");
    OUTCOMES.with_label_values(&["failed"]).inc();
}

static OUTCOMES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Events by what became of them: created, patched into a series, discarded as spam, dropped for want of room, failed.";
    metrics::counter_vec("event_recorder_events_total", help, Stability::Alpha, &["outcome"])
});

#[cfg(test)]
mod tests {
    use super::*;

    fn record(reason: &str, note: &str) -> Record {
        Record {
            regarding: ObjectReference { name: Some("web".into()), ..ObjectReference::default() },
            related: None,
            kind: EventType::Normal,
            reason: reason.into(),
            action: "Test".into(),
            note: note.into(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    fn correlator() -> Correlator {
        Correlator::new(Reporter { controller: "test".into(), instance: "host".into() })
    }

    /// The note sent, marked by whether it starts or continues a series.
    fn send(correlator: &mut Correlator, record: Record, now: Instant) -> String {
        match correlator.plan(record, now) {
            Plan::Drop => "dropped".into(),
            Plan::Create(event, key) => {
                correlator.created(key, &event, now);
                format!("create {}", event.message.unwrap_or_default())
            }
            Plan::Patch { patch, .. } => format!("patch {} {}", patch["series"]["count"], patch["message"]),
        }
    }

    #[test]
    fn somebody_always_reports() {
        assert_eq!(Reporter::new("kubelet", "node-1").instance, "node-1");
        assert!(Reporter::new("job-controller", "").instance.starts_with("job-controller-"));
    }

    #[tokio::test(start_paused = true)]
    async fn repetitions_become_a_series() {
        let (mut correlator, now) = (correlator(), Instant::now());
        assert_eq!(send(&mut correlator, record("Pulled", "image"), now), "create image");
        assert_eq!(send(&mut correlator, record("Pulled", "image"), now), "patch 2 \"image\"");
        assert_eq!(send(&mut correlator, record("Started", "image"), now), "create image");
    }

    #[tokio::test(start_paused = true)]
    async fn the_tenth_similar_event_is_aggregated() {
        let (mut correlator, now) = (correlator(), Instant::now());
        for index in 0..9 {
            assert_eq!(
                send(&mut correlator, record("Failed", &index.to_string()), now),
                format!("create {index}")
            );
        }
        let combined = send(&mut correlator, record("Failed", "nine"), now);
        assert_eq!(combined, "create (combined from similar events): nine");
        let again = send(&mut correlator, record("Failed", "ten"), now);
        assert_eq!(again, "patch 2 \"(combined from similar events): ten\"");
        let later = now + SIMILAR_INTERVAL + Duration::from_secs(1);
        assert_eq!(send(&mut correlator, record("Failed", "later"), later), "create later");
    }

    #[tokio::test(start_paused = true)]
    async fn spam_is_dropped_until_the_bucket_refills() {
        let (mut correlator, now) = (correlator(), Instant::now());
        for _ in 0..25 {
            assert_ne!(send(&mut correlator, record("Loop", "x"), now), "dropped");
        }
        assert_eq!(send(&mut correlator, record("Loop", "x"), now), "dropped");
        assert_ne!(send(&mut correlator, record("Loop", "x"), now + Duration::from_secs(301)), "dropped");
    }
}
