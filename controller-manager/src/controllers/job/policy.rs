//! What a failed pod means by the job's pod failure policy, and which indexes make a job a success. Pure.
//!
//! Contract: KEP-3329 (podFailurePolicy), KEP-3998 (successPolicy).

use std::collections::BTreeSet;

use k8s_openapi::api::{
    batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule},
    core::v1::{ContainerStatus, Pod},
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
        let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
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
    for pattern in rule.on_pod_conditions.iter().flatten() {
        let wanted = pattern.status.as_deref().unwrap_or("True");
        let found =
            status.conditions.iter().flatten().any(|c| c.type_ == pattern.type_ && c.status == wanted);
        if found {
            return Some(format!(
                "Pod {name} has condition {} matching {} rule at index {at}",
                pattern.type_, rule.action
            ));
        }
    }
    None
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
        let of_rule = match &rule.succeeded_indexes {
            Some(text) => indexes::parse(text, completions).intersection(completed).count(),
            None => completed.len(),
        };
        let needed = match (rule.succeeded_count, &rule.succeeded_indexes) {
            (Some(count), _) => usize::try_from(count).unwrap_or(usize::MAX),
            (None, Some(text)) => indexes::parse(text, completions).len(),
            (None, None) => usize::MAX,
        };
        if of_rule >= needed {
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
    fn success_by_indexes_and_counts() {
        let done = |list: &[i32]| list.iter().copied().collect::<BTreeSet<i32>>();
        let rule = |rule: Value| job(json!({"successPolicy": {"rules": [rule]}}));
        assert!(success(&rule(json!({"succeededIndexes": "0,2"})), &done(&[0, 1])).is_none());
        assert!(success(&rule(json!({"succeededIndexes": "0,2"})), &done(&[0, 2])).is_some());
        assert!(success(&rule(json!({"succeededCount": 2})), &done(&[1, 3])).is_some());
        assert!(success(&rule(json!({"succeededCount": 1, "succeededIndexes": "0"})), &done(&[3])).is_none());
        assert!(success(&job(json!({})), &done(&[0, 1, 2, 3])).is_none());
    }
}
