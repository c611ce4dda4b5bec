//! The machine's shape: which processors are threads of one core, which cores are on one socket, which memory is near.
//! From /sys/devices/system/cpu.

use std::{collections::BTreeMap, fs, io, path::Path};

use super::set::CpuSet;

/// Where one processor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The memory it is near.
    pub numa: u32,
    /// Its socket.
    pub socket: u32,
    /// Its core: the lowest number of the core's threads.
    pub core: u32,
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
        let key = |place: &Place| match level {
            Level::Numa => place.numa,
            Level::Socket => place.socket,
            Level::Core => place.core,
        };
        let mut groups: BTreeMap<u32, (Place, Vec<u32>)> = BTreeMap::new();
        for (cpu, place) in &self.0 {
            groups.entry(key(place)).or_insert((*place, vec![])).1.push(*cpu);
        }
        groups.into_values().map(|(place, cpus)| (place, cpus.into_iter().collect())).collect()
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
        Ok((cpu, Place { numa: node_of(&own), socket, core }))
    };
    online.iter().map(one).collect()
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
        }
        fs::write(folder.join("online"), "0-4\n").unwrap();
        let topology = read(dir.path()).unwrap();
        assert_eq!(topology.all().to_string(), "0-4");
        assert_eq!(topology.place(3), Some(Place { numa: 1, socket: 1, core: 1 }));
        assert_eq!(
            topology.place(4),
            Some(Place { numa: 0, socket: 0, core: 4 }),
            "it tells nothing of itself"
        );
        assert_eq!(topology.threads_per_core(), 2);
        let cores: Vec<String> =
            topology.groups(Level::Core).into_iter().map(|(_, cpus)| cpus.to_string()).collect();
        assert_eq!(cores, ["0,2", "1,3", "4"]);
    }
}
