//! Priority and fairness: which requests are served now, which wait, which are turned away.
//!
//! ```text
//! flow schemas ──→ which one a request matches (schema) ──→ its priority level ──→ a queue by shuffle sharding (queues)
//! levels ──→ seats each has (sharing), from one total; levels in need borrow from idle ones ──→ dispatch by fair share
//! ```
//! A request takes seats: lists that are long take several (width), and so do writes that many watch, which keep theirs for a
//! while after they are answered (lingering). Objects every cluster has are made and kept by
//! [`bootstrap`]; [`controller`] turns what is stored into what counts. The queues and the sharing are pure.
//! Contract: KEP-1040 and the flowcontrol.apiserver.k8s.io API; upstream's `util/flowcontrol`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use crate::{auth::Attributes, object::Object, request_path::info::RequestInfo, status::Status};

pub mod bootstrap;
pub mod controller;
mod dump;
mod level;
mod lingering;
mod metrics;
mod queues;
mod schema;
mod sharing;
#[cfg(test)]
mod tests;
mod watches;

pub use level::Ticket;
use level::{Asked, Level, Limits};
use lingering::Lingering;
pub(crate) use metrics::register as register_metrics;
use schema::FlowSchema;
pub use watches::Watched;
use watches::Watches;

/// Part of the request timeout that a request may wait in its queue.
const WAIT_PART: u32 = 4;

/// The filter, shared by all requests.
#[derive(Debug)]
pub struct FlowControl {
    /// Seats of the whole server: `--max-requests-inflight` and `--max-mutating-requests-inflight` together.
    seats: u32,
    /// The longest a request waits in a queue.
    wait: Duration,
    rules: ArcSwap<Rules>,
    watches: Arc<Watches>,
    lingering: Arc<Lingering>,
}

/// What a request is taken to need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Seats while it is served.
    Seats(u32),
    /// What a write needs that so many watches are told of.
    Telling(u32),
}

/// Seats over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Work {
    /// While it is served.
    initial: u32,
    /// After that.
    last: u32,
    /// How long after that.
    linger: Duration,
}

/// What counts at the moment.
#[derive(Debug, Default)]
struct Rules {
    /// In order of precedence; each names a level that is there.
    schemas: Vec<FlowSchema>,
    levels: Vec<Arc<Level>>,
}

/// Whose rules a request is served by, as its answer tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Uid of the flow schema; empty before it is stored.
    pub schema: Arc<str>,
    /// Uid of the priority level; empty before it is stored.
    pub level: Arc<str>,
}

/// A request that has its level and its queue's number, but no seat yet.
#[derive(Debug)]
pub struct Classified {
    level: Arc<Level>,
    schema: Arc<str>,
    flow: u64,
    /// What tells the flow from others of the schema.
    distinguisher: String,
    /// What the answer tells.
    pub told: Flow,
}

impl FlowControl {
    /// A filter that knows the mandatory objects alone, until the controller learns of others.
    pub fn new(seats: usize, request_timeout: Duration) -> Self {
        let filter = Self {
            seats: u32::try_from(seats).unwrap_or(u32::MAX),
            wait: request_timeout / WAIT_PART,
            rules: ArcSwap::default(),
            watches: Arc::default(),
            lingering: Arc::default(),
        };
        filter.take(&[], &[]);
        filter
    }

    /// The flow schema and level of a request.
    pub fn classify(&self, request: &Attributes) -> Classified {
        let rules = self.rules.load();
        let found = rules.schemas.iter().find(|schema| schema.matches(request));
        // The catch-all schema matches whoever the filters before let through; this is for whom it does not.
        let (name, uid, flow) = match found {
            Some(schema) => (schema.name.clone(), schema.uid.clone(), schema.flow_of(request)),
            None => (Arc::from(bootstrap::CATCH_ALL), Arc::from(""), String::new()),
        };
        let wanted = found.map_or(bootstrap::CATCH_ALL, |schema| &schema.level);
        let level = rules.levels.iter().find(|level| *level.name == *wanted).or(rules.levels.first());
        #[expect(clippy::expect_used, reason = "rules are never without levels")]
        let level = level.expect("take always adds the mandatory levels").clone();
        let told = Flow { schema: uid, level: level.uid.clone() };
        let distinguisher = flow;
        let flow = component_base::hash::fnv64a(format!("{name},{distinguisher}").as_bytes());
        Classified { level, schema: name, flow, distinguisher, told }
    }

