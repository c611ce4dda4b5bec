//! Lists: Kubernetes' own (`isSorted`, `sum`, `min`, `max`, `indexOf`) and upstream's lists extension, version 3.

use std::{cmp::Ordering, sync::Arc};

use super::{Call, Function, Line, Overload};
use crate::{
    types::Type,
    value::{EvalError, Value},
};

pub(super) const FUNCTIONS: &[Line] = &[
    ("list_a_index_of_int", "list<A> :: indexOf(A) -> int", |c| {
        let found = c.list(0)?.items()?.iter().position(|item| c.args.get(1).is_some_and(|w| item.equals(w)));
        Ok(Value::Int(found.map_or(-1, |i| i as i64)))
    }),
    ("list_a_last_index_of_int", "list<A> :: lastIndexOf(A) -> int", |c| {
        let found =
            c.list(0)?.items()?.iter().rposition(|item| c.args.get(1).is_some_and(|w| item.equals(w)));
        Ok(Value::Int(found.map_or(-1, |i| i as i64)))
    }),
    ("list_slice", "list<T> :: slice(int, int) -> list<T>", slice),
    ("list_flatten", "list<list<T>> :: flatten() -> list<T>", |c| flattened(c, 1)),
    ("list_flatten_int", "list<dyn> :: flatten(int) -> list<dyn>", |c| flattened(c, c.int(1)?)),
    ("lists_range", "lists.range(int) -> list<int>", |c| {
        let size = c.int(0)?;
        if size > MAX_RANGE {
            return Err(EvalError::failed(format!("cannot make a range of {size} items")));
        }
        Ok(Value::list((0..size).map(Value::Int).collect()))
    }),
    ("list_reverse", "list<T> :: reverse() -> list<T>", |c| {
        Ok(Value::list(c.list(0)?.items()?.into_iter().rev().collect()))
    }),
    ("list_distinct", "list<T> :: distinct() -> list<T>", |c| {
        let mut kept: Vec<Value<'_>> = Vec::new();
        for item in c.list(0)?.items()? {
            if !kept.iter().any(|k| k.equals(&item)) {
                kept.push(item);
            }
        }
        Ok(Value::list(kept))
    }),
];

/// More items than any budget pays for.
const MAX_RANGE: i64 = 1_000_000;

/// Types whose values have an order, with the names of their overloads.
const COMPARABLE: &[(&str, Type)] = &[
    ("int", Type::Int),
    ("uint", Type::Uint),
    ("double", Type::Double),
    ("bool", Type::Bool),
    ("duration", Type::Duration),
    ("timestamp", Type::Timestamp),
    ("string", Type::String),
    ("bytes", Type::Bytes),
];

/// The functions that have one overload per type of items.
pub(super) fn templated() -> Vec<(String, Overload)> {
    let mut made = Vec::new();
    let mut add = |name: &str, id: String, params: Vec<Type>, result: Type, eval: Function| {
        // Ids live as long as the table, which is never dropped.
        let id: &'static str = Box::leak(id.into_boxed_str());
        let type_params = if name == "@sortByAssociatedKeys" { vec!["T".into()] } else { Vec::new() };
        made.push((name.to_owned(), Overload { id, member: true, params, result, type_params, eval }));
    };
    for (name, t) in COMPARABLE {
        let list = Type::list(t.clone());
        add("isSorted", format!("list_{name}_is_sorted_bool"), vec![list.clone()], Type::Bool, is_sorted);
        add("max", format!("list_{name}_max_{name}"), vec![list.clone()], t.clone(), |c| {
            extreme(c, Ordering::Greater)
        });
        add("min", format!("list_{name}_min_{name}"), vec![list.clone()], t.clone(), |c| {
            extreme(c, Ordering::Less)
        });
        add("sort", format!("list_{name}_sort"), vec![list.clone()], list.clone(), |c| {
            let items = c.list(0)?.items()?;
            sorted(items.clone(), items)
        });
        let any = Type::list(Type::Param(Arc::from("T")));
        let id = format!("list_{name}_sortByAssociatedKeys");
        add("@sortByAssociatedKeys", id, vec![any.clone(), list.clone()], any, |c| {
            sorted(c.list(0)?.items()?, c.list(1)?.items()?)
        });
        if matches!(t, Type::Int | Type::Uint | Type::Double | Type::Duration) {
            let sum: Function = match t {
                Type::Uint => |c| sum(c, Value::Uint(0)),
                Type::Double => |c| sum(c, Value::Double(0.0)),
                Type::Duration => |c| sum(c, Value::Duration(0)),
                _ => |c| sum(c, Value::Int(0)),
            };
            add("sum", format!("list_{name}_sum_{name}"), vec![list], t.clone(), sum);
        }
    }
    made
}

