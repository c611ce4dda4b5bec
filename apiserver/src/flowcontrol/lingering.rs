//! Seats that are held after their request has been answered: while those who watch are told of what it wrote.
//!
//! Contract: upstream's `AdditionalLatency` of work estimates.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{level::Level, metrics, queues::Dispatched};

/// Seats in the order in which they become free. Requests that are being served bound how many there are.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    held: Mutex<Held>,
    /// Told when the next ones are free earlier than was thought.
    sooner: Notify,
}

#[derive(Debug, Default)]
struct Held {
    all: BTreeMap<(Instant, u64), Seats>,
    number: u64,
}

/// Seats of a level.
#[derive(Debug)]
pub(super) struct Seats {
    pub(super) level: Arc<Level>,
    pub(super) schema: Arc<str>,
    pub(super) dispatched: Dispatched,
    /// How long they are taken to have been used.
    pub(super) lasted: Duration,
}

impl Lingering {
    /// Holds seats until then.
    pub(super) fn hold(&self, until: Instant, seats: Seats) {
        let mut held = self.held.lock();
        held.number += 1;
        let key = (until, held.number);
        held.all.insert(key, seats);
        let is_next = held.all.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(held);
        if is_next {
            self.sooner.notify_one();
        }
    }

    /// Frees what is due; tells when the next seats are.
    pub(super) fn free(&self, now: Instant) -> Option<Instant> {
        let mut held = self.held.lock();
        let later = held.all.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut held.all, later);
        let next = held.all.first_key_value().map(|((at, _), _)| *at);
        drop(held);
        for seats in due.into_values() {
            seats.free();
        }
        next
    }

    /// Frees seats in time until dropped.
    pub(super) async fn run(&self) {
        loop {
            match self.free(Instant::now()) {
                None => self.sooner.notified().await,
                Some(next) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(next.into()) => {}
                        () = self.sooner.notified() => {}
                    }
                }
            }
        }
    }
}

impl Seats {
    /// Gives them back.
    pub(super) fn free(self) {
        metrics::freed(&self.level.name, &self.schema, self.dispatched.seats);
        self.level.leave(self.dispatched, self.lasted);
    }
}
