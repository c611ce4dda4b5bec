//! The machine's shape: which processors are threads of one core, which cores are on one socket, which memory is near.
//! From /sys/devices/system/cpu.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use super::set::CpuSet;

/// Where one processor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The memory it is near.
    pub numa: u32,
    /// Its socket.
    pub socket: u32,
    /// Its outermost cache, where several of them share a node's memory; else its socket.
    pub cache: u32,
    /// Its core: the lowest number of the core's threads.
    pub core: u32,
}

impl Place {
    /// The part of this level.
    #[must_use]
    pub fn at(&self, level: Level) -> u32 {
        match level {
            Level::Numa => self.numa,
            Level::Socket => self.socket,
            Level::Cache => self.cache,
            Level::Core => self.core,
        }
    }
}

/// All processors with their places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology(BTreeMap<u32, Place>);

/// A part of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Processors near the same memory.
    Numa,
    /// A socket.
    Socket,
    /// What shares the outermost cache.
    Cache,
    /// A core.
    Core,
}

impl Topology {
    /// All processors.
    #[must_use]
    pub fn all(&self) -> CpuSet {
        self.0.keys().copied().collect()
    }

    /// Where a processor is.
    #[must_use]
    pub fn place(&self, cpu: u32) -> Option<Place> {
        self.0.get(&cpu).copied()
    }

    /// Threads of the largest core.
    #[must_use]
    pub fn threads_per_core(&self) -> usize {
        self.groups(Level::Core).iter().map(|(_, cpus)| cpus.len()).max().unwrap_or(1)
    }

    /// The parts at a level, each with the place of its first processor.
    #[must_use]
    pub fn groups(&self, level: Level) -> Vec<(Place, CpuSet)> {
        let mut groups: BTreeMap<u32, (Place, Vec<u32>)> = BTreeMap::new();
        for (cpu, place) in &self.0 {
            groups.entry(place.at(level)).or_insert((*place, vec![])).1.push(*cpu);
        }
        groups.into_values().map(|(place, cpus)| (place, cpus.into_iter().collect())).collect()
    }

    /// How many parts there are at a level.
    #[must_use]
    pub fn count(&self, level: Level) -> usize {
        self.0.values().map(|place| place.at(level)).collect::<BTreeSet<u32>>().len()
    }

    /// The processors of a part.
    #[must_use]
    pub fn part(&self, level: Level, id: u32) -> CpuSet {
        self.0.iter().filter(|(_, place)| place.at(level) == id).map(|(cpu, _)| *cpu).collect()
    }

    /// Which part a processor is in.
    #[must_use]
    pub fn part_of(&self, level: Level, cpu: u32) -> Option<u32> {
        self.place(cpu).map(|place| place.at(level))
    }

    /// Memory nodes and sockets, the larger ones first.
    #[must_use]
    pub fn outer(&self) -> [Level; 2] {
        if self.count(Level::Socket) >= self.count(Level::Numa) {
            [Level::Numa, Level::Socket]
        } else {
            [Level::Socket, Level::Numa]
        }
    }

    /// The levels of the parts that are around those of a level, from the outside, and itself.
    #[must_use]
    pub fn around(&self, level: Level) -> Vec<Level> {
        let outer = self.outer();
        let up_to =
            |last: Level| outer.into_iter().take(outer.iter().take_while(|l| **l != last).count() + 1);
        match level {
            Level::Numa | Level::Socket => up_to(level).collect(),
            Level::Cache => up_to(Level::Numa).chain([level]).collect(),
            Level::Core => outer.into_iter().chain([level]).collect(),
        }
    }
}

