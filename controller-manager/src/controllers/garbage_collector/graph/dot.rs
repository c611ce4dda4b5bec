//! The graph as text, for whoever wants to see who owns what.
//!
//! Contract: what upstream serves under `/debug/controllers/garbage-collector-controller/graph`, in the DOT language.

use std::collections::{BTreeMap, BTreeSet};

use super::{Coordinates, Graph, KindId, Uid};

/// An object as it is drawn.
struct Vertex<'g> {
    at: &'g Coordinates,
    /// An owner that the graph does not have.
    missing: bool,
    being_deleted: bool,
    deleting_dependents: bool,
    is_virtual: bool,
}

impl Graph {
    /// All objects with owners or dependents, or those of them that are linked to any of some uids. `version` is the
    /// version in which objects of a kind are watched.
    pub(in super::super) fn dot(&self, uids: &[String], version: impl Fn(KindId) -> String) -> String {
        let shown: BTreeSet<Uid> = match uids {
            [] => self.nodes.keys().copied().collect(),
            uids => self.linked(uids.iter().map(|uid| Uid::new(uid)).collect()),
        };
        let mut vertices: BTreeMap<&str, Vertex<'_>> = BTreeMap::new();
        let mut edges: BTreeSet<(&str, &str)> = BTreeSet::new();
        for uid in &shown {
            let Some(node) = self.nodes.get(uid) else { continue };
            if node.owners.is_empty() && self.dependents_of(*uid).next().is_none() {
                continue;
            }
            let vertex = Vertex {
                at: &node.at,
                missing: false,
                being_deleted: node.is_deleting,
                deleting_dependents: node.awaits_dependents(),
                is_virtual: node.is_virtual,
            };
            vertices.insert(&node.at.uid, vertex);
            for owner in &node.owners {
                edges.insert((&node.at.uid, &owner.at.uid));
                if !self.nodes.contains_key(&owner.uid) {
                    let missing = Vertex {
                        at: &owner.at,
                        missing: true,
                        being_deleted: false,
                        deleting_dependents: false,
                        is_virtual: false,
                    };
                    vertices.insert(&owner.at.uid, missing);
                }
            }
        }
        let mut out = String::from("strict digraph full {\n");
        if !vertices.is_empty() {
            out.push_str("  // Node definitions.\n");
        }
        for vertex in vertices.values() {
            out.push_str(&self.describe(vertex, &version(vertex.at.kind)));
        }
        if !edges.is_empty() {
            out.push_str("  // Edge definitions.\n");
        }
        for (from, to) in edges {
            out.push_str(&format!("  {from:?} -> {to:?};\n"));
        }
        out.push_str("}\n");
        out
    }

    /// Everything that can be reached from these, by owners and dependents.
    fn linked(&self, mut open: Vec<Uid>) -> BTreeSet<Uid> {
        let mut found = BTreeSet::new();
        while let Some(uid) = open.pop() {
            let Some(node) = self.nodes.get(&uid) else { continue };
            if found.insert(uid) {
                open.extend(node.owners.iter().map(|owner| owner.uid).chain(self.dependents_of(uid)));
            }
        }
        found
    }

