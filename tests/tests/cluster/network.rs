//! Services, names and the ways to pods.

use anyhow::{Context, Result, ensure};
use tests::{Cluster, runner::Test};

use crate::{
    apply, busybox, fetches, field, http, node_address, only_node, ready, resolves, run, shell, wait_field,
    web_behind_port,
};

pub(crate) const TESTS: &[Test<Cluster>] = &[
    ("services are reached by address and by name", services),
    ("node ports and load balancers are reached from outside", outside),
    ("endpoints follow readiness", readiness),
    ("headless, SRV, PTR and external names", names),
    ("a client with affinity stays with its pod", affinity),
    ("services without pods refuse, and named ports lead where pods say", ports),
    ("a rolling update fails no request", rolling),
    ("host ports and the host's network lead to pods", host_ports),
    ("services over UDP, without selectors, and with addresses from elsewhere", other_services),
    ("a service that changes its ports and pods is followed", changes),
    ("addresses and ports are given once and come back", addresses),
    ("network policies let in and out what they say", policies),
    ("network policies follow pods, names of ports and namespaces", policies_follow),
];

fn services(c: &Cluster, ns: &str) -> Result<()> {
    web_behind_port(c, ns)?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    apply(c, ns, &busybox("client", ""))?;
    ready(c, ns, "client")?;
    let address = field(c, ns, "service/web", ".spec.clusterIP")?;
    fetches(c, ns, &address)?;
    for name in ["web", &format!("web.{ns}"), &format!("web.{ns}.svc.cluster.local")] {
        fetches(c, ns, name)?;
    }
    // nslookup leaves the search list out for names with dots.
    resolves(c, ns, "web", &address)?;
    let kubernetes = field(c, "default", "service/kubernetes", ".spec.clusterIP")?;
    resolves(c, ns, "kubernetes.default.svc.cluster.local", &kubernetes)?;
    run(c, ns, &["scale", "deployment/web", "--replicas=0"])?;
    c.eventually("endpoints follow the pods", 60, |c| {
        let path = "jsonpath={.items[*].endpoints[*].addresses[*]}";
        let all = run(c, ns, &["get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", path])?;
        Ok(all.trim().is_empty().then_some(()))
    })
}

fn outside(c: &Cluster, ns: &str) -> Result<()> {
    web_behind_port(c, ns)?;
    run(
        c,
        ns,
        &[
            "expose",
            "deployment",
            "web",
            "--name=balanced",
            "--port=8080",
            "--target-port=80",
            "--type=LoadBalancer",
        ],
    )?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let node = node_address(c, &only_node(c)?)?;
    let port: u16 = field(c, ns, "service/web", ".spec.ports[0].nodePort")?.parse()?;
    ensure!((30000..32768).contains(&port), "{port} is no node port");
    let answers = |address: &str, port: u16| {
        c.eventually(&format!("{address}:{port} answers"), 30, |_| {
            let said = http(address, port)?;
            ensure!(said.contains("Keelson says hello"), "{said}");
            Ok(Some(()))
        })
    };
    answers(&node, port)?;
    let address = c.eventually("the load balancer has an address", 30, |c| {
        let address = field(c, ns, "service/balanced", ".status.loadBalancer.ingress[0].ip")?;
        Ok((!address.is_empty()).then_some(address))
    })?;
    answers(&address, 8080)?;
    run(c, ns, &["delete", "service", "web", "balanced"])?;
    c.eventually("nobody answers at the node port any more", 30, |_| {
        Ok(http(&node, port).is_err().then_some(()))
    })
}

fn readiness(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        &busybox(
            "web",
            "    readinessProbe: {exec: {command: [test, -f, /tmp/ready]}, periodSeconds: 1, failureThreshold: 1}\n",
        ),
    )?;
    run(c, ns, &["expose", "pod", "web", "--port=80"])?;
    wait_field(c, ns, "pod/web", ".status.phase", "Running")?;
    let address = field(c, ns, "pod/web", ".status.podIP")?;
    let addresses = |want: bool| {
        c.eventually(&format!("ready endpoint: {want}"), 30, |c| {
            let path = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[*]}";
            let all =
                run(c, ns, &["get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", path])?;
            Ok((all.contains(&address) == want).then_some(()))
        })
    };
    addresses(false)?;
    shell(c, ns, "web", "touch /tmp/ready")?;
    addresses(true)?;
    shell(c, ns, "web", "rm /tmp/ready")?;
    addresses(false)
}

