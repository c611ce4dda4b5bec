//! `pods/exec`, `attach` and `portforward`: streams into a container or pod, through its kubelet.
//!
//! SPDY upgrades and the older WebSocket protocols go on as they came; WebSockets with the newer ones are spoken here and
//! become SPDY towards the kubelet, as in upstream's `translator` handlers (KEP-4006).

use component_base::features::Gate;
use http::{HeaderName, Method, Request, Response, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Connect, End, dial::Target, metrics, translate, tunnel, upgrade, websocket};
use crate::{
    object::Object,
    request_path::info::Query,
    response::Body,
    status::{Reason, Status},
};

/// The version of a SPDY stream protocol wanted and chosen.
pub(super) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");

const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A path segment or query value.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, KEPT).to_string()
}

/// The options of a streaming request as its object has them, for admission.
pub(super) fn options(end: End, query: &Query) -> Vec<(&'static str, Value)> {
    let flags = ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|f| query.flag(f));
    let mut all: Vec<(&'static str, Value)> = match end {
        End::Exec | End::Attach => flags.map(|f| (f, Value::Bool(true))).collect(),
        _ => Vec::new(),
    };
    let container = query.get("container");
    if matches!(end, End::Exec | End::Attach) && !container.is_empty() {
        all.push(("container", container.into()));
    }
    if end == End::Exec {
        all.push(("command", query.all("command").to_vec().into()));
    }
    if end == End::PortForward {
        let ports: Vec<i64> = query.all("ports").iter().filter_map(|p| p.parse().ok()).collect();
        all.push(("ports", ports.into()));
    }
    all
}

