//! The node's file systems on devices: how full they are, and what went to and from their devices.

use std::{collections::BTreeMap, path::Path};

use crate::node::machine::{self, FsUsage};

/// A file system that is on a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filesystem {
    /// The device, `/dev/sda1`.
    pub device: String,
    /// How full it is.
    pub usage: FsUsage,
    /// What went to and from the device, where the kernel counts that.
    pub traffic: Option<Traffic>,
}

/// Counters of a device, as the kernel orders them: for reads and writes how many, how many of them were merged, sectors and
/// milliseconds; then those in progress, and the milliseconds of all, as they are and weighted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Reads.
    pub read: [u64; 4],
    /// Writes.
    pub written: [u64; 4],
    /// In progress.
    pub current: u64,
    /// Milliseconds with something in progress.
    pub time: u64,
    /// Milliseconds of all that was in progress.
    pub weighted: u64,
}

/// Those of the node, each device once, with the names of all devices by their numbers.
#[must_use]
pub fn of_node() -> (Vec<Filesystem>, BTreeMap<String, String>) {
    // Without /proc there is nothing to tell.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let stats = std::fs::read_to_string("/proc/diskstats").unwrap_or_default();
    let devices = devices(&stats);
    let names = devices.iter().map(|(number, (name, _))| (number.clone(), format!("/dev/{name}"))).collect();
    let one = |mount: Mount| {
        // One that is gone is not told of.
        let usage = machine::fs_usage(Path::new(&mount.place)).ok()?;
        let traffic = devices.get(&mount.number).map(|(_, traffic)| *traffic);
        Some(Filesystem { device: mount.device, usage, traffic })
    };
    (on_devices(&mounts).into_iter().filter_map(one).collect(), names)
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    number: String,
    place: String,
    device: String,
}

/// The first mount of each device: `36 35 98:0 /root /place rw - ext4 /dev/sda1 rw`.
fn on_devices(mounts: &str) -> Vec<Mount> {
    let mut all: Vec<Mount> = Vec::new();
    for line in mounts.lines() {
        let Some((own, system)) = line.split_once(" - ") else { continue };
        let own: Vec<&str> = own.split(' ').collect();
        let (Some(number), Some(place), Some(device)) = (own.get(2), own.get(4), system.split(' ').nth(1))
        else {
            continue;
        };
        if device.starts_with("/dev/") && all.iter().all(|known| known.device != device) {
            // Of what the kernel writes as \040 only spaces are met with.
            let place = place.replace("\\040", " ");
            all.push(Mount { number: (*number).to_owned(), place, device: device.to_owned() });
        }
    }
    all
}

/// Devices by their numbers: `8 0 sda 1 2 3 4 5 6 7 8 9 10 11`.
fn devices(stats: &str) -> BTreeMap<String, (String, Traffic)> {
    let one = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (major, minor, name) = (fields.first()?, fields.get(1)?, fields.get(2)?);
        let at = |i: usize| fields.get(i + 3)?.parse::<u64>().ok();
        let four = |from: usize| Some([at(from)?, at(from + 1)?, at(from + 2)?, at(from + 3)?]);
        let traffic =
            Traffic { read: four(0)?, written: four(4)?, current: at(8)?, time: at(9)?, weighted: at(10)? };
        Some((format!("{major}:{minor}"), ((*name).to_owned(), traffic)))
    };
    stats.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_of_once() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:5 / /proc rw - proc proc rw\n\
                      24 22 8:1 /var /var/lib rw - ext4 /dev/sda1 rw\n25 22 8:2 / /a\\040b rw shared:1 - xfs /dev/sda2 rw\nbad\n";
        let all = on_devices(mounts);
        let told: Vec<_> =
            all.iter().map(|m| (m.number.as_str(), m.place.as_str(), m.device.as_str())).collect();
        assert_eq!(told, [("8:1", "/", "/dev/sda1"), ("8:2", "/a b", "/dev/sda2")]);
    }

    #[test]
    fn counters_of_devices_are_read_in_the_kernels_order() {
        let all = devices("   8       1 sda1 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15\n   8 2 sda2 1\n");
        let wanted =
            Traffic { read: [1, 2, 3, 4], written: [5, 6, 7, 8], current: 9, time: 10, weighted: 11 };
        assert_eq!(all, BTreeMap::from([("8:1".to_owned(), ("sda1".to_owned(), wanted))]));
    }
}
