//! Verbs that reach into containers: logs, exec, attach, cp, port-forward and debug.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use tests::{Cluster, runner::Test};

use crate::{apply, busybox, fails, field, http, local_port, ready, run, shell, wait_field};

pub(crate) const TESTS: &[Test<Cluster>] = &[
    ("logs are told from any point, followed, and kept of the container before", logs),
    ("logs of many pods and containers are told together", logs_of_many),
    ("exec runs commands, with input, with a terminal and with their exit code", exec),
    ("attach joins the container's own process", attach),
    ("cp copies files and folders both ways", copy),
    ("port-forward leads to pods, deployments and services", port_forward),
    ("debug adds an ephemeral container that sees the others", debug),
    ("proxy and raw requests reach pods and services through the API", proxy),
];

fn logs(c: &Cluster, ns: &str) -> Result<()> {
    let spec = "apiVersion: v1\nkind: Pod\nmetadata: {name: talker}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: keelson.local/busybox:1\n    \
        command: [sh, -c, 'for i in 1 2 3 4 5; do echo line $i; done; echo to stderr >&2; until test -f /tmp/end; do sleep 0.2; done; echo last words; exit 1']\n";
    apply(c, ns, spec)?;
    ready(c, ns, "talker")?;
    let told = c.eventually("the log is whole", 20, |c| {
        let told = run(c, ns, &["logs", "talker"])?;
        Ok((told.lines().count() == 6).then_some(told))
    })?;
    // The runtime reads the two streams apart: each has its order, both together have none.
    let (error, output): (Vec<&str>, Vec<&str>) = told.lines().partition(|line| *line == "to stderr");
    ensure!(error.len() == 1 && output == ["line 1", "line 2", "line 3", "line 4", "line 5"], "{told}");
    ensure!(run(c, ns, &["logs", "talker", "--tail=2"])?.lines().count() == 2, "the tail");
    ensure!(run(c, ns, &["logs", "talker", "--tail=0"])?.is_empty(), "no tail");
    ensure!(run(c, ns, &["logs", "talker", "--limit-bytes=9"])? == told[..9], "so many bytes");
    let stamped = run(c, ns, &["logs", "talker", "--timestamps", "--tail=1"])?;
    let (stamp, _) = stamped.split_once(' ').context("a stamp")?;
    ensure!(
        stamp.starts_with("20") && stamp.contains('T') && (stamp.ends_with('Z') || stamp.contains('+')),
        "{stamped}"
    );
    ensure!(
        run(c, ns, &["logs", "talker", "--since-time=2100-01-01T00:00:00Z"])?.is_empty(),
        "from the future"
    );
    ensure!(run(c, ns, &["logs", "talker", "--since=1h"])?.lines().count() == 6, "of the last hour");
    fails(
        c,
        ns,
        &["logs", "talker", "--previous"],
        "previous terminated container \"main\" in pod \"talker\" not found",
    )?;
    fails(c, ns, &["logs", "talker", "-c", "nobody"], "container nobody is not valid for pod talker")?;
    let mut follow = c.kubectl_background(ns, &["logs", "-f", "talker", "--tail=1"], false)?;
    shell(c, ns, "talker", "touch /tmp/end")?;
    follow.line("last words", 20)?;
    ensure!(follow.end(20)?.success(), "following ends with the container");
    wait_field(c, ns, "pod/talker", ".status.containerStatuses[0].restartCount", "1")?;
    let before = run(c, ns, &["logs", "talker", "--previous"])?;
    ensure!(before.ends_with("last words\n"), "{before}");
    c.eventually("the new container has its own log", 30, |c| {
        let now = run(c, ns, &["logs", "talker"])?;
        Ok((now.contains("line 5") && !now.contains("last words")).then_some(()))
    })
}

fn logs_of_many(c: &Cluster, ns: &str) -> Result<()> {
    for name in ["a", "b"] {
        let spec = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: many}}}}\nspec:\n  restartPolicy: Never\n  \
             initContainers:\n  - {{name: first, image: 'keelson.local/busybox:1', command: [echo, first of {name}]}}\n  \
             containers:\n  - {{name: one, image: 'keelson.local/busybox:1', command: [echo, one of {name}]}}\n  \
             - {{name: two, image: 'keelson.local/busybox:1', command: [echo, two of {name}]}}\n"
        );
        apply(c, ns, &spec)?;
    }
    for name in ["a", "b"] {
        wait_field(c, ns, &format!("pod/{name}"), ".status.phase", "Succeeded")?;
    }
    ensure!(run(c, ns, &["logs", "a", "-c", "two"])? == "two of a\n", "one container");
    ensure!(run(c, ns, &["logs", "a", "-c", "first"])? == "first of a\n", "an init container");
    ensure!(run(c, ns, &["logs", "a"])? == "one of a\n", "the first by default");
    let all = run(c, ns, &["logs", "-l", "app=many", "--all-containers", "--prefix"])?;
    for name in ["a", "b"] {
        for container in ["first", "one", "two"] {
            let line = format!("[pod/{name}/{container}] {container} of {name}");
            ensure!(all.lines().any(|l| l == line), "no {line:?} in {all}");
        }
    }
    Ok(())
}

