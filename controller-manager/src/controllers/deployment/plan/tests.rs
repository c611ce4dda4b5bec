//! Rollouts, simulated: the plan is carried out on plain data until it rests.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn deployment(replicas: i32, image: &str, surge: i32, unavailable: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "d", "uid": "dep", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}},
    }))
    .unwrap()
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// A cluster in miniature.
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    made: i64,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: Vec::new(), made: 0 }
    }

    /// One round of the controller; whether anything changed.
    fn step(&mut self) -> bool {
        let shared: Vec<Arc<ReplicaSet>> = self.sets.iter().cloned().map(Arc::new).collect();
        let plan = plan(&self.deployment, &shared, now());
        let changed = !plan.actions.is_empty();
        for action in plan.actions {
            self.carry_out(action);
        }
        self.deployment.status = Some(plan.status);
        changed
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Create { replicas, revision } => {
                self.made += 1;
                let mut set = new_set(&self.deployment, &format!("h{}", self.made), replicas, revision);
                set.metadata.uid = Some(format!("u{}", self.made));
                set.metadata.creation_timestamp = Some(Time(Timestamp::from_second(self.made).unwrap()));
                self.sets.push(set);
            }
            Action::Scale { set, to } => {
                let desired = self.deployment.spec.as_ref().and_then(|s| s.replicas).unwrap();
                let marks = size_annotations(&self.deployment, desired);
                let own = self.find(&set);
                own.spec.as_mut().unwrap().replicas = Some(to);
                let annotations = own.metadata.annotations.get_or_insert_with(BTreeMap::new);
                annotations.extend(marks.into_iter().map(|(k, v)| (k.to_owned(), v)));
            }
            Action::Annotate { set, revision } => {
                let annotations = self.find(&set).metadata.annotations.get_or_insert_with(BTreeMap::new);
                annotations.insert(REVISION.to_owned(), revision.to_string());
            }
            Action::Revision(revision) => {
                let annotations = self.deployment.metadata.annotations.get_or_insert_with(BTreeMap::new);
                annotations.insert(REVISION.to_owned(), revision.to_string());
            }
            Action::Delete(set) => self.sets.retain(|s| s.metadata.uid != set.metadata.uid),
        }
    }

    fn find(&mut self, set: &ReplicaSet) -> &mut ReplicaSet {
        self.sets.iter_mut().find(|s| s.metadata.uid == set.metadata.uid).unwrap()
    }

    /// Pods come and go at once; those of set `broken` never become available.
    fn settle(&mut self, broken: Option<usize>) {
        for (at, set) in self.sets.iter_mut().enumerate() {
            let replicas = size(set);
            let good = if broken == Some(at) { 0 } else { replicas };
            let status = set.status.get_or_insert_with(Default::default);
            status.replicas = replicas;
            status.ready_replicas = Some(good);
            status.available_replicas = Some(good);
        }
    }

    fn available(&self) -> i32 {
        self.sets.iter().map(available).sum()
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(size).collect()
    }

    fn run(&mut self) {
        for _ in 0..200 {
            let moved = self.step();
            self.settle(None);
            if !moved {
                return;
            }
        }
        panic!("the rollout never rests: {:?}", self.sizes());
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        spec.containers[0].image = Some(image.into());
    }
}

fn condition<'w>(world: &'w World, kind: &str) -> &'w DeploymentCondition {
    let conditions = world.deployment.status.as_ref().unwrap().conditions.as_ref().unwrap();
    conditions.iter().find(|c| c.type_ == kind).unwrap()
}

#[test]
fn a_new_deployment_gets_one_set_of_its_size() {
    let mut world = World::new(deployment(3, "1", 1, 0));
    world.run();
    assert_eq!(world.sizes(), [3]);
    world.step();
    assert_eq!(condition(&world, "Progressing").reason.as_deref(), Some("NewReplicaSetAvailable"));
    assert_eq!(world.deployment.metadata.annotations.as_ref().unwrap()[REVISION], "1");
}

#[test]
fn rolling_back_reuses_the_old_set_with_a_new_revision() {
    let mut world = World::new(deployment(2, "1", 1, 0));
    world.run();
    world.set_image("2");
    world.run();
    world.set_image("1");
    world.run();
    assert_eq!(world.sizes(), [2, 0]);
    assert_eq!(world.deployment.metadata.annotations.as_ref().unwrap()[REVISION], "3");
}