fn names(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        "apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {clusterIP: None, selector: {app: db}, ports: [{name: http, port: 80}]}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: elsewhere}\nspec: {type: ExternalName, externalName: db.example.test}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: front}\nspec: {selector: {app: db}, ports: [{name: http, port: 80}]}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {name: db, labels: {app: db}}\nspec: {hostname: first, subdomain: db, containers: [{name: web, image: 'keelson.local/web:1'}]}\n",
    )?;
    apply(c, ns, &busybox("client", ""))?;
    ready(c, ns, "db")?;
    ready(c, ns, "client")?;
    let (pod, front) =
        (field(c, ns, "pod/db", ".status.podIP")?, field(c, ns, "service/front", ".spec.clusterIP")?);
    let domain = format!("{ns}.svc.cluster.local");
    resolves(c, ns, &format!("db.{domain}"), &pod)?;
    resolves(c, ns, &format!("first.db.{domain}"), &pod)?;
    resolves(c, ns, &format!("{}.{ns}.pod.cluster.local", pod.replace('.', "-")), &pod)?;
    resolves(c, ns, &pod, &format!("first.db.{domain}"))?;
    resolves(c, ns, &front, &format!("front.{domain}"))?;
    resolves(c, ns, &format!("-type=srv _http._tcp.front.{domain}"), &format!("0 100 80 front.{domain}"))?;
    resolves(c, ns, &format!("-type=srv _http._tcp.db.{domain}"), &format!("80 first.db.{domain}"))?;
    resolves(c, ns, &format!("-type=cname elsewhere.{domain}"), "db.example.test")?;
    // The pod's own name, its search list and its host's file.
    let said = shell(c, ns, "client", "cat /etc/resolv.conf; hostname; grep client /etc/hosts | cut -f1")?;
    ensure!(
        said.contains(&format!("search {ns}.svc.cluster.local svc.cluster.local cluster.local")),
        "{said}"
    );
    ensure!(
        said.contains("ndots:5") && said.contains(&field(c, ns, "pod/client", ".status.podIP")?),
        "{said}"
    );
    let missing = shell(c, ns, "client", &format!("nslookup missing.{domain} 2>&1 || true"))?;
    ensure!(missing.contains("NXDOMAIN"), "{missing}");
    Ok(())
}

fn affinity(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1", "--replicas=3"])?;
    run(c, ns, &["expose", "deployment", "web", "--port=80"])?;
    run(
        c,
        ns,
        &["expose", "deployment", "web", "--name=sticky", "--port=80", "--session-affinity=ClientIP"],
    )?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    apply(c, ns, &busybox("client", ""))?;
    ready(c, ns, "client")?;
    let pods = |service: &str| -> Result<usize> {
        let said = shell(
            c,
            ns,
            "client",
            &format!("for i in $(seq 40); do timeout 5 wget -q -O - http://{service}/hostname; done"),
        )?;
        let mut names: Vec<&str> = said.lines().collect();
        ensure!(names.len() == 40, "only {} of 40 answered", names.len());
        names.sort_unstable();
        names.dedup();
        Ok(names.len())
    };
    c.eventually("requests reach every pod", 30, |_| Ok((pods("web")? == 3).then_some(())))?;
    c.eventually("with affinity one pod answers", 30, |_| Ok((pods("sticky")? == 1).then_some(())))
}

fn ports(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec: {containers: [{name: web, image: 'keelson.local/web:1', \
         ports: [{name: pages, containerPort: 80}]}]}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: named}\nspec: {selector: {app: web}, ports: [{name: a, port: 8080, targetPort: pages}, {name: b, port: 8081, targetPort: 80}]}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: nobody}\nspec: {selector: {app: nobody}, ports: [{port: 80}]}\n",
    )?;
    apply(c, ns, &busybox("client", ""))?;
    ready(c, ns, "web")?;
    ready(c, ns, "client")?;
    fetches(c, ns, "named:8080")?;
    fetches(c, ns, "named:8081")?;
    c.eventually("a service without pods refuses at once", 20, |_| {
        let said = shell(c, ns, "client", "timeout 10 wget -O - http://nobody/ 2>&1 || true")?;
        ensure!(said.contains("refused"), "{said}");
        Ok(Some(()))
    })?;
    // A pod reaches itself through its service.
    let address = field(c, ns, "service/named", ".spec.clusterIP").context("it has an address")?;
    ensure!(!address.is_empty(), "it has none");
    Ok(())
}

