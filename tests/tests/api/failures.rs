//! What the server survives: each test starts a control plane and breaks it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tests::{Client, ControlPlane, binary, control_plane::Options, runner::Test};

use crate::config_maps;

pub(crate) const TESTS: &[Test<()>] = &[
    ("a dead etcd is told, and its return heals everything", dead_etcd),
    ("a watch goes on over an etcd that went away", watch_over_etcd),
    ("a killed server has lost no write it acknowledged", killed_server),
    ("killed members of etcd, one after the other, lose no write that was acknowledged", killed_members),
    ("a full disk is told, reads go on, and room heals it", full_disk),
    ("SIGTERM ends watches and then the server, without an error", drains),
    ("connections that are no TLS and requests that never end hold nobody up", bad_peers),
    ("daemons tell their version and help, and name the nearest of an unknown flag", flags),
];

fn make(client: &Client, name: &str) -> Result<tests::Answer> {
    client.post(&config_maps("default", ""), &json!({"metadata": {"name": name}}))
}

fn dead_etcd(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options::default())?;
    let admin = plane.admin()?;
    make(&admin, "before")?.ok()?;
    plane.kill_etcd()?;
    for attempt in 0..3 {
        let refused = make(&admin, "during")?;
        refused.refused(503, "ServiceUnavailable").map_err(|e| e.context(format!("write {attempt}")))?;
        ensure!(!refused.header("retry-after").is_empty(), "{:?}", refused.headers);
    }
    admin.get(&config_maps("default", "before"))?.refused(503, "ServiceUnavailable")?;
    let ready = plane.eventually("the server says that it is not ready", 15, || {
        let answer = admin.get("/readyz?verbose")?;
        Ok((answer.code == 500).then(|| answer.text()))
    })?;
    ensure!(ready.contains("[-]etcd failed"), "{ready}");
    // What is remembered is still there for who does not mind.
    let old = admin.get(&format!("{}?resourceVersion=0", config_maps("default", "")))?.ok()?;
    ensure!(old["items"].to_string().contains("\"before\""), "{old}");
    ensure!(plane.is_running()?, "the server ended");
    let pid = plane.api_pid();
    plane.start_etcd()?;
    plane.eventually("writes work again", 30, || {
        let answer = make(&admin, "after")?;
        Ok(matches!(answer.code, 201 | 409).then_some(()))
    })?;
    plane.eventually("it is ready again", 30, || Ok((admin.get("/readyz")?.code == 200).then_some(())))?;
    let now = admin.get(&config_maps("default", ""))?.ok()?.to_string();
    ensure!(now.contains("\"before\"") && now.contains("\"after\""), "{now}");
    ensure!(plane.api_pid() == pid, "it was restarted");
    Ok(())
}

fn watch_over_etcd(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options::default())?;
    let admin = plane.admin()?;
    let first = make(&admin, "first")?.ok()?;
    let start = first["metadata"]["resourceVersion"].as_str().context("it has a version")?.to_owned();
    let mut watch =
        admin.watch(&format!("{}?watch=true&resourceVersion={start}", config_maps("default", "")))?;
    make(&plane.admin()?, "second")?.ok()?;
    ensure!(watch.expect("ADDED")?["metadata"]["name"] == "second", "the second");
    plane.kill_etcd()?;
    plane.start_etcd()?;
    let writer = plane.admin()?;
    plane.eventually("writes work again", 30, || {
        Ok(matches!(make(&writer, "third")?.code, 201 | 409).then_some(()))
    })?;
    // Either it goes on without a gap, or it ends and can be taken up where it was.
    let mut last = start;
    for _ in 0..3 {
        match watch.more() {
            Ok(Some(event)) if event["type"] == "ADDED" => {
                ensure!(event["object"]["metadata"]["name"] == "third", "{event}");
                return Ok(());
            }
            Ok(Some(event)) if event["type"] == "BOOKMARK" => {
                last =
                    event["object"]["metadata"]["resourceVersion"].as_str().context("a version")?.to_owned();
            }
            _ => {
                watch = writer
                    .watch(&format!("{}?watch=true&resourceVersion={last}", config_maps("default", "")))?;
            }
        }
    }
    Err(anyhow!("the third was never told"))
}

fn killed_server(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options::default())?;
    keeps_what_it_acknowledged(&plane, 3, &|_| {
        plane.kill_api()?;
        plane.start_api()
    })
}

