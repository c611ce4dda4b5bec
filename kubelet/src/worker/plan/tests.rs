//! The plan, case by case, and its idempotence.

use proptest::prelude::*;

use super::*;
use crate::testing::{at, pod, record, runtime};

fn run(pod: &Pod, runtime: &PodRuntime) -> Plan {
    run_with(pod, runtime, &ProbeResults::new(), &BackOffs::default())
}

fn run_with(pod: &Pod, runtime: &PodRuntime, probes: &ProbeResults, backoffs: &BackOffs) -> Plan {
    plan(&Model {
        pod,
        runtime,
        probes,
        backoffs,
        previous: None,
        quotas: &Quotas { period: Some(100_000), ..Quotas::default() },
        initial: true,
        now: at(100),
    })
}

fn started(plan: &Plan) -> Vec<&str> {
    plan.start.iter().map(|s| s.name.as_str()).collect()
}

#[test]
fn a_new_pod_gets_a_sandbox_and_all_containers() {
    let p = pod("a").container("x").container("y").build();
    let plan = run(&p, &PodRuntime::default());
    assert_eq!(plan.sandbox, Some(0));
    assert_eq!(started(&plan), ["x", "y"]);
}

/// A pod that never restarts, but where `x` ends with 7: then all of it starts anew.
fn starts_all_anew() -> Pod {
    let rule =
        serde_json::json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [7]}});
    pod("a")
        .restart_policy("Never")
        .init("i")
        .container("x")
        .container("y")
        .with(|p| {
            let rules = serde_json::from_value(serde_json::json!([rule])).unwrap();
            p.spec.as_mut().unwrap().containers[0].restart_policy_rules = Some(rules);
        })
        .build()
}

#[test]
fn all_containers_are_taken_away_before_they_start_anew() {
    let p = starts_all_anew();
    let mut rt = runtime();
    for (name, phase) in
        [("y", ContainerPhase::Running), ("x", ContainerPhase::Exited), ("i", ContainerPhase::Exited)]
    {
        rt.containers.push(record(&p, name, phase));
    }
    let ended = |code| {
        let mut rt = rt.clone();
        rt.containers[1].exit_code = code;
        run(&p, &rt)
    };
    assert!(ended(1).reset.is_empty(), "another exit code");
    let plan = ended(7);
    let order: Vec<_> = plan.reset.iter().map(|r| (r.name.as_str(), r.running)).collect();
    assert_eq!(order, [("y", true), ("i", false), ("x", false)], "who called for it goes last");
    assert!(plan.start.is_empty() && plan.kill.is_empty() && !plan.finish);
    let mut dead = rt.clone();
    dead.containers[1].exit_code = 7;
    dead.sandboxes[0].ready = false;
    dead.sandboxes[0].attempt = 1;
    assert_eq!(run(&p, &dead).reset.len(), 3, "also where the sandbox has died with it");
    // With nothing left they begin with the first one, and go on counting.
    let reset = serde_json::json!({"initContainerStatuses": [{"name": "i", "restartCount": 3, "ready": false, "image": "",
        "imageID": "", "lastState": {"terminated": {"exitCode": 137, "reason": "RestartingAllContainers"}}}]});
    let status: PodStatus = serde_json::from_value(reset).unwrap();
    let (probes, backoffs) = (ProbeResults::new(), BackOffs::default());
    let model = Model {
        pod: &p,
        runtime: &runtime(),
        probes: &probes,
        backoffs: &backoffs,
        initial: true,
        previous: Some(&status),
        quotas: &Quotas::default(),
        now: at(100),
    };
    let plan = super::plan(&model);
    assert_eq!(started(&plan), ["i"]);
    assert_eq!(plan.start[0].restart_count, 3);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let p = pod("a").init("i0").init("i1").container("x").build();
    assert_eq!(started(&run(&p, &PodRuntime::default())), ["i0"]);
    let mut rt = runtime();
    assert_eq!(started(&run(&p, &rt)), ["i0"]);
    rt.containers.insert(0, record(&p, "i0", ContainerPhase::Running));
    assert!(run(&p, &rt).is_empty());
    rt.containers[0] = record(&p, "i0", ContainerPhase::Exited);
    assert_eq!(started(&run(&p, &rt)), ["i1"]);
    rt.containers.insert(0, record(&p, "i1", ContainerPhase::Exited));
    assert_eq!(started(&run(&p, &rt)), ["x"]);
}

