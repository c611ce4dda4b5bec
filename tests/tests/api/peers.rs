//! Other API servers of the cluster, which serve what this one does not (KEP-4020).

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    ControlPlane,
    client::MERGE_PATCH,
    control_plane::Options,
    pki::{Authority, NOW},
    receiver::{Call, Receiver, Reply},
    runner::{Test, say},
};

use crate::encryption::{store, stored};

pub(crate) const TESTS: &[Test<()>] = &[
    ("what only another server serves is discovered and asked of that server", another),
    ("two servers serve together what one of them does not", together),
    ("two servers give no address and no port twice", allocated),
    ("authorities of others that change are believed", rotated),
    ("a server says where others reach it, unless that is switched off", published),
];

const GADGETS: &str = "/apis/new.k8s.io/v2/namespaces/default/gadgets";
const OTHER: &str = "apiserver-other";

/// A server of a later version.
fn answer(call: &Call) -> Reply {
    let resource = |name: &str, kind: &str| {
        json!({"resource": name, "singularResource": "", "scope": "Namespaced",
        "verbs": ["get", "list"], "responseKind": {"group": "", "version": "", "kind": kind}})
    };
    let list = |items: Value| {
        Reply::Json(
            json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}),
        )
    };
    let version = |name: &str, resource: Value| json!({"version": name, "freshness": "Current", "resources": [resource]});
    match call.path.as_str() {
        "/api" => {
            list(json!([{"metadata": {}, "versions": [version("v1", resource("newthings", "NewThing"))]}]))
        }
        "/apis" => list(json!([
            {"metadata": {"name": "apps"}, "versions": [version("v1", resource("deployments", "Deployment")),
                version("v2", resource("deployments", "Deployment"))]},
            {"metadata": {"name": "new.k8s.io"}, "versions": [version("v2", resource("gadgets", "Gadget"))]}])),
        GADGETS | "/api/v1/namespaces/default/newthings" => {
            Reply::Json(json!({"kind": "GadgetList", "items": []}))
        }
        _ => Reply::Code(404, json!({})),
    }
}

