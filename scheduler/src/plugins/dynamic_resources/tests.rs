use component_base::{
    features::{Gate, Gates},
    informer::Event,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    model::DeviceChange,
    testing::{cluster, node, pod},
};

fn plugin() -> DynamicResources {
    DynamicResources::new(Duration::from_secs(10), Duration::from_secs(600))
}

fn added<K: for<'de> serde::Deserialize<'de>>(object: Value) -> Event<K> {
    Event::Added { new: Arc::new(serde_json::from_value(object).unwrap()), initial: true }
}

fn claim(name: &str, devices: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"devices": devices}})
}

fn exactly(name: &str, more: Value) -> Value {
    let mut request = json!({"deviceClassName": "gpu"});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"name": name, "exactly": request})
}

fn cel(expression: &str) -> Value {
    json!([{"cel": {"expression": expression}}])
}

/// A device with a model, a size and a version.
fn device(name: &str, model: &str, memory: &str, version: &str) -> Value {
    json!({
        "name": name,
        "attributes": {"model": {"string": model}, "d.io/driverVersion": {"version": version}},
        "capacity": {"memory": {"value": memory}},
    })
}

fn slice(name: &str, node: &str, devices: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "driver": "d.io", "nodeName": node, "pool": {"name": name, "generation": 1, "resourceSliceCount": 1},
        "devices": devices,
    }})
}

/// Node `a` has two small devices and a large one, node `b` a small one; class `gpu` takes all of driver `d.io`.
fn world(claims: &[Value]) -> Cluster {
    let mut out = cluster(vec![node("a", "x", json!({})), node("b", "y", json!({}))], vec![]);
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": cel("device.driver == 'd.io'")}});
    out.devices.take(&DeviceChange::Class(added(class)));
    let on_a = json!([
        device("s1", "small", "8Gi", "1.2.3"),
        device("s2", "small", "8Gi", "1.4.0"),
        device("l1", "large", "80Gi", "2.0.0"),
    ]);
    for slice in [slice("a", "a", on_a), slice("b", "b", json!([device("s1", "small", "8Gi", "1.0.0")]))] {
        out.devices.take(&DeviceChange::Slice(added(slice)));
    }
    for claim in claims {
        out.devices.take(&DeviceChange::Claim(added(claim.clone())));
    }
    out
}

fn user(claims: &[&str]) -> Arc<PodInfo> {
    let entries: Vec<Value> = claims.iter().map(|c| json!({"name": c, "resourceClaimName": c})).collect();
    pod("p").set("/spec/resourceClaims", json!(entries)).info()
}

/// What both nodes say, or why neither is asked.
fn verdicts(pod: &PodInfo, cluster: &Cluster) -> Result<[Option<String>; 2], String> {
    match plugin().filter(pod, cluster) {
        Prepared::Reject(reason) => Err(reason.into_owned()),
        Prepared::Filter(filter) => {
            Ok(["a", "b"].map(|name| match filter.check(cluster.node(name).unwrap()) {
                Verdict::Fits => None,
                Verdict::Unschedulable(reasons) | Verdict::Unresolvable(reasons) => Some(reasons.concat()),
                Verdict::Failed(reason) => Some(format!("failed: {reason}")),
            }))
        }
        Prepared::Skip | Prepared::Restrict(..) => Ok([None, None]),
    }
}

fn one(devices: Value) -> Result<[Option<String>; 2], String> {
    verdicts(&user(&["c"]), &world(&[claim("c", devices)]))
}

/// The devices a claim gets on a node.
fn given(devices: Value, node: &str) -> Vec<String> {
    let cluster = world(&[claim("c", devices)]);
    let reservation = plugin().reserve(&user(&["c"]), &cluster, cluster.node(node).unwrap());
    names(&reservation.devices[0])
}

fn names(claim: &ResourceClaim) -> Vec<String> {
    let allocation = claim.status.as_ref().unwrap().allocation.as_ref().unwrap();
    let results = allocation.devices.as_ref().unwrap().results.as_ref().unwrap();
    results.iter().map(|r| format!("{}={}", r.request, r.device)).collect()
}

fn no() -> Option<String> {
    Some(CANNOT.to_owned())
}

#[test]
fn pods_without_claims_are_no_business_of_this_plugin() {
    assert!(matches!(plugin().filter(&pod("p").info(), &Cluster::default()), Prepared::Skip));
}

#[test]
fn expressions_select_devices() {
    let table = [
        ("true", [None, None]),
        ("device.attributes['d.io'].model == 'large'", [None, no()]),
        ("device.capacity['d.io'].memory.compareTo(quantity('40Gi')) >= 0", [None, no()]),
        ("device.attributes['d.io'].driverVersion.isGreaterThan(semver('1.1.0'))", [None, no()]),
        ("device.driver == 'other.io'", [no(), no()]),
        ("'model' in device.attributes['d.io']", [None, None]),
        ("!device.allowMultipleAllocations", [None, None]),
    ];
    for (expression, expected) in table {
        let devices = json!({"requests": [exactly("r", json!({"selectors": cel(expression)}))]});
        assert_eq!(one(devices).unwrap(), expected, "{expression}");
    }
}

#[test]
fn what_cannot_be_is_told() {
    let table = [
        (
            json!({"requests": [exactly("r", json!({"deviceClassName": "x"}))]}),
            "request r: device class x does not exist",
        ),
        (
            json!({"requests": [{"name": "r", "firstAvailable": [{"name": "s", "deviceClassName": "x"}]}]}),
            "request r/s: device class x does not exist",
        ),
        (json!({"requests": [{"name": "r"}]}), "resource claim default/c, request r: unknown request type"),
    ];
    for (devices, expected) in table {
        let found = one(devices).unwrap_err();
        assert!(found.starts_with(expected), "{found}");
    }
    let missing = verdicts(&user(&["c"]), &world(&[])).unwrap_err();
    assert_eq!(missing, "resourceclaim.resource.k8s.io \"c\" not found");
    let entry = json!([{"name": "e", "resourceClaimTemplateName": "t"}]);
    let early = pod("p").set("/spec/resourceClaims", entry).info();
    assert_eq!(
        verdicts(&early, &world(&[])).unwrap_err(),
        "pod \"default/p\": ResourceClaim not created yet"
    );
}

/// What node a says of a claim.
fn on_a(devices: Value) -> String {
    one(devices).unwrap()[0].clone().unwrap_or_default()
}

#[test]
fn what_makes_no_sense_ends_the_attempt() {
    let with = |more: Value| json!({"requests": [exactly("r", more)]});
    let select = |expression: &str| with(json!({"selectors": cel(expression)}));
    let both = |kind: &str, attribute: &str| json!({"requests": [exactly("r", json!({"allocationMode": "All"}))], "constraints": [{kind: attribute}]});
    let listed = json!({"requests": [{"name": "r", "firstAvailable": [
        {"name": "s", "deviceClassName": "gpu", "allocationMode": "Some"}]}]});
    let mut unbound = with(json!({}));
    unbound["constraints"] = json!([{"matchAttribute": "d.io/model"}, {}]);
    for (devices, why) in [
        (select("device."), "claim default/c: selector #0: CEL compile error: "),
        (
            select("device.attributes['d.io'].nothing == 1"),
            "claim default/c: selector #0: CEL runtime error: ",
        ),
        (
            with(json!({"selectors": [{}]})),
            "claim default/c, request r, selector #0: CEL expression empty (unsupported selector type?)",
        ),
        (with(json!({"allocationMode": "Some"})), "claim default/c, request r: unsupported count mode Some"),
        (listed, "claim default/c, request s: unsupported count mode Some"),
        (unbound, "claim default/c, constraint #1: empty constraint (unsupported constraint type?)"),
        (
            both("matchAttribute", "d.io/model"),
            "claim default/c, request r: cannot add device d.io/a/l1 because a claim constraint would not be satisfied",
        ),
    ] {
        let said = on_a(devices);
        assert!(said.starts_with(&format!("failed: {why}")), "{said}");
    }
    assert_eq!(on_a(both("distinctAttribute", "d.io/driverVersion")), "");
}

#[test]
fn expressions_are_asked_only_about_devices_that_could_be_given() {
    let broken = json!({"requests": [exactly("r", json!({"selectors": cel("device.attributes['d.io'].nothing == 1")}))]});
    let world = world(&[claim("c", broken), held_on_b("s1")]);
    let [a, b] = verdicts(&user(&["c"]), &world).unwrap();
    assert!(a.unwrap().contains("CEL runtime error"));
    assert_eq!(b, no(), "there is none");
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": cel("nobody")}});
    let mut of_class = self::world(&[claim("c", json!({"requests": [exactly("r", json!({}))]}))]);
    of_class.devices.take(&DeviceChange::Class(added(class)));
    let [a, _] = verdicts(&user(&["c"]), &of_class).unwrap();
    assert!(a.unwrap().starts_with("failed: class gpu: selector #0: CEL compile error: "));
}

