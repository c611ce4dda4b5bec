//! Commands as netlink messages.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        ChainAttribute, ChainMessage, Hook as HookAttribute, InetHookNumber, NfTablesMessage, RuleAttribute,
        RuleMessage, SetAttribute, SetFlags, SetMessage, TableAttribute, TableMessage,
    },
};

use super::{batch::Batch, expression};
use crate::tables::{Chain, Command, Data, Family, HookPoint, Key, Kind, Part, Set, Value, Verdict};

/// Elements per message: the list's length attribute holds 16 bits, and a range counts twice.
const ELEMENTS: usize = 300;
/// `NFT_MSG_NEWSETELEM`, `NFT_MSG_DELSETELEM`.
const NEW_ELEMENTS: u8 = 12;
const DELETE_ELEMENTS: u8 = 14;
/// Attributes of a list of elements (`NFTA_SET_ELEM_LIST_*`), of an element in it, and of what that holds
/// (`NFTA_SET_ELEM_*`, `NFTA_DATA_*`).
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;
/// `NFTA_CHAIN_TYPE` is typed; a rule's comment is user data of type 0 (libnftnl).
const COMMENT: u8 = 0;

/// Writes the messages of a command.
pub(super) fn encode(batch: &mut Batch, table: &str, family: Family, command: &Command, set_id: &mut u32) {
    let owned = || table.to_owned();
    let mut one = |message: NfTablesMessage, flags| batch.push(wrap(family, message), flags);
    match command {
        Command::AddTable => {
            let attributes = vec![TableAttribute::Name(owned())];
            one(NfTablesMessage::NewTable(TableMessage { attributes }), NLM_F_CREATE);
        }
        Command::DeleteTable => {
            let attributes = vec![TableAttribute::Name(owned())];
            one(NfTablesMessage::DeleteTable(TableMessage { attributes }), 0);
        }
        Command::AddSet(name, set) => {
            *set_id += 1;
            let attributes = set_attributes(table, family, name, set, *set_id);
            one(NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE);
        }
        Command::DeleteSet(name) => {
            let attributes = vec![SetAttribute::Table(owned()), SetAttribute::Name(name.clone())];
            one(NfTablesMessage::DeleteSet(SetMessage { attributes }), 0);
        }
        Command::AddChain(name, chain) => {
            let attributes = chain_attributes(table, name, chain);
            one(NfTablesMessage::NewChain(ChainMessage { attributes }), NLM_F_CREATE);
        }
        Command::DeleteChain(name) => {
            let attributes = vec![ChainAttribute::Table(owned()), ChainAttribute::Name(name.clone())];
            one(NfTablesMessage::DeleteChain(ChainMessage { attributes }), 0);
        }
        Command::FlushChain(name) => {
            let attributes = vec![RuleAttribute::Table(owned()), RuleAttribute::Chain(name.clone())];
            one(NfTablesMessage::DeleteRule(RuleMessage { attributes }), 0);
        }
        Command::AddRules(name, chain) => rules(batch, table, family, name, chain),
        Command::AddElements(set, elements) => {
            write(batch, (NEW_ELEMENTS, NLM_F_CREATE), table, family, set, elements);
        }
        Command::DeleteElements(set, elements) => {
            write(batch, (DELETE_ELEMENTS, 0), table, family, set, elements);
        }
    }
}

/// A family's number (`NFPROTO_*`).
pub(super) fn family_number(family: Family) -> u8 {
    protocol_family(family).into()
}

fn protocol_family(family: Family) -> NetfilterProtoFamily {
    match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    }
}

fn wrap(family: Family, message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(
        NetfilterHeader::new(protocol_family(family), 0, 0),
        NetfilterMessageInner::NfTables(message),
    )
}

fn rules(batch: &mut Batch, table: &str, family: Family, name: &str, chain: &Chain) {
    for rule in &chain.rules {
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
        let message = NfTablesMessage::NewRule(RuleMessage { attributes });
        batch.push(wrap(family, message), NLM_F_CREATE | NLM_F_APPEND);
    }
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

/// Writes elements, as many to a message as it can hold.
fn write(
    batch: &mut Batch,
    (kind, flags): (u8, u16),
    table: &str,
    family: Family,
    set: &str,
    elements: &[(Key, Value)],
) {
    for chunk in elements.chunks(ELEMENTS) {
        let message = batch.nftables(family_number(family), kind, flags);
        batch.attribute(LIST_TABLE, &[table.as_bytes(), &[0]]);
        batch.attribute(LIST_SET, &[set.as_bytes(), &[0]]);
        let list = batch.nest(LIST_ELEMENTS);
        // What is deleted is found by its key.
        let with_data = kind == NEW_ELEMENTS;
        chunk.iter().for_each(|element| write_element(batch, element, with_data));
        batch.close(list);
        batch.close_message(message);
    }
}

/// An element; a range is two: its first address, and the first one behind it.
fn write_element(batch: &mut Batch, (key, value): &(Key, Value), with_data: bool) {
    let element = batch.nest(ELEMENT);
    write_parts(batch, ELEMENT_KEY, key);
    match value {
        Value::Verdict(verdict) if with_data => write_verdict(batch, verdict),
        Value::Parts(parts) if with_data => write_parts(batch, ELEMENT_DATA, parts),
        Value::None | Value::Until(_) | Value::Verdict(_) | Value::Parts(_) => {}
    }
    batch.close(element);
    if let Value::Until(last) = value
        && let Some(next) = successor(*last)
    {
        let end = batch.nest(ELEMENT);
        write_parts(batch, ELEMENT_KEY, &[Part::Address(next)]);
        batch.attribute(ELEMENT_FLAGS, &[&INTERVAL_END.to_be_bytes()]);
        batch.close(end);
    }
}

fn write_verdict(batch: &mut Batch, verdict: &Verdict) {
    let (code, chain) = expression::verdict_code(verdict);
    let (data, inside) = (batch.nest(ELEMENT_DATA), batch.nest(DATA_VERDICT));
    batch.attribute(VERDICT_CODE, &[&code.to_be_bytes()]);
    if let Some(chain) = chain {
        batch.attribute(VERDICT_CHAIN, &[chain.as_bytes(), &[0]]);
    }
    batch.close(inside);
    batch.close(data);
}

/// A key or value as the kernel compares it: every part of several is padded.
fn write_parts(batch: &mut Batch, kind: u16, parts: &[Part]) {
    let (outside, value) = (batch.nest(kind), batch.header(DATA_VALUE));
    let several = parts.len() > 1;
    for part in parts {
        match part {
            Part::Address(IpAddr::V4(ip)) => batch.raw(&ip.octets(), several),
            Part::Address(IpAddr::V6(ip)) => batch.raw(&ip.octets(), several),
            Part::Protocol(number) => batch.raw(&[*number], several),
            Part::Port(port) => batch.raw(&port.to_be_bytes(), several),
            Part::Slot(slot) => batch.raw(&slot.to_ne_bytes(), several),
        }
    }
    batch.close(value);
    batch.close(outside);
}

/// The address after another one; none after the last.
fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(ip) => u128::from(ip).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

/// A raw 32-bit attribute in network byte order.
pub(super) fn nla_u32(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}
