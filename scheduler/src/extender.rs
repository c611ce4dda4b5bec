//! Extenders: programs that are asked over HTTP which nodes come into question, which are best, which victims there
//! may be, and who bind pods.
//!
//! Contract: `kube-scheduler/extender/v1` and upstream's `pkg/scheduler/extender.go`. Keys of answers are read whatever
//! their case, as upstream reads them.

mod answer;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use component_base::workqueue::chain;
use http::Request;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Client, Config,
    config::{
        AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext,
    },
};
use serde_json::{Value, json};
use smol_str::SmolStr;

pub use self::answer::AnswerError;
use crate::{
    config::{FileError, extenders::ExtenderConfiguration},
    framework::{MAX_SCORE, Verdict},
    plan::Candidate,
};

/// Who refused when an extender did.
pub const NAME: &str = "Extender";
/// Extenders give scores up to this.
const MAX_PRIORITY: i64 = 10;

/// All extenders, in the order they are asked.
#[derive(Clone, Default)]
pub struct Extenders(Arc<Vec<Extender>>);

struct Extender {
    settings: ExtenderConfiguration,
    timeout: Duration,
    client: Client,
}

/// Why extenders cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// What the file says of one.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its address or certificates.
    #[error("extender {url:?}")]
    Connection {
        /// Its address.
        url: String,
        /// Why.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// No client can be made.
    #[error("extender {url:?}")]
    Client {
        /// Its address.
        url: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
}

/// Why an extender gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ExtenderError {
    /// The call failed.
    #[error("failed {verb} with extender at URL {url}")]
    Call {
        /// What was asked.
        verb: String,
        /// Its address.
        url: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// It took too long.
    #[error("failed {verb} with extender at URL {url}: timeout")]
    Timeout {
        /// What was asked.
        verb: String,
        /// Its address.
        url: String,
    },
    /// The answer makes no sense, or says that something failed.
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

/// What filters left, and why not the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filtered {
    /// Names of the nodes left.
    pub kept: Vec<String>,
    /// Verdicts on others, where there was a reason.
    pub refused: BTreeMap<SmolStr, Verdict>,
}

impl std::fmt::Debug for Extenders {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_list().entries(self.0.iter().map(|extender| &extender.settings.url_prefix)).finish()
    }
}

impl Extenders {
    /// Makes ready to ask them; no call is made.
    ///
    /// # Errors
    /// When an address or a certificate is not usable.
    pub async fn connect(all: &[ExtenderConfiguration]) -> Result<Extenders, ConnectError> {
        let mut out = Vec::new();
        for settings in all {
            let url = || settings.url_prefix.clone();
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig(settings), &options)
                .await
                .map_err(|source| ConnectError::Connection { url: url(), source })?;
            let client =
                Client::try_from(config).map_err(|source| ConnectError::Client { url: url(), source })?;
            out.push(Extender { settings: settings.clone(), timeout: settings.timeout()?, client });
        }
        Ok(Extenders(Arc::new(out)))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of them has a say about where a pod goes.
    pub fn decide_on(&self, pod: &Pod) -> bool {
        let asked =
            |e: &Extender| !e.settings.filter_verb.is_empty() || !e.settings.prioritize_verb.is_empty();
        self.0.iter().any(|extender| asked(extender) && extender.cares_for(pod))
    }

    /// Asks one after the other which of the nodes come into question; each gets what the last one left.
    ///
    /// # Errors
    /// When one that cannot be ignored gives no usable answer.
    pub async fn filter(&self, pod: &Pod, nodes: &[Arc<Node>]) -> Result<Filtered, ExtenderError> {
        let mut out =
            Filtered { kept: nodes.iter().map(|node| name(node)).collect(), refused: BTreeMap::new() };
        for extender in self.0.iter().filter(|e| !e.settings.filter_verb.is_empty() && e.cares_for(pod)) {
            if out.kept.is_empty() {
                break;
            }
            let sent: Vec<&Arc<Node>> = nodes.iter().filter(|node| out.kept.contains(&name(node))).collect();
            let body = extender.question(pod, &sent);
            let answer = extender.ask(&extender.settings.filter_verb, body).await;
            let read = answer
                .and_then(|answer| Ok(answer::filtered(answer, &out.kept, &extender.settings.url_prefix)?));
            match read {
                Ok(next) => {
                    out.kept = next.kept;
                    out.refused.extend(next.refused);
                }
                Err(error) => extender.ignore(error)?,
            }
        }
        Ok(out)
    }

