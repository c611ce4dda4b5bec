//! Nodes: cordoned, tainted, drained and lost, alone and several.

use anyhow::{Context, Result, ensure};
use tests::{Cluster, runner::Test};

use crate::{
    apply, busybox, fails, fetches, field, http, local_port, node_address, only_node, pod_names, ready,
    resolves, run, says, shell, wait_field,
};

/// What concerns everybody on the one node.
pub(crate) const ALONE: &[Test<Cluster>] = &[
    ("a cordoned node takes no new pods", cordon),
    ("taints keep pods out, and drive out who does not tolerate them", taints),
    ("drain evicts what may go and asks before the rest", drain),
];

/// What needs two nodes and disturbs nobody.
pub(crate) const SEVERAL: &[Test<Cluster>] = &[
    ("pods of different nodes reach each other, and services from everywhere", across),
    ("traffic that stays local does", local_traffic),
    ("pods are spread over nodes as they ask", spread),
    ("kubectl reaches containers on every node", reach),
];

/// What takes one of two nodes away.
pub(crate) const LOST: &[Test<Cluster>] = &[
    ("a drained node's pods move to the other", drain_one),
    ("a node that stops reporting is tainted, its pods are evicted, and it comes back", lost),
];

/// A pod's web server on a node.
pub(crate) fn web_on(node: &str, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web, name: {name}}}}}\nspec: {{nodeSelector: {{kubernetes.io/hostname: {node}}}, \
         terminationGracePeriodSeconds: 1, containers: [{{name: web, image: 'keelson.local/web:1'}}]}}\n"
    )
}

/// The nodes that pods of a selector are on, sorted.
fn nodes_of(c: &Cluster, ns: &str, selector: &str) -> Result<Vec<String>> {
    let path = "jsonpath={.items[*].spec.nodeName}";
    let all = run(c, ns, &["get", "pods", "-l", selector, "-o", path])?;
    let mut nodes: Vec<String> = all.split_whitespace().map(str::to_owned).collect();
    nodes.sort();
    Ok(nodes)
}

fn cordon(c: &Cluster, ns: &str) -> Result<()> {
    let node = only_node(c)?;
    apply(c, ns, &busybox("before", ""))?;
    ready(c, ns, "before")?;
    ensure!(run(c, ns, &["cordon", &node])?.contains("cordoned"), "its word");
    ensure!(run(c, ns, &["get", "node", &node])?.contains("Ready,SchedulingDisabled"), "its state");
    wait_field(c, ns, &format!("node/{node}"), ".spec.taints[*].key", "node.kubernetes.io/unschedulable")?;
    apply(c, ns, &busybox("after", ""))?;
    c.eventually("a new pod waits and says why", 20, |c| {
        let why = field(c, ns, "pod/after", ".status.conditions[?(@.type==\"PodScheduled\")].message")?;
        ensure!(why.contains("node(s) were unschedulable") || why.contains("untolerated taint"), "{why}");
        Ok(Some(()))
    })?;
    ensure!(field(c, ns, "pod/before", ".status.phase")? == "Running", "who is there stays");
    run(c, ns, &["uncordon", &node])?;
    ready(c, ns, "after").context("an uncordoned node takes pods again")
}

fn taints(c: &Cluster, ns: &str) -> Result<()> {
    let node = only_node(c)?;
    let tolerant = |name: &str, effect: &str, more: &str| {
        busybox(
            name,
            &format!("  tolerations: [{{key: colour, operator: Exists, effect: {effect}{more}}}]\n"),
        )
    };
    apply(c, ns, &busybox("there", ""))?;
    ready(c, ns, "there")?;
    run(c, ns, &["taint", "node", &node, "colour=red:NoSchedule"])?;
    fails(
        c,
        ns,
        &["taint", "node", &node, "colour=red:NoSchedule"],
        "already has colour taint(s) with same effect(s)",
    )?;
    apply(c, ns, &busybox("kept-out", ""))?;
    apply(c, ns, &tolerant("let-in", "NoSchedule", ""))?;
    ready(c, ns, "let-in")?;
    c.eventually("who does not tolerate the taint waits", 20, |c| {
        let why = field(c, ns, "pod/kept-out", ".status.conditions[?(@.type==\"PodScheduled\")].message")?;
        ensure!(why.contains("untolerated taint"), "{why}");
        Ok(Some(()))
    })?;
    run(c, ns, &["taint", "node", &node, "colour-"])?;
    ready(c, ns, "kept-out")?;
    run(c, ns, &["delete", "pod", "let-in", "kept-out"])?;
    apply(c, ns, &tolerant("stays", "NoExecute", ""))?;
    apply(c, ns, &tolerant("a-while", "NoExecute", ", tolerationSeconds: 4"))?;
    ready(c, ns, "stays")?;
    ready(c, ns, "a-while")?;
    run(c, ns, &["taint", "node", &node, "colour=red:NoExecute"])?;
    for name in ["there", "a-while"] {
        c.eventually(&format!("{name} is driven out"), 40, |c| {
            Ok(run(c, ns, &["get", "pod", name]).is_err().then_some(()))
        })?;
    }
    ensure!(field(c, ns, "pod/stays", ".status.phase")? == "Running", "who tolerates stays");
    run(c, ns, &["taint", "node", &node, "colour:NoExecute-"]).map(drop)
}

