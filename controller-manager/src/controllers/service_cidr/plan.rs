//! The next step for one ServiceCIDR. Pure.

use std::{net::IpAddr, sync::Arc, time::Duration};

use component_base::meta::{condition, has_finalizer, label};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::{
    api::networking::v1::{IPAddress, ServiceCIDR},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

pub(super) const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
const READY: &str = "Ready";
/// How long after its deletion a range may still be known to an API server that gives out addresses.
const GRACE: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Settled,
    /// Look again later.
    Wait(Duration),
    /// Set the finalizer.
    Protect,
    /// Take the finalizer away.
    Release,
    /// Set the condition.
    Tell(Condition),
}

fn prefixes(range: &ServiceCIDR) -> impl Iterator<Item = IpNet> {
    range.spec.iter().flat_map(|s| s.cidrs.iter().flatten()).filter_map(|text| text.parse().ok())
}

/// Whether addresses may be in both.
pub(super) fn overlap(one: &ServiceCIDR, other: &ServiceCIDR) -> bool {
    prefixes(one).any(|a| prefixes(other).any(|b| a.contains(&b) || b.contains(&a)))
}

/// The address of a service, where the object stands for one that an API server has given out.
pub(super) fn managed(address: &IPAddress) -> Option<IpAddr> {
    (label(&address.metadata, MANAGED_BY) == Some(ALLOCATOR)).then_some(())?;
    address.metadata.name.as_deref()?.parse().ok()
}

/// Whether a service may have the address from the range: those of the network and of all its hosts are not given
/// out.
pub(super) fn holds(range: &ServiceCIDR, address: IpAddr) -> bool {
    prefixes(range).any(|prefix| {
        prefix.contains(&address)
            && prefix.network() != address
            && (address.is_ipv6() || prefix.broadcast() != address)
    })
}

/// The step for a range, given all ranges and addresses.
pub(super) fn plan(
    range: &ServiceCIDR,
    all: &[Arc<ServiceCIDR>],
    addresses: &[Arc<IPAddress>],
    now: Timestamp,
) -> Step {
    let Some(deleted) = &range.metadata.deletion_timestamp else {
        if !has_finalizer(&range.metadata, FINALIZER) {
            return Step::Protect;
        }
        return tell(range, "True", "", "Kubernetes Service CIDR is ready", now);
    };
    if !has_finalizer(&range.metadata, FINALIZER) {
        return Step::Settled;
    }
    if !is_free(range, all, addresses) {
        let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        return tell(range, "False", "Terminating", message, now);
    }
    let passed = Duration::try_from(now.duration_since(deleted.0)).unwrap_or_default();
    match GRACE.checked_sub(passed) {
        Some(left) if !left.is_zero() => Step::Wait(left),
        _ => Step::Release,
    }
}

/// Whether no address is lost with the range: another one holds it whole, or each address of it.
fn is_free(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[Arc<IPAddress>]) -> bool {
    let others = || all.iter().filter(|other| other.metadata.name != range.metadata.name);
    let within = |prefix: IpNet| others().any(|other| prefixes(other).any(|p| p.contains(&prefix)));
    prefixes(range).all(within)
        || addresses
            .iter()
            .filter_map(|address| managed(address))
            .all(|address| !holds(range, address) || others().any(|other| holds(other, address)))
}

