//! Messages of D-Bus: what the kubelet sends, and what it understands of what it gets. Pure.
//!
//! Contract: D-Bus specification, "Message Protocol" and "Type System"; values of plain types, and variants of those.

/// A message that is none, or has what the kubelet does not understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It ends too early, or is longer than a message may be.
    #[error("a message of the bus has a wrong length")]
    Length,
    /// Something in it is not what its type says.
    #[error("a message of the bus makes no sense")]
    Malformed,
    /// A type that nobody here has a use for.
    #[error("a message of the bus has a value of type {0:?}")]
    Type(char),
}

/// The longest message the kubelet takes; those of logind have some hundred bytes.
const LONGEST: usize = 1 << 20;
/// How deep variants may be in variants.
const DEEPEST: u32 = 4;

/// What a message is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// A call of a method.
    #[default]
    Call,
    /// Its answer.
    Return,
    /// Its failure.
    Error,
    /// Something that happened.
    Signal,
    /// Of a later version, to be left alone.
    Other(u8),
}

impl Kind {
    fn from_wire(byte: u8) -> Self {
        match byte {
            1 => Self::Call,
            2 => Self::Return,
            3 => Self::Error,
            4 => Self::Signal,
            other => Self::Other(other),
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Call => 1,
            Self::Return => 2,
            Self::Error => 3,
            Self::Signal => 4,
            Self::Other(other) => other,
        }
    }
}

/// A value. Variants are what is in them.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `s`, `o` or `g`.
    Text(String),
    /// `b`.
    Flag(bool),
    /// `y`, `q`, `u` or `t`.
    Number(u64),
    /// `n`, `i` or `x`.
    Signed(i64),
    /// `d`.
    Real(f64),
    /// `h`: which of the descriptors that came along.
    Descriptor(u32),
}

/// Values on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    signature: String,
    bytes: Vec<u8>,
    big: bool,
}

impl Body {
    /// With a text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.signature.push('s');
        put_text(&mut self.bytes, text);
        self
    }

    /// With a signed number.
    #[must_use]
    pub fn signed(mut self, number: i32) -> Self {
        self.signature.push('i');
        align(&mut self.bytes, 4);
        self.bytes.extend(number.to_le_bytes());
        self
    }

    /// With a flag.
    #[must_use]
    pub fn flag(mut self, flag: bool) -> Self {
        self.signature.push('b');
        put_number(&mut self.bytes, u32::from(flag));
        self
    }

    /// With a descriptor, by its place among those sent along.
    #[must_use]
    pub fn descriptor(mut self, index: u32) -> Self {
        self.signature.push('h');
        put_number(&mut self.bytes, index);
        self
    }

    /// With a variant that holds a long number.
    #[must_use]
    pub fn variant(mut self, number: u64) -> Self {
        self.signature.push('v');
        put_signature(&mut self.bytes, "t");
        align(&mut self.bytes, 8);
        self.bytes.extend(number.to_le_bytes());
        self
    }

    /// What is in it.
    ///
    /// # Errors
    /// When it is not what its signature says.
    pub fn values(&self) -> Result<Vec<Value>, MessageError> {
        let mut reader = Reader { bytes: &self.bytes, at: 0, big: self.big };
        let values = self.signature.chars().map(|kind| reader.value(kind, 0)).collect::<Result<_, _>>()?;
        if reader.at == self.bytes.len() { Ok(values) } else { Err(MessageError::Length) }
    }
}

/// A message. Fields that it does not have are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Its number; never zero.
    pub serial: u32,
    /// The message that it answers.
    pub reply_to: u32,
    /// The object.
    pub path: String,
    /// The interface.
    pub interface: String,
    /// The method or signal.
    pub member: String,
    /// The name of a failure.
    pub error: String,
    /// Whom it is for.
    pub destination: String,
    /// How many descriptors come along.
    pub fds: u32,
    /// Its values.
    pub body: Body,
}

