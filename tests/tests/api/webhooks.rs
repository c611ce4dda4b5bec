//! Admission webhooks: what the cluster's owner may change and refuse, and what may not be taken from them.

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::Method;
use serde_json::{Value, json};
use tests::{
    Answer, Client, ControlPlane,
    client::{JSON, JSON_PATCH, MERGE_PATCH},
    pki::Authority,
    receiver::{Call, Receiver, Reply},
    runner::Test,
};

use crate::config_maps;

pub(crate) const TESTS: &[Test<ControlPlane>] = &[
    ("a webhook refuses in its own words, with its own code", refusal),
    ("a webhook is shown what it needs to decide", question),
    ("webhooks change objects one after the other", mutation),
    ("what a webhook adds gets its defaults", defaults),
    ("a webhook that asks for it sees later changes", reinvocation),
    ("attaching to a pod can be refused", connects),
    ("custom resources are refused and changed like built-in ones", custom_resources),
    ("custom resources are shown in the version a rule names", custom_versions),
    ("new definitions of custom resources can be refused", definitions),
    ("configurations of webhooks are not subject to webhooks", configurations),
    ("a webhook that cannot be reached refuses or lets pass, as told", failure_policy),
    ("a webhook has the time it asks for", timeouts),
    ("rules count as they are now", rules),
    ("labels choose what a webhook sees", selectors),
    ("a dry run asks only webhooks without side effects", dry_run),
    ("warnings reach the client", warnings),
    ("answers that are none are failures", malformed),
    ("the older form of reviews is still spoken", beta),
];

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// Webhooks of one test, gone when it ends.
struct Hooks {
    admin: Client,
    receiver: Receiver,
    ns: String,
    made: Vec<String>,
}

impl Hooks {
    fn new(plane: &ControlPlane, ns: &str) -> Result<Self> {
        let receiver = Receiver::start(&plane.ca, answer)?;
        Ok(Self { admin: plane.admin()?, receiver, ns: ns.to_owned(), made: Vec::new() })
    }

    /// Lets requests pass when the webhook registered at a path fails.
    fn fail_open(&self, registered: &str) -> Result<()> {
        let patch = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
        self.admin.patch(registered, JSON_PATCH, &patch)?.ok().map(drop)
    }

    /// One webhook for creations of config maps in this test's namespace; `more` says what is different.
    fn hook(&self, path: &str, more: &Value) -> Value {
        let mut hook = json!({
            "name": format!("{}.example.com", path.trim_matches('/').replace('/', "-")),
            "clientConfig": self.receiver.client_config(path),
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.ns}},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1", "v1beta1"],
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            hook[field] = value.clone();
        }
        hook
    }

    /// Registers webhooks under a name of this test.
    fn register(&mut self, collection: &str, name: &str, hooks: &[Value]) -> Result<String> {
        let name = format!("{}-{name}", self.ns);
        self.admin.post(collection, &json!({"metadata": {"name": name}, "webhooks": hooks}))?.ok()?;
        self.made.push(format!("{collection}/{name}"));
        Ok(format!("{collection}/{name}"))
    }

    fn create(&self, name: &str) -> Result<Answer> {
        self.admin
            .post(&config_maps(&self.ns, ""), &json!({"metadata": {"name": name}, "data": {"start": "yes"}}))
    }

    /// Creates config maps until one is answered as wanted: webhooks count some moments after they are registered.
    fn until(&self, plane: &ControlPlane, what: &str, wanted: impl Fn(&Answer) -> bool) -> Result<Answer> {
        let mut at = 0;
        plane.eventually(what, 10, || {
            at += 1;
            let answer = self.create(&format!("probe-{at}"))?;
            if answer.code == 201 {
                self.admin.delete(&config_maps(&self.ns, &format!("probe-{at}")))?.ok()?;
            }
            Ok(wanted(&answer).then_some(answer))
        })
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        for path in &self.made {
            // What is gone already need not go again.
            self.admin.delete(path).ok();
        }
    }
}

