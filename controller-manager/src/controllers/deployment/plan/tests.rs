//! Rollouts, simulated: the plan is carried out on plain data until it rests.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use k8s_openapi::{api::apps::v1::DeploymentCondition, apimachinery::pkg::apis::meta::v1::Time};

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
    now: Timestamp,
    /// Names of sets whose pods are still there, whatever their status says.
    lingering: Vec<String>,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: Vec::new(), made: 0, now: now(), lingering: Vec::new() }
    }

    /// One round of the controller; whether anything changed.
    fn step(&mut self) -> bool {
        let shared: Vec<Arc<ReplicaSet>> = self.sets.iter().cloned().map(Arc::new).collect();
        let has_pods = |set: &ReplicaSet| self.lingering.contains(set.metadata.uid.as_ref().unwrap());
        let view = View { has_pods: &has_pods, tells_ending: true, now: self.now };
        let plan = plan(&self.deployment, &shared, view).unwrap();
        let changed = !plan.actions.is_empty();
        for action in plan.actions {
            self.carry_out(action);
        }
        self.deployment.status = Some(plan.status);
        changed
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Create(set) => {
                self.made += 1;
                let mut set = *set;
                set.metadata.uid = Some(format!("u{}", self.made));
                set.metadata.creation_timestamp = Some(Time(Timestamp::from_second(self.made).unwrap()));
                self.sets.push(set);
            }
            Action::Scale { set, to } => {
                let marks = size_annotations(&self.deployment);
                let own = self.find(&set);
                own.spec.as_mut().unwrap().replicas = Some(to);
                own.metadata.annotations.get_or_insert_default().extend(marks);
            }
            Action::Renew { set, annotations, min_ready_seconds } => {
                let own = self.find(&set);
                own.metadata.annotations.get_or_insert_default().extend(annotations);
                let spec = own.spec.as_mut().unwrap();
                spec.min_ready_seconds = min_ready_seconds.or(spec.min_ready_seconds);
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
            let told = self.deployment.status.clone();
            let moved = self.step();
            self.settle(None);
            if !moved && self.deployment.status == told {
                return;
            }
        }
        panic!("the rollout never rests: {:?}", self.sizes());
    }

    fn set_image(&mut self, image: &str) {
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
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
    assert_eq!(world.sizes(), [0], "the old pods go before there is a set of the new version");
    world.settle(None);
    world.run();
    assert_eq!(world.sizes(), [0, 3]);
}

#[test]
fn recreate_waits_for_pods_that_no_status_tells_of() {
    let mut world = World::new(deployment(2, "1", 0, 0));
    world.deployment.spec.as_mut().unwrap().strategy.as_mut().unwrap().type_ = Some("Recreate".into());
    world.run();
    world.set_image("2");
    world.lingering = vec!["u1".to_owned()];
    for _ in 0..5 {
        world.step();
        world.settle(None);
        assert_eq!(world.sizes(), [0]);
    }
    world.lingering.clear();
    world.run();
    assert_eq!(world.sizes(), [0, 2]);
}

#[test]
fn pods_on_their_way_out_are_told_where_they_may_be() {
    let mut world = World::new(deployment(2, "1", 0, 0));
    world.run();
    world.sets[0].status.as_mut().unwrap().terminating_replicas = Some(1);
    let shared: Vec<Arc<ReplicaSet>> = world.sets.iter().cloned().map(Arc::new).collect();
    let told = |tells_ending| {
        let view = View { has_pods: &|_| false, tells_ending, now: now() };
        plan(&world.deployment, &shared, view).unwrap().status.terminating_replicas
    };
    assert_eq!((told(true), told(false)), (Some(1), None));
}

#[test]
fn pods_on_their_way_out_are_told_when_every_set_that_was_looked_at_tells() {
    let told = |statuses: &[serde_json::Value]| {
        let mut world = World::new(deployment(2, "1", 0, 0));
        world.run();
        let template = world.sets[0].clone();
        let sets = statuses.iter().enumerate().map(|(n, status)| {
            let mut set = template.clone();
            set.metadata.uid = Some(format!("t{n}"));
            set.status = Some(serde_json::from_value(status.clone()).unwrap());
            Arc::new(set)
        });
        let shared: Vec<Arc<ReplicaSet>> = sets.collect();
        let view = View { has_pods: &|_| false, tells_ending: true, now: now() };
        plan(&world.deployment, &shared, view).unwrap().status.terminating_replicas
    };
    let counted = |n: i32| json!({"replicas": 1, "observedGeneration": 1, "terminatingReplicas": n});
    let uncounted = json!({"replicas": 1, "observedGeneration": 1});
    let unseen = json!({"replicas": 0});
    assert_eq!(told(&[]), Some(0));
    assert_eq!(told(&[counted(2), counted(3)]), Some(5));
    assert_eq!(told(&[counted(2), unseen]), Some(2), "a set nobody has looked at yet has made no pods");
    assert_eq!(told(&[counted(2), uncounted]), None);
}

