//! Metrics of priority and fairness, by upstream's names and labels.

use std::time::Duration;

use component_base::metrics::hot::Hot as _;
use prometheus::{Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};

use super::level::Limits;
use crate::metrics::list;

const SECONDS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const LENGTHS: [f64; 6] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0];
const SEATS: [f64; 4] = [1.0, 2.0, 4.0, 10.0];
const BOTH: &[&str] = &["priority_level", "flow_schema"];

list! {
    REJECTED: IntCounterVec = counter_vec("apiserver_flowcontrol_rejected_requests_total", "Requests turned away, by the reason.", Beta,
        &["priority_level", "flow_schema", "reason"]);
    DISPATCHED: IntCounterVec = counter_vec("apiserver_flowcontrol_dispatched_requests_total", "Requests that were served.", Beta, BOTH);
    INQUEUE: IntGaugeVec = gauge_vec("apiserver_flowcontrol_current_inqueue_requests", "Requests that wait.", Beta, BOTH);
    INQUEUE_SEATS: IntGaugeVec = gauge_vec("apiserver_flowcontrol_current_inqueue_seats", "Seats that waiting requests want.", Alpha, BOTH);
    LENGTH: HistogramVec = histogram_vec("apiserver_flowcontrol_request_queue_length_after_enqueue",
        "Length of the queue a request has entered, itself included.", Alpha, BOTH, LENGTHS.to_vec());
    EXECUTING: IntGaugeVec = gauge_vec("apiserver_flowcontrol_current_executing_requests", "Requests being served.", Beta, BOTH);
    EXECUTING_SEATS: IntGaugeVec = gauge_vec("apiserver_flowcontrol_current_executing_seats", "Seats in use.", Beta, BOTH);
    WAITED: HistogramVec = histogram_vec("apiserver_flowcontrol_request_wait_duration_seconds", "Time requests wait in a queue, in seconds.",
        Beta, &["priority_level", "flow_schema", "execute"], SECONDS.to_vec());
    EXECUTION: HistogramVec = histogram_vec("apiserver_flowcontrol_request_execution_seconds", "Time seats are held, in seconds.", Alpha,
        &["priority_level", "flow_schema", "type"], SECONDS.to_vec());
    ESTIMATED: HistogramVec = histogram_vec("apiserver_flowcontrol_work_estimated_seats", "Seats requests are taken to need.", Alpha, BOTH,
        SEATS.to_vec());
    WATCHES: HistogramVec = histogram_vec("apiserver_flowcontrol_watch_count_samples", "Watches that a write is told to.", Alpha, BOTH,
        vec![0.0, 1.0, 10.0, 100.0, 1_000.0, 10_000.0]);
    NOMINAL: IntGaugeVec = gauge_vec("apiserver_flowcontrol_nominal_limit_seats", "Seats of a level by its shares.", Beta, &["priority_level"]);
    LOWER: IntGaugeVec = gauge_vec("apiserver_flowcontrol_lower_limit_seats", "Seats a level never lends.", Alpha, &["priority_level"]);
    UPPER: IntGaugeVec = gauge_vec("apiserver_flowcontrol_upper_limit_seats", "Seats a level has at most, borrowed ones included.", Alpha,
        &["priority_level"]);
    CURRENT: GaugeVec = float_gauge_vec("apiserver_flowcontrol_current_limit_seats", "Seats a level has now.", Alpha, &["priority_level"]);
    PEAK: GaugeVec = float_gauge_vec("apiserver_flowcontrol_demand_seats_high_watermark", "Most seats wanted at once in the last period.",
        Alpha, &["priority_level"]);
    AVERAGE: GaugeVec = float_gauge_vec("apiserver_flowcontrol_demand_seats_average", "Average of seats wanted in the last period.", Alpha,
        &["priority_level"]);
    DEVIATION: GaugeVec = float_gauge_vec("apiserver_flowcontrol_demand_seats_stdev", "Deviation of seats wanted in the last period.", Alpha,
        &["priority_level"]);
    SMOOTHED: GaugeVec = float_gauge_vec("apiserver_flowcontrol_demand_seats_smoothed", "Seats wanted, smoothed over periods.", Alpha,
        &["priority_level"]);
    TARGET: GaugeVec = float_gauge_vec("apiserver_flowcontrol_target_seats", "Seats a level should have by its demand.",
        Alpha, &["priority_level"]);
    FAIR: Gauge = float_gauge("apiserver_flowcontrol_seat_fair_frac", "Part of its target that a level within its bounds gets.", Alpha);
}