/// A claim that has a device of node b.
fn held_on_b(device: &str) -> Value {
    let mut out = claim(&format!("b-{device}"), json!({}));
    out["status"] = json!({"allocation": {"devices": {"results": [
        {"driver": "d.io", "pool": "b", "device": device, "request": "r"}]}}});
    out
}

#[test]
fn devices_with_attributes_of_no_kind_are_an_error() {
    let mut odd = device("x", "small", "8Gi", "1.0.0");
    odd["attributes"]["odd"] = json!({});
    let mut cluster = world(&[claim("c", json!({"requests": [exactly("r", json!({}))]}))]);
    cluster.devices.take(&DeviceChange::Slice(added(slice("b", "b", json!([odd])))));
    let [_, b] = verdicts(&user(&["c"]), &cluster).unwrap();
    let why = "failed: class gpu: selector #0: CEL runtime error: attribute odd: unsupported attribute value";
    assert_eq!(b.as_deref(), Some(why));
}

#[test]
fn all_of_what_cannot_be_known_is_an_error() {
    let all = || claim("c", json!({"requests": [exactly("r", json!({"allocationMode": "All"}))]}));
    let mut half = slice("b", "b", json!([device("s1", "small", "8Gi", "1.0.0")]));
    half["spec"]["pool"]["resourceSliceCount"] = json!(2);
    let twice = json!([device("x", "part", "1Gi", "1.0.0"), device("x", "part", "1Gi", "1.0.0")]);
    for (published, why) in [(half, "being updated"), (slice("b", "b", twice), "invalid")] {
        let mut cluster = world(&[all()]);
        cluster.devices.take(&DeviceChange::Slice(added(published)));
        let why = format!(
            "failed: claim default/c, request r: asks for all devices, but resource pool d.io/b is currently {why}"
        );
        assert_eq!(verdicts(&user(&["c"]), &cluster).unwrap(), [None, Some(why)]);
    }
    let many: Vec<Value> = (0..33).map(|n| device(&format!("x{n}"), "part", "1Gi", "1.0.0")).collect();
    let mut cluster = world(&[all()]);
    cluster.devices.take(&DeviceChange::Slice(added(slice("b", "b", json!(many)))));
    let why = "failed: claim default/c: number of requested devices 33 exceeds the claim limit of 32";
    assert_eq!(verdicts(&user(&["c"]), &cluster).unwrap()[1].as_deref(), Some(why));
}

#[test]
fn a_full_claim_tries_ways_with_fewer_devices_and_no_others() {
    let many: Vec<Value> = (0..40).map(|n| device(&format!("x{n:02}"), "part", "1Gi", "1.0.0")).collect();
    let ways = |name: &str, counts: [u64; 2]| {
        let way = |(at, count): (usize, &u64)| json!({"name": format!("w{at}"), "deviceClassName": "gpu", "count": count});
        json!({"name": name, "firstAvailable": counts.iter().enumerate().map(way).collect::<Vec<_>>()})
    };
    let of = |requests: Value| {
        let mut cluster = world(&[claim("c", json!({"requests": requests}))]);
        cluster.devices.take(&DeviceChange::Slice(added(slice("b", "b", json!(many)))));
        let reservation = plugin().reserve(&user(&["c"]), &cluster, cluster.node("b").unwrap());
        let names = reservation.devices.first().map(names).unwrap_or_default();
        let count = |way: &str| names.iter().filter(|name| name.starts_with(way)).count();
        (count("r/w0"), count("r/w1"), count("s/w0"), count("s/w1"))
    };
    // Were other choices of thirty tried for the first, it would take for ever.
    assert_eq!(of(json!([ways("r", [30, 2]), ways("s", [30, 5])])), (0, 2, 30, 0));
    assert_eq!(of(json!([ways("r", [30, 20]), ways("s", [13, 14])])), (0, 0, 0, 0));
}

#[test]
fn administration_of_a_device_keeps_the_pods_other_claims_off_it() {
    let claims = |first: Value, second: Value| {
        let of = |name: &str, more: Value| claim(name, json!({"requests": [exactly("r", more)]}));
        let world = world(&[of("c", first), of("d", second)]);
        let reservation = plugin().reserve(&user(&["c", "d"]), &world, world.node("a").unwrap());
        reservation.devices.iter().flat_map(names).collect::<Vec<_>>()
    };
    let admin = || json!({"adminAccess": true});
    assert_eq!(claims(admin(), admin()), ["r=s1", "r=s1"]);
    assert_eq!(claims(json!({}), admin()), ["r=s1", "r=s1"]);
    assert_eq!(claims(admin(), json!({})), ["r=s1", "r=s2"]);
}

#[test]
fn devices_that_will_not_become_ready_are_none_and_given_back() {
    let told = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let of = |since: &str, conditions: Value| {
        let mut out = claim("c", json!({}));
        out["status"] = json!({
            "allocation": {"allocationTimestamp": since, "devices": {"results": [{
                "driver": "d.io", "pool": "a", "device": "s1", "request": "r",
                "bindingConditions": ["Ready"], "bindingFailureConditions": ["Broken"]}]}},
            "devices": [{"driver": "d.io", "pool": "a", "device": "s1", "conditions": conditions}],
        });
        let world = world(&[out]);
        let plugin = DynamicResources { time: || "2026-01-01T00:10:00Z".parse().unwrap(), ..plugin() };
        let pod = user(&["c"]);
        let Prepared::Filter(filter) = plugin.filter(&pod, &world) else { panic!("it has a claim") };
        let verdict = filter.check(world.node("a").unwrap());
        let given = matches!(plugin.release(&pod, &world), Some(Release::GiveBack(_)));
        assert_eq!(given, verdict != Verdict::Fits);
        verdict
    };
    let elsewhere = Verdict::unresolvable(ELSEWHERE);
    let just_now = "2026-01-01T00:09:00Z";
    assert_eq!(of(just_now, json!([])), Verdict::Fits, "they may become ready");
    assert_eq!(of("2025-12-31T23:00:00Z", json!([told("Ready", "True")])), Verdict::Fits);
    assert_eq!(of("2025-12-31T23:00:00Z", json!([told("Ready", "False")])), elsewhere);
    assert_eq!(of(just_now, json!([told("Broken", "True")])), elsewhere);
}

#[test]
fn claims_are_written_on_top_of_what_others_wrote() {
    let of = |allocation: Value, consumers: &[&str]| -> ResourceClaim {
        let mut out = claim("c", json!({}));
        let reserved: Vec<Value> =
            consumers.iter().map(|uid| json!({"resource": "pods", "name": uid, "uid": uid})).collect();
        out["status"] = json!({"allocation": allocation, "reservedFor": reserved});
        serde_json::from_value(out).unwrap()
    };
    let (none, some) = (|| json!(null), || json!({"devices": {"results": []}}));
    let seen = of(none(), &[]);
    assert!(is_new(&of(some(), &["p"]), Some(&seen)) && is_new(&of(some(), &["p"]), None));
    assert!(!is_new(&of(some(), &["p"]), Some(&of(some(), &[]))), "it has them since before");
    assert!(!is_new(&of(some(), &["p", "q"]), Some(&seen)), "they are given to p, whose decision it was");
    let uids = |claim: &ResourceClaim| consumers(claim).into_iter().map(|(_, uid)| uid).collect::<Vec<_>>();
    let shared = rebased(&of(some(), &["p", "q"]), &of(some(), &["o", "p"]), false).unwrap();
    assert_eq!(uids(&shared), ["o", "p", "q"]);
    assert_eq!(shared.metadata.finalizers.as_deref(), Some(&[FINALIZER.to_owned()][..]));
    let again = rebased(&of(some(), &["q"]), &of(some(), &["q"]), false).unwrap();
    assert_eq!(uids(&again), ["q"]);
    let new = rebased(&of(some(), &["p"]), &of(none(), &[]), true).unwrap();
    assert!(has_devices(&new) && uids(&new) == ["p"]);
    let told = |fresh: &ResourceClaim, is_new| rebased(&of(some(), &["p"]), fresh, is_new).unwrap_err();
    let gone = |how: &str| format!("claim default/c got {how} in the meantime");
    assert_eq!(told(&of(some(), &["o"]), true), gone("allocated elsewhere"));
    assert_eq!(told(&of(none(), &[]), false), gone("deallocated elsewhere"));
    let mut other = of(some(), &[]);
    other.metadata.uid = Some("another".to_owned());
    assert_eq!(told(&other, false), gone("deleted"));
}

