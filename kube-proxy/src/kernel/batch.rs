//! A batch of messages as bytes, and the kernel's answers to it.
//!
//! Elements are most of every batch and each change is a few of them, so they are written where they stay; messages
//! of other kinds come from the typed crate.
//!
//! Contract: netlink(7), linux/netfilter/nfnetlink.h.

use std::fmt;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_netfilter::NetfilterMessage;
use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::tables::Command;

/// `NLMSG_ERROR`: a refusal or, with code 0, an acknowledgement.
const ERROR: u16 = 2;
/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 16;
const END: u16 = 17;
/// nfnetlink subsystem of nftables: the high byte of its messages' types, and what a batch is for.
const SUBSYSTEM: u8 = 10;
/// `NLM_F_DUMP_INTR`.
const INTERRUPTED: u16 = 0x10;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// Bytes of a message's header, and of nfnetlink's own behind it.
const HEADER: usize = 16;
const OWN_HEADER: usize = 4;
/// Where a header has the flags.
const FLAGS: usize = 6;

/// Messages that are carried out together.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// The last sequence number of each command.
    ends: SmallVec<[(u32, Label); 2]>,
    first: u32,
    sequence: u32,
    /// Where the last message starts.
    last: usize,
}

/// The beginning of a message or attribute whose length is not known yet.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(super) struct Open(usize);

/// A message of the kernel's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    pub(super) kind: u16,
    /// Others changed what is listed while it was.
    pub(super) interrupted: bool,
    /// The message it answers.
    pub(super) sequence: u32,
    body: &'a [u8],
}

/// A command in a few words: its elements and rules may be thousands.
#[derive(Debug)]
struct Label {
    what: &'static str,
    name: SmolStr,
    count: usize,
}

// === impl Batch ===

impl Batch {
    /// Begins a batch behind a sequence number, in memory that had been used for another one.
    pub(super) fn begin(sequence: u32, bytes: Vec<u8>) -> Self {
        let mut batch = Self::empty(sequence, bytes);
        let begin = batch.message([0, 0], BEGIN, 0, u16::from(SUBSYSTEM));
        batch.close_message(begin);
        batch
    }

    /// No batch at all: single messages.
    pub(super) fn empty(sequence: u32, mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        Self { bytes, ends: SmallVec::new(), first: sequence.wrapping_add(1), sequence, last: 0 }
    }

    /// Appends a question about things of these names: one (an acknowledgement follows the answer), or a list of all.
    pub(super) fn request(&mut self, family: u8, kind: u8, list: bool, names: &[(u16, &str)]) {
        let message = self.nftables(family, kind, if list { NLM_F_DUMP } else { NLM_F_ACK });
        for (kind, name) in names {
            self.attribute(*kind, &[name.as_bytes(), &[0]]);
        }
        self.close_message(message);
    }

    /// What was written since the last command's end was this command.
    pub(super) fn end_command(&mut self, command: Command) {
        self.ends.push((self.sequence, Label::of(command)));
    }

    /// Ends the batch and asks for an acknowledgement of the last command: errors come unasked, and before it.
    pub(super) fn end(&mut self) {
        let at = self.last + FLAGS;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | NLM_F_ACK;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
        let end = self.message([0, 0], END, 0, u16::from(SUBSYSTEM));
        self.close_message(end);
    }

    /// Whether it has no commands.
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The messages.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its memory, for the next one.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The sequence number of the last message.
    pub(super) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Whether a sequence number is of one of its messages.
    pub(super) fn has(&self, sequence: u32) -> bool {
        sequence.wrapping_sub(self.first) <= self.sequence.wrapping_sub(self.first)
    }

    /// The command that a sequence number is of, in words.
    pub(super) fn command(&self, sequence: u32) -> String {
        let at = sequence.wrapping_sub(self.first);
        let command = self.ends.iter().find(|(end, _)| at <= end.wrapping_sub(self.first));
        command.map_or_else(|| "the batch".to_owned(), |(_, label)| label.to_string())
    }

    /// Appends a message.
    pub(super) fn push(&mut self, message: NetfilterMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        self.last = self.bytes.len();
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let size = packet.buffer_len();
        self.bytes.resize(self.last + size.next_multiple_of(4), 0);
        packet.serialize(&mut self.bytes[self.last..self.last + size]);
    }

    /// Begins a message of nftables about a family's table.
    pub(super) fn nftables(&mut self, family: u8, kind: u8, flags: u16) -> Open {
        self.message([family, 0], u16::from_be_bytes([SUBSYSTEM, kind]), flags, 0)
    }

