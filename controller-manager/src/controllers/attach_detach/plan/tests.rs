use serde_json::{Value, json};

use super::*;
use crate::controllers::attachable::Driver;

const NOW: &str = "2026-01-01T00:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

const UNIQUE: &str = "kubernetes.io/csi/d.io^h";
/// One that nodes reach without a driver.
const PLAIN: &str = "kubernetes.io/iscsi/10.0.0.1:i:0";

fn volume(unique: &str, modes: &[&str]) -> Attachable {
    let driver = (unique == UNIQUE).then(|| Driver { name: "d.io".into(), handle: "h".into() });
    let modes = modes.iter().map(|mode| (*mode).to_owned()).collect();
    Attachable { name: "v".into(), unique: unique.into(), driver, modes, inline: None }
}

fn node(name: &str, change: impl Fn(&mut Value)) -> (String, Arc<Node>) {
    let mut out = json!({
        "metadata": {"name": name, "annotations": {MANAGED: "true"}}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    change(&mut out);
    (name.to_owned(), Arc::new(serde_json::from_value(out).unwrap()))
}

fn uses(node: &mut Value) {
    node["status"]["volumesInUse"] = json!([UNIQUE, PLAIN]);
}

fn is_sick(node: &mut Value) {
    node["status"]["conditions"][0]["status"] = json!("Unknown");
}

fn attachment(node: &str) -> VolumeAttachment {
    serde_json::from_value(json!({
        "metadata": {"name": names::attachment(UNIQUE, node)},
        "spec": {"attacher": "d.io", "nodeName": node, "source": {"persistentVolumeName": "v"}},
        "status": {"attached": true},
    }))
    .unwrap()
}

fn pod(namespace: &str, name: &str) -> Arc<Pod> {
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}})).unwrap())
}

struct World {
    volume: String,
    modes: Vec<&'static str>,
    attached: Vec<Attached>,
    nodes: BTreeMap<String, Arc<Node>>,
    wanted: BTreeMap<String, Wanted>,
    waiting: Waiting,
    force: bool,
}

