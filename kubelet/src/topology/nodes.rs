//! Sets of memory nodes (NUMA nodes), by their numbers, and which machines have which nodes.
//!
//! Contract: /sys/devices/system/node as the kernel documents it in ABI/stable/sysfs-devices-node.

use std::{collections::BTreeMap, fmt, fs, io, path::Path};

use crate::node::machine::kilobytes;

/// One more than the largest number of a node that is managed.
pub const MOST: u32 = 64;

/// Some memory nodes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeSet(u64);

impl NodeSet {
    /// The set of one node; empty for a number that is not managed.
    #[must_use]
    pub fn one(node: u32) -> Self {
        Self(1u64.checked_shl(node).unwrap_or(0))
    }

    /// How many there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// It is among them.
    #[must_use]
    pub fn contains(self, node: u32) -> bool {
        !(self.and(Self::one(node))).is_empty()
    }

    /// All of them are in `other`, too.
    #[must_use]
    pub fn is_within(self, other: Self) -> bool {
        self.and(other) == self
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are in either.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// In ascending order.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..MOST).filter(move |node| self.contains(*node))
    }

    /// Every set that has some of these nodes and no others, smaller ones first.
    #[must_use]
    pub fn parts(self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut part = self.0;
        while part != 0 {
            all.push(Self(part));
            part = (part - 1) & self.0;
        }
        all.sort_unstable_by_key(|p| (p.len(), *p));
        all
    }
}

impl FromIterator<u32> for NodeSet {
    fn from_iter<I: IntoIterator<Item = u32>>(nodes: I) -> Self {
        nodes.into_iter().fold(Self::default(), |all, node| all.plus(Self::one(node)))
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.iter()).finish()
    }
}

/// The kernel's list: `0,2`.
impl fmt::Display for NodeSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, node) in self.iter().enumerate() {
            write!(out, "{}{node}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// One memory node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryNode {
    /// Bytes of memory, huge pages included.
    pub memory: u64,
    /// Huge pages: their size and how many bytes of them there are.
    pub huge_pages: BTreeMap<u64, u64>,
    /// How far every node is from this one, by number; empty where the kernel does not tell.
    pub distances: BTreeMap<u32, u64>,
}

/// All memory nodes of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryNodes(pub BTreeMap<u32, MemoryNode>);

impl MemoryNodes {
    /// Their numbers.
    #[must_use]
    pub fn all(&self) -> NodeSet {
        self.0.keys().copied().collect()
    }

    /// How far the nodes of a set are from each other, all distances added up.
    #[must_use]
    pub fn spread(&self, set: NodeSet) -> u64 {
        let from = |one: u32| self.0.get(&one).map(|node| &node.distances);
        let pairs = set.iter().flat_map(|one| set.iter().map(move |other| (one, other)));
        pairs.filter_map(|(one, other)| from(one)?.get(&other)).sum()
    }
}

/// Reads the nodes; `root` is `/` but in tests. A machine that does not tell is one node with all the memory.
///
/// # Errors
/// When a node's files do not read, or its number is too large.
pub fn read(root: &Path) -> io::Result<MemoryNodes> {
    let folder = root.join("sys/devices/system/node");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return whole(root),
        Err(error) => return Err(error),
    };
    let mut nodes = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|n| n.strip_prefix("node")?.parse::<u32>().ok());
        let Some(number) = number else { continue };
        if number >= MOST {
            let text = format!("memory node {number} has too large a number, {} is the last one", MOST - 1);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        nodes.insert(number, node(&entry.path())?);
    }
    if nodes.is_empty() {
        return whole(root);
    }
    // The list of distances has one for every node, in the order of their numbers.
    let numbers: Vec<u32> = nodes.keys().copied().collect();
    for (number, node) in &mut nodes {
        let text = fs::read_to_string(folder.join(format!("node{number}/distance"))).unwrap_or_default();
        let far = text.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        node.distances = numbers.iter().copied().zip(far).collect();
    }
    Ok(MemoryNodes(nodes))
}

