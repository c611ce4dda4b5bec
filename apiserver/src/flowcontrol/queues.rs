//! The queues of one priority level: who waits, and who is next. Pure: time comes in as seconds.
//!
//! Each flow has a hand of queues, chosen by its hash (shuffle sharding); a request waits in the emptiest of its hand.
//! Queues are served by fair queuing: virtual work done in a queue is charged to it, the queue that has had least is
//! next, and one that was idle starts where the others are. Contract: KEP-1040, "Fair Queuing for Server Requests".

use std::collections::VecDeque;

/// Seconds a request is taken to last until it is over and known better.
const GUESS: f64 = 0.003;

/// Number of a waiting request, unique within a level.
pub(super) type Id = u64;

/// How a level queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queuing {
    /// Number of queues.
    pub(super) queues: usize,
    /// Queues of one flow.
    pub(super) hand: usize,
    /// Requests that may wait in one queue.
    pub(super) length: usize,
}

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Waiting {
    id: Id,
    seats: u32,
}

/// What a queue shows of itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    /// Requests in their order, each with the seats it wants.
    pub(super) waiting: Vec<(Id, u32)>,
    /// Requests of it that are served.
    pub(super) running: u32,
    /// Their seats.
    pub(super) running_seats: u32,
    /// Virtual time it has used, in seconds times seats.
    pub(super) used: f64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Requests of this queue that are being served.
    running: u32,
    running_seats: u32,
    /// Virtual time up to which this queue's share is used.
    used: f64,
}

/// A request that may be served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dispatched {
    pub(super) id: Id,
    pub(super) queue: usize,
    pub(super) seats: u32,
}

/// The queues.
#[derive(Debug)]
pub(super) struct Queues {
    queuing: Queuing,
    all: Vec<Queue>,
    /// Virtual time: how much work a queue has got that always had some, in seat-seconds.
    virtual_time: f64,
    /// When that was computed.
    at: f64,
    /// The queue looked at first, so that equals take turns.
    first: usize,
    /// Seats in use, of requests that waited here or went straight through.
    running_seats: u32,
}

impl Queues {
    pub(super) fn new(queuing: Queuing) -> Self {
        let mut queues =
            Self { queuing, all: Vec::new(), virtual_time: 0.0, at: 0.0, first: 0, running_seats: 0 };
        queues.configure(queuing);
        queues
    }

    /// Takes another number of queues; those that still have requests stay until they are empty.
    pub(super) fn configure(&mut self, queuing: Queuing) {
        self.queuing = queuing;
        let wanted = queuing.queues.max(1);
        if self.all.len() < wanted {
            self.all.resize_with(wanted, Queue::default);
        }
        while self.all.len() > wanted && self.all.last().is_some_and(Queue::is_idle) {
            self.all.pop();
        }
    }

    /// Seats in use.
    pub(super) fn running_seats(&self) -> u32 {
        self.running_seats
    }

    /// Seats that waiting requests want.
    pub(super) fn waiting_seats(&self) -> u32 {
        self.all.iter().flat_map(|queue| &queue.waiting).map(|waiting| waiting.seats).sum()
    }

    /// Puts a request of a flow into a queue; `None` when that is full, else how long the queue is now.
    pub(super) fn enter(&mut self, now: f64, limit: u32, flow: u64, id: Id, seats: u32) -> Option<usize> {
        self.advance(now, limit);
        let hand = hand(flow, self.queuing.queues.max(1), self.queuing.hand.max(1));
        let work = |queue: &Queue| {
            queue.waiting.iter().map(|w| u64::from(w.seats)).sum::<u64>() + u64::from(queue.running_seats)
        };
        let chosen = hand.into_iter().min_by_key(|at| self.all.get(*at).map_or(u64::MAX, work))?;
        let queue = self.all.get_mut(chosen)?;
        if queue.waiting.len() >= self.queuing.length.max(1) {
            return None;
        }
        if queue.is_idle() {
            queue.used = self.virtual_time;
        }
        queue.waiting.push_back(Waiting { id, seats });
        Some(queue.waiting.len())
    }

