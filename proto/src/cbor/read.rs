//! Data items to JSON.

use std::borrow::Cow;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jiff::{SignedDuration, Timestamp};

use super::{DecodeError, MAX_DEPTH};
use crate::node::Node;

/// Items made room for at once: a length is believed no further than that.
const ROOM: usize = 64;

/// Major types, as messages name them.
const TYPES: [&str; 8] = [
    "positive integer",
    "negative integer",
    "byte string",
    "UTF-8 text string",
    "array",
    "map",
    "tag",
    "primitives",
];
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const PRIMITIVE: u8 = 7;

/// Reads an item, and tells what follows it.
pub(super) fn first(bytes: &[u8]) -> Result<(Node<'_>, &[u8]), DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let mut reader = Reader { bytes, at: 0 };
    let node = reader.item(0, None)?;
    Ok((node, &bytes[reader.at..]))
}

/// How bytes become text where their tag says so.
#[derive(Clone, Copy)]
enum Later {
    Base64Url,
    Base64,
    Base16,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The beginning of an item.
struct Head {
    major: u8,
    info: u8,
    argument: u64,
}

impl Head {
    /// The length is not told; a break ends the item.
    fn is_open(&self) -> bool {
        self.info == 31
    }

    fn name(&self) -> &'static str {
        TYPES[usize::from(self.major)]
    }
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..count).ok_or(DecodeError::Truncated)?;
        self.at += count;
        Ok(taken)
    }

    fn peek(&self) -> Result<u8, DecodeError> {
        self.bytes.get(self.at).copied().ok_or(DecodeError::Truncated)
    }

    fn head(&mut self) -> Result<Head, DecodeError> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        let size = match info {
            0..=23 => return Ok(Head { major, info, argument: info.into() }),
            24..=27 => 1 << (info - 24),
            31 if matches!(major, 2..=5) => return Ok(Head { major, info, argument: 0 }),
            31 if major == PRIMITIVE => return Err(DecodeError::Break),
            _ => return Err(DecodeError::Information { info, of: TYPES[usize::from(major)] }),
        };
        let argument = self.take(size)?.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        Ok(Head { major, info, argument })
    }

    /// Whether an array or map of which `count` members were read has another.
    fn goes_on(&mut self, head: &Head, count: usize) -> Result<bool, DecodeError> {
        if head.is_open() { self.ends().map(|ends| !ends) } else { Ok((count as u64) < head.argument) }
    }

    /// Whether the item of indefinite length ends here.
    fn ends(&mut self) -> Result<bool, DecodeError> {
        let ends = self.peek()? == 0xff;
        self.at += usize::from(ends);
        Ok(ends)
    }

    /// An item `depth` items deep. `later` is what the tags around it say of bytes.
    fn item(&mut self, depth: usize, later: Option<Later>) -> Result<Node<'a>, DecodeError> {
        let head = self.head()?;
        match head.major {
            0 => i64::try_from(head.argument)
                .map(Node::Signed)
                .map_err(|_| DecodeError::Overflow { of: head.name(), number: head.argument.into() }),
            1 => i64::try_from(head.argument)
                .map(|value| Node::Signed(!value))
                .map_err(|_| DecodeError::Overflow { of: head.name(), number: !i128::from(head.argument) }),
            BYTES | TEXT => {
                let bytes = self.string(&head)?;
                match later.filter(|_| head.major == BYTES) {
                    Some(later) => Ok(Node::String(Cow::Owned(later.apply(&bytes)))),
                    None => text(bytes).map(Node::String),
                }
            }
            4 => self.array(&head, below(depth)?, later),
            5 => self.map(&head, below(depth)?, later),
            6 => self.tagged(head.argument, below(depth)?, later),
            _ => primitive(&head),
        }
    }

    fn string(&mut self, head: &Head) -> Result<Cow<'a, [u8]>, DecodeError> {
        if !head.is_open() {
            return self.take(usize::try_from(head.argument).unwrap_or(usize::MAX)).map(Cow::Borrowed);
        }
        let mut all = Vec::new();
        while !self.ends()? {
            let first = self.peek()?;
            let found = first >> 5;
            if found != head.major {
                return Err(DecodeError::Chunk { found: TYPES[usize::from(found)], of: head.name() });
            }
            let chunk = self.head()?;
            if chunk.is_open() {
                return Err(DecodeError::NestedChunk { of: head.name() });
            }
            let part = self.string(&chunk)?;
            // Each part of a text is one.
            if head.major == TEXT && std::str::from_utf8(&part).is_err() {
                return Err(DecodeError::NotUtf8);
            }
            all.extend_from_slice(&part);
        }
        Ok(Cow::Owned(all))
    }

    fn array(&mut self, head: &Head, depth: usize, later: Option<Later>) -> Result<Node<'a>, DecodeError> {
        let mut members = Vec::with_capacity(room(head));
        while self.goes_on(head, members.len())? {
            members.push(self.item(depth, later)?);
        }
        Ok(Node::Array(members))
    }

    fn map(&mut self, head: &Head, depth: usize, later: Option<Later>) -> Result<Node<'a>, DecodeError> {
        let mut members: Vec<(Cow<'a, str>, Node<'a>)> = Vec::with_capacity(room(head));
        while self.goes_on(head, members.len())? {
            let of = TYPES[usize::from(self.peek()? >> 5)];
            let Node::String(key) = self.item(depth, None)? else { return Err(DecodeError::Key(of)) };
            members.push((key, self.item(depth, later)?));
        }
        match duplicate(&members) {
            Some(at) => Err(DecodeError::Duplicate { key: members[at].0.clone().into_owned(), at }),
            None => Ok(Node::Object(members)),
        }
    }

    /// What a tag is around. Tags that mean nothing here are taken off.
    fn tagged(&mut self, tag: u64, depth: usize, later: Option<Later>) -> Result<Node<'a>, DecodeError> {
        let around = self.peek()?;
        let (major, info) = (around >> 5, around & 31);
        let must_be = |holds: bool, want| match holds {
            true => Ok(()),
            false => Err(DecodeError::Tag { tag, want, found: TYPES[usize::from(major)] }),
        };
        match tag {
            0 => {
                must_be(major == TEXT, TYPES[usize::from(TEXT)])?;
                let Node::String(text) = self.item(depth, None)? else { return Err(DecodeError::Truncated) };
                match text.parse::<Timestamp>() {
                    Ok(_) => Ok(Node::String(text)),
                    Err(_) => Err(DecodeError::Time(text.into_owned())),
                }
            }
            1 => {
                let is_number = major < BYTES || (major == PRIMITIVE && matches!(info, 25..=27));
                must_be(is_number, "integer or floating-point number")?;
                since_1970(&self.item(depth, None)?)
            }
            2 | 3 => Err(DecodeError::Unacceptable { of: TYPES[6], what: "bignum".to_owned() }),
            21 => self.item(depth, Some(Later::Base64Url)),
            22 => self.item(depth, Some(Later::Base64)),
            23 => self.item(depth, Some(Later::Base16)),
            _ => self.item(depth, later),
        }
    }
}

