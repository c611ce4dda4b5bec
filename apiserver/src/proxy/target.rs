//! Where a request goes: containers of pods by their kubelet; pods, services and nodes by their addresses.
//!
//! Contract: upstream's `ResourceLocation` of pods, services and nodes.

use std::{net::IpAddr, time::Duration};

use rand::seq::{IndexedRandom, SliceRandom};
use serde_json::Value;

use super::{Connect, dial::Target, kubelet};
use crate::{
    object::Object,
    objects::{ENDPOINT_SLICES, ENDPOINTS, NODES, PODS, SERVICES},
    status::Status,
};

/// Time to connect to a pod.
const DIAL: Duration = Duration::from_secs(30);

/// `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Spec<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Spec<'a> {
    fn parse(id: &'a str, what: &str) -> Result<Self, Status> {
        let parts: Vec<&str> = id.split(':').collect();
        let spec = match *parts.as_slice() {
            [name] => Self { scheme: "", name, port: "" },
            [name, port] => Self { scheme: "", name, port },
            [scheme, name, port] => Self { scheme, name, port },
            _ => Self { scheme: "", name: "", port: "" },
        };
        if spec.name.is_empty() || !matches!(spec.scheme, "" | "http" | "https") {
            return Err(Status::bad_request(format!("invalid {what} request {id:?}")));
        }
        Ok(spec)
    }

    fn default_port(&self) -> u16 {
        if self.scheme == "https" { 443 } else { 80 }
    }
}

impl Connect {
    /// The pod the request names.
    pub(super) async fn pod(&self) -> Result<std::sync::Arc<Object>, Status> {
        self.pod_named(&self.info.name).await
    }

    async fn pod_named(&self, name: &str) -> Result<std::sync::Arc<Object>, Status> {
        let found = self.server.objects.get_latest(PODS, &self.info.namespace, name).await?;
        found.ok_or_else(|| Status::not_found(&PODS.group_name(), name))
    }

    /// Where `<resource>/<id>/proxy` goes.
    pub(super) async fn proxied(&self) -> Result<Target, Status> {
        match self.info.resource.as_str() {
            "pods" => self.proxied_pod().await,
            "services" => self.proxied_service().await,
            _ => self.proxied_node().await,
        }
    }

    fn target(&self, host: String, port: u16, scheme: &str) -> Target {
        let tls = (scheme == "https").then(|| self.server.kubelets.stranger());
        Target { host, port, tls, server_name: None, timeout: DIAL, route: self.server.kubelets.route() }
    }

    async fn proxied_node(&self) -> Result<Target, Status> {
        let spec = Spec::parse(&self.info.name, "node")?;
        let kubelet = self.server.kubelets.locate(&*self.server.objects, spec.name, false).await?;
        check_host(&kubelet.host).await?;
        if spec.port.is_empty() {
            return Ok(kubelet);
        }
        let node = self.server.objects.get(NODES, "", spec.name).await?;
        let port = port_number(spec.port)?;
        if node.is_some_and(|node| kubelet::port(&node) == port) {
            return Ok(kubelet);
        }
        Ok(self.target(kubelet.host, port, spec.scheme))
    }

    async fn proxied_pod(&self) -> Result<Target, Status> {
        let spec = Spec::parse(&self.info.name, "pod")?;
        let pod = self.pod_named(spec.name).await?;
        let ip = pod_ip(&pod).filter(|ip| is_proxyable(*ip));
        let ip = ip.ok_or_else(|| Status::bad_request("address not allowed"))?;
        let port = match spec.port {
            "" => first_port(&pod).unwrap_or_else(|| spec.default_port()),
            text => port_number(text)?,
        };
        Ok(self.target(ip.to_string(), port, spec.scheme))
    }

