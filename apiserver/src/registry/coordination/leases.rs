//! `leases` of coordination.k8s.io.

use std::sync::Arc;

use component_base::features::{Gate, Gates};

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, fill},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Holder", "string"), column("Age", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/spec/holderIdentity", ""), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            create_on_update: true,
            create: |lease, ctx| drop_coordination(lease, None, ctx.gates),
            change: |lease, old, ctx| drop_coordination(lease, Some(old), ctx.gates),
            validate,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("coordination.k8s.io", "Lease", "leases", "lease")
    }
}

/// Leaders that are chosen by the server are behind a feature gate: who chooses is not kept, where it is not there
/// already.
fn drop_coordination(lease: &mut Object, old: Option<&Object>, gates: Gates) {
    const FIELDS: [&str; 2] = ["strategy", "preferredHolder"];
    let known = |field: &&str| old.is_some_and(|old| At::spec(old).has(field));
    if gates.has(Gate::CoordinatedLeaderElection) || FIELDS.iter().any(known) {
        return;
    }
    if let Some(spec) = fill::child(lease.as_map_mut(), "spec") {
        FIELDS.iter().for_each(|field| drop(spec.remove(*field)));
    }
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    let spec = At::spec(obj);
    let duration = spec.get("leaseDurationSeconds");
    if duration.is_set() && duration.int() <= 0 {
        duration.invalid(errors, "must be greater than 0");
    }
    spec.get("leaseTransitions").check_non_negative(errors);
    if spec.has("strategy") {
        super::check_strategy(&spec.get("strategy"), errors);
    }
    if !spec.get("preferredHolder").is_empty() && spec.get("strategy").is_empty() {
        spec.get("preferredHolder").forbidden(errors, "may only be specified if `strategy` is defined");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::registry::testing::{Kind, changed};

    #[test]
    fn who_chooses_the_holder_is_kept_only_where_it_is() {
        let kind = Kind::new("coordination.k8s.io", "leases");
        let lease =
            json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "h", "leaseDurationSeconds": 5}});
        let chosen =
            changed(&lease, &[("/spec/strategy", json!("x")), ("/spec/preferredHolder", json!("p"))]);
        let (stored, errors) = kind.create(chosen.clone());
        assert_eq!((&stored["spec"], errors), (&lease["spec"], Vec::new()));
        let (kept, errors) = kind.update(chosen.clone(), chosen.clone(), "");
        assert_eq!(kept["spec"], chosen["spec"]);
        assert_eq!(errors.len(), 1, "what is there is looked at: {errors:?}");
        let found = kind.errors(changed(&lease, &[("/spec/leaseDurationSeconds", json!(0))]));
        assert_eq!(found, ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]);
    }
}
