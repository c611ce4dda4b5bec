use serde_json::{Value, json};

use super::*;

fn user(entries: Value, statuses: Value, node: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u"},
        "spec": {"containers": [], "nodeName": node, "resourceClaims": entries},
        "status": {"phase": "Pending", "resourceClaimStatuses": statuses},
    }))
    .unwrap()
}

fn made(name: &str, entry: &str, owner: &str, status: Value) -> Arc<ResourceClaim> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "d", "annotations": {POD_CLAIM: entry}, "finalizers": [FINALIZER],
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}],
            },
            "spec": {}, "status": status,
        }))
        .unwrap(),
    )
}

fn template() -> Arc<ResourceClaimTemplate> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": "t"},
            "spec": {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
                "spec": {"devices": {"requests": [{"name": "r"}]}}},
        }))
        .unwrap(),
    )
}

fn run(pod: &Pod, claims: &[Arc<ResourceClaim>], has_template: bool) -> PodPlan {
    let find = |name: &str| claims.iter().find(|c| c.metadata.name.as_deref() == Some(name)).cloned();
    let template = |_: &str| has_template.then(template);
    let own = claims.iter().filter(|c| is_for(pod, c)).cloned().collect::<Vec<_>>();
    super::pod(pod, &find, &template, &own)
}

fn from_t() -> Value {
    json!([{"name": "e", "resourceClaimTemplateName": "t"}])
}

#[test]
fn a_claim_is_made_from_its_template_once() {
    let plan = run(&user(from_t(), json!([]), ""), &[], true);
    let [(entry, claim)] = plan.create.as_slice() else { panic!("{plan:?}") };
    assert_eq!(entry, "e");
    assert_eq!(claim.metadata.generate_name.as_deref(), Some("p-e-"));
    assert_eq!(annotation(&claim.metadata, POD_CLAIM), Some("e"));
    assert_eq!(annotation(&claim.metadata, "c"), Some("d"));
    assert_eq!(owning_pod(claim), Some(("p", "u")));
    assert_eq!(claim.spec, template().spec.spec);

    let there = [made("x", "e", "u", json!({}))];
    let told = run(&user(from_t(), json!([{"name": "e", "resourceClaimName": "x"}]), ""), &there, true);
    assert!(told.create.is_empty() && !told.is_news);
    let untold = run(&user(from_t(), json!([]), ""), &there, true);
    assert!(untold.create.is_empty() && untold.is_news);
    assert_eq!(untold.names.get("e"), Some(&Some("x".to_owned())));
}

#[test]
fn a_claim_that_is_lost_or_anothers_is_made_anew() {
    let statuses = json!([{"name": "e", "resourceClaimName": "x"}]);
    assert_eq!(run(&user(from_t(), statuses.clone(), ""), &[], true).create.len(), 1);
    let foreign = [made("x", "e", "other", json!({}))];
    assert_eq!(run(&user(from_t(), statuses, ""), &foreign, true).create.len(), 1);
}

#[test]
fn what_stands_in_the_way_is_told() {
    let plan = run(&user(from_t(), json!([]), ""), &[], false);
    let (entry, error) = plan.failure.unwrap();
    assert_eq!(entry, "e");
    let expected = "resource claim template \"t\": resourceclaimtemplate.resource.k8s.io \"t\" not found";
    assert_eq!(error.to_string(), expected);
    let mut going = user(from_t(), json!([]), "");
    going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert!(run(&going, &[], false).failure.is_none());
    let unneeded = run(&user(from_t(), json!([{"name": "e"}]), ""), &[], true);
    assert!(unneeded.create.is_empty() && unneeded.failure.is_none());
}

#[test]
fn pods_placed_by_hand_reserve_what_is_allocated() {
    let entry = json!([{"name": "e", "resourceClaimName": "x"}]);
    let allocated =
        |consumers: Value| [made("x", "", "other", json!({"allocation": {}, "reservedFor": consumers}))];
    let reserve = |node: &str, claims: &[Arc<ResourceClaim>]| {
        run(&user(entry.clone(), json!([]), node), claims, true).reserve.len()
    };
    assert_eq!(reserve("n", &allocated(json!([]))), 1);
    assert_eq!(reserve("", &allocated(json!([]))), 0);
    assert_eq!(reserve("n", &[made("x", "", "other", json!({}))]), 0);
    let mine = json!({"resource": "pods", "name": "p", "uid": "u"});
    assert_eq!(reserve("n", &allocated(json!([mine]))), 0);
    let crowd: Vec<Value> =
        (0..MAX_CONSUMERS).map(|n| json!({"resource": "pods", "name": "q", "uid": n.to_string()})).collect();
    assert_eq!(reserve("n", &allocated(json!(crowd))), 0);
}

#[test]
fn the_last_consumer_takes_the_allocation_along() {
    let two = json!([
        {"resource": "pods", "name": "p", "uid": "u"}, {"resource": "pods", "name": "q", "uid": "w"},
    ]);
    let shared = made("x", "e", "u", json!({"allocation": {}, "reservedFor": two}));
    let gone = |uids: &[&str]| uids.iter().map(|u| (*u).to_owned()).collect::<Vec<_>>();
    assert_eq!(claim(&shared, &[], None), ClaimPlan::default());
    let one_left = claim(&shared, &gone(&["u"]), None);
    let status = one_left.status.unwrap();
    assert!(status.allocation.is_some() && status.reserved_for.unwrap().len() == 1 && !one_left.unprotect);
    let free = claim(&shared, &gone(&["u", "w"]), None);
    assert!(free.status.unwrap().allocation.is_none() && free.unprotect && !free.delete);
}

#[test]
fn a_deleted_claim_goes_when_nobody_uses_it() {
    let mut claim = (*made("x", "e", "u", json!({"allocation": {}}))).clone();
    claim.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let plan = super::claim(&claim, &[], None);
    assert!(plan.status.unwrap().allocation.is_none() && plan.unprotect && !plan.delete);
    claim.status = None;
    let plan = super::claim(&claim, &[], None);
    assert!(plan.status.is_none() && plan.unprotect);
}

#[test]
fn a_claim_goes_with_its_pods_end() {
    let claim = made("x", "e", "u", json!({}));
    let mut pod = user(json!([]), json!([]), "n");
    assert!(!super::claim(&claim, &[], Some(&pod)).delete);
    pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
    assert!(super::claim(&claim, &[], Some(&pod)).delete);
    let mut other = user(json!([]), json!([]), "n");
    other.metadata.uid = Some("w".into());
    assert!(super::claim(&claim, &[], Some(&other)).delete);
    assert!(!super::claim(&claim, &[], None).delete, "the garbage collector sees to that");
}

#[test]
fn long_names_are_cut_by_their_share() {
    assert_eq!(base("p", "e"), "p-e-");
    let long = base(&"p".repeat(60), &"e".repeat(20));
    assert!(long.len() <= MAX_BASE && long.starts_with("ppp") && long.ends_with("eee"), "{long}");
}

#[test]
fn consumers_are_told_apart_by_uid() {
    let pod = user(json!([]), json!([]), "n");
    assert_eq!(consumer(Some(&pod), "u"), Consumer::Runs);
    assert_eq!(consumer(Some(&pod), "w"), Consumer::Gone);
    assert_eq!(consumer(None, "u"), Consumer::Gone);
}
