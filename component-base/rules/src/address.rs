//! Addresses and networks where only one way of writing them is taken.
//!
//! Contract: KEP-4858 (stricter IP and CIDR validation): new fields take canonical forms only.

use std::net::IpAddr;

use ipnet::IpNet;

/// Errors of an address: it must be written as RFC 5952 has it.
pub fn canonical_ip(text: &str) -> Vec<String> {
    let wrong = match text.parse::<IpAddr>() {
        Err(_) if without_leading_zeros(text).parse::<IpAddr>().is_ok() => "must not have leading 0s".into(),
        Err(_) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into(),
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            "must not be an IPv4-mapped IPv6 address".into()
        }
        Ok(ip) if ip.to_string() != text => format!("must be in canonical form (\"{ip}\")"),
        Ok(_) => return Vec::new(),
    };
    vec![wrong]
}

/// Errors of a network: canonical, and no bits set beyond the prefix.
pub fn canonical_cidr(text: &str) -> Vec<String> {
    let zeros = || {
        let (ip, length) = text.split_once('/')?;
        let plain = format!("{}/{}", without_leading_zeros(ip), without_leading_zeros(length));
        (plain != text && plain.parse::<IpNet>().is_ok()).then_some(())
    };
    let wrong = match text.parse::<IpNet>() {
        _ if zeros().is_some() => "must not have leading 0s in IP or prefix length".into(),
        Err(_) => "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into(),
        Ok(IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => {
            "must not have an IPv4-mapped IPv6 address".into()
        }
        Ok(net) if net.trunc() != net => "must not have bits set beyond the prefix length".into(),
        Ok(net) if net.to_string() != text => format!("must be in canonical form (\"{net}\")"),
        Ok(_) => return Vec::new(),
    };
    vec![wrong]
}

/// A network as old clients wrote it, leading zeros and all.
pub fn loose_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let bits = match length.trim_start_matches('0') {
        "" if !length.is_empty() => "0",
        bits => bits,
    };
    format!("{}/{bits}", without_leading_zeros(address)).parse().ok()
}

/// `010.002.0.1` as `10.2.0.1`; IPv6, where zeros mean nothing else, as it is.
pub fn without_leading_zeros(text: &str) -> String {
    if text.contains(':') {
        return text.to_owned();
    }
    let trimmed = text.split('.').map(|octet| match octet.trim_start_matches('0') {
        "" if !octet.is_empty() => "0",
        rest => rest,
    });
    trimmed.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_of_writing_an_address() {
        for good in ["10.0.0.1", "0.0.0.0", "2001:db8::1", "fe80::42:1dff:fe84:f9e2", "::"] {
            assert!(canonical_ip(good).is_empty(), "{good}");
        }
        for (bad, says) in [
            ("10.0.0", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            ("", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            ("010.0.0.1", "must not have leading 0s"),
            ("::ffff:10.0.0.1", "must not be an IPv4-mapped IPv6 address"),
            ("2001:DB8:0::1", "must be in canonical form (\"2001:db8::1\")"),
        ] {
            assert_eq!(canonical_ip(bad), [says], "{bad}");
        }
    }

    #[test]
    fn one_way_of_writing_a_network() {
        for good in ["10.0.0.0/8", "0.0.0.0/0", "2001:db8::/64"] {
            assert!(canonical_cidr(good).is_empty(), "{good}");
        }
        for (bad, says) in [
            ("10.0.0.0", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            ("10.0.0.0/33", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            ("010.0.0.0/8", "must not have leading 0s in IP or prefix length"),
            ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
            ("::ffff:10.0.0.0/104", "must not have an IPv4-mapped IPv6 address"),
            ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
            ("2001:DB8::/64", "must be in canonical form (\"2001:db8::/64\")"),
        ] {
            assert_eq!(canonical_cidr(bad), [says], "{bad}");
        }
    }
}
