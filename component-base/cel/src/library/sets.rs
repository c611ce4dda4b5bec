//! Lists as sets: upstream's sets extension.

use super::Line;
use crate::value::{EvalError, List, Value};

pub(super) const FUNCTIONS: &[Line] = &[
    ("list_sets_contains_list", "sets.contains(list<T>, list<T>) -> bool", |c| {
        Ok(Value::Bool(contains(c.list(0)?, c.list(1)?)?))
    }),
    ("list_sets_equivalent_list", "sets.equivalent(list<T>, list<T>) -> bool", |c| {
        let (a, b) = (c.list(0)?, c.list(1)?);
        Ok(Value::Bool(contains(a, b)? && contains(b, a)?))
    }),
    ("list_sets_intersects_list", "sets.intersects(list<T>, list<T>) -> bool", |c| {
        let (a, b) = (c.list(0)?.items()?, c.list(1)?.items()?);
        Ok(Value::Bool(a.iter().any(|x| b.iter().any(|y| x.equals(y)))))
    }),
];

fn contains(whole: &List<'_>, part: &List<'_>) -> Result<bool, EvalError> {
    let (whole, part) = (whole.items()?, part.items()?);
    Ok(part.iter().all(|p| whole.iter().any(|w| w.equals(p))))
}
