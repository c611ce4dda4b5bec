//! One pod: its containers' lives, what they see and what holds them.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json as told};
use tests::{Cluster, runner::Test};

use crate::{apply, busybox, field, kubelet::cgroup_folder, only_node, ready, run, shell, wait_field};

pub(crate) const TESTS: &[Test<Cluster>] = &[
    ("probes by command, HTTP and TCP restart, hold back and let through", probes),
    ("memory and CPU limits hold containers", limits),
    ("init containers run in order, and one that fails holds the pod", init_containers),
    ("sidecars start before and live beside the main container", sidecars),
    ("hooks run after the start and before the end", hooks),
    ("a container has its grace period and no more", grace),
    ("restart policies and the back-off between restarts", restarts),
    ("all containers of a pod start anew when one ends as a rule says", restarts_all),
    ("pods see themselves through the downward API and their token", downward),
    ("a pod finds the API by its name, and its token may what its roles say", in_cluster),
    ("volumes are shared, of memory, of the host, read-only and in parts", volumes),
    ("a container runs as the user, and with the rights, that it is given", security),
    ("secrets and projected volumes follow their changes", projected),
    ("a pod that names what is not there says so", broken),
    (
        "a container starts anew with a volume whose source is gone, and no process outlives its pod",
        leftovers,
    ),
    ("gRPC probes ask the service they name", grpc),
    ("hooks by HTTP and by sleep, and probes with their own port names", other_hooks),
    ("a pod has its deadline, and a message of its last words", deadline),
    ("pods share processes, see the host's, and have their own names and resolvers", sharing),
    ("readiness gates hold a pod back until somebody says so", gates),
    ("static pods run without the API and are mirrored in it", static_pods),
    ("containers are resized in place", resize),
    ("statuses tell what pods have as a whole, and of those the node did not take only that", whole),
    ("probes follow redirects to the same host only, and know the container's variables", redirects),
    ("volumes by claim, by part of an expression, and too large ones", more_volumes),
];

fn pod(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n{spec}")
}

fn json(c: &Cluster, ns: &str, pod: &str) -> Result<Value> {
    Ok(serde_json::from_str(&run(c, ns, &["get", "pod", pod, "-o", "json"])?)?)
}

/// The status of a container of a pod.
fn container(c: &Cluster, ns: &str, pod: &str, name: &str) -> Result<Value> {
    let object = json(c, ns, pod)?;
    let lists = ["containerStatuses", "initContainerStatuses"];
    let mut all = lists.iter().filter_map(|l| object["status"][l].as_array()).flatten();
    all.find(|s| s["name"] == name).cloned().with_context(|| format!("no status of {name} yet"))
}

fn probes(c: &Cluster, ns: &str) -> Result<()> {
    let web = "image: 'keelson.local/web:1'";
    let every = "periodSeconds: 1, failureThreshold: 2";
    apply(
        c,
        ns,
        &pod(
            "good",
            &format!(
                "  containers:\n  - {{name: http, {web}, readinessProbe: {{httpGet: {{path: /, port: 80}}, {every}}}, \
         livenessProbe: {{tcpSocket: {{port: 80}}, {every}}}, startupProbe: {{httpGet: {{path: /index.html, port: 80}}, {every}}}}}\n"
            ),
        ),
    )?;
    apply(
        c,
        ns,
        &pod(
            "bad",
            &format!(
                "  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - {{name: http, {web}, livenessProbe: {{httpGet: {{path: /missing, port: 80}}, {every}}}}}\n  \
         - {{name: tcp, image: 'keelson.local/busybox:1', command: [sleep, '600'], livenessProbe: {{tcpSocket: {{port: 81}}, {every}}}}}\n  \
         - {{name: exec, image: 'keelson.local/busybox:1', command: [sleep, '600'], livenessProbe: {{exec: {{command: ['false']}}, {every}}}}}\n  \
         - {{name: start, image: 'keelson.local/busybox:1', command: [sleep, '600'], startupProbe: {{exec: {{command: ['false']}}, {every}}}}}\n"
            ),
        ),
    )?;
    apply(
        c,
        ns,
        &busybox(
            "switch",
            &format!("    readinessProbe: {{exec: {{command: [test, -f, /tmp/ready]}}, {every}}}\n"),
        ),
    )?;
    ready(c, ns, "good")?;
    ensure!(container(c, ns, "good", "http")?["restartCount"] == 0, "a healthy container was restarted");
    for name in ["http", "tcp", "exec", "start"] {
        c.eventually(&format!("{name} is restarted by its probe"), 60, |c| {
            let restarts = container(c, ns, "bad", name)?["restartCount"].as_i64().unwrap_or_default();
            Ok((restarts >= 1).then_some(()))
        })?;
    }
    let told = run(c, ns, &["get", "events", "-o", "jsonpath={range .items[*]}{.reason} {.message}\n{end}"])?;
    ensure!(
        told.contains("Unhealthy Liveness probe failed: HTTP probe failed with statuscode: 404"),
        "{told}"
    );
    ensure!(told.contains("Unhealthy Startup probe failed"), "{told}");
    wait_field(c, ns, "pod/switch", ".status.phase", "Running")?;
    ensure!(container(c, ns, "switch", "main")?["ready"] == false, "it is ready without its file");
    shell(c, ns, "switch", "touch /tmp/ready")?;
    ready(c, ns, "switch")?;
    shell(c, ns, "switch", "rm /tmp/ready")?;
    wait_field(c, ns, "pod/switch", ".status.containerStatuses[0].ready", "false")?;
    ensure!(container(c, ns, "switch", "main")?["restartCount"] == 0, "unready is no reason to restart");
    Ok(())
}

