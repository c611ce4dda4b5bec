//! Sets of processors and how the kernel writes them: `0-3,8`.

use std::{collections::BTreeSet, fmt, str::FromStr};

/// Some processors, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuSet(BTreeSet<u32>);

/// Not a list of processors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no list of processors")]
pub struct BadList(String);

/// Processors have numbers below this, as the kernel's largest configuration has it.
const MOST: u32 = 8192;

impl CpuSet {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// It is among them.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self(&self.0 - &other.0)
    }

    /// Those that are in `other`, too.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(&self.0 & &other.0)
    }

    /// With those of `other`.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self(&self.0 | &other.0)
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = BadList;

    fn from_str(text: &str) -> Result<Self, BadList> {
        let bad = || BadList(text.to_owned());
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n < MOST);
            let (first, last) = number(first).zip(number(last)).ok_or_else(bad)?;
            if first > last {
                return Err(bad());
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.iter().peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| *next == last + 1) {
                last = next;
            }
            match first == last {
                true => write!(out, "{comma}{first}")?,
                false => write!(out, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_and_write_as_the_kernels() {
        for (text, written) in
            [("", ""), ("0", "0"), ("0-3", "0-3"), ("3,1,2", "1-3"), ("0,2,4-5\n", "0,2,4-5"), ("7-7", "7")]
        {
            assert_eq!(text.parse::<CpuSet>().unwrap().to_string(), written, "{text:?}");
        }
        for text in ["x", "1-", "3-1", "-1", "1-2-3", "0-4000000000"] {
            assert_eq!(text.parse::<CpuSet>(), Err(BadList(text.into())));
        }
    }

    #[test]
    fn sets_are_sets() {
        let set = |text: &str| text.parse::<CpuSet>().unwrap();
        assert_eq!(set("0-3").minus(&set("1,9")), set("0,2-3"));
        assert_eq!(set("0-3").and(&set("1,9")), set("1"));
        assert_eq!(set("0").plus(&set("1,9")), set("0-1,9"));
        assert!(set("5").contains(5) && set("").is_empty() && set("0-3").len() == 4);
    }
}