#[test]
fn a_sidecar_lets_the_next_start_while_it_runs() {
    let p = pod("a").sidecar("s").init("i").container("x").build();
    let mut rt = runtime();
    rt.containers.insert(0, record(&p, "s", ContainerPhase::Running));
    assert_eq!(started(&run(&p, &rt)), ["i"]);
    rt.containers.insert(0, record(&p, "i", ContainerPhase::Exited));
    assert_eq!(started(&run(&p, &rt)), ["x"]);
    rt.containers.insert(0, record(&p, "x", ContainerPhase::Running));
    assert!(run(&p, &rt).is_empty());
    rt.containers.retain(|c| c.name != "s");
    rt.containers.push(record(&p, "s", ContainerPhase::Exited));
    assert_eq!(started(&run(&p, &rt)), ["s"]);
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    for (policy, finish) in [("Never", true), ("OnFailure", false), ("Always", false)] {
        let p = pod("a").restart_policy(policy).init("i").container("x").build();
        let mut rt = runtime();
        let failed = ContainerRecord { exit_code: 1, ..record(&p, "i", ContainerPhase::Exited) };
        rt.containers.push(failed);
        let plan = run(&p, &rt);
        assert_eq!(plan.finish, finish, "{policy}");
        assert_eq!(started(&plan), if finish { vec![] } else { vec!["i"] });
    }
}

#[test]
fn exited_containers_follow_the_restart_policy() {
    for (policy, code, restart) in
        [("Always", 0, true), ("OnFailure", 0, false), ("OnFailure", 2, true), ("Never", 2, false)]
    {
        let p = pod("a").restart_policy(policy).container("x").build();
        let mut rt = runtime();
        rt.containers.push(ContainerRecord { exit_code: code, ..record(&p, "x", ContainerPhase::Exited) });
        let plan = run(&p, &rt);
        assert_eq!(!plan.start.is_empty(), restart, "{policy} {code}");
        assert_eq!(plan.finish, !restart, "{policy} {code}");
        if restart {
            assert_eq!(plan.start[0].restart_count, 1);
        }
    }
}

#[test]
fn a_crashed_container_waits_for_its_back_off() {
    let p = pod("a").container("x").build();
    let mut rt = runtime();
    rt.containers.push(ContainerRecord {
        finished_at: Some(at(95)),
        exit_code: 1,
        ..record(&p, "x", ContainerPhase::Exited)
    });
    let mut backoffs = BackOffs::default();
    backoffs.next("x", at(80), at(80));
    let plan = run_with(&p, &rt, &ProbeResults::new(), &backoffs);
    assert!(plan.start.is_empty());
    assert!(!plan.finish);
    assert_eq!(plan.wake_at(), Some(at(105)));
    assert_eq!(plan.waiting[0].message, "back-off 10s restarting failed container=x pod=a_ns(uid-a)");
}

#[test]
fn failing_probes_kill_and_restart() {
    for (kind, text) in [(Kind::Liveness, "liveness"), (Kind::Startup, "startup")] {
        for (policy, restart) in [("Always", true), ("OnFailure", true), ("Never", false)] {
            let p = pod("a").restart_policy(policy).container("x").container("y").build();
            let mut rt = runtime();
            rt.containers.push(record(&p, "x", ContainerPhase::Running));
            rt.containers.push(record(&p, "y", ContainerPhase::Running));
            let probes = ProbeResults::from([((Arc::from("id-x"), kind), Outcome::Failure)]);
            let plan = run_with(&p, &rt, &probes, &BackOffs::default());
            let suffix = if restart { ", will be restarted" } else { "" };
            assert_eq!(plan.kill[0].message, format!("Container x failed {text} probe{suffix}"));
            assert_eq!(started(&plan), if restart { vec!["x"] } else { vec![] });
            assert!(!plan.finish);
        }
    }
}

