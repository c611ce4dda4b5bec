//! Functions of the expressions that select devices.
//!
//! Contract: resource.k8s.io `CELDeviceSelector` with lists as attributes (KEP-5491).

use super::Line;
use crate::value::{EvalError, Value};

/// Values an attribute has at most, and so members of a list that is looked at.
pub(crate) const MAX_VALUES: usize = 48;

pub(super) const FUNCTIONS: &[Line] =
    &[("dra_includes_dyn_dyn", "dyn :: includes(dyn) -> bool", |c| match (c.arg(0)?, c.arg(1)?) {
        (Value::List(list), wanted) => {
            let items = list.items()?;
            let found = items.iter().take(MAX_VALUES).any(|item| item.equals(wanted));
            match found || items.len() <= MAX_VALUES {
                true => Ok(Value::Bool(found)),
                false => Err(EvalError::failed(format!(
                    "'includes' function cannot be applied to lists longer than {MAX_VALUES} values"
                ))),
            }
        }
        (one, wanted) => Ok(Value::Bool(one.equals(wanted))),
    })];