fn rolling(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 2\n  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}\n  \
         selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers:\n      - name: web\n        \
         image: keelson.local/web:1\n        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}\n        lifecycle: {preStop: {sleep: {seconds: 4}}}\n",
    )?;
    run(c, ns, &["expose", "deployment", "web", "--port=80"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=60s"])?;
    apply(
        c,
        ns,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: client}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: keelson.local/busybox:1\n    \
         command: [sh, -c, 'until timeout 5 wget -q -O - http://web/; do sleep 1; done; echo begun; while true; do timeout 5 wget -q -O - http://web/ || echo FAILED $(date); done']\n",
    )?;
    let mut log = c.eventually("the client's log is there", 60, |c| {
        ready(c, ns, "client")?;
        c.kubectl_background(ns, &["logs", "-f", "client"], false).map(Some)
    })?;
    log.line("begun", 60)?;
    run(c, ns, &["set", "image", "deployment/web", "web=keelson.local/web:2"])?;
    run(c, ns, &["rollout", "status", "deployment/web", "--timeout=90s", "--request-timeout=100s"])?;
    log.line("version 2", 20)?;
    c.eventually("only the new version answers", 30, |c| {
        let last = run(c, ns, &["logs", "client", "--tail=20"])?;
        Ok((!last.contains("version 1")).then_some(()))
    })?;
    let all = run(c, ns, &["logs", "client"])?;
    let (asked, failed) = (all.lines().count(), all.lines().filter(|l| l.contains("FAILED")).count());
    ensure!(failed == 0, "{failed} of {asked} requests failed");
    ensure!(asked > 50, "only {asked} requests in the whole update");
    Ok(())
}

fn host_ports(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {terminationGracePeriodSeconds: 1, containers: [{name: web, image: 'keelson.local/web:1', ports: [{containerPort: 80, hostPort: 18473}]}]}\n",
    )?;
    ready(c, ns, "web")?;
    let host = field(c, ns, "pod/web", ".status.hostIP")?;
    let answers = || http(&host, 18473).is_ok_and(|said| said.contains("Keelson says hello"));
    c.eventually("the host's port answers", 20, |_| Ok(answers().then_some(())))?;
    apply(c, ns, &busybox("second", "    ports: [{containerPort: 80, hostPort: 18473}]\n"))?;
    c.eventually("a port is taken once a node", 20, |c| {
        let why = field(c, ns, "pod/second", ".status.conditions[?(@.type==\"PodScheduled\")].message")?;
        ensure!(why.contains("didn't have free ports for the requested pod ports"), "{why}");
        Ok(Some(()))
    })?;
    run(c, ns, &["delete", "pod", "web"])?;
    ready(c, ns, "second")?;
    ensure!(!answers(), "the port leads to a pod that is gone");
    Ok(())
}

fn other_services(c: &Cluster, ns: &str) -> Result<()> {
    apply(
        c,
        ns,
        &busybox("echo", "").replace(
            "trap exit TERM; while true; do sleep 1; done",
            "exec nc -u -l -k -p 5000 -e cat || exec udpsvd -v 0 5000 cat",
        ),
    )?;
    run(c, ns, &["run", "web", "--image=keelson.local/web:1"])?;
    apply(c, ns, &busybox("client", ""))?;
    ready(c, ns, "web")?;
    ready(c, ns, "client")?;
    let web = field(c, ns, "pod/web", ".status.podIP")?;
    apply(
        c,
        ns,
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: by-hand}}\nspec: {{ports: [{{port: 8080, targetPort: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: by-hand-1, labels: {{kubernetes.io/service-name: by-hand}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: ['{web}']}}]\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: external}}\nspec: {{selector: {{run: web}}, externalIPs: [192.0.2.80], ports: [{{port: 8081, targetPort: 80}}]}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: both}}\nspec: {{selector: {{run: web}}, ports: [{{name: tcp, port: 80}}, {{name: udp, port: 80, protocol: UDP}}]}}\n"
        ),
    )?;
    fetches(c, ns, "by-hand:8080")?;
    fetches(c, ns, "192.0.2.80:8081")?;
    fetches(c, ns, "both")?;
    // Names are asked for over UDP and over TCP at the service's address.
    let dns = field(c, "kube-system", "service/kube-dns", ".spec.clusterIP")?;
    let protocols = field(c, "kube-system", "service/kube-dns", ".spec.ports[*].protocol")?;
    ensure!(protocols.contains("UDP") && protocols.contains("TCP"), "{protocols}");
    resolves(
        c,
        ns,
        &format!("by-hand.{ns}.svc.cluster.local {dns}"),
        &field(c, ns, "service/by-hand", ".spec.clusterIP")?,
    )
}