    /// What extenders add to the nodes' scores; one that fails adds nothing.
    pub async fn prioritize(&self, pod: &Pod, nodes: &[Arc<Node>]) -> HashMap<SmolStr, i64> {
        let mut out = HashMap::new();
        for extender in self.0.iter().filter(|e| !e.settings.prioritize_verb.is_empty() && e.cares_for(pod)) {
            let body = extender.question(pod, &nodes.iter().collect::<Vec<_>>());
            let answer = extender.ask(&extender.settings.prioritize_verb, body).await;
            match answer.and_then(|answer| Ok(answer::priorities(answer)?)) {
                Ok(scores) => {
                    let factor = extender.settings.weight.saturating_mul(MAX_SCORE / MAX_PRIORITY);
                    for (node, score) in scores {
                        let total: &mut i64 = out.entry(node).or_default();
                        *total = total.saturating_add(score.saturating_mul(factor));
                    }
                }
                Err(error) => {
                    tracing::info!(error = chain(&error), "an extender gave no scores");
                }
            }
        }
        out
    }

    /// Asks which of the candidates for preemption there may be, and with which victims. `pods` finds victims' objects.
    ///
    /// # Errors
    /// When one that cannot be ignored gives no usable answer.
    pub async fn preempt(
        &self,
        pod: &Pod,
        mut candidates: Vec<Candidate>,
        pods: impl Fn(&crate::model::PodInfo) -> Option<Arc<Pod>>,
    ) -> Result<Vec<Candidate>, ExtenderError> {
        for extender in self.0.iter().filter(|e| !e.settings.preempt_verb.is_empty() && e.cares_for(pod)) {
            if candidates.is_empty() {
                break;
            }
            let body = match extender.settings.node_cache_capable {
                true => json!({"Pod": pod, "NodeNameToMetaVictims": answer::meta_victims(&candidates)}),
                false => json!({"Pod": pod, "NodeNameToVictims": answer::victims(&candidates, &pods)}),
            };
            let answer = extender.ask(&extender.settings.preempt_verb, body).await;
            let read =
                answer.and_then(|a| Ok(answer::preempted(a, &candidates, &extender.settings.url_prefix)?));
            match read {
                Ok(left) => candidates = extender.with_victims(left)?,
                Err(error) => extender.ignore(error)?,
            }
        }
        Ok(candidates)
    }

    /// Lets an extender bind the pod; `false` when none does.
    ///
    /// # Errors
    /// When one that cannot be ignored fails.
    pub async fn bind(&self, pod: &Pod, node: &str) -> Result<bool, ExtenderError> {
        for extender in self.0.iter().filter(|e| !e.settings.bind_verb.is_empty() && e.cares_for(pod)) {
            let meta = &pod.metadata;
            let body = json!({"PodName": meta.name, "PodNamespace": meta.namespace, "PodUID": meta.uid, "Node": node});
            let answer = extender.ask(&extender.settings.bind_verb, body).await;
            match answer.and_then(|answer| Ok(answer::error_free(answer).map(drop)?)) {
                Ok(()) => return Ok(true),
                Err(error) => extender.ignore(error)?,
            }
        }
        Ok(false)
    }
}