#[test]
fn pods_wait_outside_the_queue_for_their_claims() {
    let may = |claims: &[Value]| plugin().may_enqueue(&user(&["c"]), &world(claims));
    assert_eq!(may(&[]).unwrap_err(), "resourceclaim.resource.k8s.io \"c\" not found");
    let mut going = claim("c", json!({}));
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(may(&[going]).unwrap_err(), "resourceclaim \"c\" is being deleted");
    assert_eq!(may(&[claim("c", json!({}))]), Ok(()));
    assert_eq!(plugin().may_enqueue(&pod("p").info(), &Cluster::default()), Ok(()));
}

#[test]
fn what_was_not_given_back_is_told() {
    let of = |pod: &PodInfo| plugin().kept(pod, &world(&[claim("c", json!({}))])).unwrap();
    assert_eq!((of(&pod("p").info()), of(&user(&["c"]))), (NOTHING_TO_GIVE, STILL));
    assert_eq!(of(&user(&["other"])), NOTHING_TO_GIVE, "the claim is not there");
}

#[test]
fn counts_and_all() {
    let count = |n: i64| json!({"requests": [exactly("r", json!({"count": n}))]});
    assert_eq!(one(count(2)).unwrap(), [None, no()]);
    assert_eq!(one(count(4)).unwrap(), [no(), no()]);
    assert_eq!(given(count(2), "a"), ["r=s1", "r=s2"]);
    let all = json!({"requests": [exactly("r", json!({"allocationMode": "All"}))]});
    assert_eq!(given(all.clone(), "a").len(), 3);
    let none = exactly("r", json!({"allocationMode": "All", "selectors": cel("false")}));
    assert_eq!(one(json!({"requests": [none]})).unwrap(), [no(), no()]);
}

#[test]
fn a_choice_that_leads_nowhere_is_taken_back() {
    let large = exactly("big", json!({"selectors": cel("device.attributes['d.io'].model == 'large'")}));
    let any = exactly("any", json!({"count": 2}));
    assert_eq!(given(json!({"requests": [any, large]}), "a"), ["any=s1", "any=s2", "big=l1"]);
    let three = exactly("any", json!({"count": 3}));
    let large = exactly("big", json!({"selectors": cel("device.attributes['d.io'].model == 'large'")}));
    assert_eq!(one(json!({"requests": [three, large]})).unwrap(), [no(), no()]);
}

#[test]
fn constraints_bind_devices_together() {
    let devices = |kind: &str, attribute: &str| json!({"requests": [exactly("r", json!({"count": 2}))], "constraints": [{kind: attribute}]});
    assert_eq!(given(devices("matchAttribute", "d.io/model"), "a"), ["r=s1", "r=s2"]);
    assert_eq!(given(devices("distinctAttribute", "d.io/model"), "a"), ["r=s1", "r=l1"]);
    assert_eq!(one(devices("matchAttribute", "d.io/driverVersion")).unwrap(), [no(), no()]);
    assert_eq!(one(devices("matchAttribute", "d.io/nothing")).unwrap(), [no(), no()]);
}

#[test]
fn the_first_alternative_that_can_be_is_taken() {
    let sub = |name: &str, model: &str| {
        let selectors = cel(&format!("device.attributes['d.io'].model == '{model}'"));
        json!({"name": name, "deviceClassName": "gpu", "selectors": selectors})
    };
    let devices =
        json!({"requests": [{"name": "r", "firstAvailable": [sub("l", "large"), sub("s", "small")]}]});
    assert_eq!(given(devices.clone(), "a"), ["r/l=l1"]);
    assert_eq!(given(devices.clone(), "b"), ["r/s=s1"]);
    let world = world(&[claim("c", devices), claim("d", json!({"requests": [exactly("r", json!({}))]}))]);
    let nodes: Vec<&NodeInfo> = world.nodes().iter().map(AsRef::as_ref).collect();
    let pod = user(&["c", "d"]);
    let score = plugin().score(&pod, &world, &nodes).unwrap();
    let mut scores: Vec<i64> = nodes.iter().map(|node| score.score(node)).collect();
    // On b there is one device for two claims.
    assert_eq!(scores, [8, 0]);
    let pod = user(&["c"]);
    let score = plugin().score(&pod, &world, &nodes).unwrap();
    scores = nodes.iter().map(|node| score.score(node)).collect();
    assert_eq!(scores, [8, 7]);
    score.normalize(&nodes, &mut scores);
    assert_eq!(scores, [100, 87]);
    assert!(plugin().score(&user(&["d"]), &world, &nodes).is_none());
}

#[test]
fn devices_that_others_hold_are_not_given_except_for_administration() {
    let held = |device: &str| {
        let mut out = claim(&format!("held-{device}"), json!({}));
        out["status"] = json!({"allocation": {"devices": {"results": [
            {"driver": "d.io", "pool": "a", "device": device, "request": "r"}]}}});
        out
    };
    let any = |more: Value| claim("c", json!({"requests": [exactly("r", more)]}));
    let all = [held("s1"), held("s2"), held("l1")];
    let with = |claim: Value| {
        let mut claims = all.to_vec();
        claims.push(claim);
        verdicts(&user(&["c"]), &world(&claims)).unwrap()
    };
    assert_eq!(with(any(json!({}))), [no(), None]);
    assert_eq!(with(any(json!({"adminAccess": true}))), [None, None]);
    let two = world(&[held("s1"), any(json!({"count": 2}))]);
    let reservation = plugin().reserve(&user(&["c"]), &two, two.node("a").unwrap());
    assert_eq!(names(&reservation.devices[0]), ["r=s2", "r=l1"]);
}

#[test]
fn taints_keep_devices_back() {
    let mut tainted = device("s1", "small", "8Gi", "1.0.0");
    tainted["taints"] = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
    let verdict = |tolerations: Value| {
        let request = exactly("r", json!({"tolerations": tolerations}));
        let mut cluster = world(&[claim("c", json!({"requests": [request]}))]);
        cluster.devices.take(&DeviceChange::Slice(added(slice("b", "b", json!([tainted])))));
        verdicts(&user(&["c"]), &cluster).unwrap()[1].clone()
    };
    assert_eq!(verdict(json!([])), no());
    assert_eq!(verdict(json!([{"key": "k", "operator": "Exists"}])), None);
    assert_eq!(verdict(json!([{"key": "k", "value": "w"}])), no());
}

#[test]
fn rules_taint_devices_too() {
    let rule = |selector: Value, effect: &str| json!({"metadata": {"name": "r"}, "spec": {"deviceSelector": selector, "taint": {"key": "k", "effect": effect}}});
    let verdict = |rule: Value, tolerations: Value| {
        let request = exactly("r", json!({"tolerations": tolerations}));
        let mut cluster = world(&[claim("c", json!({"requests": [request]}))]);
        let there = slice("b", "b", json!([device("s1", "small", "8Gi", "1.0.0")]));
        cluster.devices.take(&DeviceChange::Slice(added(there)));
        cluster.devices.take(&DeviceChange::Rule(added(rule)));
        verdicts(&user(&["c"]), &cluster).unwrap()[1].clone()
    };
    let (pool, none) = (json!({"driver": "d.io", "pool": "b"}), json!([]));
    assert_eq!(verdict(rule(pool.clone(), "NoSchedule"), none.clone()), no());
    assert_eq!(verdict(rule(pool.clone(), "NoExecute"), none.clone()), no());
    assert_eq!(verdict(rule(pool.clone(), "None"), none.clone()), None);
    assert_eq!(verdict(rule(json!({"pool": "other"}), "NoSchedule"), none.clone()), None);
    assert_eq!(verdict(rule(json!(null), "NoSchedule"), none.clone()), None);
    assert_eq!(verdict(rule(json!({}), "NoSchedule"), none), no());
    assert_eq!(verdict(rule(pool, "NoSchedule"), json!([{"key": "k", "operator": "Exists"}])), None);
}