/// The receiver's behaviour by path.
fn answer(call: &Call) -> Reply {
    let request = &call.body["request"];
    let uid = &request["uid"];
    let review = |response: Value| {
        let mut response = response;
        response["uid"] = uid.clone();
        Reply::Json(
            json!({"apiVersion": call.body["apiVersion"], "kind": "AdmissionReview", "response": response}),
        )
    };
    let patched = |patch: Value| {
        let patch = BASE64_STANDARD.encode(patch.to_string());
        review(json!({"allowed": true, "patchType": "JSONPatch", "patch": patch}))
    };
    let has = |key: &str| request["object"]["data"].get(key).is_some();
    match call.path.as_str() {
        "/deny" => review(
            json!({"allowed": false, "status": {"message": "not here", "code": 403, "reason": "NoWay"}}),
        ),
        "/deny-plainly" => review(json!({"allowed": false})),
        "/deny-with-reason" => review(json!({"allowed": false, "status": {"reason": "because"}})),
        "/one" if has("start") => patched(json!([{"op": "add", "path": "/data/one", "value": "yes"}])),
        "/two" if has("one") => patched(json!([{"op": "add", "path": "/data/two", "value": "yes"}])),
        "/init" => patched(json!([{"op": "add", "path": "/spec/initContainers",
            "value": [{"name": "added", "image": "i", "resources": {}}]}])),
        "/unknown" => patched(json!([{"op": "add", "path": "/data/unknown", "value": "yes"}])),
        "/label" => patched(json!([{"op": "add", "path": "/metadata/labels", "value": {"changed": "yes"}}])),
        "/silence" => Reply::Silence,
        "/away" => Reply::Redirect("/deny"),
        "/broken" => Reply::Code(500, json!({"message": "broken"})),
        "/other-uid" => Reply::Json(
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "x", "allowed": true}}),
        ),
        "/bad-patch" => {
            review(json!({"allowed": true, "patchType": "JSONPatch", "patch": BASE64_STANDARD.encode("{")}))
        }
        "/nothing" => Reply::Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"})),
        "/warn" => {
            review(json!({"allowed": true, "warnings": ["first", "second"], "auditAnnotations": {"k": "v"}}))
        }
        _ => review(json!({"allowed": true})),
    }
}