impl FromIterator<(u32, Place)> for Topology {
    fn from_iter<I: IntoIterator<Item = (u32, Place)>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

/// Reads the shape; `root` is `/` but in tests.
///
/// # Errors
/// When /sys does not tell which processors are online.
pub fn read(root: &Path) -> io::Result<Topology> {
    let folder = root.join("sys/devices/system/cpu");
    let list = |text: &str| text.parse::<CpuSet>().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
    let online = list(&fs::read_to_string(folder.join("online"))?)?;
    let one = |cpu: u32| -> io::Result<(u32, Place)> {
        let own = folder.join(format!("cpu{cpu}"));
        // Machines without such parts, virtual ones mostly, do not tell: then every processor is a core of the one socket.
        let text = |name: &str| fs::read_to_string(own.join("topology").join(name)).ok();
        let siblings =
            text("thread_siblings_list").map_or_else(|| Ok([cpu].into_iter().collect()), |t| list(&t))?;
        let socket = text("physical_package_id").and_then(|t| t.trim().parse().ok()).unwrap_or(0);
        let core = siblings.iter().next().unwrap_or(cpu);
        Ok((cpu, Place { numa: node_of(&own), socket, cache: socket, core }))
    };
    let mut topology = online.iter().map(one).collect::<io::Result<Topology>>()?;
    for (_, cpus) in topology.groups(Level::Numa) {
        for cpu in cpus.iter() {
            if let Some(cache) = cache_of(&folder.join(format!("cpu{cpu}")), cpus.len())
                && let Some(place) = topology.0.get_mut(&cpu)
            {
                place.cache = cache;
            }
        }
    }
    Ok(topology)
}

/// The cache behind the second that a processor shares with some of its node's, but not with all of them.
fn cache_of(folder: &Path, of_node: usize) -> Option<u32> {
    let mut found: Vec<_> =
        fs::read_dir(folder.join("cache")).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
    found.sort();
    found.into_iter().find_map(|index| {
        let text = |name: &str| fs::read_to_string(index.join(name)).ok();
        let level: u32 = text("level")?.trim().parse().ok()?;
        let shared: CpuSet = text("shared_cpu_list")?.parse().ok()?;
        let id = text("id")?.trim().parse().ok()?;
        (level > 2 && shared.len() != of_node).then_some(id)
    })
}

/// The memory node that a processor's folder links to, as `node0`.
fn node_of(folder: &Path) -> u32 {
    let names = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut nodes =
        names.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse::<u32>().ok());
    nodes.next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_read_from_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("sys/devices/system/cpu");
        assert!(read(dir.path()).is_err());
        for (cpu, siblings, socket) in [(0, "0,2", "0"), (1, "1,3", "1"), (2, "0,2", "0"), (3, "1,3", "1")] {
            let own = folder.join(format!("cpu{cpu}"));
            fs::create_dir_all(own.join("topology")).unwrap();
            fs::create_dir_all(own.join(format!("node{socket}"))).unwrap();
            fs::write(own.join("topology/thread_siblings_list"), siblings).unwrap();
            fs::write(own.join("topology/physical_package_id"), format!("{socket}\n")).unwrap();
            // Processor 0 shares its third cache with its sibling alone, processor 1 with all of its node.
            let third = own.join("cache/index3");
            fs::create_dir_all(&third).unwrap();
            let shared = if cpu == 1 { "1,3" } else { "0" };
            for (name, text) in [("level", "3"), ("id", "7"), ("shared_cpu_list", shared)] {
                fs::write(third.join(name), text).unwrap();
            }
        }
        fs::write(folder.join("online"), "0-4\n").unwrap();
        let topology = read(dir.path()).unwrap();
        assert_eq!(topology.all().to_string(), "0-4");
        assert_eq!(topology.place(3), Some(Place { numa: 1, socket: 1, cache: 7, core: 1 }));
        assert_eq!(topology.place(1).map(|place| place.cache), Some(1), "all of the node share it");
        assert_eq!(
            topology.place(4),
            Some(Place { numa: 0, socket: 0, cache: 0, core: 4 }),
            "it tells nothing of itself"
        );
        assert_eq!(topology.threads_per_core(), 2);
        let cores: Vec<String> =
            topology.groups(Level::Core).into_iter().map(|(_, cpus)| cpus.to_string()).collect();
        assert_eq!(cores, ["0,2", "1,3", "4"]);
    }
}
