//! How the server's seats are shared among priority levels: by shares, and by need. Pure.
//!
//! Contract: KEP-1040, "Dispatching" and "Borrowing": nominal limits from shares, lendable and borrowing percentages,
//! current limits every ten seconds from the demand.

use std::sync::Arc;

use serde_json::Value;

use super::{level::Limits, queues::Queuing};
use crate::object::Object;

/// What a level may have and what it needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Demand {
    /// Seats by its shares.
    pub(super) nominal: u32,
    /// The least it keeps, however idle.
    pub(super) lower: u32,
    /// The most it gets.
    pub(super) upper: u32,
    /// The most seats wanted at once.
    pub(super) peak: f64,
    /// The demand, smoothed.
    pub(super) smoothed: f64,
    /// Whether the level has no limit, and so only lends.
    pub(super) is_exempt: bool,
}

/// The limits of stored priority levels, in their order.
pub(super) fn nominal(seats: u32, levels: &[Arc<Object>]) -> Vec<Limits> {
    let total: u64 = levels.iter().map(|level| shares(level)).sum();
    levels.iter().map(|level| limits(seats, total.max(1), level)).collect()
}

fn body(level: &Object) -> &Value {
    let field = if is_exempt(level) { "/spec/exempt" } else { "/spec/limited" };
    level.pointer(field).unwrap_or(&Value::Null)
}

fn is_exempt(level: &Object) -> bool {
    level.pointer("/spec/type").and_then(Value::as_str) == Some("Exempt")
}

fn number(value: &Value, field: &str) -> Option<u64> {
    value.get(field).and_then(Value::as_u64)
}

fn shares(level: &Object) -> u64 {
    let default = if is_exempt(level) { 0 } else { 30 };
    number(body(level), "nominalConcurrencyShares").unwrap_or(default)
}

#[expect(clippy::cast_possible_truncation, reason = "a part of a number of seats, which is one of 32 bits")]
fn limits(seats: u32, total: u64, level: &Object) -> Limits {
    let body = body(level);
    let nominal = (u64::from(seats) * shares(level)).div_ceil(total).min(u64::from(u32::MAX)) as u32;
    let part = |percent: u64| (u64::from(nominal) * percent + 50) / 100;
    let lendable = part(number(body, "lendablePercent").unwrap_or(0).min(100)) as u32;
    let upper = match number(body, "borrowingLimitPercent") {
        Some(percent) if !is_exempt(level) => {
            u64::from(nominal).saturating_add(part(percent)).min(u64::from(seats.max(nominal))) as u32
        }
        _ => seats.max(nominal),
    };
    let response = body.get("limitResponse").unwrap_or(&Value::Null);
    let queuing = response.get("queuing").filter(|_| response.get("type") == Some(&"Queue".into()));
    let small = |value: &Value, field: &str, default: u64| {
        usize::try_from(number(value, field).unwrap_or(default)).unwrap_or(usize::MAX).min(10_000_000)
    };
    Limits {
        nominal,
        lower: nominal.saturating_sub(lendable),
        upper,
        is_exempt: is_exempt(level),
        queuing: queuing.map(|queuing| Queuing {
            queues: small(queuing, "queues", 64),
            hand: small(queuing, "handSize", 8),
            length: small(queuing, "queueLengthLimit", 50),
        }),
    }
}

impl Demand {
    /// Seats it keeps whatever others want.
    fn least(&self) -> f64 {
        let needed = f64::from(self.nominal).min(self.peak);
        f64::from(self.lower).max(needed)
    }

    /// Seats it should have if there were enough for all.
    pub(super) fn target(&self) -> f64 {
        self.smoothed.max(self.least()).max(1.0)
    }
}

/// The current limit of each level, and the fraction of its target that a level gets when bounds do not say otherwise.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative and at most the number of all seats"
)]
pub(super) fn lend(seats: u32, demands: &[Demand]) -> (Vec<u32>, f64) {
    let (lower, target) = (Demand::least, Demand::target);
    // What exempt levels use is not there for others.
    let exempt: f64 = demands.iter().filter(|d| d.is_exempt).map(|d| d.peak.max(f64::from(d.lower))).sum();
    let limited = || demands.iter().filter(|d| !d.is_exempt);
    let bounds = |one: &Demand, fraction: f64| {
        (fraction * target(one)).clamp(lower(one), f64::from(one.upper).max(lower(one)))
    };
    let least: f64 = limited().map(lower).sum();
    let room = (f64::from(seats) - exempt).max(least);
    let given = |fraction: f64| limited().map(|one| bounds(one, fraction)).sum::<f64>();
    // More fraction gives more seats: halve the interval until it is known well enough.
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    while given(high) < room && high < f64::from(seats.max(1)) * 2.0 {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if given(middle) <= room { low = middle } else { high = middle }
    }
    let limits = demands.iter().map(|one| match one.is_exempt {
        true => one.nominal,
        false => bounds(one, low).round() as u32,
    });
    (limits.collect(), low)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn level(shares: u64, lendable: u64, borrowing: Option<u64>) -> Arc<Object> {
        let mut limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": {"type": "Reject"}});
        if let Some(percent) = borrowing {
            limited["borrowingLimitPercent"] = percent.into();
        }
        Arc::new(Object::from_value(json!({"spec": {"type": "Limited", "limited": limited}})).unwrap())
    }

    #[test]
    fn shares_become_seats_rounded_up() {
        let limits = nominal(600, &[level(30, 33, None), level(70, 50, Some(10)), level(145, 0, None)]);
        let of = |l: &Limits| (l.nominal, l.lower, l.upper);
        assert_eq!(
            limits.iter().map(of).collect::<Vec<_>>(),
            [(74, 50, 600), (172, 86, 189), (356, 356, 600)]
        );
    }

    fn demand(nominal: u32, lower: u32, peak: f64, smoothed: f64) -> Demand {
        Demand { nominal, lower, upper: 100, peak, smoothed, is_exempt: false }
    }

    #[test]
    fn idle_levels_lend_and_busy_ones_borrow() {
        let (limits, _) = lend(100, &[demand(50, 10, 0.0, 0.0), demand(50, 10, 90.0, 90.0)]);
        assert_eq!(limits, [10, 90]);
        // Nobody gets less than what they need of their own.
        let (limits, _) = lend(100, &[demand(50, 10, 40.0, 40.0), demand(50, 10, 90.0, 90.0)]);
        assert_eq!(limits, [40, 60]);
        // Idle together, they keep the proportion of what they are sure of.
        let (limits, fair) = lend(100, &[demand(50, 10, 0.0, 0.0), demand(50, 30, 0.0, 0.0)]);
        assert_eq!((limits, fair > 1.0), (vec![25, 75], true));
    }

    #[test]
    fn bounds_hold_even_when_they_do_not_add_up() {
        let tight = Demand { upper: 20, ..demand(20, 20, 100.0, 100.0) };
        assert_eq!(lend(100, &[tight, tight]).0, [20, 20]);
        let many = [demand(60, 60, 60.0, 60.0), demand(60, 60, 60.0, 60.0)];
        assert_eq!(lend(100, &many).0, [60, 60]);
        assert_eq!(lend(100, &[]).0, Vec::<u32>::new());
    }
}