fn refusal(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    let all = json!({"rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps", "pods"]}],
        "objectSelector": {"matchLabels": {"guarded": "yes"}}});
    hooks.register(VALIDATING, "v", &[hooks.hook("/deny", &all)])?;
    let guarded = json!({"metadata": {"name": "a", "labels": {"guarded": "yes"}}});
    let status = plane.eventually("the webhook counts", 10, || {
        let answer = hooks.admin.post(&config_maps(ns, ""), &guarded)?;
        if answer.code == 201 {
            hooks.admin.delete(&config_maps(ns, "a"))?;
        }
        Ok((answer.code == 403).then_some(answer))
    })?;
    let status = status.json()?;
    ensure!(
        status["message"] == "admission webhook \"deny.example.com\" denied the request: not here"
            && status["reason"] == "NoWay"
            && status["status"] == "Failure",
        "{status}"
    );
    hooks.create("free")?.ok()?;
    let change = json!({"metadata": {"labels": {"guarded": "yes"}}});
    let patched = hooks.admin.patch(&config_maps(ns, "free"), MERGE_PATCH, &change)?;
    ensure!(patched.code == 403, "{}", patched.text());
    hooks.admin.delete(&config_maps(ns, "free"))?.ok()?;
    let pods = format!("/api/v1/namespaces/{ns}/pods");
    let pod = json!({"metadata": {"name": "p", "labels": {"guarded": "yes"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    ensure!(hooks.admin.post(&pods, &pod)?.code == 403, "pods are not guarded");
    for (path, message) in [
        (
            "/deny-plainly",
            "admission webhook \"deny-plainly.example.com\" denied the request without explanation",
        ),
        (
            "/deny-with-reason",
            "admission webhook \"deny-with-reason.example.com\" denied the request: because",
        ),
    ] {
        let made = hooks.register(VALIDATING, "w", &[hooks.hook(path, &json!({}))])?;
        let answer = hooks.until(plane, "the webhook refuses", |answer| answer.code == 400)?;
        ensure!(answer.json()?["message"] == message, "{}", answer.text());
        hooks.admin.delete(&made)?.ok()?;
        hooks.until(plane, "the webhook is gone", |answer| answer.code == 201)?;
    }
    Ok(())
}

fn question(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    // What has no namespace is of other tests.
    let all = json!({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"],
        "scope": "Namespaced"}]});
    hooks.register(VALIDATING, "v", &[hooks.hook("/ask", &all)])?;
    hooks.until(plane, "the webhook is asked", |_| !hooks.receiver.calls("/ask").is_empty())?;
    let before = hooks.receiver.calls("/ask").len();
    let jane = plane.user("jane", "system:masters")?;
    let made = json!({"metadata": {"generateName": "made-"}, "data": {"a": "b"}});
    let made = jane.post(&format!("{}?fieldManager=tests", config_maps(ns, "")), &made)?.ok()?;
    let name = made["metadata"]["name"].as_str().context("a name")?;
    jane.patch(&config_maps(ns, name), MERGE_PATCH, &json!({"data": {"a": "c"}}))?.ok()?;
    jane.delete(&config_maps(ns, name))?.ok()?;
    let mut calls = hooks.receiver.calls("/ask").split_off(before);
    calls.retain(|call| call.body["request"]["resource"]["resource"] == "configmaps");
    ensure!(calls.len() == 3, "{} calls", calls.len());
    ensure!(calls.iter().all(|call| call.query == "timeout=10s"), "{}", calls[0].query);
    let requests: Vec<&Value> = calls.iter().map(|call| &call.body["request"]).collect();
    for (request, operation) in requests.iter().zip(["CREATE", "UPDATE", "DELETE"]) {
        ensure!(
            request["operation"] == operation
                && request["kind"] == json!({"group": "", "version": "v1", "kind": "ConfigMap"})
                && request["requestKind"] == request["kind"]
                && request["resource"] == json!({"group": "", "version": "v1", "resource": "configmaps"})
                && request["requestResource"] == request["resource"]
                && request["namespace"] == ns
                && request["dryRun"] == false
                && request["userInfo"]["username"] == "jane"
                && request["userInfo"]["groups"] == json!(["system:masters", "system:authenticated"]),
            "{request}"
        );
    }
    let [create, update, delete] = requests[..] else { unreachable!("there are three") };
    ensure!(create["oldObject"].is_null() && create["object"]["data"] == json!({"a": "b"}), "{create}");
    ensure!(
        create["options"]["kind"] == "CreateOptions" && create["options"]["fieldManager"] == "tests",
        "{create}"
    );
    ensure!(update["name"] == name && update["oldObject"]["data"] == json!({"a": "b"}), "{update}");
    ensure!(
        update["object"]["data"] == json!({"a": "c"}) && update["options"]["kind"] == "UpdateOptions",
        "{update}"
    );
    ensure!(delete["object"].is_null() && delete["oldObject"]["data"] == json!({"a": "c"}), "{delete}");
    ensure!(delete["options"]["kind"] == "DeleteOptions", "{delete}");
    let body = &calls[0].body;
    ensure!(body["kind"] == "AdmissionReview" && body["apiVersion"] == "admission.k8s.io/v1", "{body}");
    Ok(())
}

fn mutation(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    hooks.register(MUTATING, "a", &[hooks.hook("/one", &json!({}))])?;
    hooks.register(MUTATING, "b", &[hooks.hook("/two", &json!({}))])?;
    let made =
        hooks.until(plane, "both webhooks count", |answer| answer.text().contains("\"two\""))?.json()?;
    ensure!(made["data"] == json!({"start": "yes", "one": "yes", "two": "yes"}), "{made}");
    hooks.create("kept")?.ok()?;
    let kept = hooks.admin.get(&config_maps(ns, "kept"))?.ok()?;
    ensure!(kept["data"] == json!({"start": "yes", "one": "yes", "two": "yes"}), "{kept}");
    // A dry run answers what it would be, and a validating webhook sees the final object.
    hooks.register(VALIDATING, "v", &[hooks.hook("/ask", &json!({}))])?;
    hooks.until(plane, "the validating webhook counts", |_| !hooks.receiver.calls("/ask").is_empty())?;
    let path = format!("{}?dryRun=All", config_maps(ns, ""));
    let dry =
        hooks.admin.post(&path, &json!({"metadata": {"name": "dry"}, "data": {"start": "yes"}}))?.ok()?;
    ensure!(dry["data"]["two"] == "yes", "{dry}");
    let last = hooks.receiver.calls("/ask").pop().context("it was asked")?;
    ensure!(last.body["request"]["object"]["data"]["two"] == "yes", "{}", last.body);
    ensure!(last.body["request"]["dryRun"] == true, "{}", last.body);
    Ok(())
}

fn defaults(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    let pods = json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
    hooks.register(MUTATING, "m", &[hooks.hook("/init", &pods)])?;
    let path = format!("/api/v1/namespaces/{ns}/pods");
    let mut at = 0;
    let pod = plane.eventually("the webhook counts", 10, || {
        at += 1;
        let pod = json!({"metadata": {"name": format!("p{at}")}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let made = hooks.admin.post(&path, &pod)?.ok()?;
        Ok(made["spec"].get("initContainers").is_some().then_some(made))
    })?;
    let added = &pod["spec"]["initContainers"][0];
    ensure!(
        added["name"] == "added"
            && added["terminationMessagePolicy"] == "File"
            && added["imagePullPolicy"] == "Always"
            && added["volumeMounts"][0]["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount",
        "{added}"
    );
    Ok(())
}

fn reinvocation(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    // The first can do its part only after the second did: it is asked again because it wants that.
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    hooks.register(MUTATING, "m", &[hooks.hook("/two", &again), hooks.hook("/one", &json!({}))])?;
    let made =
        hooks.until(plane, "the first is asked again", |answer| answer.text().contains("\"two\""))?.json()?;
    ensure!(made["data"] == json!({"start": "yes", "one": "yes", "two": "yes"}), "{made}");
    let before = (hooks.receiver.calls("/one").len(), hooks.receiver.calls("/two").len());
    hooks.create("counted")?.ok()?;
    let after = (hooks.receiver.calls("/one").len(), hooks.receiver.calls("/two").len());
    ensure!(after == (before.0 + 1, before.1 + 2), "from {before:?} to {after:?}");
    Ok(())
}

fn connects(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    let pods = format!("/api/v1/namespaces/{ns}/pods");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    hooks.admin.post(&pods, &pod)?.ok()?;
    let rule = json!({"rules": [{"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/attach"]}]});
    hooks.register(VALIDATING, "v", &[hooks.hook("/deny", &rule)])?;
    let attach =
        || hooks.admin.send(Method::POST, &format!("{pods}/p/attach?container=c&stdin=true"), "", "");
    let answer = plane.eventually("attaching is refused", 10, || {
        let answer = attach()?;
        Ok((answer.code == 403).then_some(answer))
    })?;
    ensure!(answer.text().contains("denied the request: not here"), "{}", answer.text());
    let last = hooks.receiver.calls("/deny").pop().context("it was asked")?;
    let request = &last.body["request"];
    ensure!(
        request["operation"] == "CONNECT"
            && request["subResource"] == "attach"
            && request["name"] == "p"
            && request["kind"] == json!({"group": "", "version": "v1", "kind": "PodAttachOptions"})
            && request["object"]["kind"] == "PodAttachOptions"
            && request["object"]["stdin"] == true
            && request["object"]["container"] == "c",
        "{request}"
    );
    Ok(())
}

/// Defines a custom resource of a group of this test's own; two versions, the first one stored.
fn define(hooks: &mut Hooks, plane: &ControlPlane, ns: &str, plural: &str) -> Result<String> {
    let group = format!("{ns}.example.com");
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "data": {"type": "object", "properties": {
            "start": {"type": "string"}, "one": {"type": "string"}, "two": {"type": "string"}}}}}});
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": schema});
    let kind = format!("{}{}", plural[..1].to_uppercase(), &plural[1..plural.len() - 1]);
    let definition = json!({"metadata": {"name": format!("{plural}.{group}")}, "spec": {
        "group": group, "scope": "Namespaced",
        "names": {"plural": plural, "singular": plural[..plural.len() - 1], "kind": kind, "listKind": format!("{kind}List")},
        "versions": [version("v1", true), version("v2", false)]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    hooks.admin.post(definitions, &definition)?.ok()?;
    hooks.made.push(format!("{definitions}/{plural}.{group}"));
    let path = format!("/apis/{group}/v1/namespaces/{ns}/{plural}");
    plane.eventually("the custom resource is served", 10, || {
        Ok((hooks.admin.get(&path)?.code == 200).then_some(()))
    })?;
    Ok(group)
}

fn custom_resources(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    let group = define(&mut hooks, plane, ns, "widgets")?;
    let path = format!("/apis/{group}/v1/namespaces/{ns}/widgets");
    let rule = |operations: &[&str]| json!({"rules": [{"operations": operations, "apiGroups": [group], "apiVersions": ["v1"], "resources": ["widgets"]}]});
    let widget = |name: &str| json!({"apiVersion": format!("{group}/v1"), "kind": "Widget", "metadata": {"name": name}, "data": {"start": "yes"}});
    let unknown = hooks.hook("/unknown", &rule(&["CREATE"]));
    hooks.register(
        MUTATING,
        "m",
        &[hooks.hook("/one", &rule(&["CREATE"])), hooks.hook("/two", &rule(&["CREATE"])), unknown],
    )?;
    let mut at = 0;
    let made = plane.eventually("the webhooks count", 10, || {
        at += 1;
        let made = hooks.admin.post(&path, &widget(&format!("w{at}")))?.ok()?;
        Ok((made["data"]["two"] == "yes").then_some(made))
    })?;
    // What the schema does not know goes again.
    ensure!(made["data"] == json!({"start": "yes", "one": "yes", "two": "yes"}), "{made}");
    let mut guarded = rule(&["CREATE", "UPDATE", "DELETE"]);
    guarded["objectSelector"] = json!({"matchLabels": {"guarded": "yes"}});
    hooks
        .admin
        .patch(&format!("{path}/w1"), MERGE_PATCH, &json!({"metadata": {"labels": {"guarded": "yes"}}}))?
        .ok()?;
    hooks.register(VALIDATING, "v", &[hooks.hook("/deny", &guarded)])?;
    plane.eventually("changes are refused", 10, || {
        let answer =
            hooks.admin.patch(&format!("{path}/w1"), MERGE_PATCH, &json!({"data": {"start": "no"}}))?;
        Ok((answer.code == 403).then_some(()))
    })?;
    let gone = hooks.admin.delete(&format!("{path}/w1"))?;
    ensure!(gone.code == 403 && gone.text().contains("denied the request: not here"), "{}", gone.text());
    let mut another = widget("w");
    another["metadata"]["labels"] = json!({"guarded": "yes"});
    ensure!(hooks.admin.post(&path, &another)?.code == 403, "creations are not refused");
    let of_others = json!({"metadata": {"labels": null}});
    // Nobody may take the label off either: the old object has it.
    ensure!(
        hooks.admin.patch(&format!("{path}/w1"), MERGE_PATCH, &of_others)?.code == 403,
        "the old object does not count"
    );
    Ok(())
}

fn custom_versions(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    let group = define(&mut hooks, plane, ns, "gadgets")?;
    let rule = json!([{"operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": ["v2"], "resources": ["gadgets"]}]);
    let equivalent = hooks.hook("/ask", &json!({"rules": rule, "matchPolicy": "Equivalent"}));
    let exact = hooks.hook("/exact", &json!({"rules": rule, "matchPolicy": "Exact"}));
    hooks.register(MUTATING, "m", &[hooks.hook("/one", &json!({"rules": rule})), equivalent, exact])?;
    let path = |version: &str, name: &str| format!("/apis/{group}/{version}/namespaces/{ns}/gadgets{name}");
    let gadget = |name: &str| json!({"apiVersion": format!("{group}/v1"), "kind": "Gadget", "metadata": {"name": name}, "data": {"start": "yes"}});
    let mut at = 0;
    plane.eventually("the webhooks count", 10, || {
        at += 1;
        let made = hooks.admin.post(&path("v1", ""), &gadget(&format!("g{at}")))?.ok()?;
        ensure!(made["apiVersion"] == format!("{group}/v1").as_str(), "{made}");
        Ok((made["data"]["one"] == "yes").then_some(()))
    })?;
    let last = hooks.receiver.calls("/ask").pop().context("it was asked")?;
    let request = &last.body["request"];
    ensure!(
        request["kind"] == json!({"group": group, "version": "v2", "kind": "Gadget"})
            && request["requestKind"]["version"] == "v1"
            && request["resource"]["version"] == "v2"
            && request["requestResource"]["version"] == "v1"
            && request["object"]["apiVersion"] == format!("{group}/v2").as_str(),
        "{request}"
    );
    ensure!(hooks.receiver.calls("/exact").is_empty(), "an exact rule matched another version");
    let stored = hooks.admin.get(&path("v2", &format!("/g{at}")))?.ok()?;
    ensure!(
        stored["data"]["one"] == "yes" && stored["apiVersion"] == format!("{group}/v2").as_str(),
        "{stored}"
    );
    Ok(())
}

fn definitions(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    let rule = json!({"rules": [{"operations": ["CREATE"], "apiGroups": ["apiextensions.k8s.io"], "apiVersions": ["*"],
            "resources": ["customresourcedefinitions"]}],
        "namespaceSelector": {}, "objectSelector": {"matchLabels": {"of": ns}}});
    hooks.register(VALIDATING, "v", &[hooks.hook("/deny", &rule)])?;
    let group = format!("{ns}.example.com");
    let definition = json!({"metadata": {"name": format!("things.{group}"), "labels": {"of": ns}}, "spec": {
        "group": group, "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    plane.eventually("definitions are refused", 10, || {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let answer = hooks.admin.post(path, &definition)?;
        if answer.code == 201 {
            hooks.admin.delete(&format!("{path}/things.{group}"))?.ok()?;
        }
        Ok((answer.code == 403).then_some(()))
    })
}

fn configurations(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    let all = json!({"rules": [{"operations": ["*"], "apiGroups": ["admissionregistration.k8s.io"], "apiVersions": ["*"],
            "resources": ["*"]}],
        "namespaceSelector": {}, "objectSelector": {"matchLabels": {"of": ns}}});
    hooks.register(VALIDATING, "v", &[hooks.hook("/deny", &all)])?;
    hooks.register(MUTATING, "m", &[hooks.hook("/label", &all)])?;
    // Others that surely count are there to tell when these do.
    hooks.register(VALIDATING, "w", &[hooks.hook("/deny-plainly", &json!({}))])?;
    hooks.until(plane, "the webhooks count", |answer| answer.code == 400)?;
    for collection in [VALIDATING, MUTATING] {
        let name = format!("{ns}-plain");
        let plain = json!({"metadata": {"name": name, "labels": {"of": ns}}, "webhooks": []});
        let made = hooks.admin.post(collection, &plain)?.ok()?;
        ensure!(made["metadata"]["labels"] == json!({"of": ns}), "{made}");
        hooks.admin.delete(&format!("{collection}/{name}"))?.ok()?;
    }
    ensure!(
        hooks.receiver.calls("/deny").is_empty() && hooks.receiver.calls("/label").is_empty(),
        "they were asked"
    );
    Ok(())
}

fn failure_policy(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    let stranger = Authority::new("stranger")?;
    let mut distrusted = hooks.hook("/distrusted", &json!({}));
    distrusted["clientConfig"]["caBundle"] = json!(BASE64_STANDARD.encode(&stranger.cert));
    let missing = json!({"service": {"namespace": ns, "name": "missing"}});
    let cases = [
        (
            "distrusted",
            distrusted,
            "failed calling webhook \"distrusted.example.com\": failed to call webhook: ",
        ),
        (
            "missing",
            hooks.hook("/missing", &json!({"clientConfig": missing})),
            "service \"missing\" not found",
        ),
        ("away", hooks.hook("/away", &json!({})), "failed calling webhook \"away.example.com\""),
        ("broken", hooks.hook("/broken", &json!({})), "failed calling webhook \"broken.example.com\""),
    ];
    for collection in [MUTATING, VALIDATING] {
        for (name, hook, message) in &cases {
            let made = hooks.register(collection, name, std::slice::from_ref(hook))?;
            let answer = hooks.until(plane, "the webhook fails closed", |answer| answer.code == 500)?;
            answer.refused_with(500, "InternalError", message)?;
            hooks.fail_open(&made)?;
            hooks.until(plane, "the webhook fails open", |answer| answer.code == 201)?;
            hooks.admin.delete(&made)?.ok()?;
        }
    }
    ensure!(hooks.receiver.calls("/deny").is_empty(), "a redirect was followed");
    Ok(())
}

fn timeouts(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    let closed = hooks.hook("/silence", &json!({"timeoutSeconds": 1}));
    let made = hooks.register(VALIDATING, "v", &[closed])?;
    let answer = hooks.until(plane, "the webhook times out", |answer| answer.code == 500)?;
    answer.refused_with(500, "InternalError", "context deadline exceeded")?;
    let call = hooks.receiver.calls("/silence").pop().context("it was asked")?;
    ensure!(call.query == "timeout=1s", "{}", call.query);
    hooks.fail_open(&made)?;
    hooks.until(plane, "the webhook is not waited for", |answer| answer.code == 201)?;
    for seconds in [0, 31] {
        let wrong = hooks.hook("/silence", &json!({"timeoutSeconds": seconds}));
        let answer = hooks
            .admin
            .post(VALIDATING, &json!({"metadata": {"name": format!("{ns}-t")}, "webhooks": [wrong]}))?;
        answer.refused_with(422, "Invalid", "the timeout value must be between 1 and 30 seconds")?;
    }
    Ok(())
}

fn rules(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    let made = hooks.register(VALIDATING, "v", &[hooks.hook("/deny", &json!({}))])?;
    hooks.until(plane, "creations are refused", |answer| answer.code == 403)?;
    let mut configuration = hooks.admin.get(&made)?.ok()?;
    configuration["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"]);
    hooks.admin.put(&made, &configuration)?.ok()?;
    hooks.until(plane, "creations pass", |answer| answer.code == 201)?;
    let back = json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["CREATE"]}]);
    hooks.admin.patch(&made, JSON_PATCH, &back)?.ok()?;
    hooks.until(plane, "creations are refused again", |answer| answer.code == 403)?;
    hooks.admin.patch(&made, MERGE_PATCH, &json!({"metadata": {"labels": {"of": ns}}}))?.ok()?;
    hooks.admin.send(Method::DELETE, &format!("{VALIDATING}?labelSelector=of%3D{ns}"), JSON, "{}")?.ok()?;
    hooks.until(plane, "creations pass without the webhook", |answer| answer.code == 201)?;
    Ok(())
}

