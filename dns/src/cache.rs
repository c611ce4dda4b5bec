//! Answers kept for their time to live (the `cache` directive).
//!
//! Contract: RFC 2308 (negative caching), CoreDNS' defaults: positive answers up to an hour, negative up
//! to half an hour, 9,984 of each. Time is passed in.

use std::{collections::HashMap, time::Duration};

use hickory_proto::{
    op::ResponseCode,
    rr::{RData, Record, RecordType},
};

/// Time since an arbitrary start; monotonic.
pub type Instant = Duration;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Lower-case name, with the final dot.
    pub name: String,
    /// Record type.
    pub kind: RecordType,
    /// Whether DNSSEC records were asked for.
    pub dnssec: bool,
}

/// An answer as it can be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// NoError or NXDomain; nothing else is kept.
    pub code: ResponseCode,
    /// Answer section.
    pub answers: Vec<Record>,
    /// Authority section.
    pub authorities: Vec<Record>,
    /// Additional section, without OPT.
    pub additionals: Vec<Record>,
    /// Whether the answer is authoritative.
    pub authoritative: bool,
}

/// Limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most answers kept.
    pub capacity: usize,
    /// Longest a positive answer is kept, in seconds.
    pub max_ttl: u32,
    /// Shortest, in seconds.
    pub min_ttl: u32,
    /// Most negative answers kept.
    pub denial_capacity: usize,
    /// Longest a negative answer is kept, in seconds.
    pub denial_max_ttl: u32,
    /// Shortest, in seconds.
    pub denial_min_ttl: u32,
    /// How long a failure of the servers asked is kept, in seconds.
    pub failure_ttl: u32,
    /// For how long an answer that is over may still be given when nobody else answers.
    pub stale: Duration,
    /// Such an answer is given at once, and a new one is asked for afterwards.
    pub stale_at_once: bool,
    /// The TTL such an answer has, in seconds.
    pub stale_ttl: u32,
    /// For how long others are waited for before such an answer is given; `None` is as long as they take.
    pub verify_within: Option<Duration>,
    /// For how long after a failure such an answer is given without asking others.
    pub recheck: Duration,
    /// Answers that are asked for often are asked for anew before they are over.
    pub prefetch: Option<Prefetch>,
    /// Answers carry the TTL they came with.
    pub keep_ttl: bool,
}

/// Which answers are asked for anew before they are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// Those asked for this many times,
    pub amount: u32,
    /// never longer apart than this,
    pub within: Duration,
    /// when less than this part of their time is left, in percent.
    pub percentage: u32,
}

/// What the cache knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The answer.
    pub reply: Reply,
    /// Whether the one who got it is to ask for a new one; nobody else is told until that is kept or has failed.
    pub refresh: bool,
    /// Whether it is over.
    pub stale: bool,
}

#[derive(Debug)]
struct Entry {
    reply: Reply,
    stored: Instant,
    until: Instant,
    /// How often it was asked for, as [`Prefetch`] counts, and when last.
    asked: u32,
    last: Instant,
    /// Somebody asks for a new one already.
    refreshing: bool,
    /// Nobody asks for a new one before.
    retry_at: Instant,
}

/// Two bounded maps: for answers, and for denials.
#[derive(Debug)]
pub struct Cache {
    limits: Limits,
    positive: HashMap<Question, Entry>,
    negative: HashMap<Question, Entry>,
    /// Answers and denials that made room for others since somebody asked.
    evicted: (u64, u64),
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            capacity: 9984,
            max_ttl: 3600,
            min_ttl: 5,
            denial_capacity: 9984,
            denial_max_ttl: 1800,
            denial_min_ttl: 5,
            failure_ttl: 5,
            stale: Duration::ZERO,
            stale_at_once: false,
            stale_ttl: 0,
            verify_within: None,
            recheck: Duration::ZERO,
            prefetch: None,
            keep_ttl: false,
        }
    }
}

impl Reply {
    /// Whether the reply denies the name or the type.
    pub fn is_denial(&self) -> bool {
        self.code != ResponseCode::NoError || self.answers.is_empty()
    }

    fn records_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.answers.iter_mut().chain(&mut self.authorities).chain(&mut self.additionals)
    }

    /// Seconds the reply holds by itself: the least TTL, for denials bounded by the SOA's minimum.
    fn ttl(&self) -> Option<u32> {
        if !self.is_denial() {
            return self.answers.iter().chain(&self.authorities).map(|r| r.ttl).min();
        }
        self.authorities.iter().find_map(|r| match &r.data {
            RData::SOA(soa) => Some(r.ttl.min(soa.minimum)),
            _ => None,
        })
    }
}