#[test]
fn a_broken_version_stops_with_the_old_one_serving() {
    let mut world = World::new(deployment(4, "1", 1, 1));
    world.run();
    world.set_image("broken");
    for _ in 0..20 {
        world.step();
        world.settle(Some(1));
    }
    assert_eq!(world.available(), 3, "at most one may be missing");
    assert_eq!(world.sizes(), [3, 2]);
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let mut world = World::new(deployment(3, "1", 0, 0));
    world.deployment.spec.as_mut().unwrap().strategy.as_mut().unwrap().type_ = Some("Recreate".into());
    world.run();
    world.set_image("2");
    world.step();
    assert_eq!(world.sizes(), [3, 0], "a set of the new version, still empty");
    world.run();
    assert_eq!(world.sizes(), [0, 3]);
}

#[test]
fn recreate_waits_for_pods_that_are_still_ending() {
    let mut world = World::new(deployment(2, "1", 0, 0));
    world.deployment.spec.as_mut().unwrap().strategy.as_mut().unwrap().type_ = Some("Recreate".into());
    world.run();
    world.set_image("2");
    for _ in 0..5 {
        world.step();
        world.settle(None);
        // The old set's pods take their time to end.
        world.sets[0].status.as_mut().unwrap().terminating_replicas = Some(1);
    }
    assert_eq!(world.sizes(), [0, 0]);
    world.sets[0].status.as_mut().unwrap().terminating_replicas = Some(0);
    world.run();
    assert_eq!(world.sizes(), [0, 2]);
}

#[test]
fn a_paused_deployment_grows_from_nothing_and_rests() {
    let mut world = World::new(deployment(0, "1", 1, 0));
    world.run();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.deployment.spec.as_mut().unwrap().replicas = Some(3);
    world.run();
    assert_eq!(world.sizes(), [3]);
    assert!(!world.step(), "nothing is written again and again");
}

#[test]
fn history_is_kept_to_its_limit() {
    let mut world = World::new(deployment(1, "0", 1, 0));
    world.deployment.spec.as_mut().unwrap().revision_history_limit = Some(2);
    for image in 0..6 {
        world.set_image(&image.to_string());
        world.run();
    }
    assert_eq!(world.sets.len(), 3, "the current one and two old ones");
}

#[test]
fn a_paused_deployment_is_scaled_but_not_rolled() {
    let mut world = World::new(deployment(2, "1", 1, 0));
    world.run();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.set_image("2");
    world.run();
    assert_eq!(world.sizes(), [2]);
}

#[test]
fn a_rollout_past_its_deadline_says_so() {
    let mut world = World::new(deployment(1, "1", 1, 0));
    world.step();
    world.settle(Some(0));
    world.step();
    world.settle(Some(0));
    let shared: Vec<Arc<ReplicaSet>> = world.sets.iter().cloned().map(Arc::new).collect();
    let late = Timestamp::from_second(now().as_second() + 700).unwrap();
    let plan = plan(&world.deployment, &shared, late);
    let conditions = plan.status.conditions.unwrap();
    let progressing = conditions.iter().find(|c| c.type_ == "Progressing").unwrap();
    assert_eq!(progressing.reason.as_deref(), Some("ProgressDeadlineExceeded"));
}

proptest! {
    /// Whatever the margins: the rollout ends, never has more pods than allowed and never fewer available.
    #[test]
    fn rollouts_end_within_their_margins(replicas in 0..12i32, surge in 0..5i32, unavailable in 0..5i32) {
        let mut world = World::new(deployment(replicas, "1", surge, unavailable));
        world.run();
        world.set_image("2");
        let (surge, unavailable) = margins(world.deployment.spec.as_ref().unwrap());
        for _ in 0..100 {
            let moved = world.step();
            prop_assert!(world.sizes().iter().sum::<i32>() <= replicas + surge);
            world.settle(None);
            prop_assert!(world.available() >= replicas - unavailable);
            if !moved {
                break;
            }
        }
        prop_assert_eq!(world.sizes(), vec![0, replicas]);
        let again = world.step();
        prop_assert!(!again, "a finished rollout rests");
    }
}