#[test]
fn partitions_share_their_counters() {
    let part = |name: &str, amount: &str| {
        let mut out = device(name, "part", "1Gi", "1.0.0");
        out["consumesCounters"] = json!([{"counterSet": "s", "counters": {"memory": {"value": amount}}}]);
        out
    };
    let mut parts = slice("b", "b", json!([part("p1", "6Gi"), part("p2", "6Gi"), part("p3", "4Gi")]));
    parts["spec"]["sharedCounters"] = json!([{"name": "s", "counters": {"memory": {"value": "10Gi"}}}]);
    let mut cluster = world(&[claim("c", json!({"requests": [exactly("r", json!({"count": 2}))]}))]);
    cluster.devices.take(&DeviceChange::Slice(added(parts)));
    let reservation = plugin().reserve(&user(&["c"]), &cluster, cluster.node("b").unwrap());
    assert_eq!(names(&reservation.devices[0]), ["r=p1", "r=p3"]);
}

/// Node `b` with a device of 10 Gi that claims share.
fn shared(claims: &[Value]) -> Cluster {
    let mut out = world(claims);
    let mut device = device("big", "shared", "10Gi", "1.0.0");
    device["allowMultipleAllocations"] = json!(true);
    device["capacity"]["memory"]["requestPolicy"] =
        json!({"default": "1Gi", "validRange": {"min": "1Gi", "step": "1Gi"}});
    out.devices.take(&DeviceChange::Slice(added(slice("b", "b", json!([device])))));
    out
}

fn some_memory(amount: &str, more: Value) -> Value {
    let mut request = exactly("r", more);
    request["exactly"]["selectors"] = cel("device.allowMultipleAllocations");
    request["exactly"]["capacity"] = json!({"requests": {"memory": amount}});
    json!({"requests": [request]})
}

#[test]
fn claims_share_a_device_until_its_capacity_is_taken() {
    let all = [
        claim("c", some_memory("5.5Gi", json!({}))),
        claim("d", some_memory("5Gi", json!({}))),
        claim("e", some_memory("4Gi", json!({}))),
    ];
    let mut cluster = shared(&all);
    let reservation = plugin().reserve(&user(&["c"]), &cluster, cluster.node("b").unwrap());
    let status = reservation.devices[0].status.as_ref().unwrap();
    let result = &status.allocation.as_ref().unwrap().devices.as_ref().unwrap().results.as_ref().unwrap()[0];
    let consumed = result.consumed_capacity.as_ref().unwrap();
    assert_eq!((result.device.as_str(), consumed["memory"].0.as_str()), ("big", "6Gi"));
    assert_eq!(result.share_id.as_ref().unwrap().len(), 36);
    cluster.devices.assume(&reservation);
    assert_eq!(verdicts(&user(&["d"]), &cluster).unwrap(), [no(), no()]);
    assert_eq!(verdicts(&user(&["e"]), &cluster).unwrap(), [no(), None]);
    // Both of one pod together.
    assert_eq!(verdicts(&user(&["d", "e"]), &shared(&all)).unwrap(), [no(), None]);
    assert_eq!(verdicts(&user(&["c", "d"]), &shared(&all)).unwrap(), [no(), no()]);
}

#[test]
fn each_request_has_one_share_of_a_device() {
    let shares = |count: i64| claim("c", some_memory("3Gi", json!({"count": count})));
    assert_eq!(verdicts(&user(&["c"]), &shared(&[shares(1)])).unwrap(), [no(), None]);
    assert_eq!(verdicts(&user(&["c"]), &shared(&[shares(2)])).unwrap(), [no(), no()]);
    let mut twice = some_memory("3Gi", json!({}));
    let mut second = twice["requests"][0].clone();
    second["name"] = json!("s");
    twice["requests"].as_array_mut().unwrap().push(second);
    let cluster = shared(&[claim("c", twice)]);
    let reservation = plugin().reserve(&user(&["c"]), &cluster, cluster.node("b").unwrap());
    let allocation = reservation.devices[0].status.as_ref().unwrap().allocation.as_ref().unwrap();
    let results = allocation.devices.as_ref().unwrap().results.as_ref().unwrap();
    assert_ne!(results[0].share_id, results[1].share_id);
}

#[test]
fn what_a_device_cannot_be_asked_for_it_does_not_give() {
    let asks = |name: &str, amount: &str| {
        let mut request = exactly("r", json!({}));
        request["exactly"]["capacity"] = json!({"requests": {name: amount}});
        claim("c", json!({"requests": [request]}))
    };
    let with = |claim: Value| verdicts(&user(&["c"]), &world(&[claim])).unwrap();
    assert_eq!(with(asks("cores", "1")), [no(), no()]);
    assert_eq!(with(asks("memory", "1Gi")), [None, None]);
    // A device that is not shared is given whole, to who asks for no more than it has.
    assert_eq!(with(asks("memory", "40Gi")), [None, no()]);
    let mut all = asks("memory", "40Gi");
    all["spec"]["devices"]["requests"][0]["exactly"]["allocationMode"] = json!("All");
    let cluster = world(&[all]);
    let reservation = plugin().reserve(&user(&["c"]), &cluster, cluster.node("a").unwrap());
    assert_eq!(names(&reservation.devices[0]), ["r=l1"]);
}

/// A claim of node `a`'s first device, with the conditions its driver tells of it.
fn conditional(conditions: Value) -> ResourceClaim {
    let mut out = claim("c", json!({}));
    out["status"] = json!({
        "allocation": {"devices": {"results": [{"driver": "d.io", "pool": "a", "device": "s1", "request": "r",
            "bindingConditions": ["Attached", "Warm"], "bindingFailureConditions": ["Broken"]}]}},
        "devices": conditions,
    });
    serde_json::from_value(out).unwrap()
}

#[test]
fn devices_are_ready_when_their_drivers_say_so() {
    let told = |conditions: &[(&str, &str)]| {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, status)| {
                json!({"type": kind, "status": status, "reason": "R", "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        json!([{"driver": "d.io", "pool": "a", "device": "s1", "conditions": conditions}])
    };
    let broken = "device binding failed: claim=c, reason=R, message=\"m\"".to_owned();
    let table = [
        (Value::Null, Ok(false)),
        (told(&[]), Ok(false)),
        (told(&[("Attached", "True")]), Ok(false)),
        (told(&[("Attached", "True"), ("Warm", "False")]), Ok(false)),
        (told(&[("Attached", "True"), ("Warm", "True"), ("Broken", "False")]), Ok(true)),
        (told(&[("Attached", "True"), ("Warm", "True"), ("Broken", "True")]), Err(broken)),
    ];
    for (conditions, expected) in table {
        let found = is_ready(&conditional(conditions.clone())).map_err(|reason| reason.to_string());
        assert_eq!(found, expected, "{conditions}");
    }
    assert!(has_conditions(&conditional(Value::Null)));
    let plain: ResourceClaim = serde_json::from_value(claim("c", json!({}))).unwrap();
    assert!(!has_conditions(&plain) && is_ready(&plain) == Ok(true));
}

#[test]
fn devices_may_take_so_long_from_their_allocation_on() {
    let (timeout, second) = (Duration::from_secs(10), Duration::from_secs(1));
    let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
    let plain: ResourceClaim = serde_json::from_value(claim("c", json!({}))).unwrap();
    assert_eq!(time_left(&plain, timeout, at(0)).unwrap(), None);
    let mut waiting = conditional(Value::Null);
    assert_eq!(time_left(&waiting, timeout, at(5)).unwrap(), Some(timeout), "nobody says since when");
    let allocation = waiting.status.as_mut().unwrap().allocation.as_mut().unwrap();
    allocation.allocation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(100)));
    for (now, left) in
        [(99, timeout), (100, timeout), (109, second), (110, Duration::ZERO), (500, Duration::ZERO)]
    {
        assert_eq!(time_left(&waiting, timeout, at(now)).unwrap(), Some(left), "{now}");
    }
}

#[test]
fn devices_that_are_ready_come_first_and_others_keep_their_conditions() {
    let mut slow = device("a0", "small", "8Gi", "1.0.0");
    slow["bindingConditions"] = json!(["Attached"]);
    slow["bindsToNode"] = json!(true);
    let anywhere = json!({"metadata": {"name": "0"}, "spec": {"driver": "d.io", "allNodes": true, "devices": [slow],
        "pool": {"name": "0", "generation": 1, "resourceSliceCount": 1}}});
    let given = |count: i64| {
        let mut cluster = world(&[claim("c", json!({"requests": [exactly("r", json!({"count": count}))]}))]);
        cluster.devices.take(&DeviceChange::Slice(added(anywhere.clone())));
        plugin().reserve(&user(&["c"]), &cluster, cluster.node("b").unwrap()).devices[0].clone()
    };
    assert_eq!(names(&given(1)), ["r=s1"]);
    let both = given(2);
    assert_eq!(names(&both), ["r=s1", "r=a0"]);
    let allocation = both.status.unwrap().allocation.unwrap();
    let result = &allocation.devices.unwrap().results.unwrap()[1];
    assert_eq!(result.binding_conditions.as_deref(), Some(&["Attached".to_owned()][..]));
    assert!(allocation.node_selector.unwrap().node_selector_terms[0].match_fields.is_some());
}

