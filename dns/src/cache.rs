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
    /// Answers carry the TTL they came with.
    pub keep_ttl: bool,
}

#[derive(Debug)]
struct Entry {
    reply: Reply,
    stored: Instant,
    until: Instant,
}

/// Two bounded maps: for answers, and for denials.
#[derive(Debug)]
pub struct Cache {
    limits: Limits,
    positive: HashMap<Question, Entry>,
    negative: HashMap<Question, Entry>,
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
            keep_ttl: false,
        }
    }
}

impl Reply {
    /// Whether the reply denies the name or the type.
    pub fn is_denial(&self) -> bool {
        self.code != ResponseCode::NoError || self.answers.is_empty()
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

impl Cache {
    /// An empty cache.
    pub fn new(limits: Limits) -> Self {
        Self { limits, positive: HashMap::new(), negative: HashMap::new() }
    }

    /// The reply to a question with TTLs counted down, if it still holds.
    pub fn get(&self, question: &Question, now: Instant) -> Option<Reply> {
        let holds = |entry: &&Entry| now < entry.until;
        let entry = self
            .positive
            .get(question)
            .filter(holds)
            .or_else(|| self.negative.get(question).filter(holds))?;
        let age = u32::try_from(now.saturating_sub(entry.stored).as_secs()).unwrap_or(u32::MAX);
        let left = u32::try_from((entry.until - now).as_secs()).unwrap_or(u32::MAX).max(1);
        let mut reply = entry.reply.clone();
        if self.limits.keep_ttl {
            return Some(reply);
        }
        for record in reply.answers.iter_mut().chain(&mut reply.authorities).chain(&mut reply.additionals) {
            record.ttl = record.ttl.saturating_sub(age).clamp(1, left);
        }
        Some(reply)
    }

    /// A positive answer that is over, but not for too long; its TTLs are zero.
    pub fn get_stale(&self, question: &Question, now: Instant) -> Option<Reply> {
        let entry = self.positive.get(question)?;
        if now < entry.until || now >= entry.until + self.limits.stale {
            return None;
        }
        let mut reply = entry.reply.clone();
        for record in reply.answers.iter_mut().chain(&mut reply.authorities).chain(&mut reply.additionals) {
            record.ttl = 0;
        }
        Some(reply)
    }

    /// Keeps a reply, if it may be kept.
    pub fn put(&mut self, question: Question, reply: &Reply, now: Instant) {
        let limits = self.limits;
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
        let (map, capacity) = if reply.is_denial() {
            if reply.code != ResponseCode::ServFail {
                self.positive.remove(&question);
            }
            (&mut self.negative, limits.denial_capacity)
        } else {
            self.negative.remove(&question);
            (&mut self.positive, limits.capacity)
        };
        if ttl == 0 || capacity == 0 {
            return;
        }
        if map.len() >= capacity && !map.contains_key(&question) {
            make_room(map, now, capacity);
        }
        let until = now + Duration::from_secs(ttl.into());
        map.insert(question, Entry { reply: reply.clone(), stored: now, until });
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
/// good as random.
fn make_room(map: &mut HashMap<Question, Entry>, now: Instant, capacity: usize) {
    map.retain(|_, entry| entry.until > now);
    if map.len() >= capacity {
        let surplus: Vec<Question> = map.keys().take(capacity / 16 + 1).cloned().collect();
        for question in surplus {
            map.remove(&question);
        }
    }
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
        assert_eq!(cache.get(&question("a."), at(20)).map(|r| r.answers[0].ttl), Some(40));
        assert_eq!(cache.get(&question("a."), at(60)), None);
    }

    #[test]
    fn limits_bound_what_upstreams_say() {
        let mut cache = Cache::new(Limits { max_ttl: 30, ..Limits::default() });
        cache.put(question("long."), &positive(9999), at(0));
        cache.put(question("short."), &positive(0), at(0));
        assert_eq!(cache.get(&question("long."), at(1)).map(|r| r.answers[0].ttl), Some(29));
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
        assert_eq!(cache.get(&question("a."), at(20)).map(|r| r.answers[0].ttl), Some(60), "as it came");
        assert!(cache.get_stale(&question("a."), at(59)).is_none());
        assert_eq!(cache.get_stale(&question("a."), at(60)).map(|r| r.answers[0].ttl), Some(0));
        let failure = Reply { code: ResponseCode::ServFail, ..denial(0, 0) };
        cache.put(question("a."), &failure, at(61));
        assert!(cache.get(&question("a."), at(61)).is_none());
        assert!(cache.get_stale(&question("a."), at(159)).is_some());
        assert!(cache.get_stale(&question("a."), at(160)).is_none());
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
        assert!(cache.get(&question("a."), at(2)).is_some_and(|r| !r.is_denial()));
    }
}