impl Extender {
    /// Whether a pod asks for something that this one manages, or it manages everything.
    fn cares_for(&self, pod: &Pod) -> bool {
        let managed = &self.settings.managed_resources;
        let spec = pod.spec.iter();
        let mut containers = spec.flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
        managed.is_empty()
            || containers.any(|container| {
                let resources = container.resources.iter();
                let mut names =
                    resources.flat_map(|r| [&r.requests, &r.limits]).flatten().flat_map(|m| m.keys());
                names.any(|name| managed.iter().any(|m| &m.name == name))
            })
    }

    /// A failure that does not count, or the failure.
    fn ignore(&self, error: ExtenderError) -> Result<(), ExtenderError> {
        if !self.settings.ignorable {
            return Err(error);
        }
        tracing::info!(extender = self.settings.url_prefix, error = chain(&error), "extender ignored");
        Ok(())
    }

    /// The candidates, if all have victims; of one that can be ignored, those that have.
    fn with_victims(&self, mut left: Vec<Candidate>) -> Result<Vec<Candidate>, ExtenderError> {
        if let Some(none) = left.iter().find(|c| c.victims.is_empty()) {
            self.ignore(AnswerError::NoVictims(none.node.clone()).into())?;
        }
        left.retain(|c| !c.victims.is_empty());
        Ok(left)
    }

    fn question(&self, pod: &Pod, nodes: &[&Arc<Node>]) -> Value {
        let names = || nodes.iter().map(|node| name(node)).collect::<Vec<_>>();
        let items = || json!({"metadata": {}, "items": nodes.iter().map(|n| n.as_ref()).collect::<Vec<_>>()});
        match self.settings.node_cache_capable {
            true => json!({"Pod": pod, "Nodes": null, "NodeNames": names()}),
            false => json!({"Pod": pod, "Nodes": items(), "NodeNames": null}),
        }
    }

    async fn ask(&self, verb: &str, body: Value) -> Result<Value, ExtenderError> {
        let url = || self.settings.url_prefix.clone();
        let failed = |source| ExtenderError::Call { verb: verb.to_owned(), url: url(), source };
        let request = Request::post(format!("/{verb}"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            .map_err(|error| failed(kube::Error::HttpError(error)))?;
        match tokio::time::timeout(self.timeout, self.client.request::<Value>(request)).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(ExtenderError::Timeout { verb: verb.to_owned(), url: url() }),
        }
    }
}

fn name(node: &Node) -> String {
    node.metadata.name.clone().unwrap_or_default()
}

/// The connection in the words that clients are configured with.
fn kubeconfig(settings: &ExtenderConfiguration) -> Kubeconfig {
    const IT: &str = "extender";
    let tls = &settings.tls_config;
    let unchecked = settings.enable_https && tls.ca_file.is_none() && tls.ca_data.is_none();
    let cluster = Cluster {
        server: Some(settings.url_prefix.trim_end_matches('/').to_owned()),
        insecure_skip_tls_verify: Some(tls.insecure || unchecked),
        certificate_authority: tls.ca_file.clone(),
        certificate_authority_data: tls.ca_data.clone(),
        tls_server_name: tls.server_name.clone(),
        ..Cluster::default()
    };
    let user = AuthInfo {
        client_certificate: tls.cert_file.clone(),
        client_certificate_data: tls.cert_data.clone(),
        client_key: tls.key_file.clone(),
        client_key_data: tls.key_data.clone().map(Into::into),
        ..AuthInfo::default()
    };
    let context = Context { cluster: IT.into(), user: Some(IT.into()), ..Context::default() };
    Kubeconfig {
        clusters: vec![NamedCluster { name: IT.into(), cluster: Some(cluster), other: Default::default() }],
        auth_infos: vec![NamedAuthInfo { name: IT.into(), auth_info: Some(user), other: Default::default() }],
        contexts: vec![NamedContext { name: IT.into(), context: Some(context), other: Default::default() }],
        current_context: Some(IT.into()),
        ..Kubeconfig::default()
    }
}

#[cfg(test)]
mod tests;