#[test]
fn a_claim_that_binds_its_pod_to_a_node_is_given_back_if_nobody_else_has_it() {
    let on_a = |consumers: &[&str]| {
        let reserved: Vec<Value> =
            consumers.iter().map(|uid| json!({"resource": "pods", "name": uid, "uid": uid})).collect();
        let terms = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]);
        let mut out = claim("c", json!({}));
        out["status"] = json!({"reservedFor": reserved, "allocation": {"devices": {"results": []},
            "nodeSelector": {"nodeSelectorTerms": terms}}});
        out
    };
    let pod = user(&["c"]);
    let released = |claim: Value| match plugin().release(&pod, &world(&[claim])) {
        Some(Release::GiveBack(claim)) => claim.status,
        Some(Release::Delete(_)) | None => None,
    };
    for consumers in [&[][..], &[pod.uid.as_str()]] {
        let status = released(on_a(consumers)).unwrap();
        assert!(status.allocation.is_none() && status.reserved_for.is_none());
    }
    assert_eq!(released(on_a(&["other"])), None);
    assert_eq!(released(on_a(&["other", &pod.uid])), None);
    assert_eq!(released(claim("c", json!({"requests": [exactly("r", json!({}))]}))), None);
    let mut everywhere = on_a(&[]);
    everywhere["status"]["allocation"]["nodeSelector"] = Value::Null;
    assert_eq!(released(everywhere), None);
}

#[test]
fn pools_that_are_being_published_give_nothing() {
    let mut half = slice("b", "b", json!([device("s1", "small", "8Gi", "1.0.0")]));
    half["spec"]["pool"]["resourceSliceCount"] = json!(2);
    let mut cluster = world(&[claim("c", json!({"requests": [exactly("r", json!({}))]}))]);
    cluster.devices.take(&DeviceChange::Slice(added(half)));
    assert_eq!(verdicts(&user(&["c"]), &cluster).unwrap(), [None, no()]);
}

#[test]
fn a_decision_is_written_whole_and_counts_at_once() {
    let wants = json!({
        "requests": [exactly("r", json!({}))],
        "config": [{"opaque": {"driver": "d.io", "parameters": {"a": 1}}}],
    });
    let mut cluster = world(&[claim("c", wants.clone()), claim("d", wants)]);
    let pod = user(&["c"]);
    let reservation = plugin().reserve(&pod, &cluster, cluster.node("b").unwrap());
    let written = &reservation.devices[0];
    let status = written.status.as_ref().unwrap();
    assert_eq!(status.reserved_for.as_ref().unwrap()[0].uid, pod.uid);
    assert!(written.metadata.finalizers.as_ref().unwrap().contains(&FINALIZER.to_owned()));
    let allocation = status.allocation.as_ref().unwrap();
    let fields =
        allocation.node_selector.as_ref().unwrap().node_selector_terms[0].match_fields.as_ref().unwrap();
    assert_eq!(fields[0].values.as_deref(), Some(&["b".to_owned()][..]));
    assert_eq!(allocation.devices.as_ref().unwrap().config.as_ref().unwrap()[0].source, "FromClaim");

    cluster.devices.assume(&reservation);
    assert_eq!(verdicts(&user(&["d"]), &cluster).unwrap(), [None, no()]);
    assert_eq!(verdicts(&user(&["c"]), &cluster).unwrap(), [Some(ELSEWHERE.to_owned()), None]);
    assert!(plugin().reserve(&pod, &cluster, cluster.node("b").unwrap()).devices.is_empty());
    cluster.devices.forget(&reservation);
    assert_eq!(verdicts(&user(&["d"]), &cluster).unwrap(), [None, None]);
}

/// A world in which class `gpu` stands for `d.io/gpu`; node `b` has some of its own, besides its device.
fn extended_world(claims: &[Value]) -> Cluster {
    let mut out = world(claims);
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "d.io/gpu",
        "selectors": cel("device.driver == 'd.io'")}});
    out.devices.take(&DeviceChange::Class(added(class)));
    out.set_node(node("b", "y", json!({"status": {"allocatable": {"d.io/gpu": "1"}}})));
    out
}

fn asking(resource: &str, count: &str) -> Arc<PodInfo> {
    pod("p").set("/spec/containers/0/resources", json!({"requests": {"cpu": "1", resource: count}})).info()
}

#[test]
fn devices_stand_for_extended_resources_where_nodes_have_none() {
    let cluster = extended_world(&[]);
    let table = [
        // What node b has of its own is another plugin's business.
        (asking("d.io/gpu", "3"), [None, None]),
        (asking("d.io/gpu", "4"), [no(), None]),
        (asking("deviceclass.resource.kubernetes.io/gpu", "1"), [None, None]),
        (asking("deviceclass.resource.kubernetes.io/gpu", "2"), [None, no()]),
        (asking("d.io/other", "9"), [None, None]),
    ];
    for (pod, expected) in table {
        assert_eq!(verdicts(&pod, &cluster).unwrap(), expected, "{:?}", pod.device_asks);
    }
    assert!(matches!(plugin().filter(&asking("d.io/other", "9"), &cluster), Prepared::Skip));
}

#[test]
fn the_claim_for_extended_resources_is_made_with_its_devices() {
    let cluster = extended_world(&[]);
    let pod = asking("d.io/gpu", "2");
    let on = |name: &str| plugin().reserve(&pod, &cluster, cluster.node(name).unwrap());
    assert_eq!(on("b"), Reservation::default());
    let made = on("a").extended.unwrap();
    assert_eq!(names(&made.claim), ["container-0-request-1=s1", "container-0-request-1=s2"]);
    assert_eq!(made.mappings[0].resource_name, "d.io/gpu");
    let meta = &made.claim.metadata;
    assert_eq!(meta.generate_name.as_deref(), Some("p-extended-resources-"));
    assert_eq!(meta.finalizers.as_deref(), Some(&[FINALIZER.to_owned()][..]));
    assert_eq!(made.claim.status.unwrap().reserved_for.unwrap()[0].uid, pod.uid);
}

#[test]
fn claims_and_extended_resources_get_their_devices_together() {
    let devices = json!({"requests": [exactly("r", json!({"count": 2}))]});
    let cluster = extended_world(&[claim("c", devices)]);
    let both = |count: &str| {
        let resources = json!({"requests": {"d.io/gpu": count}});
        let entries = json!([{"name": "c", "resourceClaimName": "c"}]);
        pod("p").set("/spec/resourceClaims", entries).set("/spec/containers/0/resources", resources).info()
    };
    assert_eq!(verdicts(&both("1"), &cluster).unwrap(), [None, no()]);
    assert_eq!(verdicts(&both("2"), &cluster).unwrap(), [no(), no()]);
    let reservation = plugin().reserve(&both("1"), &cluster, cluster.node("a").unwrap());
    assert_eq!(names(&reservation.devices[0]), ["r=s1", "r=s2"]);
    assert_eq!(names(&reservation.extended.unwrap().claim), ["container-0-request-0=l1"]);
}

#[test]
fn what_is_about_to_be_made_is_not_given_away_again() {
    let mut cluster = extended_world(&[]);
    let pod = asking("d.io/gpu", "2");
    let reservation = plugin().reserve(&pod, &cluster, cluster.node("a").unwrap());
    cluster.devices.assume(&reservation);
    assert_eq!(verdicts(&asking("d.io/gpu", "2"), &cluster).unwrap(), [no(), None]);
    cluster.devices.forget(&reservation);
    assert_eq!(verdicts(&asking("d.io/gpu", "2"), &cluster).unwrap(), [None, None]);
}

