//! Lists in gzip's format, without compressing what was compressed before.
//!
//! ```text
//! header │ head, uncompressed │ run of items │ "," │ run of items │ … │ tail │ checksum, length
//!                               └── shared by all lists until one of its items changes
//! ```
//!
//! A deflate stream is a sequence of blocks that may begin on whole bytes, and checksums of parts combine to that of
//! the whole. So runs of neighbouring items are compressed on their own and remembered: a change costs the run it is
//! in. Where a run ends depends on its last item alone, so that runs stay what they are when items come and go.
//!
//! Contract: RFC 1951 (blocks), RFC 1952 (header and trailer).

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak},
    vec,
};

use bytes::{BufMut, Bytes, BytesMut};
use component_base::hash;
use flate2::{Compress, Compression, Crc, FlushCompress};
use parking_lot::Mutex;

use super::{PIECE, TAIL, item};
use crate::storage::Entry;

/// Length runs have on average, in bytes: twice the distance deflate looks back.
const RUN: usize = 64 * 1024;
/// Length a run ends at in any case, in bytes.
const LONGEST_RUN: usize = 4 * RUN;
/// Compressed bytes of one generation of remembered runs; there are two. A hundred thousand pods need about 30 MB.
const GENERATION: usize = 16 << 20;
/// Compressed runs above this size, in bytes, are single large items, which would push everything else out.
const MEMORABLE: usize = 256 * 1024;
/// Least room deflate is given to write to, in bytes: much more than the end of a block takes.
const ROOM: usize = 4096;
/// Deflate, no name, no time, fastest algorithm, Unix.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 3];
/// The empty block that ends a stream, with fixed codes.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// Runs of items compressed before.
///
/// The runs in use move from the old generation to the young one; when the young one is full, it becomes the old one
/// and what was not used meanwhile goes.
#[derive(Debug, Default)]
pub struct Compressed {
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<usize, Arc<Run>>,
    old: HashMap<usize, Arc<Run>>,
    /// Compressed bytes in `young`.
    bytes: usize,
}

/// Neighbouring items, joined by commas and compressed.
#[derive(Debug)]
struct Run {
    /// The items. As long as they are named here nothing else can lie at their addresses, which is why comparing
    /// addresses compares items; what they hold is freed all the same.
    items: Box<[Weak<Entry>]>,
    /// Whole blocks ending on a whole byte.
    blocks: Bytes,
    /// Of the uncompressed bytes.
    crc: Crc,
}

// === impl Compressed ===

impl Compressed {
    /// The run these items begin with, if it is remembered.
    fn find(&self, items: &[Arc<Entry>]) -> Option<Arc<Run>> {
        let address = address(items.first()?);
        let mut generations = self.generations.lock();
        if let Some(run) = generations.young.get(&address) {
            return Some(run.clone()).filter(|run| run.begins(items));
        }
        let run = generations.old.remove(&address).filter(|run| run.begins(items))?;
        generations.remember(address, run.clone());
        Some(run)
    }

    fn remember(&self, run: &Arc<Run>) {
        let Some(first) = run.items.first() else { return };
        if run.blocks.len() <= MEMORABLE {
            self.generations.lock().remember(first.as_ptr().addr(), run.clone());
        }
    }
}

#[cfg(test)]
impl Compressed {
    /// Runs remembered.
    pub(super) fn runs(&self) -> usize {
        let generations = self.generations.lock();
        generations.young.len() + generations.old.len()
    }

    /// What they cost, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let generations = self.generations.lock();
        generations.young.values().chain(generations.old.values()).map(|run| run.cost()).sum()
    }
}

impl Generations {
    fn remember(&mut self, address: usize, run: Arc<Run>) {
        if self.bytes > GENERATION {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += run.cost();
        if let Some(before) = self.young.insert(address, run) {
            self.bytes -= before.cost();
        }
    }
}

// === impl Run ===

impl Run {
    /// Compresses the run these items begin with.
    fn of(items: &[Arc<Entry>]) -> io::Result<Self> {
        let items = &items[..length(items)];
        let size: usize = items.iter().map(|entry| item(entry).len() + 1).sum();
        let mut deflate = Compress::new(Compression::fast(), false);
        let mut blocks = Vec::with_capacity(size / 6);
        let mut crc = Crc::new();
        for (index, entry) in items.iter().enumerate() {
            let comma = if index > 0 { &b","[..] } else { b"" };
            for part in [comma, item(entry)] {
                crc.update(part);
                feed(&mut deflate, part, &mut blocks)?;
            }
        }
        end(&mut deflate, &mut blocks)?;
        blocks.shrink_to_fit();
        Ok(Self { items: items.iter().map(Arc::downgrade).collect(), blocks: blocks.into(), crc })
    }

