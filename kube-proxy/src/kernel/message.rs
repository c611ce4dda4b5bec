//! Commands as netlink messages.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        ChainAttribute, ChainMessage, DataAttribute, Hook as HookAttribute, InetHookNumber, ListAttribute,
        NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute, SetElementFlags,
        SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute, TableMessage,
    },
    none::ControlMessage,
};

use super::expression;
use crate::tables::{Chain, Command, Data, Family, HookPoint, Key, Kind, Part, Set, Value};

/// Elements per message: the list's length attribute holds 16 bits, and a range counts twice.
const ELEMENTS: usize = 300;
/// nfnetlink subsystem of nftables, named by batch messages.
const SUBSYSTEM: u16 = 10;
/// `NFTA_CHAIN_TYPE` is typed; a rule's comment is user data of type 0 (libnftnl).
const COMMENT: u8 = 0;

pub(super) fn batch_begin() -> NetfilterMessage {
    NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM),
        ControlMessage::BatchBegin,
    )
}

pub(super) fn batch_end() -> NetfilterMessage {
    NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM),
        ControlMessage::BatchEnd,
    )
}

/// The messages of a command with their flags.
pub(super) fn encode(
    table: &str,
    family: Family,
    command: &Command,
    set_id: &mut u32,
) -> Vec<(NetfilterMessage, u16)> {
    let owned = || table.to_owned();
    let one = |m: NfTablesMessage, flags| vec![(wrap(family, m), flags)];
    match command {
        Command::AddTable => {
            let attributes = vec![TableAttribute::Name(owned())];
            one(NfTablesMessage::NewTable(TableMessage { attributes }), NLM_F_CREATE)
        }
        Command::DeleteTable => {
            let attributes = vec![TableAttribute::Name(owned())];
            one(NfTablesMessage::DeleteTable(TableMessage { attributes }), 0)
        }
        Command::AddSet(name, set) => {
            *set_id += 1;
            one(
                NfTablesMessage::NewSet(SetMessage {
                    attributes: set_attributes(table, family, name, set, *set_id),
                }),
                NLM_F_CREATE,
            )
        }
        Command::DeleteSet(name) => {
            let attributes = vec![SetAttribute::Table(owned()), SetAttribute::Name(name.clone())];
            one(NfTablesMessage::DeleteSet(SetMessage { attributes }), 0)
        }
        Command::AddChain(name, chain) => one(
            NfTablesMessage::NewChain(ChainMessage { attributes: chain_attributes(table, name, chain) }),
            NLM_F_CREATE,
        ),
        Command::DeleteChain(name) => {
            let attributes = vec![ChainAttribute::Table(owned()), ChainAttribute::Name(name.clone())];
            one(NfTablesMessage::DeleteChain(ChainMessage { attributes }), 0)
        }
        Command::FlushChain(name) => {
            let attributes = vec![RuleAttribute::Table(owned()), RuleAttribute::Chain(name.clone())];
            one(NfTablesMessage::DeleteRule(RuleMessage { attributes }), 0)
        }
        Command::AddRules(name, chain) => rules(table, family, name, chain),
        Command::AddElements(set, elements) => {
            split(table, family, set, elements, NLM_F_CREATE, NfTablesMessage::NewSetElement)
        }
        Command::DeleteElements(set, elements) => {
            split(table, family, set, elements, 0, NfTablesMessage::DeleteSetElement)
        }
    }
}

fn wrap(family: Family, message: NfTablesMessage) -> NetfilterMessage {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), NetfilterMessageInner::NfTables(message))
}

fn rules(table: &str, family: Family, name: &str, chain: &Chain) -> Vec<(NetfilterMessage, u16)> {
    let rule = |rule: &crate::tables::Rule| {
        let expressions =
            rule.statements.iter().flat_map(|s| expression::encode(family, s)).map(Into::into).collect();
        let mut attributes = vec![
            RuleAttribute::Table(table.to_owned()),
            RuleAttribute::Chain(name.to_owned()),
            RuleAttribute::Expressions(expressions),
        ];
        if !rule.comment.is_empty() {
            attributes.push(RuleAttribute::UserData(comment(&rule.comment)));
        }
        (wrap(family, NfTablesMessage::NewRule(RuleMessage { attributes })), NLM_F_CREATE | NLM_F_APPEND)
    };
    chain.rules.iter().map(rule).collect()
}

/// A comment as nft shows it: type, length, text with a final zero; at most 128 bytes.
fn comment(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(126)];
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let mut out = vec![COMMENT, length];
    out.extend_from_slice(text);
    out.push(0);
    out
}

fn chain_attributes(table: &str, name: &str, chain: &Chain) -> Vec<ChainAttribute> {
    let mut out = vec![ChainAttribute::Table(table.to_owned()), ChainAttribute::Name(name.to_owned())];
    if let Some(hook) = chain.hook {
        let point = match hook.point {
            HookPoint::Prerouting => InetHookNumber::PreRouting,
            HookPoint::Input => InetHookNumber::LocalIn,
            HookPoint::Forward => InetHookNumber::Forward,
            HookPoint::Output => InetHookNumber::LocalOut,
            HookPoint::Postrouting => InetHookNumber::PostRouting,
        };
        let number = HookAttribute::Number(point.into());
        out.push(ChainAttribute::Hook(vec![number, HookAttribute::Priority(hook.priority.cast_unsigned())]));
        out.push(ChainAttribute::Type(hook.kind.to_owned()));
    }
    out
}