fn signed(seats: u32) -> i64 {
    i64::from(seats)
}

pub(super) fn estimated(level: &str, schema: &str, seats: u32) {
    ESTIMATED.hot(&[level, schema], |sum| sum.observe(f64::from(seats)));
}

pub(super) fn rejected(level: &str, schema: &str, why: &str) {
    REJECTED.with_label_values(&[level, schema, why]).inc();
}

pub(super) fn queue_length(level: &str, schema: &str, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    LENGTH.hot(&[level, schema], |sum| sum.observe(f64::from(length)));
}

pub(super) fn waited(level: &str, schema: &str, time: Duration, executes: bool) {
    let word = if executes { "true" } else { "false" };
    WAITED.hot(&[level, schema, word], |sum| sum.observe(time.as_secs_f64()));
}

/// Counts a request that begins.
pub(super) fn running(level: &str, schema: &str, seats: u32) {
    DISPATCHED.hot(&[level, schema], IntCounter::inc);
    EXECUTING.hot(&[level, schema], |now| now.add(1));
    EXECUTING_SEATS.hot(&[level, schema], |now| now.add(signed(seats)));
}

/// Counts seats that are free again.
pub(super) fn freed(level: &str, schema: &str, seats: u32) {
    EXECUTING_SEATS.hot(&[level, schema], |now| now.sub(signed(seats)));
}

/// Watches that a write is told to.
pub(super) fn watched(level: &str, schema: &str, watches: u32) {
    WATCHES.hot(&[level, schema], |sum| sum.observe(f64::from(watches)));
}

/// Counts a request that is over.
pub(super) fn executed(level: &str, schema: &str, time: Duration, is_watch: bool) {
    let kind = if is_watch { "watch" } else { "regular" };
    EXECUTING.hot(&[level, schema], |now| now.sub(1));
    EXECUTION.hot(&[level, schema, kind], |sum| sum.observe(time.as_secs_f64()));
}

pub(super) fn limits(level: &str, limits: &Limits, current: u32) {
    NOMINAL.with_label_values(&[level]).set(signed(limits.nominal));
    LOWER.with_label_values(&[level]).set(signed(limits.lower));
    UPPER.with_label_values(&[level]).set(signed(limits.upper));
    CURRENT.with_label_values(&[level]).set(f64::from(current));
}

/// Peak, average, deviation and smoothed demand of a period.
pub(super) fn demand(level: &str, values: [f64; 4]) {
    for (metric, value) in [&PEAK, &AVERAGE, &DEVIATION, &SMOOTHED].into_iter().zip(values) {
        metric.with_label_values(&[level]).set(value);
    }
}

/// Seats a level should have.
pub(super) fn target(level: &str, seats: f64) {
    TARGET.with_label_values(&[level]).set(seats);
}

pub(super) fn fair_fraction(value: f64) {
    FAIR.set(value);
}

/// Drops the limits of a level that is gone; its counters stay.
pub(super) fn forget(level: &str) {
    // A level without them has none to drop.
    for metric in [&NOMINAL, &LOWER, &UPPER] {
        drop(metric.remove_label_values(&[level]));
    }
    for metric in [&CURRENT, &PEAK, &AVERAGE, &DEVIATION, &SMOOTHED, &TARGET] {
        drop(metric.remove_label_values(&[level]));
    }
}

/// A request in a queue, counted while this lives.
pub(super) struct Waiting {
    requests: prometheus::IntGauge,
    seats: prometheus::IntGauge,
    width: i64,
}

impl Waiting {
    pub(super) fn new(level: &str, schema: &str, seats: u32) -> Self {
        let waiting = Self {
            requests: INQUEUE.with_label_values(&[level, schema]),
            seats: INQUEUE_SEATS.with_label_values(&[level, schema]),
            width: signed(seats),
        };
        waiting.requests.inc();
        waiting.seats.add(waiting.width);
        waiting
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.requests.dec();
        self.seats.sub(self.width);
    }
}