#[test]
fn a_set_that_cannot_be_made_is_told_whether_or_not_progress_is_waited_for() {
    let mut of = deployment(1, "1", 1, 0);
    let (message, status) = create_failed(&of, "web-5", "no room", now());
    assert_eq!(message, "Failed to create new replica set \"web-5\": no room");
    let conditions = status.unwrap().conditions.unwrap();
    assert_eq!(
        (conditions[0].status.as_str(), conditions[0].reason.as_deref(), conditions[0].message.as_ref()),
        ("False", Some("ReplicaSetCreateError"), Some(&message))
    );
    of.spec.as_mut().unwrap().progress_deadline_seconds = Some(i32::MAX);
    assert_eq!(create_failed(&of, "web-5", "no room", now()), (message, None));
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
        assert_eq!(world.sizes(), [0]);
        world.sets[0].status.as_mut().unwrap().terminating_replicas = Some(1);
    }
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
fn history_goes_when_the_rollout_was_seen_to_be_complete() {
    let mut world = World::new(deployment(2, "0", 1, 0));
    world.deployment.spec.as_mut().unwrap().revision_history_limit = Some(0);
    world.run();
    world.set_image("1");
    while world.sizes() != [0, 2] {
        world.step();
        world.settle(None);
    }
    assert_eq!(world.deployment.status.as_ref().unwrap().replicas, Some(3));
    world.step();
    assert_eq!(world.sets.len(), 2, "the status did not yet say that the rollout is complete");
    world.step();
    assert_eq!(world.sets.len(), 1);
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
    let view = View { has_pods: &|_| false, tells_ending: true, now: late };
    let plan = plan(&world.deployment, &shared, view).unwrap();
    let conditions = plan.status.conditions.unwrap();
    let progressing = conditions.iter().find(|c| c.type_ == "Progressing").unwrap();
    assert_eq!(progressing.reason.as_deref(), Some("ProgressDeadlineExceeded"));
}

fn reason(world: &World) -> &str {
    condition(world, "Progressing").reason.as_deref().unwrap()
}

#[test]
fn progress_is_told_from_the_first_set_to_the_last_pod() {
    let mut world = World::new(deployment(2, "1", 1, 0));
    world.step();
    assert_eq!(reason(&world), "NewReplicaSetCreated");
    world.settle(Some(0));
    world.step();
    assert_eq!(reason(&world), "ReplicaSetUpdated");
    world.settle(None);
    world.step();
    assert_eq!(reason(&world), "NewReplicaSetAvailable");
    world.settle(Some(0));
    world.step();
    assert_eq!(reason(&world), "NewReplicaSetAvailable", "a pod that fails later is no rollout");
    assert_eq!(condition(&world, "Available").status, "False");
    let mut found = World::new(world.deployment.clone());
    found.sets = world.sets.clone();
    found.deployment.status = None;
    found.settle(Some(0));
    found.sets[0].status = None;
    found.step();
    assert_eq!(reason(&found), "FoundNewReplicaSet");
}

#[test]
fn pausing_and_resuming_are_told_and_stop_the_clock() {
    let mut world = World::new(deployment(1, "1", 1, 0));
    world.step();
    world.settle(Some(0));
    let pause = |world: &mut World, paused: bool| {
        world.deployment.spec.as_mut().unwrap().paused = Some(paused);
        world.step();
    };
    pause(&mut world, true);
    assert_eq!(
        (reason(&world), condition(&world, "Progressing").status.as_str()),
        ("DeploymentPaused", "Unknown")
    );
    world.now = Timestamp::from_second(now().as_second() + 5000).unwrap();
    assert!(!world.step());
    pause(&mut world, false);
    assert_eq!(reason(&world), "DeploymentResumed");
    world.now = Timestamp::from_second(world.now.as_second() + 5000).unwrap();
    world.step();
    assert_eq!(reason(&world), "ProgressDeadlineExceeded");
    pause(&mut world, true);
    assert_eq!(reason(&world), "ProgressDeadlineExceeded", "a missed deadline stays told");
}