impl World {
    fn new(modes: &[&'static str]) -> World {
        World {
            volume: UNIQUE.into(),
            modes: modes.to_vec(),
            attached: Vec::new(),
            nodes: [node("a", |_| {}), node("b", |_| {})].into(),
            wanted: BTreeMap::new(),
            waiting: Waiting::default(),
            force: true,
        }
    }

    fn plain(modes: &[&'static str]) -> World {
        World { volume: PLAIN.into(), ..World::new(modes) }
    }

    fn wanted_on(mut self, node: &str, pods: &[Arc<Pod>]) -> World {
        self.want(node, pods);
        self
    }

    fn want(&mut self, node: &str, pods: &[Arc<Pod>]) {
        let volume = volume(&self.volume, &self.modes);
        self.wanted.insert(node.into(), Wanted { volume, pods: pods.to_vec() });
    }

    fn attached_to(mut self, node: &str) -> World {
        self.attach(node);
        self
    }

    fn attach(&mut self, node: &str) {
        let by = (self.volume != PLAIN).then(|| Arc::new(attachment(node)));
        self.attached.push(Attached { node: node.into(), by });
    }

    fn with(mut self, name: &str, change: impl Fn(&mut Value)) -> World {
        let (name, node) = node(name, change);
        self.nodes.insert(name, node);
        self
    }

    fn plan(&mut self, at: Timestamp) -> (Vec<Step>, Option<Duration>) {
        let view = View {
            volume: &self.volume,
            attached: &self.attached,
            nodes: self.nodes.iter().map(|(name, node)| (name.as_str(), node.clone())).collect(),
            wanted: &self.wanted,
            force: self.force,
        };
        plan(&view, &mut self.waiting, at)
    }

    /// Does what is planned until nothing is; the number of rounds is bounded.
    fn settle(&mut self) {
        for _ in 0..5 {
            let (steps, _) = self.plan(now());
            if steps.is_empty() {
                return;
            }
            for step in steps {
                match step {
                    Step::Attach(node) => self.attach(&node),
                    Step::Detach { from, .. } => self.attached.retain(|a| a.node != from.node),
                    Step::Refuse(..) => {}
                }
            }
        }
        panic!("does not settle");
    }

    fn attached(&self) -> Vec<&str> {
        let mut out: Vec<&str> = self.attached.iter().map(|a| a.node.as_str()).collect();
        out.sort_unstable();
        out
    }
}

fn forced(steps: &[Step]) -> Vec<Option<&'static str>> {
    steps
        .iter()
        .filter_map(|s| if let Step::Detach { force, .. } = s { Some(*force) } else { None })
        .collect()
}

#[test]
fn a_volume_goes_where_it_is_wanted() {
    let p = pod("ns", "p");
    let mut world = World::new(&["ReadWriteOnce"]).wanted_on("a", std::slice::from_ref(&p));
    assert_eq!(world.plan(now()).0, [Step::Attach("a".into())]);
    world.settle();
    assert_eq!(world.attached(), ["a"]);
    world.wanted.clear();
    assert_eq!(forced(&world.plan(now()).0), [None]);
    world.settle();
    assert!(world.attached().is_empty());
}

#[test]
fn nodes_that_attach_for_themselves_or_are_gone_get_nothing() {
    let p = pod("ns", "p");
    let mut own = World::new(&[]).wanted_on("a", std::slice::from_ref(&p)).with("a", |n| {
        n["metadata"]["annotations"] = json!({});
    });
    assert!(own.plan(now()).0.is_empty());
    let mut gone = World::new(&[]).wanted_on("c", std::slice::from_ref(&p));
    assert!(gone.plan(now()).0.is_empty());
}

#[test]
fn only_one_node_has_an_exclusive_volume() {
    let (p, q, r) = (pod("ns", "p"), pod("ns", "q"), pod("other", "r"));
    let text = |world: &mut World| -> Vec<String> {
        let steps = world.plan(now()).0;
        steps
            .iter()
            .map(|s| if let Step::Refuse(_, note) = s { note.clone() } else { format!("{s:?}") })
            .collect()
    };
    let both = |users: &[Arc<Pod>]| {
        World::new(&["ReadWriteOnce"])
            .wanted_on("a", users)
            .wanted_on("b", std::slice::from_ref(&p))
            .attached_to("a")
    };
    let cases = [
        (vec![q.clone()], "Volume is already used by pod(s) q"),
        (vec![r.clone()], "Volume is already used by 1 pod(s) in different namespaces"),
        (vec![q, r], "Volume is already used by pod(s) q and 1 pod(s) in different namespaces"),
    ];
    for (users, expected) in cases {
        let mut world = both(&users);
        assert_eq!(text(&mut world), [format!("Multi-Attach error for volume \"v\" {expected}")]);
        assert!(text(&mut world).is_empty(), "told once");
    }
    let mut left = World::new(&["ReadWriteOncePod"])
        .wanted_on("b", std::slice::from_ref(&p))
        .attached_to("a")
        .with("a", uses);
    let alone = "Volume is already exclusively attached to one node and can't be attached to another";
    assert_eq!(text(&mut left), [format!("Multi-Attach error for volume \"v\" {alone}")]);
    left.nodes.extend([node("a", |_| {})]);
    left.settle();
    assert_eq!(left.attached(), ["b"]);
}

#[test]
fn two_nodes_that_want_an_exclusive_volume_at_once_do_not_both_get_it() {
    let mut world =
        World::new(&["ReadWriteOnce"]).wanted_on("a", &[pod("ns", "p")]).wanted_on("b", &[pod("ns", "q")]);
    world.settle();
    assert_eq!(world.attached(), ["a"]);
}

#[test]
fn shared_volumes_are_attached_everywhere() {
    for modes in [&["ReadWriteMany"][..], &["ReadWriteOnce", "ReadOnlyMany"], &[]] {
        let mut world = World::new(modes).wanted_on("a", &[pod("ns", "p")]).wanted_on("b", &[pod("ns", "q")]);
        world.settle();
        assert_eq!(world.attached(), ["a", "b"], "{modes:?}");
    }
}

#[test]
fn a_mounted_volume_waits_for_its_node() {
    let later = now() + MAX_WAIT + Duration::from_secs(1);
    let mut healthy = World::new(&[]).attached_to("a").with("a", uses);
    assert_eq!(healthy.plan(now()), (vec![], None));
    assert_eq!(healthy.plan(later), (vec![], None), "a healthy node has all the time it needs");

    let sick = |n: &mut Value| {
        uses(n);
        is_sick(n);
    };
    let mut world = World::new(&[]).attached_to("a").with("a", sick);
    assert_eq!(world.plan(now()), (vec![], Some(MAX_WAIT + Duration::from_secs(1))));
    assert_eq!(forced(&world.plan(later).0), [Some("timeout")]);

    let mut patient = World::new(&[]).attached_to("a").with("a", sick);
    patient.force = false;
    assert_eq!(patient.plan(now()), (vec![], None));
    assert_eq!(patient.plan(later), (vec![], None));

    let mut out = World::new(&[]).attached_to("a").with("a", |n| {
        sick(n);
        n["spec"]["taints"] = json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]);
    });
    assert_eq!(forced(&out.plan(now()).0), [Some("out-of-service")]);

    let mut gone = World::new(&[]).attached_to("c");
    assert!(gone.plan(now()).0.is_empty());
    assert_eq!(forced(&gone.plan(later).0), [Some("timeout")]);
}