    /// Counts a watch as long as what is returned lives.
    pub fn watch(&self, info: &RequestInfo) -> Option<Watched> {
        self.watches.open(info)
    }

    /// What a write needs.
    pub fn need_of_write(&self, info: &RequestInfo) -> Need {
        // Tokens are no objects: nobody watches them, whoever watches the accounts.
        if info.resource == "serviceaccounts" && info.subresource == "token" {
            return Need::Seats(1);
        }
        Need::Telling(self.watches.interested(info))
    }

    /// Frees seats that are held after their requests, until dropped.
    pub async fn free_seats(self: Arc<Self>) {
        self.lingering.run().await;
    }

    /// Waits for the seats a request needs.
    ///
    /// # Errors
    /// 429 when the queue is full or the wait too long.
    pub async fn admit(
        &self,
        request: Classified,
        need: Need,
        attributes: &Attributes,
    ) -> Result<Ticket, Status> {
        let Classified { level, schema, flow, distinguisher, .. } = request;
        if let Need::Telling(watches) = need {
            metrics::watched(&level.name, &schema, watches);
        }
        let work = need.within(level.widest());
        metrics::estimated(&level.name, &schema, work.seats());
        let of = schema.clone();
        let asked = move || Asked {
            schema: of,
            flow: distinguisher,
            since: Timestamp::now(),
            attributes: attributes.clone(),
        };
        let ticket =
            level.enter(schema, flow, work.seats(), self.wait, asked).await.map_err(|_| refused())?;
        Ok(ticket.lingering(work, &self.lingering))
    }

    /// The table that is asked for below `/debug/api_priority_and_fairness/`, with who asked what when `details` says
    /// anything; none of another name.
    pub fn dump(&self, path: &str, details: &str) -> Option<String> {
        let name = path.strip_prefix("/debug/api_priority_and_fairness/")?;
        dump::table(&self.rules.load().levels, name, !details.is_empty())
    }

    /// Takes over what is stored; the mandatory objects count even when they are not.
    fn take(&self, schemas: &[Arc<Object>], levels: &[Arc<Object>]) {
        let (default_levels, default_schemas) = bootstrap::mandatory();
        let old = self.rules.load();
        let missing = |all: &[Arc<Object>], wanted: Vec<Object>| -> Vec<Arc<Object>> {
            let mut all = all.to_vec();
            let absent = |one: &Object| !all.iter().any(|stored| stored.name() == one.name());
            let absent: Vec<Arc<Object>> =
                wanted.into_iter().filter(|one| absent(one)).map(Arc::new).collect();
            all.extend(absent);
            all
        };
        let levels = missing(levels, default_levels);
        let limits = sharing::nominal(self.seats, &levels);
        let kept = |object: &Object, limits: Limits| {
            let same = |level: &&Arc<Level>| *level.name == *object.name() && *level.uid == *uid(object);
            match old.levels.iter().find(same) {
                Some(level) => {
                    level.configure(limits, Instant::now());
                    level.clone()
                }
                None => Arc::new(Level::new(object.name(), uid(object), limits)),
            }
        };
        let levels: Vec<Arc<Level>> =
            levels.iter().zip(limits).map(|(object, limits)| kept(object, limits)).collect();
        let mut schemas: Vec<FlowSchema> =
            missing(schemas, default_schemas).iter().map(|object| FlowSchema::of(object)).collect();
        schemas.retain(|schema| levels.iter().any(|level| *level.name == *schema.level));
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        for gone in old.levels.iter().filter(|old| !levels.iter().any(|level| level.name == old.name)) {
            metrics::forget(&gone.name);
        }
        self.rules.store(Arc::new(Rules { schemas, levels }));
    }

