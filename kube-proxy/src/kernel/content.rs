//! What a table holds, in a few numbers: enough to see whether others have changed it, however large it is.
//!
//! What the kernel says is read in the same way as what we would send, message by message. The order of a set's elements
//! has no meaning, that of a chain's rules has. Of rules their kind is compared, not all their parts, some of which the
//! kernel says in other words; sets that rules fill are the kernel's business.
//!
//! Contract: linux/netfilter/nf_tables.h (`NFT_MSG_GETSETELEM`, `NFT_MSG_GETRULE`).

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hash},
};

use foldhash::fast::FixedState;
use smallvec::SmallVec;

use super::{
    Kernel, KernelError,
    batch::{self, Batch},
    message,
};
use crate::tables::{Command, Family};

/// `NFT_MSG_*`: requests, and what comes of them.
const NEW_RULE: u8 = 6;
const GET_RULE: u8 = 7;
const NEW_ELEMENTS: u8 = 12;
const GET_ELEMENTS: u8 = 13;
/// `NFTA_SET_ELEM_LIST_TABLE`, `_SET`, `_ELEMENTS`; `NFTA_RULE_TABLE`, `_CHAIN`, `_EXPRESSIONS`, `_USERDATA`.
const TABLE: u16 = 1;
const SET: u16 = 2;
const ELEMENTS: u16 = 3;
const CHAIN: u16 = 2;
const EXPRESSIONS: u16 = 4;
const COMMENT: u16 = 7;
/// `NFTA_SET_ELEM_KEY`, `NFTA_SET_ELEM_DATA`, `NFTA_SET_ELEM_FLAGS`; `NFTA_DATA_VERDICT`; `NFTA_EXPR_NAME`.
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const VERDICT: u16 = 2;
const EXPRESSION_NAME: u16 = 1;

/// What is compared of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Elements by set.
    sets: BTreeMap<String, Sum>,
    /// Rules by chain, the place of each counted in.
    chains: BTreeMap<String, Sum>,
}

/// How many there are, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    count: u64,
    hash: u64,
}

/// A value with the kinds of attributes it stands in, from outside in.
type Said<'a> = ([u16; 3], &'a [u8]);

// === impl Sum ===

impl Sum {
    fn add(&mut self, hash: u64) {
        self.count += 1;
        self.hash = self.hash.wrapping_add(hash);
    }
}

// === impl Content ===

impl Content {
    /// What a table holds that these commands make anew.
    pub fn of(family: Family, commands: impl IntoIterator<Item = Command>) -> Self {
        let mut content = Self::default();
        let (mut set_id, mut memory) = (0, Vec::new());
        for command in commands {
            match &command {
                Command::AddSet(name, set) if set.timeout.is_none() => {
                    content.sets.entry(name.clone()).or_default();
                }
                Command::AddElements(..) | Command::AddRules(..) => {}
                _ => continue,
            }
            let mut written = Batch::empty(0, memory);
            message::encode(&mut written, "", family, &command, &mut set_id);
            let mut rest = written.bytes();
            while let Some((said, behind)) = batch::message(rest) {
                content.take_in(said.kind.to_be_bytes()[1], said.attributes());
                rest = behind;
            }
            memory = written.into_bytes();
        }
        content
    }

    /// Counts what a message says.
    fn take_in(&mut self, kind: u8, attributes: &[u8]) {
        match kind {
            NEW_ELEMENTS => self.elements(attributes),
            NEW_RULE => self.rule(attributes),
            _ => {}
        }
    }

    fn elements(&mut self, attributes: &[u8]) {
        let all: HashMap<u16, &[u8]> = children(attributes).collect();
        let (Some(set), Some(elements)) = (all.get(&SET), all.get(&ELEMENTS)) else { return };
        let Some(sum) = self.sets.get_mut(text(set)) else { return };
        for (_, element) in children(elements) {
            let mut said: SmallVec<[Said<'_>; 4]> = SmallVec::new();
            for (kind, value) in children(element) {
                match kind {
                    ELEMENT_FLAGS => said.push(([kind, 0, 0], value)),
                    ELEMENT_KEY | ELEMENT_DATA => describe(kind, value, &mut said),
                    // What else the kernel says of an element is its own matter.
                    _ => {}
                }
            }
            said.sort_unstable();
            sum.add(hash(&said));
        }
    }

    fn rule(&mut self, attributes: &[u8]) {
        let all: HashMap<u16, &[u8]> = children(attributes).collect();
        let Some(chain) = all.get(&CHAIN).map(|name| text(name)) else { return };
        let expressions = children(all.get(&EXPRESSIONS).copied().unwrap_or_default());
        let name = |(_, expression)| children(expression).find(|(kind, _)| *kind == EXPRESSION_NAME);
        let names: Vec<&[u8]> = expressions.filter_map(name).map(|(_, name)| name).collect();
        let sum = match self.chains.get_mut(chain) {
            Some(sum) => sum,
            None => self.chains.entry(chain.to_owned()).or_default(),
        };
        sum.add(hash(&(sum.count, names, all.get(&COMMENT))));
    }
}

impl Kernel {
    /// What a family's table holds, of the sets that `like` has; none if others changed it meanwhile.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn content(&mut self, family: Family, like: &Content) -> Result<Option<Content>, KernelError> {
        let (table, number) = (self.table, message::family_number(family));
        let mut content = Content::default();
        for set in like.sets.keys() {
            content.sets.insert(set.clone(), Sum::default());
            let names = [(TABLE, table), (SET, set.as_str())];
            let request = |batch: &mut Batch| batch.request(number, GET_ELEMENTS, true, &names);
            if !self.ask(request, |kind, said| content.take_in(kind, said))? {
                return Ok(None);
            }
        }
        let request = |batch: &mut Batch| batch.request(number, GET_RULE, true, &[(TABLE, table)]);
        let whole = self.ask(request, |kind, said| content.take_in(kind, said))?;
        Ok(whole.then_some(content))
    }
}

/// The parts of a key or of data. Flags among the bits of their kinds are left out: the kernel sets other ones.
fn describe<'a>(kind: u16, value: &'a [u8], said: &mut SmallVec<[Said<'a>; 4]>) {
    for (inside, value) in children(value) {
        match inside {
            VERDICT => said.extend(children(value).map(|(part, value)| ([kind, inside, part], value))),
            _ => said.push(([kind, inside, 0], value)),
        }
    }
}

fn hash(what: &impl Hash) -> u64 {
    FixedState::default().hash_one(what)
}

/// A name ends with a zero.
fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    // One that is no UTF-8 is none of ours.
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

/// Attributes by kind, without the flags among its bits; what is cut off ends them.
fn children(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`.
    const FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = bytes.get(..4).and_then(|head| <[u8; 4]>::try_from(head).ok())?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & !FLAGS, value))
    })
}