fn selectors(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    let chosen = json!({"namespaceSelector": {"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [ns]},
        {"key": "skip", "operator": "DoesNotExist"}]}});
    hooks.register(VALIDATING, "v", &[hooks.hook("/deny", &chosen)])?;
    hooks.until(plane, "creations are refused", |answer| answer.code == 403)?;
    let path = format!("/api/v1/namespaces/{ns}");
    hooks.admin.patch(&path, MERGE_PATCH, &json!({"metadata": {"labels": {"skip": "yes"}}}))?.ok()?;
    hooks.until(plane, "the namespace is skipped", |answer| answer.code == 201)?;
    Ok(())
}

fn dry_run(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    // v1 configurations may not say `Some` or `Unknown` any more.
    let unsure = hooks.hook("/ask", &json!({"sideEffects": "Some"}));
    let answer = hooks
        .admin
        .post(VALIDATING, &json!({"metadata": {"name": format!("{ns}-s")}, "webhooks": [unsure]}))?;
    answer.refused_with(422, "Invalid", "webhooks[0].sideEffects")?;
    let sure = hooks.hook("/ask", &json!({"sideEffects": "NoneOnDryRun"}));
    hooks.register(VALIDATING, "v", &[sure])?;
    hooks.until(plane, "the webhook counts", |_| !hooks.receiver.calls("/ask").is_empty())?;
    let path = format!("{}?dryRun=All", config_maps(ns, ""));
    hooks.admin.post(&path, &json!({"metadata": {"name": "dry"}}))?.ok()?;
    let last = hooks.receiver.calls("/ask").pop().context("it was asked")?;
    ensure!(last.body["request"]["dryRun"] == true, "{}", last.body);
    ensure!(last.body["request"]["options"]["dryRun"] == json!(["All"]), "{}", last.body);
    Ok(())
}

