//! GangScheduling: pods of a group with policy `gang` are tried when there are enough of them, and bound when enough of
//! them have a node (KEP-4671).

use crate::{
    framework::{Plugin, Reason},
    model::{Cluster, PodInfo},
};

/// The plugin.
pub struct GangScheduling;

impl Plugin for GangScheduling {
    fn name(&self) -> &'static str {
        "GangScheduling"
    }

    fn may_enqueue(&self, pod: &PodInfo, cluster: &Cluster) -> Result<(), String> {
        let Some(key) = pod.group_key() else { return Ok(()) };
        let Some(group) = cluster.groups.get(&key) else {
            return Err(format!(
                "waiting for pods's pod group {:?} to appear in scheduling queue",
                &*key.name
            ));
        };
        match group.min_count {
            Some(wanted) if cluster.groups.members(&key).count() < wanted => {
                Err("waiting for minCount pods from a gang to appear in scheduling queue".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn permit(&self, pod: &PodInfo, cluster: &Cluster) -> Result<(), Reason> {
        let Some(key) = pod.group_key() else { return Ok(()) };
        match cluster.groups.get(&key).and_then(|group| group.min_count) {
            Some(wanted) if cluster.placed_members(&key) < wanted => {
                Err("waiting for minCount pods from a gang to be scheduled".into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{cluster, gang, node, pod};

    /// A cluster that knows group `g` wanting `min`, if any, and `members`, as many of them `placed`.
    fn known(min: Option<usize>, members: usize, placed: usize) -> Cluster {
        let mut out = cluster(vec![node("n", "z", json!({}))], vec![]);
        if let Some(min) = min {
            out.groups.take(&gang("g", json!({"gang": {"minCount": min}})));
        }
        for i in 0..members {
            let member = pod(&format!("p{i}")).group("g");
            let member = if i < placed { member.on("n") } else { member }.info();
            out.groups.join(&member);
            if i < placed {
                out.place(member);
            }
        }
        out
    }

    #[test]
    fn pods_wait_for_their_group_and_for_enough_of_them() {
        let table = [
            (None, 3, Err("waiting for pods's pod group \"g\" to appear in scheduling queue")),
            (Some(3), 2, Err("waiting for minCount pods from a gang to appear in scheduling queue")),
            (Some(3), 3, Ok(())),
            (Some(3), 4, Ok(())),
        ];
        for (min, members, expected) in table {
            let said = GangScheduling.may_enqueue(&pod("p0").group("g").info(), &known(min, members, 0));
            assert_eq!(said, expected.map_err(str::to_owned), "{min:?} {members}");
        }
        assert_eq!(GangScheduling.may_enqueue(&pod("x").info(), &known(None, 0, 0)), Ok(()));
    }

    #[test]
    fn nobody_is_let_through_before_enough_have_a_node() {
        for (placed, lets) in [(0, false), (2, false), (3, true), (4, true)] {
            let said = GangScheduling.permit(&pod("p0").group("g").info(), &known(Some(3), 5, placed));
            assert_eq!(said.is_ok(), lets, "{placed}");
        }
    }

    #[test]
    fn a_basic_policy_and_pods_without_a_group_wait_for_nobody() {
        let mut basic = known(None, 1, 0);
        basic.groups.take(&gang("g", json!({"basic": {}})));
        let member = pod("p0").group("g").info();
        assert_eq!(GangScheduling.may_enqueue(&member, &basic), Ok(()));
        assert_eq!(GangScheduling.permit(&member, &basic), Ok(()));
        assert_eq!(GangScheduling.permit(&pod("x").info(), &basic), Ok(()));
    }
}