fn limits(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        &pod(
            "greedy",
            "  restartPolicy: Never\n  containers:\n  - name: main\n    image: keelson.local/busybox:1\n    \
         command: [sh, -c, 'dd if=/dev/zero of=/dev/null bs=200M count=5']\n    \
         resources: {limits: {memory: 32Mi}}\n",
        ),
    )?;
    apply(
        c,
        ns,
        &busybox(
            "held",
            "    resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 250m, memory: 64Mi}}\n",
        ),
    )?;
    c.eventually("a container over its memory limit is killed", 60, |c| {
        let status = container(c, ns, "greedy", "main")?;
        let ended = &status["state"]["terminated"];
        ensure!(ended["reason"] == "OOMKilled" && ended["exitCode"] == 137, "{status}");
        Ok(Some(()))
    })?;
    ready(c, ns, "held")?;
    let v2 = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max";
    let v1 = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us";
    let said = shell(c, ns, "held", &format!("{v2} 2>/dev/null || {v1}"))?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines.len() == 2 && lines[0] == "67108864" && lines[1].starts_with("25000"), "{said}");
    ensure!(field(c, ns, "pod/held", ".status.qosClass")? == "Burstable", "its class");
    apply(
        c,
        ns,
        &pod(
            "huge",
            "  containers:\n  - name: main\n    image: keelson.local/busybox:1\n    resources: {requests: {memory: 500Ti}}\n",
        ),
    )?;
    c.eventually("a pod that fits nowhere waits and says why", 30, |c| {
        let why = field(c, ns, "pod/huge", ".status.conditions[?(@.type==\"PodScheduled\")].message")?;
        ensure!(why.contains("Insufficient memory"), "{why}");
        Ok(Some(()))
    })
}

fn init_containers(c: &Cluster, ns: &str) -> Result<()> {
    let step = |n: i32| {
        format!(
            "  - {{name: step{n}, image: 'keelson.local/busybox:1', command: [sh, -c, 'echo {n} >> /scratch/order'], volumeMounts: [{{name: scratch, mountPath: /scratch}}]}}\n"
        )
    };
    let mut spec = String::from(
        "  volumes: [{name: scratch, emptyDir: {}}]\n  terminationGracePeriodSeconds: 1\n  initContainers:\n",
    );
    for n in 1..=3 {
        write!(spec, "{}", step(n))?;
    }
    spec += "  containers:\n  - {name: main, image: 'keelson.local/busybox:1', command: [sleep, '600'], volumeMounts: [{name: scratch, mountPath: /scratch}]}\n";
    apply(c, ns, &pod("ordered", &spec))?;
    apply(
        c,
        ns,
        &pod(
            "failing",
            "  restartPolicy: Never\n  initContainers:\n  - {name: step, image: 'keelson.local/busybox:1', command: [sh, -c, 'exit 3']}\n  \
         containers:\n  - {name: main, image: 'keelson.local/busybox:1', command: [sleep, '600']}\n",
        ),
    )?;
    ready(c, ns, "ordered")?;
    ensure!(shell(c, ns, "ordered", "cat /scratch/order")? == "1\n2\n3", "the order");
    let done = container(c, ns, "ordered", "step1")?;
    ensure!(done["state"]["terminated"]["reason"] == "Completed" && done["ready"] == true, "{done}");
    wait_field(c, ns, "pod/failing", ".status.phase", "Failed")?;
    ensure!(container(c, ns, "failing", "step")?["state"]["terminated"]["exitCode"] == 3, "its exit code");
    let main = container(c, ns, "failing", "main")?;
    ensure!(main["state"].get("running").is_none() && main["restartCount"] == 0, "{main}");
    let told = run(c, ns, &["get", "pod", "failing"])?;
    ensure!(told.contains("Init:Error"), "{told}");
    Ok(())
}

fn sidecars(c: &Cluster, ns: &str) -> Result<()> {
    let shared = "volumeMounts: [{name: scratch, mountPath: /scratch}]";
    let image = "image: 'keelson.local/busybox:1'";
    apply(
        c,
        ns,
        &pod(
            "pair",
            &format!(
                "  restartPolicy: Never\n  volumes: [{{name: scratch, emptyDir: {{}}}}]\n  initContainers:\n  \
         - {{name: side, {image}, restartPolicy: Always, command: [sh, -c, 'touch /scratch/side; trap exit TERM; while true; do sleep 1; done'], {shared}, \
         startupProbe: {{exec: {{command: [test, -f, /scratch/side]}}, periodSeconds: 1}}}}\n  \
         containers:\n  - {{name: main, {image}, command: [sh, -c, 'test -f /scratch/side && sleep 2'], {shared}}}\n"
            ),
        ),
    )?;
    wait_field(c, ns, "pod/pair", ".status.phase", "Succeeded")?;
    let side = container(c, ns, "pair", "side")?;
    ensure!(side["started"].is_boolean() && side["state"]["terminated"].is_object(), "{side}");
    Ok(())
}

fn hooks(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        &pod(
            "hooked",
            "  terminationGracePeriodSeconds: 10\n  containers:\n  - name: main\n    image: keelson.local/busybox:1\n    \
         command: [sh, -c, 'trap \"echo got TERM; exit\" TERM; while true; do sleep 1; done']\n    \
         lifecycle:\n      postStart: {exec: {command: [sh, -c, 'echo started > /tmp/hook']}}\n      \
         preStop: {exec: {command: [sh, -c, 'echo told to stop > /proc/1/fd/1']}}\n",
        ),
    )?;
    apply(
        c,
        ns,
        &pod(
            "unstarted",
            "  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: keelson.local/busybox:1\n    \
         command: [sleep, '600']\n    lifecycle: {postStart: {exec: {command: ['false']}}}\n",
        ),
    )?;
    ready(c, ns, "hooked")?;
    ensure!(shell(c, ns, "hooked", "cat /tmp/hook")? == "started", "the hook after the start");
    let mut log = c.kubectl_background(ns, &["logs", "-f", "hooked"], false)?;
    run(c, ns, &["delete", "pod", "hooked", "--wait=false"])?;
    log.line("told to stop", 20)?;
    log.line("got TERM", 20)?;
    c.eventually("the pod is gone", 30, |c| {
        Ok(run(c, ns, &["get", "pod", "hooked"]).is_err().then_some(()))
    })?;
    c.eventually("a failed hook ends its container", 30, |c| {
        let told = run(c, ns, &["get", "events", "-o", "jsonpath={.items[*].reason}"])?;
        Ok(told.contains("FailedPostStartHook").then_some(()))
    })
}

