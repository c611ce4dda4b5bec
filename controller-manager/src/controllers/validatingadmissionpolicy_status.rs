//! Validating admission policies are told where their expressions do not go with the types of the objects they are for.
//!
//! ```text
//! policy → kinds its rules name (pure) → discovery, OpenAPI → schemas → check (pure) → status.typeChecking
//! ```
//! Contract: upstream's `validatingadmissionpolicy-status-controller`: warnings only, which change nothing about what the
//! policy does; kinds behind wildcards are not looked at, and ten at most.

use std::{collections::BTreeMap, sync::Arc};

use cel_engine::DeclType;
use component_base::{
    client,
    informer::{Informer, ListWatch},
    meta::ObjectKey,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use http::Request;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{Context, enqueue_changes};

mod check;
mod schemas;

use check::{Kind, Typed, Types};

const NAME: &str = "validatingadmissionpolicy-status";
const FLAG: &str = "concurrent-validating-admission-policy-status-syncs";

pub(super) fn start(ctx: &Context) {
    let policies: Informer<ValidatingAdmissionPolicy> = ctx.informers.get(ListWatch::default());
    let queue: WorkQueue<ObjectKey> = WorkQueue::new(NAME);
    enqueue_changes(&policies, &queue);
    let client = ctx.client.clone();
    run_workers(&ctx.tasks, &queue, ctx.workers(FLAG), move |key| {
        let (policies, client) = (policies.clone(), client.clone());
        async move {
            policies.wait_synced().await;
            match policies.store().get(&key) {
                Some(policy) if !is_observed(&policy) => reconcile(&client, &policy).await,
                _ => Ok(Outcome::Done),
            }
        }
    });
}

/// Whether this generation has been checked.
fn is_observed(policy: &ValidatingAdmissionPolicy) -> bool {
    let observed = policy.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    policy.metadata.generation.unwrap_or(0) <= observed
}

async fn reconcile(
    client: &kube::Client,
    policy: &ValidatingAdmissionPolicy,
) -> Result<Outcome, kube::Error> {
    let mut served = Served { client, resources: BTreeMap::new(), documents: BTreeMap::new() };
    let types = served.types(policy).await?;
    let warnings: Vec<Value> = check::warnings(policy, &types)
        .into_iter()
        .map(|(field, warning)| json!({"fieldRef": field, "warning": warning}))
        .collect();
    let name = policy.metadata.name.as_deref().unwrap_or_default();
    let checked = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    let status = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "status": {
            "observedGeneration": policy.metadata.generation,
            "typeChecking": checked,
        },
    });
    let api: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let writer = PatchParams::apply(NAME).force();
    match api.patch_status(name, &writer, &Patch::Apply(&status)).await {
        Err(e) if !client::is_not_found(&e) => Err(e),
        _ => Ok(Outcome::Done),
    }
}

/// What the server says of its kinds, asked once per policy.
struct Served<'c> {
    client: &'c kube::Client,
    /// Plural names and kinds by group version.
    resources: BTreeMap<String, Vec<(String, String)>>,
    /// OpenAPI documents by group version.
    documents: BTreeMap<String, Option<Arc<Value>>>,
}

impl Served<'_> {
    /// The types a policy is to be checked against. What the server does not know is left out.
    async fn types(&mut self, policy: &ValidatingAdmissionPolicy) -> Result<Types, kube::Error> {
        let mut kinds = Vec::new();
        'rules: for rule in check::rules(policy) {
            let mut count = 0;
            for (group, version, plural) in rule {
                let found = self.resources(&group, &version).await?.iter().find(|(name, _)| *name == plural);
                let Some((_, kind)) = found else { continue };
                let kind = Kind { group, version, kind: kind.clone() };
                count += 1;
                if !kinds.contains(&kind) {
                    kinds.push(kind);
                }
                // One rule that names so many is enough: later ones are not looked at.
                if count == check::MAX_TYPES {
                    break 'rules;
                }
            }
        }
        kinds.sort();
        let mut objects = Vec::new();
        for kind in kinds {
            if let Some(decl) = self.decl(&kind, "Object").await? {
                objects.push(Typed { kind, decl });
            }
        }
        let params = match check::params(policy) {
            Some(kind) => self.decl(&kind, "Params").await?,
            None => None,
        };
        Ok(Types { objects, params })
    }

    async fn resources(&mut self, group: &str, version: &str) -> Result<&[(String, String)], kube::Error> {
        let key = group_version(group, version);
        if !self.resources.contains_key(&key) {
            let listed = if group.is_empty() {
                self.client.list_core_api_resources(version).await
            } else {
                self.client.list_api_group_resources(&key).await
            };
            let listed = match listed {
                Ok(list) => list.resources.into_iter().map(|r| (r.name, r.kind)).collect(),
                Err(e) if client::is_not_found(&e) => Vec::new(),
                Err(e) => return Err(e),
            };
            self.resources.insert(key.clone(), listed);
        }
        Ok(self.resources.get(&key).map_or(&[], Vec::as_slice))
    }

    async fn decl(&mut self, kind: &Kind, role: &str) -> Result<Option<Arc<DeclType>>, kube::Error> {
        let Some(document) = self.document(&kind.group, &kind.version).await? else { return Ok(None) };
        let schema = schemas::of_kind(&document, &kind.group, &kind.version, &kind.kind);
        let name = format!("{role}.{}", kind.kind);
        Ok(schema.and_then(|schema| DeclType::from_schema(&schema, true, &name)).map(Arc::new))
    }

    async fn document(&mut self, group: &str, version: &str) -> Result<Option<Arc<Value>>, kube::Error> {
        let key = group_version(group, version);
        if let Some(known) = self.documents.get(&key) {
            return Ok(known.clone());
        }
        let root = if group.is_empty() { "api" } else { "apis" };
        let request = Request::get(format!("/openapi/v3/{root}/{key}")).body(Vec::new());
        let request = request.map_err(kube::Error::HttpError)?;
        let document = match self.client.request::<Value>(request).await {
            Ok(document) => Some(Arc::new(document)),
            Err(e) if client::is_not_found(&e) => None,
            Err(e) => return Err(e),
        };
        self.documents.insert(key, document.clone());
        Ok(document)
    }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}
