//! Statements as nftables expressions over the kernel's registers.
//!
//! Registers are 4 bytes each, 16 of them. Keys are loaded from the first on; what a map yields goes to
//! the first again. Only what `nft list` can show is used: it does not follow one lookup into another.

use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload, Register,
    Verdict as VerdictCode, VerdictAttribute,
};

use super::message::nla_u32;
use crate::tables::{Family, Field, Statement, Verdict};

/// Payload bases (`NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`).
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `NF_CT_STATE` bits: a packet that belongs to another connection, a new connection.
const RELATED: u32 = 4;
const NEW: u32 = 8;
/// `NFT_CT_STATE`, `NFT_CT_DIRECTION`, and the direction of answers (`IP_CT_DIR_REPLY`).
const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const REPLY: u8 = 1;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;
/// Bytes of an interface's name in the kernel.
const IFNAMSIZ: usize = 16;
/// Lookup flag for "not in the set".
const INVERT: u32 = 1;
/// `NF_DROP`, `NF_ACCEPT`.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// `NFT_JUMP`, `NFT_GOTO`, `NFT_RETURN`.
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;
/// Randomise ports fully when masquerading (`NF_NAT_RANGE_PROTO_RANDOM_FULLY`).
const RANDOM_FULLY: u32 = 16;

pub(super) fn encode(family: Family, statement: &Statement) -> Vec<Expressions> {
    match statement {
        Statement::In { key, set, negate } => {
            let mut out = load(family, key);
            let mut lookup = vec![Lookup::Set(set.clone()), Lookup::SourceRegister(Register::Reg1)];
            if *negate {
                lookup.push(Lookup::Flags(INVERT));
            }
            out.push(Expressions::Lookup(lookup));
            out
        }
        Statement::VerdictMap { key, map } => {
            let mut out = load(family, key);
            out.push(lookup(map, Register::Reg1, Register::Verdict));
            out
        }
        Statement::Within { field, range, negate } => within(family, *field, range, *negate),
        Statement::CameBy { name, prefix, negate } => {
            let op = if *negate { Operator::NotEqual } else { Operator::Equal };
            let mut data = name.as_bytes().to_vec();
            if !prefix {
                // A whole name is compared with the zeros behind it.
                data.resize(IFNAMSIZ.max(data.len()), 0);
            }
            vec![meta_load(MetaKey::Iifname, Register::Reg1), compare(Register::Reg1, op, data)]
        }
        Statement::ProtocolIs(number) => {
            vec![
                meta_load(MetaKey::L4Proto, Register::Reg1),
                compare(Register::Reg1, Operator::Equal, vec![*number]),
            ]
        }
        Statement::DestinationIsLocal => address_type(2),
        Statement::SourceIsLocal => address_type(1),
        Statement::PortIn(first, last) => vec![
            load_field(family, Field::DestinationPort, Register::Reg1),
            compare(Register::Reg1, Operator::GreatherThanEqual, first.to_be_bytes().to_vec()),
            compare(Register::Reg1, Operator::LessThanEqual, last.to_be_bytes().to_vec()),
        ],
        Statement::NewConnection => connection_state(NEW),
        Statement::Related => connection_state(RELATED),
        Statement::Reply => {
            vec![connection(CT_DIRECTION), compare(Register::Reg1, Operator::Equal, vec![REPLY])]
        }
        Statement::MarkSet(bits) => vec![
            meta_load(MetaKey::Mark, Register::Reg1),
            mask(*bits, 0),
            compare(Register::Reg1, Operator::Equal, bits.to_ne_bytes().to_vec()),
        ],
        // mark | bits = (mark & !bits) ^ bits
        Statement::SetMark(bits) => {
            vec![meta_load(MetaKey::Mark, Register::Reg1), mask(!*bits, *bits), mark_store()]
        }
        Statement::ClearMark(bits) => {
            vec![meta_load(MetaKey::Mark, Register::Reg1), mask(!*bits, 0), mark_store()]
        }
        Statement::BalanceAt { key, map, first, count } => {
            let mut out = load(family, key);
            out.push(random(word(words(family, key)), *first, *count));
            out.extend([lookup(map, Register::Reg1, Register::Reg1), nat(family)]);
            out
        }
        Statement::BalanceOver { map, first, count } => {
            vec![random(Register::Reg1, *first, *count), lookup(map, Register::Reg1, Register::Verdict)]
        }
        Statement::SendTo(address, port) => {
            let value = |to, data| {
                Expressions::Immediate(vec![Immediate::DestinationRegister(to), Immediate::Data(data)])
            };
            vec![
                value(Register::Reg1, DataAttribute::Value(octets(*address))),
                value(word(address_words(family)), DataAttribute::Value(port.to_be_bytes().to_vec())),
                nat(family),
            ]
        }
        Statement::Remember { set, timeout } => {
            vec![load_field(family, Field::Source, Register::Reg1), remember(set, *timeout)]
        }
        Statement::Masquerade => vec![other("masq", vec![nla_u32(1, RANDOM_FULLY)])],
        Statement::Reject => {
            // Type 0: ICMP unreachable; code "port": 3 in ICMP, 4 in ICMPv6.
            let code = if family == Family::V4 { 3 } else { 4 };
            vec![other("reject", vec![nla_u32(1, 0), DefaultNla::new(2, vec![code])])]
        }
        Statement::Verdict(v) => vec![Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(verdict(v))),
        ])],
    }
}

