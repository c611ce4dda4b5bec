//! A whole API server on a real etcd for tests, asked through the engine (no connection, no authorization).

use std::sync::Arc;

use bytes::Bytes;
use component_base::{flags::Parsed, task::Tasks};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::{
    auth::User,
    negotiation::Media,
    options::{self, Config},
    registry::catalog,
    request_path::info::RequestInfo,
    response::{self, Body},
    run,
    server::Server,
    storage::testing::EtcdServer,
};

/// The server; it ends when this is dropped.
pub(crate) struct TestServer {
    pub(crate) server: Arc<Server>,
    pub(crate) address: std::net::SocketAddr,
    tasks: Tasks,
    _etcd: EtcdServer,
}

impl TestServer {
    /// Starts etcd and the server and waits until it is ready.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more flags.
    pub(crate) async fn start_with(extra: &[&str]) -> Self {
        component_base::tls::install_provider();
        let etcd = EtcdServer::start();
        let servers = format!("--etcd-servers={}", etcd.url());
        let own = [
            &servers,
            "--bind-address=127.0.0.1",
            "--secure-port=0",
            "--cert-dir=",
            // What containers may be is asked of the whole process, whichever test runs in it.
            "--allow-privileged",
            "--etcd-compaction-interval=0s",
            "--runtime-config=api/all=true",
        ];
        let arguments = own.iter().chain(extra).map(|flag| (*flag).to_owned());
        let Ok(Parsed::Run(values)) = options::flags().parse(arguments) else { panic!("flags") };
        let tasks = Tasks::new();
        let config = Config::new(&values).unwrap();
        let catalog = catalog::builtin().served(&config.served, config.gates);
        let app = run::build(config, catalog, &tasks).await.unwrap();
        let (server, address) = (app.server(), app.address);
        let group = tasks.clone();
        tasks.spawn("app", async move { app.run(&group).await });
        while !server.ready.load(std::sync::atomic::Ordering::Acquire) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Self { server, address, tasks, _etcd: etcd }
    }

    /// One request with these headers and bytes.
    pub(crate) async fn send(
        &self,
        method: Method,
        uri: &str,
        headers: &[(HeaderName, &str)],
        body: Bytes,
    ) -> Response<Body> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let info = Arc::new(RequestInfo::new(&method, path, query));
        let attributes = info.attributes(&Arc::new(User::apiserver()));
        let sent = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        let headers: HeaderMap = sent.collect();
        let media = Media::of_failure(&headers, self.server.speaks_cbor(), false);
        let answer = crate::engine::serve(self.server.clone(), info, attributes, headers, body).await;
        answer.unwrap_or_else(|status| response::failure(&status, media))
    }

    /// One request: the code and the decoded body.
    pub(crate) async fn ask(
        &self,
        method: Method,
        uri: &str,
        kind: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let response = self.send(method, uri, &[(header::CONTENT_TYPE, kind)], body).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    pub(crate) async fn get(&self, uri: &str) -> (u16, Value) {
        self.ask(Method::GET, uri, "", None).await
    }

    pub(crate) async fn post(&self, uri: &str, body: Value) -> (u16, Value) {
        self.ask(Method::POST, uri, "application/json", Some(body)).await
    }

    pub(crate) async fn put(&self, uri: &str, body: Value) -> (u16, Value) {
        self.ask(Method::PUT, uri, "application/json", Some(body)).await
    }

    pub(crate) async fn patch(&self, uri: &str, kind: &str, body: Value) -> (u16, Value) {
        self.ask(Method::PATCH, uri, kind, Some(body)).await
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}
