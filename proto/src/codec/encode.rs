//! JSON to messages.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    EncodeError,
    plan::{self, Plan, Slot},
    time,
    wire::Back,
};
use crate::{
    node::Node,
    table::{self, Field, Kind, Scalar, Type, TypeId},
};

type Done = Result<(), EncodeError>;

/// Writes an object as a message of a type; fields the type does not have are left out.
pub(super) fn message(back: &mut Back, id: TypeId, node: &Node<'_>) -> Done {
    match node {
        Node::Object(_) | Node::Null => group(back, table::builtin().get(id), plan::of(id), node),
        _ => Err(mismatch("object")),
    }
}

fn group(back: &mut Back, of: &Type, plan: &Plan, node: &Node<'_>) -> Done {
    for (tag, slot) in plan.backwards() {
        match slot {
            Slot::Group(inner) => {
                let mark = back.len();
                group(back, of, inner, node)?;
                back.close(mark, tag);
            }
            Slot::Field(at) => {
                let field = &of.fields[usize::from(*at)];
                write(back, field, node.get(field.name)).map_err(|e| below(field.name, e))?;
            }
        }
    }
    Ok(())
}

/// One field; what Go does not point to is written even when it is absent.
fn write(back: &mut Back, field: &Field, node: Option<&Node<'_>>) -> Done {
    match (&field.kind, node) {
        (Kind::List(member), Some(Node::Array(members))) => {
            let mark = back.len();
            let tag = if field.wrapped { 1 } else { field.tag };
            for (at, node) in members.iter().enumerate().rev() {
                value(back, tag, member, Some(node)).map_err(|e| below(&at.to_string(), e))?;
            }
            if field.wrapped {
                back.close(mark, field.tag);
            }
            Ok(())
        }
        (Kind::Map(value), Some(Node::Object(members))) => map(back, field.tag, value, members),
        (Kind::List(_) | Kind::Map(_) | Kind::Scalar(Scalar::Bytes), None) => Ok(()),
        (Kind::List(_), Some(_)) => Err(mismatch("array")),
        (Kind::Map(_), Some(_)) => Err(mismatch("object")),
        (_, None) if field.optional => Ok(()),
        (kind, node) => value(back, field.tag, kind, node),
    }
}

/// A map: entries in key order, each a message of key and value; of equal keys the last one counts.
fn map<'a>(
    back: &mut Back,
    tag: u16,
    kind: &Kind,
    members: &[(std::borrow::Cow<'a, str>, Node<'a>)],
) -> Done {
    let mut order: Vec<&(_, _)> = members.iter().collect();
    if !members.is_sorted_by(|a, b| a.0 < b.0) {
        order.sort_by(|a, b| a.0.cmp(&b.0));
        order.reverse();
        order.dedup_by(|a, b| a.0 == b.0);
        order.reverse();
    }
    for (key, node) in order.into_iter().rev() {
        let mark = back.len();
        let present = (*node != Node::Null).then_some(node);
        match (kind, present) {
            // `ExtraValue` and the like: a message around a list.
            (Kind::List(member), Some(Node::Array(members))) => {
                let inner = back.len();
                for node in members.iter().rev() {
                    value(back, 1, member, Some(node)).map_err(|e| below(key, e))?;
                }
                back.close(inner, 2);
            }
            (Kind::List(_), None) => back.bytes(2, &[]),
            (Kind::Scalar(Scalar::Bytes), None) => {}
            (kind, node) => value(back, 2, kind, node).map_err(|e| below(key, e))?,
        }
        back.text(1, key);
        back.close(mark, tag);
    }
    Ok(())
}

/// One value under a tag; an absent one is written as zero.
fn value(back: &mut Back, tag: u16, kind: &Kind, node: Option<&Node<'_>>) -> Done {
    match kind {
        Kind::Scalar(of) => scalar(back, tag, *of, node.filter(|n| **n != Node::Null)),
        Kind::Message(id) => {
            let mark = back.len();
            message(back, *id, node.unwrap_or(&Node::Null))?;
            back.close(mark, tag);
            Ok(())
        }
        // No type has lists of lists; `write` and `map` take care of the rest.
        Kind::List(_) | Kind::Map(_) => Err(mismatch("value")),
    }
}

fn scalar(back: &mut Back, tag: u16, of: Scalar, node: Option<&Node<'_>>) -> Done {
    match of {
        Scalar::String => back.text(tag, text(node)?),
        Scalar::Bool => match node {
            None => back.integer(tag, 0),
            Some(Node::Bool(value)) => back.integer(tag, i64::from(*value)),
            Some(_) => return Err(mismatch("boolean")),
        },
        Scalar::Int32 => {
            let value = i32::try_from(integer(node)?).map_err(|_| mismatch("32-bit integer"))?;
            back.integer(tag, i64::from(value));
        }
        Scalar::Int64 => back.integer(tag, integer(node)?),
        Scalar::Float => {
            back.put(&float(node)?.to_le_bytes());
            back.key(tag, 1);
        }
        Scalar::Bytes => {
            let bytes = STANDARD.decode(text(node)?).map_err(|_| mismatch("base64 text"))?;
            back.bytes(tag, &bytes);
        }
        Scalar::Quantity => return quantity(back, tag, node),
        Scalar::Time | Scalar::MicroTime => return moment(back, tag, of, node),
        Scalar::IntOrString => return int_or_string(back, tag, node),
        Scalar::Raw | Scalar::Fields | Scalar::Any => {
            let mark = back.len();
            if let Some(node) = node {
                back.bytes(1, &serde_json::to_vec(node)?);
            }
            back.close(mark, tag);
        }
        Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings => {
            let mark = back.len();
            schema(back, of, node)?;
            back.close(mark, tag);
        }
    }
    Ok(())
}