#[test]
fn what_keeps_a_set_from_making_pods_is_told() {
    let mut world = World::new(deployment(1, "1", 1, 0));
    world.step();
    let failed: k8s_openapi::api::apps::v1::ReplicaSetStatus = serde_json::from_value(json!({"replicas": 0,
        "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}]}))
    .unwrap();
    world.sets[0].status = Some(failed);
    world.step();
    assert_eq!(condition(&world, "ReplicaFailure").message.as_deref(), Some("quota"));
    world.settle(None);
    world.sets[0].status.as_mut().unwrap().conditions = None;
    world.step();
    let conditions = world.deployment.status.as_ref().unwrap().conditions.as_ref().unwrap();
    assert!(conditions.iter().all(|c| c.type_ != "ReplicaFailure"));
}

#[test]
fn the_current_set_follows_annotations_and_readiness() {
    let mut world = World::new(deployment(1, "1", 1, 0));
    world.run();
    let annotations = world.deployment.metadata.annotations.get_or_insert_default();
    annotations.insert("why".into(), "because".into());
    annotations.insert("kubectl.kubernetes.io/last-applied-configuration".into(), "{}".into());
    world.deployment.spec.as_mut().unwrap().min_ready_seconds = Some(7);
    world.run();
    let set = &world.sets[0];
    let annotations = set.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["why"], "because");
    assert!(!annotations.contains_key("kubectl.kubernetes.io/last-applied-configuration"));
    assert_eq!(set.spec.as_ref().unwrap().min_ready_seconds, Some(7));
}

#[test]
fn rollbacks_are_remembered() {
    let mut world = World::new(deployment(1, "1", 1, 0));
    for image in ["1", "2", "1", "2", "1"] {
        world.set_image(image);
        world.run();
    }
    let annotations = world.sets[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1,3");
    assert_eq!(annotations[REVISION], "5");
}

#[test]
fn scaling_within_a_rollout_keeps_its_shape() {
    let mut world = World::new(deployment(10, "1", 3, 2));
    world.run();
    world.set_image("broken");
    for _ in 0..20 {
        world.step();
        world.settle(Some(1));
    }
    assert_eq!(world.sizes(), [8, 5]);
    world.deployment.spec.as_mut().unwrap().replicas = Some(30);
    world.step();
    assert_eq!(world.sizes(), [20, 13], "eight and five thirteenths of thirty-three");
    let mut gone = world;
    gone.deployment.spec.as_mut().unwrap().replicas = Some(0);
    gone.step();
    assert_eq!(gone.sizes(), [0, 0]);
}

#[test]
fn sets_adopted_late_give_way_to_a_saturated_one() {
    let mut world = World::new(deployment(2, "1", 1, 0));
    world.run();
    let mut stray = world.sets[0].clone();
    stray.metadata.uid = Some("stray".into());
    stray.metadata.name = Some("stray".into());
    let spec = stray.spec.as_mut().unwrap();
    spec.template.as_mut().unwrap().spec.as_mut().unwrap().containers[0].image = Some("0".into());
    stray.metadata.annotations.as_mut().unwrap().insert(sizes::DESIRED.into(), "9".into());
    world.sets.push(stray);
    world.settle(None);
    world.run();
    assert_eq!(world.sizes(), [2, 0]);
}

#[test]
fn a_paused_deployment_sheds_history_and_one_that_ends_does_nothing() {
    let mut world = World::new(deployment(1, "0", 1, 0));
    for image in 0..4 {
        world.set_image(&image.to_string());
        world.run();
    }
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.deployment.spec.as_mut().unwrap().revision_history_limit = Some(1);
    world.set_image("never rolled");
    world.run();
    assert_eq!(world.sets.len(), 1, "while no set is current, all are history, and the active one stays");
    world.deployment.metadata.deletion_timestamp = Some(Time(now()));
    world.deployment.spec.as_mut().unwrap().replicas = Some(5);
    assert!(!world.step());
}

proptest! {
    /// Whatever the margins: the rollout ends, never has more pods than allowed and never fewer available.
    #[test]
    fn rollouts_end_within_their_margins(replicas in 0..12i32, surge in 0..5i32, unavailable in 0..5i32) {
        let mut world = World::new(deployment(replicas, "1", surge, unavailable));
        world.run();
        world.set_image("2");
        let (surge, unavailable) = sizes::margins(&world.deployment);
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
