//! Probes: what a container says of itself, and what that means after thresholds.
//!
//! One file per way of asking (`exec`, `http`, `tcp`, `grpc`); [`state`] is the pure part. Each probed container
//! has one task per kind of probe, which lives as long as the container instance does.
//! Contract: core/v1 Probe.

pub mod exec;
pub mod grpc;
pub mod http;
pub mod state;
pub mod tcp;

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::runtime::Runtime;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Has it started? The others wait for this one.
    Startup,
    /// May it get traffic?
    Readiness,
    /// Must it be killed?
    Liveness,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    /// The probe of this kind that the container defines.
    #[must_use]
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }

    /// As events and metrics name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// A settled result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Enough successes in a row.
    Success,
    /// Enough failures in a row.
    Failure,
}

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// As wanted.
    Success,
    /// As wanted, though the text says what is odd about it.
    Warning(String),
    /// Not as wanted; the text says what was seen.
    Failure(String),
    /// The probe itself could not be made; it counts as nothing.
    Unknown(String),
}

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The pod's address.
    pub ip: &'a str,
    /// The container, for named ports and environment.
    pub container: &'a Container,
}

/// How often a probe is tried that cannot be made.
const TRIES: usize = 3;

/// Makes one probe; one that cannot be made is tried again at once.
pub async fn probe(runtime: &Runtime, target: &Target<'_>, probe: &Probe) -> Finding {
    repeated(|| attempt(runtime, target, probe)).await
}

async fn repeated<F: Future<Output = Finding>>(mut attempt: impl FnMut() -> F) -> Finding {
    let mut last = attempt().await;
    for _ in 1..TRIES {
        if !matches!(last, Finding::Unknown(_)) {
            break;
        }
        last = attempt().await;
    }
    last
}

async fn attempt(runtime: &Runtime, target: &Target<'_>, probe: &Probe) -> Finding {
    let seconds = u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1);
    let timeout = Duration::from_secs(seconds);
    if let Some(action) = &probe.exec {
        return exec::probe(runtime, target, action, timeout).await;
    }
    if let Some(action) = &probe.http_get {
        return http::probe(target, action, timeout).await;
    }
    if let Some(action) = &probe.tcp_socket {
        return tcp::probe(target, action, timeout).await;
    }
    if let Some(action) = &probe.grpc {
        return grpc::probe(target, action, timeout).await;
    }
    Finding::Unknown("missing probe handler".to_owned())
}

/// A port given by number or by the name it has in the container.
///
/// # Errors
/// A text for the event when there is no such port.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    let number =
        number.ok_or_else(|| format!("couldn't find port: {port:?} in container {}", container.name))?;
    u16::try_from(number).ok().filter(|p| *p > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// `host:port`, with brackets around an IPv6 address.
#[must_use]
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_asked_is_asked_three_times() {
        for (failing, expected, asked) in
            [(0, Finding::Success, 1), (2, Finding::Success, 3), (9, Finding::Unknown("no".to_owned()), 3)]
        {
            let mut count = 0;
            let attempt = || {
                count += 1;
                let finding =
                    if count > failing { Finding::Success } else { Finding::Unknown("no".to_owned()) };
                std::future::ready(finding)
            };
            assert_eq!((repeated(attempt).await, count), (expected, asked));
        }
    }
}
