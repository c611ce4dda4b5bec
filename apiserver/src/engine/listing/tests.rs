use std::io::Read;

use flate2::read::GzDecoder;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::storage::testing::entry;

const HEAD: &str = r#"{"kind":"PodList","items":["#;

/// Objects with so many bytes of data each.
fn objects(sizes: &[usize]) -> Vec<Arc<Entry>> {
    sizes.iter().enumerate().map(|(index, size)| object(index, 1, *size)).collect()
}

fn object(index: usize, rev: u64, size: usize) -> Arc<Entry> {
    // Data that compresses about as real objects do.
    let data: String = (0..size).map(|at| char::from(b'a' + ((at * at) % 97 % 26) as u8)).collect();
    let json = json!({"metadata": {"name": format!("pod-{index}")}, "data": data});
    entry(&format!("ns/pod-{index}"), rev, &json.to_string())
}

fn list(entries: &[Arc<Entry>]) -> List {
    List { head: HEAD.to_owned(), entries: entries.to_vec() }
}

/// What the list has to be.
fn expected(entries: &[Arc<Entry>]) -> Vec<u8> {
    let items: Vec<_> = entries.iter().map(|entry| entry.json().to_vec()).collect();
    [HEAD.as_bytes(), &items.join(&b","[..]), b"]}\n"].concat()
}

fn plain(entries: &[Arc<Entry>]) -> Vec<Bytes> {
    let List { head, entries } = list(entries);
    let left = list(&entries).len();
    let pieces = Pieces { head: Some(head), entries: entries.into_iter(), begun: false, large: None, left };
    pieces.map(|piece| piece.unwrap()).collect()
}

fn gzip(entries: &[Arc<Entry>], memory: &Arc<Compressed>) -> Vec<u8> {
    let pieces = compressed::Pieces::new(HEAD.to_owned(), entries.to_vec(), memory.clone());
    let bytes: Vec<Bytes> = pieces.map(|piece| piece.unwrap()).collect();
    bytes.concat()
}

fn unzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

#[test]
fn pieces_are_bounded_and_large_items_are_not_copied() {
    let entries = objects(&[100, 3000, 30_000, 40_000, 200_000, 3000, 10]);
    let pieces = plain(&entries);
    assert_eq!(pieces.concat(), expected(&entries));
    let own: Vec<_> = entries.iter().map(|entry| entry.json().as_ptr()).collect();
    for piece in &pieces {
        assert!(piece.len() <= PIECE || own.contains(&piece.as_ptr()), "{} bytes", piece.len());
    }
    let shared = pieces.iter().filter(|piece| own.contains(&piece.as_ptr())).count();
    assert_eq!(shared, 3);
}

#[test]
fn the_length_is_announced() {
    for sizes in [&[][..], &[10], &[10, 70_000, 10]] {
        let entries = objects(sizes);
        let body = list(&entries).plain();
        let length = expected(&entries).len() as u64;
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(length), "{sizes:?}");
        assert_eq!(list(&entries).len() as u64, length);
    }
}

#[test]
fn what_was_compressed_is_not_compressed_again() {
    let memory = Arc::new(Compressed::default());
    let mut entries = objects(&[3000; 300]);
    let first = gzip(&entries, &memory);
    assert_eq!(unzip(&first), expected(&entries));
    assert!(first.len() < expected(&entries).len() / 2);
    let runs = memory.runs();
    assert!(runs > 3, "{runs} runs");
    assert_eq!(gzip(&entries, &memory), first);
    assert_eq!(memory.runs(), runs);
    entries[100] = object(100, 2, 3000);
    assert_eq!(unzip(&gzip(&entries, &memory)), expected(&entries));
    assert!(memory.runs() <= runs + 1, "only the run with the change is new");
    entries.remove(200);
    entries.insert(10, object(1000, 3, 3000));
    assert_eq!(unzip(&gzip(&entries, &memory)), expected(&entries));
    assert!(memory.runs() <= runs + 4, "runs keep their ends when items come and go");
}

#[test]
fn memory_is_bounded() {
    let memory = Arc::new(Compressed::default());
    // Each is a run of its own and hardly compressible.
    let noise = |index: usize| {
        let mut state = index as u64 + 1;
        let data: String = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b' ' + 2 + ((state >> 33) % 50) as u8)
        })
        .take(300_000)
        .collect();
        let json = json!({"data": data, "metadata": {}});
        entry(&format!("ns/{index}"), 1, &json.to_string())
    };
    for index in 0..250 {
        let entries = [noise(index)];
        assert_eq!(unzip(&gzip(&entries, &memory)), expected(&entries));
    }
    assert!(memory.bytes() < 40 << 20, "{} bytes", memory.bytes());
}

#[test]
fn a_list_without_items_is_well_formed() {
    let memory = Arc::new(Compressed::default());
    for bytes in [plain(&[]).concat(), unzip(&gzip(&[], &memory))] {
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value, json!({"kind": "PodList", "items": []}));
    }
}

proptest! {
    #[test]
    fn both_forms_hold_all_items(sizes in proptest::collection::vec(0_usize..40_000, 0..30), cut in 0_usize..30) {
        let memory = Arc::new(Compressed::default());
        let entries = objects(&sizes);
        prop_assert_eq!(plain(&entries).concat(), expected(&entries));
        prop_assert_eq!(unzip(&gzip(&entries, &memory)), expected(&entries));
        // A part of the list may begin with the same item as a remembered run.
        let part = &entries[..cut.min(entries.len())];
        prop_assert_eq!(unzip(&gzip(part, &memory)), expected(part));
    }
}