fn another(_: &(), _: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("peers")?;
    let receiver = Receiver::start(&authority, answer)?;
    let identity = authority.client("front-proxy", "", NOW)?;
    let flags = written(
        &dir,
        [
            ("peer-ca-file", "ca.crt", &authority.cert),
            ("proxy-client-cert-file", "client.crt", &identity.cert),
            ("proxy-client-key-file", "client.key", &identity.key),
        ],
    )?;
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let admin = plane.admin()?;
    admin.get(GADGETS)?.refused(404, "NotFound")?;
    // The other server comes: where it is, and that it lives.
    let url = receiver.url("");
    let port: u16 = url.rsplit(':').next().context("no port")?.parse()?;
    let place = json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {"name": OTHER, "generation": 1,
        "labels": {"apiserverIdentity": OTHER}}, "subsets": [{"addresses": [{"ip": "127.0.0.1"}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]});
    store(&plane, &format!("/registry/peerserverleases/{OTHER}"), place.to_string().as_bytes())?;
    let lease = json!({"metadata": {"name": OTHER, "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver"}},
        "spec": {"holderIdentity": format!("{OTHER}_1"), "leaseDurationSeconds": 3600, "renewTime": "2099-01-01T00:00:00.000000Z"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    admin.post(leases, &lease)?.ok()?;
    let user = plane.user("jane", "system:masters")?;
    plane.eventually("requests go on to the other server", 30, || {
        let answer = user.get(&format!("{GADGETS}?limit=5"))?;
        Ok((answer.code == 200 && answer.json()?["kind"] == "GadgetList").then_some(()))
    })?;
    let calls = receiver.calls(GADGETS);
    let call = calls.last().context("nobody was asked")?;
    let header =
        |name: &str| call.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ensure!(
        header("x-kubernetes-peer-proxied") == "true" && header("x-remote-user") == "jane",
        "{:?}",
        call.headers
    );
    ensure!(header("x-remote-group") == "system:masters" && call.query == "limit=5", "{call:?}");
    user.get("/api/v1/namespaces/default/newthings")?.ok()?;
    // Who may not is not let through, and what was passed on once is not passed on again.
    plane.user("nobody", "")?.get(GADGETS)?.refused(403, "Forbidden")?;
    admin.with_header("x-kubernetes-peer-proxied", "true")?.get(GADGETS)?.refused(404, "NotFound")?;
    ensure!(
        admin.get("/apis/apps/v1/deployments")?.ok()?["kind"] == "DeploymentList",
        "own resources are asked of others"
    );
    // Discovery tells of all servers, or of this one alone.
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let groups = |accept: &str| -> Result<Vec<String>> {
        let all = admin.with_header("accept", accept)?.get("/apis")?.ok()?;
        let of = |group: &Value| -> Vec<String> {
            let name = group["metadata"]["name"].as_str().unwrap_or_default();
            let versions = group["versions"].as_array().cloned().unwrap_or_default();
            versions.iter().map(|v| format!("{name}/{}", v["version"].as_str().unwrap_or_default())).collect()
        };
        Ok(all["items"].as_array().context("no groups")?.iter().flat_map(of).collect())
    };
    let (all, alone) = (groups(aggregated)?, groups(&format!("{aggregated};profile=nopeer"))?);
    for new in ["apps/v2", "new.k8s.io/v2"] {
        ensure!(
            all.iter().any(|one| one == new) && !alone.iter().any(|one| one == new),
            "{new}: {all:?} {alone:?}"
        );
    }
    ensure!(alone.iter().all(|own| all.contains(own)), "{all:?}");
    let metrics = admin.get("/metrics")?.text();
    let counted = "apiserver_rerouted_request_total{code=\"200\",group=\"new.k8s.io\",resource=\"gadgets\",version=\"v2\"}";
    for line in [
        counted,
        "aggregator_discovery_peer_aggregated_cache_misses_total 1",
        "aggregator_discovery_nopeer_requests_total 1",
    ] {
        ensure!(metrics.contains(line), "{line} is not shown");
    }
    // It goes: nothing of it is left.
    admin.delete(&format!("{leases}/{OTHER}"))?.ok()?;
    plane.eventually("requests are not passed on", 30, || {
        Ok((admin.get(GADGETS)?.code == 404).then_some(()))
    })?;
    ensure!(!groups(aggregated)?.iter().any(|one| one == "new.k8s.io/v2"), "it is still discovered");
    Ok(())
}

/// Servers of one host are one to each other.
fn skipped() -> Result<()> {
    say("not tested: host names cannot be given here");
    Ok(())
}

/// Flags that name files, each with what is written to its file.
fn written<const N: usize>(
    dir: &tempfile::TempDir,
    files: [(&str, &str, &String); N],
) -> Result<Vec<String>> {
    let one = |(flag, file, text): (&str, &str, &String)| {
        let path = dir.path().join(file);
        fs::write(&path, text)?;
        Ok(format!("--{flag}={}", path.display()))
    };
    files.into_iter().map(one).collect()
}

/// Flags and files of servers that believe each other and pass on who asks.
fn trusting(dir: &tempfile::TempDir, servers: &Authority) -> Result<Vec<String>> {
    let front = Authority::new("front-proxy")?;
    let identity = front.client("front-proxy-client", "", NOW)?;
    let mut flags = vec![
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
    ];
    flags.extend(written(
        dir,
        [
            ("peer-ca-file", "servers.crt", &servers.cert),
            ("requestheader-client-ca-file", "front.crt", &front.cert),
            ("proxy-client-cert-file", "client.crt", &identity.cert),
            ("proxy-client-key-file", "client.key", &identity.key),
        ],
    )?);
    Ok(flags)
}

fn together(_: &(), _: &str) -> Result<()> {
    const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
    if !ControlPlane::has_hosts() {
        return skipped();
    }
    let dir = tempfile::tempdir()?;
    let whole = ControlPlane::start(Options::default())?;
    let flags = trusting(&dir, &whole.ca)?;
    whole.terminate_api()?;
    whole.set_flags(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    whole.start_api()?;
    let mut less = flags;
    less.push("--runtime-config=batch/v1=false".to_owned());
    let part = whole.beside("beside", less)?;
    let (at_whole, at_part) = (whole.admin()?, part.user("jane", "system:masters")?);
    part.eventually("jobs are listed by the server that has none", 40, || {
        Ok((at_part.get(JOBS)?.code == 200).then_some(()))
    })?;
    // Everything goes through: writes, patches, watches, refusals.
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": template}});
    let made = at_part.post(JOBS, &job)?.ok()?;
    ensure!(at_whole.get(&format!("{JOBS}/j"))?.ok()? == made, "{made}");
    at_part.post(JOBS, &job)?.refused(409, "AlreadyExists")?;
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let version = made["metadata"]["resourceVersion"].as_str().context("no version")?;
    let mut watch = at_part.watch(&format!("{JOBS}?watch=true&resourceVersion={version}"))?;
    let changed = at_part.patch(&format!("{JOBS}/j"), MERGE_PATCH, &labels)?.ok()?;
    ensure!(watch.expect("MODIFIED")?["metadata"] == changed["metadata"], "another object");
    part.user("nobody", "")?.get(JOBS)?.refused(403, "Forbidden")?;
    // Whoever asks is who is told of by the one who answers.
    let managers = changed["metadata"]["managedFields"].to_string();
    ensure!(managers.contains("f:labels"), "{managers}");
    let versions = |accept: &str| -> Result<Vec<Value>> {
        let all = at_part.with_header("accept", accept)?.get("/apis")?.ok()?;
        let batch = all["items"]
            .as_array()
            .and_then(|all| all.iter().find(|g| g["metadata"]["name"] == "batch").cloned());
        Ok(batch.and_then(|group| group["versions"].as_array().cloned()).unwrap_or_default())
    };
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let merged = versions(aggregated)?;
    ensure!(merged.iter().any(|version| version["version"] == "v1"), "{merged:?}");
    let alone = versions(&format!("{aggregated};profile=nopeer"))?;
    ensure!(!alone.iter().any(|version| version["version"] == "v1"), "{alone:?}");
    // The other one dies: it is asked in vain as long as it is said to live, and no more after that.
    whole.kill_api()?;
    at_part.get(JOBS)?.refused(503, "ServiceUnavailable")?;
    at_part.get("/api/v1/namespaces/default")?.ok()?;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let own = "apiserver.kubernetes.io/identity%3Dkube-apiserver";
    let all = at_part.get(&format!("{leases}?labelSelector={own}"))?.ok()?;
    for lease in all["items"].as_array().context("no leases")? {
        let name = lease["metadata"]["name"].as_str().context("no name")?;
        at_part.delete(&format!("{leases}/{name}"))?.ok()?;
    }
    part.eventually("nobody is asked any more", 40, || Ok((at_part.get(JOBS)?.code == 404).then_some(())))?;
    ensure!(versions(aggregated)?.iter().all(|version| version["version"] != "v1"), "it is still discovered");
    // It comes back.
    whole.start_api()?;
    part.eventually("jobs are listed again", 40, || {
        let answer = at_part.get(&format!("{JOBS}/j"))?;
        Ok((answer.code == 200).then_some(()))
    })
}

/// Services are made and deleted at both servers at once, until there is no address left; and the same address is asked of
/// both.
fn allocated(_: &(), _: &str) -> Result<()> {
    const SERVICES: &str = "/api/v1/namespaces/default/services";
    if !ControlPlane::has_hosts() {
        return skipped();
    }
    let flags = || vec!["--service-node-port-range=30000-30019".to_owned()];
    let one = ControlPlane::start(Options { flags: flags(), ..Options::default() })?;
    let two = one.beside("beside", flags())?;
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 1}]}});
    let make = |plane: &ControlPlane, who: &str| -> Result<()> {
        let client = plane.admin()?;
        for n in 0..40 {
            let answer = client.post(SERVICES, &service(&format!("{who}-{n}")))?;
            if answer.code != 201 {
                // There is none left at the moment.
                answer.refused_with(500, "InternalError", "range is full")?;
            } else if n % 4 == 0 {
                // Some go again: what they had is for others.
                client.delete(&format!("{SERVICES}/{who}-{n}"))?.ok()?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let all: Vec<_> = [(&one, "a"), (&one, "b"), (&two, "c"), (&two, "d")]
            .map(|(plane, who)| scope.spawn(move || make(plane, who)))
            .into_iter()
            .collect();
        all.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("a client broke"))?)
    })?;
    let client = two.admin()?;
    // The server's own service is there, and in the end as many others as there are ports.
    let mut n = 0;
    let list = one.eventually("all ports are given", 30, || {
        n += 1;
        client.post(SERVICES, &service(&format!("e-{n}")))?;
        let list = client.get(SERVICES)?.ok()?;
        Ok((list["items"].as_array().map(Vec::len) == Some(1 + 20)).then_some(list))
    })?;
    let all: Vec<&Value> = list["items"].as_array().context("a list")?.iter().collect();
    let given = |field: &str| -> Vec<String> {
        let mut given: Vec<String> =
            all.iter().filter_map(|service| service.pointer(field)).map(Value::to_string).collect();
        given.sort();
        given
    };
    for field in ["/spec/clusterIP", "/spec/ports/0/nodePort"] {
        let mut distinct = given(field);
        distinct.dedup();
        ensure!(distinct == given(field), "{field} twice: {:?}", given(field));
    }
    let last = all.iter().find(|service| service["metadata"]["name"] != "kubernetes").context("a service")?;
    let (name, address) = (last["metadata"]["name"].as_str(), last["spec"]["clusterIP"].as_str());
    let (name, address) = (name.context("a name")?, address.context("an address")?.to_owned());
    client.delete(&format!("{SERVICES}/{name}"))?.ok()?;
    for round in 0..10 {
        let ask = |plane: &ControlPlane, who: &str| -> Result<u16> {
            let wanted = json!({"metadata": {"name": format!("{who}-{round}")}, "spec": {
                "clusterIP": address, "ports": [{"port": 1}]}});
            Ok(plane.admin()?.post(SERVICES, &wanted)?.code)
        };
        let winner = one.eventually("the address is given to one of two", 20, || {
            let codes = std::thread::scope(|scope| -> Result<Vec<u16>> {
                let ask = &ask;
                let both: Vec<_> = [(&one, "x"), (&two, "y")]
                    .map(|(plane, who)| scope.spawn(move || ask(plane, who)))
                    .into();
                both.into_iter()
                    .map(|one| one.join().map_err(|_| anyhow::anyhow!("a client broke"))?)
                    .collect()
            })?;
            ensure!(codes.iter().filter(|code| **code == 201).count() < 2, "{address} was given twice");
            let won = codes.iter().position(|code| *code == 201);
            Ok(won.map(|at| ["x", "y"][at]))
        })?;
        client.delete(&format!("{SERVICES}/{winner}-{round}"))?.ok()?;
    }
    Ok(())
}

