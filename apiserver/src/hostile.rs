//! A bounded run of the fuzz targets: each over its corpus, over all beginnings of it, and over mutations that are the same
//! in every run. What a longer run finds belongs into the corpus.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

#[path = "../fuzz/targets.rs"]
mod targets;

use targets::{TARGETS, Target};

/// Mutations of each text of a corpus.
const ROUNDS: usize = 150;
/// Beginnings of each text of a corpus, at most.
const BEGINNINGS: usize = 64;
/// What parsers look for.
const TOKENS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\u0000",
    b"null",
    b"-1",
    b"1e999",
    b"9223372036854775808",
    b":",
    b",",
    b".",
    b"/",
    b"..",
    b"%2f",
    b"$patch",
    b"&a",
    b"*a",
    b"- ",
    b"\n",
    b"\xff",
    b"k8s\0",
    b"~1",
    b"!=",
    b" in (",
    b";q=",
];

/// An xorshift: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap_or_default()
    }

    /// A text with some bytes changed, gone, twice, or of another text.
    fn mutate(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(16)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                3 => {
                    let from = self.below(other.len());
                    bytes.splice(at..end, other[from..].iter().copied());
                }
                _ => drop(bytes.splice(at..end, TOKENS[self.below(TOKENS.len())].iter().copied())),
            }
        }
        bytes
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn run((name, target): Target, bytes: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| target(bytes)));
    assert!(outcome.is_ok(), "{name} panics at {:?}", String::from_utf8_lossy(bytes));
}

#[test]
fn no_bytes_from_outside_make_anything_panic() {
    for target in TARGETS {
        let seeds = corpus(target.0);
        assert!(!seeds.is_empty(), "{} has no corpus", target.0);
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for seed in &seeds {
            run(*target, seed);
            let step = seed.len() / BEGINNINGS + 1;
            (0..seed.len()).step_by(step).for_each(|end| run(*target, &seed[..end]));
            for _ in 0..ROUNDS {
                let other = &seeds[numbers.below(seeds.len())];
                let bytes = numbers.mutate(seed, other);
                run(*target, &bytes);
            }
        }
    }
}

#[test]
fn every_target_can_be_fuzzed_on_its_own() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let main = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            main.contains(&format!("targets::{name}(")) && manifest.contains(&format!("name = \"{name}\""))
        );
    }
}
