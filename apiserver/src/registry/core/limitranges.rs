//! `limitranges`.

use std::sync::Arc;

use crate::registry::{
    Column, Resource,
    kit::{Cell, Plain, column},
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Created At", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/metadata/creationTimestamp", "")];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["limits"],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: false, generation: false, cells: CELLS }),
        ..Resource::of("", "LimitRange", "limitranges", "limitrange")
    }
}
