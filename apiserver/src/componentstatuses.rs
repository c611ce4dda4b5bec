//! `componentstatuses`: how the control plane on this host does, asked when somebody wants to know.
//!
//! Contract: API reference, ComponentStatus v1 (deprecated since 1.19): the scheduler and the controller manager at
//! their default ports, whatever their certificates, and every etcd server.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use component_base::task::Tasks;
use futures::future::join_all;
use http::{Request, header};
use http_body_util::{BodyExt, Limited};
use rustls::ClientConfig;
use serde_json::json;

use crate::{
    egress::Route,
    engine::ComputedResource,
    object::Object,
    proxy::dial::{self, Target},
    storage::Store,
};

/// How long one component has to answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer that is told, in bytes.
const MAX_ANSWER: usize = 10 * 1024;
/// Who is asked at which port of this host.
const DAEMONS: &[(&str, u16)] = &[("scheduler", 10259), ("controller-manager", 10257)];

/// Whom to ask, and how.
pub struct ComponentStatuses {
    store: Store,
    tls: Arc<ClientConfig>,
    tasks: Tasks,
}

// === impl ComponentStatuses ===

impl ComponentStatuses {
    /// Of this host, and of the etcd servers of a store.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(store: Store, tasks: Tasks) -> Result<Self, rustls::Error> {
        Ok(Self { store, tls: dial::client_tls(None, None)?, tasks })
    }

    async fn daemon(&self, name: &str, port: u16) -> Object {
        let asked = tokio::time::timeout(TIMEOUT, self.ask(port)).await;
        status(name, asked.unwrap_or_else(|_| Err("context deadline exceeded".to_owned())))
    }

    /// What a daemon says of its health, or why it says nothing good.
    async fn ask(&self, port: u16) -> Result<String, String> {
        let target = Target {
            host: "127.0.0.1".to_owned(),
            port,
            tls: Some(self.tls.clone()),
            server_name: None,
            timeout: TIMEOUT,
            route: Route::default(),
        };
        let failed =
            |why: &dyn std::fmt::Display| format!("Get \"https://{}/healthz\": {why}", target.authority());
        let request = Request::get("/healthz")
            .header(header::HOST, target.authority())
            .header(header::USER_AGENT, component_base::version::user_agent("kube-apiserver"))
            .body(dial::empty())
            .map_err(|e| failed(&e))?;
        let answer = target.request(request, &self.tasks).await.map_err(|e| failed(&e))?;
        let is_good = answer.response.status().is_success();
        let body = Limited::new(answer.response.into_body(), MAX_ANSWER).collect().await;
        let text = body.map_err(|e| failed(&e))?.to_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        if is_good { Ok(text) } else { Err(text) }
    }
}

#[async_trait]
impl ComputedResource for ComponentStatuses {
    async fn all(&self) -> Vec<Object> {
        let daemons = join_all(DAEMONS.iter().map(|(name, port)| self.daemon(name, *port)));
        let etcd = async |(at, cluster): (usize, usize)| {
            let pinged = self.store.ping(cluster).await;
            status(&format!("etcd-{at}"), pinged.map(|()| "ok".to_owned()).map_err(|error| error.to_string()))
        };
        let servers = join_all(self.store.servers().into_values().enumerate().map(etcd));
        let (mut all, etcd) = futures::join!(daemons, servers);
        all.extend(etcd);
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }
}

/// The object of a component that said this.
fn status(name: &str, said: Result<String, String>) -> Object {
    let (health, message) = match said {
        Ok(message) => ("True", message),
        Err(message) => ("False", message),
    };
    let mut object = Object::default();
    object.set("apiVersion", "v1");
    object.set("kind", "ComponentStatus");
    object.set("metadata", json!({"name": name}));
    object.set("conditions", json!([{"type": "Healthy", "status": health, "message": message}]));
    object
}
