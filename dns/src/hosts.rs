//! The `hosts` directive: names with fixed addresses.

use std::{collections::HashMap, net::IpAddr};

use crate::zone::Labels;

/// Names and their addresses, both ways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    by_name: HashMap<String, Vec<IpAddr>>,
    by_address: HashMap<IpAddr, Vec<String>>,
}

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
            self.by_address.entry(address).or_default().push(name);
        }
        true
    }

    /// Addresses of a name.
    pub fn addresses(&self, name: &Labels) -> Option<&[IpAddr]> {
        self.by_name.get(&name.to_string()).map(Vec::as_slice)
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
    }
}