fn changes(c: &Cluster, ns: &str) -> Result<()> {
    for (name, version) in [("one", 1), ("two", 2)] {
        run(
            c,
            ns,
            &["run", name, &format!("--image=keelson.local/web:{version}"), &format!("--labels=app={name}")],
        )?;
    }
    apply(c, ns, &busybox("client", ""))?;
    run(c, ns, &["create", "service", "clusterip", "web", "--tcp=80"])?;
    run(c, ns, &["set", "selector", "service", "web", "app=one"])?;
    for name in ["one", "two", "client"] {
        ready(c, ns, name)?;
    }
    let says = |port: u16, version: u8| {
        c.eventually(&format!("version {version} answers at {port}"), 30, |c| {
            let said = shell(c, ns, "client", &format!("timeout 3 wget -q -O - http://web:{port}/"))?;
            ensure!(said.contains(&format!("version {version}")), "{said}");
            Ok(Some(()))
        })
    };
    says(80, 1)?;
    run(c, ns, &["set", "selector", "service", "web", "app=two"])?;
    says(80, 2)?;
    run(
        c,
        ns,
        &[
            "patch",
            "service",
            "web",
            "--type=json",
            "-p",
            r#"[{"op":"replace","path":"/spec/ports/0/port","value":8080}]"#,
        ],
    )?;
    says(8080, 2)?;
    ensure!(shell(c, ns, "client", "timeout 3 wget -q -O - http://web:80/").is_err(), "the old port answers");
    run(c, ns, &["label", "pod", "one", "app=two", "--overwrite"])?;
    run(c, ns, &["delete", "pod", "two"])?;
    says(8080, 1)
}

