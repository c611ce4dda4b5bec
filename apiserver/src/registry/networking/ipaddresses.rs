//! `ipaddresses` of networking.k8s.io.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, address, at::At, column, format, text},
    },
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("ParentRef", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::With(parent)];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1", "v1beta1"],
        storage_version: "v1",
        short_names: &["ip"],
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            // The name is the address, which is what makes it unique.
            name: |name, _| address::canonical_ip(name),
            validate,
            validate_change: |new, old, errors| {
                let parent = |obj| At::spec(obj).get("parentRef");
                parent(new).check_unchanged(&parent(old), errors);
            },
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("networking.k8s.io", "IPAddress", "ipaddresses", "ipaddress")
    }
}

/// An address belongs to an object.
fn validate(obj: &Object, errors: &mut ErrorList) {
    let parent = At::spec(obj).get("parentRef");
    if !parent.check_there(errors) {
        return;
    }
    for (field, needed, shape) in [
        ("group", false, format::dns_subdomain as fn(&str) -> Vec<String>),
        ("resource", true, format::path_segment),
        ("name", true, format::path_segment),
        ("namespace", false, format::path_segment),
    ] {
        let part = parent.get(field);
        if !part.is_empty() || (needed && part.check_required(errors)) {
            part.check_format(errors, shape);
        }
    }
}

/// What the address belongs to: `resource.group/namespace/name`.
fn parent(obj: &Object) -> Value {
    let Some(parent) = obj.pointer("/spec/parentRef") else { return "<none>".into() };
    let mut out = text(parent, "/resource").to_lowercase();
    for (before, field) in [(".", "/group"), ("/", "/namespace")] {
        let part = text(parent, field);
        if !part.is_empty() {
            out.push_str(before);
            out.push_str(part);
        }
    }
    format!("{out}/{}", text(parent, "/name")).into()
}
