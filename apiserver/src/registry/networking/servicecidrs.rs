//! `servicecidrs` of networking.k8s.io.

use std::sync::Arc;

use component_base::features::Gate;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, address, at::At, column, keep},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("CIDRs", "string"), column("Age", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::List("/spec/cidrs"), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1", "v1beta1"],
        storage_version: "v1",
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            validate_new: |obj, errors| validate(&At::spec(obj).get("cidrs"), errors),
            validate_change,
            create: |obj, ctx| {
                if ctx.gates.has(Gate::ServiceCIDRStatusFieldWiping) {
                    obj.remove("status");
                }
            },
            change: |new, old, ctx| {
                if ctx.subresource.is_empty() && ctx.gates.has(Gate::ServiceCIDRStatusFieldWiping) {
                    keep(new, old, &["status"]);
                }
            },
            status_alone: true,
            // What is written with the rest is not kept only where its gate is on.
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("networking.k8s.io", "ServiceCIDR", "servicecidrs", "servicecidr")
    }
}

/// One range, or one of each family.
fn validate(cidrs: &At<'_>, errors: &mut ErrorList) {
    match cidrs.len() {
        0 => cidrs.required(errors, "at least one CIDR required"),
        1 | 2 => {
            cidrs.items().for_each(|cidr| cidr.check_format(errors, address::canonical_cidr));
            let six = |cidr: At<'_>| cidr.text().parse::<ipnet::IpNet>().ok().map(|net| net.addr().is_ipv6());
            let families: Vec<bool> = cidrs.items().filter_map(six).collect();
            if families.len() == 2 && families[0] == families[1] {
                let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                cidrs.invalid(errors, detail);
            }
        }
        _ => cidrs.invalid(errors, "may only hold up to 2 values"),
    }
}

/// Ranges stay; a second family may be added.
fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (new, old) = (At::spec(new).get("cidrs"), At::spec(old).get("cidrs"));
    let kept = |errors: &mut ErrorList| {
        new.items().zip(old.items()).for_each(|(new, old)| {
            new.check_unchanged(&old, errors);
        });
    };
    match (old.len(), new.len()) {
        (before, after) if before == after => kept(errors),
        (1, 2) => {
            kept(errors);
            validate(&new, errors);
        }
        _ => new.invalid(errors, "field is immutable"),
    }
}
