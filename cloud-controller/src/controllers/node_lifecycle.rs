//! Nodes that do not report go with their machines; those of machines that are switched off are tainted.
//!
//! Contract: upstream's `cloud-node-lifecycle-controller`.

use k8s_openapi::api::core::v1::{Node, Taint};

/// Taint of nodes whose machines are switched off.
const SHUT_DOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";

/// What is known of a node's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// It runs.
    Runs,
    /// It is there, switched off.
    ShutDown,
    /// There is none.
    Gone,
}

/// What to do with a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// These taints.
    Taint(Vec<Taint>),
    /// It goes.
    Delete,
}

/// Whether a node reports that it is ready: then nobody needs to ask for its machine.
pub fn is_ready(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The step for a node.
pub fn plan(node: &Node, machine: Machine) -> Step {
    let taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let tainted = taints.iter().any(|taint| taint.key == SHUT_DOWN);
    match (is_ready(node), machine) {
        (true, _) if tainted => {
            Step::Taint(taints.into_iter().filter(|taint| taint.key != SHUT_DOWN).collect())
        }
        (false, Machine::Gone) => Step::Delete,
        (false, Machine::ShutDown) if !tainted => {
            let taint =
                Taint { key: SHUT_DOWN.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
            Step::Taint(taints.into_iter().chain([taint]).collect())
        }
        _ => Step::Keep,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_nodes_that_do_not_report_go_or_are_tainted() {
        let node = |ready: Option<&str>, taints: &[&str]| -> Node {
            let conditions: Vec<_> = ready.iter().map(|r| json!({"type": "Ready", "status": r})).collect();
            let taints: Vec<_> =
                taints.iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
            serde_json::from_value(json!({"spec": {"taints": taints}, "status": {"conditions": conditions}}))
                .unwrap()
        };
        let keys = |step: Step| match step {
            Step::Keep => "keep".to_owned(),
            Step::Delete => "delete".to_owned(),
            Step::Taint(taints) => taints.iter().map(|t| t.key.clone()).collect::<Vec<_>>().join(" "),
        };
        let both = format!("mine {SHUT_DOWN}");
        for (ready, taints, machine, expected) in [
            (Some("True"), &[][..], Machine::Gone, "keep"),
            (Some("True"), &["mine", SHUT_DOWN][..], Machine::Runs, "mine"),
            (Some("True"), &[SHUT_DOWN][..], Machine::ShutDown, ""),
            (Some("False"), &["mine"][..], Machine::Runs, "keep"),
            (Some("False"), &[SHUT_DOWN][..], Machine::Runs, "keep"),
            (Some("Unknown"), &["mine"][..], Machine::ShutDown, both.as_str()),
            (Some("Unknown"), &[SHUT_DOWN][..], Machine::ShutDown, "keep"),
            (Some("Unknown"), &[][..], Machine::Gone, "delete"),
            (None, &[][..], Machine::Gone, "delete"),
        ] {
            let node = node(ready, taints);
            assert_eq!(keys(plan(&node, machine)), expected, "{ready:?} {taints:?} {machine:?}");
        }
    }
}
