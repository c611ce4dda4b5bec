//! The body of a list: its items' stored bytes, joined while they are sent.
//!
//! A list is never laid out whole. The connection takes a piece when it has room for one, so that a slow reader costs
//! a piece and not a list, and a piece goes from the processor's cache to the cipher.

use std::{io, sync::Arc, vec};

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    response::{self, Body},
    storage::Entry,
};

mod compressed;
pub use compressed::Compressed;

/// Small items are copied together up to this size, in bytes: four TLS records.
const PIECE: usize = 64 * 1024;
/// Items from this size on, in bytes, are sent from where they lie.
const LARGE: usize = 16 * 1024;
const TAIL: &[u8] = b"]}\n";

/// A list in the version its items are stored in.
pub(super) struct List {
    /// Everything up to the first item.
    pub(super) head: String,
    pub(super) entries: Vec<Arc<Entry>>,
}

impl List {
    /// Length of the body, in bytes.
    pub(super) fn len(&self) -> usize {
        let commas = self.entries.len().saturating_sub(1);
        let items: usize = self.entries.iter().map(|entry| item(entry).len()).sum();
        self.head.len() + items + commas + TAIL.len()
    }

    /// The body as it is.
    pub(super) fn plain(self) -> Body {
        let left = self.len();
        let entries = self.entries.into_iter();
        let pieces = Pieces { head: Some(self.head), entries, begun: false, large: None, left };
        response::pieces(pieces, Some(left as u64))
    }

    /// The body in gzip's format, from `memory` as far as it was compressed before.
    pub(super) fn gzip(self, memory: Arc<Compressed>) -> Body {
        response::pieces(compressed::Pieces::new(self.head, self.entries, memory), None)
    }
}

/// An item's bytes; what is stored may end in white space.
fn item(entry: &Entry) -> &[u8] {
    entry.json().trim_ascii_end()
}

/// The pieces of a plain body.
struct Pieces {
    head: Option<String>,
    entries: vec::IntoIter<Arc<Entry>>,
    /// An item was sent, so that the next one needs a comma.
    begun: bool,
    /// A large item whose comma is sent.
    large: Option<Bytes>,
    /// Bytes still to be sent.
    left: usize,
}

impl Iterator for Pieces {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let piece = self.large.take().unwrap_or_else(|| self.small());
        self.left -= piece.len();
        Some(Ok(piece))
    }
}

impl Pieces {
    /// Small items up to the next large one, a full piece or the end.
    fn small(&mut self) -> Bytes {
        let mut piece = BytesMut::with_capacity(self.left.min(PIECE));
        piece.put_slice(self.head.take().unwrap_or_default().as_bytes());
        while let Some(entry) = self.entries.as_slice().first() {
            let item = item(entry);
            let large = item.len() >= LARGE;
            if !large && !piece.is_empty() && piece.len() + 1 + item.len() > PIECE {
                return piece.freeze();
            }
            if self.begun {
                piece.put_u8(b',');
            }
            self.begun = true;
            if large {
                let item = entry.share(item);
                self.entries.next();
                // Between two large items there is a comma, and before the first the head: never nothing.
                self.large = Some(item);
                return piece.freeze();
            }
            piece.put_slice(item);
            self.entries.next();
        }
        piece.put_slice(TAIL);
        piece.freeze()
    }
}

#[cfg(test)]
mod tests;