impl Entry {
    /// Counts a question; whether a new answer is to be asked for.
    fn is_wanted(&mut self, prefetch: &Prefetch, now: Instant) -> bool {
        let often = now.saturating_sub(self.last) <= prefetch.within;
        self.asked = if often { self.asked.saturating_add(1) } else { 1 };
        self.last = now;
        let (left, all) = (self.until.saturating_sub(now), self.until.saturating_sub(self.stored));
        !self.refreshing && self.asked >= prefetch.amount && left * 100 < all * prefetch.percentage
    }
}

impl Cache {
    /// An empty cache.
    pub fn new(limits: Limits) -> Self {
        Self { limits, positive: HashMap::new(), negative: HashMap::new(), evicted: (0, 0) }
    }

    /// The reply to a question with TTLs counted down, if it still holds or may be given all the same.
    pub fn get(&mut self, question: &Question, now: Instant) -> Option<Hit> {
        let limits = self.limits;
        let holds = |entry: &&mut Entry| now < entry.until;
        let entry = match self.positive.get_mut(question).filter(holds) {
            Some(entry) => Some(entry),
            None => self.negative.get_mut(question).filter(holds),
        };
        let Some(entry) = entry else {
            return self.get_stale_at_once(question, now);
        };
        let refresh = limits.prefetch.is_some_and(|prefetch| entry.is_wanted(&prefetch, now));
        entry.refreshing |= refresh;
        let age = u32::try_from(now.saturating_sub(entry.stored).as_secs()).unwrap_or(u32::MAX);
        let left = u32::try_from((entry.until - now).as_secs()).unwrap_or(u32::MAX).max(1);
        let mut reply = entry.reply.clone();
        if !limits.keep_ttl {
            for record in reply.records_mut() {
                record.ttl = record.ttl.saturating_sub(age).clamp(1, left);
            }
        }
        Some(Hit { reply, refresh, stale: false })
    }

    fn get_stale_at_once(&mut self, question: &Question, now: Instant) -> Option<Hit> {
        let reply = self.get_stale(question, now)?;
        let entry = self.positive.get_mut(question)?;
        // Others have failed only just, or are asked already: that need not be tried again.
        let waits = now < entry.retry_at || (entry.refreshing && !self.limits.recheck.is_zero());
        if !self.limits.stale_at_once && !waits {
            entry.refreshing = !self.limits.recheck.is_zero();
            return None;
        }
        let refresh = now >= entry.retry_at && !std::mem::replace(&mut entry.refreshing, true);
        Some(Hit { reply, refresh, stale: true })
    }

    /// A positive answer that is over, but not for too long; its TTLs say so.
    pub fn get_stale(&self, question: &Question, now: Instant) -> Option<Reply> {
        let entry = self.positive.get(question)?;
        if now < entry.until || now >= entry.until + self.limits.stale {
            return None;
        }
        let mut reply = entry.reply.clone();
        let ttl = self.limits.stale_ttl;
        reply.records_mut().for_each(|record| record.ttl = ttl);
        Some(reply)
    }

    /// Keeps a reply, if it may be kept.
    pub fn put(&mut self, question: Question, reply: &Reply, now: Instant) {
        let limits = self.limits;
        let had = [self.positive.get_mut(&question), self.negative.get_mut(&question)];
        let mut asked = (0, now);
        for entry in had.into_iter().flatten() {
            entry.refreshing = false;
            entry.retry_at = now + limits.recheck;
            asked = (entry.asked, entry.last);
        }
        let ttl = match reply.code {
            ResponseCode::NoError | ResponseCode::NXDomain => {
                let Some(ttl) = reply.ttl() else { return };
                let (least, most) = if reply.is_denial() {
                    (limits.denial_min_ttl, limits.denial_max_ttl)
                } else {
                    (limits.min_ttl, limits.max_ttl)
                };
                ttl.clamp(least.min(most), most)
            }
            // While there is an old answer to give, a failure must not stand in its way.
            ResponseCode::ServFail if self.get_stale(&question, now).is_none() => limits.failure_ttl,
            _ => return,
        };
        let (map, capacity, evicted) = if reply.is_denial() {
            if reply.code != ResponseCode::ServFail {
                self.positive.remove(&question);
            }
            (&mut self.negative, limits.denial_capacity, &mut self.evicted.1)
        } else {
            self.negative.remove(&question);
            (&mut self.positive, limits.capacity, &mut self.evicted.0)
        };
        if ttl == 0 || capacity == 0 {
            return;
        }
        if map.len() >= capacity && !map.contains_key(&question) {
            *evicted += make_room(map, now, capacity);
        }
        let until = now + Duration::from_secs(ttl.into());
        let (asked, last) = asked;
        map.insert(
            question,
            Entry {
                reply: reply.clone(),
                stored: now,
                until,
                asked,
                last,
                refreshing: false,
                retry_at: Duration::ZERO,
            },
        );
    }

