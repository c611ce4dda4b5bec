//! Mirror pods: the API server's reflections of static pods, so that they can be seen, and their status read.
//!
//! [`plan`] is pure. A mirror whose hash differs from its static pod's, that is being deleted, or whose static pod is gone,
//! is deleted; a missing one is made.

use std::{collections::HashMap, sync::Arc, time::Duration};

use component_base::{informer::Informer, task::Tasks};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Api, Client, api::PostParams};

use crate::{pod, pods::Pods, status::Statuses};

const PERIOD: Duration = Duration::from_secs(3);

/// What to do about mirrors.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Mirrors to delete.
    pub delete: Vec<Pod>,
    /// Static pods that need a mirror.
    pub create: Vec<Pod>,
    /// Static pods' uids with their mirrors.
    pub paired: Vec<(String, Arc<Pod>)>,
}

fn name_of(pod: &Pod) -> (String, String) {
    (pod::namespace(pod).to_owned(), pod::name(pod).to_owned())
}

/// Decides.
#[must_use]
pub fn plan(statics: &[Arc<Pod>], known: &[Arc<Pod>]) -> Plan {
    let mut plan = Plan::default();
    let mut mirrors: HashMap<_, &Arc<Pod>> =
        known.iter().filter(|p| pod::is_mirror(p)).map(|p| (name_of(p), p)).collect();
    for own in statics {
        let hash = pod::annotation(own, pod::HASH_ANNOTATION);
        match mirrors.remove(&name_of(own)) {
            None => plan.create.push(Pod::clone(own)),
            Some(mirror) => {
                let current = pod::annotation(mirror, pod::MIRROR_ANNOTATION) == hash;
                if current && mirror.metadata.deletion_timestamp.is_none() {
                    plan.paired.push((pod::uid(own).to_owned(), Arc::clone(mirror)));
                } else {
                    plan.delete.push(Pod::clone(mirror));
                }
            }
        }
    }
    plan.delete.extend(mirrors.into_values().map(|p| Pod::clone(p)));
    plan
}

/// The mirror of a static pod.
#[must_use]
pub fn mirror(own: &Pod, node: &str, node_uid: Option<String>) -> Pod {
    let mut copy = own.clone();
    let hash = pod::annotation(own, pod::HASH_ANNOTATION).unwrap_or_default().to_owned();
    copy.metadata.annotations.get_or_insert_default().insert(pod::MIRROR_ANNOTATION.to_owned(), hash);
    copy.metadata.uid = None;
    copy.metadata.resource_version = None;
    copy.status = None;
    copy.metadata.owner_references = node_uid.map(|uid| {
        vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.to_owned(),
            uid,
            controller: Some(true),
            ..OwnerReference::default()
        }]
    });
    copy
}

/// Keeps mirrors until the drain.
pub fn run(
    client: Client,
    node: String,
    known: Informer<Pod>,
    pods: Arc<Pods>,
    statuses: Arc<Statuses>,
    tasks: &Tasks,
) {
    let mut ticks = tasks.ticks(PERIOD);
    tasks.spawn("mirror-pods", async move {
        ticks.until_drain(known.wait_synced()).await;
        while ticks.next().await {
            if !pods.is_synced() {
                continue;
            }
            let statics: Vec<Arc<Pod>> = pods.current().into_iter().filter(|p| pod::is_static(p)).collect();
            let plan = plan(&statics, &known.store().list());
            for (uid, mirror) in &plan.paired {
                statuses.mirrored(uid, mirror);
            }
            if let Err(error) = carry_out(&client, &node, &plan).await {
                tracing::warn!(%error, "cannot bring mirror pods up to date");
            }
        }
    });
}

async fn carry_out(client: &Client, node: &str, plan: &Plan) -> Result<(), kube::Error> {
    for old in &plan.delete {
        let api: Api<Pod> = Api::namespaced(client.clone(), pod::namespace(old));
        ignore(api.delete(pod::name(old), &pod::at_once(old)).await.map(drop), &[404, 409])?;
    }
    for own in &plan.create {
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
        let uid = nodes.get_opt(node).await?.and_then(|n| n.metadata.uid);
        let api: Api<Pod> = Api::namespaced(client.clone(), pod::namespace(own));
        ignore(api.create(&PostParams::default(), &mirror(own, node, uid)).await.map(drop), &[409])?;
    }
    Ok(())
}

/// Takes an API error with one of these codes for success: the wanted state is there, or comes with the next round.
fn ignore(result: Result<(), kube::Error>, codes: &[u16]) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if codes.contains(&status.code) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn own(name: &str, hash: &str) -> Pod {
        let mut pod = testing::pod(name).container("c").build();
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(pod::SOURCE_ANNOTATION.into(), "file".into());
        annotations.insert(pod::HASH_ANNOTATION.into(), hash.into());
        pod
    }

    #[test]
    fn mirrors_follow_their_static_pods() {
        let statics = [own("same", "1"), own("changed", "2"), own("new", "3")].map(Arc::new);
        let known: Vec<Arc<Pod>> = [own("same", "1"), own("changed", "1"), own("gone", "1")]
            .iter()
            .map(|p| Arc::new(mirror(p, "n", Some("u".into()))))
            .collect();
        let plan = plan(&statics, &known);
        let names = |list: &[Pod]| {
            let mut names: Vec<String> = list.iter().map(|p| pod::name(p).to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&plan.delete), ["changed", "gone"]);
        assert_eq!(names(&plan.create), ["new"]);
        assert_eq!(plan.paired[0].0, "uid-same");
    }
}
