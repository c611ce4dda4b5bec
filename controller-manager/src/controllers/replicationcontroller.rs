//! ReplicationControllers: replica sets of an older name, whose selector is a plain map.
//!
//! Contract: upstream's `pkg/controller/replication`, which runs the replica sets' controller over converted objects.

use std::borrow::Cow;

use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus},
        core::v1::{
            ReplicationController, ReplicationControllerCondition, ReplicationControllerSpec,
            ReplicationControllerStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::{
    Context,
    replicaset::{self, Names, Replicated},
};

pub(super) fn start(ctx: &Context) {
    replicaset::run::<ReplicationController>(ctx);
}

impl Replicated for ReplicationController {
    const NAMES: Names = Names {
        component: "replication-controller",
        queue: "replicationmanager",
        workers: "concurrent-rc-syncs",
    };

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Owned(ReplicaSet {
            metadata: self.metadata.clone(),
            spec: self.spec.as_ref().map(spec),
            status: self.status.as_ref().map(status),
        })
    }

    fn with_status(&self, status: ReplicaSetStatus) -> ReplicationController {
        let condition = |c: ReplicaSetCondition| ReplicationControllerCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        };
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
        };
        ReplicationController { status: Some(status), ..self.clone() }
    }
}

fn spec(spec: &ReplicationControllerSpec) -> ReplicaSetSpec {
    ReplicaSetSpec {
        replicas: spec.replicas,
        min_ready_seconds: spec.min_ready_seconds,
        selector: LabelSelector { match_labels: spec.selector.clone(), match_expressions: None },
        template: spec.template.clone(),
    }
}

fn status(status: &ReplicationControllerStatus) -> ReplicaSetStatus {
    let condition = |c: &ReplicationControllerCondition| ReplicaSetCondition {
        type_: c.type_.clone(),
        status: c.status.clone(),
        reason: c.reason.clone(),
        message: c.message.clone(),
        last_transition_time: c.last_transition_time.clone(),
    };
    ReplicaSetStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        observed_generation: status.observed_generation,
        conditions: status.conditions.as_ref().map(|all| all.iter().map(condition).collect()),
        terminating_replicas: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_survives_the_conversion() {
        let controller: ReplicationController = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "d"},
            "spec": {"replicas": 2, "selector": {"app": "web"}, "minReadySeconds": 3},
            "status": {"replicas": 2, "readyReplicas": 1, "availableReplicas": 0, "fullyLabeledReplicas": 2,
                "observedGeneration": 4, "conditions": [{"type": "ReplicaFailure", "status": "True",
                    "reason": "FailedCreate", "message": "quota", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap();
        let set = controller.as_set();
        assert_eq!(controller.with_status(set.status.clone().unwrap()), controller);
        let spec = set.spec.as_ref().unwrap();
        assert_eq!((spec.replicas, spec.min_ready_seconds), (Some(2), Some(3)));
        assert_eq!(spec.selector.match_labels.as_ref().unwrap()["app"], "web");
    }
}
