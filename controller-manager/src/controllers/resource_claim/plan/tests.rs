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

fn run(pod: &Pod, claims: &[Arc<ResourceClaim>], has_template: bool) -> Plan {
    asks(&Asker::pod(pod), None, claims, has_template)
}

fn asks(
    asker: &Asker<'_>,
    group: Option<&Asker<'_>>,
    claims: &[Arc<ResourceClaim>],
    has_template: bool,
) -> Plan {
    let find = |name: &str| claims.iter().find(|c| c.metadata.name.as_deref() == Some(name)).cloned();
    let template = |_: &str| has_template.then(template);
    let owned = |uid: &str| -> Vec<Arc<ResourceClaim>> {
        let is_its =
            |c: &&Arc<ResourceClaim>| controller_of(&c.metadata).is_some_and(|owner| owner.uid == uid);
        claims.iter().filter(is_its).cloned().collect()
    };
    asked(asker, group, &find, &template, &owned, true)
}

fn group(statuses: Value) -> PodGroup {
    let claims =
        json!([{"name": "e", "resourceClaimTemplateName": "t"}, {"name": "f", "resourceClaimName": "x"}]);
    serde_json::from_value(json!({
        "metadata": {"name": "g", "namespace": "d", "uid": "gu"},
        "spec": {"schedulingPolicy": {"basic": {}}, "resourceClaims": claims},
        "status": {"resourceClaimStatuses": statuses},
    }))
    .unwrap()
}

#[test]
fn a_group_has_its_claims_made_and_its_pods_share_them() {
    let (untold, told) = (group(json!([])), group(json!([{"name": "e", "resourceClaimName": "g-e"}])));
    let plan = asks(&Asker::group(&untold), None, &[], true);
    let [(entry, made)] = plan.create.as_slice() else { panic!("{plan:?}") };
    assert_eq!((entry.as_str(), made.metadata.generate_name.as_deref()), ("e", Some("g-e-")));
    let owner = controller_of(&made.metadata).unwrap();
    assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("PodGroup", "gu"));
    assert_eq!(owner.api_version, "scheduling.k8s.io/v1alpha2");
    let mut made = made.clone();
    made.metadata.name = Some("g-e".into());
    let made = [Arc::new(made)];
    let again = asks(&Asker::group(&told), None, &made, true);
    assert!(again.create.is_empty() && !again.is_news);

    let member = user(from_t(), json!([]), "");
    let early = asks(&Asker::pod(&member), Some(&Asker::group(&untold)), &[], true);
    assert!(early.create.is_empty() && !early.is_news, "it waits for the group's");
    let shared = asks(&Asker::pod(&member), Some(&Asker::group(&told)), &made, true);
    assert_eq!((shared.is_news, shared.create.len()), (true, 0));
    assert_eq!(shared.names.get("e"), Some(&Some("g-e".to_owned())));
    let known = user(from_t(), json!([{"name": "e", "resourceClaimName": "g-e"}]), "");
    let known = asks(&Asker::pod(&known), Some(&Asker::group(&told)), &made, true);
    assert!(known.create.is_empty() && !known.is_news);
    // Other words are another claim.
    let own = user(json!([{"name": "e", "resourceClaimTemplateName": "u"}]), json!([]), "");
    let own = asks(&Asker::pod(&own), Some(&Asker::group(&told)), &made, true);
    assert_eq!(own.create.len(), 1);
}

#[test]
fn what_is_the_groups_is_reserved_for_the_group_once() {
    let told = group(json!([]));
    let group = Asker::group(&told);
    let placed = user(json!([{"name": "f", "resourceClaimName": "x"}]), json!([]), "n");
    let allocated =
        |consumers: Value| [made("x", "", "other", json!({"allocation": {}, "reservedFor": consumers}))];
    let plan = asks(&Asker::pod(&placed), Some(&group), &allocated(json!([])), true);
    let consumers = plan.reserve[0].status.as_ref().unwrap().reserved_for.clone().unwrap();
    assert_eq!((consumers[0].resource.as_str(), consumers[0].uid.as_str()), ("podgroups", "gu"));
    let there = allocated(
        json!([{"apiGroup": "scheduling.k8s.io", "resource": "podgroups", "name": "g", "uid": "gu"}]),
    );
    assert!(asks(&Asker::pod(&placed), Some(&group), &there, true).reserve.is_empty());
    assert_eq!(consuming_groups(&there[0]).count(), 1);
    assert_eq!(consuming_group(Some(&told), "gu"), Consumer::Runs);
    assert_eq!(consuming_group(Some(&told), "other"), Consumer::Gone);
    assert_eq!(consuming_group(None, "gu"), Consumer::Gone);
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

#[test]
fn lists_of_requests_are_made_only_where_they_may_be() {
    let listed = || -> Arc<ResourceClaimTemplate> {
        let list = json!([{"name": "a", "deviceClassName": "gpu"}]);
        let devices = json!({"requests": [{"name": "r", "firstAvailable": list}]});
        Arc::new(serde_json::from_value(json!({"spec": {"spec": {"devices": devices}}})).unwrap())
    };
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "p"},
        "spec": {"containers": [], "resourceClaims": [{"name": "c", "resourceClaimTemplateName": "t"}]},
    }))
    .unwrap();
    let plan = |lists| asked(&Asker::pod(&pod), None, &|_| None, &|_| Some(listed()), &|_| Vec::new(), lists);
    assert_eq!((plan(true).create.len(), plan(true).failure), (1, None));
    assert_eq!(
        (plan(false).create.len(), plan(false).failure),
        (0, Some(("c".to_owned(), AskError::PrioritizedList)))
    );
}
