//! Phases, container states and conditions, case by case.

use super::*;
use crate::testing::{at, pod, record, runtime};

struct Case {
    pod: Pod,
    runtime: PodRuntime,
    probes: ProbeResults,
    waiting: HashMap<String, Waiting>,
    ending: bool,
    stopped: bool,
    previous: Option<PodStatus>,
    anew: bool,
    gates: Gates,
}

impl Case {
    fn new(pod: Pod) -> Self {
        Self {
            pod,
            runtime: runtime(),
            probes: ProbeResults::new(),
            waiting: HashMap::new(),
            ending: false,
            stopped: false,
            previous: None,
            anew: false,
            gates: Gates::default().with(Gate::ContainerStopSignals, true),
        }
    }
    fn with(mut self, name: &str, phase: ContainerPhase, code: i32) -> Self {
        let r = ContainerRecord { exit_code: code, ..record(&self.pod, name, phase) };
        self.runtime.containers.push(r);
        self
    }
    fn status(&self) -> PodStatus {
        self.judged(None, false)
    }
    fn judged(&self, verdict: Option<&Verdict>, rejected: bool) -> PodStatus {
        generate(&Input {
            pod: &self.pod,
            runtime: &self.runtime,
            probes: &self.probes,
            waiting: &self.waiting,
            verdict,
            ending: self.ending,
            stopped: self.stopped,
            rejected,
            host_ips: &["192.0.2.1".to_owned()],
            runtime_name: "containerd",
            previous: self.previous.as_ref(),
            quotas: &Quotas { period: Some(100_000), ..Quotas::default() },
            cgroup: None,
            since: (!self.anew).then(|| at(10)),
            tells: Tells::by(self.gates),
            pending: None,
            resizing: None,
            recursive: false,
            now: at(100),
        })
    }
}

fn condition_of(status: &PodStatus, kind: &str) -> (String, Option<String>) {
    let c = status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
    (c.status.clone(), c.reason.clone())
}

#[test]
fn a_pod_whose_containers_start_anew_goes_on_running() {
    use ContainerPhase::{Exited, Running};
    let rule = serde_json::json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [7]}}]);
    let p = pod("a")
        .restart_policy("Never")
        .init("i")
        .container("x")
        .with(|p| {
            p.spec.as_mut().unwrap().containers[0].restart_policy_rules =
                serde_json::from_value(rule).unwrap();
        })
        .build();
    let before = Case::new(p).with("x", Running, 0).with("i", Exited, 0);
    let running = before.status();
    assert_eq!(condition_of(&running, "AllContainersRestarting"), ("False".to_owned(), None));
    let mut ended = Case { previous: Some(running), ..before };
    ended.runtime.containers[0].phase = Exited;
    ended.runtime.containers[0].exit_code = 7;
    let calls = ended.status();
    let why = Some("RestartAllContainersStarted".to_owned());
    assert_eq!(condition_of(&calls, "AllContainersRestarting"), ("True".to_owned(), why));
    assert_eq!(calls.phase.as_deref(), Some("Running"));
    ended.runtime.containers.clear();
    let gone = Case { previous: Some(calls), ..ended };
    let reset = gone.status();
    assert_eq!(condition_of(&reset, "AllContainersRestarting").0, "False");
    assert_eq!(condition_of(&reset, "Initialized").0, "True", "what was initialized stays so");
    assert_eq!(reset.phase.as_deref(), Some("Running"));
    for status in [&reset.init_container_statuses, &reset.container_statuses].into_iter().flatten().flatten()
    {
        let waiting = status.state.as_ref().unwrap().waiting.as_ref().unwrap();
        assert_eq!((waiting.reason.as_deref(), status.restart_count), (Some("RestartingAllContainers"), 1));
        assert!(was_reset(status));
    }
    // The next instances remember what was before them.
    let mut again = Case { previous: Some(reset), ..gone }.with("i", Running, 0);
    again.runtime.containers[0].restart_count = 1;
    let status = again.status();
    assert!(was_reset(&status.init_container_statuses.unwrap()[0]));
    assert_eq!(status.container_statuses.unwrap()[0].restart_count, 1);
}

#[test]
fn phases() {
    use ContainerPhase::{Exited, Running};
    let always = || pod("a").container("x").build();
    let never = || pod("a").restart_policy("Never").container("x").container("y").build();
    let stopped = |mut case: Case| {
        case.runtime.sandboxes[0].ready = false;
        case
    };
    let cases = [
        ("nothing yet", Case::new(always()), "Pending"),
        ("running", Case::new(always()).with("x", Running, 0), "Running"),
        ("crashed, will restart", Case::new(always()).with("x", Exited, 1), "Running"),
        ("one of two running", Case::new(never()).with("x", Running, 0).with("y", Exited, 1), "Running"),
        ("all well", stopped(Case::new(never()).with("x", Exited, 0).with("y", Exited, 0)), "Succeeded"),
        ("one failed", stopped(Case::new(never()).with("x", Exited, 0).with("y", Exited, 1)), "Failed"),
        (
            "ended but the sandbox stands",
            Case::new(never()).with("x", Exited, 0).with("y", Exited, 0),
            "Pending",
        ),
    ];
    for (what, case, expected) in cases {
        assert_eq!(case.status().phase.as_deref(), Some(expected), "{what}");
    }
}

