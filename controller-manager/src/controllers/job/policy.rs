//! What a failed pod means by the job's pod failure policy, and which indexes make a job a success. Pure.
//!
//! Contract: KEP-3329 (podFailurePolicy), KEP-3998 (successPolicy).

use std::collections::BTreeSet;

use k8s_openapi::api::{
    batch::v1::{
        Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
        PodFailurePolicyRule,
    },
    core::v1::{ContainerStatus, Pod, PodCondition},
};

use super::indexes;

/// What the first rule that matches a failed pod asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The job fails, for this reason in words.
    FailJob(String),
    /// The pod's index fails and is not tried again.
    FailIndex,
    /// The failure does not count.
    Ignore,
    /// It counts as any other.
    Count,
}

/// Judges a failed pod.
pub(super) fn judge(job: &Job, pod: &Pod) -> Verdict {
    let rules = job.spec.as_ref().and_then(|s| s.pod_failure_policy.as_ref()).map(|p| p.rules.as_slice());
    for (at, rule) in rules.unwrap_or_default().iter().enumerate() {
        let Some(why) = matches(rule, pod, at) else { continue };
        return match rule.action.as_str() {
            "FailJob" => Verdict::FailJob(why),
            "FailIndex" => Verdict::FailIndex,
            "Ignore" => Verdict::Ignore,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn matches(rule: &PodFailurePolicyRule, pod: &Pod, at: usize) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    );
    if let Some(codes) = &rule.on_exit_codes {
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        for container in all {
            if let Some(code) = exit_code(codes, container) {
                return Some(format!(
                    "Container {} for pod {name} failed with exit code {code} matching {} rule at index {at}",
                    container.name, rule.action
                ));
            }
        }
        return None;
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let is_meant = |condition: &&PodCondition| {
        let is = |pattern: &PodFailurePolicyOnPodConditionsPattern| {
            pattern.type_ == condition.type_
                && pattern.status.as_deref().unwrap_or("True") == condition.status
        };
        patterns.iter().any(is)
    };
    let found = status.conditions.iter().flatten().find(is_meant)?;
    Some(format!("Pod {name} has condition {} matching {} rule at index {at}", found.type_, rule.action))
}

fn exit_code(codes: &PodFailurePolicyOnExitCodesRequirement, container: &ContainerStatus) -> Option<i32> {
    if codes.container_name.as_ref().is_some_and(|n| *n != container.name) {
        return None;
    }
    let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
    let listed = codes.values.contains(&code);
    let hit = code != 0 && if codes.operator == "NotIn" { !listed } else { listed };
    hit.then_some(code)
}

/// Why the completed indexes are enough, if they are.
pub(super) fn success(job: &Job, completed: &BTreeSet<i32>) -> Option<String> {
    let spec = job.spec.as_ref()?;
    let completions = spec.completions.unwrap_or(0);
    for (at, rule) in spec.success_policy.as_ref()?.rules.iter().enumerate() {
        let named = rule.succeeded_indexes.as_ref().map(|text| indexes::parse(text, completions));
        let of_rule = match &named {
            Some(named) => named.intersection(completed).count(),
            None => completed.len(),
        };
        let count = rule.succeeded_count.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        let Some(needed) = count.or(named.as_ref().map(BTreeSet::len)) else { continue };
        // Indexes that are no more are enough for nothing.
        if of_rule > 0 && of_rule >= needed {
            return Some(format!("Matched rules at index {at}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(spec: Value) -> Job {
        let mut all = json!({"template": {}, "completions": 4});
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": all})).unwrap()
    }

    fn failed(code: i32, condition: &str) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"phase": "Failed",
            "conditions": [{"type": condition, "status": "True"}],
            "containerStatuses": [{"name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                "state": {"terminated": {"exitCode": code}}}]}}),
        )
        .unwrap()
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let job = job(json!({"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [7]}},
            {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "NotIn", "values": [1, 2]}},
        ]}}));
        assert_eq!(judge(&job, &failed(42, "DisruptionTarget")), Verdict::Ignore);
        assert_eq!(judge(&job, &failed(7, "x")), Verdict::FailIndex);
        assert_eq!(judge(&job, &failed(1, "x")), Verdict::Count);
        let Verdict::FailJob(why) = judge(&job, &failed(3, "x")) else { panic!("not failed") };
        assert_eq!(why, "Container c for pod n/p failed with exit code 3 matching FailJob rule at index 2");
    }

    #[test]
    fn containers_come_before_those_that_prepare_for_them_and_conditions_in_their_order() {
        let codes = job(json!({"podFailurePolicy": {"rules": [
            {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [1]}},
        ]}}));
        let mut pod = failed(3, "x");
        let status = pod.status.as_mut().unwrap();
        status.init_container_statuses = status.container_statuses.clone();
        status.init_container_statuses.as_mut().unwrap()[0].name = "init".to_owned();
        let why = |job: &Job, pod: &Pod| match judge(job, pod) {
            Verdict::FailJob(why) => why,
            other => panic!("{other:?}"),
        };
        assert!(why(&codes, &pod).starts_with("Container c for pod n/p"));
        pod.status.as_mut().unwrap().container_statuses = None;
        assert!(why(&codes, &pod).starts_with("Container init for pod n/p"));
        let conditions = job(json!({"podFailurePolicy": {"rules": [{"action": "FailJob", "onPodConditions":
            [{"type": "b", "status": "True"}, {"type": "a", "status": "True"}]}]}}));
        let mut pod = failed(0, "a");
        let mut second = pod.status.as_ref().unwrap().conditions.as_ref().unwrap()[0].clone();
        second.type_ = "b".to_owned();
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap().push(second);
        assert_eq!(why(&conditions, &pod), "Pod n/p has condition a matching FailJob rule at index 0");
    }

    #[test]
    fn success_by_indexes_and_counts() {
        let done = |list: &[i32]| list.iter().copied().collect::<BTreeSet<i32>>();
        let rule = |rule: Value| job(json!({"successPolicy": {"rules": [rule]}}));
        assert!(success(&rule(json!({"succeededIndexes": "0,2"})), &done(&[0, 1])).is_none());
        assert!(success(&rule(json!({"succeededIndexes": "0,2"})), &done(&[0, 2])).is_some());
        assert!(success(&rule(json!({"succeededCount": 2})), &done(&[1, 3])).is_some());
        assert!(success(&rule(json!({"succeededCount": 1, "succeededIndexes": "0"})), &done(&[3])).is_none());
        assert!(success(&job(json!({})), &done(&[0, 1, 2, 3])).is_none());
        // There are four indexes: others may have been there before.
        assert!(success(&rule(json!({"succeededIndexes": "7-9"})), &done(&[0])).is_none());
        assert!(success(&rule(json!({"succeededIndexes": "2,7"})), &done(&[2])).is_some());
    }
}