fn grace(c: &Cluster, ns: &str) -> Result<()> {
    let deaf = |name: &str, seconds: u32| {
        pod(
            name,
            &format!(
                "  terminationGracePeriodSeconds: {seconds}\n  containers:\n  - name: main\n    image: keelson.local/busybox:1\n    \
             command: [sh, -c, 'trap \"\" TERM; while true; do sleep 1; done']\n"
            ),
        )
    };
    apply(c, ns, &deaf("short", 1))?;
    apply(c, ns, &deaf("long", 600))?;
    ready(c, ns, "short")?;
    ready(c, ns, "long")?;
    run(c, ns, &["delete", "pod", "short", "--wait=false"])?;
    run(c, ns, &["delete", "pod", "long", "--wait=false"])?;
    c.eventually("who does not hear is killed after its grace", 30, |c| {
        Ok(run(c, ns, &["get", "pod", "short"]).is_err().then_some(()))
    })?;
    let told = run(c, ns, &["get", "pod", "long"])?;
    ensure!(told.contains("Terminating"), "{told}");
    run(c, ns, &["delete", "pod", "long", "--force", "--grace-period=0"])?;
    ensure!(run(c, ns, &["get", "pod", "long"]).is_err(), "forced means at once");
    Ok(())
}

fn restarts_all(c: &Cluster, ns: &str) -> Result<()> {
    let shared = "volumeMounts: [{name: d, mountPath: /d}]";
    let image = "image: 'keelson.local/busybox:1'";
    let rule = "[{action: RestartAllContainers, exitCodes: {operator: In, values: [7]}}]";
    // The first time it ends with 7.
    let main = "test $(wc -l < /d/n) -gt 1 || exit 7; trap exit TERM; while true; do sleep 1; done";
    apply(
        c,
        ns,
        &pod(
            "anew",
            &format!(
                "  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  volumes: [{{name: d, emptyDir: {{}}}}]\n  \
                 initContainers:\n  - {{name: first, {image}, command: [sh, -c, 'echo x >> /d/n'], {shared}}}\n  \
                 containers:\n  - {{name: main, {image}, command: [sh, -c, '{main}'], {shared}, restartPolicy: Never, \
                 restartPolicyRules: {rule}}}\n  - {{name: other, {image}, command: [sh, -c, 'sleep 1000'], {shared}}}\n"
            ),
        ),
    )?;
    // The first time it may be ready, too, before the kubelet hears that it has ended.
    for name in ["main", "other"] {
        c.eventually(&format!("{name} starts anew"), 60, |c| {
            let status = container(c, ns, "anew", name)?;
            ensure!(status["restartCount"] == 1, "{status}");
            ensure!(status["lastState"]["terminated"]["reason"] == "RestartingAllContainers", "{status}");
            Ok(Some(()))
        })?;
    }
    ready(c, ns, "anew")?;
    let condition = ".status.conditions[?(@.type==\"AllContainersRestarting\")].status";
    wait_field(c, ns, "pod/anew", condition, "False")?;
    ensure!(run(c, ns, &["exec", "anew", "-c", "main", "--", "cat", "/d/n"])?.lines().count() == 2, "twice");
    Ok(())
}