#[test]
fn a_ready_pod() {
    let case = Case::new(pod("a").container("x").build()).with("x", ContainerPhase::Running, 0);
    let status = case.status();
    for kind in ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"] {
        assert_eq!(condition_of(&status, kind), ("True".into(), None), "{kind}");
    }
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    let c = &status.container_statuses.unwrap()[0];
    assert!(c.ready);
    assert_eq!(c.container_id.as_deref(), Some("containerd://id-x"));
}

#[test]
fn probes_gate_readiness() {
    let p = pod("a").container("x").with(|p| {
        p.spec.as_mut().unwrap().containers[0].readiness_probe = Some(Default::default());
    });
    let mut case = Case::new(p.build()).with("x", ContainerPhase::Running, 0);
    assert_eq!(condition_of(&case.status(), "Ready"), ("False".into(), Some("ContainersNotReady".into())));
    case.probes.insert(("id-x".into(), Kind::Readiness), Outcome::Success);
    assert_eq!(condition_of(&case.status(), "Ready").0, "True");
}

#[test]
fn a_back_off_shows_as_waiting_with_the_last_end_kept() {
    let mut case = Case::new(pod("a").container("x").build()).with("x", ContainerPhase::Exited, 3);
    case.waiting
        .insert("x".into(), Waiting { reason: "CrashLoopBackOff".into(), message: "back-off".into() });
    let status = case.status();
    let c = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(
        c.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
        Some("CrashLoopBackOff")
    );
    let last = c.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn a_deleted_pod_ends_failed_unless_all_succeeded() {
    for (code, expected) in [(0, "Succeeded"), (143, "Failed")] {
        let mut case = Case::new(pod("a").container("x").build()).with("x", ContainerPhase::Exited, code);
        case.runtime.sandboxes.clear();
        (case.ending, case.stopped) = (true, true);
        assert_eq!(case.status().phase.as_deref(), Some(expected));
    }
}

#[test]
fn init_containers_hold_the_pod_pending() {
    let p = pod("a").init("i").container("x").build();
    let status = Case::new(p).with("i", ContainerPhase::Running, 0).status();
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(
        condition_of(&status, "Initialized"),
        ("False".into(), Some("ContainersNotInitialized".into()))
    );
    let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
}

#[test]
fn what_ran_before_the_kubelet_is_as_it_was_told_until_a_probe_says_otherwise() {
    let p = || {
        pod("a").container("x").with(|p| {
            let container = &mut p.spec.as_mut().unwrap().containers[0];
            (container.readiness_probe, container.startup_probe) =
                (Some(Default::default()), Some(Default::default()));
            let ready = serde_json::json!({"conditions": [{"type": "Ready", "status": "True"}]});
            p.status = serde_json::from_value(ready).unwrap();
        })
    };
    let told = |id: &str| {
        let one = serde_json::json!({"name": "x", "containerID": id, "started": true, "ready": true, "restartCount": 0,
            "image": "", "imageID": ""});
        serde_json::from_value::<PodStatus>(serde_json::json!({ "containerStatuses": [one] })).unwrap()
    };
    let running = || Case::new(p().build()).with("x", ContainerPhase::Running, 0);
    let of = |case: &Case| {
        let status = &case.status().container_statuses.unwrap()[0];
        (status.started == Some(true), status.ready)
    };
    let mut case = Case { previous: Some(told("containerd://id-x")), ..running() };
    assert_eq!(of(&case), (true, true));
    case.probes.insert(("id-x".into(), Kind::Readiness), Outcome::Failure);
    assert_eq!(of(&case), (true, false), "the probe knows better");
    case.probes.clear();
    case.runtime.containers[0].started_at = Some(at(50));
    assert_eq!(of(&case), (true, false), "this kubelet started it");
    assert_eq!(of(&Case { previous: Some(told("containerd://other")), ..running() }), (false, false));
    let mut case = Case { previous: Some(told("containerd://id-x")), ..running() };
    case.pod.status = None;
    assert_eq!(of(&case), (true, false), "the pod was not ready");
    let anew = Case { anew: true, previous: Some(told("containerd://id-x")), ..running() };
    assert_eq!(of(&anew), (false, false), "the gate has all begin anew");
}

#[test]
fn statuses_tell_which_images_volumes_are_where_the_gate_is_on() {
    let p = pod("a").container("x").with(|p| {
        let mounts = serde_json::json!([{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/w"}]);
        p.spec.as_mut().unwrap().containers[0].volume_mounts = serde_json::from_value(mounts).unwrap();
    });
    let mut case = Case::new(p.build()).with("x", ContainerPhase::Running, 0);
    case.runtime.containers[0].images.insert("/v".into(), "sha256:1".into());
    let of = |case: &Case| -> Vec<Option<String>> {
        let mounts = case.status().container_statuses.unwrap().remove(0).volume_mounts.unwrap();
        mounts.into_iter().map(|m| Some(m.volume_status?.image?.image_ref)).collect()
    };
    assert_eq!(of(&case), [None, None]);
    case.gates = case.gates.with(Gate::ImageVolumeWithDigest, true);
    assert_eq!(of(&case), [Some("sha256:1".to_owned()), None]);
}

#[test]
fn a_container_that_somebody_took_away_has_ended_and_the_pod_goes_on_running() {
    let told = |name: &str| {
        serde_json::json!({"name": name, "containerID": "containerd://1", "restartCount": 2, "ready": true, "image": "",
            "imageID": "", "state": {"running": {}}})
    };
    let before = serde_json::json!({"phase": "Running", "containerStatuses": [told("x"), told("y")]});
    let p = pod("a").container("x").container("y").build();
    let case = Case { previous: Some(serde_json::from_value(before).unwrap()), ..Case::new(p) };
    let case = case.with("y", ContainerPhase::Running, 0);
    let gone = case.status();
    assert_eq!(gone.phase.as_deref(), Some("Running"));
    let of = |status: &PodStatus| {
        let x = &status.container_statuses.as_ref().unwrap()[0];
        let last = x.last_state.as_ref().unwrap().terminated.clone().unwrap();
        let waits = x.state.as_ref().unwrap().waiting.is_some();
        (x.restart_count, last.reason.unwrap(), last.exit_code, waits)
    };
    let expected = (3, "ContainerStatusUnknown".to_owned(), 137, true);
    assert_eq!(of(&gone), expected);
    let again = Case { previous: Some(gone), ..case };
    assert_eq!(of(&again.status()), expected, "it is counted once");
}

#[test]
fn of_a_pod_that_is_over_all_containers_have_ended() {
    use ContainerPhase::Exited;
    let ended = |p: Pod, runs: &[(&str, ContainerPhase, i32)]| {
        let mut case = Case { ending: true, stopped: true, ..Case::new(p) };
        for (name, phase, code) in runs {
            case = case.with(name, *phase, *code);
        }
        let status = case.status();
        let code = |s: &ContainerStatus| Some(s.state.as_ref()?.terminated.as_ref()?.exit_code);
        let all = [status.init_container_statuses, status.container_statuses].into_iter().flatten().flatten();
        (status.phase.unwrap(), all.map(|s| code(&s)).collect::<Vec<_>>())
    };
    let failed = "Failed".to_owned();
    let plain = pod("a").container("x").container("y").build();
    assert_eq!(ended(plain, &[("x", Exited, 0)]), (failed.clone(), vec![Some(0), Some(137)]));
    let three = || pod("a").init("i").init("j").container("x").build();
    assert_eq!(ended(three(), &[]), (failed.clone(), vec![Some(137), None, None]));
    assert_eq!(ended(three(), &[("i", Exited, 0)]), (failed.clone(), vec![Some(0), None, None]));
    assert_eq!(
        ended(three(), &[("i", Exited, 0), ("j", Exited, 1)]),
        (failed.clone(), vec![Some(0), Some(1), None])
    );
    let initialized = [("i", Exited, 0), ("j", Exited, 0)];
    assert_eq!(ended(three(), &initialized), (failed, vec![Some(0), Some(0), Some(137)]));
}

#[test]
fn of_a_pod_that_the_node_did_not_take_only_that_is_told() {
    let case = Case::new(pod("a").container("x").build());
    let verdict = Verdict { reason: "OutOfcpu".into(), message: "no".into(), disrupted: false };
    let status = case.judged(Some(&verdict), true);
    let told = serde_json::to_value(&status).unwrap();
    let names: Vec<&String> = told.as_object().unwrap().keys().collect();
    assert_eq!(names, ["message", "phase", "qosClass", "reason", "startTime"]);
    assert_eq!((told["phase"].as_str(), told["reason"].as_str()), (Some("Failed"), Some("OutOfcpu")));
}

#[test]
fn addresses_are_told_in_the_order_of_the_nodes() {
    let text = |all: &[&str]| all.iter().map(|ip| (*ip).to_owned()).collect::<Vec<_>>();
    let all = text(&["fd00::1", "10.0.0.1", "FD00::2", "10.0.0.2"]);
    for (node, expected) in [
        (&["192.0.2.1"][..], &["10.0.0.1", "fd00::1"][..]),
        (&["fd01::1", "192.0.2.1"], &["fd00::1", "10.0.0.1"]),
        (&[], &["10.0.0.1", "fd00::1"]),
    ] {
        assert_eq!(pod::preferred_ips(&all, &text(node)), expected);
    }
    assert_eq!(pod::preferred_ips(&text(&["fd00::1"]), &text(&["192.0.2.1"])), ["fd00::1"]);
}
