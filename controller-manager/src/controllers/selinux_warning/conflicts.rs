//! Which pods use one volume in ways that exclude each other. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use component_base::meta::ObjectKey;

/// How a pod has a volume labelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Policy {
    /// The whole volume at once, when it is mounted.
    MountOption,
    /// File by file.
    Recursive,
}

/// How a pod uses a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Use {
    /// `user:role:type:level`, each of which may be empty; empty when it is not the mount that labels.
    pub(super) label: String,
    pub(super) policy: Policy,
}

/// What two pods differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Property {
    ChangePolicy,
    Label,
}

/// That a pod excludes another from its node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Conflict {
    pub(super) property: Property,
    pub(super) pod: ObjectKey,
    pub(super) value: String,
    pub(super) other: ObjectKey,
    pub(super) other_value: String,
}

/// What a pod's uses brought about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) gone: Vec<Conflict>,
    pub(super) come: Vec<Conflict>,
}

/// All pods' uses.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    /// The pods of each volume.
    users: HashMap<String, BTreeMap<ObjectKey, Use>>,
    /// The volumes of each pod.
    volumes: HashMap<ObjectKey, Vec<String>>,
}

// === impl Policy ===

impl Policy {
    fn name(self) -> &'static str {
        match self {
            Policy::MountOption => "MountOption",
            Policy::Recursive => "Recursive",
        }
    }
}

// === impl Property ===

impl Property {
    /// As metrics and messages call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Property::ChangePolicy => "SELinuxChangePolicy",
            Property::Label => "SELinuxLabel",
        }
    }

    /// The reason of its events.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Property::ChangePolicy => "SELinuxChangePolicyConflict",
            Property::Label => "SELinuxLabelConflict",
        }
    }
}

// === impl Conflict ===

impl Conflict {
    /// What its pod is told. Pods of other namespaces are not named.
    pub(super) fn message(&self) -> String {
        let (property, value, other) = (self.property.name(), &self.value, &self.other_value);
        let end = "If both pods land on the same node, only one of them may access the volume.";
        if self.pod.namespace == self.other.namespace {
            let name = &self.other.name;
            return format!(
                "{property} \"{value}\" conflicts with pod {name} that uses the same volume as this pod with \
                 {property} \"{other}\". {end}"
            );
        }
        format!(
            "{property} \"{value}\" conflicts with another pod that uses the same volume as this pod with a \
             different {property}. {end}"
        )
    }
}

// === impl Conflicts ===

impl Conflicts {
    /// Takes over what a pod uses now: nothing, once it has ended.
    pub(super) fn set(&mut self, pod: &ObjectKey, uses: BTreeMap<String, Use>) -> Change {
        let before = self.of(pod);
        for volume in self.volumes.remove(pod).unwrap_or_default() {
            if let Some(users) = self.users.get_mut(&volume) {
                users.remove(pod);
                if users.is_empty() {
                    self.users.remove(&volume);
                }
            }
        }
        if !uses.is_empty() {
            self.volumes.insert(pod.clone(), uses.keys().cloned().collect());
        }
        for (volume, one) in uses {
            self.users.entry(volume).or_default().insert(pod.clone(), one);
        }
        let now = self.of(pod);
        Change {
            gone: before.difference(&now).cloned().collect(),
            come: now.difference(&before).cloned().collect(),
        }
    }

    /// The conflicts of a pod, each in both directions.
    fn of(&self, pod: &ObjectKey) -> BTreeSet<Conflict> {
        let mut out = BTreeSet::new();
        for volume in self.volumes.get(pod).into_iter().flatten() {
            let Some(users) = self.users.get(volume) else { continue };
            let Some(mine) = users.get(pod) else { continue };
            for (other, theirs) in users.iter().filter(|(other, _)| *other != pod) {
                for property in differences(mine, theirs) {
                    out.insert(conflict(property, (pod, mine), (other, theirs)));
                    out.insert(conflict(property, (other, theirs), (pod, mine)));
                }
            }
        }
        out
    }
}

fn conflict(property: Property, pod: (&ObjectKey, &Use), other: (&ObjectKey, &Use)) -> Conflict {
    let value = |one: &Use| match property {
        Property::ChangePolicy => one.policy.name().to_owned(),
        Property::Label => one.label.clone(),
    };
    Conflict {
        property,
        pod: pod.0.clone(),
        value: value(pod.1),
        other: other.0.clone(),
        other_value: value(other.1),
    }
}

fn differences(a: &Use, b: &Use) -> impl Iterator<Item = Property> {
    let policy = (a.policy != b.policy).then_some(Property::ChangePolicy);
    let label = exclude(&a.label, &b.label).then_some(Property::Label);
    policy.into_iter().chain(label)
}