fn warnings(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    hooks.register(VALIDATING, "v", &[hooks.hook("/warn", &json!({}))])?;
    let answer = hooks.until(plane, "the webhook warns", |answer| answer.headers.contains_key("warning"))?;
    let told = answer.warnings();
    ensure!(told == ["299 - \"first\"", "299 - \"second\""], "{told:?}");
    Ok(())
}

fn malformed(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    for (collection, path, message) in [
        (MUTATING, "/other-uid", "expected response.uid="),
        (MUTATING, "/bad-patch", "webhook \"bad-patch.example.com\""),
        (MUTATING, "/nothing", "webhook response was absent"),
        (VALIDATING, "/nothing", "webhook response was absent"),
        (VALIDATING, "/label", "validating webhook may not return response.patch"),
    ] {
        let made = hooks.register(collection, "x", &[hooks.hook(path, &json!({}))])?;
        let answer = hooks.until(plane, "the answer is a failure", |answer| answer.code == 500)?;
        answer.refused_with(500, "InternalError", message)?;
        hooks.admin.delete(&made)?.ok()?;
        hooks.until(plane, "the webhook is gone", |answer| answer.code == 201)?;
    }
    Ok(())
}

fn beta(plane: &ControlPlane, ns: &str) -> Result<()> {
    let mut hooks = Hooks::new(plane, ns)?;
    let old = hooks.hook("/one", &json!({"admissionReviewVersions": ["v9", "v1beta1", "v1"]}));
    hooks.register(MUTATING, "m", &[old])?;
    hooks.until(plane, "the webhook counts", |answer| answer.text().contains("\"one\""))?;
    let call = hooks.receiver.calls("/one").pop().context("it was asked")?;
    ensure!(call.body["apiVersion"] == "admission.k8s.io/v1beta1", "{}", call.body);
    Ok(())
}