fn restarts(c: &Cluster, ns: &str) -> Result<()> {
    let ends = |name: &str, policy: &str, code: i32| {
        pod(
            name,
            &format!(
                "  restartPolicy: {policy}\n  containers:\n  - name: main\n    image: keelson.local/busybox:1\n    \
             command: [sh, -c, 'echo last words > /dev/termination-log; exit {code}']\n"
            ),
        )
    };
    for (name, policy, code) in [
        ("never-good", "Never", 0),
        ("never-bad", "Never", 7),
        ("onfailure-good", "OnFailure", 0),
        ("onfailure-bad", "OnFailure", 7),
        ("always", "Always", 0),
    ] {
        apply(c, ns, &ends(name, policy, code))?;
    }
    wait_field(c, ns, "pod/never-good", ".status.phase", "Succeeded")?;
    wait_field(c, ns, "pod/never-bad", ".status.phase", "Failed")?;
    wait_field(c, ns, "pod/onfailure-good", ".status.phase", "Succeeded")?;
    let ended = container(c, ns, "never-bad", "main")?;
    ensure!(ended["state"]["terminated"]["exitCode"] == 7 && ended["restartCount"] == 0, "{ended}");
    ensure!(ended["state"]["terminated"]["message"] == "last words\n", "{ended}");
    for name in ["onfailure-bad", "always"] {
        c.eventually(&format!("{name} is restarted and then held back"), 60, |c| {
            let status = container(c, ns, name, "main")?;
            ensure!(status["restartCount"].as_i64().is_some_and(|n| n >= 1), "{status}");
            ensure!(status["state"]["waiting"]["reason"] == "CrashLoopBackOff", "{status}");
            ensure!(status["lastState"]["terminated"].is_object(), "{status}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

fn downward(c: &Cluster, ns: &str) -> Result<()> {
    let spec = "  serviceAccountName: default\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: keelson.local/busybox:1\n    \
        command: [sleep, '600']\n    resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 500m, memory: 64Mi}}\n    env:\n    \
        - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}\n    \
        - {name: NS, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}\n    \
        - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}\n    \
        - {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}\n    \
        - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}\n    \
        - {name: JOINED, value: '$(NS)/$(POD) $$(NS) $(NOBODY)'}\n    \
        volumeMounts: [{name: about, mountPath: /about}, {name: token, mountPath: /token}]\n  volumes:\n  \
        - name: about\n    downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: cpu, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}}]}\n  \
        - name: token\n    projected: {sources: [{serviceAccountToken: {path: vault, audience: vault, expirationSeconds: 3600}}]}\n";
    apply(c, ns, &pod("self", spec))?;
    ready(c, ns, "self")?;
    let said = shell(
        c,
        ns,
        "self",
        "echo $POD $NS $IP $HOST $MEMORY; echo \"$JOINED\"; cat /about/cpu; echo; cat /about/labels",
    )?;
    let (ip, host) =
        (field(c, ns, "pod/self", ".status.podIP")?, field(c, ns, "pod/self", ".status.hostIP")?);
    let want = format!("self {ns} {ip} {host} 64\n{ns}/self $(NS) $(NOBODY)\n500\napp=\"self\"");
    ensure!(said == want, "{said}\nis not\n{want}");
    let services = shell(c, ns, "self", "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT; hostname")?;
    let address = field(c, "default", "service/kubernetes", ".spec.clusterIP")?;
    ensure!(services == format!("{address}:443\nself"), "{services}");
    let token = shell(c, ns, "self", "cat /token/vault")?;
    let review = format!(
        "{{\"apiVersion\":\"authentication.k8s.io/v1\",\"kind\":\"TokenReview\",\"spec\":{{\"token\":\"{token}\",\"audiences\":[\"vault\"]}}}}"
    );
    let told = c.kubectl_with(
        &["create", "-f", "-", "-o", "jsonpath={.status.user.username} {.status.user.extra}"],
        &review,
    )?;
    ensure!(told.starts_with(&format!("system:serviceaccount:{ns}:default ")), "{told}");
    ensure!(told.contains("pod-name") && told.contains("self"), "bound to the pod: {told}");
    let place =
        shell(c, ns, "self", "cd /var/run/secrets/kubernetes.io/serviceaccount && ls && cat namespace")?;
    ensure!(place == format!("ca.crt\nnamespace\ntoken\n{ns}"), "{place}");
    // Labels in a volume follow.
    run(c, ns, &["label", "pod", "self", "colour=red"])?;
    c.eventually("the labels' file follows", 120, |c| {
        Ok(shell(c, ns, "self", "cat /about/labels")?.contains("colour=\"red\"").then_some(()))
    })
}

/// A pod that speaks to the API by its name, over TLS checked by the mounted authority, with the mounted token. The
/// shell's image has no client for that, so the web server's speaks for it.
const API_CLIENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  serviceAccountName: reader
  terminationGracePeriodSeconds: 1
  volumes: [{name: scratch, emptyDir: {}}]
  initContainers:
  - name: configure
    image: keelson.local/busybox:1
    volumeMounts: [{name: scratch, mountPath: /scratch}]
    command:
    - sh
    - -c
    - |
      mounted=/var/run/secrets/kubernetes.io/serviceaccount
      cat > /scratch/nginx.conf <<END
      user root;
      pid /scratch/nginx.pid;
      error_log stderr;
      events {}
      http {
        access_log off;
        server {
          listen 127.0.0.1:8001;
          location / {
            proxy_pass https://kubernetes.default.svc;
            proxy_ssl_trusted_certificate $mounted/ca.crt;
            proxy_ssl_verify on;
            proxy_set_header Authorization "Bearer $(cat $mounted/token)";
          }
        }
      }
      END
  containers:
  - name: client
    image: keelson.local/busybox:1
    command: [sleep, '600']
  - name: api
    image: keelson.local/web:1
    command: [/usr/sbin/nginx, -g, 'daemon off;', -c, /scratch/nginx.conf]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
"#;

fn in_cluster(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "serviceaccount", "reader"])?;
    run(c, ns, &["create", "role", "reader", "--verb=get,list", "--resource=configmaps"])?;
    run(
        c,
        ns,
        &["create", "rolebinding", "reader", "--role=reader", &format!("--serviceaccount={ns}:reader")],
    )?;
    run(c, ns, &["create", "configmap", "open", "--from-literal=word=sesame"])?;
    apply(c, ns, API_CLIENT)?;
    ready(c, ns, "client")?;
    let address = field(c, "default", "service/kubernetes", ".spec.clusterIP")?;
    let found = shell(c, ns, "client", "nslookup kubernetes.default.svc.cluster.local 2>&1")?;
    ensure!(found.contains(&address), "{found}");
    let ask = |options: &str, path: &str| {
        shell(c, ns, "client", &format!("wget -q -O - {options} http://127.0.0.1:8001{path} 2>&1"))
    };
    let json = "--header 'Content-Type: application/json'";
    let review = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
    let said =
        ask(&format!("{json} --post-data '{review}'"), "/apis/authentication.k8s.io/v1/selfsubjectreviews")?;
    ensure!(said.contains(&format!("\"system:serviceaccount:{ns}:reader\"")), "{said}");
    let said = ask("", &format!("/api/v1/namespaces/{ns}/configmaps/open"))?;
    ensure!(said.contains("sesame"), "{said}");
    let refused = ask("", &format!("/api/v1/namespaces/{ns}/secrets"));
    let said = format!("{:#}", refused.err().context("the reader reads secrets")?);
    ensure!(said.contains("403 Forbidden"), "{said}");
    Ok(())
}

fn volumes(c: &Cluster, ns: &str) -> Result<()> {
    let host = c.folder().join("host");
    fs::create_dir_all(&host)?;
    fs::write(host.join("hello"), "from the host\n")?;
    run(c, ns, &["create", "configmap", "files", "--from-literal=one=1", "--from-literal=two=2"])?;
    let spec = format!(
        "  terminationGracePeriodSeconds: 1\n  volumes:\n  - {{name: shared, emptyDir: {{}}}}\n  - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 8Mi}}}}\n  \
         - {{name: host, hostPath: {{path: {}, type: Directory}}}}\n  - {{name: files, configMap: {{name: files, defaultMode: 0400, items: [{{key: one, path: deep/uno}}]}}}}\n  \
         containers:\n  - name: main\n    image: keelson.local/busybox:1\n    command: [sh, -c, 'trap exit TERM; while true; do sleep 1; done']\n    volumeMounts:\n    \
         - {{name: shared, mountPath: /shared}}\n    - {{name: memory, mountPath: /memory}}\n    - {{name: host, mountPath: /host}}\n    \
         - {{name: files, mountPath: /files, readOnly: true}}\n    - {{name: shared, mountPath: /part, subPath: sub/dir}}\n  \
         - name: other\n    image: keelson.local/busybox:1\n    command: [sleep, '600']\n    volumeMounts:\n    - {{name: shared, mountPath: /there, readOnly: true}}\n",
        host.display()
    );
    apply(c, ns, &pod("full", &spec))?;
    ready(c, ns, "full")?;
    shell(c, ns, "full", "echo hello > /shared/word; echo part > /part/word; echo back > /host/answer")?;
    let there =
        run(c, ns, &["exec", "full", "-c", "other", "--", "cat", "/there/word", "/there/sub/dir/word"])?;
    ensure!(there == "hello\npart\n", "{there}");
    let refused = run(c, ns, &["exec", "full", "-c", "other", "--", "touch", "/there/no"]);
    ensure!(refused.is_err_and(|e| e.to_string().contains("Read-only file system")), "it could be written");
    ensure!(fs::read_to_string(host.join("answer"))? == "back\n", "the host sees it");
    ensure!(shell(c, ns, "full", "cat /host/hello")? == "from the host", "the pod sees it");
    ensure!(shell(c, ns, "full", "grep ' /memory ' /proc/mounts")?.starts_with("tmpfs"), "memory is memory");
    ensure!(
        shell(c, ns, "full", "cat /files/deep/uno; stat -L -c %a /files/deep/uno; ls /files")?
            == "1400\ndeep",
        "the files"
    );
    // What containers wrote stays over a restart of one.
    shell(c, ns, "full", "kill 1")?;
    wait_field(c, ns, "pod/full", ".status.containerStatuses[?(@.name=='main')].restartCount", "1")?;
    ready(c, ns, "full")?;
    ensure!(shell(c, ns, "full", "cat /shared/word /part/word")? == "hello\npart", "it stayed");
    Ok(())
}

fn security(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        &pod(
            "user",
            "  terminationGracePeriodSeconds: 1\n  securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000, supplementalGroups: [4000]}\n  \
         volumes: [{name: scratch, emptyDir: {}}]\n  containers:\n  - name: main\n    image: keelson.local/busybox:1\n    command: [sleep, '600']\n    \
         securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\n    \
         volumeMounts: [{name: scratch, mountPath: /scratch}]\n",
        ),
    )?;
    apply(
        c,
        ns,
        &pod(
            "root",
            "  restartPolicy: Never\n  containers:\n  - name: main\n    image: keelson.local/busybox:1\n    securityContext: {runAsNonRoot: true}\n",
        ),
    )?;
    ready(c, ns, "user")?;
    let said = shell(
        c,
        ns,
        "user",
        "id -u; id -g; id -G; touch /scratch/a && stat -c %g /scratch/a; grep -E 'CapEff|NoNewPrivs' /proc/self/status",
    )?;
    ensure!(said.starts_with("1000\n2000\n2000 "), "{said}");
    for part in ["3000", "4000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    ensure!(shell(c, ns, "user", "touch /a").is_err(), "the root could be written");
    c.eventually("an image that runs as root is refused where it may not", 30, |c| {
        let status = container(c, ns, "root", "main")?;
        ensure!(status["state"]["waiting"]["reason"] == "CreateContainerConfigError", "{status}");
        Ok(Some(()))
    })
}

fn projected(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "configmap", "settings", "--from-literal=colour=blue"])?;
    run(c, ns, &["create", "secret", "generic", "password", "--from-literal=word=sesame"])?;
    let more = "    envFrom: [{configMapRef: {name: settings}, prefix: S_}, {secretRef: {name: nobody, optional: true}}]\n    \
        volumeMounts: [{name: all, mountPath: /all}, {name: secret, mountPath: /secret}, {name: perhaps, mountPath: /perhaps}]\n  volumes:\n  \
        - name: all\n    projected: {sources: [{configMap: {name: settings}}, {secret: {name: password, items: [{key: word, path: the/word}]}}]}\n  \
        - name: secret\n    secret: {secretName: password}\n  - name: perhaps\n    configMap: {name: nobody, optional: true}\n";
    apply(c, ns, &busybox("reader", more))?;
    ready(c, ns, "reader")?;
    let said = shell(
        c,
        ns,
        "reader",
        "echo $S_colour; cat /all/colour; echo; cat /all/the/word; echo; cat /secret/word; ls /perhaps; grep ' /secret ' /proc/mounts | cut -d' ' -f1",
    )?;
    ensure!(said == "blue\nblue\nsesame\nsesametmpfs", "{said}");
    run(c, ns, &["patch", "secret", "password", "-p", r#"{"stringData":{"word":"mellon","new":"one"}}"#])?;
    run(c, ns, &["create", "configmap", "nobody", "--from-literal=late=1"])?;
    c.eventually("the files follow, and only whole", 120, |c| {
        let now = shell(
            c,
            ns,
            "reader",
            "cat /secret/word; echo; cat /secret/new; echo; cat /all/the/word; echo; ls /perhaps",
        )?;
        ensure!(now == "mellon\none\nmellon\nlate", "{now}");
        Ok(Some(()))
    })
}

fn broken(c: &Cluster, ns: &str) -> Result<()> {
    let main = "  containers:\n  - {name: main, image: 'keelson.local/busybox:1'";
    apply(
        c,
        ns,
        &pod(
            "no-config",
            &format!(
                "{main}, env: [{{name: A, valueFrom: {{configMapKeyRef: {{name: missing, key: a}}}}}}]}}\n"
            ),
        ),
    )?;
    apply(
        c,
        ns,
        &pod("no-volume", &format!("{main}}}\n  volumes: [{{name: v, secret: {{secretName: missing}}}}]\n")),
    )?;
    apply(
        c,
        ns,
        &pod(
            "no-image",
            "  containers:\n  - {name: main, image: 'keelson.local/missing:1', imagePullPolicy: Never}\n",
        ),
    )?;
    apply(c, ns, &pod("no-program", &format!("{main}, command: [/no/such/program]}}\n")))?;
    for (name, reason) in [("no-config", "CreateContainerConfigError"), ("no-image", "ErrImageNeverPull")] {
        c.eventually(&format!("{name} says {reason}"), 30, |c| {
            let status = container(c, ns, name, "main")?;
            ensure!(status["state"]["waiting"]["reason"] == reason, "{status}");
            Ok(Some(()))
        })?;
    }
    c.eventually("no-program cannot start", 30, |c| {
        let status = container(c, ns, "no-program", "main")?.to_string();
        ensure!(status.contains("StartError") || status.contains("RunContainerError"), "{status}");
        Ok(Some(()))
    })?;
    c.eventually("a volume that is not there is told", 60, |c| {
        let told =
            run(c, ns, &["get", "events", "-o", "jsonpath={range .items[*]}{.reason} {.message}\n{end}"])?;
        ensure!(told.contains("FailedMount") && told.contains("secret \"missing\" not found"), "{told}");
        Ok(Some(()))
    })?;
    // What was missing comes, and the pod goes on by itself.
    run(c, ns, &["create", "configmap", "missing", "--from-literal=a=b"])?;
    c.eventually("the container starts once its config map is there", 60, |c| {
        Ok(container(c, ns, "no-config", "main")?["state"]
            .get("waiting")
            .is_none_or(|w| w["reason"] == "CrashLoopBackOff")
            .then_some(()))
    })
}

fn leftovers(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "configmap", "source", "--from-literal=key=value"])?;
    let volume =
        "    volumeMounts: [{name: v, mountPath: /v}]\n  volumes: [{name: v, configMap: {name: source}}]\n";
    apply(c, ns, &busybox("left", volume))?;
    ready(c, ns, "left")?;
    run(c, ns, &["delete", "configmap", "source"])?;
    shell(c, ns, "left", "kill 1")?;
    wait_field(c, ns, "pod/left", ".status.containerStatuses[0].restartCount", "1")?;
    ready(c, ns, "left")?;
    ensure!(shell(c, ns, "left", "cat /v/key")? == "value", "the volume is what it was");
    // A process that the runtime knows nothing of, in the pod's cgroup.
    let controller = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "" } else { "memory" };
    let container = cgroup_folder(c, ns, "left", controller)?;
    let of_pod = container.parent().context("a container's cgroup is within its pod's")?;
    let strange = of_pod.join("strange");
    fs::create_dir(&strange)?;
    let mut process = Command::new("sleep").arg("600").spawn()?;
    fs::write(strange.join("cgroup.procs"), process.id().to_string())?;
    run(c, ns, &["delete", "pod", "left"])?;
    let gone = c.eventually("the pod's cgroup is gone", 60, |_| Ok((!of_pod.exists()).then_some(())));
    let lives = process.try_wait()?.is_none();
    if lives {
        process.kill()?;
        process.wait()?;
    }
    gone?;
    ensure!(!lives, "the process lives on");
    Ok(())
}