/// Whether a volume cannot have both labels. A node knows the parts that are empty and fills them in, so that they may
/// be anything; only the level it does not.
fn exclude(a: &str, b: &str) -> bool {
    let parts = |label: &str| -> [String; 4] {
        let mut parts = label.splitn(4, ':').map(str::to_owned);
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    };
    let [a, b] = [parts(a), parts(b)];
    let open = |at: usize| at < 3 && (a[at].is_empty() || b[at].is_empty());
    (0..4).any(|at| a[at] != b[at] && !open(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, name: &str) -> ObjectKey {
        ObjectKey::new(namespace, name)
    }

    fn uses(label: &str, policy: Policy) -> BTreeMap<String, Use> {
        BTreeMap::from([("v".to_owned(), Use { label: label.to_owned(), policy })])
    }

    #[test]
    fn labels_exclude_each_other_where_both_are_known() {
        for (a, b, excluded) in [
            ("", "", false),
            ("", ":::", false),
            (":::s0:c1,c2", ":::s0:c1,c2", false),
            (":::s0:c1,c2", ":::s0:c98,c99", true),
            (":::s0:c1,c2", "", true),
            ("u:r:t:s0:c1", ":::s0:c1", false),
            ("u:r:t:s0:c1", "u:r:t:s0:c1", false),
            ("u:r:t:s0:c1", "x:r:t:s0:c1", true),
            ("u:r:t:s0:c1", "u:x:t:s0:c1", true),
            ("u:r:t:s0:c1", "u:r:x:s0:c1", true),
            ("u:r:t:s0:c1", "u::t:s0:c1", false),
            ("u:r:t:", "u:r:t:s0", true),
        ] {
            assert_eq!(exclude(a, b), excluded, "{a:?} {b:?}");
            assert_eq!(exclude(b, a), excluded, "{b:?} {a:?}");
        }
    }

    #[test]
    fn both_pods_are_told_once_and_the_conflict_ends_with_either() {
        let (a, b) = (pod("d", "a"), pod("d", "b"));
        let mut all = Conflicts::default();
        assert_eq!(all.set(&a, uses(":::s0:c1", Policy::MountOption)), Change::default());
        let change = all.set(&b, uses(":::s0:c2", Policy::MountOption));
        let told: Vec<(&ObjectKey, &str)> = change.come.iter().map(|c| (&c.pod, c.value.as_str())).collect();
        assert_eq!(told, [(&a, ":::s0:c1"), (&b, ":::s0:c2")]);
        assert_eq!(all.set(&b, uses(":::s0:c2", Policy::MountOption)), Change::default());
        let change = all.set(&a, BTreeMap::new());
        assert_eq!((change.gone.len(), change.come.len()), (2, 0));
        assert_eq!(all.set(&b, BTreeMap::new()), Change::default());
        assert!(all.users.is_empty() && all.volumes.is_empty());
    }

    #[test]
    fn policies_exclude_each_other_as_well() {
        let (a, b) = (pod("d", "a"), pod("d", "b"));
        let mut all = Conflicts::default();
        all.set(&a, uses("", Policy::Recursive));
        let change = all.set(&b, uses(":::s0", Policy::MountOption));
        let kinds: Vec<Property> = change.come.iter().map(|c| c.property).collect();
        assert_eq!(kinds, [Property::ChangePolicy, Property::ChangePolicy, Property::Label, Property::Label]);
        assert_eq!(
            (change.come[0].value.as_str(), change.come[0].other_value.as_str()),
            ("Recursive", "MountOption")
        );
        // Another label is another conflict.
        let change = all.set(&b, uses("", Policy::MountOption));
        assert_eq!((change.gone.len(), change.come.len()), (2, 0));
    }

    #[test]
    fn pods_of_other_volumes_do_not_matter() {
        let (a, b) = (pod("d", "a"), pod("d", "b"));
        let mut all = Conflicts::default();
        all.set(&a, uses(":::s0:c1", Policy::MountOption));
        let other = BTreeMap::from([(
            "w".to_owned(),
            Use { label: ":::s0:c2".to_owned(), policy: Policy::Recursive },
        )]);
        assert_eq!(all.set(&b, other), Change::default());
    }

    #[test]
    fn pods_of_other_namespaces_are_not_named() {
        let conflict = |other: ObjectKey| Conflict {
            property: Property::Label,
            pod: pod("d", "a"),
            value: ":::s0".into(),
            other,
            other_value: ":::s1".into(),
        };
        let near = conflict(pod("d", "b")).message();
        assert!(near.starts_with(
            "SELinuxLabel \":::s0\" conflicts with pod b that uses the same volume as this pod with SELinuxLabel \":::s1\". If"
        ));
        let far = conflict(pod("e", "b")).message();
        assert!(far.contains("with another pod that uses") && !far.contains(":::s1"));
    }
}