fn tell(range: &ServiceCIDR, status: &str, reason: &str, message: &str, now: Timestamp) -> Step {
    let conditions = range.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let told = condition(conditions, READY);
    if told.is_some_and(|c| c.status == status && c.reason == reason && c.message == message) {
        return Step::Settled;
    }
    Step::Tell(Condition {
        type_: READY.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Time(now),
        observed_generation: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T00:01:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn range(name: &str, cidrs: &[&str]) -> ServiceCIDR {
        serde_json::from_value(json!({
            "metadata": {"name": name, "finalizers": [FINALIZER]}, "spec": {"cidrs": cidrs},
        }))
        .unwrap()
    }

    fn going(name: &str, cidrs: &[&str], since: &str) -> ServiceCIDR {
        let mut out = range(name, cidrs);
        out.metadata.deletion_timestamp = Some(Time(since.parse().unwrap()));
        out
    }

    fn address(ip: &str, by: &str) -> Arc<IPAddress> {
        let labels: Value = json!({MANAGED_BY: by});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": ip, "labels": labels}})).unwrap())
    }

    fn after(range: &ServiceCIDR, step: Step) -> ServiceCIDR {
        let mut out = range.clone();
        match step {
            Step::Protect => out.metadata.finalizers = Some(vec![FINALIZER.into()]),
            Step::Release => out.metadata.finalizers = None,
            Step::Tell(c) => out.status.get_or_insert_default().conditions = Some(vec![c]),
            Step::Settled | Step::Wait(_) => {}
        }
        out
    }

    #[test]
    fn a_new_range_is_protected_then_ready_then_left_alone() {
        let mut new = range("a", &["10.0.0.0/24"]);
        new.metadata.finalizers = None;
        let first = plan(&new, &[], &[], now());
        assert_eq!(first, Step::Protect);
        let new = after(&new, first);
        let second = plan(&new, &[], &[], now());
        let Step::Tell(told) = &second else { panic!("{second:?}") };
        assert_eq!((told.status.as_str(), told.reason.as_str()), ("True", ""));
        assert_eq!(told.message, "Kubernetes Service CIDR is ready");
        assert_eq!(plan(&after(&new, second), &[], &[], now()), Step::Settled);
    }

    #[test]
    fn a_range_goes_when_no_address_is_lost_with_it() {
        let old = "2026-01-01T00:00:00Z";
        let used = [address("10.0.0.5", ALLOCATOR)];
        let table = [
            ("nobody uses it", None, false, true),
            ("its address", None, true, false),
            ("a larger range", Some("10.0.0.0/16"), true, true),
            ("the same range", Some("10.0.0.0/24"), true, true),
            ("a smaller range with the address", Some("10.0.0.0/28"), true, true),
            ("a smaller range without it", Some("10.0.0.128/25"), true, false),
            ("another range", Some("10.1.0.0/24"), true, false),
        ];
        for (name, other, is_used, free) in table {
            let going = going("a", &["10.0.0.0/24"], old);
            let mut all: Vec<Arc<ServiceCIDR>> =
                other.map(|o| Arc::new(range("b", &[o]))).into_iter().collect();
            all.push(Arc::new(going.clone()));
            let addresses = if is_used { &used[..] } else { &[] };
            let step = plan(&going, &all, addresses, now());
            assert_eq!(step == Step::Release, free, "{name}: {step:?}");
            if let Step::Tell(told) = &step {
                assert_eq!((told.status.as_str(), told.reason.as_str()), ("False", "Terminating"));
                assert_eq!(
                    plan(&after(&going, step.clone()), &all, addresses, now()),
                    Step::Settled,
                    "{name}"
                );
            } else {
                assert_eq!(plan(&after(&going, step), &all, addresses, now()), Step::Settled, "{name}");
            }
        }
    }

    #[test]
    fn addresses_of_others_and_of_the_network_itself_keep_nothing() {
        let going = going("a", &["10.0.0.0/24"], "2026-01-01T00:00:00Z");
        for address in [
            address("10.0.0.5", "somebody"),
            address("10.0.0.0", ALLOCATOR),
            address("10.0.0.255", ALLOCATOR),
        ] {
            assert_eq!(plan(&going, &[], &[address], now()), Step::Release);
        }
    }

    #[test]
    fn allocators_have_time_to_see_that_a_range_goes() {
        let just = going("a", &["10.0.0.0/24"], "2026-01-01T00:00:57Z");
        assert_eq!(plan(&just, &[], &[], now()), Step::Wait(Duration::from_secs(7)));
        let later = going("a", &["10.0.0.0/24"], "2026-01-01T00:00:50Z");
        assert_eq!(plan(&later, &[], &[], now()), Step::Release);
    }

    #[test]
    fn ranges_overlap_by_family() {
        assert!(overlap(&range("a", &["10.0.0.0/8"]), &range("b", &["10.1.0.0/16"])));
        assert!(overlap(&range("a", &["10.1.0.0/16"]), &range("b", &["fd00::/64", "10.0.0.0/8"])));
        assert!(!overlap(&range("a", &["10.0.0.0/16"]), &range("b", &["10.1.0.0/16", "fd00::/64"])));
        assert!(holds(&range("a", &["fd00::/64"]), "fd00::ffff:ffff:ffff:ffff".parse().unwrap()));
        assert!(!holds(&range("a", &["fd00::/64"]), "fd00::".parse().unwrap()));
    }
}