fn exec(c: &Cluster, ns: &str) -> Result<()> {
    apply(c, ns, &busybox("main", ""))?;
    ready(c, ns, "main")?;
    ensure!(
        run(c, ns, &["exec", "main", "--", "echo", "a  b", "$HOME"])? == "a  b $HOME\n",
        "arguments as they are"
    );
    let both = c
        .kubectl_command(&[
            "--namespace",
            ns,
            "exec",
            "main",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 42",
        ])
        .output()?;
    ensure!(both.stdout == b"out\n" && both.stderr.starts_with(b"err\n"), "{both:?}");
    ensure!(both.status.code() == Some(42), "{}", both.status);
    let big = "x".repeat(300_000);
    let count = c.kubectl_with(&["--namespace", ns, "exec", "-i", "main", "--", "wc", "-c"], &big)?;
    ensure!(count.trim() == "300000", "of 300000 bytes {count}");
    let much = run(c, ns, &["exec", "main", "--", "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' y"])?;
    ensure!(much.len() == 3_000_000, "{} of 3000000 bytes", much.len());
    let mut terminal = c.kubectl_background(ns, &["exec", "-it", "main", "--", "sh"], true)?;
    terminal.type_line("tty; echo said $((6 * 7))")?;
    terminal.line("/dev/pts/", 20)?;
    terminal.line("said 42", 20)?;
    terminal.type_line("stty size")?;
    terminal.line("40 100", 20)?;
    terminal.type_line("exit 5")?;
    ensure!(terminal.end(20)?.code() == Some(5), "the terminal's exit code");
    fails(c, ns, &["exec", "main", "--", "no-such-program"], "no-such-program")?;
    fails(
        c,
        ns,
        &["exec", "main", "-c", "nobody", "--", "true"],
        "container nobody is not valid for pod main",
    )?;
    fails(c, ns, &["exec", "missing", "--", "true"], "pods \"missing\" not found")
}

fn attach(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: listener}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  \
        containers:\n  - {name: main, image: 'keelson.local/busybox:1', stdin: true, command: [sh, -c, 'while read word; do echo heard $word; done; echo closed']}\n",
    )?;
    ready(c, ns, "listener")?;
    let mut joined = c.kubectl_background(ns, &["attach", "-i", "listener"], false)?;
    joined.type_line("sesame")?;
    joined.line("heard sesame", 20)?;
    let mut other = c.kubectl_background(ns, &["attach", "listener"], false)?;
    ensure!(run(c, ns, &["logs", "listener"])?.contains("heard sesame"), "the log has it, too");
    // Nothing tells when the second has joined, so the word is said until it is heard.
    for _ in 0..10 {
        joined.type_line("again")?;
        if other.line("heard again", 2).is_ok() {
            return Ok(());
        }
    }
    bail!("the second never heard a word")
}