    async fn proxied_service(&self) -> Result<Target, Status> {
        let spec = Spec::parse(&self.info.name, "service")?;
        let port_name = match spec.port.parse::<i64>() {
            Err(_) => spec.port.to_owned(),
            Ok(number) => {
                let service =
                    self.server.objects.get_latest(SERVICES, &self.info.namespace, spec.name).await?;
                let service = service.ok_or_else(|| Status::not_found(&SERVICES.group_name(), spec.name))?;
                named_port(&service, number).ok_or_else(|| {
                    Status::unavailable(format!("no service port {number} found for service {:?}", spec.name))
                })?
            }
        };
        let none = || Status::unavailable(format!("no endpoints available for service {:?}", self.info.name));
        let mut backends = self.backends(spec.name, &port_name).await?;
        backends.shuffle(&mut rand::rng());
        for backend in backends {
            if self.is_pod(&backend).await? {
                return Ok(self.target(backend.ip.to_string(), backend.port, spec.scheme));
            }
        }
        Err(none())
    }

    /// Ready backends of a service's port, from its slices or, where nobody makes those, its endpoints.
    async fn backends(&self, service: &str, port: &str) -> Result<Vec<Backend>, Status> {
        let namespace = self.info.namespace.as_str();
        let slices = self.server.objects.list(ENDPOINT_SLICES, Some(namespace)).await?;
        let own: Vec<_> = slices
            .iter()
            .filter(|s| s.meta_pairs("labels").any(|pair| pair == ("kubernetes.io/service-name", service)))
            .collect();
        if !own.is_empty() {
            return Ok(own.into_iter().flat_map(|slice| slice_backends(slice, port)).collect());
        }
        match self.server.objects.get(ENDPOINTS, namespace, service).await? {
            Some(endpoints) => Ok(endpoints_backends(&endpoints, port)),
            None => Err(Status::not_found(&ENDPOINTS.group_name(), service)),
        }
    }

    /// Only addresses of pods of the namespace are proxied to: endpoints may name any host.
    async fn is_pod(&self, backend: &Backend) -> Result<bool, Status> {
        let Some((namespace, name)) = &backend.pod else { return Ok(false) };
        if *namespace != self.info.namespace || !is_proxyable(backend.ip) {
            return Ok(false);
        }
        let pod = self.server.objects.get(PODS, namespace, name).await?;
        Ok(pod.is_some_and(|pod| pod_ips(&pod).any(|ip| ip == backend.ip)))
    }
}

/// One address behind a service's port.
#[derive(Debug, PartialEq, Eq)]
struct Backend {
    ip: IpAddr,
    port: u16,
    /// Namespace and name.
    pod: Option<(String, String)>,
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn port_of(value: &Value, name: &str) -> Option<u16> {
    let port = items(value, "ports").find(|p| text(p, "name") == name)?;
    port.get("port")?.as_u64().and_then(|p| u16::try_from(p).ok())
}

fn pod_of(address: &Value) -> Option<(String, String)> {
    let target = address.get("targetRef")?;
    Some((text(target, "namespace").to_owned(), text(target, "name").to_owned()))
}

fn slice_backends(slice: &Object, port: &str) -> Vec<Backend> {
    let slice = slice.to_value();
    let Some(port) = port_of(&slice, port) else { return Vec::new() };
    let is_ready = |e: &&Value| e.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
    let backend = |endpoint: &Value| {
        // All addresses of an endpoint are the same backend.
        let ip = items(endpoint, "addresses").next()?.as_str()?.parse().ok()?;
        Some(Backend { ip, port, pod: pod_of(endpoint) })
    };
    items(&slice, "endpoints").filter(is_ready).filter_map(backend).collect()
}

fn endpoints_backends(endpoints: &Object, port: &str) -> Vec<Backend> {
    let endpoints = endpoints.to_value();
    let of_subset = |subset: &Value| -> Vec<Backend> {
        let Some(port) = port_of(subset, port) else { return Vec::new() };
        let backend = |a: &Value| Some(Backend { ip: text(a, "ip").parse().ok()?, port, pod: pod_of(a) });
        items(subset, "addresses").filter_map(backend).collect()
    };
    items(&endpoints, "subsets").flat_map(of_subset).collect()
}

/// The name of the service's port with this number.
fn named_port(service: &Object, number: i64) -> Option<String> {
    let spec = service.get("spec")?;
    let port = items(spec, "ports").find(|p| p.get("port").and_then(Value::as_i64) == Some(number))?;
    Some(text(port, "name").to_owned())
}

fn pod_ips(pod: &Object) -> impl Iterator<Item = IpAddr> + use<'_> {
    let all = pod.pointer("/status/podIPs").and_then(Value::as_array).into_iter().flatten();
    let first = pod.pointer("/status/podIP").and_then(Value::as_str).into_iter();
    all.filter_map(|ip| ip.get("ip")?.as_str()).chain(first).filter_map(|ip| ip.parse().ok())
}

