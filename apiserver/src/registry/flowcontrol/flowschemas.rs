//! `flowschemas` of flowcontrol.apiserver.k8s.io.

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
        ..Resource::of("flowcontrol.apiserver.k8s.io", "FlowSchema", "flowschemas", "flowschema")
    }
}

/// A precedence in the middle.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    super::zero(spec, "matchingPrecedence", 1000);
}