fn verdict(verdict: &Verdict) -> Vec<VerdictAttribute> {
    let (code, chain) = verdict_code(verdict);
    let code = VerdictAttribute::Code(VerdictCode::from(code));
    std::iter::once(code).chain(chain.map(|chain| VerdictAttribute::Chain(chain.to_owned()))).collect()
}

/// A verdict's number, as the kernel casts it to one without sign, and the chain it leads to.
pub(super) fn verdict_code(verdict: &Verdict) -> (u32, Option<&str>) {
    match verdict {
        Verdict::Accept => (ACCEPT, None),
        Verdict::Drop => (DROP, None),
        Verdict::Return => (RETURN.cast_unsigned(), None),
        Verdict::Jump(chain) => (JUMP.cast_unsigned(), Some(chain)),
        Verdict::Goto(chain) => (GOTO.cast_unsigned(), Some(chain)),
    }
}

/// What connection tracking knows of the packet, into register 1.
fn connection(key: u32) -> Expressions {
    other("ct", vec![nla_u32(1, register(Register::Reg1)), nla_u32(2, key)])
}

/// The connection's state has this bit.
fn connection_state(bit: u32) -> Vec<Expressions> {
    vec![connection(CT_STATE), mask(bit, 0), compare(Register::Reg1, Operator::NotEqual, vec![0; 4])]
}

fn other(kind: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: kind.to_owned(), attributes }
}

fn register(r: Register) -> u32 {
    r.into()
}

/// The register `words` 4-byte words after the first.
fn word(words: usize) -> Register {
    const ALL: [Register; 12] = [
        Register::Reg1,
        Register::Reg32_01,
        Register::Reg32_02,
        Register::Reg32_03,
        Register::Reg32_04,
        Register::Reg32_05,
        Register::Reg32_06,
        Register::Reg32_07,
        Register::Reg32_08,
        Register::Reg32_09,
        Register::Reg32_10,
        Register::Reg32_11,
    ];
    ALL[words.min(ALL.len() - 1)]
}

/// Loads fields into consecutive registers.
fn load(family: Family, fields: &[Field]) -> Vec<Expressions> {
    let at = |index| word(words(family, &fields[..index]));
    fields.iter().enumerate().map(|(index, field)| load_field(family, *field, at(index))).collect()
}

/// Registers that fields take.
fn words(family: Family, fields: &[Field]) -> usize {
    let of = |field: &Field| match field {
        Field::Source | Field::Destination => address_words(family),
        Field::Protocol | Field::DestinationPort => 1,
    };
    fields.iter().map(of).sum()
}