fn copy(c: &Cluster, ns: &str) -> Result<()> {
    apply(c, ns, &busybox("main", ""))?;
    ready(c, ns, "main")?;
    let folder = c.folder().join(format!("{ns}-copy"));
    fs::create_dir_all(folder.join("deep/er"))?;
    fs::write(folder.join("deep/er/file"), "from here\n")?;
    let bytes: Vec<u8> = (0..2_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    fs::write(folder.join("bytes"), &bytes)?;
    let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
    run(c, ns, &["cp", &at("deep"), "main:/tmp/deep"])?;
    ensure!(shell(c, ns, "main", "cat /tmp/deep/er/file")? == "from here", "a folder went there");
    run(c, ns, &["cp", &at("bytes"), "main:/tmp/bytes"])?;
    run(c, ns, &["cp", "main:/tmp/bytes", &at("back")])?;
    ensure!(fs::read(folder.join("back"))? == bytes, "bytes went there and back");
    shell(c, ns, "main", "mkdir -p /tmp/there && echo from there > /tmp/there/file")?;
    run(c, ns, &["cp", &format!("{ns}/main:/tmp/there"), &at("there"), "-c", "main"])?;
    ensure!(fs::read_to_string(folder.join("there/file"))? == "from there\n", "a folder came back");
    fails(c, ns, &["cp", &at("missing"), "main:/tmp"], "doesn't exist in local filesystem")
}

fn port_forward(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1"])?;
    run(c, ns, &["expose", "deployment", "web", "--port=8080", "--target-port=80"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let proxied = format!("/api/v1/namespaces/{ns}/services/web:8080/proxy/");
    c.eventually("the web server listens", 30, |c| {
        Ok(c.kubectl(&["get", "--raw", &proxied])?.contains("Keelson says hello").then_some(()))
    })?;
    let pod = run(c, ns, &["get", "pods", "-l", "app=web", "-o", "name"])?;
    for (target, ports) in [(pod.trim(), ":80"), ("deployment/web", ":80"), ("service/web", ":8080")] {
        let mut forward = c.kubectl_background(ns, &["port-forward", target, ports], false)?;
        let port = local_port(&forward.line("Forwarding from 127.0.0.1:", 20)?)?;
        // Several at a time and one after the other.
        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| http("127.0.0.1", port))).collect();
            asked.into_iter().try_for_each(|a| {
                let said = a.join().map_err(|_| anyhow::anyhow!("the request panicked"))??;
                ensure!(said.contains("Keelson says hello"), "{target}: {said}");
                Ok(())
            })
        })?;
        ensure!(http("127.0.0.1", port)?.contains("Keelson says hello"), "{target} later");
    }
    let mut closed = c.kubectl_background(ns, &["port-forward", pod.trim(), ":81"], false)?;
    let port = local_port(&closed.line("Forwarding from 127.0.0.1:", 20)?)?;
    ensure!(http("127.0.0.1", port).map_or(true, |said| said.is_empty()), "a closed port answered");
    closed.line("refused", 20).map(drop)
}

fn debug(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["run", "web", "--image=keelson.local/web:1"])?;
    ready(c, ns, "web")?;
    let args = [
        "debug",
        "web",
        "--image=keelson.local/busybox:1",
        "--target=web",
        "-c",
        "look",
        "--profile=general",
        "--",
        "sh",
        "-c",
        "ps; wget -q -O - http://localhost/; sleep 600",
    ];
    run(c, ns, &args)?;
    c.eventually("it sees the processes and the network of its target", 30, |c| {
        let said = run(c, ns, &["logs", "web", "-c", "look"])?;
        ensure!(said.contains("nginx") && said.contains("Keelson says hello"), "{said}");
        Ok(Some(()))
    })?;
    ensure!(run(c, ns, &["exec", "web", "-c", "look", "--", "echo", "here"])? == "here\n", "exec in it");
    ensure!(
        field(c, ns, "pod/web", ".status.containerStatuses[0].restartCount")? == "0",
        "its target was restarted"
    );
    let spec = field(c, ns, "pod/web", ".spec.ephemeralContainers[0].targetContainerName")?;
    ensure!(spec == "web", "{spec}");
    let refused = run(
        c,
        ns,
        &["patch", "pod", "web", "-p", r#"{"spec":{"ephemeralContainers":[{"name":"no","image":"i"}]}}"#],
    );
    ensure!(refused.is_err(), "one came in by the wrong door");
    run(
        c,
        ns,
        &["debug", "web", "--copy-to=twin", "--set-image=*=keelson.local/web:2", "--share-processes"],
    )?;
    ready(c, ns, "twin")
}

fn proxy(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["run", "web", "--image=keelson.local/web:1", "--port=80"])?;
    run(c, ns, &["expose", "pod", "web", "--port=8080", "--target-port=80"])?;
    ready(c, ns, "web")?;
    for path in [
        "pods/web/proxy/",
        "pods/web:80/proxy/index.html",
        "pods/http:web:80/proxy/",
        "services/web:8080/proxy/",
    ] {
        c.eventually(&format!("{path} answers"), 20, |c| {
            let said = c.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{ns}/{path}")])?;
            ensure!(said.contains("Keelson says hello"), "{said}");
            Ok(Some(()))
        })?;
    }
    let missing = c.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{ns}/pods/web/proxy/missing")]);
    ensure!(missing.is_err(), "a missing page was found");
    let node = field(c, ns, "pod/web", ".spec.nodeName")?;
    let health = c.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/healthz")])?;
    ensure!(health == "ok", "{health}");
    let stats = c.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")])?;
    ensure!(stats.contains("\"nodeName\"") && stats.contains(ns), "{stats}");
    Ok(())
}