fn drain(c: &Cluster, ns: &str) -> Result<()> {
    let node = only_node(c)?;
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1", "--replicas=2"])?;
    apply(
        c,
        ns,
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: agent}\nspec:\n  selector: {matchLabels: {app: agent}}\n  \
         template:\n    metadata: {labels: {app: agent}}\n    spec: {containers: [{name: web, image: 'keelson.local/web:1'}]}\n",
    )?;
    apply(c, ns, &busybox("bare", "  volumes: [{name: work, emptyDir: {}}]\n"))?;
    apply(c, ns, &busybox("barer", ""))?;
    run(c, ns, &["create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=2"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    run(c, ns, &["rollout", "status", "daemonset/agent", "--timeout=60s"])?;
    ready(c, ns, "bare")?;
    ready(c, ns, "barer")?;
    let selector = "--pod-selector=app in (web,bare,barer,agent)";
    let asked = run(c, ns, &["drain", &node, selector]).err().context("it did not ask")?.to_string();
    ensure!(says(&asked, &["--ignore-daemonsets", "--delete-emptydir-data", "--force"]), "{asked}");
    let all = ["drain", &node, selector, "--ignore-daemonsets", "--delete-emptydir-data", "--force"];
    let held = run(c, ns, &[&all[..], &["--timeout=3s"]].concat())
        .err()
        .context("the budget was passed")?
        .to_string();
    ensure!(
        says(&held, &["violate the pod's disruption budget", "timed out"]) || held.contains("global timeout"),
        "{held}"
    );
    ensure!(pod_names(c, ns, "app=web")?.len() == 2, "the budget's pods went");
    run(c, ns, &["delete", "poddisruptionbudget", "web"])?;
    let told = run(c, ns, &[&all[..], &["--timeout=60s"]].concat())?;
    ensure!(says(&told, &["evicting pod", "drained"]) || told.contains("drained"), "{told}");
    ensure!(run(c, ns, &["get", "pod", "bare"]).is_err(), "the bare pod is still there");
    ensure!(pod_names(c, ns, "app=agent")?.len() == 1, "the daemon's pod went");
    run(c, ns, &["uncordon", &node])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"]).map(drop)
}

fn across(c: &Cluster, ns: &str) -> Result<()> {
    for node in ["node-1", "node-2"] {
        apply(c, ns, &web_on(node, &format!("web-{node}")))?;
    }
    run(c, ns, &["create", "service", "nodeport", "web", "--tcp=80"])?;
    let port: u16 = field(c, ns, "service/web", ".spec.ports[0].nodePort")?.parse()?;
    for node in ["node-1", "node-2"] {
        ready(c, ns, &format!("web-{node}"))?;
        // Named "client" for those who ask from it; one a node, one after the other.
        apply(c, ns, &busybox("client", &format!("  nodeSelector: {{kubernetes.io/hostname: {node}}}\n")))?;
        ready(c, ns, "client")?;
        for other in ["node-1", "node-2"] {
            ready(c, ns, &format!("web-{other}"))?;
            fetches(c, ns, &field(c, ns, &format!("pod/web-{other}"), ".status.podIP")?)?;
        }
        fetches(c, ns, "web")?;
        resolves(
            c,
            ns,
            "kubernetes.default.svc.cluster.local",
            &field(c, "default", "service/kubernetes", ".spec.clusterIP")?,
        )?;
        c.eventually("the service leads to pods of both nodes", 20, |c| {
            let said = shell(
                c,
                ns,
                "client",
                "for i in $(seq 20); do timeout 5 wget -q -O - http://web/hostname; done",
            )?;
            ensure!(says(&said, &["web-node-1", "web-node-2"]), "{said}");
            Ok(Some(()))
        })?;
        let address = node_address(c, node)?;
        c.eventually(&format!("the node port of {node} answers"), 20, |_| {
            ensure!(http(&address, port)?.contains("Keelson says hello"), "something else answers");
            Ok(Some(()))
        })?;
        // A pod reaches both nodes' own addresses as well.
        for other in ["node-1", "node-2"] {
            fetches(c, ns, &format!("{}:{port}", node_address(c, other)?))?;
        }
        run(c, ns, &["delete", "pod", "client"])?;
    }
    Ok(())
}

fn local_traffic(c: &Cluster, ns: &str) -> Result<()> {
    apply(c, ns, &web_on("node-1", "only"))?;
    apply(
        c,
        ns,
        "apiVersion: v1\nkind: Service\nmetadata: {name: outer}\nspec: {type: NodePort, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80}]}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: inner}\nspec: {internalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80}]}\n",
    )?;
    ready(c, ns, "only")?;
    let port: u16 = field(c, ns, "service/outer", ".spec.ports[0].nodePort")?.parse()?;
    let (near, far) = (node_address(c, "node-1")?, node_address(c, "node-2")?);
    c.eventually("the node with the pod answers", 20, |_| {
        ensure!(http(&near, port)?.contains("Keelson says hello"), "something else answers");
        Ok(Some(()))
    })?;
    ensure!(http(&far, port).is_err(), "the node without the pod answers, too");
    for (node, name) in [("node-1", "near"), ("node-2", "far")] {
        apply(c, ns, &busybox(name, &format!("  nodeSelector: {{kubernetes.io/hostname: {node}}}\n")))?;
    }
    ready(c, ns, "near")?;
    ready(c, ns, "far")?;
    c.eventually("a pod beside it is answered", 20, |c| {
        Ok(shell(c, ns, "near", "timeout 5 wget -q -O - http://inner/")?.contains("Keelson").then_some(()))
    })?;
    ensure!(
        shell(c, ns, "far", "timeout 5 wget -q -O - http://inner/").is_err(),
        "a pod elsewhere is answered, too"
    );
    Ok(())
}

fn spread(c: &Cluster, ns: &str) -> Result<()> {
    let deployment = |name: &str, replicas: u8, more: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec: {{replicas: {replicas}, selector: {{matchLabels: {{app: {name}}}}}, \
             template: {{metadata: {{labels: {{app: {name}}}}}, spec: {{{more}, containers: [{{name: web, image: 'keelson.local/web:1'}}]}}}}}}\n"
        )
    };
    let evenly = "topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: even}}}]";
    let apart = "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: apart}}}]}}";
    apply(c, ns, &deployment("even", 4, evenly))?;
    apply(c, ns, &deployment("apart", 3, apart))?;
    apply(
        c,
        ns,
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: agent}\nspec:\n  selector: {matchLabels: {app: agent}}\n  \
         template:\n    metadata: {labels: {app: agent}}\n    spec: {containers: [{name: web, image: 'keelson.local/web:1'}]}\n",
    )?;
    run(c, ns, &["rollout", "status", "deployment/even", "--timeout=60s"])?;
    run(c, ns, &["rollout", "status", "daemonset/agent", "--timeout=60s"])?;
    ensure!(nodes_of(c, ns, "app=even")? == ["node-1", "node-1", "node-2", "node-2"], "two on each");
    ensure!(nodes_of(c, ns, "app=agent")? == ["node-1", "node-2"], "one on each");
    wait_field(c, ns, "deployment/apart", ".status.readyReplicas", "2")?;
    ensure!(nodes_of(c, ns, "app=apart")? == ["node-1", "node-2"], "one on each, and one on none");
    let waiting = run(
        c,
        ns,
        &[
            "get",
            "pods",
            "-l",
            "app=apart",
            "--field-selector=status.phase=Pending",
            "-o",
            "jsonpath={.items[*].status.conditions[*].message}",
        ],
    )?;
    ensure!(
        waiting.contains("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules"),
        "{waiting}"
    );
    Ok(())
}