/// The container a request means: the named one, which must be there, or the only one.
///
/// # Errors
/// 400 in upstream's words, naming the choices.
pub(super) fn container_of(pod: &Object, named: &str) -> Result<String, Status> {
    let names = |pointer: &str| -> Vec<&str> {
        let list = pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|c| c.get("name")?.as_str()).collect()
    };
    let main = names("/spec/containers");
    let mut all = names("/spec/initContainers");
    all.extend(&main);
    all.extend(names("/spec/ephemeralContainers"));
    let pod = pod.name();
    if !named.is_empty() {
        if all.contains(&named) {
            return Ok(named.to_owned());
        }
        return Err(Status::bad_request(format!("container {named} is not valid for pod {pod}")));
    }
    match main.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {pod}"))),
        _ => Err(Status::bad_request(format!(
            "a container name must be specified for pod {pod}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

/// Path and query at the kubelet. Pure.
fn kubelet_uri(end: End, pod: &Object, query: &Query) -> Result<String, Status> {
    let place = format!("{}/{}", encode(pod.namespace()), encode(pod.name()));
    let mut parameters: Vec<String> = Vec::new();
    let path = match end {
        End::PortForward => {
            let ports = query.all("ports").join(",");
            if !ports.is_empty() {
                parameters.push(format!("port={}", encode(&ports)));
            }
            format!("/portForward/{place}")
        }
        _ => {
            let container = container_of(pod, query.get("container"))?;
            for (flag, name) in
                [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
            {
                if query.flag(flag) {
                    parameters.push(format!("{name}=1"));
                }
            }
            let verb = if end == End::Exec { "exec" } else { "attach" };
            if end == End::Exec {
                parameters
                    .extend(query.all("command").iter().map(|word| format!("command={}", encode(word))));
            }
            format!("/{verb}/{place}/{}", encode(&container))
        }
    };
    Ok(if parameters.is_empty() { path } else { format!("{path}?{}", parameters.join("&")) })
}

/// A failed connection in upstream's words.
pub(super) fn dial_failed(error: &super::dial::DialError) -> Status {
    Status::new(500, Reason::Unknown, format!("error dialing backend: {error}"))
}

impl Connect {
    pub(super) async fn stream(self, end: End) -> Result<Response<Body>, Status> {
        let pod = self.pod().await?;
        let uri = kubelet_uri(end, &pod, &self.info.query)?;
        let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
        if node.is_empty() {
            let name = &self.info.name;
            return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
        }
        let kubelet = self.server.kubelets.locate(&*self.server.objects, node, false).await?;
        let headers = self.request.headers();
        let gates = self.server.gates;
        if websocket::offers(headers, translate::PROTOCOL)
            && end != End::PortForward
            && gates.has(Gate::TranslateStreamCloseWebsocketRequests)
        {
            metrics::websocket(&self.info.subresource);
            return translate::run(self, kubelet, &uri).await;
        }
        let tunnels = gates.has(Gate::PortForwardWebsockets);
        if end == End::PortForward && tunnels && !tunnel::protocols(headers).is_empty() {
            metrics::websocket(&self.info.subresource);
            return tunnel::run(self, kubelet, &uri).await;
        }
        self.pass(kubelet, &uri).await
    }

    /// The client's own upgrade, made at the kubelet.
    async fn pass(self, kubelet: Target, uri: &str) -> Result<Response<Body>, Status> {
        if !upgrade::is_upgrade(self.request.headers()) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let request = self.onward(uri, &kubelet)?;
        let answer = kubelet.request(request, &self.server.tasks).await.map_err(|e| dial_failed(&e))?;
        upgrade::join(self.request, answer, &self.server.tasks)
    }

    /// A SPDY upgrade at the kubelet, with the protocols offered.
    pub(super) fn spdy_request(
        kubelet: &Target,
        uri: &str,
        protocols: &[String],
    ) -> Result<Request<super::dial::Outgoing>, Status> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(header::HOST, kubelet.authority())
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "SPDY/3.1")
            .header(header::USER_AGENT, component_base::version::user_agent("kube-apiserver"))
            .header(header::CONTENT_LENGTH, 0);
        for protocol in protocols {
            request = request.header(PROTOCOL_VERSION, protocol);
        }
        request.body(super::dial::empty()).map_err(Status::internal)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: &[&str], init: &[&str], debug: &[&str]) -> Object {
        let list = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
        Object::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
            "containers": list(containers), "initContainers": list(init), "ephemeralContainers": list(debug)}}))
        .unwrap()
    }

    #[test]
    fn the_container_is_named_or_the_only_one() {
        let of = |pod: &Object, named| container_of(pod, named).map_err(|e| e.message);
        let one = pod(&["a"], &["i"], &["d"]);
        assert_eq!(of(&one, "").unwrap(), "a");
        assert_eq!(of(&one, "i").unwrap(), "i");
        assert_eq!(of(&one, "d").unwrap(), "d");
        assert_eq!(of(&one, "x").unwrap_err(), "container x is not valid for pod p");
        let two = pod(&["a", "b"], &["i"], &["d"]);
        let choose = "a container name must be specified for pod p, choose one of: [i a b d]";
        assert_eq!(of(&two, "").unwrap_err(), choose);
        assert_eq!(of(&pod(&[], &[], &[]), "").unwrap_err(), "a container name must be specified for pod p");
    }

    #[test]
    fn requests_become_the_kubelets() {
        let pod = pod(&["a"], &[], &[]);
        for (end, query, want) in [
            (
                End::Exec,
                "command=sh&command=-c&command=a%20%26b&stdin=true&stdout=1&stderr=false&tty=true",
                "/exec/n/p/a?input=1&output=1&tty=1&command=sh&command=-c&command=a%20%26b",
            ),
            (End::Attach, "stdout=true&container=a", "/attach/n/p/a?output=1"),
            (End::PortForward, "", "/portForward/n/p"),
            (End::PortForward, "ports=80&ports=81", "/portForward/n/p?port=80%2C81"),
        ] {
            assert_eq!(kubelet_uri(end, &pod, &Query::parse(query)).unwrap(), want);
        }
        let options = options(End::Exec, &Query::parse("stdin=true&command=ls&container=a"));
        assert_eq!(options, [("stdin", json!(true)), ("container", json!("a")), ("command", json!(["ls"]))]);
    }
}