    /// A request that runs without having waited.
    pub(super) fn straight(&mut self, seats: u32) -> Dispatched {
        self.running_seats += seats;
        Dispatched { id: 0, queue: usize::MAX, seats }
    }

    /// The next request that fits into `limit` seats.
    pub(super) fn next(&mut self, now: f64, limit: u32) -> Option<Dispatched> {
        self.advance(now, limit);
        let count = self.all.len();
        let mut best: Option<(f64, usize)> = None;
        for offset in 0..count {
            let at = (self.first + offset) % count;
            let Some(head) = self.all[at].waiting.front() else { continue };
            let finish = self.all[at].used + GUESS * f64::from(head.seats);
            if best.is_none_or(|(least, _)| finish < least) {
                best = Some((finish, at));
            }
        }
        let (_, at) = best?;
        let head = *self.all[at].waiting.front()?;
        // One that is wider than the level alone runs when nothing else does.
        if self.running_seats + head.seats > limit && self.running_seats > 0 {
            return None;
        }
        let queue = &mut self.all[at];
        queue.waiting.pop_front();
        queue.running += 1;
        queue.running_seats += head.seats;
        queue.used += GUESS * f64::from(head.seats);
        self.running_seats += head.seats;
        self.first = (at + 1) % count;
        Some(Dispatched { id: head.id, queue: at, seats: head.seats })
    }

    /// A dispatched request is over after `lasted` seconds.
    pub(super) fn leave(&mut self, now: f64, limit: u32, request: Dispatched, lasted: f64) {
        self.advance(now, limit);
        self.running_seats = self.running_seats.saturating_sub(request.seats);
        let Some(queue) = self.all.get_mut(request.queue) else { return };
        queue.running = queue.running.saturating_sub(1);
        queue.running_seats = queue.running_seats.saturating_sub(request.seats);
        queue.used += (lasted - GUESS) * f64::from(request.seats);
        self.configure(self.queuing);
    }

    /// A request does not wait any more; false when it does not wait (any more) anyway.
    pub(super) fn forget(&mut self, id: Id) -> bool {
        self.all.iter_mut().any(|queue| {
            let found = queue.waiting.iter().position(|waiting| waiting.id == id);
            found.and_then(|at| queue.waiting.remove(at)).is_some()
        })
    }

    /// Each queue as it is now.
    pub(super) fn seen(&self) -> Vec<Seen> {
        let of = |queue: &Queue| Seen {
            waiting: queue.waiting.iter().map(|waiting| (waiting.id, waiting.seats)).collect(),
            running: queue.running,
            running_seats: queue.running_seats,
            used: queue.used,
        };
        self.all.iter().map(of).collect()
    }

    /// Virtual time goes as fast as seats are there for each queue that has work.
    fn advance(&mut self, now: f64, limit: u32) {
        let passed = (now - self.at).max(0.0);
        self.at = now;
        let busy = self.all.iter().filter(|queue| !queue.is_idle()).count();
        if busy == 0 {
            return;
        }
        let wanted: u32 = self.waiting_seats() + self.running_seats;
        #[expect(clippy::cast_precision_loss, reason = "queues are few")]
        let share = f64::from(wanted.min(limit)) / busy as f64;
        self.virtual_time += passed * share;
    }
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running == 0
    }
}

