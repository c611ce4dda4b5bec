//! Ranges of addresses with holes, as the disjoint ranges that are left.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::tables::Family;

/// First and last address of what is in one of the ranges and not in its exceptions, in order; ranges that touch are one.
pub(super) fn union<'a>(
    family: Family,
    ranges: impl IntoIterator<Item = (&'a IpNet, &'a [IpNet])>,
) -> Vec<(IpAddr, IpAddr)> {
    let mut all = Vec::new();
    for (range, except) in ranges.into_iter().filter(|(range, _)| family.has(&range.addr())) {
        let mut left = vec![bounds(range)];
        for hole in except.iter().filter(|hole| family.has(&hole.addr())) {
            left = left.into_iter().flat_map(|part| without(part, bounds(hole))).collect();
        }
        all.extend(left);
    }
    all.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in all {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged.into_iter().map(|(first, last)| (address(family, first), address(family, last))).collect()
}

/// What is left of a range outside another one.
fn without((first, last): (u128, u128), (from, to): (u128, u128)) -> Vec<(u128, u128)> {
    if to < first || last < from {
        return vec![(first, last)];
    }
    let mut left = Vec::new();
    if first < from {
        left.push((first, from - 1));
    }
    if to < last {
        left.push((to + 1, last));
    }
    left
}

fn bounds(range: &IpNet) -> (u128, u128) {
    (number(range.network()), number(range.broadcast()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// Numbers of IPv4 come from IPv4 addresses and fit.
fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        Family::V6 => IpAddr::V6(number.into()),
    }
}
