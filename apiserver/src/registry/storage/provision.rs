//! Who makes volumes, and of what: what classes of storage and of attributes have in common.

use crate::{
    field::{Error, ErrorList},
    registry::kit::{at::At, format},
};

/// Parameters there may be, and bytes all of them may have.
const MAX: usize = 512;
const MAX_SIZE: usize = 256 * 1024;

/// The name of who makes volumes.
pub(super) fn check_provisioner(name: &At<'_>, errors: &mut ErrorList) {
    if name.check_required(errors) {
        let lower = name.text().to_lowercase();
        format::qualified_name(&lower)
            .into_iter()
            .for_each(|detail| name.invalid_as(errors, lower.clone(), detail));
    }
}

/// What the one who makes volumes is told.
pub(super) fn check_parameters(parameters: &At<'_>, errors: &mut ErrorList) {
    if parameters.len() > MAX {
        return errors.push(Error::too_long(parameters.path(), MAX));
    }
    if parameters.has("") {
        parameters.invalid_as(errors, "", "field can not be empty.");
    }
    let size: usize = parameters.entries().map(|(key, value)| key.len() + value.text().len()).sum();
    if size > MAX_SIZE {
        errors.push(Error::too_long(parameters.path(), MAX_SIZE));
    }
}