#[test]
fn a_claim_of_an_attempt_before_goes_first() {
    let pod = asking("d.io/gpu", "1");
    let mut stale = claim("p-extended-resources-x", json!({"requests": [exactly("r", json!({}))]}));
    stale["metadata"]["annotations"] = json!({"resource.kubernetes.io/extended-resource-claim": "true"});
    stale["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod.uid, "controller": true}]);
    let cluster = extended_world(&[stale.clone()]);
    let stands = Some(STALE.to_owned());
    assert_eq!(verdicts(&pod, &cluster).unwrap(), [stands.clone(), stands]);
    let Some(Release::Delete(gone)) = plugin().release(&pod, &cluster) else { panic!("it stays") };
    assert_eq!(gone.metadata.name.as_deref(), Some("p-extended-resources-x"));
    // Another pod's is no business of this one.
    stale["metadata"]["ownerReferences"][0]["uid"] = "other".into();
    assert_eq!(verdicts(&pod, &extended_world(&[stale])).unwrap(), [None, None]);
}

#[test]
fn devices_are_tried_for_so_long_and_no_longer() {
    use std::cell::Cell;
    thread_local! {
        static PASSED: Cell<u64> = const { Cell::new(0) };
    }
    // A second passes whenever somebody looks.
    fn now() -> Instant {
        use std::sync::LazyLock;
        static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        PASSED.with(|passed| passed.set(passed.get() + 1));
        *BEGIN + Duration::from_secs(PASSED.with(Cell::get))
    }
    let devices = json!({"requests": [exactly("r", json!({"count": 3}))]});
    let (world, pod) = (world(&[claim("c", devices)]), user(&["c"]));
    let said = |seconds: u64| {
        let plugin = DynamicResources { timeout: Duration::from_secs(seconds), now, ..plugin() };
        let Prepared::Filter(filter) = plugin.filter(&pod, &world) else { panic!("it has claims") };
        ["a", "b"].map(|name| filter.check(world.node(name).unwrap()))
    };
    let late = |name: &str| Verdict::Failed(format!("node {name}: {TIMED_OUT}").into());
    // Node a has the three, with three looks; node b's only one leaves the others to be found.
    assert_eq!(said(1), [late("a"), late("b")]);
    assert_eq!(said(2), [late("a"), Verdict::unresolvable(CANNOT)]);
    assert_eq!(said(9), [Verdict::Fits, Verdict::unresolvable(CANNOT)]);
    assert_eq!(said(0), [Verdict::Fits, Verdict::unresolvable(CANNOT)], "for as long as it takes");
}

/// A claim of group `g` that its pods name `c`, and another that a pod alone names `d`.
fn shared_world(status: Value) -> (Cluster, impl Fn(&str) -> Arc<PodInfo>) {
    let mut shared = claim("c", json!({"requests": [exactly("r", json!({}))]}));
    shared["status"] = status;
    let alone = claim("d", json!({"requests": [exactly("r", json!({}))]}));
    let mut world = world(&[shared, alone]);
    world.groups.share_devices();
    let group = json!({"metadata": {"name": "g", "namespace": "default", "uid": "gu"}, "spec": {
        "schedulingPolicy": {"basic": {}}, "resourceClaims": [{"name": "c", "resourceClaimName": "c"}]}});
    world.groups.take(&added(group));
    let member = |name: &str| {
        let entries =
            json!([{"name": "c", "resourceClaimName": "c"}, {"name": "d", "resourceClaimName": "d"}]);
        pod(name).group("g").set("/spec/resourceClaims", entries).info()
    };
    (world, member)
}

fn consumers(claim: &ResourceClaim) -> Vec<(String, String)> {
    let all = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
    all.map(|consumer| (consumer.resource.clone(), consumer.uid.clone())).collect()
}

#[test]
fn pods_of_a_group_share_its_claims() {
    let (mut world, member) = shared_world(json!({}));
    let on_a = world.node("a").unwrap().clone();
    let reservation = plugin().reserve(&member("p"), &world, &on_a);
    let [shared, alone] = reservation.devices.as_slice() else { panic!("{reservation:?}") };
    assert_eq!(consumers(shared), [("podgroups".to_owned(), "gu".to_owned())]);
    assert_eq!(consumers(alone), [("pods".to_owned(), "uid-p".to_owned())]);
    world.devices.assume(&reservation);
    // The next one finds the group's claim with its devices, on that node, and has nothing to say in it.
    let entries = json!([{"name": "c", "resourceClaimName": "c"}]);
    let next = pod("q").group("g").set("/spec/resourceClaims", entries.clone()).info();
    assert_eq!(verdicts(&next, &world).unwrap(), [None, Some(ELSEWHERE.to_owned())]);
    assert!(plugin().reserve(&next, &world, &on_a).devices.is_empty());
    // Who is of no group is a consumer of its own.
    let stranger = pod("s").set("/spec/resourceClaims", entries.clone()).info();
    let theirs = plugin().reserve(&stranger, &world, &on_a);
    assert_eq!(consumers(&theirs.devices[0]).last().unwrap().1, "uid-s");
    // Without the gate the group is nothing to a claim.
    world.groups = crate::model::Groups::default();
    let own = plugin().reserve(&next, &world, &on_a);
    assert_eq!(consumers(&own.devices[0]).last().unwrap().1, "uid-q");
}

#[test]
fn claims_that_were_made_for_a_group_are_its_pods() {
    let (mut world, _) = shared_world(json!({}));
    let owner = |kind: &str, name: &str, version: &str| json!([{"apiVersion": version, "kind": kind, "name": name, "uid": "gu", "controller": true}]);
    let entries = json!([{"name": "e", "resourceClaimTemplateName": "t"}]);
    let status = json!([{"name": "e", "resourceClaimName": "made"}]);
    let member = pod("p").group("g").set("/spec/resourceClaims", entries);
    let member = member.set("/status/resourceClaimStatuses", status).info();
    for (owners, good) in [
        (owner("PodGroup", "g", "scheduling.k8s.io/v1alpha2"), true),
        (owner("PodGroup", "h", "scheduling.k8s.io/v1alpha2"), false),
        (owner("PodGroup", "g", "example.com/v1"), false),
        (owner("Pod", "g", "v1"), false),
    ] {
        let mut made = claim("made", json!({"requests": [exactly("r", json!({}))]}));
        made["metadata"]["ownerReferences"] = owners.clone();
        world.devices.take(&DeviceChange::Claim(added(made)));
        let found = verdicts(&member, &world);
        assert_eq!(found.is_ok(), good, "{owners}: {found:?}");
        let why = "ResourceClaim default/made was not created for Pod default/p (neither Pod nor PodGroup g is the owner)";
        assert!(good || found.unwrap_err() == why);
    }
}

#[test]
fn a_groups_claim_is_given_back_while_none_of_its_pods_has_a_node() {
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]});
    let status = json!({
        "allocation": {"nodeSelector": {"nodeSelectorTerms": [term]}},
        "reservedFor": [{"apiGroup": "scheduling.k8s.io", "resource": "podgroups", "name": "g", "uid": "gu"}],
    });
    let (mut world, member) = shared_world(status);
    let pod = member("p");
    world.groups.join(&pod);
    let released = |world: &Cluster| match plugin().release(&pod, world) {
        Some(Release::GiveBack(claim)) => {
            claim.status.map(|s| (s.allocation.is_none(), s.reserved_for.is_none()))
        }
        _ => None,
    };
    assert_eq!(released(&world), Some((true, true)));
    let placed = crate::testing::pod("q").group("g").on("b").info();
    world.groups.join(&placed);
    world.place(placed);
    assert_eq!(released(&world), None, "somebody uses it");
}

/// What both nodes say with gates the other way.
fn switched(mut cluster: Cluster, gates: &[Gate]) -> Result<[Option<String>; 2], String> {
    let other = |all: Gates, gate: &Gate| all.with(*gate, !all.has(*gate));
    cluster.devices.gate(gates.iter().fold(Gates::default(), other));
    verdicts(&user(&["c"]), &cluster)
}

#[test]
fn lists_of_requests_are_refused_where_they_may_not_be() {
    let list =
        json!({"requests": [{"name": "r", "firstAvailable": [{"name": "s", "deviceClassName": "gpu"}]}]});
    let refused = switched(world(&[claim("c", list)]), &[Gate::DRAPrioritizedList]).unwrap_err();
    let why = "request r: has subrequests, but the DRAPrioritizedList feature is disabled";
    assert_eq!(refused, format!("resource claim default/c, {why}"));
}