fn grpc(c: &Cluster, ns: &str) -> Result<()> {
    // etcd answers the protocol of gRPC's health checks; the host has it.
    let etcd =
        ["/usr/bin/etcd", "/usr/local/bin/etcd"].iter().find(|p| Path::new(p).exists()).context("etcd")?;
    let server = |name: &str, service: &str| {
        pod(
            name,
            &format!(
                "  terminationGracePeriodSeconds: 1\n  volumes: [{{name: etcd, hostPath: {{path: {etcd}, type: File}}}}]\n  containers:\n  - name: main\n    \
                 image: keelson.local/busybox:1\n    command: [/etcd, '--data-dir=/tmp/data', '--listen-client-urls=http://0.0.0.0:2379', '--advertise-client-urls=http://127.0.0.1:2379']\n    \
                 volumeMounts: [{{name: etcd, mountPath: /etcd}}]\n    readinessProbe: {{grpc: {{port: 2379}}, periodSeconds: 1}}\n    \
                 startupProbe: {{grpc: {{port: 2379}}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 60}}\n    \
                 livenessProbe: {{grpc: {{port: 2379{service}}}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 2}}\n"
            ),
        )
    };
    apply(c, ns, &server("good", ""))?;
    apply(c, ns, &server("bad", ", service: nobody"))?;
    ready(c, ns, "good")?;
    c.eventually("a service nobody serves is dead", 60, |c| {
        let status = container(c, ns, "bad", "main")?;
        Ok(status["restartCount"].as_i64().is_some_and(|n| n >= 1).then_some(()))
    })?;
    let told = run(c, ns, &["get", "events", "-o", "jsonpath={range .items[*]}{.reason} {.message}\n{end}"])?;
    ensure!(told.contains("Unhealthy Liveness probe failed"), "{told}");
    ensure!(container(c, ns, "good", "main")?["restartCount"] == 0, "the good one was restarted");
    Ok(())
}

