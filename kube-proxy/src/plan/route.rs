//! Chains that all services share which have as many endpoints and treat their clients alike.

use super::{
    name,
    skeleton::{AT_ADDRESS, AT_NODE},
};
use crate::{
    model::Settings,
    tables::{Chain, Family, Field, Rule, Statement, Verdict},
};

/// Where the endpoints on this node begin, when a frontend has both: behind all those of the cluster.
pub(super) const LOCAL_FIRST: u32 = 1 << 24;

/// How connections go on, with the number of endpoints they may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Route {
    /// From a cluster IP.
    Inside(u32),
    /// From outside.
    Outside(Place, u32),
    /// From outside, to endpoints on this node (the second number), with their clients' addresses; from pods and this
    /// node to all (the first).
    OutsideLocal(Place, u32, u32),
}

/// By what a service is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// An address of its own.
    Address,
    /// A port of the node.
    Node,
}

// === impl Route ===

impl Route {
    /// Name of the chain.
    pub(super) fn name(self) -> String {
        match self {
            Self::Inside(count) => format!("cluster-ip-{count}"),
            Self::Outside(place, count) => format!("{}-{count}", place.word()),
            Self::OutsideLocal(place, all, here) => format!("{}-{all}-local-{here}", place.word()),
        }
    }

    /// The chain.
    pub(super) fn chain(self, family: Family, settings: &Settings) -> Chain {
        let mark = || Statement::Verdict(Verdict::Jump(name::MARK.into()));
        let rules = match self {
            Self::Inside(count) => vec![vec![balance(Place::Address, 0, count)]],
            Self::Outside(place, count) => vec![vec![mark()], vec![balance(place, 0, count)]],
            Self::OutsideLocal(place, all, here) => {
                // Pods and the node itself reach all endpoints by an external address, as they do by the cluster IP.
                let everywhere = || balance(place, 0, all);
                let mut rules: Vec<Vec<Statement>> = by_pods(family, settings, false)
                    .into_iter()
                    .map(|from_pods| vec![from_pods, everywhere()])
                    .collect();
                rules.push(vec![Statement::SourceIsLocal, mark()]);
                rules.push(vec![Statement::SourceIsLocal, everywhere()]);
                rules.push(match here {
                    0 => vec![Statement::Verdict(Verdict::Drop)],
                    here => vec![balance(place, LOCAL_FIRST, here)],
                });
                rules
            }
        };
        let rule = |statements| Rule { comment: String::new(), statements };
        Chain { hook: None, rules: rules.into_iter().map(rule).collect() }
    }
}

impl Place {
    fn word(self) -> &'static str {
        match self {
            Self::Address => "external",
            Self::Node => "nodeport",
        }
    }

    /// The map of endpoints.
    pub(super) fn endpoints(self) -> &'static str {
        match self {
            Self::Address => name::ENDPOINTS,
            Self::Node => name::NODE_PORT_ENDPOINTS,
        }
    }

    fn key(self) -> &'static [Field] {
        match self {
            Self::Address => &AT_ADDRESS,
            Self::Node => &AT_NODE,
        }
    }
}

/// Sends a connection to one of the endpoints of what it was made to.
pub(super) fn balance(place: Place, first: u32, count: u32) -> Statement {
    Statement::BalanceAt { key: place.key().to_vec(), map: place.endpoints().into(), first, count }
}

/// What holds for packets of pods: any one of these; for packets of others (`negate`): all of these.
pub(super) fn by_pods(family: Family, settings: &Settings, negate: bool) -> Vec<Statement> {
    if let Some((name, prefix)) = &settings.pod_interfaces {
        return vec![Statement::CameBy { name: name.clone(), prefix: *prefix, negate }];
    }
    let ranges = settings.pod_ranges.iter().filter(|r| family.has(&r.addr()));
    ranges.map(|range| Statement::Within { field: Field::Source, range: *range, negate }).collect()
}
