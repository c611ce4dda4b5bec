//! Fields of built-in kinds that are behind feature gates: not kept when a gate is off, where they are not there already.
//!
//! One table, [`TABLE`]: gates → objects → fields. A strategy sees an object after this. What is wrong with a pod because a
//! gate is off is in `rules`; what a gate changes in other kinds' defaults and validation stands with the kind.
//!
//! Contract: upstream's `dropDisabledFields` of `pkg/api/pod`, `pkg/api/resourceclaimspec` and of the strategies under
//! `pkg/registry` at 1.36.

use component_base::features::{Gate, Gates};
use serde_json::{Map, Value};

use crate::object::Object;

mod rules;

pub(super) use rules::check;

/// Fields that go together: none goes while the object before has one of them.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// All have to be on.
    gates: &'static [Gate],
    /// Group, plural name, and what of the object the fields are in.
    of: &'static [Kind],
    /// Names with `/` between them. `*` stands for all items of a list or values of a map, `*rest` for all fields that end
    /// so; `!text` at the end keeps fields of that value, `^` takes along what holds the field if nothing else is in it.
    fields: &'static [&'static str],
}

type Kind = (&'static str, &'static str, &'static str);

const SLICES: &[Kind] = &[("resource.k8s.io", "resourceslices", "spec")];
const CLAIMS: &[Kind] = &[("resource.k8s.io", "resourceclaims", "")];
const POD_STATUS: &[Kind] = &[("", "pods", "status")];
/// Specs of requests for devices.
const REQUESTS: &[Kind] = &[
    ("resource.k8s.io", "resourceclaims", "spec/devices"),
    ("resource.k8s.io", "resourceclaimtemplates", "spec/spec/devices"),
];
/// Pods, and what they are made of.
const PODS: &[Kind] = &[
    ("", "pods", "spec"),
    ("", "podtemplates", "template/spec"),
    ("", "replicationcontrollers", "spec/template/spec"),
    ("apps", "daemonsets", "spec/template/spec"),
    ("apps", "deployments", "spec/template/spec"),
    ("apps", "replicasets", "spec/template/spec"),
    ("apps", "statefulsets", "spec/template/spec"),
    ("batch", "cronjobs", "spec/jobTemplate/spec/template/spec"),
    ("batch", "jobs", "spec/template/spec"),
];

const TABLE: &[Line] = &[
    Line { gates: &[Gate::GenericWorkload], of: PODS, fields: &["schedulingGroup"] },
    Line { gates: &[Gate::ContainerStopSignals], of: PODS, fields: &["*ontainers/*/lifecycle/stopSignal^"] },
    Line {
        gates: &[Gate::ClusterTrustBundleProjection],
        of: PODS,
        fields: &["volumes/*/projected/sources/*/clusterTrustBundle"],
    },
    Line {
        gates: &[Gate::PodCertificateRequest],
        of: PODS,
        fields: &["volumes/*/projected/sources/*/podCertificate"],
    },
    Line { gates: &[Gate::PodLevelResources], of: PODS, fields: &["resources"] },
    Line {
        gates: &[Gate::MatchLabelKeysInPodTopologySpread],
        of: PODS,
        fields: &["topologySpreadConstraints/*/matchLabelKeys"],
    },
    Line {
        gates: &[Gate::ContainerRestartRules],
        of: PODS,
        fields: &[
            "containers/*/restartPolicy",
            "ephemeralContainers/*/restartPolicy",
            // One that is always started again is a sidecar.
            "initContainers/*/restartPolicy!Always",
            "*ontainers/*/restartPolicyRules",
        ],
    },
    Line { gates: &[Gate::HostnameOverride], of: PODS, fields: &["hostnameOverride"] },
    Line { gates: &[Gate::EnvFiles], of: PODS, fields: &["*ontainers/*/env/*/valueFrom/fileKeyRef"] },
    Line {
        gates: &[Gate::InPlacePodLevelResourcesVerticalScaling],
        of: POD_STATUS,
        fields: &["resources", "allocatedResources"],
    },
    Line { gates: &[Gate::DRAExtendedResource], of: POD_STATUS, fields: &["extendedResourceClaimStatus"] },
    Line {
        gates: &[Gate::ResourceHealthStatus],
        of: POD_STATUS,
        fields: &["*ontainerStatuses/*/allocatedResourcesStatus"],
    },
    Line {
        gates: &[Gate::ResourceHealthStatusMessage],
        of: POD_STATUS,
        fields: &["*ontainerStatuses/*/allocatedResourcesStatus/*/resources/*/message"],
    },
    Line {
        gates: &[Gate::ImageVolumeWithDigest],
        of: POD_STATUS,
        fields: &["*ontainerStatuses/*/volumeMounts/*/volumeStatus"],
    },
    Line {
        gates: &[Gate::DRANodeAllocatableResources],
        of: POD_STATUS,
        fields: &["nodeAllocatableResourceClaimStatuses"],
    },
    Line {
        gates: &[Gate::CRDObservedGenerationTracking],
        of: &[("apiextensions.k8s.io", "customresourcedefinitions", "status")],
        fields: &["observedGeneration", "conditions/*/observedGeneration"],
    },
    Line {
        gates: &[Gate::NodeDeclaredFeatures],
        of: &[("", "nodes", "status")],
        fields: &["declaredFeatures"],
    },
    Line {
        gates: &[Gate::DeploymentReplicaSetTerminatingReplicas],
        of: &[("apps", "deployments", "status"), ("apps", "replicasets", "status")],
        fields: &["terminatingReplicas"],
    },
    Line {
        gates: &[Gate::HPAConfigurableTolerance],
        of: &[("autoscaling", "horizontalpodautoscalers", "spec/behavior")],
        fields: &["*/tolerance"],
    },
    Line {
        gates: &[Gate::VolumeLimitScaling],
        of: &[("storage.k8s.io", "csidrivers", "spec")],
        fields: &["preventPodSchedulingIfMissing"],
    },
    Line {
        gates: &[Gate::DRAExtendedResource],
        of: &[("resource.k8s.io", "deviceclasses", "spec")],
        fields: &["extendedResourceName"],
    },
    Line { gates: &[Gate::DRADeviceTaints], of: SLICES, fields: &["devices/*/taints"] },
    Line {
        gates: &[Gate::DRAPartitionableDevices],
        of: SLICES,
        fields: &[
            "sharedCounters",
            "perDeviceNodeSelection",
            "devices/*/consumesCounters",
            "devices/*/nodeName",
            "devices/*/nodeSelector",
            "devices/*/allNodes",
        ],
    },
    Line {
        gates: &[Gate::DRADeviceBindingConditions, Gate::DRAResourceClaimDeviceStatus],
        of: SLICES,
        fields: &[
            "devices/*/bindingConditions",
            "devices/*/bindingFailureConditions",
            "devices/*/bindsToNode",
        ],
    },
    Line {
        gates: &[Gate::DRAConsumableCapacity],
        of: SLICES,
        fields: &["devices/*/allowMultipleAllocations", "devices/*/capacity/*/requestPolicy"],
    },
    Line {
        gates: &[Gate::DRANodeAllocatableResources],
        of: SLICES,
        fields: &["devices/*/nodeAllocatableResourceMappings"],
    },
    Line {
        gates: &[Gate::DRAListTypeAttributes],
        of: SLICES,
        fields: &[
            "devices/*/attributes/*/bools",
            "devices/*/attributes/*/ints",
            "devices/*/attributes/*/strings",
            "devices/*/attributes/*/versions",
        ],
    },
    Line { gates: &[Gate::DRAPrioritizedList], of: REQUESTS, fields: &["requests/*/firstAvailable"] },
    Line {
        gates: &[Gate::DRADeviceTaints],
        of: REQUESTS,
        fields: &["requests/*/exactly/tolerations", "requests/*/firstAvailable/*/tolerations"],
    },
    Line {
        gates: &[Gate::DRAConsumableCapacity],
        of: &[("resource.k8s.io", "resourceclaimtemplates", "spec/spec/devices")],
        fields: &[
            "constraints/*/distinctAttribute",
            "requests/*/exactly/capacity",
            "requests/*/firstAvailable/*/capacity",
        ],
    },
    Line {
        gates: &[Gate::DRAConsumableCapacity],
        of: CLAIMS,
        fields: &[
            "spec/devices/constraints/*/distinctAttribute",
            "spec/devices/requests/*/exactly/capacity",
            "spec/devices/requests/*/firstAvailable/*/capacity",
            "status/allocation/devices/results/*/shareID",
            "status/allocation/devices/results/*/consumedCapacity",
            "status/devices/*/shareID",
        ],
    },
    Line { gates: &[Gate::DRAResourceClaimDeviceStatus], of: CLAIMS, fields: &["status/devices"] },
    Line {
        gates: &[Gate::DRADeviceBindingConditions],
        of: CLAIMS,
        fields: &[
            "status/allocation/devices/results/*/bindingConditions",
            "status/allocation/devices/results/*/bindingFailureConditions",
        ],
    },
];

/// Takes out what is behind a gate that is off, unless the object before has it.
pub(super) fn drop_disabled(
    (group, plural): (&str, &str),
    new: &mut Object,
    old: Option<&Object>,
    gates: Gates,
) {
    for line in TABLE.iter().filter(|line| !line.gates.iter().all(|gate| gates.has(*gate))) {
        for (.., root) in line.of.iter().filter(|(of, kind, _)| *of == group && *kind == plural) {
            let used = |object: &Object| {
                line.fields.iter().any(|field| stands(object.as_map(), &steps(root, field), keeps(field)))
            };
            if old.is_none_or(|old| !used(old)) {
                for field in line.fields {
                    take(new.as_map_mut(), &steps(root, field), (keeps(field), field.ends_with('^')));
                }
            }
        }
    }
}

/// The names on the way to a field.
fn steps<'f>(root: &'f str, field: &'f str) -> Vec<&'f str> {
    let field = field.trim_end_matches('^');
    let field = field.split_once('!').map_or(field, |(field, _)| field);
    root.split('/').chain(field.split('/')).filter(|step| !step.is_empty()).collect()
}

/// The value with which a field stays.
fn keeps(field: &'static str) -> Option<&'static str> {
    field.split_once('!').map(|(_, value)| value)
}

/// Whether a field is called so.
fn is_called(name: &str, step: &str) -> bool {
    step.strip_prefix('*').map_or(name == step, |end| name.ends_with(end))
}

/// Whether a field says something, and not what it may say always.
fn says(value: &Value, kept: Option<&str>) -> bool {
    match value {
        Value::Null => false,
        Value::Array(all) => !all.is_empty(),
        Value::Object(all) => !all.is_empty(),
        Value::String(text) => kept != Some(text),
        _ => true,
    }
}

/// Whether there is such a field.
fn stands(object: &Map<String, Value>, steps: &[&str], kept: Option<&str>) -> bool {
    let [step, rest @ ..] = steps else { return false };
    object.iter().filter(|(name, _)| is_called(name, step)).any(|(_, value)| match rest {
        [] => says(value, kept),
        ["*", below @ ..] if value.is_array() => {
            let mut items = value.as_array().into_iter().flatten().filter_map(Value::as_object);
            items.any(|item| stands(item, below, kept))
        }
        _ => value.as_object().is_some_and(|value| stands(value, rest, kept)),
    })
}

/// Takes such fields away; whether there were any.
fn take(object: &mut Map<String, Value>, steps: &[&str], (kept, whole): (Option<&str>, bool)) -> bool {
    let [step, rest @ ..] = steps else { return false };
    if rest.is_empty() {
        let before = object.len();
        object.retain(|name, value| {
            !is_called(name, step) || kept.is_some_and(|kept| value.as_str() == Some(kept))
        });
        return object.len() < before;
    }
    let mut taken = false;
    object.retain(|name, value| {
        if !is_called(name, step) {
            return true;
        }
        let mut from = |object: &mut Map<String, Value>, steps: &[&str]| {
            let took = take(object, steps, (kept, whole));
            taken |= took;
            took
        };
        match (value, rest) {
            (Value::Array(items), ["*", below @ ..]) => {
                for item in items.iter_mut().filter_map(Value::as_object_mut) {
                    from(item, below);
                }
                true
            }
            (Value::Object(below), _) => {
                let took = from(below, rest);
                !(whole && rest.len() == 1 && took && below.is_empty())
            }
            _ => true,
        }
    });
    taken
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::catalog;

    /// An object with one value at a path, and nothing else.
    fn grown(steps: &[&str], value: Value) -> Value {
        let [first, rest @ ..] = steps else { return value };
        match *first {
            "*ontainers" => json!({"initContainers": grown(rest, value)}),
            "*ontainerStatuses" => json!({"ephemeralContainerStatuses": grown(rest, value)}),
            "*" => json!([grown(rest, value)]),
            name => json!({name: grown(rest, value)}),
        }
    }

    fn after(kind: &Kind, new: &Value, old: Option<&Value>, gates: Gates) -> Value {
        let object = |value: &Value| Object::from_value(value.clone()).unwrap();
        let (mut new, old) = (object(new), old.map(object));
        drop_disabled((kind.0, kind.1), &mut new, old.as_ref(), gates);
        new.into_value()
    }

    #[test]
    fn every_line_drops_its_fields_and_keeps_them_where_they_were() {
        let catalog = catalog::builtin();
        let all = component_base::features::ALL.iter();
        let open = all.fold(Gates::default(), |gates, feature| gates.with(feature.gate, true));
        for line in TABLE {
            for kind in line.of {
                let known = catalog.iter().any(|r| (r.group, r.plural) == (kind.0, kind.1));
                assert!(known, "{kind:?} is no resource");
                for field in line.fields {
                    let steps = steps(kind.2, field);
                    let new = grown(&steps, json!("said"));
                    let before = |gate: Gate| open.with(gate, false);
                    assert_eq!(after(kind, &new, None, open), new, "{field} with its gates");
                    for gate in line.gates {
                        let dropped = after(kind, &new, None, before(*gate)).to_string();
                        assert!(!dropped.contains("said"), "{gate} {kind:?} {field}: {dropped}");
                        assert_eq!(
                            after(kind, &new, Some(&new), before(*gate)),
                            new,
                            "{field} is there already"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn sidecars_stay_and_empty_lifecycles_go() {
        let pods = ("", "pods", "");
        let spec = |list: &str, container: Value| json!({"spec": {list: [container]}});
        let off = |gate: Gate| Gates::default().with(gate, false);
        let sidecar = spec("initContainers", json!({"restartPolicy": "Always"}));
        assert_eq!(after(&pods, &sidecar, None, off(Gate::ContainerRestartRules)), sidecar);
        let once = spec("initContainers", json!({"restartPolicy": "Never", "restartPolicyRules": [{}]}));
        let plain = spec("initContainers", json!({}));
        assert_eq!(after(&pods, &once, None, off(Gate::ContainerRestartRules)), plain);
        assert_eq!(after(&pods, &once, Some(&sidecar), off(Gate::ContainerRestartRules)), plain);
        let signal = |lifecycle: Value| spec("containers", json!({"name": "c", "lifecycle": lifecycle}));
        let gate = off(Gate::ContainerStopSignals);
        let bare = spec("containers", json!({"name": "c"}));
        assert_eq!(after(&pods, &signal(json!({"stopSignal": "SIGINT"})), None, gate), bare);
        let hooked = signal(json!({"preStop": {"exec": {}}}));
        let both = signal(json!({"preStop": {"exec": {}}, "stopSignal": "SIGINT"}));
        assert_eq!(after(&pods, &both, None, gate), hooked);
        assert_eq!(after(&pods, &signal(json!({})), None, gate), signal(json!({})));
    }
}
