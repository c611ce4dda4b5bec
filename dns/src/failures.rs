//! Lines about queries that failed (the `errors` directive): each, or how many of a kind there were in a while.
//!
//! Contract: CoreDNS' `errors`, its `consolidate` with it.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use component_base::goduration;
use regex::Regex;
use tokio::sync::Notify;
use tracing::Level;

/// Failures that are told together.
#[derive(Clone, Debug)]
pub struct Consolidate {
    /// How long they are counted from the first one on.
    pub period: Duration,
    /// What they are like.
    pub pattern: Regex,
    /// How loud they are told.
    pub level: Level,
    /// The first is told at once as well.
    pub show_first: bool,
}

/// The directive at work.
#[derive(Debug)]
pub struct Failures(Vec<Kind>);

#[derive(Debug)]
struct Kind {
    rule: Consolidate,
    count: AtomicU32,
    first: Notify,
}

impl Failures {
    /// Of what a directive says.
    #[must_use]
    pub fn new(rules: &[Consolidate]) -> Self {
        let kind =
            |rule: &Consolidate| Kind { rule: rule.clone(), count: AtomicU32::new(0), first: Notify::new() };
        Self(rules.iter().map(kind).collect())
    }

    /// Tells of a failure, now or later.
    pub fn tell(&self, code: u16, name: &str, kind: &str, what: &str) {
        if let Some(level) = self.count(what) {
            write(level, &format!("{code} {name} {kind}: {what}"));
        }
    }

    /// Counts a failure; how loud it is to be told if that is to be at once.
    fn count(&self, what: &str) -> Option<Level> {
        let Some(kind) = self.0.iter().find(|kind| kind.rule.pattern.is_match(what)) else {
            return Some(Level::ERROR);
        };
        let is_first = kind.count.fetch_add(1, Ordering::Relaxed) == 0;
        if is_first {
            kind.first.notify_one();
        }
        (is_first && kind.rule.show_first).then_some(kind.rule.level)
    }

    /// Tells what was counted when its time is over, until dropped.
    pub async fn watch(&self) {
        let each = self.0.iter().map(async |kind| {
            loop {
                kind.first.notified().await;
                tokio::time::sleep(kind.rule.period).await;
                if let Some(line) = kind.sum() {
                    write(kind.rule.level, &line);
                }
            }
        });
        futures::future::join_all(each).await;
    }
}

impl Kind {
    /// What is told of the time that is over.
    fn sum(&self) -> Option<String> {
        let count = self.count.swap(0, Ordering::Relaxed);
        let is_news = count > 1 || (count == 1 && !self.rule.show_first);
        let (pattern, period) = (self.rule.pattern.as_str(), goduration::format(self.rule.period));
        is_news.then(|| format!("{count} errors like '{pattern}' occurred in last {period}"))
    }
}

fn write(level: Level, line: &str) {
    match level {
        Level::WARN => tracing::warn!("{line}"),
        Level::INFO => tracing::info!("{line}"),
        Level::DEBUG | Level::TRACE => tracing::debug!("{line}"),
        Level::ERROR => tracing::error!("{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_a_kind_are_told_together() {
        let rule = |show_first| Consolidate {
            period: Duration::from_secs(30),
            pattern: Regex::new("timed out$").unwrap(),
            level: Level::WARN,
            show_first,
        };
        let failures = Failures::new(&[rule(false)]);
        assert_eq!(failures.count("no upstream server"), Some(Level::ERROR), "of no kind");
        assert_eq!(failures.count("10.0.0.1: timed out"), None);
        assert_eq!(failures.count("10.0.0.2: timed out"), None);
        assert_eq!(failures.0[0].sum().as_deref(), Some("2 errors like 'timed out$' occurred in last 30s"));
        assert_eq!(failures.0[0].sum(), None, "nothing since");
        let failures = Failures::new(&[rule(true)]);
        assert_eq!(failures.count("timed out"), Some(Level::WARN));
        assert_eq!(failures.0[0].sum(), None, "the one was told");
        assert_eq!(failures.count("timed out"), Some(Level::WARN));
        assert_eq!(failures.count("timed out"), None);
        assert!(failures.0[0].sum().unwrap().starts_with("2 errors"));
    }
}