#[test]
fn a_changed_image_replaces_the_container_whatever_the_policy() {
    let p = pod("a").restart_policy("Never").container("x").build();
    let mut rt = runtime();
    rt.containers.push(ContainerRecord { hash: Some(1), ..record(&p, "x", ContainerPhase::Running) });
    let plan = run(&p, &rt);
    assert_eq!(plan.kill[0].message, "Container x definition changed, will be restarted");
    assert_eq!(started(&plan), ["x"]);
}

#[test]
fn a_dead_sandbox_is_replaced_and_init_containers_run_again() {
    let p = pod("a").init("i").container("x").build();
    let mut rt = runtime();
    rt.sandboxes[0].ready = false;
    rt.containers.push(record(&p, "x", ContainerPhase::Exited));
    rt.containers.push(record(&p, "i", ContainerPhase::Exited));
    let plan = run(&p, &rt);
    assert_eq!(plan.sandbox, Some(1));
    assert_eq!(started(&plan), ["i"]);
    let never = pod("a").restart_policy("Never").container("x").build();
    assert!(run(&never, &rt).finish);
}

#[test]
fn ephemeral_containers_start_once() {
    let p = pod("a")
        .container("x")
        .with(|p| {
            p.spec.as_mut().unwrap().ephemeral_containers =
                Some(vec![k8s_openapi::api::core::v1::EphemeralContainer {
                    name: "d".into(),
                    ..Default::default()
                }]);
        })
        .build();
    let mut rt = runtime();
    rt.containers.push(record(&p, "x", ContainerPhase::Running));
    assert_eq!(started(&run(&p, &rt)), ["d"]);
    rt.containers.insert(0, record(&p, "d", ContainerPhase::Exited));
    assert!(run(&p, &rt).is_empty());
}

/// Carries a plan out on the model alone: every start becomes a running container, every kill an exited one.
fn apply(pod: &Pod, runtime: &PodRuntime, plan: &Plan) -> PodRuntime {
    let mut after = runtime.clone();
    if plan.finish {
        after.sandboxes.iter_mut().for_each(|s| s.ready = false);
        after.containers.iter_mut().filter(|c| c.phase != ContainerPhase::Exited).for_each(stop);
        return after;
    }
    if let Some(attempt) = plan.sandbox {
        after.sandboxes.iter_mut().for_each(|s| s.ready = false);
        let id: Arc<str> = Arc::from(format!("s{attempt}"));
        after.sandboxes.insert(
            0,
            crate::runtime::observed::Sandbox {
                id,
                attempt,
                ..crate::testing::runtime().sandboxes[0].clone()
            },
        );
    }
    for kill in &plan.kill {
        after.containers.iter_mut().filter(|c| c.id == kill.id).for_each(stop);
    }
    let sandbox = Arc::clone(&after.sandboxes[0].id);
    for start in &plan.start {
        let id = Arc::from(format!("id-{}-{}", start.name, start.restart_count));
        let new = ContainerRecord {
            id,
            sandbox_id: Arc::clone(&sandbox),
            restart_count: start.restart_count,
            ..record(pod, &start.name, ContainerPhase::Running)
        };
        after.containers.insert(0, new);
    }
    after
}

