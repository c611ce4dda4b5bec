//! Which metrics the server shows, held against upstream's: names, types and labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::TcpStream,
};

use anyhow::{Context, Result, ensure};
use component_base::reference::reference;
use serde_json::{Value, json};
use tests::{Client, ControlPlane, control_plane::Options, runner::Test};

use crate::{
    config_maps,
    scheduling::{Daemon, Scheduler, node},
};

pub(crate) const TESTS: &[Test<()>] = &[
    ("the metrics are upstream's", names),
    ("the metrics of the scheduler are upstream's", of_scheduler),
    ("the metrics of the controllers are upstream's", of_controllers),
];

/// Names, or the beginning of several, that upstream shows and a daemon here does not, and why.
type Absent = &'static [(&'static str, &'static str)];

/// What upstream shows and this server does not, and why.
const ABSENT: Absent = &[
    ("apiextensions_apiserver_validation_ratcheting_seconds", "comparing is no step of its own"),
    ("apiserver_admission_step_admission_duration_seconds_summary", "the library has no summaries"),
    ("apiserver_flowcontrol_current_r", "queues are served without virtual time"),
    ("apiserver_flowcontrol_dispatch_r", "as above"),
    ("apiserver_flowcontrol_latest_s", "as above"),
    ("apiserver_flowcontrol_next_discounted_s_bounds", "as above"),
    ("apiserver_flowcontrol_next_s_bounds", "as above"),
    ("apiserver_flowcontrol_demand_seats", "demand is kept as peak and average, not sampled"),
    ("apiserver_flowcontrol_priority_level_request_utilization", "as above"),
    ("apiserver_flowcontrol_priority_level_seat_utilization", "as above"),
    ("apiserver_flowcontrol_read_vs_write_current_requests", "as above"),
    (
        "apiserver_request_timestamp_comparison_time",
        "owners of fields are compared before their times are set",
    ),
    ("apiserver_selfrequest_total", "the server is no client of itself"),
    ("rest_client_exec_plugin_certificate_rotation_age", "as above"),
    ("rest_client_exec_plugin_ttl_seconds", "as above"),
    ("rest_client_rate_limiter_duration_seconds", "as above"),
    ("rest_client_request_duration_seconds", "as above"),
    ("rest_client_request_size_bytes", "as above"),
    ("rest_client_requests_total", "as above"),
    ("rest_client_response_size_bytes", "as above"),
    ("rest_client_transport_cache_entries", "as above"),
    ("rest_client_transport_cert_rotation_gc_calls_total", "as above"),
    ("rest_client_transport_create_calls_total", "as above"),
    ("apiserver_storage_consistency_checks_total", "the cache is not compared with etcd"),
    (
        "apiserver_validation_declarative_validation_mismatch_total",
        "there is one validation, not two to compare",
    ),
    ("apiserver_validation_declarative_validation_panic_total", "as above"),
    ("apiserver_validation_duplicate_validation_error_total", "as above"),
    (
        "cardinality_enforcement_unexpected_categorizations_total",
        "--allow-metric-labels is applied when metrics are read",
    ),
    ("etcd_bookmark_total", "etcd is not asked for notices of progress"),
    ("watch_cache_capacity", "history is bounded by bytes and age, not by a number of events"),
    ("watch_cache_capacity_increase_total", "as above"),
];

/// What no daemon but the API server shows: upstream's have it from the library of API servers.
const OF_SERVERS: Absent = &[
    ("aggregator_", "the daemon serves no API"),
    ("apiextensions_apiserver_", "as above"),
    ("apiserver_audit_", "as above"),
    ("apiserver_envelope_encryption_", "as above"),
    ("apiserver_kube_aggregator_", "as above"),
    ("apiserver_storage_", "as above"),
    ("apiserver_validation_", "as above"),
    ("apiserver_webhooks_", "as above"),
    (
        "cardinality_enforcement_unexpected_categorizations_total",
        "--allow-metric-labels is applied when metrics are read",
    ),
    ("rest_client_exec_plugin_", "programs for credentials are not run by the client"),
    ("rest_client_transport_", "connections are not pooled by their configuration"),
];

const OF_SCHEDULER: Absent = &[
    ("scheduler_batch_", "what a node said to a pod is kept for all pods like it, not for the next one"),
    ("scheduler_get_node_hint_duration_seconds", "as above"),
    ("scheduler_store_schedule_results_duration_seconds", "as above"),
    ("scheduler_inflight_events", "decisions and events take turns: none comes while a pod is decided on"),
];

