//! nftables as plain data, and the difference between two states of a table.

mod diff;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use smallvec::SmallVec;

pub use diff::{Command, diff};

/// Address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where the kernel enters it; `None` for chains that are jumped to.
    pub hook: Option<Hook>,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `nat` or `filter`.
    pub kind: &'static str,
    /// Point in the packet's way.
    pub point: HookPoint,
    /// Lower runs earlier (dstnat is -100, srcnat 100).
    pub priority: i32,
}

/// Points in a packet's way (netfilter hooks).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    /// Before routing.
    Prerouting,
    /// To this machine.
    Input,
    /// Through this machine.
    Forward,
    /// From this machine.
    Output,
    /// After routing.
    Postrouting,
}

/// A rule: statements in order; the first that does not match ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Shown by `nft list`.
    pub comment: String,
    /// Statements.
    pub statements: Vec<Statement>,
}

/// A field of a packet or connection that keys are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Source address.
    Source,
    /// Destination address.
    Destination,
    /// Transport protocol.
    Protocol,
    /// Destination port.
    DestinationPort,
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// The fields together are (or are not) in a set.
    In {
        /// Fields, in the key's order.
        key: Vec<Field>,
        /// Set.
        set: String,
        /// Match when they are not.
        negate: bool,
    },
    /// Do what a verdict map says about the fields.
    VerdictMap {
        /// Fields, in the key's order.
        key: Vec<Field>,
        /// Map.
        map: String,
    },
    /// An address field lies in (or outside) a range.
    Within {
        /// Source or destination.
        field: Field,
        /// Range.
        range: ipnet::IpNet,
        /// Match when outside.
        negate: bool,
    },
    /// The packet came in by an interface of this name, or one that begins so (or by another one).
    CameBy {
        /// The name, or its beginning.
        name: String,
        /// Interfaces that begin so count as well.
        prefix: bool,
        /// Match when it came in by another one.
        negate: bool,
    },
    /// The transport protocol is this.
    ProtocolIs(u8),
    /// The destination port is one of these, first and last included.
    PortIn(u16, u16),
    /// The destination address is one of this machine's.
    DestinationIsLocal,
    /// The source address is one of this machine's.
    SourceIsLocal,
    /// First packet of a connection.
    NewConnection,
    /// Packet of a connection's answering side.
    Reply,
    /// Packet that belongs to another connection: an ICMP error, the data of an FTP session.
    Related,
    /// All bits of the mark are set.
    MarkSet(u32),
    /// Sets bits of the mark.
    SetMark(u32),
    /// Clears bits of the mark.
    ClearMark(u32),
    /// Sends the connection to a random endpoint: a map holds `count` of them under the fields with a slot from `first`
    /// on.
    BalanceAt {
        /// Fields before the slot, in the key's order.
        key: Vec<Field>,
        /// Map from fields and slot to address and port.
        map: String,
        /// First slot.
        first: u32,
        /// Number of slots.
        count: u32,
    },
    /// Goes to the chain of a random endpoint: `count` slots from `first` of a map of chains.
    BalanceOver {
        /// Map from slot to verdict.
        map: String,
        /// First slot.
        first: u32,
        /// Number of slots.
        count: u32,
    },
    /// Sends the connection to an endpoint.
    SendTo(IpAddr, u16),
    /// Remembers the source address in a set, for `timeout` milliseconds from now.
    Remember {
        /// Set of addresses.
        set: String,
        /// Milliseconds since the last connection.
        timeout: u64,
    },
    /// Replaces the source address by the outgoing interface's.
    Masquerade,
    /// Refuses with "port unreachable".
    Reject,
    /// Ends with a verdict.
    Verdict(Verdict),
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Let pass; the other hooks are asked all the same.
    Accept,
    /// Discard.
    Drop,
    /// Go to a chain and come back.
    Jump(String),
    /// Go to a chain for good.
    Goto(String),
    /// Back to the caller.
    Return,
}

/// A set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// What keys are made of.
    pub key: Vec<Kind>,
    /// What elements lead to.
    pub data: Data,
    /// For sets filled by rules: how long elements stay, in milliseconds.
    pub timeout: Option<u64>,
    /// Elements; those of sets filled by rules are the kernel's business.
    pub elements: BTreeMap<Key, Value>,
}