fn whole(root: &Path) -> io::Result<MemoryNodes> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo"))?;
    let memory = bytes(kilobytes(&meminfo, "MemTotal:"));
    let huge_pages = huge_pages(&root.join("sys/kernel/mm/hugepages"));
    Ok(MemoryNodes(BTreeMap::from([(0, MemoryNode { memory, huge_pages, distances: BTreeMap::new() })])))
}

fn node(folder: &Path) -> io::Result<MemoryNode> {
    // Lines of a node begin with its name: `Node 0 MemTotal: 42 kB`.
    let meminfo = fs::read_to_string(folder.join("meminfo"))?;
    let total = meminfo.lines().find_map(|line| line.split_once("MemTotal:"));
    let number = total.and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    Ok(MemoryNode {
        memory: bytes(number),
        huge_pages: huge_pages(&folder.join("hugepages")),
        distances: BTreeMap::new(),
    })
}

fn bytes(kilobytes: Option<i64>) -> u64 {
    kilobytes.and_then(|k| u64::try_from(k).ok()).unwrap_or(0).saturating_mul(1024)
}

/// Sizes with all their bytes; folders are named `hugepages-2048kB`.
fn huge_pages(folder: &Path) -> BTreeMap<u64, u64> {
    // A kernel without huge pages has no such folder.
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let one = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let size: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count: u64 = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        let size = size.checked_mul(1024)?;
        Some((size, size.checked_mul(count)?))
    };
    entries.filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_from_small_to_large() {
        let set: NodeSet = [0, 2, 3].into_iter().collect();
        let parts: Vec<String> = set.parts().into_iter().map(|p| p.to_string()).collect();
        assert_eq!(parts, ["0", "2", "3", "0,2", "0,3", "2,3", "0,2,3"]);
        assert!(NodeSet::default().parts().is_empty() && NodeSet::one(64).is_empty());
        assert!(set.contains(3) && !set.contains(1) && !set.contains(200));
    }

    #[test]
    fn nodes_are_read_from_the_root() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_err(), "nothing tells of memory");
        fs::create_dir_all(dir.path().join("proc")).unwrap();
        fs::write(dir.path().join("proc/meminfo"), "MemTotal:  100 kB\n").unwrap();
        let one = read(dir.path()).unwrap();
        assert_eq!((one.all().to_string().as_str(), one.0[&0].memory), ("0", 102_400));
        let folder = dir.path().join("sys/devices/system/node");
        for (number, memory, distance) in [(0, 8, "10 21"), (2, 16, "21 10")] {
            let own = folder.join(format!("node{number}"));
            fs::create_dir_all(own.join("hugepages/hugepages-2048kB")).unwrap();
            fs::write(
                own.join("meminfo"),
                format!("Node {number} MemTotal:  {memory} kB\nNode 0 MemFree: 1 kB\n"),
            )
            .unwrap();
            fs::write(own.join("distance"), format!("{distance}\n")).unwrap();
            fs::write(own.join("hugepages/hugepages-2048kB/nr_hugepages"), "3\n").unwrap();
        }
        fs::write(folder.join("possible"), "0-2\n").unwrap();
        let nodes = read(dir.path()).unwrap();
        assert_eq!(nodes.all().to_string(), "0,2");
        assert_eq!((nodes.0[&0].memory, nodes.0[&2].memory), (8192, 16384));
        assert_eq!(nodes.0[&2].huge_pages, BTreeMap::from([(2 << 20, 6 << 20)]));
        assert_eq!((nodes.spread(nodes.all()), nodes.spread(NodeSet::one(2))), (62, 10));
        fs::create_dir_all(folder.join("node64")).unwrap();
        fs::write(folder.join("node64/meminfo"), "").unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("64"));
    }
}
