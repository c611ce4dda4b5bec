//! Messages to JSON, as Go's encoder would print the same object, but for lists and maps that are nil: those
//! are left out. Of a field that is on the wire twice the last one counts.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::de::IgnoredAny;

use super::{
    DecodeError, Envelope, MAGIC, MAX_DEPTH,
    encode::schema_id,
    plan::{self, Plan, Slot},
    time,
    wire::{Reader, Wire},
};
use crate::table::{self, Field, Kind, Scalar, TypeId};

type Done = Result<(), DecodeError>;

/// Writes an opened object with its kind.
pub(super) fn object(envelope: &Envelope<'_>, out: &mut Vec<u8>, depth: usize) -> Done {
    let id = envelope.type_id()?;
    let mut decoder = Decoder { out, found: Vec::new() };
    decoder.message(id, envelope.message, Some(envelope), depth)
}

struct Decoder<'o, 'a> {
    out: &'o mut Vec<u8>,
    /// Fields of the messages that are open, the innermost message's last: place in the type, and value.
    found: Vec<(u16, Wire<'a>)>,
}

/// A number where one is due.
fn varint(field: &'static str, wire: Wire<'_>) -> Result<u64, DecodeError> {
    match wire {
        Wire::Varint(value) => Ok(value),
        _ => Err(DecodeError::WrongType { field }),
    }
}

/// Bytes where they are due.
fn bytes<'a>(field: &'static str, wire: Wire<'a>) -> Result<&'a [u8], DecodeError> {
    match wire {
        Wire::Bytes(value) => Ok(value),
        _ => Err(DecodeError::WrongType { field }),
    }
}

/// Whether a value may be left out because it is zero.
fn is_zero(scalar: Scalar, wire: Wire<'_>) -> bool {
    match (scalar, wire) {
        (Scalar::String | Scalar::Bytes, Wire::Bytes(bytes)) => bytes.is_empty(),
        (Scalar::Bool | Scalar::Int32 | Scalar::Int64, Wire::Varint(value)) => value == 0,
        (Scalar::Float, Wire::Fixed64(bits)) => f64::from_bits(bits) == 0.0,
        _ => false,
    }
}

/// What an absent scalar stands for.
fn zero(scalar: Scalar) -> Wire<'static> {
    match scalar {
        Scalar::Bool | Scalar::Int32 | Scalar::Int64 => Wire::Varint(0),
        Scalar::Float => Wire::Fixed64(0),
        _ => Wire::Bytes(&[]),
    }
}