impl Later {
    fn apply(self, bytes: &[u8]) -> String {
        match self {
            Self::Base64Url => URL_SAFE_NO_PAD.encode(bytes),
            Self::Base64 => STANDARD.encode(bytes),
            Self::Base16 => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

fn below(depth: usize) -> Result<usize, DecodeError> {
    if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(DecodeError::TooDeep) }
}

fn room(head: &Head) -> usize {
    usize::try_from(head.argument).unwrap_or(ROOM).min(ROOM)
}

/// Byte strings are text as well here, and have to be.
fn text(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, DecodeError> {
    match bytes {
        Cow::Borrowed(bytes) => {
            std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| DecodeError::NotUtf8)
        }
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| DecodeError::NotUtf8),
    }
}

/// The first member whose name another has before it.
fn duplicate(members: &[(Cow<'_, str>, Node<'_>)]) -> Option<usize> {
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by(|a, b| members[*a].0.cmp(&members[*b].0).then(a.cmp(b)));
    let twice = order.windows(2).filter(|pair| members[pair[0]].0 == members[pair[1]].0);
    twice.map(|pair| pair[1]).min()
}

fn primitive(head: &Head) -> Result<Node<'static>, DecodeError> {
    let value = match (head.info, head.argument) {
        (_, 20) if head.info < 24 => return Ok(Node::Bool(false)),
        (_, 21) if head.info < 24 => return Ok(Node::Bool(true)),
        (_, 22) if head.info < 24 => return Ok(Node::Null),
        (25, bits) => half(bits),
        (26, bits) => f32::from_bits(u32::try_from(bits).unwrap_or_default()).into(),
        (27, bits) => f64::from_bits(bits),
        (24, value @ 0..=31) => return Err(DecodeError::Simple(u8::try_from(value).unwrap_or_default())),
        (_, value) => return unacceptable(format!("simple value {value} is not recognized")),
    };
    match value {
        value if value.is_nan() => unacceptable("floating-point NaN".to_owned()),
        value if value.is_infinite() => unacceptable("floating-point infinity".to_owned()),
        value => Ok(Node::Float(value)),
    }
}

fn unacceptable(what: String) -> Result<Node<'static>, DecodeError> {
    Err(DecodeError::Unacceptable { of: TYPES[usize::from(PRIMITIVE)], what })
}

/// The value of a number in half precision.
fn half(bits: u64) -> f64 {
    let number = |bits: u64| f64::from(u16::try_from(bits).unwrap_or_default());
    let fraction = number(bits & 0x3ff);
    let magnitude = match bits >> 10 & 31 {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1024.0 + fraction) * 2f64.powi(i32::try_from(exponent).unwrap_or_default() - 25),
    };
    if bits >> 15 & 1 == 1 { -magnitude } else { magnitude }
}

/// The time of a number of seconds since 1970.
fn since_1970(seconds: &Node<'_>) -> Result<Node<'static>, DecodeError> {
    let (time, said) = match seconds {
        Node::Signed(seconds) => (Timestamp::from_second(*seconds).ok(), seconds.to_string()),
        Node::Float(seconds) => {
            let since = SignedDuration::try_from_secs_f64(*seconds).ok();
            (since.and_then(|since| Timestamp::from_duration(since).ok()), seconds.to_string())
        }
        _ => (None, String::new()),
    };
    time.map(|time| Node::String(Cow::Owned(time.to_string()))).ok_or(DecodeError::Time(said))
}
