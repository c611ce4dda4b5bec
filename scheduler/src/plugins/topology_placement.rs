//! TopologyPlacementGenerator: a group with a topology constraint goes to nodes with one value of the label it names.

use std::collections::BTreeMap;

use smol_str::SmolStr;

use crate::{
    framework::Plugin,
    model::{Cluster, GroupInfo},
    plan::group::Domain,
};

/// The plugin.
pub struct TopologyPlacementGenerator;

impl Plugin for TopologyPlacementGenerator {
    fn name(&self) -> &'static str {
        "TopologyPlacementGenerator"
    }

    fn domains(&self, group: &GroupInfo, cluster: &Cluster) -> Option<Result<Vec<Domain>, String>> {
        let key = group.topology_key.as_ref()?;
        let there = match occupied(group, cluster, key) {
            Ok(there) => there,
            Err(why) => {
                let why = format!("cannot determine domain for already scheduled pods: {why}");
                return Some(Err(why));
            }
        };
        let mut out: BTreeMap<&String, Vec<SmolStr>> = BTreeMap::new();
        for node in cluster.nodes() {
            let Some(value) = node.labels.get(key) else { continue };
            if there.as_ref().is_none_or(|there| there == value) {
                out.entry(value).or_default().push(node.name.clone());
            }
        }
        Some(Ok(out.into_iter().map(|(name, nodes)| Domain { name: name.clone(), nodes }).collect()))
    }
}

/// The domain of those pods of the group that have a node.
fn occupied(group: &GroupInfo, cluster: &Cluster, key: &str) -> Result<Option<String>, String> {
    let mut out: Option<String> = None;
    for pod in cluster.groups.members(&group.key()) {
        let Some(name) = cluster.placement(&pod.uid) else { continue };
        let Some(node) = cluster.node(name) else {
            return Err(format!("getting node for pod {}: node {name:?} not found", pod.key()));
        };
        let Some(value) = node.labels.get(key) else {
            return Err(format!("no topology domain found for pod {}", pod.key()));
        };
        match &out {
            Some(other) if other != value => {
                return Err(format!("more than 1 domain found for pod group: {other}, {value}"));
            }
            _ => out = Some(value.clone()),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        model::ZONE_LABEL,
        testing::{cluster, gang, node, pod},
    };

    fn group(cluster: &mut Cluster, constrained: bool) -> std::sync::Arc<GroupInfo> {
        let constraints = constrained.then(|| json!({"topology": [{"key": ZONE_LABEL}]}));
        let event = gang("g", json!({"gang": {"minCount": 2}}));
        let mut object = (**event.object()).clone();
        object.spec.scheduling_constraints = serde_json::from_value(json!(constraints)).unwrap();
        let event = component_base::informer::Event::Added { new: object.into(), initial: false };
        cluster.groups.take(&event);
        cluster.groups.get(&component_base::meta::ObjectKey::new("default", "g")).unwrap().clone()
    }

    fn found(cluster: &Cluster, group: &GroupInfo) -> Option<Result<Vec<String>, String>> {
        let names = |domains: Vec<Domain>| domains.into_iter().map(|d| format!("{}{:?}", d.name, d.nodes));
        TopologyPlacementGenerator.domains(group, cluster).map(|found| found.map(|d| names(d).collect()))
    }

    #[test]
    fn there_is_one_domain_for_each_value_and_those_placed_decide() {
        let nodes = || vec![node("a", "1", json!({})), node("b", "2", json!({})), node("c", "2", json!({}))];
        let mut free = cluster(nodes(), vec![]);
        let any = group(&mut free, false);
        assert_eq!(found(&free, &any), None);
        let own = group(&mut free, true);
        let both = vec!["1[\"a\"]".to_owned(), "2[\"b\", \"c\"]".to_owned()];
        assert_eq!(found(&free, &own), Some(Ok(both)));
        for (placed, expected) in [
            (vec![("p", "c")], Ok(vec!["2[\"b\", \"c\"]".to_owned()])),
            (
                vec![("p", "a"), ("q", "b")],
                Err("cannot determine domain for already scheduled pods: \
                     more than 1 domain found for pod group: 1, 2"
                    .to_owned()),
            ),
        ] {
            let mut used = free.clone();
            for (name, on) in placed {
                let member = pod(name).group("g").on(on).info();
                used.groups.join(&member);
                used.place(member);
            }
            assert_eq!(found(&used, &own), Some(expected));
        }
    }
}