fn reach(c: &Cluster, ns: &str) -> Result<()> {
    for node in ["node-1", "node-2"] {
        let pod = format!("web-{node}");
        apply(c, ns, &web_on(node, &pod))?;
        ready(c, ns, &pod)?;
        ensure!(field(c, ns, &format!("pod/{pod}"), ".spec.nodeName")? == node, "it is elsewhere");
        run(c, ns, &["exec", &pod, "--", "nginx", "-t"])?;
        run(c, ns, &["logs", &pod])?;
        let mut forward = c.kubectl_background(ns, &["port-forward", &pod, ":80"], false)?;
        let port = local_port(&forward.line("Forwarding from 127.0.0.1:", 20)?)?;
        ensure!(http("127.0.0.1", port)?.contains("Keelson says hello"), "port-forward");
        let proxied = c.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{ns}/pods/{pod}/proxy/")])?;
        ensure!(proxied.contains("Keelson says hello"), "{proxied}");
    }
    Ok(())
}

fn drain_one(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1", "--replicas=4"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    run(
        c,
        ns,
        &[
            "drain",
            "node-2",
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--force",
            "--timeout=60s",
            "--request-timeout=70s",
        ],
    )?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ensure!(nodes_of(c, ns, "app=web")?.iter().all(|n| n == "node-1"), "a pod is on the drained node");
    run(c, ns, &["uncordon", "node-2"])?;
    run(c, ns, &["scale", "deployment/web", "--replicas=8"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ensure!(nodes_of(c, ns, "app=web")?.iter().any(|n| n == "node-2"), "it takes pods again");
    Ok(())
}

fn lost(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 2, selector: {matchLabels: {app: web}}, \
         template: {metadata: {labels: {app: web}}, spec: {terminationGracePeriodSeconds: 1, tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}], \
         topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}], \
         containers: [{name: web, image: 'keelson.local/web:1'}]}}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n",
    )?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ensure!(nodes_of(c, ns, "app=web")? == ["node-1", "node-2"], "one on each");
    apply(c, ns, &web_on("node-2", "bare"))?;
    ready(c, ns, "bare")?;
    let container = field(c, ns, "pod/bare", ".status.containerStatuses[0].containerID")?;
    c.stop("kubelet-node-2")?;
    c.eventually("the node is not heard of", 120, |c| {
        let status = field(c, ns, "node/node-2", ".status.conditions[?(@.type==\"Ready\")].status")?;
        ensure!(status == "Unknown", "{status}");
        Ok(Some(()))
    })?;
    c.eventually("the node is tainted", 20, |c| {
        let taints = field(c, ns, "node/node-2", ".spec.taints")?;
        ensure!(taints.matches("node.kubernetes.io/unreachable").count() == 2, "{taints}");
        Ok(Some(()))
    })?;
    ensure!(c.kubectl(&["get", "node", "node-2"])?.contains("NotReady"), "its state");
    c.eventually("its pods are evicted and others take their place", 60, |c| {
        let running = run(c, ns, &["get", "pods", "-l", "app=web", "-o", "jsonpath={range .items[?(@.spec.nodeName==\"node-1\")]}{.status.conditions[?(@.type==\"Ready\")].status} {end}"])?;
        ensure!(running.trim() == "True True", "{running}");
        Ok(Some(()))
    })?;
    c.eventually("no traffic goes to pods of the lost node", 30, |c| {
        let path = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].nodeName}";
        let nodes =
            run(c, ns, &["get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", path])?;
        ensure!(nodes == "node-1 node-1", "{nodes}");
        Ok(Some(()))
    })?;
    ensure!(
        field(c, ns, "pod/bare", ".metadata.deletionTimestamp")?.is_empty(),
        "who tolerates it longer is not evicted"
    );
    c.up()?;
    wait_field(c, ns, "node/node-2", ".status.conditions[?(@.type==\"Ready\")].status", "True")?;
    wait_field(c, ns, "node/node-2", ".spec.taints", "")?;
    c.eventually("the evicted pods are gone", 60, |c| {
        // Those of the deployment: the bare pod, which stays, is a web server as well.
        let nodes = nodes_of(c, ns, "app=web,pod-template-hash")?;
        ensure!(nodes == ["node-1", "node-1"], "they are on {nodes:?}");
        Ok(Some(()))
    })?;
    ready(c, ns, "bare")?;
    ensure!(
        field(c, ns, "pod/bare", ".status.containerStatuses[0].containerID")? == container,
        "its container was restarted"
    );
    Ok(())
}