    fn begins(&self, items: &[Arc<Entry>]) -> bool {
        items.len() >= self.items.len()
            && self.items.iter().zip(items).all(|(own, other)| std::ptr::eq(own.as_ptr(), Arc::as_ptr(other)))
    }

    fn cost(&self) -> usize {
        self.blocks.len() + self.items.len() * (size_of::<Weak<Entry>>() + size_of::<Entry>())
    }
}

/// Has `part` compressed, as far as that gives blocks already.
fn feed(deflate: &mut Compress, mut part: &[u8], blocks: &mut Vec<u8>) -> io::Result<()> {
    while !part.is_empty() {
        blocks.reserve(ROOM);
        let before = deflate.total_in();
        deflate.compress_vec(part, blocks, FlushCompress::None)?;
        let taken = deflate.total_in() - before;
        // No more than the part was taken.
        part = &part[usize::try_from(taken).unwrap_or(part.len())..];
    }
    Ok(())
}

/// Ends the last block, on a whole byte. Only room that is left over shows that all of it was written.
fn end(deflate: &mut Compress, blocks: &mut Vec<u8>) -> io::Result<()> {
    loop {
        blocks.reserve(ROOM);
        deflate.compress_vec(&[], blocks, FlushCompress::Sync)?;
        if blocks.len() < blocks.capacity() {
            return Ok(());
        }
    }
}

fn address(entry: &Arc<Entry>) -> usize {
    Arc::as_ptr(entry).addr()
}

/// How many of the items make a run: an item of so many bytes ends one with the probability of bytes to [`RUN`].
fn length(items: &[Arc<Entry>]) -> usize {
    let mut size = 0;
    for (index, entry) in items.iter().enumerate() {
        let own = item(entry).len();
        size += own;
        let lot = hash::fnv32a(entry.key().as_bytes()) as usize % RUN;
        if lot < own || size >= LONGEST_RUN {
            return index + 1;
        }
    }
    items.len()
}

/// The pieces of a compressed body.
pub(super) struct Pieces {
    head: Option<String>,
    entries: vec::IntoIter<Arc<Entry>>,
    begun: bool,
    ended: bool,
    crc: Crc,
    memory: Arc<Compressed>,
}

// === impl Pieces ===

impl Pieces {
    pub(super) fn new(head: String, entries: Vec<Arc<Entry>>, memory: Arc<Compressed>) -> Self {
        let entries = entries.into_iter();
        Self { head: Some(head), entries, begun: false, ended: false, crc: Crc::new(), memory }
    }

    /// Appends bytes as they are.
    fn stored(&mut self, out: &mut BytesMut, bytes: &[u8]) {
        for block in bytes.chunks(usize::from(u16::MAX)) {
            // A chunk's length fits.
            let len = u16::try_from(block.len()).unwrap_or(u16::MAX);
            out.put_u8(0);
            out.put_u16_le(len);
            out.put_u16_le(!len);
            out.put_slice(block);
        }
        self.crc.update(bytes);
    }

    /// Appends the next run; whether it was remembered.
    fn run(&mut self, out: &mut BytesMut) -> io::Result<bool> {
        let items = self.entries.as_slice();
        let found = self.memory.find(items);
        let known = found.is_some();
        let run = match found {
            Some(run) => run,
            None => {
                let run = Arc::new(Run::of(items)?);
                self.memory.remember(&run);
                run
            }
        };
        if std::mem::replace(&mut self.begun, true) {
            self.stored(out, b",");
        }
        out.put_slice(&run.blocks);
        self.crc.combine(&run.crc);
        // A run has one item at least.
        self.entries.nth(run.items.len() - 1);
        Ok(known)
    }

    fn piece(&mut self) -> io::Result<Bytes> {
        let mut out = BytesMut::with_capacity(PIECE);
        if let Some(head) = self.head.take() {
            out.put_slice(&HEADER);
            self.stored(&mut out, head.as_bytes());
        }
        while !self.entries.as_slice().is_empty() {
            // Compressing takes long enough to let others have the thread.
            if !self.run(&mut out)? || out.len() >= PIECE / 2 {
                return Ok(out.freeze());
            }
        }
        self.stored(&mut out, TAIL);
        out.put_slice(&LAST_BLOCK);
        out.put_u32_le(self.crc.sum());
        out.put_u32_le(self.crc.amount());
        self.ended = true;
        Ok(out.freeze())
    }
}

impl Iterator for Pieces {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let piece = self.piece();
        self.ended |= piece.is_err();
        Some(piece)
    }
}