    /// How many (positive, negative) replies made room for others since this was asked last.
    pub fn take_evicted(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.evicted)
    }

    /// Number of (positive, negative) replies kept.
    pub fn len(&self) -> (usize, usize) {
        (self.positive.len(), self.negative.len())
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }
}

/// Drops what is over, and if that is not enough a sixteenth of the rest: the order of a hash map is as
/// good as random. How many are gone.
fn make_room(map: &mut HashMap<Question, Entry>, now: Instant, capacity: usize) -> u64 {
    let before = map.len();
    map.retain(|_, entry| entry.until > now);
    if map.len() >= capacity {
        let surplus: Vec<Question> = map.keys().take(capacity / 16 + 1).cloned().collect();
        for question in surplus {
            map.remove(&question);
        }
    }
    u64::try_from(before - map.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{
        Name,
        rdata::{A, SOA},
    };

    use super::*;

    fn at(seconds: u64) -> Instant {
        Duration::from_secs(seconds)
    }

    fn question(name: &str) -> Question {
        Question { name: name.into(), kind: RecordType::A, dnssec: false }
    }

    fn positive(ttl: u32) -> Reply {
        let data = RData::A(A([1, 2, 3, 4].into()));
        let answers = vec![Record::from_rdata(Name::root(), ttl, data)];
        Reply {
            code: ResponseCode::NoError,
            answers,
            authorities: vec![],
            additionals: vec![],
            authoritative: false,
        }
    }

    fn denial(ttl: u32, minimum: u32) -> Reply {
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
        Reply {
            code: ResponseCode::NXDomain,
            answers: vec![],
            authorities: vec![Record::from_rdata(Name::root(), ttl, RData::SOA(soa))],
            ..positive(0)
        }
    }

    #[test]
    fn ttls_count_down_and_run_out() {
        let mut cache = Cache::new(Limits::default());
        cache.put(question("a."), &positive(60), at(0));
        assert_eq!(cache.get(&question("a."), at(20)).map(|hit| hit.reply.answers[0].ttl), Some(40));
        assert_eq!(cache.get(&question("a."), at(60)), None);
    }

    #[test]
    fn limits_bound_what_upstreams_say() {
        let mut cache = Cache::new(Limits { max_ttl: 30, ..Limits::default() });
        cache.put(question("long."), &positive(9999), at(0));
        cache.put(question("short."), &positive(0), at(0));
        assert_eq!(cache.get(&question("long."), at(1)).map(|hit| hit.reply.answers[0].ttl), Some(29));
        assert!(cache.get(&question("long."), at(30)).is_none());
        assert!(cache.get(&question("short."), at(4)).is_some(), "kept for the least time");
    }

    #[test]
    fn denials_hold_as_long_as_the_soa_says() {
        let mut cache = Cache::new(Limits::default());
        cache.put(question("no."), &denial(300, 20), at(0));
        assert!(cache.get(&question("no."), at(19)).is_some());
        assert!(cache.get(&question("no."), at(20)).is_none());
        let mut failure = denial(300, 20);
        failure.code = ResponseCode::ServFail;
        cache.put(question("fail."), &failure, at(0));
        assert!(cache.get(&question("fail."), at(4)).is_some());
        assert!(cache.get(&question("fail."), at(5)).is_none(), "failures are kept for a moment only");
        failure.code = ResponseCode::Refused;
        cache.put(question("refused."), &failure, at(0));
        assert!(cache.get(&question("refused."), at(0)).is_none());
    }

    #[test]
    fn an_old_answer_is_better_than_none_for_a_while() {
        let limits = Limits { stale: Duration::from_secs(100), keep_ttl: true, ..Limits::default() };
        let mut cache = Cache::new(limits);
        cache.put(question("a."), &positive(60), at(0));
        assert_eq!(
            cache.get(&question("a."), at(20)).map(|hit| hit.reply.answers[0].ttl),
            Some(60),
            "as it came"
        );
        assert!(cache.get_stale(&question("a."), at(59)).is_none());
        assert_eq!(cache.get_stale(&question("a."), at(60)).map(|r| r.answers[0].ttl), Some(0));
        let failure = Reply { code: ResponseCode::ServFail, ..denial(0, 0) };
        cache.put(question("a."), &failure, at(61));
        assert!(cache.get(&question("a."), at(61)).is_none());
        assert!(cache.get_stale(&question("a."), at(159)).is_some());
        assert!(cache.get_stale(&question("a."), at(160)).is_none());
    }

    #[test]
    fn an_old_answer_is_given_at_once_while_one_asks_for_another() {
        let limits = Limits { stale: Duration::from_secs(100), stale_at_once: true, ..Limits::default() };
        let mut cache = Cache::new(limits);
        cache.put(question("a."), &positive(60), at(0));
        let told = |cache: &mut Cache, now| {
            cache.get(&question("a."), at(now)).map(|h| (h.reply.answers[0].ttl, h.refresh))
        };
        assert_eq!(told(&mut cache, 59), Some((1, false)));
        assert_eq!(told(&mut cache, 60), Some((0, true)));
        assert_eq!(told(&mut cache, 61), Some((0, false)), "somebody asks already");
        cache.put(question("a."), &Reply { code: ResponseCode::ServFail, ..denial(0, 0) }, at(62));
        assert_eq!(told(&mut cache, 63), Some((0, true)), "that failed, so it is somebody else's turn");
        cache.put(question("a."), &positive(60), at(64));
        assert_eq!(told(&mut cache, 65), Some((59, false)));
        assert_eq!(told(&mut cache, 64 + 160), None);
    }

    #[test]
    fn after_a_failure_others_are_left_alone_for_a_while() {
        let limits = Limits {
            stale: Duration::from_secs(100),
            stale_ttl: 30,
            recheck: Duration::from_secs(10),
            ..Limits::default()
        };
        let failure = Reply { code: ResponseCode::ServFail, ..denial(0, 0) };
        let told = |cache: &mut Cache, now| {
            cache.get(&question("a."), at(now)).map(|h| (h.reply.answers[0].ttl, h.refresh, h.stale))
        };
        let mut cache = Cache::new(limits);
        cache.put(question("a."), &positive(60), at(0));
        assert_eq!(told(&mut cache, 60), None, "others are asked first");
        assert_eq!(told(&mut cache, 60), Some((30, false, true)), "by one only");
        cache.put(question("a."), &failure, at(61));
        assert_eq!(told(&mut cache, 70), Some((30, false, true)));
        assert_eq!(told(&mut cache, 71), None, "it is time again");
        let mut cache = Cache::new(Limits { stale_at_once: true, ..limits });
        cache.put(question("a."), &positive(60), at(0));
        assert_eq!(told(&mut cache, 60), Some((30, true, true)));
        cache.put(question("a."), &failure, at(61));
        assert_eq!(told(&mut cache, 70), Some((30, false, true)));
        assert_eq!(told(&mut cache, 71), Some((30, true, true)));
    }

    #[test]
    fn what_is_asked_for_often_is_asked_for_anew_in_time() {
        let prefetch = Prefetch { amount: 3, within: Duration::from_secs(30), percentage: 10 };
        let mut cache = Cache::new(Limits { prefetch: Some(prefetch), ..Limits::default() });
        let wants = |cache: &mut Cache, now| cache.get(&question("a."), at(now)).map(|hit| hit.refresh);
        cache.put(question("a."), &positive(100), at(0));
        for (now, want) in [
            (1, false),
            (20, false),
            (50, false),
            (89, false),
            (90, false),
            (91, true),
            (92, false),
            (93, false),
        ] {
            // The gap before 89 begins the count anew.
            assert_eq!(wants(&mut cache, now), Some(want), "{now}");
        }
        cache.put(question("a."), &positive(100), at(94));
        assert_eq!(wants(&mut cache, 95), Some(false), "there is time");
        assert_eq!(wants(&mut cache, 190), Some(false), "it is not asked for any more");
    }

    #[test]
    fn the_cache_never_grows_over_its_capacity() {
        let mut cache = Cache::new(Limits { capacity: 32, ..Limits::default() });
        for n in 0..1000 {
            cache.put(question(&format!("{n}.")), &positive(60), at(0));
            assert!(cache.len().0 <= 32);
        }
        assert!(cache.get(&question("999."), at(1)).is_some(), "the newest is there");
    }

    #[test]
    fn a_new_answer_replaces_a_denial() {
        let mut cache = Cache::new(Limits::default());
        cache.put(question("a."), &denial(300, 300), at(0));
        cache.put(question("a."), &positive(60), at(1));
        assert!(cache.get(&question("a."), at(2)).is_some_and(|hit| !hit.reply.is_denial()));
    }
}
