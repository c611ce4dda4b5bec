//! What others do to nftables: the number of its generation tells that somebody did something, and our table tells
//! whether it was done to us.
//!
//! Notices of changes would tell both at once, but the kernel writes one for every element of ours as soon as anybody
//! listens; so the number is asked for now and then, which costs one small message.
//!
//! Contract: linux/netfilter/nf_tables.h (`NFT_MSG_GETGEN`, `NFT_MSG_GETTABLE`, `NFT_MSG_GETRULE`).

use std::io;

use super::{
    Kernel, KernelError,
    batch::{self, Batch},
    message,
};
use crate::tables::Family;

/// `NFT_MSG_*` requests, and the kernel's answers to them.
const NEW_TABLE: u8 = 0;
const GET_TABLE: u8 = 1;
const NEW_RULE: u8 = 6;
const GET_RULE: u8 = 7;
const NEW_GENERATION: u8 = 15;
const GET_GENERATION: u8 = 16;
/// `NFTA_TABLE_NAME`, `NFTA_TABLE_HANDLE`, `NFTA_RULE_TABLE`, `NFTA_RULE_CHAIN`, `NFTA_GEN_ID`.
const TABLE_NAME: u16 = 1;
const TABLE_HANDLE: u16 = 4;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const GENERATION_ID: u16 = 1;
/// `NLMSG_DONE`: the end of a list.
const DONE: u16 = 3;

/// What is remembered of the ruleset's generations.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Generations {
    /// The one seen last.
    seen: Option<u32>,
    /// How many of our own have come since.
    own: u32,
}

impl Generations {
    /// A transaction of ours was carried out.
    pub(super) fn committed(&mut self) {
        self.own = self.own.wrapping_add(1);
    }

    /// Takes in the number as it is now; whether others have changed anything since the last time.
    fn see(&mut self, now: u32) -> bool {
        let expected = self.seen.map(|seen| seen.wrapping_add(self.own));
        *self = Self { seen: Some(now), own: 0 };
        expected.is_some_and(|expected| expected != now)
    }
}

impl Kernel {
    /// Whether anybody but this conversation has changed nftables since this was asked last; the first time nobody has.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn others_changed(&mut self) -> Result<bool, KernelError> {
        let mut now = None;
        let request = |batch: &mut Batch| batch.request(0, GET_GENERATION, false, &[]);
        self.ask(request, |kind, attributes| {
            if kind == NEW_GENERATION {
                now = attribute(attributes, GENERATION_ID);
            }
        })?;
        let now = now.and_then(|id| id.try_into().ok()).map(u32::from_be_bytes);
        Ok(now.is_some_and(|now| self.generations.see(now)))
    }

    /// The handle of a family's table: another table of the same name has another one. None without a table.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn handle(&mut self, family: Family) -> Result<Option<u64>, KernelError> {
        let (table, family) = (self.table, message::family_number(family));
        let mut handle = None;
        let request = |batch: &mut Batch| batch.request(family, GET_TABLE, false, &[(TABLE_NAME, table)]);
        self.ask(request, |kind, attributes| {
            if kind == NEW_TABLE {
                handle = attribute(attributes, TABLE_HANDLE);
            }
        })?;
        Ok(handle.and_then(|handle| handle.try_into().ok()).map(u64::from_be_bytes))
    }

    /// How many rules a chain of a family's table has.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn rules(&mut self, family: Family, chain: &str) -> Result<usize, KernelError> {
        let (table, family) = (self.table, message::family_number(family));
        let mut rules = 0;
        let names = [(RULE_TABLE, table), (RULE_CHAIN, chain)];
        let request = |batch: &mut Batch| batch.request(family, GET_RULE, true, &names);
        self.ask(request, |kind, _| rules += usize::from(kind == NEW_RULE))?;
        Ok(rules)
    }

    /// Sends one request and reads its answers up to the last; what does not exist has none. Whether they are of one time.
    pub(super) fn ask(
        &mut self,
        request: impl FnOnce(&mut Batch),
        mut answered: impl FnMut(u8, &[u8]),
    ) -> Result<bool, KernelError> {
        let mut whole = true;
        let mut message = Batch::empty(self.sequence, std::mem::take(&mut self.batch));
        request(&mut message);
        self.sequence = message.sequence();
        let sent = self.send(message.bytes());
        self.batch = message.into_bytes();
        sent.map_err(KernelError::Socket)?;
        loop {
            let size = self.socket.recv(&mut &mut self.buffer[..], 0).map_err(KernelError::Socket)?;
            let mut rest = &self.buffer[..size];
            while let Some((answer, behind)) = batch::message(rest) {
                rest = behind;
                if answer.sequence != self.sequence {
                    continue;
                }
                whole &= !answer.interrupted;
                match (answer.code(), answer.kind) {
                    (Some(0), _) | (_, DONE) => return Ok(whole),
                    (Some(code), _) if code.saturating_neg() == nix::libc::ENOENT => return Ok(whole),
                    (Some(code), _) => {
                        return Err(KernelError::Socket(io::Error::from_raw_os_error(code.saturating_neg())));
                    }
                    (None, kind) => answered(kind.to_be_bytes()[1], answer.attributes()),
                }
            }
        }
    }
}

/// The value of the first attribute of a kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<Vec<u8>> {
    /// Flags among the bits of a kind (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
    const FLAGS: u16 = 0xc000;
    while let Some([l0, l1, k0, k1]) = attributes.get(..4).and_then(|head| <[u8; 4]>::try_from(head).ok()) {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([k0, k1]) & !FLAGS == wanted {
            return Some(value.to_vec());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_of_ones_own_are_no_news() {
        let mut generations = Generations::default();
        assert!(!generations.see(7), "nothing is known before");
        assert!(!generations.see(7));
        generations.committed();
        generations.committed();
        assert!(!generations.see(9));
        assert!(generations.see(10), "somebody else's");
        generations.committed();
        assert!(generations.see(12), "one's own and somebody else's");
        generations.see(u32::MAX);
        generations.committed();
        assert!(!generations.see(0));
    }

    #[test]
    fn attributes_are_found_and_rubbish_has_none() {
        let bytes = [5, 0, 1, 0, 9, 0, 0, 0, 8, 0, 4, 0x80, 1, 2, 3, 4];
        assert_eq!(attribute(&bytes, 1), Some(vec![9]));
        assert_eq!(attribute(&bytes, 4), Some(vec![1, 2, 3, 4]));
        assert_eq!(attribute(&bytes, 5), None);
        assert_eq!(attribute(&[200, 0, 1, 0, 1], 1), None);
        assert_eq!(attribute(&[0, 0, 2, 0, 1, 0, 0, 0], 1), None);
    }
}