const OF_CONTROLLERS: Absent = &[
    ("apiserver_cel_", "expressions of policies are checked for their types, not measured"),
    ("informer_", "there is no queue between a watch and its cache"),
    ("service_ca_cert_publisher_", "not part of Kubernetes, but of a distribution"),
];

/// What is shown only once something has happened that is not made to happen here: somebody waits for a seat, reads too slowly,
/// or is exempt.
const SELDOM: &[&str] = &[
    "apiserver_flowcontrol_current_inqueue_requests",
    "apiserver_flowcontrol_current_inqueue_seats",
    "apiserver_terminated_watchers_total",
    "pod_security_exemptions_total",
];

/// The same of controllers: there is nothing to publish.
const SELDOM_OF_CONTROLLERS: &[&str] =
    &["root_ca_cert_publisher_sync_duration_seconds", "root_ca_cert_publisher_sync_total"];

/// Prefixes of what tells of the language's runtime.
const RUNTIME: &[&str] = &["go_", "process_", "workqueue_"];

/// A metric as it is shown: its type, and the labels of all its series.
#[derive(Debug, Default)]
struct Shown {
    kind: String,
    labels: BTreeSet<String>,
}

fn names(_: &(), _: &str) -> Result<()> {
    let Some(folder) = reference("metrics") else { return Ok(()) };
    let list = fs::read_to_string(folder.join("kube-apiserver.tsv"))?;
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("tokens");
    fs::write(&config, nobody().to_string())?;
    let flags = vec![format!("--authentication-token-webhook-config-file={}", config.display())];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let admin = plane.admin()?;
    exercise(&plane, &admin)?;
    // Some are told of periods of ten seconds.
    plane.eventually("the page is as upstream's", 40, || {
        let wrong = differences(&list, &parse(&admin.get("/metrics")?.text()), &[ABSENT], SELDOM);
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(Some(()))
    })
}

/// What is not as a list of upstream's says.
fn differences(
    list: &str,
    shown: &BTreeMap<String, Shown>,
    absent: &[Absent],
    seldom: &[&str],
) -> Vec<String> {
    let mut wrong = Vec::new();
    for line in list.lines().skip(1) {
        let mut fields = line.split('\t');
        let mut field = || fields.next().unwrap_or_default();
        let (name, kind, labels) = (field(), field(), field());
        if RUNTIME.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let is_meant = |absent: &str| name == absent || absent.ends_with('_') && name.starts_with(absent);
        let absent = absent.iter().copied().flatten().any(|(absent, _)| is_meant(absent));
        match shown.get(name) {
            None if absent || seldom.contains(&name) => {}
            None => wrong.push(format!("{name} is not shown")),
            Some(_) if absent => wrong.push(format!("{name} is shown, and is said not to be")),
            Some(Shown { kind: ours, .. }) if ours != kind => {
                wrong.push(format!("{name} is a {ours}, not a {kind}"));
            }
            Some(Shown { labels: ours, .. }) => {
                let theirs: BTreeSet<String> =
                    labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect();
                if !theirs.is_empty() && !ours.is_empty() && *ours != theirs {
                    wrong.push(format!("{name} has the labels {ours:?}, not {theirs:?}"));
                }
            }
        }
    }
    wrong
}

/// The metrics of a page. Of histograms the series are those of their buckets, sums and counts.
fn parse(page: &str) -> BTreeMap<String, Shown> {
    let mut all = BTreeMap::<String, Shown>::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            current = name.to_owned();
            all.entry(current.clone()).or_default().kind = kind.to_owned();
        } else if !line.starts_with('#')
            && let Some((_, labels)) = line.split_once('{')
            && let Some(shown) = all.get_mut(&current)
        {
            let labels = labels.rsplit_once('}').map_or(labels, |(labels, _)| labels);
            let names = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
            shown.labels.extend(names.map(|(name, _)| name.to_owned()).filter(|name| name != "le"));
        }
    }
    all
}

/// Where a webhook would be that knows tokens, if anybody listened there.
fn nobody() -> Value {
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": true}}],
        "contexts": [{"name": "c", "context": {"cluster": "c"}}]})
}

