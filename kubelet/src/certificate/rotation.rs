//! Asking for the next certificate while the present one still holds.

use std::{future::Future, sync::Arc, time::Duration};

use component_base::task::Tasks;
use futures::TryFutureExt as _;
use jiff::Timestamp;
use kube::Client;
use prometheus::IntCounter;
use rustls::sign::CertifiedKey;

use super::{
    CertificateError, Purpose,
    request::{self, Subject},
    store::{Store, Validity},
};
use crate::metrics::{self, Ttl};

/// The first wait after a failed request, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// When the next certificate is asked for: `share` of its life later, so that nodes that came together do not all ask at
/// once. Pure.
#[must_use]
pub fn due(validity: Validity, share: f64) -> Timestamp {
    let life = Duration::try_from(validity.until.duration_since(validity.from)).unwrap_or_default();
    validity.from.checked_add(life.mul_f64(share.clamp(0.0, 1.0))).unwrap_or(validity.until)
}

/// A share of a life, 70 % to 90 %.
fn share() -> f64 {
    rand::random_range(0.7..0.9)
}

/// Keeps one certificate fresh until the drain. `present` is the one there is, if any; a new one is handed to `replace`.
pub fn run(
    client: Client,
    subject: Subject,
    store: Store,
    present: Option<Validity>,
    replace: impl Fn(CertifiedKey) + Send + Sync + 'static,
    tasks: &Tasks,
) {
    let drain = tasks.drain();
    let name = match subject.purpose {
        Purpose::Client => "client-certificate",
        Purpose::Serving => "serving-certificate",
    };
    tasks.spawn(name, async move {
        tokio::select! {
            () = drain.cancelled() => {}
            () = rotate(&client, &subject, &store, present, replace) => {}
        }
    });
}

async fn rotate(
    client: &Client,
    subject: &Subject,
    store: &Store,
    mut present: Option<Validity>,
    replace: impl Fn(CertifiedKey),
) {
    let ttl = ttl(subject.purpose);
    ttl.set(present.map(|validity| validity.until));
    loop {
        if let Some(validity) = present {
            let wait = due(validity, share()).duration_since(Timestamp::now());
            // One that is overdue is asked for at once.
            tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
        }
        let failed = errors(subject.purpose);
        let (pair, validity) =
            until_had(|| renew(client, subject, store).inspect_err(|_| failed.inc())).await;
        tracing::info!(purpose = ?subject.purpose, until = ?validity.map(|v| v.until), "certificate rotated");
        if let Some(before) = present.filter(|_| subject.purpose == Purpose::Serving) {
            let age = Timestamp::now().duration_since(before.from).as_secs_f64();
            metrics::get().serving_certificate_age.observe(age);
        }
        replace(pair);
        present = validity;
        ttl.set(present.map(|validity| validity.until));
        if present.is_none() {
            // One whose dates do not read is not asked for again and again.
            tokio::time::sleep(RETRY.1).await;
        }
    }
}

/// What shows how long the certificate still holds.
fn ttl(purpose: Purpose) -> Ttl {
    let (name, help) = match purpose {
        Purpose::Client => (
            "kubelet_certificate_manager_client_ttl_seconds",
            "Seconds until the client certificate ends, below zero once it has; +Inf where none is known.",
        ),
        Purpose::Serving => (
            "kubelet_certificate_manager_server_ttl_seconds",
            "Seconds until the serving certificate ends, below zero once it has; +Inf where none is known.",
        ),
    };
    Ttl::shown(name, help)
}

fn errors(purpose: Purpose) -> &'static IntCounter {
    match purpose {
        Purpose::Client => &metrics::get().client_certificate_errors,
        Purpose::Serving => &metrics::get().serving_certificate_errors,
    }
}

async fn renew(
    client: &Client,
    subject: &Subject,
    store: &Store,
) -> Result<(CertifiedKey, Option<Validity>), CertificateError> {
    let signed = request::obtain(client, subject).await?;
    let store = Arc::new(store.clone());
    store.save(&signed, Timestamp::now())
}

/// Tries until it succeeds, less and less often.
pub async fn until_had<T, F>(attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, CertificateError>>,
{
    until_had_with(attempt, tokio::time::sleep).await
}

async fn until_had_with<T, F, S>(mut attempt: impl FnMut() -> F, mut sleep: impl FnMut(Duration) -> S) -> T
where
    F: Future<Output = Result<T, CertificateError>>,
    S: Future<Output = ()>,
{
    let mut wait = RETRY.0;
    loop {
        match attempt().await {
            Ok(had) => return had,
            Err(error) => tracing::error!(%error, "no certificate yet, will ask again"),
        }
        sleep(wait).await;
        wait = wait.saturating_mul(2).min(RETRY.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn the_next_one_is_due_before_the_end() {
        let validity = Validity { from: at(0), until: at(1000) };
        assert_eq!(due(validity, 0.7), at(700));
        assert_eq!(due(validity, 2.0), at(1000));
        let backwards = Validity { from: at(1000), until: at(0) };
        assert_eq!(due(backwards, 0.7), at(1000));
    }

    #[tokio::test]
    async fn a_refusal_is_asked_again_later() {
        let (mut left, mut waits) = (11, vec![]);
        let attempt = || {
            left -= 1;
            let answer = if left > 0 { Err(CertificateError::Unanswered("csr".into())) } else { Ok(left) };
            async move { answer }
        };
        let had = until_had_with(attempt, |wait| {
            waits.push(wait.as_secs());
            std::future::ready(())
        });
        assert_eq!(had.await, 0);
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }
}