/// `resource.Quantity`: a message with its text.
fn quantity(back: &mut Back, tag: u16, node: Option<&Node<'_>>) -> Done {
    let mark = back.len();
    match node {
        None => back.text(1, "0"),
        Some(Node::String(text)) => back.text(1, text),
        Some(Node::Signed(value)) => back.text(1, &value.to_string()),
        Some(Node::Unsigned(value)) => back.text(1, &value.to_string()),
        Some(Node::Float(value)) => back.text(1, &value.to_string()),
        Some(_) => return Err(mismatch("quantity")),
    }
    back.close(mark, tag);
    Ok(())
}

/// A time: a message of seconds and nanoseconds, empty for the zero time.
fn moment(back: &mut Back, tag: u16, of: Scalar, node: Option<&Node<'_>>) -> Done {
    let mark = back.len();
    if let Some(node) = node {
        let text = node.as_str().ok_or_else(|| mismatch("time"))?;
        let (seconds, nanos) = time::parse(text).ok_or_else(|| mismatch("time"))?;
        let nanos = if of == Scalar::Time { 0 } else { nanos - nanos % 1000 };
        back.integer(2, i64::from(nanos));
        back.integer(1, seconds);
    }
    back.close(mark, tag);
    Ok(())
}

/// `intstr.IntOrString`: which of the two, and both.
fn int_or_string(back: &mut Back, tag: u16, node: Option<&Node<'_>>) -> Done {
    let mark = back.len();
    let (form, number, text) = match node {
        Some(Node::String(text)) => (1, 0, &**text),
        node => (0, integer(node)?, ""),
    };
    let number = i32::try_from(number).map_err(|_| mismatch("32-bit integer"))?;
    back.text(3, text);
    back.integer(2, i64::from(number));
    back.integer(1, form);
    back.close(mark, tag);
    Ok(())
}

/// The three unions of JSON schemas.
fn schema(back: &mut Back, of: Scalar, node: Option<&Node<'_>>) -> Done {
    let props = Kind::Message(schema_id());
    match (of, node) {
        (Scalar::SchemaOrArray, Some(Node::Array(members))) => {
            for node in members.iter().rev() {
                value(back, 2, &props, Some(node))?;
            }
        }
        (Scalar::SchemaOrStrings, Some(Node::Array(members))) => {
            for node in members.iter().rev() {
                back.text(2, text(Some(node))?);
            }
        }
        (Scalar::SchemaOrBool, Some(Node::Bool(allowed))) => back.integer(1, i64::from(*allowed)),
        (Scalar::SchemaOrBool, Some(Node::Object(_))) => {
            value(back, 2, &props, node)?;
            back.integer(1, 1);
        }
        (Scalar::SchemaOrBool, None) => back.integer(1, 0),
        (_, Some(Node::Object(_))) => value(back, 1, &props, node)?,
        (_, None) => {}
        (_, Some(_)) => return Err(mismatch("schema")),
    }
    Ok(())
}

/// The type of JSON schemas, which the unions hold.
pub(super) fn schema_id() -> TypeId {
    let id = table::builtin().by_name("apiextensions.v1.JSONSchemaProps");
    id.unwrap_or_else(|| unreachable!("the table has the types of its scalars"))
}

fn text<'n>(node: Option<&'n Node<'_>>) -> Result<&'n str, EncodeError> {
    match node {
        None | Some(Node::Null) => Ok(""),
        Some(node) => node.as_str().ok_or_else(|| mismatch("text")),
    }
}

fn integer(node: Option<&Node<'_>>) -> Result<i64, EncodeError> {
    match node {
        None => Ok(0),
        Some(Node::Signed(value)) => Ok(*value),
        Some(_) => Err(mismatch("64-bit integer")),
    }
}

fn float(node: Option<&Node<'_>>) -> Result<f64, EncodeError> {
    match node {
        None => Ok(0.0),
        Some(Node::Float(value)) => Ok(*value),
        // The nearest one is what JSON means by a number that a double cannot hold.
        #[expect(clippy::cast_precision_loss)]
        Some(Node::Signed(value)) => Ok(*value as f64),
        #[expect(clippy::cast_precision_loss)]
        Some(Node::Unsigned(value)) => Ok(*value as f64),
        Some(_) => Err(mismatch("number")),
    }
}

fn mismatch(want: &'static str) -> EncodeError {
    EncodeError::Mismatch { path: String::new(), want }
}

/// The error, one name further out.
fn below(name: &str, error: EncodeError) -> EncodeError {
    match error {
        EncodeError::Mismatch { path, want } if path.is_empty() => {
            EncodeError::Mismatch { path: name.to_owned(), want }
        }
        EncodeError::Mismatch { path, want } => {
            EncodeError::Mismatch { path: format!("{name}.{path}"), want }
        }
        other => other,
    }
}
