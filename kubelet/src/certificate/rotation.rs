//! Asking for the next certificate while the present one still holds.

use std::{future::Future, sync::Arc, time::Duration};

use component_base::task::Tasks;
use futures::TryFutureExt as _;
use jiff::Timestamp;
use kube::Client;
use prometheus::IntCounter;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::{
    CertificateError, Purpose,
    request::{self, Subject},
    store::{Held, Store, Validity},
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

/// When a certificate for the subject is asked for, from now on: at once where there is none, or one for something else;
/// never while it is not known what for. Pure.
fn wait(
    held: Option<&Held>,
    subject: &Subject,
    by_name: bool,
    share: f64,
    now: Timestamp,
) -> Option<Duration> {
    if !subject.is_known(by_name) {
        return None;
    }
    let left = held.filter(|held| subject.is_of(&held.certificate)).map(|held| {
        // One that is overdue is asked for at once.
        Duration::try_from(due(held.validity, share).duration_since(now)).unwrap_or_default()
    });
    Some(left.unwrap_or_default())
}

/// Keeps one certificate fresh until the drain. `held` is the one there is, if any; a new one is handed to `replace`. The
/// subject may change; nodes with a name alone have certificates only where that is enough (`by_name`).
pub fn run(
    client: Client,
    subjects: watch::Receiver<Subject>,
    by_name: bool,
    store: Store,
    held: Option<Held>,
    replace: impl Fn(CertifiedKey) + Send + Sync + 'static,
    tasks: &Tasks,
) {
    let drain = tasks.drain();
    let name = match subjects.borrow().purpose {
        Purpose::Client => "client-certificate",
        Purpose::Serving => "serving-certificate",
    };
    tasks.spawn(name, async move {
        tokio::select! {
            () = drain.cancelled() => {}
            () = rotate(&client, subjects, by_name, &store, held, replace) => {}
        }
    });
}

async fn rotate(
    client: &Client,
    mut subjects: watch::Receiver<Subject>,
    by_name: bool,
    store: &Store,
    mut held: Option<Held>,
    replace: impl Fn(CertifiedKey),
) {
    let purpose = subjects.borrow().purpose;
    let ttl = ttl(purpose);
    let until = |held: Option<&Held>| held.map(|held| held.validity.until);
    ttl.set(until(held.as_ref()));
    // What was signed is taken for what was asked for.
    let mut asked: Option<Subject> = None;
    loop {
        let subject = subjects.borrow_and_update().clone();
        let known = held.as_ref().map(|held| due(held.validity, share()));
        let wait = match known.filter(|_| asked.as_ref() == Some(&subject)) {
            Some(due) => Some(Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default()),
            None => wait(held.as_ref(), &subject, by_name, share(), Timestamp::now()),
        };
        tokio::select! {
            () = pass(wait) => {}
            () = changed(&mut subjects) => continue,
        }
        let failed = errors(purpose);
        let (pair, new) = tokio::select! {
            had = until_had(|| renew(client, &subject, store).inspect_err(|_| failed.inc())) => had,
            () = changed(&mut subjects) => continue,
        };
        tracing::info!(?purpose, until = ?until(new.as_ref()), "certificate rotated");
        if let Some(before) = held.filter(|_| purpose == Purpose::Serving) {
            let age = Timestamp::now().duration_since(before.validity.from).as_secs_f64();
            metrics::get().serving_certificate_age.observe(age);
        }
        replace(pair);
        asked = Some(subject);
        held = new;
        ttl.set(until(held.as_ref()));
        if held.is_none() {
            // One whose dates do not read is not asked for again and again.
            tokio::time::sleep(RETRY.1).await;
        }
    }
}

/// Waits so long, or for good.
async fn pass(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Waits until there is another subject; for good where there will be none.
async fn changed(subjects: &mut watch::Receiver<Subject>) {
    if subjects.changed().await.is_err() {
        std::future::pending::<()>().await;
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
) -> Result<(CertifiedKey, Option<Held>), CertificateError> {
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

    #[test]
    fn one_for_something_else_is_asked_for_at_once() {
        let names = |list: &[&str]| Subject {
            purpose: Purpose::Serving,
            node: "n".to_owned(),
            names: list.iter().map(|name| (*name).to_owned()).collect(),
            ips: vec![],
        };
        let mut params = rcgen::CertificateParams::new(vec!["a".to_owned(), "b".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n");
        let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let validity = Validity { from: at(0), until: at(1000) };
        let held = Held { validity, certificate: made.der().clone() };
        let wait = |held: Option<&Held>, list: &[&str], by_name, now: i64| {
            wait(held, &names(list), by_name, 0.8, at(now)).map(|time| time.as_secs())
        };
        for (has, list, by_name, now, expected) in [
            (true, &["a"][..], true, 100, Some(700)),
            (true, &["a", "b"], true, 900, Some(0)),
            (true, &["a", "c"], true, 100, Some(0)),
            (false, &["a"], true, 100, Some(0)),
            (true, &["a"], false, 100, None),
            (true, &[], true, 100, None),
        ] {
            assert_eq!(wait(has.then_some(&held), list, by_name, now), expected, "{list:?} {now}");
        }
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
