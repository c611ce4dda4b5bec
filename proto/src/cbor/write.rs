//! JSON to data items.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::Order;
use crate::{
    node::Node,
    table::{self, Kind, Scalar},
};

/// Major types.
const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;
/// The tag of bytes that are base64 wherever they have to be text (RFC 8949, 3.4.5.2).
const AS_BASE64: u64 = 22;

/// Writes items one after the other.
pub(super) struct Writer {
    out: Vec<u8>,
    order: Order,
}

impl Writer {
    pub(super) fn new(order: Order) -> Self {
        Self { out: Vec::new(), order }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }

    /// Bytes that are items already.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// An item's type and argument, in the fewest bytes.
    fn head(&mut self, major: u8, argument: u64) {
        let (info, bytes) = match argument {
            0..=23 => (argument.to_be_bytes()[7], 0),
            24..=0xff => (24, 1),
            0x100..=0xffff => (25, 2),
            0x1_0000..=0xffff_ffff => (26, 4),
            _ => (27, 8),
        };
        self.out.push(major << 5 | info);
        self.out.extend_from_slice(&argument.to_be_bytes()[8 - bytes..]);
    }

    /// Begins an array of this many items.
    pub(super) fn array(&mut self, len: usize) {
        self.head(ARRAY, len as u64);
    }

    /// Begins a map of this many members.
    pub(super) fn map(&mut self, len: usize) {
        self.head(MAP, len as u64);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.head(BYTES, bytes.len() as u64);
        self.raw(bytes);
    }

    /// A value; `kind` is what its type says of it, where it has one.
    pub(super) fn value(&mut self, node: &Node<'_>, kind: Option<&Kind>) {
        match node {
            Node::Null => self.head(SIMPLE, 22),
            Node::Bool(value) => self.head(SIMPLE, if *value { 21 } else { 20 }),
            // What Go has as a float is one, whatever it looks like in JSON.
            Node::Signed(value) if kind == Some(&Kind::Scalar(Scalar::Float)) => self.float(*value as f64),
            Node::Signed(value) => match u64::try_from(*value) {
                Ok(value) => self.head(UNSIGNED, value),
                Err(_) => self.head(NEGATIVE, !value.cast_unsigned()),
            },
            Node::Unsigned(value) => self.head(UNSIGNED, *value),
            Node::Float(value) => self.float(*value),
            Node::String(text) => match (kind, STANDARD.decode(&**text)) {
                (Some(Kind::Scalar(Scalar::Bytes)), Ok(bytes)) => {
                    self.head(TAG, AS_BASE64);
                    self.bytes(&bytes);
                }
                _ => self.text(text),
            },
            Node::Array(members) => {
                let kind = match kind {
                    Some(Kind::List(member)) => Some(&**member),
                    _ => None,
                };
                self.array(members.len());
                members.iter().for_each(|member| self.value(member, kind));
            }
            Node::Object(members) => self.members(members, kind),
        }
    }

    fn members(&mut self, members: &[(Cow<'_, str>, Node<'_>)], kind: Option<&Kind>) {
        let of = match kind {
            Some(Kind::Message(id)) => Some(table::builtin().get(*id)),
            _ => None,
        };
        self.map(members.len());
        let mut order: Vec<&(Cow<'_, str>, Node<'_>)> = members.iter().collect();
        match self.order {
            Order::Sorted => order.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b))),
            Order::Turned(_) => order.rotate_left(self.begin(members.len())),
        }
        for (name, node) in order {
            let kind = match (of, kind) {
                (Some(of), _) => of.field(name).map(|field| &field.kind),
                (None, Some(Kind::Map(value))) => Some(&**value),
                (None, _) => None,
            };
            self.text(name);
            self.value(node, kind);
        }
    }

    /// The member that is written first.
    pub(super) fn begin(&mut self, len: usize) -> usize {
        let Order::Turned(seed) = &mut self.order else { return 0 };
        // A step of SplitMix64: spread well enough for an order that means nothing.
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *seed;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ mixed >> 31) % len.max(1) as u64).unwrap_or(0)
    }

    /// A number in the shortest form that has its value.
    fn float(&mut self, value: f64) {
        // Both forms are compared with the value they come from.
        #[expect(clippy::cast_possible_truncation)]
        let single = value as f32;
        if f64::from(single).to_bits() != value.to_bits() {
            self.out.push(SIMPLE << 5 | 27);
            self.raw(&value.to_be_bytes());
        } else if let Some(half) = half(single) {
            self.out.push(SIMPLE << 5 | 25);
            self.raw(&half.to_be_bytes());
        } else {
            self.out.push(SIMPLE << 5 | 26);
            self.raw(&single.to_be_bytes());
        }
    }
}

/// A number in half precision; `None` when it has none.
fn half(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let (exponent, fraction) = (bits >> 23 & 0xff, bits & 0x7f_ffff);
    let magnitude = match exponent {
        0 if fraction == 0 => 0,
        // Normal: five bits of exponent, ten of fraction.
        113..=142 if fraction.trailing_zeros() >= 13 => (exponent - 112) << 10 | fraction >> 13,
        // Subnormal: multiples of 2^-24.
        103..=112 if (fraction | 1 << 23).trailing_zeros() >= 126 - exponent => {
            (fraction | 1 << 23) >> (126 - exponent)
        }
        _ => return None,
    };
    u16::try_from(bits >> 31 << 15 | magnitude).ok()
}
