//! A scheduler with an extender: a program that says over HTTPS which nodes come into question, which is best, and that
//! it binds pods itself.

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tests::{
    Client, ControlPlane,
    control_plane::Options,
    receiver::{Call, Receiver, Reply},
    runner::Test,
};

use crate::scheduling::{Scheduler, node};

pub(crate) const TESTS: &[Test<()>] =
    &[("an extender has its say about the pods that are its business", decides)];

/// Only pods that ask for some of it are the extender's business.
const THING: &str = "example.com/thing";

/// Refuses node `a` and likes `c`; nothing is good enough for pods called `picky`. It binds what it is told to.
fn answer(call: &Call) -> Reply {
    let picky = call.body["Pod"]["metadata"]["name"] == "picky";
    let offered = call.body["NodeNames"].as_array().cloned().unwrap_or_default();
    Reply::Json(match call.path.as_str() {
        "/filter" if picky => {
            let why = offered
                .iter()
                .filter_map(Value::as_str)
                .map(|node| (node.to_owned(), "not fine enough".into()));
            json!({"NodeNames": [], "FailedNodes": why.collect::<serde_json::Map<String, Value>>()})
        }
        "/filter" => {
            let left: Vec<&Value> = offered.iter().filter(|node| **node != "a").collect();
            json!({"NodeNames": left, "FailedNodes": {"a": "busy"}})
        }
        "/prioritize" => {
            let score = |node: &Value| json!({"Host": node, "Score": if node == "c" { 10 } else { 0 }});
            offered.iter().map(score).collect()
        }
        "/bind" => json!({}),
        _ => return Reply::Code(404, json!({})),
    })
}

fn decides(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options::default())?;
    plane.namespace("d")?;
    let admin = plane.admin()?;
    for name in ["a", "b", "c"] {
        node(&admin, name)?;
    }
    let receiver = Receiver::start(&plane.ca, answer)?;
    let _scheduler = scheduler(&plane, &receiver)?;
    for (pod, asks) in [("plain", false), ("managed", true), ("picky", true)] {
        create(&admin, pod, asks)?;
    }
    let told = |what: &str, probe: &mut dyn FnMut() -> Result<Option<()>>| {
        plane.eventually(what, 60, probe).with_context(|| plane.logs())
    };
    told("a pod that asks for nothing special is bound by the scheduler", &mut || {
        Ok(pod(&admin, "plain")?["spec"]["nodeName"].is_string().then_some(()))
    })?;
    told("the extender is told to bind its pod to the node it likes", &mut || {
        Ok((!receiver.calls("/bind").is_empty()).then_some(()))
    })?;
    let bind = &receiver.calls("/bind")[0].body;
    let managed = pod(&admin, "managed")?;
    let expected =
        json!({"PodName": "managed", "PodNamespace": "d", "PodUID": managed["metadata"]["uid"], "Node": "c"});
    ensure!(*bind == expected, "{bind}");
    told("what the extender refuses is told", &mut || {
        let picky = pod(&admin, "picky")?;
        let conditions = picky["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let said = conditions.iter().find(|c| c["type"] == "PodScheduled").cloned().unwrap_or_default();
        let message = said["message"].as_str().unwrap_or_default();
        Ok(message.contains("3 not fine enough").then_some(()))
    })?;
    let asked = receiver.calls("/filter");
    let others = asked.iter().filter(|call| call.body["Pod"]["metadata"]["name"] == "plain").count();
    ensure!(others == 0, "the extender was asked about a pod that is not its business");
    ensure!(asked.iter().all(|call| call.body["NodeNames"].as_array().map(Vec::len) == Some(3)), "{asked:?}");
    ensure!(receiver.calls("/prioritize").iter().all(|call| call.body["NodeNames"] == json!(["b", "c"])));
    Ok(())
}

fn create(admin: &Client, name: &str, asks: bool) -> Result<()> {
    let resources = if asks { json!({"requests": {THING: "1"}, "limits": {THING: "1"}}) } else { json!({}) };
    let pod = json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "c", "image": "keelson.local/none:1", "resources": resources}]}});
    admin.post("/api/v1/namespaces/d/pods", &pod)?.ok()?;
    Ok(())
}

fn pod(admin: &Client, name: &str) -> Result<Value> {
    admin.get(&format!("/api/v1/namespaces/d/pods/{name}"))?.ok()
}

/// The scheduler with the extender in its file.
fn scheduler(plane: &ControlPlane, receiver: &Receiver) -> Result<Scheduler> {
    let extender = json!({"urlPrefix": receiver.url(""), "filterVerb": "filter", "prioritizeVerb": "prioritize",
        "bindVerb": "bind", "weight": 100, "nodeCacheCapable": true, "enableHTTPS": true,
        "tlsConfig": {"caData": BASE64_STANDARD.encode(&plane.ca.cert)},
        "managedResources": [{"name": THING, "ignoredByScheduler": true}]});
    Scheduler::start(plane, &json!({"extenders": [extender]}), &[])
}