fn set_attributes(table: &str, family: Family, name: &str, set: &Set, id: u32) -> Vec<SetAttribute> {
    let mut flags = SetFlags::empty();
    let mut out = vec![
        SetAttribute::Table(table.to_owned()),
        SetAttribute::Name(name.to_owned()),
        SetAttribute::KeyType(type_number(family, &set.key)),
        SetAttribute::KeyLen(length(family, &set.key)),
        SetAttribute::Id(id),
    ];
    match &set.data {
        Data::None => {}
        Data::Ranges => flags |= SetFlags::Interval,
        Data::Verdict => {
            flags |= SetFlags::Map;
            // NFT_DATA_VERDICT; its length is that of the kernel's verdict.
            out.extend([SetAttribute::DataType(0xffff_ff00), SetAttribute::DataLen(16)]);
        }
        Data::Parts(parts) => {
            flags |= SetFlags::Map;
            out.push(SetAttribute::DataType(type_number(family, parts)));
            out.push(SetAttribute::DataLen(length(family, parts)));
        }
    }
    if let Some(timeout) = set.timeout {
        flags |= SetFlags::Timeout | SetFlags::Eval;
        out.push(SetAttribute::Timeout(timeout));
    }
    out.push(SetAttribute::Flags(flags));
    out
}

/// The type nft shows: its own numbers, six bits a part.
fn type_number(family: Family, parts: &[Kind]) -> u32 {
    parts.iter().fold(0, |sum, kind| {
        let number = match (kind, family) {
            (Kind::Address, Family::V4) => 7,
            (Kind::Address, Family::V6) => 8,
            (Kind::Protocol, _) => 12,
            (Kind::Port, _) => 13,
            (Kind::Slot, _) => 19,
        };
        (sum << 6) | number
    })
}

/// Length in bytes; every part of a concatenation is padded to four.
fn length(family: Family, parts: &[Kind]) -> u32 {
    let size = |kind: &Kind| match (kind, family) {
        (Kind::Address, Family::V4) | (Kind::Slot, _) => 4,
        (Kind::Address, Family::V6) => 16,
        (Kind::Protocol, _) => 1,
        (Kind::Port, _) => 2,
    };
    match parts {
        [one] => size(one),
        many => many.iter().map(|k| u32::next_multiple_of(size(k), 4)).sum(),
    }
}

fn split(
    table: &str,
    family: Family,
    set: &str,
    elements: &[(Key, Value)],
    flags: u16,
    message: fn(SetElementMessage) -> NfTablesMessage,
) -> Vec<(NetfilterMessage, u16)> {
    elements
        .chunks(ELEMENTS)
        .map(|chunk| {
            let list = chunk.iter().flat_map(element).collect();
            let attributes = vec![
                SetElementList::Table(table.to_owned()),
                SetElementList::Set(set.to_owned()),
                SetElementList::Elements(list),
            ];
            (wrap(family, message(SetElementMessage { attributes })), flags)
        })
        .collect()
}

/// An element; a range is two: its first address, and the first one behind it.
fn element((key, value): &(Key, Value)) -> Vec<ListAttribute<SetElementAttribute>> {
    let mut out = vec![SetElementAttribute::Key(DataAttribute::Value(bytes(key)))];
    match value {
        Value::None => {}
        Value::Until(last) => {
            let mut both = vec![ListAttribute::Element(out)];
            if let Some(next) = successor(*last) {
                both.push(ListAttribute::Element(vec![
                    SetElementAttribute::Key(DataAttribute::Value(bytes(&[Part::Address(next)]))),
                    SetElementAttribute::Flags(SetElementFlags::IntervalEnd),
                ]));
            }
            return both;
        }
        Value::Verdict(verdict) => {
            out.push(SetElementAttribute::Data(DataAttribute::Verdict(expression::verdict(verdict))));
        }
        Value::Parts(parts) => out.push(SetElementAttribute::Data(DataAttribute::Value(bytes(parts)))),
    }
    vec![ListAttribute::Element(out)]
}

/// The address after another one; none after the last.
fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(ip) => u128::from(ip).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

/// A key or value as the kernel compares it.
fn bytes(parts: &[Part]) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    for part in parts {
        match part {
            Part::Address(IpAddr::V4(ip)) => out.extend_from_slice(&ip.octets()),
            Part::Address(IpAddr::V6(ip)) => out.extend_from_slice(&ip.octets()),
            Part::Protocol(number) => out.push(*number),
            Part::Port(port) => out.extend_from_slice(&port.to_be_bytes()),
            Part::Slot(slot) => out.extend_from_slice(&slot.to_ne_bytes()),
        }
        if parts.len() > 1 {
            out.resize(out.len().next_multiple_of(4), 0);
        }
    }
    out
}

/// A raw 32-bit attribute in network byte order.
pub(super) fn nla_u32(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}
