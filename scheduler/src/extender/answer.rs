//! What extenders answer, read with care: they are other people's programs. Pure.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};
use smol_str::SmolStr;

use super::Filtered;
use crate::{framework::Verdict, model::PodInfo, plan::Candidate};

/// Why an answer is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The extender says that it failed.
    #[error("{0}")]
    Failed(String),
    /// It is not what was asked for.
    #[error("the answer is no {0}")]
    Shape(&'static str),
    /// It names a node that it was not asked about.
    #[error(
        "extender {extender:?} claims a filtered node {node:?} which is not found in the input node list"
    )]
    Node {
        /// Who says so.
        extender: String,
        /// The node.
        node: String,
    },
    /// It leaves a node without victims.
    #[error("expected at least one victim pod on node {0:?}")]
    NoVictims(String),
    /// It names a pod that is not on the node.
    #[error(
        "extender: {extender} claims to preempt pod (UID: {uid}) on node: {node}, but the pod is not found on that node"
    )]
    Victim {
        /// Who says so.
        extender: String,
        /// The pod.
        uid: String,
        /// The node.
        node: String,
    },
}

/// An object whose keys are read whatever their case.
fn fields(value: Value, what: &'static str) -> Result<Map<String, Value>, AnswerError> {
    match value {
        Value::Object(all) => Ok(all.into_iter().map(|(key, v)| (key.to_ascii_lowercase(), v)).collect()),
        _ => Err(AnswerError::Shape(what)),
    }
}

/// The fields of an answer that does not say it failed.
pub(super) fn error_free(answer: Value) -> Result<Map<String, Value>, AnswerError> {
    let all = fields(answer, "result")?;
    match all.get("error").and_then(Value::as_str).filter(|error| !error.is_empty()) {
        Some(error) => Err(AnswerError::Failed(error.to_owned())),
        None => Ok(all),
    }
}

/// Reads the answer of a filter that was asked about the nodes `sent`.
pub(super) fn filtered(answer: Value, sent: &[String], extender: &str) -> Result<Filtered, AnswerError> {
    let mut all = error_free(answer)?;
    let mut out = Filtered::default();
    if let Some(names) = all.get("nodenames").and_then(Value::as_array) {
        out.kept = names.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    } else if let Some(nodes) = all.get("nodes").and_then(|nodes| nodes["items"].as_array()) {
        let names = nodes.iter().filter_map(|node| node["metadata"]["name"].as_str());
        out.kept = names.map(str::to_owned).collect();
    }
    if let Some(node) = out.kept.iter().find(|name| !sent.contains(name)) {
        return Err(AnswerError::Node { extender: extender.to_owned(), node: node.clone() });
    }
    // What cannot be cured counts where a node is told of twice.
    type Make = fn(String) -> Verdict;
    let kinds: [(&str, Make); 2] = [
        ("failednodes", |why| Verdict::unschedulable(why)),
        ("failedandunresolvablenodes", |why| Verdict::unresolvable(why)),
    ];
    for (field, verdict) in kinds {
        let reasons = all.remove(field).unwrap_or_default();
        for (node, why) in reasons.as_object().into_iter().flatten() {
            let why = why.as_str().unwrap_or_default().to_owned();
            out.refused.insert(SmolStr::new(node), verdict(why));
        }
    }
    Ok(out)
}

/// Reads the scores that an extender gives.
pub(super) fn priorities(answer: Value) -> Result<Vec<(SmolStr, i64)>, AnswerError> {
    const WHAT: &str = "list of priorities";
    let Value::Array(items) = answer else { return Err(AnswerError::Shape(WHAT)) };
    let read = |item: Value| {
        let item = fields(item, WHAT)?;
        let host = item.get("host").and_then(Value::as_str).ok_or(AnswerError::Shape(WHAT))?;
        Ok((SmolStr::new(host), item.get("score").and_then(Value::as_i64).unwrap_or(0)))
    };
    items.into_iter().map(read).collect()
}

/// Candidates by node, with the uids of their victims.
pub(super) fn meta_victims(candidates: &[Candidate]) -> Value {
    let one = |c: &Candidate| {
        let pods: Vec<Value> = c.victims.iter().map(|pod| json!({"UID": pod.uid})).collect();
        (c.node.clone(), json!({"Pods": pods, "NumPDBViolations": c.violations}))
    };
    Value::Object(candidates.iter().map(one).collect())
}

/// Candidates by node, with their victims.
pub(super) fn victims(candidates: &[Candidate], pods: impl Fn(&PodInfo) -> Option<Arc<Pod>>) -> Value {
    let one = |c: &Candidate| {
        let found: Vec<Arc<Pod>> = c.victims.iter().filter_map(|pod| pods(pod)).collect();
        let found: Vec<&Pod> = found.iter().map(AsRef::as_ref).collect();
        (c.node.clone(), json!({"Pods": found, "NumPDBViolations": c.violations}))
    };
    Value::Object(candidates.iter().map(one).collect())
}

/// The candidates that an extender left, with the victims it chose among those it was told.
pub(super) fn preempted(
    answer: Value,
    candidates: &[Candidate],
    extender: &str,
) -> Result<Vec<Candidate>, AnswerError> {
    let mut all = fields(answer, "result")?;
    let named = all.remove("nodenametometavictims").unwrap_or_default();
    let named: BTreeMap<String, Value> = match named {
        Value::Object(named) => named.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    let mut out = Vec::new();
    for (node, chosen) in named {
        let Some(candidate) = candidates.iter().find(|c| c.node == node) else {
            return Err(AnswerError::Node { extender: extender.to_owned(), node });
        };
        let chosen = fields(chosen, "set of victims")?;
        let mut victims = Vec::new();
        for pod in chosen.get("pods").and_then(Value::as_array).into_iter().flatten() {
            let pod = fields(pod.clone(), "victim")?;
            let uid = pod.get("uid").and_then(Value::as_str).unwrap_or_default();
            let found = candidate.victims.iter().find(|victim| victim.uid == uid);
            victims.push(found.cloned().ok_or_else(|| AnswerError::Victim {
                extender: extender.to_owned(),
                uid: uid.to_owned(),
                node: node.clone(),
            })?);
        }
        let violations = chosen.get("numpdbviolations").and_then(Value::as_u64).unwrap_or(0);
        out.push(Candidate { node, victims, violations: usize::try_from(violations).unwrap_or(usize::MAX) });
    }
    Ok(out)
}
