//! EventRateLimit: events may come only so fast, all together, of a namespace, of a user, or of one source about one object.
//!
//! Contract: eventratelimit.admission.k8s.io/v1alpha1; refusals are 429.

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use lru::LruCache;
use parking_lot::Mutex;
use serde::Deserialize;

use super::{Configuration, Parts, Plugin, Request, text};
use crate::{objects::EVENTS, status::Status};

pub(super) const NAME: &str = "EventRateLimit";

/// Buckets kept of a limit that does not say.
const BUCKETS: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not zero");

/// Whose events a limit counts together.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
enum LimitType {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    limits: Vec<LimitFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LimitFile {
    r#type: LimitType,
    /// Events a second.
    qps: i32,
    /// Events at once.
    burst: i32,
    #[serde(default)]
    cache_size: i32,
}

struct EventRateLimit {
    limits: Vec<Limit>,
}

/// Events of one kind of limit.
struct Limit {
    of: LimitType,
    rate: f64,
    burst: f64,
    /// Buckets kept; the one that was not asked for longest makes room for a new one.
    most: NonZeroUsize,
    buckets: Mutex<LruCache<String, Bucket>>,
}

/// What may still come at once, as of when it was last asked.
#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    asked: Instant,
}

pub(super) fn new(_: &Parts, configuration: Option<&Configuration>) -> Result<Arc<dyn Plugin>, String> {
    const VERSION: &[&str] = &["eventratelimit.admission.k8s.io/v1alpha1"];
    let configuration = configuration.ok_or("a configuration with limits is required")?;
    let file: File = configuration.decode(VERSION, "Configuration").map_err(|error| error.to_string())?;
    if file.limits.is_empty() {
        return Err("limits: Invalid value: must not be empty".to_owned());
    }
    let limits = file.limits.iter().enumerate();
    let limits = limits.map(|(at, limit)| Limit::new(limit).map_err(|why| format!("limits[{at}].{why}")));
    Ok(Arc::new(EventRateLimit { limits: limits.collect::<Result<_, _>>()? }))
}

#[async_trait]
impl Plugin for EventRateLimit {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is_any(EVENTS) || request.dry_run {
            return Ok(());
        }
        let now = Instant::now();
        let refused = |limit: &Limit| {
            let key = limit.key(request);
            let told = format!("limit reached on type {:?} for key {key}", limit.of);
            (!limit.takes(key, now)).then_some(told)
        };
        let refused: Vec<String> = self.limits.iter().filter_map(refused).collect();
        match refused.as_slice() {
            [] => Ok(()),
            [one] => Err(Status::too_many_requests(one, 0)),
            all => Err(Status::too_many_requests(format!("[{}]", all.join(", ")), 0)),
        }
    }
}

impl Limit {
    fn new(file: &LimitFile) -> Result<Self, String> {
        for (name, value) in [("burst", file.burst), ("qps", file.qps)] {
            if value <= 0 {
                return Err(format!("{name}: Invalid value: {value}: must be positive"));
            }
        }
        let most = usize::try_from(file.cache_size)
            .map_err(|_| format!("cacheSize: Invalid value: {}: must not be negative", file.cache_size))?;
        Ok(Self {
            of: file.r#type,
            rate: file.qps.into(),
            burst: file.burst.into(),
            most: NonZeroUsize::new(most).unwrap_or(BUCKETS),
            // It grows with what comes, not with what may come.
            buckets: LruCache::unbounded().into(),
        })
    }

    fn key(&self, request: &Request<'_>) -> String {
        let event = request.object.as_deref();
        match self.of {
            LimitType::Server => String::new(),
            LimitType::Namespace => request.attributes.namespace.to_string(),
            LimitType::User => request.attributes.user.name.clone(),
            LimitType::SourceAndObject => [
                "/source/component",
                "/source/host",
                "/involvedObject/kind",
                "/involvedObject/namespace",
                "/involvedObject/name",
                "/involvedObject/uid",
                "/involvedObject/apiVersion",
            ]
            .map(|pointer| event.map_or("", |event| text(event, pointer)))
            .concat(),
        }
    }

    /// Whether one more may come.
    fn takes(&self, key: String, now: Instant) -> bool {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= self.most.get() && !buckets.contains(&key) {
            buckets.pop_lru();
        }
        let bucket = buckets.get_or_insert_mut(key, || Bucket { left: self.burst, asked: now });
        let passed = now.checked_duration_since(bucket.asked).unwrap_or(Duration::ZERO).as_secs_f64();
        let left = (bucket.left + passed * self.rate).min(self.burst);
        let takes = left >= 1.0;
        *bucket = Bucket { left: if takes { left - 1.0 } else { left }, asked: now };
        takes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::{config::Configurations, testing::Write};

    const HEAD: &str = "apiVersion: eventratelimit.admission.k8s.io/v1alpha1\nkind: Configuration\n";

    fn limit(most: i32) -> Limit {
        let file = LimitFile { r#type: LimitType::Namespace, qps: 2, burst: 3, cache_size: most };
        Limit::new(&file).unwrap()
    }

    #[test]
    fn a_bucket_fills_at_its_rate() {
        let (limit, begin) = (limit(0), Instant::now());
        let takes = |millis: u64| limit.takes("a".to_owned(), begin + Duration::from_millis(millis));
        assert_eq!([0, 0, 0, 0].map(takes), [true, true, true, false]);
        assert_eq!([400, 500, 500].map(takes), [false, true, false]);
        assert_eq!([60_000; 4].map(takes), [true, true, true, false]);
    }

    #[test]
    fn buckets_are_bounded_in_number() {
        let (limit, begin) = (limit(2), Instant::now());
        for (at, key) in ["a", "b", "c", "a"].into_iter().enumerate() {
            assert!(limit.takes(key.to_owned(), begin + Duration::from_millis(at as u64)));
        }
        let buckets = limit.buckets.lock();
        assert_eq!(buckets.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    }

    #[tokio::test]
    async fn what_comes_too_fast_is_refused() {
        let limits = "limits: [{type: Server, qps: 1, burst: 1}, {type: SourceAndObject, qps: 1, burst: 9}]";
        let configurations = Configurations::with(NAME, &format!("{HEAD}{limits}"));
        let chain = crate::admission::testing::configured(&[NAME], &configurations).unwrap();
        let event = json!({"metadata": {"name": "e", "namespace": "a"}, "source": {"component": "c"}});
        let write = || Write::create(EVENTS, event.clone());
        assert!(write().through_chain(&chain).await.is_ok());
        let refused = write().through_chain(&chain).await.unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (429, "limit reached on type Server for key "));
        // Others than events are not counted.
        let other = Write::create(crate::objects::PODS, json!({"metadata": {"name": "p", "namespace": "a"}}));
        assert!(other.through_chain(&chain).await.is_ok());
    }

    #[test]
    fn configurations_without_sense_are_told() {
        for (limits, want) in [
            ("limits: []", "limits: Invalid value: must not be empty"),
            ("limits: [{type: User, qps: 0, burst: 1}]", "limits[0].qps: Invalid value: 0: must be positive"),
            (
                "limits: [{type: User, qps: 1, burst: 1, cacheSize: -1}]",
                "limits[0].cacheSize: Invalid value: -1: must not be negative",
            ),
        ] {
            let configurations = Configurations::with(NAME, &format!("{HEAD}{limits}"));
            let refused = crate::admission::testing::configured(&[NAME], &configurations).err().unwrap();
            assert!(refused.ends_with(want), "{refused}");
        }
    }
}
