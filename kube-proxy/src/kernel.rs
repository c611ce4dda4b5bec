//! nftables over netlink: one atomic batch per change.
//!
//! Contract: nf_tables' netlink interface (linux/netfilter/nf_tables.h). What the typed crate lacks
//! (numgen, nat, masq, ct, fib, reject, dynset) is emitted as raw attributes in `expression`.

mod batch;
mod content;
mod expression;
mod generation;
mod guard;
mod message;

use std::{io, os::fd::AsFd};

use batch::Batch;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};

use crate::tables::{Command, Family};

pub use content::Content;
pub use guard::{Guard, something_to_do};

/// Services' table, named as upstream's nftables mode names it.
pub const SERVICES: &str = "kube-proxy";
/// Network policies' table.
pub const POLICIES: &str = "kube-proxy-policies";
/// Room for answers: one error per message of a batch at the most.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Bytes of a batch whose memory is kept for the next one.
const KEPT: usize = 64 << 10;
/// Bytes of a piece of a table that is made in pieces.
const PIECE: usize = 256 << 10;

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
    /// The last batch's memory.
    batch: Vec<u8>,
    generations: generation::Generations,
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
        Ok(Self {
            table,
            socket,
            sequence: 0,
            room: 0,
            buffer: vec![0; 16 << 10],
            batch: Vec::new(),
            generations: generation::Generations::default(),
        })
    }

    /// Carries out commands for a family's table as one transaction: all or nothing.
    pub fn commit(
        &mut self,
        family: Family,
        commands: impl IntoIterator<Item = Command>,
    ) -> Result<(), KernelError> {
        let mut batch = Batch::begin(self.sequence, std::mem::take(&mut self.batch));
        let mut set_id = 0;
        for command in commands {
            message::encode(&mut batch, self.table, family, &command, &mut set_id);
            batch.end_command(command);
        }
        let outcome = if batch.is_empty() {
            Ok(())
        } else {
            batch.end();
            self.transact(&batch)
        };
        // Large ones are rare: their memory is not kept.
        self.batch = batch.into_bytes();
        if self.batch.capacity() > KEPT {
            self.batch = Vec::new();
        }
        outcome
    }

    /// Makes a family's table that is not there yet, a piece after the other: while the kernel takes one in, the next is
    /// written. The rules of chains that packets enter come last, so that none goes by half a table. What was made of one
    /// that is refused stays.
    pub fn make(
        &mut self,
        family: Family,
        commands: impl IntoIterator<Item = Command>,
    ) -> Result<(), KernelError> {
        let (table, mut set_id) = (self.table, 0);
        let mut piece = Batch::begin(self.sequence, Vec::new());
        let (carried, written) = std::sync::mpsc::sync_channel::<Batch>(1);
        std::thread::scope(|scope| {
            let carrier =
                scope.spawn(move || written.into_iter().try_for_each(|piece| self.transact(&piece)));
            let mut entries = Vec::new();
            let mut write = |piece: &mut Batch, command| {
                message::encode(piece, table, family, &command, &mut set_id);
                piece.end_command(command);
            };
            for command in commands {
                if matches!(&command, Command::AddRules(_, chain) if chain.hook.is_some()) {
                    entries.push(command);
                    continue;
                }
                write(&mut piece, command);
                if piece.bytes().len() >= PIECE {
                    piece.end();
                    let next = Batch::begin(piece.sequence(), Vec::new());
                    if carried.send(std::mem::replace(&mut piece, next)).is_err() {
                        break;
                    }
                }
            }
            entries.into_iter().for_each(|command| write(&mut piece, command));
            if !piece.is_empty() {
                piece.end();
                // A carrier that is gone says itself why.
                carried.send(piece).unwrap_or_default();
            }
            drop(carried);
            carrier.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
        })
    }

    /// Sends a batch that has ended and waits for the kernel's word on it.
    fn transact(&mut self, batch: &Batch) -> Result<(), KernelError> {
        self.sequence = batch.sequence();
        self.send(batch.bytes()).map_err(KernelError::Socket)?;
        self.receive(batch)?;
        self.generations.committed();
        Ok(())
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
            while let Some((answer, behind)) = batch::message(rest) {
                rest = behind;
                match answer.code() {
                    Some(0) if batch.has(answer.sequence) => return Ok(()),
                    Some(code) if batch.has(answer.sequence) => {
                        let source = io::Error::from_raw_os_error(code.saturating_neg());
                        let command = batch.command(answer.sequence);
                        return Err(KernelError::Refused { command, source });
                    }
                    // A late word on a batch that was given up, or none on one.
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
