//! Leaders that the server chooses (KEP-4355), under their gate.

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};
use tests::{Client, ControlPlane, control_plane::Options, runner::Test};

use crate::scheduling::Daemon;

pub(crate) const TESTS: &[Test<()>] = &[
    ("leaders are chosen among those who live", chosen),
    ("schedulers lead in turn, and give way to who is better", live),
    ("candidates that were silent for long are removed", silent),
    ("without its gate nobody is chosen", off),
];

const CANDIDATES: &str = "/apis/coordination.k8s.io/v1beta1/namespaces/default/leasecandidates";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/daemon";

fn flags(gate: bool) -> Vec<String> {
    vec![
        format!("--feature-gates=CoordinatedLeaderElection={gate}"),
        "--runtime-config=coordination.k8s.io/v1beta1=true,coordination.k8s.io/v1alpha2=true".to_owned(),
    ]
}

fn start(gate: bool) -> Result<ControlPlane> {
    ControlPlane::start(Options { flags: flags(gate), ..Options::default() })
}

fn candidate(name: &str, emulated: &str, renewed: Timestamp) -> Value {
    json!({"metadata": {"name": name}, "spec": {"leaseName": "daemon", "binaryVersion": "1.36.0",
        "emulationVersion": emulated, "strategy": "OldestEmulationVersion", "renewTime": micro(renewed)}})
}

fn micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Answers for candidates of these names, or for all, that are asked whether they live; how many were.
fn answer(admin: &Client, candidates: &str, names: &[&str]) -> Result<usize> {
    let mut answered = 0;
    let all = admin.get(candidates)?.ok()?;
    for item in all["items"].as_array().context("no items")? {
        let time = |field: &str| item["spec"][field].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        if time("pingTime") > time("renewTime") {
            let mut alive = item.clone();
            alive["spec"]["renewTime"] = micro(Timestamp::now()).into();
            let name = item["metadata"]["name"].as_str().context("no name")?;
            if names.is_empty() || names.contains(&name) {
                admin.put(&format!("{candidates}/{name}"), &alive)?.ok()?;
                answered += 1;
            }
        }
    }
    Ok(answered)
}

