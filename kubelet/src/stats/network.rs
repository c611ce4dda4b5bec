//! What went over network interfaces, from /proc.

use std::path::Path;

/// Counters of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets that were lost on the way in.
    pub rx_dropped: u64,
    /// Receptions that failed.
    pub rx_errors: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that were lost on the way out.
    pub tx_dropped: u64,
    /// Sendings that failed.
    pub tx_errors: u64,
}

/// The interfaces of a process's network, without the loopback; `proc` is `/proc/<pid>`, or `/proc` for the node's own.
/// The one that leads out is the first.
#[must_use]
pub fn of_process(proc: &Path) -> Vec<Interface> {
    // A process that has ended has no network.
    let text = std::fs::read_to_string(proc.join("net/dev")).unwrap_or_default();
    let routes = std::fs::read_to_string(proc.join("net/route")).unwrap_or_default();
    let mut all = parse(&text);
    if let Some(out) = way_out(&routes) {
        all.sort_by_key(|i| i.name != out);
    }
    all
}

fn parse(text: &str) -> Vec<Interface> {
    let one = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let figures: Vec<u64> = figures.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        let at = |i: usize| figures.get(i).copied();
        Some(Interface {
            name: name.trim().to_owned(),
            rx_bytes: at(0)?,
            rx_packets: at(1)?,
            rx_errors: at(2)?,
            rx_dropped: at(3)?,
            tx_bytes: at(8)?,
            tx_packets: at(9)?,
            tx_dropped: at(11)?,
            tx_errors: at(10)?,
        })
    };
    text.lines().skip(2).filter_map(one).filter(|i| i.name != "lo").collect()
}

/// The interface of the default route.
fn way_out(routes: &str) -> Option<String> {
    let mut lines = routes.lines().skip(1).map(|l| l.split_whitespace());
    lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.next()? == "00000000").then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_out_comes_first_and_the_loopback_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("net")).unwrap();
        let dev = "Inter-|   Receive                      |  Transmit\n face |bytes packets errs ...\n\
            lo: 9 9 9 0 0 0 0 0 9 9 9 0 0 0 0 0\n  cni0: 1 0 2 0 0 0 0 0 3 0 4 0 0 0 0 0\n\
            eth0: 10 0 20 0 0 0 0 0 30 0 40 0 0 0 0 0\n broken: 1\n";
        std::fs::write(dir.path().join("net/dev"), dev).unwrap();
        let route = "Iface Destination Gateway\ncni0 0000F40A 00000000\neth0 00000000 0100000A\n";
        std::fs::write(dir.path().join("net/route"), route).unwrap();
        let all = of_process(dir.path());
        let names: Vec<&str> = all.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["eth0", "cni0"]);
        assert_eq!((all[0].rx_bytes, all[0].rx_errors, all[0].tx_bytes, all[0].tx_errors), (10, 20, 30, 40));
        assert!(of_process(&dir.path().join("gone")).is_empty());
    }
}