/// Something of everything that is counted.
fn exercise(plane: &ControlPlane, admin: &Client) -> Result<()> {
    plane.namespace("counted")?;
    let map = json!({"metadata": {"name": "m", "labels": {"a": "b"}}, "data": {"a": "b"}});
    let maps = config_maps("counted", "");
    admin.post(&format!("{maps}?fieldValidation=Strict"), &map)?.ok()?;
    admin.get(&maps)?.ok()?;
    let mut watch = admin.watch(&format!(
        "{maps}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    ))?;
    watch.expect("ADDED")?;
    watch.expect("BOOKMARK")?;
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    admin.post("/api/v1/namespaces/counted/services", &service)?.ok()?;
    plane.client(None)?.with_token("unknown")?.get("/api")?.refused(401, "Unauthorized")?;
    // No TLS, and the server hangs up.
    let mut stream = TcpStream::connect(plane.address())?;
    stream.write_all(b"nonsense, and more of it\r\n\r\n")?;
    stream.read_to_end(&mut Vec::new()).ok();
    // A service account's token, and a user who may do nothing.
    let asked = json!({"spec": {"expirationSeconds": 3607}});
    let token = admin.post("/api/v1/namespaces/counted/serviceaccounts/default/token", &asked)?.ok()?;
    let token = token["status"]["token"].as_str().context("no token")?.to_owned();
    plane.client(None)?.with_token(&token)?.get(&maps)?.refused(403, "Forbidden")?;
    plane.user("system:node:n", "system:nodes")?.get("/api/v1/nodes/n")?.refused(404, "NotFound")?;
    plane.user("system:kube-scheduler", "")?.get("/api/v1/nodes")?.ok()?;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    admin.post("/api/v1/namespaces/counted/pods", &pod)?.ok()?;
    let rules = json!([{"rule": "self.size > 0"}]);
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"size": {"type": "integer"}}, "x-kubernetes-validations": rules}}}});
    let definition = json!({"metadata": {"name": "widgets.metrics.test"}, "spec": {"group": "metrics.test",
        "scope": "Cluster", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}});
    admin.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition)?.ok()?;
    let widget = json!({"apiVersion": "metrics.test/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1}});
    plane.eventually("the kind is served", 20, || {
        let made = admin.post("/apis/metrics.test/v1/widgets", &widget)?;
        Ok(matches!(made.code, 201 | 409).then_some(()))
    })?;
    let discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    admin.with_header("accept", discovery)?.get("/apis")?.ok()?;
    admin.get("/openapi/v2")?;
    Ok(())
}

/// The scheduler, with a pod that it placed, one that it cannot place and one that makes room.
fn of_scheduler(_: &(), _: &str) -> Result<()> {
    let Some(folder) = reference("metrics") else { return Ok(()) };
    let list = fs::read_to_string(folder.join("kube-scheduler.tsv"))?;
    let plane = ControlPlane::start(Options::default())?;
    plane.namespace("d")?;
    let admin = plane.admin()?;
    node(&admin, "a")?;
    let scheduler = Scheduler::start(&plane, &json!({}), &[])?;
    let pod = |name: &str, cpu: &str, class: &str| {
        let resources = json!({"requests": {"cpu": cpu}});
        let pod = json!({"metadata": {"name": name}, "spec": {"priorityClassName": class, "containers": [
            {"name": "c", "image": "keelson.local/none:1", "resources": resources}]}});
        admin.post("/api/v1/namespaces/d/pods", &pod)?.ok()
    };
    pod("small", "3", "")?;
    plane.eventually("a pod is bound", 60, || {
        let found = admin.get("/api/v1/namespaces/d/pods/small")?.ok()?;
        Ok(found["spec"]["nodeName"].is_string().then_some(()))
    })?;
    pod("large", "100", "")?;
    pod("urgent", "3", "system-node-critical")?;
    let client = scheduler.client(&plane)?;
    plane.eventually("the page is as upstream's", 60, || {
        let shown = parse(&client.get("/metrics")?.text());
        let wrong = differences(&list, &shown, &[OF_SERVERS, OF_SCHEDULER], &[]);
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(Some(()))
    })
}

/// The controllers, with something to do for those that tell of nothing before.
fn of_controllers(_: &(), _: &str) -> Result<()> {
    let Some(folder) = reference("metrics") else { return Ok(()) };
    let list = fs::read_to_string(folder.join("kube-controller-manager.tsv"))?;
    let plane = ControlPlane::start(Options::default())?;
    let admin = plane.admin()?;
    let manager = Daemon::start(&plane, "kube-controller-manager", &[])?;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let sets = json!({"metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": template}});
    admin.post("/apis/apps/v1/namespaces/default/replicasets", &sets)?.ok()?;
    let client = manager.client(&plane)?;
    plane.eventually("the page is as upstream's", 60, || {
        let shown = parse(&client.get("/metrics")?.text());
        let wrong = differences(&list, &shown, &[OF_SERVERS, OF_CONTROLLERS], SELDOM_OF_CONTROLLERS);
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(Some(()))
    })
}