fn other_hooks(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        &busybox("listener", "").replace(
            "trap exit TERM; while true; do sleep 1; done",
            "mkdir /www; echo hi > /www/hook; exec httpd -f -v -h /www -p 8080",
        ),
    )?;
    ready(c, ns, "listener")?;
    let address = field(c, ns, "pod/listener", ".status.podIP")?;
    let spec = format!(
        "  terminationGracePeriodSeconds: 20\n  containers:\n  - name: main\n    image: keelson.local/web:1\n    ports: [{{name: pages, containerPort: 80}}]\n    \
         readinessProbe: {{httpGet: {{path: /, port: pages, httpHeaders: [{{name: X-Asked-By, value: kubelet}}]}}, periodSeconds: 1}}\n    \
         livenessProbe: {{tcpSocket: {{port: pages}}, periodSeconds: 1}}\n    lifecycle:\n      \
         postStart: {{httpGet: {{host: {address}, port: 8080, path: /hook}}}}\n      preStop: {{sleep: {{seconds: 3}}}}\n"
    );
    apply(c, ns, &pod("hooked", &spec))?;
    ready(c, ns, "hooked")?;
    c.eventually("the hook asked the listener", 20, |c| {
        let said = run(c, ns, &["logs", "listener"])?;
        ensure!(said.contains("/hook") || said.contains("200"), "{said}");
        Ok(Some(()))
    })?;
    let uid = field(c, ns, "pod/hooked", ".metadata.uid")?;
    run(c, ns, &["delete", "pod", "hooked", "--wait=false"])?;
    let told = run(c, ns, &["get", "pod", "hooked"])?;
    ensure!(told.contains("Terminating"), "it sleeps before it ends: {told}");
    let there = |c: &Cluster| {
        Ok::<_, anyhow::Error>(field(c, ns, "pod/hooked", ".metadata.uid").is_ok_and(|u| u == uid))
    };
    c.eventually("and then is gone", 20, |c| Ok((!there(c)?).then_some(())))
}

fn deadline(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        &pod(
            "late",
            "  activeDeadlineSeconds: 3\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {name: main, image: 'keelson.local/busybox:1', command: [sleep, '600']}\n",
        ),
    )?;
    apply(
        c,
        ns,
        &pod(
            "talker",
            "  restartPolicy: Never\n  containers:\n  - {name: main, image: 'keelson.local/busybox:1', command: [sh, -c, 'echo what went wrong; exit 1'], terminationMessagePolicy: FallbackToLogsOnError}\n  \
             - {name: other, image: 'keelson.local/busybox:1', command: [sh, -c, 'echo -n kept > /tmp/words'], terminationMessagePath: /tmp/words}\n",
        ),
    )?;
    wait_field(c, ns, "pod/late", ".status.phase", "Failed")?;
    ensure!(field(c, ns, "pod/late", ".status.reason")? == "DeadlineExceeded", "its reason");
    wait_field(c, ns, "pod/talker", ".status.phase", "Failed")?;
    let main = container(c, ns, "talker", "main")?;
    ensure!(main["state"]["terminated"]["message"] == "what went wrong\n", "{main}");
    let other = container(c, ns, "talker", "other")?;
    ensure!(other["state"]["terminated"]["message"] == "kept", "{other}");
    Ok(())
}

