//! nftables over netlink: one atomic batch per change.
//!
//! Contract: nf_tables' netlink interface (linux/netfilter/nf_tables.h). What the typed crate lacks
//! (numgen, nat, masq, ct, fib, reject, dynset) is emitted as raw attributes in `expression`.

mod expression;
mod message;

use std::{fmt, io, os::fd::AsFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};

use crate::tables::{Command, Family};

/// Services' table, named as upstream's nftables mode names it.
pub const SERVICES: &str = "kube-proxy";
/// Network policies' table.
pub const POLICIES: &str = "kube-proxy-policies";
/// Room for answers: one error per message of a batch at the most.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No conversation with the kernel.
    #[error("cannot talk to nftables")]
    Socket(#[source] io::Error),
    /// The kernel refused a command; nothing of the batch was done.
    #[error("nftables refused {command}")]
    Refused {
        /// The first command refused.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A conversation with the kernel's nftables about the tables of one name.
#[derive(Debug)]
pub struct Kernel {
    table: &'static str,
    socket: Socket,
    sequence: u32,
    /// Bytes the socket takes at once.
    room: usize,
    /// Where answers are read to.
    buffer: Vec<u8>,
}

impl Kernel {
    /// Opens a socket in this thread's network namespace, for tables of this name.
    pub fn open(table: &'static str) -> Result<Self, KernelError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            Ok(socket)
        };
        let socket = open().map_err(KernelError::Socket)?;
        Ok(Self { table, socket, sequence: 0, room: 0, buffer: vec![0; 64 << 10] })
    }

    /// Carries out commands for a family's table as one transaction: all or nothing.
    pub fn commit(
        &mut self,
        family: Family,
        commands: impl IntoIterator<Item = Command>,
    ) -> Result<(), KernelError> {
        let mut batch = Batch::new(self.sequence);
        batch.push(message::batch_begin(), 0);
        let mut set_id = 0;
        for command in commands {
            for (message, flags) in message::encode(self.table, family, &command, &mut set_id) {
                batch.last = batch.bytes.len();
                batch.push(message, flags);
            }
            batch.ends.push((batch.sequence, Label::of(command)));
        }
        if batch.ends.is_empty() {
            return Ok(());
        }
        batch.acknowledge_last();
        batch.push(message::batch_end(), 0);
        self.sequence = batch.sequence;
        self.send(&batch.bytes).map_err(KernelError::Socket)?;
        self.receive(&batch)
    }

    /// The whole batch must go in one piece, whatever its size.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = bytes.len() + (64 << 10);
        if room > self.room {
            setsockopt(&self.socket.as_fd(), sockopt::SndBufForce, &room).map_err(io::Error::from)?;
            self.room = room;
        }
        self.socket.send(bytes, 0).map(drop)
    }

    /// Reads answers up to the acknowledgement of the batch's last command; a refusal comes before.
    fn receive(&mut self, batch: &Batch) -> Result<(), KernelError> {
        loop {
            let size = self.socket.recv(&mut &mut self.buffer[..], 0).map_err(KernelError::Socket)?;
            let mut rest = &self.buffer[..size];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                    .map_err(|e| KernelError::Socket(io::Error::new(io::ErrorKind::InvalidData, e)))?;
                let length = (answer.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(length..).unwrap_or_default();
                let NetlinkPayload::Error(error) = answer.payload else { continue };
                let at = answer.header.sequence_number.wrapping_sub(batch.first);
                if at > batch.sequence.wrapping_sub(batch.first) {
                    // A late word on a batch that was given up.
                    continue;
                }
                if error.code.is_none() {
                    return Ok(());
                }
                let command = batch.ends.iter().find(|(end, _)| at <= end.wrapping_sub(batch.first));
                let command = command.map_or_else(|| "the batch".to_owned(), |(_, label)| label.to_string());
                return Err(KernelError::Refused { command, source: error.to_io() });
            }
        }
    }
}

/// A command in a few words: its elements and rules may be thousands.
#[derive(Debug)]
struct Label {
    what: &'static str,
    name: String,
    count: usize,
}

impl Label {
    fn of(command: Command) -> Self {
        let (what, name, count) = match command {
            Command::AddTable => ("the table", String::new(), 1),
            Command::DeleteTable => ("the table's deletion", String::new(), 1),
            Command::AddSet(name, _) => ("the set", name, 1),
            Command::DeleteSet(name) => ("the deletion of the set", name, 1),
            Command::AddChain(name, _) => ("the chain", name, 1),
            Command::DeleteChain(name) => ("the deletion of the chain", name, 1),
            Command::FlushChain(name) => ("the emptying of the chain", name, 1),
            Command::AddRules(name, chain) => ("rules of the chain", name, chain.rules.len()),
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

struct Batch {
    bytes: Vec<u8>,
    /// The last sequence number of each command.
    ends: Vec<(u32, Label)>,
    first: u32,
    sequence: u32,
    /// Where the last command's message starts.
    last: usize,
}

impl Batch {
    fn new(sequence: u32) -> Self {
        Self { bytes: Vec::new(), ends: Vec::new(), first: sequence.wrapping_add(1), sequence, last: 0 }
    }

    fn push(&mut self, message: NetfilterMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let start = self.bytes.len();
        self.bytes.resize(start + packet.buffer_len().next_multiple_of(4), 0);
        packet.serialize(&mut self.bytes[start..start + packet.buffer_len()]);
    }

    /// Asks for an acknowledgement of the last command: errors come unasked, and before it.
    fn acknowledge_last(&mut self) {
        const FLAGS: usize = 6;
        if let Some(field) = self.bytes.get_mut(self.last + FLAGS..self.last + FLAGS + 2) {
            let flags = u16::from_ne_bytes([field[0], field[1]]) | NLM_F_ACK;
            field.copy_from_slice(&flags.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