#[test]
fn the_wait_begins_anew_when_the_volume_was_wanted_again() {
    let later = now() + MAX_WAIT + Duration::from_secs(1);
    let sick = |n: &mut Value| {
        uses(n);
        is_sick(n);
    };
    let mut world = World::new(&[]).attached_to("a").with("a", sick);
    world.plan(now());
    world.want("a", &[pod("ns", "p")]);
    world.plan(later);
    world.wanted.clear();
    assert!(world.plan(later).0.is_empty());
    assert!(!world.waiting.is_empty());
}

#[test]
fn attachments_of_others_are_left_alone() {
    let mut foreign = attachment("a");
    foreign.metadata.name = Some("somebody-elses".into());
    let mut world = World::new(&[]);
    world.attached.push(Attached { node: "a".into(), by: Some(Arc::new(foreign)) });
    assert!(world.plan(now()).0.is_empty());
    world.volume = "v".into();
    assert!(world.plan(now()).0.is_empty());

    let mut ours = World::new(&[]).attached_to("a");
    ours.volume = "v".into();
    assert_eq!(forced(&ours.plan(now()).0), [None], "its object is gone");
    let mut used = World::new(&[]).attached_to("a").with("a", uses);
    used.volume = "v".into();
    assert!(used.plan(now()).0.is_empty(), "its object is gone, but its node still uses it");
}

#[test]
fn what_needs_no_driver_goes_by_the_same_rules() {
    let p = pod("ns", "p");
    let mut world = World::plain(&["ReadWriteOnce"]).wanted_on("a", std::slice::from_ref(&p));
    world.settle();
    assert_eq!(world.attached(), ["a"]);
    world.want("b", &[pod("ns", "q")]);
    assert!(matches!(world.plan(now()).0.as_slice(), [Step::Refuse(..)]));
    world.wanted.remove("a");
    world = world.with("a", uses);
    assert!(world.plan(now()).0.is_empty(), "its node still uses it");
    world = world.with("a", |_| {});
    world.settle();
    assert_eq!(world.attached(), ["b"]);
}

#[test]
fn from_any_state_it_comes_to_what_is_wanted() {
    let subsets = [vec![], vec!["a"], vec!["b"], vec!["a", "b"]];
    for modes in [&["ReadWriteOnce"][..], &["ReadWriteMany"]] {
        for (there, volume) in subsets.iter().flat_map(|there| [(there, UNIQUE), (there, PLAIN)]) {
            for wanted in &subsets {
                let mut world = World { volume: volume.into(), ..World::new(modes) };
                for node in there {
                    world = world.attached_to(node);
                }
                for node in wanted {
                    world = world.wanted_on(node, &[pod("ns", node)]);
                }
                world.settle();
                let kept: Vec<&str> = wanted.iter().copied().filter(|n| there.contains(n)).collect();
                let expected = match (modes[0], kept.is_empty(), wanted.first()) {
                    ("ReadWriteOnce", false, _) => kept,
                    ("ReadWriteOnce", true, first) => first.into_iter().copied().collect(),
                    _ => wanted.clone(),
                };
                assert_eq!(world.attached(), expected, "{modes:?}: {there:?} to {wanted:?}");
                assert!(world.plan(now()).0.is_empty(), "settled is settled");
            }
        }
    }
}

#[test]
fn pods_hear_what_came_of_it() {
    let with = |status: Value| -> VolumeAttachment {
        serde_json::from_value(json!({
            "spec": {"attacher": "d", "nodeName": "a", "source": {"persistentVolumeName": "v"}}, "status": status,
        }))
        .unwrap()
    };
    let (waits, done) = (with(json!({"attached": false})), with(json!({"attached": true})));
    let failed = with(json!({"attached": false, "attachError": {"message": "no such disk"}}));
    let note = |old, new| outcome(old, new, "v").map(|(_, reason, note)| format!("{reason}: {note}"));
    let success = "SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume \"v\" ";
    assert_eq!(note(&waits, &done).as_deref(), Some(success));
    assert_eq!(note(&done, &done), None);
    let failure = "FailedAttachVolume: AttachVolume.Attach failed for volume \"v\" : no such disk";
    assert_eq!(note(&waits, &failed).as_deref(), Some(failure));
    assert_eq!(note(&failed, &failed), None);
}