    fn describe(&self, vertex: &Vertex<'_>, version: &str) -> String {
        let (group, kind) = self
            .kinds
            .get(vertex.at.kind.0 as usize)
            .map_or(("", ""), |known| (known.group.as_str(), known.kind.as_str()));
        let Coordinates { namespace, name, uid, .. } = vertex.at;
        let dotted = if group.is_empty() { String::new() } else { format!(".{group}") };
        let mut label = format!("uid={uid}\nnamespace={namespace}\n{kind}.{version}{dotted}/{name}\n");
        let states = [
            (vertex.being_deleted, "beingDeleted"),
            (vertex.deleting_dependents, "deletingDependents"),
            (vertex.is_virtual, "virtual"),
            (vertex.missing, "missingFromGraph"),
        ];
        let states: Vec<&str> = states.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
        if !states.is_empty() {
            label.push_str(&format!("{}\n", states.join(",")));
        }
        let texts = [
            ("label", label.as_str()),
            ("group", group),
            ("version", version),
            ("kind", kind),
            ("namespace", namespace),
            ("name", name),
            ("uid", uid),
        ];
        let facts = [
            ("missing", vertex.missing),
            ("beingDeleted", vertex.being_deleted),
            ("deletingDependents", vertex.deleting_dependents),
            ("virtual", vertex.is_virtual),
        ];
        let mut out = format!("  {uid:?} [\n");
        for (key, value) in texts {
            out.push_str(&format!("    {key}={value:?}\n"));
        }
        for (key, value) in facts {
            out.push_str(&format!("    {key}=\"{value}\"\n"));
        }
        out.push_str("  ];\n");
        out
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::{Value, json};

    use super::*;

    fn object(name: &str, more: Value) -> ObjectMeta {
        let mut meta = json!({"name": name, "namespace": "d", "uid": name, "resourceVersion": "1"});
        meta.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(meta).unwrap()
    }

    fn owned(by: &[&str]) -> Value {
        let owners = by
            .iter()
            .map(|name| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": name}));
        json!({"ownerReferences": owners.collect::<Vec<_>>()})
    }

    fn graph() -> Graph {
        let mut graph = Graph::default();
        let set = graph.add_kind("apps", "ReplicaSet", true);
        let pod = graph.add_kind("", "Pod", true);
        let going =
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"]});
        graph.observe(set, &object("set", going));
        graph.observe(pod, &object("one", owned(&["set"])));
        graph.observe(pod, &object("two", owned(&["unseen"])));
        graph.observe(pod, &object("alone", json!({})));
        graph
    }

    fn dot(graph: &Graph, uids: &[&str]) -> String {
        let uids: Vec<String> = uids.iter().map(|uid| (*uid).to_owned()).collect();
        graph.dot(&uids, |_| "v1".to_owned())
    }

    /// What is drawn, and what is linked to what.
    fn drawn(text: &str) -> (Vec<String>, Vec<String>) {
        let (edges, vertices): (Vec<&str>, Vec<&str>) =
            text.lines().filter(|line| line.starts_with("  \"")).partition(|line| line.contains("->"));
        let plain = |line: &&str| line.trim().replace(['"', ';', '['], "").trim().to_owned();
        (vertices.iter().map(plain).collect(), edges.iter().map(plain).collect())
    }

    #[test]
    fn owners_and_dependents_are_drawn() {
        let (vertices, edges) = drawn(&dot(&graph(), &[]));
        assert_eq!(vertices, ["one", "set", "two", "unseen"], "what has neither is left out");
        assert_eq!(edges, ["one -> set", "two -> unseen"]);
        assert_eq!(dot(&Graph::default(), &[]), "strict digraph full {\n}\n");
    }

    #[test]
    fn a_part_is_what_hangs_together() {
        let graph = graph();
        for (asked, expected) in [
            (vec!["set"], vec!["one", "set"]),
            (vec!["one"], vec!["one", "set"]),
            (vec!["one", "unseen"], vec!["one", "set", "two", "unseen"]),
            (vec!["alone"], vec![]),
            (vec!["nobody"], vec![]),
        ] {
            assert_eq!(drawn(&dot(&graph, &asked)).0, expected, "{asked:?}");
        }
    }

    #[test]
    fn vertices_say_what_becomes_of_their_objects() {
        let mut graph = graph();
        let text = dot(&graph, &["set"]);
        let expected = concat!(
            "  \"set\" [\n",
            "    label=\"uid=set\\nnamespace=d\\nReplicaSet.v1.apps/set\\nbeingDeleted,deletingDependents\\n\"\n",
            "    group=\"apps\"\n    version=\"v1\"\n    kind=\"ReplicaSet\"\n    namespace=\"d\"\n",
            "    name=\"set\"\n    uid=\"set\"\n    missing=\"false\"\n    beingDeleted=\"true\"\n",
            "    deletingDependents=\"true\"\n    virtual=\"false\"\n  ];\n",
        );
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("label=\"uid=one\\nnamespace=d\\nPod.v1/one\\n\""), "{text}");
        let unseen = dot(&graph, &["unseen"]);
        assert!(unseen.contains("ReplicaSet.v1.apps/unseen\\nvirtual\\n"), "{unseen}");
        let at = graph.nodes[&Uid::new("unseen")].at.clone();
        graph.mark_absent(&at);
        let missing = dot(&graph, &["two"]);
        assert!(missing.contains("ReplicaSet.v1.apps/unseen\\nmissingFromGraph\\n"), "{missing}");
    }
}
