//! Fields of pods and their templates that are behind feature gates: not kept, where they are not there already.
//!
//! Contract: KEP-4960 (stop signals), KEP-4671 (groups), KEP-3257 (bundles of trust), KEP-4317 (certificates of pods).

use component_base::features::{Gate, Gates};
use serde_json::Value;

use crate::registry::kit::fill::{self, Fields};

/// Takes out what is behind a gate, unless the spec before has it.
pub(in crate::registry) fn drop_disabled(spec: &mut Fields, old: Option<&Value>, gates: Gates) {
    let used = |field: &str, gate: Gate| gates.has(gate) || old.is_some_and(|spec| names(spec, field));
    if !used("schedulingGroup", Gate::GenericWorkload) {
        spec.remove("schedulingGroup");
    }
    if !used("stopSignal", Gate::ContainerStopSignals) {
        for list in ["containers", "initContainers", "ephemeralContainers"] {
            fill::members(spec, list).for_each(drop_signal);
        }
    }
    let sources = [
        ("clusterTrustBundle", Gate::ClusterTrustBundleProjection),
        ("podCertificate", Gate::PodCertificateRequest),
    ];
    let gated = sources.into_iter().filter(|(field, gate)| !used(field, *gate));
    let gated: Vec<&str> = gated.map(|(field, _)| field).collect();
    for volume in fill::members(spec, "volumes") {
        let Some(projected) = fill::child(volume, "projected") else { continue };
        for source in fill::members(projected, "sources") {
            gated.iter().for_each(|field| drop(source.remove(*field)));
        }
    }
}

/// A lifecycle that was nothing but a signal goes with it.
fn drop_signal(container: &mut Fields) {
    let Some(lifecycle) = fill::child(container, "lifecycle") else { return };
    if lifecycle.remove("stopSignal").is_some() && lifecycle.is_empty() {
        container.remove("lifecycle");
    }
}

/// Whether a field of a name stands anywhere in a value.
fn names(value: &Value, field: &str) -> bool {
    match value {
        Value::Object(map) => map.contains_key(field) || map.values().any(|value| names(value, field)),
        Value::Array(list) => list.iter().any(|value| names(value, field)),
        _ => false,
    }
}