fn stop(container: &mut ContainerRecord) {
    container.phase = ContainerPhase::Exited;
    container.exit_code = 137;
    container.finished_at = Some(at(50));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the state, carrying out plans reaches a state whose plan is empty or says finished, and stays
    /// there; and no plan starts a container twice.
    #[test]
    fn plans_converge(
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        sandbox_ready in any::<bool>(),
        states in proptest::collection::vec(0u8..6, 5),
    ) {
        let p = pod("a").restart_policy(policy).sidecar("s").init("i").container("x").container("y").build();
        let mut rt = runtime();
        rt.sandboxes[0].ready = sandbox_ready;
        for (name, state) in ["s", "i", "x", "y"].iter().zip(&states) {
            let phase = match state {
                0 => continue,
                1 => ContainerPhase::Created,
                2 => ContainerPhase::Running,
                3 => ContainerPhase::Unknown,
                _ => ContainerPhase::Exited,
            };
            let code = i32::from(*state == 5);
            rt.containers.push(ContainerRecord { exit_code: code, ..record(&p, name, phase) });
        }
        for _ in 0..6 {
            let plan = run(&p, &rt);
            let mut names = started(&plan);
            names.sort_unstable();
            names.dedup();
            prop_assert_eq!(names.len(), plan.start.len());
            rt = apply(&p, &rt, &plan);
            // Plain init containers finish in time.
            rt.containers.iter_mut().filter(|c| c.name == "i" && c.phase == ContainerPhase::Running).for_each(|c| {
                c.phase = ContainerPhase::Exited;
                c.exit_code = 0;
            });
        }
        let last = run(&p, &rt);
        prop_assert!(last.is_empty() || last.finish, "{:?}", last);
        prop_assert_eq!(run(&p, &apply(&p, &rt, &last)), last);
    }
}

fn resized(policy: &[(&str, &str)], phase: ContainerPhase) -> Plan {
    let sized = |p: &mut Pod, cpu: &str, memory: &str| {
        for c in p.spec.get_or_insert_default().containers.iter_mut() {
            let resources = serde_json::json!({ "limits": { "cpu": cpu, "memory": memory } });
            c.resources = serde_json::from_value(resources).unwrap();
        }
    };
    let policies: Vec<_> = policy
        .iter()
        .map(|(name, restart)| k8s_openapi::api::core::v1::ContainerResizePolicy {
            resource_name: (*name).into(),
            restart_policy: (*restart).into(),
        })
        .collect();
    let before = pod("a").container("c").with(|p| sized(p, "100m", "64Mi")).build();
    let mut runtime = runtime();
    runtime.containers.push(record(&before, "c", phase));
    let after = pod("a")
        .container("c")
        .with(|p| {
            sized(p, "200m", "64Mi");
            p.spec.get_or_insert_default().containers[0].resize_policy = Some(policies);
        })
        .build();
    run(&after, &runtime)
}

#[test]
fn changed_resources_are_set_where_the_container_runs() {
    for policy in [&[][..], &[("cpu", "NotRequired"), ("memory", "RestartContainer")]] {
        let plan = resized(policy, ContainerPhase::Running);
        assert!(plan.kill.is_empty() && plan.start.is_empty() && plan.is_resizing());
        assert_eq!(plan.resize.len(), 1);
        assert_eq!(
            (plan.resize[0].from.cpu_quota, plan.resize[0].to.cpu_quota),
            (Some(10_000), Some(20_000))
        );
    }
}

#[test]
fn a_container_that_asks_for_it_is_restarted_to_be_resized() {
    let plan = resized(&[("cpu", "RestartContainer")], ContainerPhase::Running);
    assert!(plan.resize.is_empty() && plan.is_resizing());
    assert_eq!(plan.kill[0].reason, KillReason::Resized);
    assert_eq!(started(&plan), ["c"]);
}

#[test]
fn what_does_not_run_is_not_resized() {
    assert!(!resized(&[], ContainerPhase::Exited).is_resizing());
}

#[test]
fn containers_with_processors_of_their_own_have_no_quota() {
    let pod = pod("a").container("x").container("y").build();
    let quotas = Quotas { period: Some(100_000), free: ["x".to_owned()].into() };
    assert_eq!((quotas.of("x"), quotas.of("y"), quotas.of_pod()), (None, Some(100_000), None));
    let mut container = pod::containers(&pod)[0].clone();
    let limits = serde_json::json!({"limits": {"cpu": "2", "memory": "1Gi"}});
    container.resources = Some(serde_json::from_value(limits).unwrap());
    let quota = |name| resources::container_limits(&pod, &container, quotas.of(name)).cpu_quota;
    assert_eq!((quota("x"), quota("y")), (None, Some(200_000)));
}
