//! `prioritylevelconfigurations` of flowcontrol.apiserver.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Resource, Subresource,
        kit::{NAME_AND_AGE, Plain, Rules, fill},
    },
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        subresources: &[Subresource::Status],
        strategy: Arc::new(Rules {
            default,
            ..Rules::new(Plain { status: true, generation: true, cells: NAME_AND_AGE })
        }),
        ..Resource::of(
            "flowcontrol.apiserver.k8s.io",
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            "prioritylevelconfiguration",
        )
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
