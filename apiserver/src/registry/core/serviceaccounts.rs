//! `serviceaccounts`.

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
        short_names: &["sa"],
        subresources: &[Subresource::Action {
            name: "token",
            kind: ("authentication.k8s.io", "v1", "TokenRequest"),
            verbs: &["create"],
        }],
        strategy: Arc::new(Rules {
            create: |obj, _| name_secrets(obj),
            change: |new, _, _| name_secrets(new),
            warnings,
            ..Rules::new(Plain { status: false, generation: false, cells: NAME_AND_AGE })
        }),
        returns_deleted: true,
        ..Resource::of("", "ServiceAccount", "serviceaccounts", "serviceaccount")
    }
}

const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

/// Secrets are told by name and nothing else.
fn name_secrets(account: &mut Object) {
    fill::members(account.as_map_mut(), "secrets")
        .for_each(|secret| secret.retain(|field, _| field == "name"));
}

fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    if new.annotation(ENFORCE).is_none() || old.is_some_and(|old| old.annotation(ENFORCE).is_some()) {
        return Vec::new();
    }
    vec![format!(
        "metadata.annotations[{ENFORCE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted \
         secrets"
    )]
}