#[test]
fn capacity_is_neither_asked_for_nor_shared_where_it_may_not_be() {
    let why = "failed: claim default/c, request r: has capacity requests, but the DRAConsumableCapacity feature is disabled";
    let told = switched(shared(&[claim("c", some_memory("1Gi", json!({})))]), &[Gate::DRAConsumableCapacity]);
    assert_eq!(told.unwrap(), [Some(why.to_owned()), Some(why.to_owned())]);
    // What one claim has some of is all its own, and expressions see nothing of sharing.
    let one = |name: &str| {
        claim(
            name,
            json!({"requests": [exactly("r", json!({"selectors": cel("device.attributes['d.io'].model == 'shared'")}))]}),
        )
    };
    let mut cluster = shared(&[one("c"), one("d")]);
    let reservation = plugin().reserve(&user(&["d"]), &cluster, cluster.node("b").unwrap());
    cluster.devices.assume(&reservation);
    assert_eq!(verdicts(&user(&["c"]), &cluster).unwrap(), [no(), None]);
    assert_eq!(switched(cluster, &[Gate::DRAConsumableCapacity]).unwrap(), [no(), no()]);
    let seen =
        json!({"requests": [exactly("r", json!({"selectors": cel("device.allowMultipleAllocations")}))]});
    let [a, _] = switched(world(&[claim("c", seen)]), &[Gate::DRAConsumableCapacity]).unwrap();
    assert!(a.unwrap().contains("CEL runtime error"));
}