fn is_sorted<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    let items = call.list(0)?.items()?;
    for pair in items.windows(2) {
        if pair[0].compare(&pair[1])? == Some(Ordering::Greater) {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn extreme<'a>(call: &Call<'_, 'a>, wanted: Ordering) -> Result<Value<'a>, EvalError> {
    let name = if wanted == Ordering::Greater { "max" } else { "min" };
    let mut items = call.list(0)?.items()?.into_iter();
    let mut best = items.next().ok_or_else(|| EvalError::failed(format!("{name} called on empty list")))?;
    for item in items {
        if item.compare(&best)? == Some(wanted) {
            best = item;
        }
    }
    Ok(best)
}

fn sum<'a>(call: &Call<'_, 'a>, zero: Value<'a>) -> Result<Value<'a>, EvalError> {
    call.list(0)?.items()?.into_iter().try_fold(zero, |total, item| match (total, item) {
        (Value::Int(a), Value::Int(b)) => {
            a.checked_add(b).map(Value::Int).ok_or(EvalError::failed("integer overflow"))
        }
        (Value::Uint(a), Value::Uint(b)) => {
            a.checked_add(b).map(Value::Uint).ok_or(EvalError::failed("unsigned integer overflow"))
        }
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(b).map(Value::Duration).ok_or(EvalError::failed("duration overflow"))
        }
        _ => Err(EvalError::NoSuchOverload),
    })
}

/// Items in the order of their keys; equal keys keep their order.
fn sorted<'a>(items: Vec<Value<'a>>, keys: Vec<Value<'a>>) -> Result<Value<'a>, EvalError> {
    if items.len() != keys.len() {
        let message = format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            items.len(),
            keys.len()
        );
        return Err(EvalError::failed(message));
    }
    if keys.iter().any(|k| keys.first().is_some_and(|first| first.type_of() != k.type_of())) {
        return Err(EvalError::failed("list elements must have the same type"));
    }
    for key in &keys {
        key.compare(key)?;
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    // Comparing equal types that compare with themselves does not fail; NaN stays where it is.
    order.sort_by(|a, b| keys[*a].compare(&keys[*b]).ok().flatten().unwrap_or(Ordering::Equal));
    Ok(Value::list(order.into_iter().map(|i| items[i].clone()).collect()))
}

fn slice<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    let (list, start, end) = (call.list(0)?, call.int(1)?, call.int(2)?);
    let wrong = |why: String| Err(EvalError::failed(format!("cannot slice({start}, {end}), {why}")));
    let (Ok(from), Ok(to)) = (usize::try_from(start), usize::try_from(end)) else {
        return wrong("negative indexes not supported".to_owned());
    };
    if from > to {
        return wrong("start index must be less than or equal to end index".to_owned());
    }
    if to > list.len() {
        return wrong(format!("list is length {}", list.len()));
    }
    let items = (from..to).filter_map(|i| list.get(i)).collect::<Result<Vec<_>, _>>()?;
    Ok(Value::list(items))
}

fn flattened<'a>(call: &Call<'_, 'a>, depth: i64) -> Result<Value<'a>, EvalError> {
    if depth < 0 {
        return Err(EvalError::failed("level must be non-negative"));
    }
    let mut items = call.list(0)?.items()?;
    let mut level = 0;
    while level < depth && items.iter().any(|i| matches!(i, Value::List(_))) {
        let mut next = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Value::List(inner) => next.extend(inner.items()?),
                other => next.push(other),
            }
        }
        items = next;
        level += 1;
    }
    Ok(Value::list(items))
}
