//! `prioritylevelconfigurations` of flowcontrol.apiserver.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, column, fill},
    },
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "flowcontrol.apiserver.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "PriorityLevelConfiguration",
        plural: "prioritylevelconfigurations",
        singular: "prioritylevelconfiguration",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "prioritylevelconfigurations",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
    }
}

/// Shares, and how requests are queued.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    if let Some(exempt) = fill::child(spec, "exempt") {
        fill::missing(exempt, "nominalConcurrencyShares", 0);
        fill::missing(exempt, "lendablePercent", 0);
    }
    let Some(limited) = fill::child(spec, "limited") else { return };
    fill::missing(limited, "nominalConcurrencyShares", 30);
    fill::missing(limited, "lendablePercent", 0);
    if let Some(queuing) = fill::child(limited, "limitResponse").and_then(|r| fill::child(r, "queuing")) {
        super::zero(queuing, "handSize", 8);
        super::zero(queuing, "queues", 64);
        super::zero(queuing, "queueLengthLimit", 50);
    }
}