#[test]
fn taints_count_where_they_may() {
    let tainted = |cluster: &mut Cluster| {
        let mut one = device("s1", "small", "8Gi", "1.0.0");
        one["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
        cluster.devices.take(&DeviceChange::Slice(added(slice("b", "b", json!([one])))));
    };
    let mut cluster = world(&[claim("c", json!({"requests": [exactly("r", json!({}))]}))]);
    tainted(&mut cluster);
    assert_eq!(switched(cluster.clone(), &[]).unwrap(), [None, no()]);
    assert_eq!(switched(cluster, &[Gate::DRADeviceTaints]).unwrap(), [None, None]);
}

#[test]
fn devices_that_must_be_made_ready_are_none_where_they_may_not_be() {
    let mut slow = device("s1", "small", "8Gi", "1.0.0");
    slow["bindingConditions"] = json!(["Ready"]);
    let mut cluster = world(&[claim("c", json!({"requests": [exactly("r", json!({}))]}))]);
    cluster.devices.take(&DeviceChange::Slice(added(slice("b", "b", json!([slow])))));
    assert_eq!(switched(cluster.clone(), &[]).unwrap(), [None, None]);
    for gate in [Gate::DRADeviceBindingConditions, Gate::DRAResourceClaimDeviceStatus] {
        assert_eq!(switched(cluster.clone(), &[gate]).unwrap(), [None, no()], "{gate}");
    }
}

/// A pool with counters of its own slice and devices for nodes `a` and `b` that take of them.
fn counted(claims: &[Value], needs: [&str; 2]) -> Cluster {
    let mut out = world(claims);
    let pool = json!({"name": "parts", "generation": 1, "resourceSliceCount": 3});
    let counters = json!([{"name": "s", "counters": {"memory": {"value": "10Gi"}}}]);
    let mut slices = vec![json!({"metadata": {"name": "z"}, "spec": {
        "driver": "d.io", "nodeName": "a", "pool": pool, "sharedCounters": counters}})];
    for (node, need) in ["a", "b"].into_iter().zip(needs) {
        let mut part = device(&format!("part-{node}"), "part", "1Gi", "1.0.0");
        part["consumesCounters"] = json!([{"counterSet": "s", "counters": {"memory": {"value": need}}}]);
        slices.push(json!({"metadata": {"name": format!("parts-{node}")}, "spec": {
            "driver": "d.io", "nodeName": node, "pool": pool, "devices": [part]}}));
    }
    slices.into_iter().for_each(|slice| drop(out.devices.take(&DeviceChange::Slice(added(slice)))));
    out
}

fn a_part(name: &str) -> Value {
    claim(
        name,
        json!({"requests": [exactly("r", json!({"selectors": cel("device.attributes['d.io'].model == 'part'")}))]}),
    )
}

#[test]
fn what_devices_of_other_nodes_take_of_counters_is_gone() {
    let mut cluster = counted(&[a_part("c"), a_part("d")], ["6Gi", "6Gi"]);
    assert_eq!(verdicts(&user(&["c"]), &cluster).unwrap(), [None, None]);
    let reservation = plugin().reserve(&user(&["d"]), &cluster, cluster.node("b").unwrap());
    cluster.devices.assume(&reservation);
    assert_eq!(verdicts(&user(&["c"]), &cluster).unwrap(), [no(), no()]);
    // The same with enough for both.
    let mut cluster = counted(&[a_part("c"), a_part("d")], ["4Gi", "6Gi"]);
    let reservation = plugin().reserve(&user(&["d"]), &cluster, cluster.node("b").unwrap());
    cluster.devices.assume(&reservation);
    assert_eq!(verdicts(&user(&["c"]), &cluster).unwrap(), [None, no()]);
}

#[test]
fn counters_are_exact_and_a_pool_that_owes_some_gives_no_partition() {
    let part = |name: &str, set: &str, amount: &str| {
        let mut out = device(name, "part", "1Gi", "1.0.0");
        out["consumesCounters"] = json!([{"counterSet": set, "counters": {"n": {"value": amount}}}]);
        out
    };
    let mut wanted = a_part("c");
    wanted["spec"]["devices"]["requests"][0]["exactly"]["count"] = json!(2);
    let of = |has: &str, held: &[Value]| {
        let mut cluster = world(&[&[wanted.clone()], held].concat());
        let parts = [part("p1", "s", "500m"), part("p2", "s", "500m"), part("o", "t", "2")];
        let mut slice = slice("b", "b", json!(parts));
        slice["spec"]["pool"]["resourceSliceCount"] = json!(2);
        cluster.devices.take(&DeviceChange::Slice(added(slice)));
        cluster.devices.take(&DeviceChange::Slice(added(json!({"metadata": {"name": "counters"}, "spec": {
            "driver": "d.io", "nodeName": "b", "pool": {"name": "b", "generation": 1, "resourceSliceCount": 2},
            "sharedCounters": [
                {"name": "s", "counters": {"n": {"value": has}}}, {"name": "t", "counters": {"n": {"value": "1"}}},
            ]}}))));
        verdicts(&user(&["c"]), &cluster).unwrap()[1].clone()
    };
    assert_eq!(of("1", &[]), None);
    assert_eq!(of("900m", &[]), no());
    assert_eq!(of("9", &[held_on_b("o")]), no(), "more of the other set is taken than there is");
}

#[test]
fn partitions_are_none_where_they_may_not_be() {
    let cluster = counted(&[a_part("c")], ["6Gi", "6Gi"]);
    assert_eq!(switched(cluster, &[Gate::DRAPartitionableDevices]).unwrap(), [no(), no()]);
}

#[test]
fn pools_that_contradict_themselves_give_nothing_and_are_told_of() {
    let told = Some(INVALID.to_owned());
    let twice = json!([device("x", "part", "1Gi", "1.0.0"), device("x", "part", "1Gi", "1.0.0")]);
    let mut cluster = world(&[a_part("c")]);
    cluster.devices.take(&DeviceChange::Slice(added(slice("b", "b", twice))));
    assert_eq!(verdicts(&user(&["c"]), &cluster).unwrap(), [no(), told.clone()]);
    let mut lacking = device("x", "part", "1Gi", "1.0.0");
    lacking["consumesCounters"] = json!([{"counterSet": "none", "counters": {"memory": {"value": "1"}}}]);
    let mut cluster = world(&[a_part("c")]);
    cluster.devices.take(&DeviceChange::Slice(added(slice("b", "b", json!([lacking])))));
    assert_eq!(verdicts(&user(&["c"]), &cluster).unwrap(), [no(), told]);
}

#[test]
fn more_devices_than_a_claim_can_have_are_an_error() {
    let [a, _] = one(json!({"requests": [exactly("r", json!({"count": 33}))]})).unwrap();
    let why = "failed: claim default/c: number of requested devices 33 exceeds the claim limit of 32";
    assert_eq!(a.as_deref(), Some(why));
}

/// Node `a` with devices whose attribute `nets` has these values.
fn listed(devices: &[(&str, Value)], requests: Value) -> Cluster {
    let mut out = world(&[claim("c", requests)]);
    let all = devices.iter().map(|(name, nets)| {
        let mut device = device(name, "listed", "1Gi", "1.0.0");
        device["attributes"]["nets"] = nets.clone();
        device
    });
    out.devices.take(&DeviceChange::Slice(added(slice("a", "a", json!(all.collect::<Vec<_>>())))));
    out
}

#[test]
fn attributes_may_be_lists_where_they_may() {
    let strings = |all: &[&str]| json!({"strings": all});
    let (ab, bc, cd) = (strings(&["a", "b"]), strings(&["b", "c"]), strings(&["c", "d"]));
    let lists = &[Gate::DRAListTypeAttributes];
    let select =
        |expression: &str| json!({"requests": [exactly("r", json!({"selectors": cel(expression)}))]});
    let of = |expression: &str, gates: &[Gate]| {
        switched(listed(&[("x", ab.clone())], select(expression)), gates).unwrap()[0].clone()
    };
    assert_eq!(of("device.attributes['d.io'].nets.includes('b')", lists), None);
    assert_eq!(of("device.attributes['d.io'].model.includes('listed')", lists), None);
    assert_eq!(of("device.attributes['d.io'].nets.includes('c')", lists), no());
    assert_eq!(of("device.attributes['d.io'].nets.exists(n, n == 'a')", lists), None);
    let versions = listed(
        &[("x", json!({"versions": ["1.2.0", "2.0.0"]}))],
        select("device.attributes['d.io'].nets.all(v, v.isGreaterThan(semver('1.0.0')))"),
    );
    assert_eq!(switched(versions, lists).unwrap()[0], None);
    let ints =
        listed(&[("x", json!({"ints": [1, 2]}))], select("device.attributes['d.io'].nets.includes(2)"));
    assert_eq!(switched(ints, lists).unwrap()[0], None);

    let constrained = |kind: &str, devices: &[(&str, Value)], gates: &[Gate]| {
        let request = exactly(
            "r",
            json!({"count": devices.len(), "selectors": cel("device.attributes['d.io'].model == 'listed'")}),
        );
        let requests = json!({"requests": [request], "constraints": [{kind: "d.io/nets"}]});
        switched(listed(devices, requests), gates).unwrap()[0].is_none()
    };
    let one = |text: &str| json!({"string": text});
    for (kind, devices, expected) in [
        ("matchAttribute", vec![("x", ab.clone()), ("y", bc.clone())], true),
        ("matchAttribute", vec![("x", ab.clone()), ("y", bc.clone()), ("z", cd.clone())], false),
        ("matchAttribute", vec![("x", ab.clone()), ("y", cd.clone())], false),
        ("matchAttribute", vec![("x", ab.clone()), ("y", one("b"))], true),
        ("distinctAttribute", vec![("x", ab.clone()), ("y", cd.clone())], true),
        ("distinctAttribute", vec![("x", ab.clone()), ("y", bc.clone())], false),
        ("distinctAttribute", vec![("x", ab.clone()), ("y", one("c"))], true),
    ] {
        assert_eq!(constrained(kind, &devices, lists), expected, "{kind} {devices:?}");
        assert!(!constrained(kind, &devices, &[]), "lists are no attributes: {kind} {devices:?}");
    }
}

#[test]
fn classes_and_claims_tell_drivers_about_what_was_chosen() {
    let opaque = |text: &str| json!({"opaque": {"driver": "d.io", "parameters": {"is": text}}});
    let mut requests = json!({"requests": [
        exactly("r", json!({})),
        {"name": "s", "firstAvailable": [
            {"name": "x", "deviceClassName": "gpu", "selectors": cel("false")},
            {"name": "y", "deviceClassName": "gpu"},
        ]},
    ]});
    let with = |names: Value, text: &str| {
        let mut config = opaque(text);
        config["requests"] = names;
        config
    };
    requests["config"] = json!([
        with(json!([]), "all"),
        with(json!(["r"]), "r"),
        with(json!(["s/x"]), "x"),
        with(json!(["s/y"]), "y"),
        with(json!(["s"]), "s")
    ]);
    let mut cluster = world(&[claim("c", requests)]);
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"config": [opaque("class")]}});
    cluster.devices.take(&DeviceChange::Class(added(class)));
    let reservation = plugin().reserve(&user(&["c"]), &cluster, cluster.node("a").unwrap());
    let allocation = reservation.devices[0].status.as_ref().unwrap().allocation.as_ref().unwrap();
    let told = allocation.devices.as_ref().unwrap().config.iter().flatten().map(|config| {
        let is = config.opaque.as_ref().unwrap().parameters.0["is"].as_str().unwrap().to_owned();
        (is, config.requests.clone().unwrap_or_default().join(" "))
    });
    let told: Vec<(String, String)> = told.collect();
    let expected = [("class", "r s/y"), ("all", ""), ("r", "r"), ("y", "s/y"), ("s", "s")];
    assert_eq!(told, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

/// Node `a` of 4 cores with a device that is two processors each time it is given.
fn processors(claims: &[Value], pods: Vec<Arc<PodInfo>>) -> Cluster {
    let mut out = world(claims);
    let mut cpus = device("cpus", "cpus", "1Gi", "1.0.0");
    cpus["nodeAllocatableResourceMappings"] = json!({"cpu": {"allocationMultiplier": "2"}});
    out.devices.take(&DeviceChange::Slice(added(slice("a", "a", json!([cpus])))));
    out.devices.gate(Gates::default().with(Gate::DRANodeAllocatableResources, true));
    pods.into_iter().for_each(|pod| out.place(pod));
    out
}

fn of_processors(name: &str) -> Value {
    claim(
        name,
        json!({"requests": [exactly("r", json!({"selectors": cel("device.attributes['d.io'].model == 'cpus'")}))]}),
    )
}

/// A pod whose container asks for `cpu` and uses the claim.
fn using(name: &str, cpu: &str, whole: Value) -> crate::testing::Pod {
    let resources = json!({"requests": {"cpu": cpu}, "claims": [{"name": "mine"}]});
    let pod = pod(name)
        .set("/spec/containers/0/resources", resources)
        .set("/spec/resourceClaims", json!([{"name": "mine", "resourceClaimName": "c"}]));
    if whole.is_null() { pod } else { pod.set("/spec/resources", json!({"requests": {"cpu": whole}})) }
}

fn gated(pod: crate::testing::Pod) -> Arc<PodInfo> {
    pod.info_with(Gates::default().with(Gate::DRANodeAllocatableResources, true))
}

#[test]
fn devices_made_of_processors_need_as_many_on_the_node() {
    let says = |pod: &PodInfo, others: Vec<Arc<PodInfo>>| {
        verdicts(pod, &processors(&[of_processors("c")], others)).unwrap()[0].clone()
    };
    let others = |cpu: &str| vec![pod("o").cpu(cpu).on("a").info()];
    assert_eq!(says(&gated(using("p", "1", Value::Null)), others("1")), None);
    assert_eq!(says(&gated(using("p", "1", Value::Null)), others("2")).as_deref(), Some("Insufficient cpu"));
    let mut off = processors(&[of_processors("c")], others("2"));
    off.devices.gate(Gates::default());
    assert_eq!(verdicts(&using("p", "1", Value::Null).info(), &off).unwrap()[0], None, "the gate is off");
    // What a pod asks for as a whole has to be enough for its containers and claims, and is all that counts.
    assert_eq!(says(&gated(using("p", "1", json!("3"))), others("1")), None);
    let short = says(&gated(using("p", "1", json!("2"))), vec![]);
    assert!(short.unwrap().starts_with("pod level request for cpu is insufficient"));
    let unused = pod("p").set("/spec/resourceClaims", json!([{"name": "mine", "resourceClaimName": "c"}]));
    let told = says(&gated(unused), vec![]).unwrap();
    assert_eq!(
        told,
        "claim c: node-allocatable resource claim not referenced by any container within the pod"
    );
}

#[test]
fn what_devices_come_to_counts_from_the_decision_on_and_is_for_one_pod() {
    let user = gated(using("p", "1", Value::Null));
    let mut cluster = processors(&[of_processors("c")], vec![]);
    let reservation = plugin().reserve(&user, &cluster, cluster.node("a").unwrap());
    let status = &reservation.of_node[0];
    assert_eq!((status.resource_claim_name.as_str(), status.resources["cpu"].0.as_str()), ("c", "2"));
    assert_eq!(status.containers, Some(vec!["c".to_owned()]));
    cluster.devices.assume(&reservation);
    cluster.place(Arc::new(user.placed("a", &reservation.of_node)));
    assert_eq!(cluster.node("a").unwrap().requested.milli_cpu, 3000);
    let second = gated(using("q", "1", Value::Null));
    let told = verdicts(&second, &cluster).unwrap()[0].clone();
    assert_eq!(told.as_deref(), Some("node allocatable resource claim c is already used by another pod"));
    let seen = using("p", "1", Value::Null)
        .set("/status/nodeAllocatableResourceClaimStatuses", json!(reservation.of_node));
    assert_eq!(gated(seen).requests.milli_cpu, 3000, "and so it does when it is seen");
}