/// Each member in turn, whoever leads, and the server with the last one.
fn killed_members(_: &(), _: &str) -> Result<()> {
    const MEMBERS: usize = 3;
    let plane = ControlPlane::start(Options { members: MEMBERS, ..Options::default() })?;
    let admin = plane.admin()?;
    keeps_what_it_acknowledged(&plane, 2 * MEMBERS, &|round| {
        let member = round % MEMBERS;
        plane.kill_member(member)?;
        if round == 2 * MEMBERS {
            plane.kill_api()?;
            plane.start_api()?;
        }
        // Two of three go on.
        plane.eventually("writes work without one member", 60, || {
            // One that was not answered may have been made.
            Ok(matches!(make(&admin, &format!("without-{round}"))?.code, 201 | 409).then_some(()))
        })?;
        plane.start_member(member)
    })
}

/// Writers note what was acknowledged, of objects they make and of one each that they change over and over; after what
/// `kill` does while they write, all of it is there.
fn keeps_what_it_acknowledged(
    plane: &ControlPlane,
    rounds: usize,
    kill: &dyn Fn(usize) -> Result<()>,
) -> Result<()> {
    const WRITERS: usize = 4;
    let (stop, known) = (AtomicBool::new(false), Mutex::new(Vec::<String>::new()));
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    let counters = Mutex::new([0_usize; WRITERS]);
    let write = |who: usize| -> Result<()> {
        let client = plane.admin()?;
        let counter = config_maps("default", &format!("counter-{who}"));
        make(&client, &format!("counter-{who}"))?.ok()?;
        for at in 1.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let name = format!("w{who}-{at}");
            // An answer that did not come acknowledges nothing.
            if let Ok(answer) = make(&client, &name)
                && answer.code == 201
            {
                lock().push(name);
            }
            let change = json!({"data": {"n": at.to_string()}});
            if let Ok(answer) = client.patch(&counter, "application/merge-patch+json", &change)
                && answer.code == 200
            {
                counters.lock().unwrap_or_else(PoisonError::into_inner)[who] = at;
            }
        }
        Ok(())
    };
    thread::scope(|scope| -> Result<()> {
        let write = &write;
        let writers: Vec<_> = (0..WRITERS).map(|who| scope.spawn(move || write(who))).collect();
        let outcome = (|| {
            let mut seen = 0;
            for round in 1..=rounds {
                plane.eventually("more writes are acknowledged", 60, || {
                    Ok((lock().len() >= seen + 40).then_some(()))
                })?;
                kill(round)?;
                seen = lock().len();
            }
            plane.eventually("writes go on", 60, || Ok((lock().len() >= seen + 40).then_some(())))
        })();
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        outcome
    })?;
    let admin = plane.admin()?;
    let list = admin.get(&config_maps("default", ""))?.ok()?;
    let items = list["items"].as_array().context("a list")?;
    let there: std::collections::BTreeSet<_> =
        items.iter().filter_map(|i| i["metadata"]["name"].as_str()).collect();
    let lost: Vec<_> = lock().iter().filter(|n| !there.contains(n.as_str())).cloned().collect();
    ensure!(lost.is_empty(), "lost {} of {}: {lost:?}", lost.len(), lock().len());
    for (who, last) in counters.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().enumerate() {
        let stored = admin.get(&config_maps("default", &format!("counter-{who}")))?.ok()?;
        let stored: usize = stored["data"]["n"].as_str().unwrap_or("0").parse()?;
        ensure!(last > 0 && stored >= last, "counter {who} was {last} and is {stored}");
    }
    Ok(())
}