fn load_field(family: Family, field: Field, to: Register) -> Expressions {
    let (base, offset, len) = match (field, family) {
        (Field::Source, Family::V4) => (NETWORK, 12, 4),
        (Field::Destination, Family::V4) => (NETWORK, 16, 4),
        (Field::Source, Family::V6) => (NETWORK, 8, 16),
        (Field::Destination, Family::V6) => (NETWORK, 24, 16),
        (Field::DestinationPort, _) => (TRANSPORT, 2, 2),
        (Field::Protocol, _) => return meta_load(MetaKey::L4Proto, to),
    };
    Expressions::Payload(vec![
        Payload::DestinationRegister(to),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(len),
    ])
}

fn address_words(family: Family) -> usize {
    if family == Family::V4 { 1 } else { 4 }
}

fn meta_load(key: MetaKey, to: Register) -> Expressions {
    Expressions::Meta(vec![Meta::DestinationRegister(to), Meta::Key(key)])
}

fn mark_store() -> Expressions {
    Expressions::Meta(vec![Meta::Key(MetaKey::Mark), Meta::SourceRegister(Register::Reg1)])
}

/// Register 1 becomes `(register & mask) ^ xor`, in the machine's byte order.
fn mask(mask: u32, xor: u32) -> Expressions {
    bitwise(mask.to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec())
}

fn bitwise(mask: Vec<u8>, xor: Vec<u8>) -> Expressions {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(u32::try_from(mask.len()).unwrap_or(4)),
        Bitwise::Mask(DataAttribute::Value(mask)),
        Bitwise::Xor(DataAttribute::Value(xor)),
    ])
}

fn compare(register: Register, op: Operator, data: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![Cmp::SourceRegister(register), Cmp::Op(op), Cmp::Data(DataAttribute::Value(data))])
}

fn lookup(set: &str, from: Register, to: Register) -> Expressions {
    Expressions::Lookup(vec![
        Lookup::Set(set.to_owned()),
        Lookup::SourceRegister(from),
        Lookup::DestinationRegister(to),
    ])
}

fn within(family: Family, field: Field, range: &ipnet::IpNet, negate: bool) -> Vec<Expressions> {
    let (mask, network) = (octets(range.netmask()), octets(range.network()));
    let op = if negate { Operator::NotEqual } else { Operator::Equal };
    let zero = vec![0; mask.len()];
    vec![load_field(family, field, Register::Reg1), bitwise(mask, zero), compare(Register::Reg1, op, network)]
}

/// `fib <direction> type local`; direction flag 1 is the source, 2 the destination.
fn address_type(direction: u32) -> Vec<Expressions> {
    const RESULT_TYPE: u32 = 3;
    let fib = vec![nla_u32(1, register(Register::Reg1)), nla_u32(2, RESULT_TYPE), nla_u32(3, direction)];
    vec![other("fib", fib), compare(Register::Reg1, Operator::Equal, LOCAL.to_ne_bytes().to_vec())]
}

/// Replaces destination address and port by those in the first registers.
fn nat(family: Family) -> Expressions {
    const DNAT: u32 = 1;
    let protocol_family = if family == Family::V4 { 2 } else { 10 };
    other(
        "nat",
        vec![
            nla_u32(1, DNAT),
            nla_u32(2, protocol_family),
            nla_u32(3, register(Register::Reg1)),
            nla_u32(5, register(word(address_words(family)))),
        ],
    )
}

/// Puts the source address in register 1 into a set and sets its timer.
fn remember(set: &str, timeout: u64) -> Expressions {
    const UPDATE: u32 = 1;
    other(
        "dynset",
        vec![
            DefaultNla::new(1, [set.as_bytes(), &[0]].concat()),
            nla_u32(3, UPDATE),
            nla_u32(4, register(Register::Reg1)),
            DefaultNla::new(6, timeout.to_be_bytes().to_vec()),
        ],
    )
}

/// A random number from `first` on into a register.
fn random(to: Register, first: u32, count: u32) -> Expressions {
    const RANDOM: u32 = 1;
    other("numgen", vec![nla_u32(1, register(to)), nla_u32(2, count), nla_u32(3, RANDOM), nla_u32(4, first)])
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
