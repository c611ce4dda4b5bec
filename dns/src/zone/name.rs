//! Domain names as lower-case labels.

use hickory_proto::{ProtoError, rr::Name};

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