fn rotated(_: &(), _: &str) -> Result<()> {
    if !ControlPlane::has_hosts() {
        return skipped();
    }
    let dir = tempfile::tempdir()?;
    let whole = ControlPlane::start(Options::default())?;
    let old = Authority::new("another")?;
    let flags = trusting(&dir, &old)?;
    whole.terminate_api()?;
    whole.set_flags(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    whole.start_api()?;
    let mut less = flags;
    less.push("--runtime-config=batch/v1=false".to_owned());
    let part = whole.beside("beside", less)?;
    let admin = part.admin()?;
    let failed = "apiserver_peer_discovery_sync_errors_total{type=\"fetch_discovery\"}";
    part.eventually("the other server is not believed", 40, || {
        let metrics = admin.get("/metrics")?.text();
        Ok(metrics.lines().any(|line| line.starts_with(failed) && !line.ends_with(" 0")).then_some(()))
    })?;
    admin.get("/apis/batch/v1/jobs")?.refused(404, "NotFound")?;
    fs::write(dir.path().join("servers.crt"), &whole.ca.cert)?;
    part.eventually("the other server is believed", 120, || {
        Ok((admin.get("/apis/batch/v1/jobs")?.code == 200).then_some(()))
    })
}

fn published(_: &(), _: &str) -> Result<()> {
    let flags = vec!["--peer-advertise-ip=192.0.2.7".to_owned(), "--peer-advertise-port=7443".to_owned()];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let admin = plane.admin()?;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let own = admin
        .get(&format!("{leases}?labelSelector=apiserver.kubernetes.io/identity%3Dkube-apiserver"))?
        .ok()?;
    let name = own["items"][0]["metadata"]["name"].as_str().context("no identity")?.to_owned();
    let key = format!("/registry/peerserverleases/{name}");
    let told: Value = serde_json::from_slice(&stored(&plane, &key)?)?;
    let subset = &told["subsets"][0];
    ensure!(subset["addresses"][0]["ip"] == "192.0.2.7" && subset["ports"][0]["port"] == 7443, "{told}");
    ensure!(told["metadata"]["labels"]["apiserverIdentity"] == name.as_str(), "{told}");
    ensure!(plane.terminate_api()?.success(), "it did not end well");
    ensure!(stored(&plane, &key).is_err(), "it is still said to be there");
    plane.set_flags(&["--feature-gates=UnknownVersionInteroperabilityProxy=false"]);
    plane.start_api()?;
    ensure!(stored(&plane, &key).is_err(), "it says where it is although nobody is to know");
    Ok(())
}
