//! Domain names as lower-case labels.

use std::net::IpAddr;

use hickory_proto::{ProtoError, rr::Name};
use ipnet::IpNet;

/// Lower-case labels of a name, leftmost first, without the root. Labels that are not ASCII text are
/// kept with replacement characters: no Kubernetes name matches them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(Vec<String>);

impl Labels {
    /// The labels of a DNS name.
    pub fn of(name: &Name) -> Self {
        Self(name.iter().map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect())
    }

    /// The labels of a textual name.
    pub fn parse(text: &str) -> Self {
        Self(
            text.trim_end_matches('.')
                .split('.')
                .filter(|l| !l.is_empty())
                .map(str::to_ascii_lowercase)
                .collect(),
        )
    }

    /// The labels of a zone: of a textual name, or for a network those of the reverse zones that its addresses lie in
    /// (RFC 1035, 3.5). `None` is neither.
    pub fn of_zone(text: &str) -> Option<Vec<Self>> {
        if !text.contains('/') {
            return Some(vec![Self::parse(text)]);
        }
        let net: IpNet = text.parse().ok()?;
        // Zones end where an octet (of IPv4) or half of one (of IPv6) does.
        let (digit, most) = if matches!(net, IpNet::V4(_)) { (8, 32) } else { (4, 128) };
        let length = net.prefix_len().div_ceil(digit).saturating_mul(digit).clamp(digit, most);
        let parts = net.subnets(length).ok()?;
        Some(parts.map(|part| Self::reverse(part.network(), usize::from(length / digit))).collect())
    }

    fn reverse(address: IpAddr, digits: usize) -> Self {
        let (all, suffix): (Vec<String>, _) = match address {
            IpAddr::V4(v4) => (v4.octets().iter().map(u8::to_string).collect(), "in-addr"),
            IpAddr::V6(v6) => {
                let halves = v6.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
                (halves.map(|half| format!("{half:x}")).collect(), "ip6")
            }
        };
        let left = all.into_iter().take(digits).rev();
        Self(left.chain([suffix.to_owned(), "arpa".to_owned()]).collect())
    }

    /// The labels left of `zone`, if the name lies in it.
    pub fn within(&self, zone: &Self) -> Option<&[String]> {
        let left = self.0.len().checked_sub(zone.0.len())?;
        (self.0[left..] == zone.0[..]).then(|| &self.0[..left])
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this is the root.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name, with `prefix` in front.
    pub fn prefixed<'a>(&'a self, prefix: impl IntoIterator<Item = &'a str>) -> Result<Name, ProtoError> {
        let labels = prefix.into_iter().chain(self.0.iter().map(String::as_str)).map(str::as_bytes);
        let mut name = Name::from_labels(labels)?;
        name.set_fqdn(true);
        Ok(name)
    }
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.", self.0.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_the_zones_of_their_addresses() {
        let of = |text: &str| -> Vec<String> {
            Labels::of_zone(text).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(of("Cluster.local"), ["cluster.local."]);
        assert_eq!(of("10.1.0.0/16"), ["1.10.in-addr.arpa."]);
        assert_eq!(of("10.2.0.0/15"), ["2.10.in-addr.arpa.", "3.10.in-addr.arpa."]);
        assert_eq!(of("2001:db8::/32"), ["8.b.d.0.1.0.0.2.ip6.arpa."]);
        assert_eq!(of("10.0.0.1/32"), ["1.0.0.10.in-addr.arpa."]);
        assert_eq!(Labels::of_zone("10.0/16"), None);
    }
}