impl Message {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        let texts = [
            (1, "o", &self.path),
            (2, "s", &self.interface),
            (3, "s", &self.member),
            (4, "s", &self.error),
            (6, "s", &self.destination),
        ];
        // The fields begin at a multiple of eight, so their own alignment is that of the message.
        for (code, kind, text) in texts.into_iter().filter(|(_, _, text)| !text.is_empty()) {
            put_field(&mut fields, code, kind);
            put_text(&mut fields, text);
        }
        for (code, number) in [(5, self.reply_to), (9, self.fds)] {
            if number > 0 {
                put_field(&mut fields, code, "u");
                put_number(&mut fields, number);
            }
        }
        if !self.body.signature.is_empty() {
            put_field(&mut fields, 8, "g");
            put_signature(&mut fields, &self.body.signature);
        }
        let mut out = vec![b'l', self.kind.to_wire(), 0, 1];
        put_number(&mut out, length(&self.body.bytes));
        put_number(&mut out, self.serial);
        put_number(&mut out, length(&fields));
        out.extend(fields);
        align(&mut out, 8);
        out.extend(&self.body.bytes);
        out
    }

    /// The first message in these bytes and its length; `None` while it is not all there.
    ///
    /// # Errors
    /// When this is no message.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, MessageError> {
        let Some(head) = bytes.get(..16) else { return Ok(None) };
        let big = match (head[0], head[3]) {
            (b'l', 1) => false,
            (b'B', 1) => true,
            _ => return Err(MessageError::Malformed),
        };
        let mut reader = Reader { bytes, at: 4, big };
        let body = reader.size()?;
        let serial = reader.number()?;
        let fields_end = reader.size()?.saturating_add(16);
        let body_start = fields_end.next_multiple_of(8);
        let end = body_start.saturating_add(body);
        if end > LONGEST {
            return Err(MessageError::Length);
        }
        if bytes.len() < end {
            return Ok(None);
        }
        let mut message = Self { kind: Kind::from_wire(head[1]), serial, ..Self::default() };
        let mut reader = Reader { bytes: &bytes[..fields_end], at: 16, big };
        while reader.at < fields_end {
            reader.skip_to(8)?;
            let code = reader.byte()?;
            message.set(code, reader.value('v', 0)?);
        }
        message.body.bytes = bytes[body_start..end].to_vec();
        message.body.big = big;
        Ok(Some((message, end)))
    }

    fn set(&mut self, code: u8, value: Value) {
        let number = |value: u64| u32::try_from(value).unwrap_or(0);
        match (code, value) {
            (1, Value::Text(text)) => self.path = text,
            (2, Value::Text(text)) => self.interface = text,
            (3, Value::Text(text)) => self.member = text,
            (4, Value::Text(text)) => self.error = text,
            (5, Value::Number(value)) => self.reply_to = number(value),
            (6, Value::Text(text)) => self.destination = text,
            (8, Value::Text(text)) => self.body.signature = text,
            (9, Value::Number(value)) => self.fds = number(value),
            // Who sent it, and what later versions have.
            _ => {}
        }
    }
}

/// Lengths of what the kubelet writes are far from what does not fit.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn put_number(out: &mut Vec<u8>, number: u32) {
    align(out, 4);
    out.extend(number.to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, length(text.as_bytes()));
    out.extend(text.as_bytes());
    out.push(0);
}

fn put_signature(out: &mut Vec<u8>, signature: &str) {
    out.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
    out.extend(signature.as_bytes());
    out.push(0);
}

fn put_field(out: &mut Vec<u8>, code: u8, kind: &str) {
    align(out, 8);
    out.push(code);
    put_signature(out, kind);
}

