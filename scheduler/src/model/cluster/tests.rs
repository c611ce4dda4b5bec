//! Sums kept with every change are those that counting everything anew gives.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::testing::{node, pod};

/// What happens to a cluster of four nodes and eight pods.
#[derive(Clone, Debug)]
enum Step {
    Place { pod: usize, node: usize, app: usize },
    Displace { pod: usize },
    Node { node: usize, zone: usize, tainted: bool },
    Remove { node: usize },
    Namespace { team: usize },
}

const APPS: [&str; 3] = ["a", "b", "c"];
const ZONES: [&str; 2] = ["x", "y"];
const ZONE: &str = "topology.kubernetes.io/zone";

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..8_usize, 0..4_usize, 0..3_usize).prop_map(|(pod, node, app)| Step::Place { pod, node, app }),
        3 => (0..8_usize).prop_map(|pod| Step::Displace { pod }),
        2 => (0..4_usize, 0..2_usize, any::<bool>())
            .prop_map(|(node, zone, tainted)| Step::Node { node, zone, tainted }),
        1 => (0..4_usize).prop_map(|node| Step::Remove { node }),
        1 => (0..2_usize).prop_map(|team| Step::Namespace { team }),
    ];
    prop::collection::vec(step, 1..40)
}

fn apply(cluster: &mut Cluster, step: &Step) {
    match step {
        Step::Place { pod, node, app } => {
            cluster.place(member(&format!("p{pod}"), *app, &format!("n{node}")))
        }
        Step::Displace { pod } => drop(cluster.displace(&format!("uid-p{pod}"))),
        Step::Node { node: at, zone, tainted } => {
            let taints = if *tainted { json!([{"key": "k", "effect": "NoSchedule"}]) } else { json!([]) };
            let images = json!([{"names": [format!("image-{zone}")], "sizeBytes": 1}]);
            let extra = json!({"spec": {"taints": taints}, "status": {"images": images}});
            cluster.set_node(node(&format!("n{at}"), ZONES[*zone], extra));
        }
        Step::Remove { node } => cluster.remove_node(&format!("n{node}")),
        Step::Namespace { team } => {
            let labels = [("team".to_owned(), team.to_string())].into();
            cluster.set_namespace("default", Some(labels));
        }
    }
}

/// A pod with a term of every kind and two constraints.
fn member(name: &str, app: usize, node: &str) -> Arc<PodInfo> {
    let selector = json!({"matchLabels": {"app": APPS[app]}});
    let zone = json!({"labelSelector": selector, "topologyKey": ZONE, "namespaceSelector": {"matchLabels": {"team": "1"}}});
    let host = json!({"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"});
    let constraint = |key: &str, taints: &str| {
        json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector,
            "nodeTaintsPolicy": taints})
    };
    pod(name)
        .label("app", APPS[(app + 1) % 3])
        .on(node)
        .set("/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution", json!([zone, host]))
        .set("/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution", json!([zone]))
        .set(
            "/spec/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution",
            json!([{"weight": 7, "podAffinityTerm": zone}]),
        )
        .set(
            "/spec/topologySpreadConstraints",
            json!([constraint(ZONE, "Ignore"), constraint("kubernetes.io/hostname", "Honor")]),
        )
        .info()
}

/// The same nodes and pods, put together anew.
fn rebuilt(cluster: &Cluster) -> Cluster {
    let mut out = Cluster::default();
    for (name, labels) in &cluster.namespaces.0 {
        out.set_namespace(name, Some((**labels).clone()));
    }
    for node in cluster.nodes() {
        let bare = node.pods.iter().fold((**node).clone(), |mut bare, pod| {
            bare.remove(&pod.uid);
            bare
        });
        out.set_node(bare);
        node.pods.iter().for_each(|pod| out.place(pod.clone()));
    }
    out
}

/// Everything the sums say.
fn sums(cluster: &Cluster) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut out = Vec::new();
    for app in 0..3 {
        let asks = member("asks", app, "");
        let labels = cluster.namespace_labels("default");
        let terms = cluster.terms();
        for counts in [&terms.anti_affinity, &terms.affinity, &terms.prefer, &terms.avoid] {
            let mut places = std::collections::BTreeMap::new();
            for (key, found) in counts.meaning(&asks, labels) {
                for (place, count) in found {
                    *places.entry(format!("{key}={place}")).or_insert(0) += count;
                }
            }
            out.push(format!("{places:?}"));
        }
        let near = cluster.near(&asks.affinity);
        let spread = cluster.spread(&asks, &asks.spread, true);
        let mut soft = asks.spread.clone();
        soft.iter_mut().for_each(|constraint| constraint.hard = false);
        let scored = cluster.spread(&asks, &soft, false);
        for node in cluster.nodes() {
            out.push(format!("{:?} {:?}", scored.at(0, node), scored.at(1, node)));
            out.push(format!("{} {} {}", near.is_empty(), near.at(0, node), near.at(1, node)));
            out.push(format!("{:?} {:?}", spread.at(0, node), spread.at(1, node)));
        }
        for constraint in 0..2 {
            out.push(format!("{} {}", spread.open_places(constraint), spread.least(constraint)));
        }
    }
    out.push(format!("{:?}", ["image-0", "image-1"].map(|image| cluster.image_holders(image))));
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn sums_are_those_of_counting_anew(steps in steps()) {
        let mut cluster = Cluster::default();
        for step in &steps {
            apply(&mut cluster, step);
            prop_assert_eq!(sums(&cluster), sums(&rebuilt(&cluster)), "{:?}", step);
        }
    }
}

#[test]
fn nodes_of_all_zones_are_looked_at_in_turns() {
    let mut cluster = Cluster::default();
    let labelled = |name: &str, labels: serde_json::Value| {
        node(name, "unused", json!({"metadata": {"name": name, "labels": labels}}))
    };
    let in_zone = |name: &str, zone: &str| labelled(name, json!({ZONE: zone}));
    for (name, zone) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c"), ("c2", "c")] {
        cluster.set_node(in_zone(name, zone));
    }
    let order = |cluster: &Cluster| -> Vec<String> {
        cluster.turns().iter().map(|at| cluster.nodes()[*at].name.to_string()).collect()
    };
    assert_eq!(order(&cluster), ["a1", "b1", "c1", "a2", "c2", "a3"]);
    cluster.remove_node("b1");
    assert_eq!(order(&cluster), ["a1", "c1", "a2", "c2", "a3"]);
    cluster.set_node(in_zone("a2", "c"));
    assert_eq!(order(&cluster), ["a1", "a2", "a3", "c1", "c2"], "it has moved to another zone");
    cluster.set_node(labelled("d", json!({ZONE: "a", "topology.kubernetes.io/region": "far"})));
    cluster.set_node(labelled("e", json!({"failure-domain.beta.kubernetes.io/zone": "a"})));
    assert_eq!(
        order(&cluster),
        ["a1", "a2", "d", "a3", "c1", "e", "c2"],
        "zones of regions, and by old names"
    );
    let few = cluster.within(|node| node.name.starts_with('c'));
    assert_eq!(order(&few), ["c1", "c2"]);
    assert!(order(&Cluster::default()).is_empty());
}