/// Types of key and data parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An address of the table's family.
    Address,
    /// A transport protocol.
    Protocol,
    /// A port.
    Port,
    /// A number in the machine's byte order.
    Slot,
}

/// What elements lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing: a set.
    None,
    /// Nothing: a set of ranges, each element from its key to its value. They are disjoint and do not touch;
    /// such a set never changes.
    Ranges,
    /// A verdict.
    Verdict,
    /// A value of these parts.
    Parts(Vec<Kind>),
}

/// One part of a key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// An address.
    Address(IpAddr),
    /// A protocol number.
    Protocol(u8),
    /// A port.
    Port(u16),
    /// A slot.
    Slot(u32),
}

/// A key: few parts, and so many of them that each one's own memory would show.
pub type Key = SmallVec<[Part; 4]>;

/// What an element leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Nothing.
    None,
    /// The last address of a range that begins at the key.
    Until(IpAddr),
    /// A verdict.
    Verdict(Verdict),
    /// Parts.
    Parts(SmallVec<[Part; 2]>),
}

impl Table {
    /// A set or map without elements.
    pub fn declare(&mut self, name: &str, key: &[Kind], data: Data) {
        let set = Set { key: key.to_vec(), data, timeout: None, elements: BTreeMap::new() };
        self.sets.insert(name.to_owned(), set);
    }

    /// Adds an element; the first wins when two claim the same key.
    pub fn element(&mut self, set: &str, key: Key, value: Value) {
        if let Some(set) = self.sets.get_mut(set) {
            set.elements.entry(key).or_insert(value);
        }
    }

    /// Adds a rule to a chain, made if missing.
    pub fn rule(&mut self, chain: &str, comment: &str, statements: Vec<Statement>) {
        let rule = Rule { comment: comment.to_owned(), statements };
        self.chains.entry(chain.to_owned()).or_default().rules.push(rule);
    }

    /// Names of chains that rules or elements lead to: each must exist.
    pub fn references(&self) -> BTreeSet<&str> {
        let mut out = BTreeSet::new();
        let rules = self.chains.values().flat_map(|c| &c.rules).flat_map(|r| &r.statements);
        for statement in rules {
            if let Statement::Verdict(Verdict::Jump(name) | Verdict::Goto(name)) = statement {
                out.insert(name.as_str());
            }
        }
        for value in self.sets.values().flat_map(|s| s.elements.values()) {
            if let Value::Verdict(Verdict::Jump(name) | Verdict::Goto(name)) = value {
                out.insert(name.as_str());
            }
        }
        out
    }
}

#[cfg(test)]
impl Table {
    /// Does what the kernel would do, and refuses what it would refuse.
    pub fn apply(&mut self, command: Command) {
        match command {
            Command::AddTable => {}
            Command::DeleteTable => *self = Self::default(),
            Command::AddSet(name, set) => assert!(self.sets.insert(name, set).is_none()),
            Command::DeleteSet(name) => assert!(self.sets.remove(&name).is_some()),
            Command::AddChain(name, chain) => assert!(self.chains.insert(name, chain).is_none()),
            Command::DeleteChain(name) => {
                assert!(!self.references().contains(name.as_str()), "{name} is still used");
                assert!(self.chains.remove(&name).is_some_and(|c| c.rules.is_empty()));
            }
            Command::FlushChain(name) => self.chains.get_mut(&name).unwrap().rules.clear(),
            Command::AddRules(name, chain) => {
                self.chains.get_mut(&name).unwrap().rules.extend(chain.rules);
                for used in self.references() {
                    assert!(self.chains.contains_key(used), "{used} does not exist yet");
                }
            }
            Command::AddElements(name, elements) => {
                for (key, value) in elements {
                    assert!(self.sets.get_mut(&*name).unwrap().elements.insert(key, value).is_none());
                }
            }
            Command::DeleteElements(name, elements) => {
                for (key, value) in elements {
                    assert_eq!(self.sets.get_mut(&*name).unwrap().elements.remove(&key), Some(value));
                }
            }
        }
    }
}