fn chosen(_: &(), _: &str) -> Result<()> {
    let plane = start(true)?;
    let admin = plane.admin()?;
    admin.post(CANDIDATES, &candidate("newer", "1.36.0", Timestamp::now()))?.ok()?;
    let lease = plane.eventually("the only candidate gets the lease", 30, || {
        let lease = admin.get(LEASE)?;
        answer(&admin, CANDIDATES, &[])?;
        Ok((lease.code == 200).then_some(lease))
    })?;
    let mut lease = lease.ok()?;
    let spec = &lease["spec"];
    ensure!(spec["holderIdentity"] == "newer" && spec["strategy"] == "OldestEmulationVersion", "{lease}");
    ensure!(spec["leaseDurationSeconds"] == 5, "{lease}");
    // The holder takes it, and holds it for long.
    lease["spec"]["leaseDurationSeconds"] = 3600.into();
    lease["spec"]["renewTime"] = micro(Timestamp::now()).into();
    admin.put(LEASE, &lease)?.ok()?;
    admin.post(CANDIDATES, &candidate("older", "1.35.0", Timestamp::now()))?.ok()?;
    let mut asked = 0;
    let preferred = plane.eventually("the better candidate is preferred", 40, || {
        asked += answer(&admin, CANDIDATES, &[])?;
        let lease = admin.get(LEASE)?.ok()?;
        Ok(lease["spec"].get("preferredHolder").is_some().then_some(lease))
    })?;
    let spec = &preferred["spec"];
    ensure!(spec["preferredHolder"] == "older" && spec["holderIdentity"] == "newer", "{preferred}");
    // The holder lets it go.
    admin.delete(LEASE)?.ok()?;
    let given = plane.eventually("the better candidate gets the lease", 40, || {
        asked += answer(&admin, CANDIDATES, &[])?;
        let lease = admin.get(LEASE)?;
        Ok((lease.code == 200).then_some(lease))
    })?;
    let given = given.ok()?;
    ensure!(given["spec"]["holderIdentity"] == "older", "{given}");
    ensure!(given["spec"].get("preferredHolder").is_none(), "{given}");
    // Who does not answer is not chosen.
    let dead = candidate("oldest", "1.30.0", Timestamp::now() - jiff::SignedDuration::from_mins(1));
    admin.post(CANDIDATES, &dead)?.ok()?;
    let oldest = format!("{CANDIDATES}/oldest");
    plane.eventually("the silent candidate is asked", 30, || {
        let all = admin.get(CANDIDATES)?.ok()?;
        for item in all["items"].as_array().context("no items")? {
            if item["metadata"]["name"] == "oldest" && item["spec"].get("pingTime").is_some() {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })?;
    ensure!(admin.get(LEASE)?.ok()?["spec"]["holderIdentity"] == "older", "the silent one was chosen");
    admin.delete(&oldest)?.ok()?;
    let alpha = admin.get(&CANDIDATES.replace("v1beta1", "v1alpha2"))?.ok()?;
    ensure!(alpha["items"].as_array().is_some_and(|all| all.len() == 2), "{alpha}");
    Ok(())
}

/// Real candidates: the second follows the first, and goes when an older one is there.
fn live(_: &(), _: &str) -> Result<()> {
    const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler";
    let candidates = CANDIDATES.replace("/default/", "/kube-system/");
    let plane = start(true)?;
    let admin = plane.admin()?;
    let scheduler = || {
        let flags = [
            "--feature-gates=CoordinatedLeaderElection=true",
            "--leader-elect=true",
            "--leader-elect-lease-duration=4s",
            "--leader-elect-renew-deadline=3s",
            "--leader-elect-retry-period=500ms",
        ];
        Daemon::start(&plane, "kube-scheduler", &flags)
    };
    let names = || -> Result<Vec<String>> {
        let all = admin.get(&candidates)?.ok()?;
        let items = all["items"].as_array().context("no items")?;
        let name = |item: &Value| item["metadata"]["name"].as_str().map(str::to_owned);
        items.iter().map(|item| name(item).context("no name")).collect()
    };
    let led_by = |who: &dyn Fn(&str) -> bool| -> Result<Option<Value>> {
        let lease = admin.get(LEASE)?;
        let lease = if lease.code == 200 { lease.ok()? } else { return Ok(None) };
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        Ok((!holder.is_empty() && who(holder)).then(|| lease.clone()))
    };
    let first = scheduler()?;
    let lease = plane.eventually("the first leads", 40, || led_by(&|_| true))?;
    let holder = lease["spec"]["holderIdentity"].as_str().context("no holder")?.to_owned();
    ensure!(lease["spec"]["strategy"] == "OldestEmulationVersion", "{lease}");
    ensure!(names()? == [holder.clone()], "other candidates than {holder}: {:?}", names()?);
    let own = admin.get(&format!("{candidates}/{holder}"))?.ok()?["spec"].clone();
    ensure!(own["leaseName"] == "kube-scheduler" && own["strategy"] == "OldestEmulationVersion", "{own}");
    ensure!(
        own["emulationVersion"] == "1.36.0"
            && own["binaryVersion"].as_str().is_some_and(|v| v.starts_with("1.36.")),
        "{own}"
    );
    let mut second = scheduler()?;
    plane.eventually("there are two candidates", 40, || Ok((names()?.len() == 2).then_some(())))?;
    ensure!(
        led_by(&|_| true)?.is_some_and(|lease| lease["spec"]["holderIdentity"] == holder.as_str()),
        "another leads"
    );
    drop(first);
    plane.eventually("the second leads", 60, || led_by(&|who| who != holder))?;
    second.line("became leader", 20)?;
    // An older one comes: the leader ends with its term.
    let mut older = candidate("older", "1.35.0", Timestamp::now());
    older["spec"]["leaseName"] = "kube-scheduler".into();
    admin.post(&candidates, &older)?.ok()?;
    let mut preferred = false;
    plane.eventually("the older one leads", 90, || {
        answer(&admin, &candidates, &["older"])?;
        preferred |= admin.get(LEASE)?.json()?["spec"]["preferredHolder"] == "older";
        led_by(&|who| who == "older")
    })?;
    ensure!(preferred, "the leader was not told whom to give way to");
    second.line("leader election lost", 30)?;
    second.end(30).context("the one that led").map(drop)
}

fn silent(_: &(), _: &str) -> Result<()> {
    let plane = start(true)?;
    let admin = plane.admin()?;
    let own = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/leader-election-controller";
    let held = plane.eventually("one server chooses", 20, || {
        let lease = admin.get(own)?;
        Ok((lease.code == 200).then_some(lease))
    })?;
    let first = held.ok()?["spec"]["holderIdentity"].clone();
    let hour = jiff::SignedDuration::from_hours(1);
    admin.post(CANDIDATES, &candidate("gone", "1.36.0", Timestamp::now() - hour))?.ok()?;
    plane.terminate_api()?;
    plane.start_api()?;
    plane.eventually("another server chooses, and removes who was silent", 40, || {
        let gone = admin.get(&format!("{CANDIDATES}/gone"))?.code == 404;
        Ok((gone && admin.get(own)?.ok()?["spec"]["holderIdentity"] != first).then_some(()))
    })?;
    ensure!(admin.get(LEASE)?.code == 404, "a lease for a candidate that was silent");
    Ok(())
}

fn off(_: &(), _: &str) -> Result<()> {
    let plane = start(false)?;
    let admin = plane.admin()?;
    admin.post(CANDIDATES, &candidate("a", "1.36.0", Timestamp::now()))?.ok()?;
    let lease = json!({"metadata": {"name": "daemon"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 1,
        "strategy": "OldestEmulationVersion"}});
    let made = admin.post("/apis/coordination.k8s.io/v1/namespaces/default/leases", &lease)?.ok()?;
    ensure!(made["spec"].get("strategy").is_none(), "{made}");
    // With the gate on, servers would hold this lease before they are ready for long.
    let own = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/leader-election-controller";
    ensure!(admin.get(own)?.code == 404, "a server chooses without the gate");
    Ok(())
}