/// The hand of a flow: `size` different queues of `count`, in the order they are drawn.
fn hand(mut hash: u64, count: usize, size: usize) -> Vec<usize> {
    let mut drawn = Vec::with_capacity(size);
    let mut taken: Vec<usize> = Vec::with_capacity(size);
    for round in 0..size.min(count) {
        let left = (count - round) as u64;
        #[expect(clippy::cast_possible_truncation, reason = "below the number of queues")]
        let mut card = (hash % left) as usize;
        hash /= left;
        // The card is one of those left: count over those taken, which are in order.
        for one in &taken {
            if card >= *one {
                card += 1;
            }
        }
        let place = taken.partition_point(|one| *one < card);
        taken.insert(place, card);
        drawn.push(card);
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUING: Queuing = Queuing { queues: 8, hand: 2, length: 3 };

    #[test]
    fn a_hand_has_different_queues_and_is_always_the_same() {
        for hash in [0, 1, 63, 0xdead_beef, u64::MAX] {
            let cards = hand(hash, 64, 8);
            let mut sorted = cards.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 8, "{cards:?}");
            assert!(sorted.iter().all(|card| *card < 64), "{cards:?}");
            assert_eq!(hand(hash, 64, 8), cards);
        }
        assert_eq!(hand(5, 1, 1), [0]);
        assert_eq!(hand(5, 2, 8).len(), 2);
    }

    #[test]
    fn every_queue_is_in_somebodys_hand() {
        let mut seen = vec![false; 16];
        for hash in 0..2000_u64 {
            for card in hand(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15), 16, 4) {
                seen[card] = true;
            }
        }
        assert!(seen.into_iter().all(|seen| seen));
    }

    #[test]
    fn flows_share_seats_whatever_they_send() {
        let mut queues = Queues::new(Queuing { queues: 64, hand: 1, length: 100 });
        // Two flows of different queues: one sends ninety requests, the other ten.
        let (greedy, modest) = (0, 1);
        for id in 0..90 {
            queues.enter(0.0, 1, greedy, id, 1).unwrap();
        }
        for id in 100..110 {
            queues.enter(0.0, 1, modest, id, 1).unwrap();
        }
        let mut now = 0.0;
        let mut order = Vec::new();
        while let Some(next) = queues.next(now, 1) {
            order.push(next.id);
            now += 0.01;
            queues.leave(now, 1, next, 0.01);
        }
        assert_eq!(order.len(), 100);
        let last_of_modest = order.iter().rposition(|id| *id >= 100).unwrap();
        assert!(last_of_modest < 22, "the modest flow waited for {last_of_modest} requests");
    }

    #[test]
    fn a_full_queue_takes_nobody_and_forgets_who_left() {
        let mut queues = Queues::new(Queuing { queues: 1, hand: 1, length: 2 });
        assert_eq!(queues.enter(0.0, 1, 7, 1, 1), Some(1));
        assert_eq!(queues.enter(0.0, 1, 7, 2, 1), Some(2));
        assert_eq!(queues.enter(0.0, 1, 7, 3, 1), None);
        assert!(queues.forget(1) && !queues.forget(1));
        assert_eq!(queues.enter(0.0, 1, 7, 3, 1), Some(2));
        assert_eq!(queues.next(0.0, 1).unwrap().id, 2);
    }

    #[test]
    fn wide_requests_wait_for_their_seats_and_the_widest_run_alone() {
        let mut queues = Queues::new(QUEUING);
        queues.enter(0.0, 4, 1, 1, 3).unwrap();
        queues.enter(0.0, 4, 2, 2, 9).unwrap();
        let first = queues.next(0.0, 4).unwrap();
        assert_eq!((first.id, queues.next(0.0, 4)), (1, None));
        queues.leave(1.0, 4, first, 1.0);
        let second = queues.next(1.0, 4).unwrap();
        assert_eq!((second.id, queues.running_seats()), (2, 9));
        queues.leave(2.0, 4, second, 1.0);
        assert_eq!(queues.running_seats(), 0);
    }

    #[test]
    fn fewer_queues_go_once_they_are_empty() {
        let mut queues = Queues::new(Queuing { queues: 4, hand: 4, length: 9 });
        for id in 0..4 {
            queues.enter(0.0, 9, 0, id, 1).unwrap();
        }
        let running: Vec<Dispatched> = std::iter::from_fn(|| queues.next(0.0, 9)).collect();
        assert_eq!(running.len(), 4);
        queues.configure(Queuing { queues: 1, hand: 1, length: 9 });
        for one in running {
            queues.leave(1.0, 9, one, 1.0);
        }
        assert_eq!((queues.all.len(), queues.running_seats()), (1, 0));
    }
}
