//! Named health checks and their three endpoints, `/healthz`, `/livez` and `/readyz`, with upstream's texts
//! (`apiserver/pkg/server/healthz`).

use std::{fmt, sync::Arc};

use http::StatusCode;
use parking_lot::RwLock;

use crate::metrics::slis;

/// A check: quick, synchronous, the error says what is wrong (it is logged, and shown only on the check's own path).
type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Which endpoints a check counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Healthz,
    Livez,
    Readyz,
}

impl Endpoint {
    /// The endpoint's path without the slash.
    pub const fn as_str(self) -> &'static str {
        match self {
            Endpoint::Healthz => "healthz",
            Endpoint::Livez => "livez",
            Endpoint::Readyz => "readyz",
        }
    }
}

/// The health checks of a daemon. Clones share them.
#[derive(Clone)]
pub struct Health {
    checks: Arc<RwLock<Vec<Named>>>,
}

#[derive(Clone)]
struct Named {
    name: String,
    endpoints: Vec<Endpoint>,
    check: Check,
}

impl fmt::Debug for Health {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.checks.read().iter().map(|check| &check.name)).finish()
    }
}

impl Default for Health {
    fn default() -> Health {
        let health = Health { checks: Arc::default() };
        health.add("ping", || Ok(()));
        health
    }
}

/// What an endpoint answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub status: StatusCode,
    pub text: String,
}

impl Health {
    /// Adds a check to all three endpoints.
    pub fn add(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.add_to(&[Endpoint::Healthz, Endpoint::Livez, Endpoint::Readyz], name, check);
    }

    /// Adds a check that tells readiness only (an informer's sync, for example).
    pub fn add_readiness(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.add_to(&[Endpoint::Readyz], name, check);
    }

    /// Adds a check to some endpoints.
    pub fn add_to(
        &self,
        endpoints: &[Endpoint],
        name: &str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        let named = Named { name: name.to_owned(), endpoints: endpoints.to_vec(), check: Arc::new(check) };
        self.checks.write().push(named);
    }

    /// The answer for a path such as `/readyz` or `/readyz/ping`; none for other paths.
    pub fn answer(&self, path: &str, query: &str) -> Option<Report> {
        let mut segments = path.strip_prefix('/')?.splitn(2, '/');
        let first = segments.next()?;
        let all = [Endpoint::Healthz, Endpoint::Livez, Endpoint::Readyz];
        let endpoint = all.into_iter().find(|endpoint| endpoint.as_str() == first)?;
        let checks: Vec<Named> =
            self.checks.read().iter().filter(|check| check.endpoints.contains(&endpoint)).cloned().collect();
        match segments.next().filter(|name| !name.is_empty()) {
            None => Some(overall(endpoint, &checks, query)),
            Some(name) => checks.iter().find(|check| check.name == name).map(single),
        }
    }
}

fn single(named: &Named) -> Report {
    match (named.check)() {
        Ok(()) => Report { status: StatusCode::OK, text: "ok".to_owned() },
        Err(reason) => Report {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            text: format!("internal server error: {reason}\n"),
        },
    }
}

fn overall(endpoint: Endpoint, checks: &[Named], query: &str) -> Report {
    let parameters: Vec<(&str, &str)> =
        query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
    let verbose = parameters.iter().any(|(name, _)| *name == "verbose");
    let mut excluded: Vec<&str> = parameters
        .iter()
        .filter(|(name, _)| *name == "exclude")
        .flat_map(|(_, value)| value.split(','))
        .collect();
    excluded.retain(|name| !name.is_empty());
    let name = endpoint.as_str();
    let (mut text, mut failed) = (String::new(), Vec::new());
    for named in checks {
        if excluded.contains(&named.name.as_str()) {
            text.push_str(&format!("[+]{} excluded: ok\n", named.name));
            continue;
        }
        let found = (named.check)();
        slis::observe(&named.name, name, found.is_ok());
        match found {
            Ok(()) => text.push_str(&format!("[+]{} ok\n", named.name)),
            Err(reason) => {
                text.push_str(&format!("[-]{} failed: reason withheld\n", named.name));
                failed.push(format!("{}: {reason}", named.name));
            }
        }
    }
    excluded.retain(|name| !checks.iter().any(|check| check.name == *name));
    if !excluded.is_empty() {
        let unknown = excluded.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(",");
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {unknown}\n"));
    }
    if !failed.is_empty() {
        tracing::info!(endpoint = name, failed = failed.join("; "), "health check failed");
        text.push_str(&format!("{name} check failed\n"));
        return Report { status: StatusCode::INTERNAL_SERVER_ERROR, text };
    }
    if !verbose {
        return Report { status: StatusCode::OK, text: "ok".to_owned() };
    }
    text.push_str(&format!("{name} check passed\n"));
    Report { status: StatusCode::OK, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(health: &Health, path: &str, query: &str) -> (u16, String) {
        let report = health.answer(path, query).expect("a health path");
        (report.status.as_u16(), report.text)
    }

    #[test]
    fn texts_are_upstreams() {
        let health = Health::default();
        assert_eq!(ask(&health, "/healthz", ""), (200, "ok".into()));
        assert_eq!(ask(&health, "/livez", "verbose"), (200, "[+]ping ok\nlivez check passed\n".into()));
        health.add_readiness("informer-sync", || Err("2 not synced".into()));
        assert_eq!(ask(&health, "/healthz", ""), (200, "ok".into()));
        let failed = "[+]ping ok\n[-]informer-sync failed: reason withheld\nreadyz check failed\n";
        assert_eq!(ask(&health, "/readyz", ""), (500, failed.into()));
        assert_eq!(ask(&health, "/readyz", "exclude=informer-sync"), (200, "ok".into()));
        let excluded = "[+]ping ok\n[+]informer-sync excluded: ok\nwarn: some health checks cannot be excluded: no \
                        matches for \"gone\"\nreadyz check passed\n";
        assert_eq!(
            ask(&health, "/readyz", "verbose=1&exclude=informer-sync&exclude=gone"),
            (200, excluded.into())
        );
        assert_eq!(ask(&health, "/readyz/ping", ""), (200, "ok".into()));
        assert_eq!(ask(&health, "/readyz/informer-sync", "").1, "internal server error: 2 not synced\n");
        assert_eq!(health.answer("/healthz/informer-sync", ""), None);
        assert_eq!(health.answer("/metrics", ""), None);
    }
}