fn sharing(c: &Cluster, ns: &str) -> Result<()> {
    let two = "  - {name: side, image: 'keelson.local/busybox:1', command: [sleep, '601']}\n";
    apply(
        c,
        ns,
        &busybox(
            "shared",
            &format!(
                "{two}  shareProcessNamespace: true\n  hostname: own-name\n  hostAliases: [{{ip: 192.0.2.7, hostnames: [alias.example.test]}}]\n  \
         dnsPolicy: None\n  dnsConfig: {{nameservers: [192.0.2.53], searches: [example.test], options: [{{name: ndots, value: '2'}}]}}\n"
            ),
        ),
    )?;
    apply(c, ns, &busybox("apart", two))?;
    apply(
        c,
        ns,
        &busybox("hosts", "  hostPID: true\n  hostNetwork: true\n  dnsPolicy: ClusterFirstWithHostNet\n"),
    )?;
    for name in ["shared", "apart", "hosts"] {
        ready(c, ns, name)?;
    }
    ensure!(shell(c, ns, "shared", "ps")?.contains("sleep 601"), "processes are shared");
    ensure!(!shell(c, ns, "apart", "ps")?.contains("sleep 601"), "processes are not shared");
    ensure!(shell(c, ns, "shared", "hostname")? == "own-name", "its name");
    let files = shell(c, ns, "shared", "cat /etc/resolv.conf /etc/hosts")?;
    for part in
        ["nameserver 192.0.2.53", "search example.test", "options ndots:2", "192.0.2.7\talias.example.test"]
    {
        ensure!(files.contains(part), "no {part:?} in {files}");
    }
    ensure!(shell(c, ns, "hosts", "ps")?.contains("containerd"), "the host's processes");
    let (own, host) =
        (field(c, ns, "pod/hosts", ".status.podIP")?, field(c, ns, "pod/hosts", ".status.hostIP")?);
    ensure!(own == host, "{own} is not the host's {host}");
    ensure!(
        shell(c, ns, "hosts", "cat /etc/resolv.conf")?.contains(&format!("search {ns}.svc.cluster.local")),
        "the cluster's names"
    );
    Ok(())
}

fn gates(c: &Cluster, ns: &str) -> Result<()> {
    apply(c, ns, &busybox("gated", "  readinessGates: [{conditionType: example.test/open}]\n"))?;
    let status =
        |kind: &str| field(c, ns, "pod/gated", &format!(".status.conditions[?(@.type==\"{kind}\")].status"));
    c.eventually("its containers are ready", 30, |_| {
        Ok((status("ContainersReady")? == "True").then_some(()))
    })?;
    ensure!(status("Ready")? == "False", "the gate was passed");
    let say = |word: &str| {
        let patch =
            format!(r#"{{"status":{{"conditions":[{{"type":"example.test/open","status":"{word}"}}]}}}}"#);
        run(c, ns, &["patch", "pod", "gated", "--subresource=status", "-p", &patch])
    };
    say("True")?;
    ready(c, ns, "gated")?;
    say("False")?;
    c.eventually("it is not ready any more", 30, |_| Ok((status("Ready")? == "False").then_some(())))
}

fn static_pods(c: &Cluster, ns: &str) -> Result<()> {
    let node = c.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let file = c.state().join("nodes").join(&node).join("manifests").join(format!("{ns}.yaml"));
    let text = busybox("still", "").replace("{name: still", &format!("{{namespace: {ns}, name: still"));
    fs::write(&file, &text)?;
    let name = format!("still-{node}");
    let outcome = (|| {
        c.eventually("a mirror of it is in the API", 60, |c| {
            Ok(run(c, ns, &["get", "pod", &name]).is_ok().then_some(()))
        })?;
        ready(c, ns, &name)?;
        ensure!(shell(c, ns, &name, "echo here")? == "here", "exec");
        let uid = field(c, ns, &format!("pod/{name}"), ".metadata.uid")?;
        let container = field(c, ns, &format!("pod/{name}"), ".status.containerStatuses[0].containerID")?;
        run(c, ns, &["delete", "pod", &name, "--wait=false"])?;
        c.eventually("a deleted mirror comes back, its container never left", 60, |c| {
            let now = field(c, ns, &format!("pod/{name}"), ".metadata.uid")?;
            let same = field(c, ns, &format!("pod/{name}"), ".status.containerStatuses[0].containerID")?;
            Ok((now != uid && same == container).then_some(()))
        })
    })();
    let outcome = outcome.and_then(|()| {
        // What the API would not take is not run either, and goes if it did.
        fs::write(&file, text.replace("spec:\n", "spec:\n  restartPolicy: Maybe\n"))?;
        c.eventually("the kubelet says what is wrong with a manifest", 60, |c| {
            let said = "invalid pod: spec.restartPolicy: Unsupported value: \\\"Maybe\\\"";
            let log = c.log("kubelet")?;
            Ok((log.contains(said) || log.contains(&said.replace('\\', ""))).then_some(()))
        })
    });
    fs::remove_file(&file)?;
    outcome?;
    c.eventually("without its manifest it goes", 60, |c| {
        Ok(run(c, ns, &["get", "pod", &name]).is_err().then_some(()))
    })
}

fn resize(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        &busybox(
            "grown",
            "    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}\n",
        ),
    )?;
    ready(c, ns, "grown")?;
    let patch = r#"{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"150m"},"limits":{"cpu":"300m","memory":"96Mi"}}}]}}"#;
    run(c, ns, &["patch", "pod", "grown", "--subresource=resize", "-p", patch])?;
    let v2 = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max";
    let v1 = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us";
    c.eventually("the new limits hold", 60, |c| {
        let said = shell(c, ns, "grown", &format!("{v2} 2>/dev/null || {v1}"))?;
        ensure!(said.starts_with("100663296\n30000"), "{said}");
        Ok(Some(()))
    })?;
    let status = container(c, ns, "grown", "main")?;
    ensure!(status["restartCount"] == 0, "it was restarted: {status}");
    wait_field(c, ns, "pod/grown", ".status.containerStatuses[0].resources.limits.cpu", "300m")
}