    /// Lends seats of idle levels to busy ones, by what each needed since the last time.
    fn lend(&self) {
        let rules = self.rules.load();
        let now = Instant::now();
        let demands: Vec<sharing::Demand> = rules.levels.iter().map(|level| level.demand(now)).collect();
        let (limits, fair) = sharing::lend(self.seats, &demands);
        metrics::fair_fraction(fair);
        for ((level, demand), limit) in rules.levels.iter().zip(&demands).zip(limits) {
            metrics::target(&level.name, demand.target());
            level.set_limit(limit, now);
        }
    }
}

impl Need {
    /// The work, of which no more than `widest` seats are taken at once: what is left is done in more time.
    fn within(self, widest: u32) -> Work {
        /// Watches that one seat is enough for, and how long it is held to tell them.
        const WATCHES: u32 = 10;
        const TELLING: Duration = Duration::from_millis(5);
        /// The most seats of a write.
        const MOST: u32 = 10;
        let plain = |initial: u32| Work { initial, last: 0, linger: Duration::ZERO };
        match self {
            Self::Seats(seats) => plain(seats.min(widest)),
            Self::Telling(watches) if watches < WATCHES => plain(1),
            Self::Telling(watches) => {
                let wanted = watches.div_ceil(WATCHES);
                let last = wanted.min(MOST).min(widest.max(1));
                Work { initial: 1, last, linger: TELLING * wanted / last }
            }
        }
    }
}

impl Work {
    /// Seats that are held from the beginning to the end.
    fn seats(self) -> u32 {
        self.initial.max(self.last)
    }

    /// How long all its seats would have had to be used for as much, of a request that was served for `lasted`.
    fn evened(self, lasted: Duration) -> Duration {
        (lasted * self.initial + self.linger * self.last) / self.seats().max(1)
    }
}

/// What a list is estimated by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Objects of the resource.
    pub objects: usize,
    /// Their bytes.
    pub bytes: usize,
    /// How many are asked for at most; 0 for all.
    pub limit: usize,
    /// Whether it is asked for one by its name.
    pub single: bool,
}

/// Seats of a list, or of a watch that begins with one: by the memory it takes at once or, as it was before
/// `SizeBasedListCostEstimate`, by the number of objects that are looked through. Every list is served by the cache, and
/// streamed.
pub fn seats_of_list(listed: Listed, by_size: bool) -> u32 {
    /// Bytes, and objects, that one seat is enough for.
    const BYTES: usize = 100_000;
    const OBJECTS: usize = 100;
    /// A list that is streamed takes no more.
    const AT_ONCE: usize = 1_000_000;
    /// The most seats of a list by objects.
    const MOST: usize = 10;
    let Listed { objects, bytes, limit, single } = listed;
    let seats = if by_size {
        let loaded = match (single, limit) {
            (true, _) => 1,
            (false, 0) => objects,
            (false, limit) => limit.min(objects),
        };
        let each = bytes / objects.max(1);
        loaded.saturating_mul(each).min(AT_ONCE).div_ceil(BYTES)
    } else {
        let processed = if single { 1 } else { objects };
        processed.div_ceil(OBJECTS).min(MOST)
    };
    u32::try_from(seats.max(1)).unwrap_or(1)
}

/// 429 of a request that found no place.
pub fn refused() -> Status {
    Status::too_many_requests("Too many requests, please try again later.", 1).in_plain_text()
}

fn uid(object: &Object) -> &str {
    object.pointer("/metadata/uid").and_then(serde_json::Value::as_str).unwrap_or_default()
}
