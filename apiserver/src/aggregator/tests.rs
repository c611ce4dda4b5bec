use std::convert::Infallible;

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    engine::testing::TestServer,
    proxy::dial::{self, Target},
    response::{self, Body},
};

/// Another API server: one resource, and what it was told.
async fn other(request: Request<Incoming>) -> Response<Body> {
    let header = |name: &str| {
        let all = request.headers().get_all(name).iter().filter_map(|v| v.to_str().ok());
        all.collect::<Vec<_>>().join(",")
    };
    match request.uri().path() {
        "/apis/example.org/v1" => response::json(
            200,
            &json!({"kind": "APIResourceList", "resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"]},
            {"name": "things/status", "namespaced": true, "kind": "Thing", "verbs": ["get"]}]}),
        ),
        path => response::json(
            200,
            &json!({"path": path, "user": header("x-remote-user"),
            "groups": header("x-remote-group"), "authorization": header("authorization")}),
        ),
    }
}

async fn start_other() -> u16 {
    component_base::tls::install_provider();
    let names = ["api.default.svc".to_owned()];
    let pair = component_base::tls::self_signed(std::path::Path::new(""), "other", &names).unwrap();
    let served = Arc::new(component_base::tls::ServingCertificate::new(pair));
    let protocol = component_base::tls::Protocol { disable_http2: true, ..Default::default() };
    let config = component_base::tls::server_config(served, &protocol).unwrap();
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::task::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request| async { Ok::<_, Infallible>(other(request).await) });
                drop(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        }
    });
    port
}

async fn ask(server: &TestServer, uri: &str, accept: &str) -> (u16, Value) {
    let front = Target {
        host: server.address.ip().to_string(),
        port: server.address.port(),
        tls: Some(server.server.kubelets.stranger()),
        server_name: None,
        timeout: Duration::from_secs(5),
        route: Route::default(),
    };
    let request = Request::get(uri)
        .header("host", front.authority())
        .header("accept", accept)
        .header("x-remote-user", "root");
    let answer = front.request(request.body(dial::empty()).unwrap(), &server.server.tasks).await.unwrap();
    let code = answer.response.status().as_u16();
    let body = http_body_util::BodyExt::collect(answer.response.into_body()).await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap_or_default())
}

async fn condition(server: &TestServer, name: &str, reason: &str) -> Value {
    loop {
        let (_, object) = server.get(&format!("/apis/apiregistration.k8s.io/v1/apiservices/{name}")).await;
        let condition = object["status"]["conditions"][0].clone();
        if condition["reason"] == reason {
            return condition;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_other_servers_are_served() {
    let port = start_other().await;
    let server = TestServer::start_with(&["--enable-aggregator-routing=true"]).await;
    assert_eq!(condition(&server, "v1.apps", "Local").await["status"], "True");
    let (_, core) = server.get("/apis/apiregistration.k8s.io/v1/apiservices/v1.").await;
    assert_eq!(core["spec"], json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1}));

    let spec = json!({"group": "example.org", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 10,
        "insecureSkipTLSVerify": true, "service": {"namespace": "default", "name": "api", "port": 443}});
    let service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.example.org"}, "spec": spec});
    let (code, made) = server.post("/apis/apiregistration.k8s.io/v1/apiservices", service).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(condition(&server, "v1.example.org", "ServiceNotFound").await["status"], "False");
    assert_eq!(ask(&server, "/apis/example.org/v1/things", "*/*").await.0, 503);

    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "api", "labels": {"kubernetes.io/service-name": "api"}},
        "ports": [{"name": "", "port": port}], "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]});
    let (code, made) =
        server.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await;
    assert!(code == 201 || code == 422, "{made}");
    if code == 422 {
        // Validation does not let loopback addresses into slices; the store itself takes them.
        let mut slice = crate::objects::new_object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "default",
            "api",
            jiff::Timestamp::now(),
        );
        slice.metadata_mut().insert("labels".to_owned(), json!({"kubernetes.io/service-name": "api"}));
        slice.set("addressType", "IPv4");
        slice.set("ports", json!([{"name": "", "port": port}]));
        slice.set("endpoints", json!([{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]));
        server.server.objects.create(crate::objects::ENDPOINT_SLICES, slice).await.unwrap();
    }
    let backend = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"}, "spec": {"ports": [{"port": 443}]}});
    assert_eq!(server.post("/api/v1/namespaces/default/services", backend).await.0, 201);
    availability::sync(&server.server, true).await;
    assert_eq!(condition(&server, "v1.example.org", "Passed").await["status"], "True");

    let (code, answer) = ask(&server, "/apis/example.org/v1/namespaces/a/things/t", "*/*").await;
    assert_eq!(
        (code, &answer["path"], &answer["user"]),
        (200, &json!("/apis/example.org/v1/namespaces/a/things/t"), &json!("system:anonymous"))
    );
    assert_eq!(answer["groups"], "system:unauthenticated");
    let (_, groups) = ask(&server, "/apis", "application/json").await;
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "example.org"), "{groups}");
    assert_eq!(ask(&server, "/apis/example.org", "*/*").await.1["preferredVersion"]["version"], "v1");
    assert_eq!(ask(&server, "/apis/example.org/v1", "*/*").await.1["resources"][0]["name"], "things");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let (_, all) = ask(&server, "/apis", accept).await;
    let group = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|g| g["metadata"]["name"] == "example.org")
        .unwrap()
        .clone();
    assert_eq!(group["versions"][0]["resources"][0]["subresources"][0]["subresource"], "status");
    assert_eq!(group["versions"][0]["freshness"], "Current");

    // A group without its APIService is gone, with everything that was known of it.
    let path = "/apis/apiregistration.k8s.io/v1/apiservices/v1.example.org";
    assert_eq!(server.ask(http::Method::DELETE, path, "", None).await.0, 200);
    while !server.server.aggregated.remotes().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ask(&server, "/apis/example.org/v1/things", "*/*").await.0, 404);
}