    fn message(&mut self, family: [u8; 2], kind: u16, flags: u16, resource: u16) -> Open {
        self.sequence = self.sequence.wrapping_add(1);
        self.last = self.bytes.len();
        let mut header = [0; HEADER + OWN_HEADER];
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        header[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        header[HEADER..HEADER + 2].copy_from_slice(&family);
        header[HEADER + 2..].copy_from_slice(&resource.to_be_bytes());
        self.bytes.extend_from_slice(&header);
        Open(self.last)
    }

    /// Ends a message.
    pub(super) fn close_message(&mut self, Open(start): Open) {
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Appends an attribute made of these pieces.
    pub(super) fn attribute(&mut self, kind: u16, pieces: &[&[u8]]) {
        let open = self.header(kind);
        pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
        self.close(open);
    }

    /// Begins an attribute that holds others.
    pub(super) fn nest(&mut self, kind: u16) -> Open {
        self.header(NESTED | kind)
    }

    /// Begins an attribute whose bytes are written by [`Batch::raw`].
    pub(super) fn header(&mut self, kind: u16) -> Open {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        Open(start)
    }

    /// Appends bytes to an attribute; to whole words of four with `padded`.
    pub(super) fn raw(&mut self, bytes: &[u8], padded: bool) {
        self.bytes.extend_from_slice(bytes);
        if padded {
            self.pad();
        }
    }

    /// Ends an attribute. It holds at most 64 KiB, which its length must be able to say: the caller knows what it puts in.
    pub(super) fn close(&mut self, Open(start): Open) {
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The first of the kernel's messages, and the bytes behind it.
pub(super) fn message(bytes: &[u8]) -> Option<(Answer<'_>, &[u8])> {
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let length = usize::try_from(word(0)?).ok().filter(|length| *length >= HEADER)?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(bytes.get(FLAGS..FLAGS + 2)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    let behind = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((Answer { kind, interrupted: flags & INTERRUPTED != 0, sequence: word(8)?, body }, behind))
}

// === impl Answer ===

impl Answer<'_> {
    /// The code of a refusal, or 0 of an acknowledgement.
    pub(super) fn code(&self) -> Option<i32> {
        let code = self.body.get(..4).filter(|_| self.kind == ERROR)?;
        code.try_into().ok().map(i32::from_ne_bytes)
    }

    /// What it says of a thing of nftables.
    pub(super) fn attributes(&self) -> &[u8] {
        self.body.get(OWN_HEADER..).unwrap_or_default()
    }
}

// === impl Label ===

impl Label {
    fn of(command: Command) -> Self {
        let (what, name, count) = match command {
            Command::AddTable => ("the table", SmolStr::default(), 1),
            Command::DeleteTable => ("the table's deletion", SmolStr::default(), 1),
            Command::AddSet(name, _) => ("the set", name.into(), 1),
            Command::DeleteSet(name) => ("the deletion of the set", name.into(), 1),
            Command::AddChain(name, _) => ("the chain", name.into(), 1),
            Command::DeleteChain(name) => ("the deletion of the chain", name.into(), 1),
            Command::FlushChain(name) => ("the emptying of the chain", name.into(), 1),
            Command::AddRules(name, chain) => ("rules of the chain", name.into(), chain.rules.len()),
            Command::AddElements(name, elements) => ("elements of the set", name, elements.len()),
            Command::DeleteElements(name, elements) => {
                ("the deletion of elements of the set", name, elements.len())
            }
        };
        Self { what, name, count }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} ({})", self.what, self.name, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_one_after_the_other_and_rubbish_ends_them() {
        let mut bytes = Vec::new();
        for (kind, sequence, code) in [(ERROR, 7_u32, -2_i32), (END, 8, 0), (ERROR, 9, 0)] {
            bytes.extend_from_slice(&20_u32.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&[0; 2]);
            bytes.extend_from_slice(&sequence.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&code.to_ne_bytes());
        }
        bytes.extend_from_slice(&[3, 0, 0, 0, 1]);
        let mut rest = &bytes[..];
        let mut told = Vec::new();
        while let Some((one, behind)) = message(rest) {
            told.push((one.sequence, one.code()));
            rest = behind;
        }
        assert_eq!(told, [(7, Some(-2)), (8, None), (9, Some(0))]);
        assert!(message(&u32::MAX.to_ne_bytes()).is_none());
    }
}