fn addresses(c: &Cluster, ns: &str) -> Result<()> {
    let service = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: a}}, ports: [{{port: 80{more}\n"
        )
    };
    apply(c, ns, &service("first", ", nodePort: 31984}], type: NodePort}"))?;
    let address = field(c, ns, "service/first", ".spec.clusterIP")?;
    let refused = |text: &str, why: &str| {
        let told = apply(c, ns, text).err().context("it was taken")?.to_string();
        ensure!(told.contains(why), "{told}");
        anyhow::Ok(())
    };
    refused(
        &service("second", ", nodePort: 31984}], type: NodePort}"),
        "provided port is already allocated",
    )?;
    refused(&service("second", &format!("}}], clusterIP: {address}}}")), "provided IP is already allocated")?;
    refused(&service("second", ", nodePort: 80}], type: NodePort}"), "not in the valid range")?;
    run(c, ns, &["delete", "service", "first"])?;
    apply(
        c,
        ns,
        &service("second", &format!(", nodePort: 31984}}], type: NodePort, clusterIP: {address}}}")),
    )
    .context("what was given back is free")?;
    ensure!(field(c, ns, "service/second", ".spec.clusterIP")? == address, "its address");
    run(c, ns, &["create", "service", "loadbalancer", "one", "--tcp=80"])?;
    run(c, ns, &["create", "service", "loadbalancer", "two", "--tcp=80"])?;
    let balanced = |name: &str| {
        c.eventually(&format!("{name} has an address"), 30, |c| {
            let address = field(c, ns, &format!("service/{name}"), ".status.loadBalancer.ingress[0].ip")?;
            Ok((!address.is_empty()).then_some(address))
        })
    };
    ensure!(balanced("one")? != balanced("two")?, "one address for two");
    run(c, ns, &["patch", "service", "one", "-p", r#"{"spec":{"type":"ClusterIP"}}"#])?;
    wait_field(c, ns, "service/one", ".status.loadBalancer.ingress", "")
}

/// Whether a pod reaches a web server at an address, after the rules had time to follow.
fn reaches(c: &Cluster, ns: &str, from: &str, address: &str, want: bool) -> Result<()> {
    c.eventually(&format!("{from} reaches {address}: {want}"), 30, |c| {
        let said = shell(c, ns, from, &format!("timeout 2 wget -q -O - http://{address}/ || echo nothing"))?;
        ensure!(said.contains("hello") == want, "{said}");
        Ok(Some(()))
    })
}

/// Applies a policy of this name; fields of its spec follow.
fn policy(c: &Cluster, ns: &str, name: &str, spec: &str) -> Result<()> {
    apply(
        c,
        ns,
        &format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        ),
    )
}

/// A web server behind a service, and two pods to ask from.
fn web_and_clients(c: &Cluster, ns: &str) -> Result<String> {
    run(c, ns, &["run", "web", "--image=keelson.local/web:1", "--labels=app=web", "--port=80", "--expose"])?;
    for name in ["friend", "stranger"] {
        apply(c, ns, &busybox(name, ""))?;
        run(c, ns, &["label", "pod", name, &format!("role={name}")])?;
    }
    for name in ["web", "friend", "stranger"] {
        ready(c, ns, name)?;
    }
    field(c, ns, "pod/web", ".status.podIP")
}

fn policies(c: &Cluster, ns: &str) -> Result<()> {
    let web = web_and_clients(c, ns)?;
    reaches(c, ns, "stranger", &web, true)?;
    reaches(c, ns, "stranger", "web", true)?;
    policy(c, ns, "shut", "podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]")?;
    reaches(c, ns, "stranger", &web, false)?;
    reaches(c, ns, "friend", "web", false)?;
    // The node the pod runs on always gets in, as probes must.
    ensure!(http(&web, 80)?.contains("hello"), "the node is shut out");
    let friends = "from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: 80}]";
    policy(
        c,
        ns,
        "friends",
        &format!("podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{{friends}}}]"),
    )?;
    reaches(c, ns, "friend", &web, true)?;
    reaches(c, ns, "friend", "web", true)?;
    reaches(c, ns, "stranger", &web, false)?;
    policy(c, ns, "friends", &format!("podSelector: {{}}, ingress: [{{{}}}]", friends.replace("80", "81")))?;
    reaches(c, ns, "friend", &web, false)?;
    policy(c, ns, "shut", "podSelector: {matchLabels: {role: friend}}, policyTypes: [Egress]")?;
    policy(c, ns, "friends", "podSelector: {matchLabels: {role: stranger}}, policyTypes: [Ingress]")?;
    reaches(c, ns, "friend", &web, false)?;
    // Shut for what comes in; answers to what goes out come in all the same.
    reaches(c, ns, "stranger", &web, true)?;
    let only = |block: &str| {
        let spec = format!(
            "podSelector: {{matchLabels: {{role: friend}}}}, egress: [{{{block}}}], policyTypes: [Egress]"
        );
        policy(c, ns, "shut", &spec)
    };
    only(&format!("to: [{{ipBlock: {{cidr: 0.0.0.0/0, except: [{web}/32]}}}}]"))?;
    reaches(c, ns, "friend", &web, false)?;
    only(&format!("to: [{{ipBlock: {{cidr: {web}/32}}}}], ports: [{{port: 80, endPort: 90}}]"))?;
    reaches(c, ns, "friend", &web, true)?;
    run(c, ns, &["delete", "networkpolicy", "--all"])?;
    reaches(c, ns, "friend", "web", true)
}

fn policies_follow(c: &Cluster, ns: &str) -> Result<()> {
    let web = web_and_clients(c, ns)?;
    let own = format!(
        "from: [{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {ns}}}}}, podSelector: {{matchLabels: {{role: friend}}}}}}]"
    );
    policy(
        c,
        ns,
        "named",
        &format!("podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{{own}, ports: [{{port: web}}]}}]"),
    )?;
    reaches(c, ns, "friend", &web, false)?;
    // A pod that gives its port the name; its address is another one.
    run(c, ns, &["delete", "pod", "web"])?;
    apply(
        c,
        ns,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec: {containers: [{name: web, image: 'keelson.local/web:1', ports: [{name: web, containerPort: 80}]}]}\n",
    )?;
    ready(c, ns, "web")?;
    let web = field(c, ns, "pod/web", ".status.podIP")?;
    reaches(c, ns, "friend", &web, true)?;
    reaches(c, ns, "stranger", &web, false)?;
    run(c, ns, &["label", "pod", "stranger", "role=friend", "--overwrite"])?;
    run(c, ns, &["label", "pod", "friend", "role=stranger", "--overwrite"])?;
    reaches(c, ns, "stranger", &web, true)?;
    reaches(c, ns, "friend", &web, false)?;
    // A selector of namespaces that none has, until this one does.
    policy(
        c,
        ns,
        "named",
        &format!(
            "podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{trusted-by: {ns}}}}}}}]}}]"
        ),
    )?;
    reaches(c, ns, "stranger", &web, false)?;
    run(c, ns, &["label", "namespace", ns, &format!("trusted-by={ns}")])?;
    reaches(c, ns, "stranger", &web, true)?;
    reaches(c, ns, "friend", &web, true)
}