fn pod_ip(pod: &Object) -> Option<IpAddr> {
    pod_ips(pod).next()
}

fn first_port(pod: &Object) -> Option<u16> {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array)?;
    let mut ports = containers.iter().flat_map(|c| items(c, "ports"));
    ports.find_map(|p| u16::try_from(p.get("containerPort")?.as_u64()?).ok())
}

fn port_number(text: &str) -> Result<u16, Status> {
    text.parse()
        .map_err(|_| Status::unavailable(format!("error trying to reach service: invalid port {text:?}")))
}

/// Go's `IsGlobalUnicast`: loopback, link-local, multicast and unspecified addresses are the server's own business.
fn is_proxyable(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || is_link_local)
}

/// Refuses hosts that are an address which is not proxied to.
async fn check_host(host: &str) -> Result<(), Status> {
    let found = tokio::net::lookup_host((host, 0)).await;
    let found: Vec<IpAddr> = found.map_err(|e| Status::bad_request(e.to_string()))?.map(|a| a.ip()).collect();
    if found.choose(&mut rand::rng()).is_none() {
        return Err(Status::bad_request("no addresses for hostname"));
    }
    if !found.into_iter().all(is_proxyable) {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_have_a_scheme_and_a_port() {
        let spec = |scheme, name, port| Some(Spec { scheme, name, port });
        for (id, want) in [
            ("a", spec("", "a", "")),
            ("a:80", spec("", "a", "80")),
            ("https:a:web", spec("https", "a", "web")),
            ("https:a:", spec("https", "a", "")),
            (":a:80", spec("", "a", "80")),
            ("ftp:a:80", None),
            ("", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(Spec::parse(id, "pod").ok(), want, "{id}");
        }
    }

    #[test]
    fn addresses_of_the_server_itself_are_not_proxied_to() {
        for (ip, ok) in [
            ("10.1.2.3", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("::1", false),
            ("fe80::1", false),
            ("255.255.255.255", false),
        ] {
            assert_eq!(is_proxyable(ip.parse().unwrap()), ok, "{ip}");
        }
    }

    #[test]
    fn backends_are_those_of_the_port() {
        let pod = json!({"kind": "Pod", "namespace": "a", "name": "p"});
        let slice = Object::from_value(json!({"ports": [{"name": "web", "port": 8080}], "endpoints": [
            {"addresses": ["10.0.0.1"], "targetRef": pod, "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}, {"addresses": []}]}))
        .unwrap();
        let want =
            Backend { ip: "10.0.0.1".parse().unwrap(), port: 8080, pod: Some(("a".into(), "p".into())) };
        assert_eq!(slice_backends(&slice, "web"), [want]);
        assert!(slice_backends(&slice, "").is_empty());
        let endpoints = Object::from_value(json!({"subsets": [
            {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 80}]},
            {"notReadyAddresses": [{"ip": "10.0.0.4"}], "ports": [{"port": 80}]}]}))
        .unwrap();
        let want = Backend { ip: "10.0.0.3".parse().unwrap(), port: 80, pod: None };
        assert_eq!(endpoints_backends(&endpoints, ""), [want]);
        let service = Object::from_value(json!({"spec": {"ports": [{"name": "web", "port": 80}]}})).unwrap();
        assert_eq!(named_port(&service, 80).as_deref(), Some("web"));
        assert_eq!(named_port(&service, 81), None);
    }
}