impl<'a> Decoder<'_, 'a> {
    fn message(&mut self, id: TypeId, message: &'a [u8], head: Option<&Envelope<'_>>, depth: usize) -> Done {
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        let base = self.found.len();
        self.scan(plan::of(id), message)?;
        if !self.found[base..].is_sorted_by_key(|(at, _)| *at) {
            self.found[base..].sort_by_key(|(at, _)| *at);
        }
        self.out.push(b'{');
        let mut next = base;
        for (at, field) in (0u16..).zip(&table::builtin().get(id).fields) {
            let from = next;
            while self.found.get(next).is_some_and(|(found, _)| *found == at) {
                next += 1;
            }
            match (field.name, head) {
                ("apiVersion", Some(head)) if field.tag == 0 => {
                    self.type_meta("apiVersion", &head.api_version)?
                }
                ("kind", Some(head)) if field.tag == 0 => self.type_meta("kind", &head.kind)?,
                _ if field.tag == 0 => {}
                _ => self.field(field, from, next, depth)?,
            }
        }
        self.found.truncate(base);
        self.close(b'}');
        Ok(())
    }

    /// Ends what a bracket opened, and puts the comma after it that all values have until their parent ends.
    fn close(&mut self, bracket: u8) {
        if self.out.last() == Some(&b',') {
            self.out.pop();
        }
        self.out.push(bracket);
    }

    fn scan(&mut self, plan: &Plan, message: &'a [u8]) -> Done {
        let mut reader = Reader::new(message);
        while let Some((tag, value)) = reader.next()? {
            match (plan.slot(tag), value) {
                (Some(Slot::Field(at)), value) => self.found.push((*at, value)),
                (Some(Slot::Group(inner)), Wire::Bytes(message)) => self.scan(inner, message)?,
                (Some(Slot::Group(_)), _) => return Err(DecodeError::WrongType { field: "" }),
                // A field of a later release.
                (None, _) => {}
            }
        }
        Ok(())
    }

    fn type_meta(&mut self, name: &str, value: &str) -> Done {
        if !value.is_empty() {
            self.name(name);
            self.text(value)?;
            self.out.push(b',');
        }
        Ok(())
    }

    fn name(&mut self, name: &str) {
        // The table's names need no escapes.
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn text(&mut self, text: &str) -> Done {
        serde_json::to_writer(&mut *self.out, text).map_err(|e| DecodeError::Embedded(e.to_string()))
    }

    /// One field of JSON from its occurrences, `found[from..to]`.
    fn field(&mut self, field: &'static Field, from: usize, to: usize, depth: usize) -> Done {
        let last = (from < to).then(|| self.found[to - 1].1);
        match &field.kind {
            Kind::List(_) | Kind::Map(_) if last.is_none() => return Ok(()),
            Kind::List(member) => {
                self.name(field.name);
                self.list(field, member, from, to, depth)?;
            }
            Kind::Map(value) => {
                self.name(field.name);
                self.map(field, value, from, to, depth)?;
            }
            Kind::Scalar(of) => {
                if last.is_none() && (field.optional || *of == Scalar::Bytes) {
                    return Ok(());
                }
                let wire = last.unwrap_or(zero(*of));
                if !field.optional && !field.always && is_zero(*of, wire) {
                    return Ok(());
                }
                let start = self.out.len();
                self.name(field.name);
                let value = self.out.len();
                self.scalar(field.name, *of, wire, depth)?;
                if &self.out[value..] == b"null" {
                    self.out.truncate(start);
                    return Ok(());
                }
            }
            Kind::Message(id) => {
                let message = match last {
                    None if field.optional => return Ok(()),
                    None => &[][..],
                    Some(wire) => bytes(field.name, wire)?,
                };
                self.name(field.name);
                self.message(*id, message, None, depth + 1)?;
            }
        }
        self.out.push(b',');
        Ok(())
    }

    fn list(&mut self, field: &'static Field, member: &Kind, from: usize, to: usize, depth: usize) -> Done {
        self.out.push(b'[');
        for at in from..to {
            let wire = self.found[at].1;
            if field.wrapped {
                self.wrapped(field.name, member, bytes(field.name, wire)?, depth)?;
            } else {
                self.members(field.name, member, wire, depth)?;
            }
        }
        self.close(b']');
        Ok(())
    }

    /// The members of a list that is a message of its own.
    fn wrapped(&mut self, name: &'static str, member: &Kind, message: &'a [u8], depth: usize) -> Done {
        let mut reader = Reader::new(message);
        while let Some((tag, wire)) = reader.next()? {
            if tag == 1 {
                self.members(name, member, wire, depth)?;
            }
        }
        Ok(())
    }

    /// One member, or several numbers packed into one value.
    fn members(&mut self, name: &'static str, member: &Kind, wire: Wire<'a>, depth: usize) -> Done {
        match (member, wire) {
            (Kind::Scalar(of @ (Scalar::Int32 | Scalar::Int64 | Scalar::Bool)), Wire::Bytes(packed)) => {
                let mut reader = Reader::new(packed);
                while !reader.is_empty() {
                    let value = Wire::Varint(reader.varint()?);
                    self.scalar(name, *of, value, depth)?;
                    self.out.push(b',');
                }
            }
            _ => {
                self.value(name, member, wire, depth)?;
                self.out.push(b',');
            }
        }
        Ok(())
    }

    fn value(&mut self, name: &'static str, kind: &Kind, wire: Wire<'a>, depth: usize) -> Done {
        match kind {
            Kind::Scalar(of) => self.scalar(name, *of, wire, depth),
            Kind::Message(id) => self.message(*id, bytes(name, wire)?, None, depth + 1),
            Kind::List(member) => {
                self.out.push(b'[');
                self.wrapped(name, member, bytes(name, wire)?, depth)?;
                self.close(b']');
                Ok(())
            }
            // No type has maps of maps.
            Kind::Map(_) => Err(DecodeError::WrongType { field: name }),
        }
    }

    fn map(&mut self, field: &'static Field, kind: &Kind, from: usize, to: usize, depth: usize) -> Done {
        self.out.push(b'{');
        for at in from..to {
            let (mut key, mut value) = (&[][..], None);
            let mut reader = Reader::new(bytes(field.name, self.found[at].1)?);
            while let Some((tag, wire)) = reader.next()? {
                match tag {
                    1 => key = bytes(field.name, wire)?,
                    2 => value = Some(wire),
                    _ => {}
                }
            }
            self.text(&String::from_utf8_lossy(key))?;
            self.out.push(b':');
            let absent = match kind {
                Kind::Scalar(of) => zero(*of),
                _ => Wire::Bytes(&[]),
            };
            self.value(field.name, kind, value.unwrap_or(absent), depth)?;
            self.out.push(b',');
        }
        self.close(b'}');
        Ok(())
    }

    fn scalar(&mut self, name: &'static str, of: Scalar, wire: Wire<'a>, depth: usize) -> Done {
        match of {
            Scalar::String => return self.text(&String::from_utf8_lossy(bytes(name, wire)?)),
            Scalar::Bool => self.print(if varint(name, wire)? == 0 { "false" } else { "true" }),
            // Go keeps the low bits of what is too wide.
            #[expect(clippy::cast_possible_truncation)]
            Scalar::Int32 => self.print(&(varint(name, wire)? as i32).to_string()),
            Scalar::Int64 => self.print(&varint(name, wire)?.cast_signed().to_string()),
            Scalar::Float => {
                let Wire::Fixed64(bits) = wire else { return Err(DecodeError::WrongType { field: name }) };
                let value = f64::from_bits(bits);
                // JSON has no word for infinity.
                self.print(&if value.is_finite() { value.to_string() } else { "null".to_owned() });
            }
            Scalar::Bytes => {
                let text = STANDARD.encode(bytes(name, wire)?);
                return self.text(&text);
            }
            Scalar::Quantity => return self.quantity(name, bytes(name, wire)?),
            Scalar::Time | Scalar::MicroTime => return self.moment(name, of, bytes(name, wire)?),
            Scalar::IntOrString => return self.int_or_string(name, bytes(name, wire)?),
            Scalar::Raw | Scalar::Fields | Scalar::Any => return self.raw(name, bytes(name, wire)?, depth),
            Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings => {
                return self.schema(name, of, bytes(name, wire)?, depth);
            }
        }
        Ok(())
    }

    fn print(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn quantity(&mut self, name: &'static str, message: &[u8]) -> Done {
        let mut reader = Reader::new(message);
        let mut text = &b"0"[..];
        while let Some((tag, wire)) = reader.next()? {
            if tag == 1 {
                text = bytes(name, wire)?;
            }
        }
        self.text(&String::from_utf8_lossy(text))
    }

    /// A time; the zero one, and one that no calendar has, are null.
    fn moment(&mut self, name: &'static str, of: Scalar, message: &[u8]) -> Done {
        let (mut seconds, mut nanos) = (0, 0);
        let mut reader = Reader::new(message);
        while let Some((tag, wire)) = reader.next()? {
            match tag {
                1 => seconds = varint(name, wire)?.cast_signed(),
                2 => nanos = i32::try_from(varint(name, wire)?).unwrap_or(0),
                _ => {}
            }
        }
        let text = match (seconds, nanos) {
            (0, 0) => None,
            _ if of == Scalar::Time => time::seconds(seconds),
            _ => time::micros(seconds, nanos),
        };
        match text {
            Some(text) => self.text(&text),
            None => {
                self.print("null");
                Ok(())
            }
        }
    }

    fn int_or_string(&mut self, name: &'static str, message: &[u8]) -> Done {
        let (mut form, mut number, mut text) = (0, 0, &[][..]);
        let mut reader = Reader::new(message);
        while let Some((tag, wire)) = reader.next()? {
            match tag {
                1 => form = varint(name, wire)?,
                2 => number = varint(name, wire)?,
                3 => text = bytes(name, wire)?,
                _ => {}
            }
        }
        if form == 1 {
            return self.text(&String::from_utf8_lossy(text));
        }
        // Go keeps the low bits of what is too wide.
        #[expect(clippy::cast_possible_truncation)]
        self.print(&(number as i32).to_string());
        Ok(())
    }

    /// An embedded object: JSON as it is, or an encoded object.
    fn raw(&mut self, name: &'static str, message: &'a [u8], depth: usize) -> Done {
        let mut raw = &[][..];
        let mut reader = Reader::new(message);
        while let Some((tag, wire)) = reader.next()? {
            if tag == 1 {
                raw = bytes(name, wire)?;
            }
        }
        if raw.is_empty() {
            self.print("null");
            return Ok(());
        }
        if raw.starts_with(&MAGIC) {
            if depth >= MAX_DEPTH {
                return Err(DecodeError::TooDeep);
            }
            return object(&Envelope::open(raw)?, self.out, depth + 1);
        }
        serde_json::from_slice::<IgnoredAny>(raw).map_err(|e| DecodeError::Embedded(e.to_string()))?;
        self.out.extend_from_slice(raw.trim_ascii());
        Ok(())
    }

    fn schema(&mut self, name: &'static str, of: Scalar, message: &'a [u8], depth: usize) -> Done {
        let (mut schema, mut allows, mut members) = (None, false, Vec::new());
        let mut reader = Reader::new(message);
        while let Some((tag, wire)) = reader.next()? {
            match (of, tag) {
                (Scalar::SchemaOrBool, 1) => allows = varint(name, wire)? != 0,
                (Scalar::SchemaOrBool, 2) | (_, 1) => schema = Some(bytes(name, wire)?),
                (_, 2) => members.push(bytes(name, wire)?),
                _ => {}
            }
        }
        if of == Scalar::SchemaOrBool && schema.is_none() {
            self.print(if allows { "true" } else { "false" });
            return Ok(());
        }
        if let Some(schema) = schema.filter(|_| members.is_empty()) {
            return self.message(schema_id(), schema, None, depth + 1);
        }
        if members.is_empty() {
            self.print("null");
            return Ok(());
        }
        self.out.push(b'[');
        for member in members {
            if of == Scalar::SchemaOrStrings {
                self.text(&String::from_utf8_lossy(member))?;
            } else {
                self.message(schema_id(), member, None, depth + 1)?;
            }
            self.out.push(b',');
        }
        self.close(b']');
        Ok(())
    }
}
