//! The protobuf wire format: a bounds-checked reader, and a writer that goes from the end to the start.
//!
//! Writing backwards makes each message's length known when it is due, in one pass and without measuring first.

use bytes::Bytes;

use super::{DecodeError, MAX_DEPTH};

/// One value as it lies on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Reads the fields of one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field's tag and value; groups, which nothing of Kubernetes uses, are stepped over.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, DecodeError> {
        while !self.rest.is_empty() {
            let (tag, wire_type) = self.key()?;
            if wire_type == 3 {
                self.skip_group()?;
            } else {
                return self.value(tag, wire_type).map(|value| Some((tag, value)));
            }
        }
        Ok(None)
    }

    fn key(&mut self) -> Result<(u64, u8), DecodeError> {
        let key = self.varint()?;
        let (tag, wire_type) = (key >> 3, (key & 7) as u8);
        if tag == 0 || tag > u64::from(u32::MAX >> 3) {
            return Err(DecodeError::IllegalTag { tag, wire_type });
        }
        Ok((tag, wire_type))
    }

    fn value(&mut self, tag: u64, wire_type: u8) -> Result<Wire<'a>, DecodeError> {
        Ok(match wire_type {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(DecodeError::IllegalTag { tag, wire_type }),
        })
    }

    /// Steps over a group whose start has been read.
    fn skip_group(&mut self) -> Result<(), DecodeError> {
        let mut open = 1;
        while open > 0 {
            let (tag, wire_type) = self.key()?;
            match wire_type {
                3 if open == MAX_DEPTH => return Err(DecodeError::TooDeep),
                3 => open += 1,
                4 => open -= 1,
                _ => drop(self.value(tag, wire_type)?),
            }
        }
        Ok(())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// A number in base 128.
    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Overflow)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Writes from the end of a buffer towards its start.
pub(super) struct Back {
    buffer: Vec<u8>,
    /// What is written begins here.
    start: usize,
}

impl Back {
    pub(super) fn with_capacity(size: usize) -> Self {
        Self { buffer: vec![0; size], start: size }
    }

    /// Bytes written so far: a mark to close a message at.
    pub(super) fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Puts bytes before what is written.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if self.start < bytes.len() {
            self.grow(bytes.len());
        }
        self.start -= bytes.len();
        self.buffer[self.start..self.start + bytes.len()].copy_from_slice(bytes);
    }

    fn grow(&mut self, more: usize) {
        let written = self.len();
        let size = (written + more).max(self.buffer.len() * 2).max(64);
        let mut wider = vec![0; size];
        wider[size - written..].copy_from_slice(&self.buffer[self.start..]);
        self.start = size - written;
        self.buffer = wider;
    }

    pub(super) fn varint(&mut self, mut value: u64) {
        let mut bytes = [0u8; 10];
        let mut length = 0;
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            bytes[length] = if value > 0 { low | 0x80 } else { low };
            length += 1;
            if value == 0 {
                break;
            }
        }
        self.put(&bytes[..length]);
    }

    pub(super) fn key(&mut self, tag: u16, wire_type: u8) {
        self.varint(u64::from(tag) << 3 | u64::from(wire_type));
    }

    /// Makes what was written since `mark` the value of a length-delimited field.
    pub(super) fn close(&mut self, mark: usize, tag: u16) {
        self.varint((self.len() - mark) as u64);
        self.key(tag, 2);
    }

    /// A field of bytes.
    pub(super) fn bytes(&mut self, tag: u16, bytes: &[u8]) {
        let mark = self.len();
        self.put(bytes);
        self.close(mark, tag);
    }

    /// A field of text.
    pub(super) fn text(&mut self, tag: u16, text: &str) {
        self.bytes(tag, text.as_bytes());
    }

    /// A field of a number; negative ones take ten bytes, as Go writes them.
    pub(super) fn integer(&mut self, tag: u16, value: i64) {
        self.varint(value.cast_unsigned());
        self.key(tag, 0);
    }

    pub(super) fn finish(self) -> Bytes {
        Bytes::from(self.buffer).slice(self.start..)
    }
}