fn more_volumes(c: &Cluster, ns: &str) -> Result<()> {
    let path = c.folder().join(format!("{ns}-claimed"));
    apply(
        c,
        ns,
        &format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {ns}}}\nspec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], storageClassName: {ns}, hostPath: {{path: {}, type: DirectoryOrCreate}}}}\n---\n\
             apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: data}}\nspec: {{accessModes: [ReadWriteOnce], storageClassName: {ns}, resources: {{requests: {{storage: 500Mi}}}}}}\n",
            path.display()
        ),
    )?;
    wait_field(c, ns, "pvc/data", ".status.phase", "Bound")?;
    ensure!(field(c, ns, "pvc/data", ".spec.volumeName")? == ns, "the only volume that fits");
    let more = "    env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]\n    \
         volumeMounts: [{name: data, mountPath: /data, subPathExpr: of-$(POD)}]\n  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]\n";
    apply(c, ns, &busybox("writer", more))?;
    ready(c, ns, "writer")?;
    shell(c, ns, "writer", "echo kept > /data/word")?;
    run(c, ns, &["delete", "pvc", "data", "--wait=false"])?;
    ensure!(
        field(c, ns, "pvc/data", ".metadata.finalizers[0]")? == "kubernetes.io/pvc-protection",
        "a claim in use is held"
    );
    ensure!(fs::read_to_string(path.join("of-writer/word"))? == "kept\n", "on the host");
    run(c, ns, &["delete", "pod", "writer"])?;
    c.eventually("the claim goes with its last user", 30, |c| {
        Ok(run(c, ns, &["get", "pvc", "data"]).is_err().then_some(()))
    })?;
    run(c, ns, &["delete", "pv", ns])?;
    apply(
        c,
        ns,
        &pod(
            "full",
            "  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  volumes: [{name: scratch, emptyDir: {sizeLimit: 1Mi}}]\n  containers:\n  \
             - {name: main, image: 'keelson.local/busybox:1', command: [sh, -c, 'head -c 8000000 /dev/zero > /scratch/a; sleep 600'], volumeMounts: [{name: scratch, mountPath: /scratch}]}\n",
        ),
    )?;
    c.eventually("a volume over its limit costs the pod its place", 90, |c| {
        let (phase, reason) =
            (field(c, ns, "pod/full", ".status.phase")?, field(c, ns, "pod/full", ".status.reason")?);
        ensure!(phase == "Failed" && reason == "Evicted", "{phase} {reason}");
        Ok(Some(()))
    })
}

fn whole(c: &Cluster, ns: &str) -> Result<()> {
    let amounts = "    resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {memory: 32Mi}}\n";
    apply(c, ns, &busybox("sized", amounts))?;
    apply(c, ns, &busybox("plain", ""))?;
    for pod in ["sized", "plain"] {
        ready(c, ns, pod)?;
    }
    let of = |pod| Ok::<_, anyhow::Error>(json(c, ns, pod)?["status"].clone());
    c.eventually("the status has what the cgroup has", 30, |_| {
        let status = of("sized")?;
        let requests = told!({"cpu": "50m", "memory": "16Mi"});
        ensure!(status["allocatedResources"] == requests, "{status}");
        ensure!(
            status["resources"] == told!({"requests": requests, "limits": {"memory": "32Mi"}}),
            "{status}"
        );
        Ok(Some(()))
    })?;
    let plain = of("plain")?;
    ensure!(plain.get("allocatedResources").is_none() && plain["resources"] == told!({}), "{plain}");
    let node = only_node(c)?;
    let asks = "image: 'keelson.local/busybox:1', resources: {requests: {cpu: '100000'}}";
    apply(c, ns, &pod("huge", &format!("  nodeName: {node}\n  containers:\n  - {{name: main, {asks}}}\n")))?;
    wait_field(c, ns, "pod/huge", ".status.reason", "OutOfcpu")?;
    let huge = of("huge")?;
    ensure!(huge["phase"] == "Failed" && huge.get("containerStatuses").is_none(), "{huge}");
    ensure!(huge.get("podIP").is_none() && huge.get("resources").is_none(), "{huge}");
    Ok(())
}

/// What a web server answers below `cgi-bin`.
const ANSWERS: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: answers}
data:
  elsewhere: |
    #!/bin/sh
    printf 'Status: 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n'
  around: |
    #!/bin/sh
    printf 'Status: 302 Found\r\nLocation: /cgi-bin/around\r\n\r\n'
  missing: |
    #!/bin/sh
    printf 'Status: 302 Found\r\nLocation: none\r\n\r\n'
";

fn redirects(c: &Cluster, ns: &str) -> Result<()> {
    apply(c, ns, ANSWERS)?;
    for name in ["elsewhere", "around", "missing"] {
        let probe = format!("{{httpGet: {{path: /cgi-bin/{name}, port: 8080}}, periodSeconds: 1}}");
        let spec = format!(
            "  terminationGracePeriodSeconds: 1\n  volumes: [{{name: a, configMap: {{name: answers, defaultMode: 493}}}}]\n  \
             containers:\n  - {{name: main, image: 'keelson.local/busybox:1', command: [httpd, -f, -p, '8080', -h, /www], \
             volumeMounts: [{{name: a, mountPath: /www/cgi-bin}}], readinessProbe: {probe}}}\n"
        );
        apply(c, ns, &pod(name, &spec))?;
    }
    ready(c, ns, "elsewhere")?;
    for (pod, reason, words) in [
        ("elsewhere", "ProbeWarning", "Readiness probe warning: Probe terminated redirects"),
        ("around", "Unhealthy", "stopped after 10 redirects"),
        ("missing", "Unhealthy", "HTTP probe failed with statuscode: 404"),
    ] {
        let selector = format!("involvedObject.name={pod},reason={reason}");
        c.eventually(&format!("{pod}: {reason}"), 60, |c| {
            let events = run(c, ns, &["get", "events", "--field-selector", &selector, "-o", "json"])?;
            ensure!(events.contains(words), "{events}");
            Ok(Some(()))
        })?;
    }
    for pod in ["around", "missing"] {
        ensure!(container(c, ns, pod, "main")?["ready"] == false, "{pod} leads nowhere");
    }
    let probe = "    env: [{name: WHERE, value: /tmp}]\n    readinessProbe: {exec: {command: [test, -d, $(WHERE)]}}\n";
    apply(c, ns, &busybox("variable", probe))?;
    ready(c, ns, "variable")
}