fn full_disk(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options { quota: 8 << 20, ..Options::default() })?;
    let admin = plane.admin()?;
    let big =
        |at: usize| json!({"metadata": {"name": format!("big-{at}")}, "data": {"a": "x".repeat(900 << 10)}});
    let mut made = 0;
    let refused = loop {
        let answer = admin.post(&config_maps("default", ""), &big(made))?;
        if answer.code != 201 {
            break answer;
        }
        made += 1;
        ensure!(made < 30, "etcd takes more than its quota");
    };
    let status: Value = refused.json()?;
    ensure!(refused.code >= 500 && status["kind"] == "Status", "{}: {}", refused.code, refused.text());
    ensure!(status["message"].as_str().is_some_and(|m| m.contains("space exceeded")), "{status}");
    let list = admin.get(&format!("{}?limit=1", config_maps("default", "")))?.ok()?;
    ensure!(list["items"].as_array().map(Vec::len) == Some(1), "{list}");
    ensure!(admin.get(&config_maps("default", "big-0"))?.code == 200, "reads go on");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut etcd = etcd_client::Client::connect([plane.etcd_url()], None).await?;
        let all = etcd_client::DeleteOptions::new().with_prefix();
        let gone = etcd.delete("/registry/configmaps/default/", Some(all)).await?;
        let revision = gone.header().context("an answer has a header")?.revision();
        etcd.compact(revision, Some(etcd_client::CompactionOptions::new().with_physical())).await?;
        etcd.defragment().await?;
        // An alarm is one member's and is only taken back by naming it.
        let kind = etcd_client::AlarmType::Nospace;
        let raised = etcd.alarm(etcd_client::AlarmAction::Get, kind, None).await?;
        for alarm in raised.alarms() {
            let mut of = etcd_client::AlarmOptions::new();
            of.with_member(alarm.member_id());
            etcd.alarm(etcd_client::AlarmAction::Deactivate, kind, Some(of)).await?;
        }
        anyhow::Ok(())
    })?;
    plane.eventually("writes work again", 30, || make(&admin, "after")?.ok().map(Some))?;
    let names = admin.get(&config_maps("default", ""))?.ok()?;
    ensure!(!names.to_string().contains("big-"), "the deleted are still listed");
    Ok(())
}

fn drains(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options::default())?;
    let admin = plane.admin()?;
    make(&admin, "a")?.ok()?;
    let mut watch = admin.watch(&format!("{}?watch=true", config_maps("default", "")))?;
    watch.expect("ADDED")?;
    let ended = thread::scope(|scope| {
        let ending = scope.spawn(|| plane.terminate_api());
        // The stream ends properly rather than breaking off.
        while watch.more()?.is_some() {}
        ending.join().map_err(|_| anyhow!("the wait panicked"))?
    })?;
    ensure!(ended.success(), "it ended with {ended}\n{}", plane.logs());
    Ok(())
}

fn bad_peers(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options::default())?;
    let admin = plane.admin()?;
    let address = plane.address();
    let mut open = Vec::new();
    for at in 0..60_u8 {
        let mut stream = TcpStream::connect(&address)?;
        let junk: &[u8] = match at % 4 {
            0 => b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            1 => b"\x16\x03\x01\x02\x00\x01",
            2 => &[0xff; 64],
            _ => b"",
        };
        stream.write_all(junk)?;
        open.push(stream);
    }
    for at in 0..20 {
        make(&admin, &format!("m{at}"))?.ok()?;
    }
    let mut plain = TcpStream::connect(&address)?;
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")?;
    plain.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
    let mut said = Vec::new();
    // A reset is an answer, too.
    drop(plain.read_to_end(&mut said));
    ensure!(!String::from_utf8_lossy(&said).contains(" 200 "), "it answers without TLS");
    let panics = plane.api_log()?.contains("panicked");
    ensure!(plane.is_running()? && !panics, "{}", plane.logs());
    Ok(())
}

fn flags(_: &(), _: &str) -> Result<()> {
    for (daemon, wrong, right) in [
        ("kube-apiserver", "--etcd-server=x", "--etcd-servers"),
        ("kube-scheduler", "--kubeconfi=x", "--kubeconfig"),
        ("kube-controller-manager", "--cluster-cidrs=x", "--cluster-cidr"),
        ("cloud-controller-manager", "--cloud-provide=x", "--cloud-provider"),
        ("kubelet", "--confi=x", "--config"),
        ("kube-proxy", "--hostname-overide=x", "--hostname-override"),
        ("kube-dns", "--con=x", "--conf"),
    ] {
        let run = |arg: &str| Command::new(binary(daemon)?).arg(arg).output().context(daemon);
        let refused = run(wrong)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success(), "{daemon} takes {wrong}");
        ensure!(said.contains(right), "{daemon} {wrong} does not name {right}: {said}");
        let version = run("--version")?;
        let said = String::from_utf8_lossy(&version.stdout).into_owned();
        ensure!(version.status.success() && said.contains("v1.36"), "{daemon}: {said}");
        let help = run("--help")?;
        let said = String::from_utf8_lossy(&help.stdout).into_owned();
        ensure!(help.status.success() && said.contains(right), "{daemon}: {said}");
    }
    Ok(())
}