/// Reads values; every step is checked against the end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], MessageError> {
        let end = self.at.checked_add(count).ok_or(MessageError::Length)?;
        let taken = self.bytes.get(self.at..end).ok_or(MessageError::Length)?;
        self.at = end;
        Ok(taken)
    }

    fn skip_to(&mut self, multiple: usize) -> Result<(), MessageError> {
        self.take(self.at.next_multiple_of(multiple) - self.at).map(drop)
    }

    fn byte(&mut self) -> Result<u8, MessageError> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// A whole number of so many bytes.
    fn whole<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        self.skip_to(N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        if self.big {
            bytes.reverse();
        }
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u32, MessageError> {
        self.whole().map(u32::from_le_bytes)
    }

    fn size(&mut self) -> Result<usize, MessageError> {
        usize::try_from(self.number()?).map_err(|_| MessageError::Length)
    }

    fn text(&mut self, length: usize) -> Result<String, MessageError> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| MessageError::Malformed)?;
        if self.byte()? == 0 { Ok(text.to_owned()) } else { Err(MessageError::Malformed) }
    }

    fn signature(&mut self) -> Result<String, MessageError> {
        let length = usize::from(self.byte()?);
        self.text(length)
    }

    fn value(&mut self, kind: char, depth: u32) -> Result<Value, MessageError> {
        Ok(match kind {
            's' | 'o' => {
                let length = self.size()?;
                Value::Text(self.text(length)?)
            }
            'g' => Value::Text(self.signature()?),
            'b' => match self.number()? {
                0 => Value::Flag(false),
                1 => Value::Flag(true),
                _ => return Err(MessageError::Malformed),
            },
            'y' => Value::Number(self.byte()?.into()),
            'q' => Value::Number(u16::from_le_bytes(self.whole()?).into()),
            'u' => Value::Number(self.number()?.into()),
            't' => Value::Number(u64::from_le_bytes(self.whole()?)),
            'n' => Value::Signed(i16::from_le_bytes(self.whole()?).into()),
            'i' => Value::Signed(i32::from_le_bytes(self.whole()?).into()),
            'x' => Value::Signed(i64::from_le_bytes(self.whole()?)),
            'd' => Value::Real(f64::from_le_bytes(self.whole()?)),
            'h' => Value::Descriptor(self.number()?),
            'v' if depth < DEEPEST => {
                let signature = self.signature()?;
                let mut kinds = signature.chars();
                match (kinds.next(), kinds.next()) {
                    (Some(kind), None) => self.value(kind, depth + 1)?,
                    (Some(kind), Some(_)) => return Err(MessageError::Type(kind)),
                    _ => return Err(MessageError::Malformed),
                }
            }
            other => return Err(MessageError::Type(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signal() -> Message {
        Message {
            kind: Kind::Signal,
            serial: 7,
            path: "/org/freedesktop/login1".into(),
            interface: "org.freedesktop.login1.Manager".into(),
            member: "PrepareForShutdown".into(),
            body: Body::default().flag(true).text("why").variant(1 << 40).signed(-1).descriptor(2),
            ..Message::default()
        }
    }

    #[test]
    fn messages_come_back_as_they_were_sent() {
        let error = Message {
            kind: Kind::Error,
            serial: 1,
            reply_to: 9,
            error: "org.example.Failed".into(),
            destination: ":1.5".into(),
            fds: 3,
            ..Message::default()
        };
        for message in [signal(), error, Message { serial: 2, ..Message::default() }] {
            let bytes = message.encode();
            for end in 0..bytes.len() {
                assert_eq!(Message::decode(&bytes[..end]), Ok(None), "{end} bytes");
            }
            let twice = [bytes.clone(), bytes.clone()].concat();
            assert_eq!(Message::decode(&twice), Ok(Some((message, bytes.len()))));
        }
        let values = signal().body.values().unwrap();
        let expected = [
            Value::Flag(true),
            Value::Text("why".into()),
            Value::Number(1 << 40),
            Value::Signed(-1),
            Value::Descriptor(2),
        ];
        assert_eq!(values, expected);
    }

    /// As a bus on a machine of the other byte order sends it.
    #[test]
    fn the_other_byte_order_is_understood() {
        let mut bytes = vec![b'B', 4, 1, 1, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 15];
        bytes.extend([3, 1, b's', 0, 0, 0, 0, 1, b'M', 0, 0, 0, 0, 0, 0, 0]);
        // The fields end one byte early: a second one, of the body's signature, begins at a multiple of eight.
        bytes.truncate(26);
        bytes[15] = 21;
        bytes.resize(32, 0);
        bytes.extend([8, 1, b'g', 0, 1, b'b', 0]);
        bytes[15] = 23;
        bytes.resize(40, 0);
        bytes.extend([0, 0, 0, 1]);
        let (message, length) = Message::decode(&bytes).unwrap().unwrap();
        assert_eq!(
            (message.kind, message.serial, message.member.as_str(), length),
            (Kind::Signal, 9, "M", 44)
        );
        assert_eq!(message.body.values(), Ok(vec![Value::Flag(true)]));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let good = signal().encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Message::decode(&bytes)
        };
        assert_eq!(with(0, b'x'), Err(MessageError::Malformed));
        assert_eq!(with(3, 2), Err(MessageError::Malformed));
        assert_eq!(with(7, 0x10), Err(MessageError::Length), "a message of 256 MB");
        assert_eq!(with(17, 200), Err(MessageError::Length));
        let body = |signature: &str, bytes: &[u8]| {
            Body { signature: signature.into(), bytes: bytes.to_vec(), big: false }.values()
        };
        assert_eq!(body("b", &[2, 0, 0, 0]), Err(MessageError::Malformed));
        assert_eq!(body("s", &[1, 0, 0, 0, 0xff, 0]), Err(MessageError::Malformed));
        assert_eq!(body("s", &[255, 255, 255, 255]), Err(MessageError::Length));
        assert_eq!(body("", &[0]), Err(MessageError::Length));
        assert_eq!(body("a", &[]), Err(MessageError::Type('a')));
        assert_eq!(body("v", &[1, b'v', 0].repeat(9)), Err(MessageError::Type('v')));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_bad(mut bytes in proptest::collection::vec(any::<u8>(), 0..96), big in any::<bool>()) {
            if bytes.len() > 3 {
                (bytes[0], bytes[3]) = (if big { b'B' } else { b'l' }, 1);
            }
            if bytes.len() > 15 {
                let (body, fields) = if big { (7, 15) } else { (4, 12) };
                let (b, f) = (bytes[body] % 32, bytes[fields] % 64);
                bytes[4..8].fill(0);
                bytes[12..16].fill(0);
                (bytes[body], bytes[fields]) = (b, f);
            }
            if let Ok(Some((message, length))) = Message::decode(&bytes) {
                prop_assert!(length <= bytes.len());
                // Whether it has values is its own affair; looking must not hurt.
                message.body.values().map(drop).unwrap_or_default();
            }
        }
    }
}
