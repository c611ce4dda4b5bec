//! A back end that takes events at once and hands them on in batches, so that no request waits for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use component_base::task::Tasks;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{Event, metrics, options::Backend};

/// How batches are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct BatchOptions {
    /// Events that wait at most; more are lost, and counted.
    pub(super) buffer: usize,
    /// Events of one batch.
    pub(super) max_size: usize,
    /// How long the first event of a batch waits for others.
    pub(super) max_wait: Duration,
    /// Batches a second, and at once after a quiet time; no limit when `None`.
    pub(super) throttle: Option<(f64, usize)>,
}

/// The end that takes events.
pub(super) struct Batch {
    name: &'static str,
    sender: mpsc::Sender<Arc<Event>>,
}

/// The end that hands them on.
struct Sender {
    receiver: mpsc::Receiver<Arc<Event>>,
    options: BatchOptions,
    next: Arc<dyn Backend>,
}

impl Batch {
    /// Starts the task that hands events on; what waits when the server ends is still handed on.
    pub(super) fn start(
        name: &'static str,
        options: BatchOptions,
        next: Arc<dyn Backend>,
        tasks: &Tasks,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(options.buffer.max(1));
        let drain = tasks.drain();
        tasks.spawn(format!("audit {name}"), async move {
            let mut sending = Sender { receiver, options, next };
            if drain.run_until_cancelled(sending.run()).await.is_none() {
                sending.rest().await;
            }
        });
        Self { name, sender }
    }
}

#[async_trait]
impl Backend for Batch {
    async fn process(&self, events: Vec<Arc<Event>>) -> bool {
        for (at, event) in events.iter().enumerate() {
            let Err(error) = self.sender.try_send(event.clone()) else { continue };
            metrics::failed("buffered", events.len() - at);
            let why = match error {
                TrySendError::Full(_) => "audit buffer queue blocked",
                TrySendError::Closed(_) => "audit backend shut down",
            };
            tracing::error!(backend = self.name, why, "audit events were lost");
            break;
        }
        // Nobody waits for what was lost here, as upstream.
        true
    }
}

impl Sender {
    async fn run(&mut self) {
        let mut allowance = self.options.throttle.map(|(rate, burst)| Allowance::new(rate, burst));
        while let Some(first) = self.receiver.recv().await {
            let batch = self.fill(first).await;
            if let Some(allowance) = &mut allowance {
                let pause = allowance.take(Instant::now());
                tokio::time::sleep(pause).await;
            }
            self.next.process(batch).await;
        }
    }

    /// A batch that is full or has waited long enough.
    async fn fill(&mut self, first: Arc<Event>) -> Vec<Arc<Event>> {
        let mut batch = vec![first];
        let until = tokio::time::Instant::now() + self.options.max_wait;
        while batch.len() < self.options.max_size {
            match tokio::time::timeout_at(until, self.receiver.recv()).await {
                Ok(Some(event)) => batch.push(event),
                Ok(None) | Err(_) => break,
            }
        }
        batch
    }

    /// What still waits.
    async fn rest(&mut self) {
        let mut batch = Vec::new();
        while let Ok(event) = self.receiver.try_recv() {
            batch.push(event);
            if batch.len() >= self.options.max_size.max(1) {
                self.next.process(std::mem::take(&mut batch)).await;
            }
        }
        if !batch.is_empty() {
            self.next.process(batch).await;
        }
    }
}

/// A token bucket.
#[derive(Debug)]
struct Allowance {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Option<Instant>,
}

impl Allowance {
    fn new(rate: f64, burst: usize) -> Self {
        let burst = f64::from(u32::try_from(burst.max(1)).unwrap_or(u32::MAX));
        Self { rate: rate.max(f64::EPSILON), burst, tokens: burst, at: None }
    }

    /// Takes one token; how long to wait for it.
    fn take(&mut self, now: Instant) -> Duration {
        let passed = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.at = Some(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.burst) - 1.0;
        Duration::try_from_secs_f64((-self.tokens / self.rate).max(0.0)).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_in_time_after_a_burst() {
        let mut allowance = Allowance::new(10.0, 2);
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let waits: Vec<u128> =
            [0, 0, 0, 1000, 1000, 1000].map(|now| allowance.take(at(now)).as_millis()).into();
        assert_eq!(waits, [0, 0, 100, 0, 0, 100]);
    }
}
