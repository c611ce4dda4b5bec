//! What requests are answered, and when they go.

use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T00:00:00Z";

fn slice(pool: &str, generation: i64, of: i64, node: Option<&str>, devices: usize) -> Arc<ResourceSlice> {
    let devices: Vec<Value> = (0..devices).map(|n| json!({"name": format!("d{n}")})).collect();
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {
            "driver": "d.io", "nodeName": node, "devices": devices,
            "pool": {"name": pool, "generation": generation, "resourceSliceCount": of}}}))
        .unwrap(),
    )
}

fn claim(pool: &str, driver: &str, devices: usize) -> Arc<ResourceClaim> {
    let result = json!({"driver": driver, "pool": pool, "device": "d", "request": "r"});
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {},
            "status": {"allocation": {"devices": {"results": vec![result; devices]}}}}))
        .unwrap(),
    )
}

fn asked(pool: Option<&str>, limit: Option<i32>) -> ResourcePoolStatusRequestSpec {
    ResourcePoolStatusRequestSpec { driver: "d.io".into(), pool_name: pool.map(Into::into), limit }
}

fn now() -> Time {
    Time(NOW.parse().unwrap())
}

/// Name, node, total, allocated and available devices of each pool.
fn devices(status: &ResourcePoolStatusRequestStatus) -> Vec<(String, Option<String>, [Option<i32>; 3])> {
    let pools = status.pools.iter().flatten();
    let row = |p: &PoolStatus| {
        (
            p.pool_name.clone(),
            p.node_name.clone(),
            [p.total_devices, p.allocated_devices, p.available_devices],
        )
    };
    pools.map(row).collect()
}

#[test]
fn devices_of_the_newest_generation_count() {
    let slices = [
        slice("b", 1, 2, Some("n"), 7),
        slice("b", 2, 2, Some("n"), 2),
        slice("b", 2, 2, Some("n"), 3),
        slice("a", 5, 1, None, 1),
        slice("b", 1, 2, Some("n"), 7),
    ];
    let claims = [claim("b", "d.io", 2), claim("b", "other.io", 1), claim("a", "d.io", 4)];
    let status = answer(&asked(None, None), &slices, &claims, &now());
    assert_eq!(
        devices(&status),
        [
            ("a".into(), None, [Some(1), Some(4), Some(0)]),
            ("b".into(), Some("n".into()), [Some(5), Some(2), Some(3)]),
        ]
    );
    let pool = &status.pools.as_ref().unwrap()[1];
    assert_eq!((pool.generation, pool.resource_slice_count, pool.unavailable_devices), (2, Some(2), Some(0)));
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!(condition.message, "Calculated status for 2 pools");
    assert_eq!((condition.type_.as_str(), condition.reason.as_str()), ("Complete", "CalculationComplete"));
}

#[test]
fn a_pool_of_several_nodes_has_none() {
    let status = |first, second| {
        let slices = [slice("p", 1, 2, first, 1), slice("p", 1, 2, second, 1)];
        devices(&answer(&asked(None, None), &slices, &[], &now()))[0].1.clone()
    };
    assert_eq!(status(Some("n"), Some("n")), Some("n".into()));
    assert_eq!(status(Some("n"), Some("m")), None);
    assert_eq!(status(Some("n"), None), None);
    assert_eq!(status(None, Some("n")), None);
}

#[test]
fn one_pool_and_few_pools_may_be_asked_for() {
    let slices: Vec<_> = (0..101).map(|n| slice(&format!("p{n:03}"), 1, 1, None, 1)).collect();
    let counts = |asked| {
        let status = answer(&asked, &slices, &[], &now());
        (status.pool_count, status.pools.unwrap().len())
    };
    assert_eq!(counts(asked(None, None)), (101, 100));
    assert_eq!(counts(asked(None, Some(3))), (101, 3));
    assert_eq!(counts(asked(Some("p007"), None)), (1, 1));
    assert_eq!(counts(asked(Some("none"), None)), (0, 0));
    assert_eq!(counts(asked(Some(""), Some(200))), (101, 101));
}

#[test]
fn what_is_missing_is_named() {
    let status = answer(&asked(None, None), &[slice("p", 3, 2, Some("n"), 1)], &[], &now());
    let pool = &status.pools.as_ref().unwrap()[0];
    let message = "pool d.io/p is incomplete: observed 1/2 slices at generation 3";
    assert_eq!(pool.validation_error.as_deref(), Some(message));
    assert_eq!((pool.total_devices, pool.resource_slice_count), (None, None));
    assert_eq!(status.conditions.unwrap()[0].message, "Calculated status for 1 pools (1 incomplete)");
    let long = "ü".repeat(200);
    let status = answer(&asked(None, None), &[slice(&long, 3, 2, None, 1)], &[], &now());
    let message = status.pools.unwrap().remove(0).validation_error.unwrap();
    assert!(message.len() <= LONGEST && message.len() > LONGEST - 2);
}

#[test]
fn requests_go_in_their_time() {
    let request = |status: Value| -> ResourcePoolStatusRequest {
        let request = json!({"metadata": {"name": "r", "creationTimestamp": NOW}, "spec": {"driver": "d.io"},
            "status": status});
        serde_json::from_value(request).unwrap()
    };
    let ended = |kind: &str| {
        json!({"poolCount": 0, "conditions": [{"type": kind, "status": "True", "reason": "", "message": "",
            "lastTransitionTime": "2026-01-01T01:00:00Z"}]})
    };
    for (status, last, first) in [
        (Value::Null, "2026-01-02T00:00:00Z", "2026-01-02T00:00:01Z"),
        (ended(COMPLETE), "2026-01-01T02:00:00Z", "2026-01-01T02:00:01Z"),
        (ended(FAILED), "2026-01-01T02:00:00Z", "2026-01-01T02:00:01Z"),
        (ended("Other"), "2026-01-01T01:00:00Z", "2026-01-01T01:00:01Z"),
    ] {
        let request = request(status.clone());
        assert!(!is_old(&request, last.parse().unwrap()), "{status}");
        assert!(is_old(&request, first.parse().unwrap()), "{status}");
    }
}
