//! nftables over netlink: one atomic batch per change.
//!
//! Contract: nf_tables' netlink interface (linux/netfilter/nf_tables.h). What the typed crate lacks
//! (numgen, nat, masq, ct, fib, reject, dynset) is emitted as raw attributes in `expression`.

mod expression;
mod message;

use std::{io, os::fd::AsFd};

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

/// A conversation with the kernel's nftables about one table of each family.
#[derive(Debug)]
pub struct Kernel {
    table: &'static str,
    socket: Socket,
    sequence: u32,
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
        Ok(Self { table, socket: open().map_err(KernelError::Socket)?, sequence: 0 })
    }

    /// Carries out commands for both families as one transaction: all or nothing.
    pub fn commit(&mut self, changes: &[(Family, Vec<Command>)]) -> Result<(), KernelError> {
        let mut batch = Batch::new(self.sequence);
        batch.push(message::batch_begin(), 0, None);
        let mut set_id = 0;
        for (family, commands) in changes {
            for (at, command) in commands.iter().enumerate() {
                for (message, flags) in message::encode(self.table, *family, command, &mut set_id) {
                    batch.push(message, flags, Some((*family, at)));
                }
            }
        }
        batch.acknowledge_last();
        batch.push(message::batch_end(), 0, None);
        self.sequence = batch.sequence;
        if batch.owners.iter().flatten().next().is_none() {
            return Ok(());
        }
        self.send(&batch.bytes).map_err(KernelError::Socket)?;
        self.receive(&batch, changes)
    }

    /// The whole batch must go in one piece, whatever its size.
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let room = bytes.len() + (64 << 10);
        setsockopt(&self.socket.as_fd(), sockopt::SndBufForce, &room).map_err(io::Error::from)?;
        self.socket.send(bytes, 0).map(drop)
    }

    /// Reads answers up to the acknowledgement of the batch's last command; a refusal comes before.
    fn receive(&self, batch: &Batch, changes: &[(Family, Vec<Command>)]) -> Result<(), KernelError> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let size = self.socket.recv(&mut &mut buffer[..], 0).map_err(KernelError::Socket)?;
            let mut rest = &buffer[..size];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                    .map_err(|e| KernelError::Socket(io::Error::new(io::ErrorKind::InvalidData, e)))?;
                let length = (answer.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(length..).unwrap_or_default();
                let NetlinkPayload::Error(error) = answer.payload else { continue };
                if batch.owners.len() <= answer.header.sequence_number.wrapping_sub(batch.first) as usize {
                    // A late word on a batch that was given up.
                    continue;
                }
                if error.code.is_none() {
                    return Ok(());
                }
                let command = batch.owner(answer.header.sequence_number).and_then(|(family, at)| {
                    let commands = changes.iter().find(|(f, _)| *f == family)?;
                    commands.1.get(at)
                });
                let command = command.map_or_else(|| "the batch".to_owned(), describe);
                return Err(KernelError::Refused { command, source: error.to_io() });
            }
        }
    }
}

/// A command in a few words: elements and rules may be thousands.
fn describe(command: &Command) -> String {
    let mut text = format!("{command:?}");
    if let Some((at, _)) = text.char_indices().nth(300) {
        text.truncate(at);
        text.push('…');
    }
    text
}

struct Batch {
    bytes: Vec<u8>,
    /// Which command a message came from, by sequence number from `first`.
    owners: Vec<Option<(Family, usize)>>,
    first: u32,
    sequence: u32,
    /// Where the last command's message starts.
    last: usize,
}

impl Batch {
    fn new(sequence: u32) -> Self {
        Self { bytes: Vec::new(), owners: Vec::new(), first: sequence.wrapping_add(1), sequence, last: 0 }
    }

    fn push(&mut self, message: NetfilterMessage, flags: u16, owner: Option<(Family, usize)>) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let start = self.bytes.len();
        self.bytes.resize(start + packet.buffer_len().next_multiple_of(4), 0);
        packet.serialize(&mut self.bytes[start..start + packet.buffer_len()]);
        if owner.is_some() {
            self.last = start;
        }
        self.owners.push(owner);
    }

    /// Asks for an acknowledgement of the last command: errors come unasked, and before it.
    fn acknowledge_last(&mut self) {
        const FLAGS: usize = 6;
        if let Some(field) = self.bytes.get_mut(self.last + FLAGS..self.last + FLAGS + 2) {
            let flags = u16::from_ne_bytes([field[0], field[1]]) | NLM_F_ACK;
            field.copy_from_slice(&flags.to_ne_bytes());
        }
    }

    fn owner(&self, sequence: u32) -> Option<(Family, usize)> {
        let at = usize::try_from(sequence.wrapping_sub(self.first)).ok()?;
        self.owners.get(at).copied().flatten()
    }
}

#[cfg(test)]
mod tests;
