//! The `hosts` directive: names with fixed addresses.

use std::{collections::HashMap, io, net::IpAddr, time::SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::{corefile::HostsDirective, metrics::Metrics, zone::Labels};

/// Names and their addresses, both ways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    by_name: HashMap<String, Vec<IpAddr>>,
    by_address: HashMap<IpAddr, Vec<String>>,
}

/// A directive at work: its lines, and those of its file as they are now.
#[derive(Debug)]
pub struct Table {
    directive: HostsDirective,
    now: ArcSwap<Hosts>,
    /// When the file was changed, and how long it was, when it was read last.
    read: Mutex<Option<(SystemTime, u64)>>,
    metrics: Metrics,
}

// === impl Table ===

impl Table {
    /// Reads the directive's file. Without one there are the lines of the Corefile alone, until it comes.
    #[must_use]
    pub fn load(directive: &HostsDirective, metrics: Metrics) -> Self {
        let read = Mutex::default();
        let table = Self { directive: directive.clone(), now: ArcSwap::default(), read, metrics };
        if let Err(error) = table.read() {
            tracing::warn!(file = %directive.file.display(), %error, "the hosts file is not read");
            table.take_over(table.directive.inline.clone());
        }
        table
    }

    /// What it says.
    pub fn directive(&self) -> &HostsDirective {
        &self.directive
    }

    /// The names and addresses in use.
    pub fn current(&self) -> arc_swap::Guard<std::sync::Arc<Hosts>> {
        self.now.load()
    }

    /// Reads the file again if it has changed. What was read of one that is gone or unreadable stays.
    pub fn refresh(&self) {
        if self.directive.reload
            && self.stamp().is_some_and(|now| Some(now) != *self.read.lock())
            && let Err(error) = self.read()
        {
            tracing::warn!(%error, "the changed hosts file is not taken over");
        }
    }

    fn read(&self) -> io::Result<()> {
        let mut hosts = self.directive.inline.clone();
        let stamp = self.stamp();
        let file = &self.directive.file;
        for line in std::fs::read_to_string(file)?.lines() {
            if !hosts.add_line(line) {
                tracing::warn!(file = %file.display(), line, "not a hosts line");
            }
        }
        self.take_over(hosts);
        *self.read.lock() = stamp;
        Ok(())
    }

    fn take_over(&self, mut hosts: Hosts) {
        if self.directive.no_reverse {
            hosts.by_address.clear();
        }
        let file = self.directive.file.to_string_lossy();
        // Before 1970 no file was read.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.metrics.hosts_read(&file, hosts.len(), now.as_secs_f64());
        self.now.store(hosts.into());
    }

    fn stamp(&self) -> Option<(SystemTime, u64)> {
        let metadata = std::fs::metadata(&self.directive.file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }
}

// === impl Hosts ===

impl Hosts {
    /// Adds a line of a hosts file: an address and its names. Returns whether the address was one.
    pub fn add_line(&mut self, line: &str) -> bool {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(first) = words.next() else {
            return true;
        };
        let Ok(address) = first.parse::<IpAddr>() else {
            return false;
        };
        for name in words {
            let name = Labels::parse(name).to_string();
            self.by_name.entry(name.clone()).or_default().push(address);
            if !name.starts_with("*.") {
                self.by_address.entry(address).or_default().push(name);
            }
        }
        true
    }

    /// Addresses of a name; those of `*` for names one label below it that have none of their own.
    pub fn addresses(&self, name: &Labels) -> Option<&[IpAddr]> {
        let name = name.to_string();
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(&name).or_else(wildcard).map(Vec::as_slice)
    }

    /// How many addresses names and names addresses have together.
    fn len(&self) -> usize {
        self.by_name.values().map(Vec::len).chain(self.by_address.values().map(Vec::len)).sum()
    }

    /// Names of an address.
    pub fn names(&self, address: IpAddr) -> &[String] {
        self.by_address.get(&address).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_where_that_is_asked_for() {
        let file = std::env::temp_dir().join(format!("dns-hosts-{}", std::process::id()));
        std::fs::write(&file, "10.0.0.1 a.example\n").unwrap();
        let directive = HostsDirective { file: file.clone(), reload: true, ..HostsDirective::default() };
        let load = |directive: &HostsDirective| {
            Table::load(directive, Metrics::register(&prometheus::Registry::new()).unwrap())
        };
        let table = load(&directive);
        let fixed = load(&HostsDirective { reload: false, no_reverse: true, ..directive.clone() });
        let has = |table: &Table, name: &str| table.current().addresses(&Labels::parse(name)).is_some();
        assert!(has(&table, "a.example") && has(&fixed, "a.example"));
        let reverse = |table: &Table| table.current().names("10.0.0.1".parse().unwrap()).len();
        assert_eq!((reverse(&table), reverse(&fixed)), (1, 0));
        std::fs::write(&file, "10.0.0.1 a.example\n10.0.0.2 b.example\n").unwrap();
        table.refresh();
        fixed.refresh();
        assert!(has(&table, "b.example") && !has(&fixed, "b.example"));
        std::fs::remove_file(&file).unwrap();
        table.refresh();
        assert!(has(&table, "b.example"), "what was read stays");
        let mut inline = Hosts::default();
        inline.add_line("10.0.0.3 c.example");
        let late = load(&HostsDirective { inline, ..directive });
        assert!(has(&late, "c.example") && !has(&late, "a.example"), "there is no file yet");
        std::fs::write(&file, "10.0.0.1 a.example\n").unwrap();
        late.refresh();
        assert!(has(&late, "c.example") && has(&late, "a.example"));
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn lines_are_read_as_in_etc_hosts() {
        let mut hosts = Hosts::default();
        assert!(hosts.add_line("10.0.0.1 A.example b.example # comment"));
        assert!(hosts.add_line("# nothing") && hosts.add_line(""));
        assert!(!hosts.add_line("ttl 60"));
        assert_eq!(
            hosts.addresses(&Labels::parse("a.EXAMPLE.")),
            Some(["10.0.0.1".parse().unwrap()].as_slice())
        );
        assert_eq!(hosts.names("10.0.0.1".parse().unwrap()), ["a.example.", "b.example."]);
        assert_eq!(hosts.addresses(&Labels::parse("c.example")), None);
        assert!(
            hosts.add_line("10.0.0.2 *.apps.example web.apps.example")
                && hosts.add_line("10.0.0.3 web.apps.example")
        );
        let count = |name: &str| hosts.addresses(&Labels::parse(name)).map(<[IpAddr]>::len);
        assert_eq!((count("web.apps.example"), count("x.apps.example")), (Some(2), Some(1)));
        assert_eq!((count("apps.example"), count("a.x.apps.example")), (None, None));
        assert_eq!(hosts.names("10.0.0.2".parse().unwrap()), ["web.apps.example."], "none of a wildcard");
    }
}
