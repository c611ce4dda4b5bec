//! How many pods a pod's controller is asked for.
//!
//! Replica sets, deployments, stateful sets and replication controllers are read from the caches; any other
//! controller answers through its scale subresource (autoscaling/v1).

use component_base::{
    client,
    informer::{Informer, ListWatch},
    meta::{ObjectKey, controller_of},
};
use http::Request;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        autoscaling::v1::Scale,
        core::v1::ReplicationController,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::Client;

use crate::{controllers::Context, served::Directory};

/// Why the scale of a controller is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScaleError {
    #[error("the API server")]
    Api(#[from] kube::Error),
    #[error("no matches for kind {kind:?} in version {api_version:?}")]
    Kind { kind: String, api_version: String },
    #[error("{0} does not implement the scale subresource")]
    NotScalable(String),
}

/// Where scales are found.
pub(super) struct Scales {
    client: Client,
    directory: Directory,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
    replicators: Informer<ReplicationController>,
}

/// A controller's uid and the number of pods it is asked for.
type Found = Option<(String, i32)>;

impl Scales {
    pub(super) fn new(ctx: &Context) -> Scales {
        Scales {
            client: ctx.client.clone(),
            directory: Directory::new(ctx.client.clone()),
            sets: ctx.informers.get(ListWatch::default()),
            deployments: ctx.informers.get(ListWatch::default()),
            stateful: ctx.informers.get(ListWatch::default()),
            replicators: ctx.informers.get(ListWatch::default()),
        }
    }

    pub(super) async fn wait_synced(&self) {
        self.sets.wait_synced().await;
        self.deployments.wait_synced().await;
        self.stateful.wait_synced().await;
        self.replicators.wait_synced().await;
    }

    /// The scale of a pod's controller; of a replica set's deployment, where it has one. `None` when there is no
    /// such controller any more.
    pub(super) async fn find(&self, namespace: &str, owner: &OwnerReference) -> Result<Found, ScaleError> {
        let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let key = ObjectKey::new(namespace, owner.name.as_str());
        let cached = match (group, owner.kind.as_str()) {
            ("apps" | "extensions", "ReplicaSet") => self.of_set(&key, owner),
            ("apps", "StatefulSet") => {
                let found = self.stateful.store().get(&key).filter(|s| is(&s.metadata.uid, owner));
                found.map(|s| (owner.uid.clone(), s.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)))
            }
            ("", "ReplicationController") => {
                let found = self.replicators.store().get(&key).filter(|r| is(&r.metadata.uid, owner));
                found.map(|r| (owner.uid.clone(), r.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)))
            }
            _ => None,
        };
        match cached {
            Some(found) => Ok(Some(found)),
            None => self.ask(namespace, group, owner).await,
        }
    }

    fn of_set(&self, key: &ObjectKey, owner: &OwnerReference) -> Found {
        let set = self.sets.store().get(key).filter(|s| is(&s.metadata.uid, owner))?;
        match controller_of(&set.metadata).filter(|o| o.kind == "Deployment") {
            Some(above) => {
                let key = ObjectKey::new(key.namespace.clone(), above.name.as_str());
                let found = self.deployments.store().get(&key).filter(|d| is(&d.metadata.uid, above))?;
                Some((above.uid.clone(), found.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)))
            }
            None => Some((owner.uid.clone(), set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))),
        }
    }

    async fn ask(&self, namespace: &str, group: &str, owner: &OwnerReference) -> Result<Found, ScaleError> {
        let served = self.directory.find(|s| s.group == group && s.kind == owner.kind).await?;
        let served = served.ok_or_else(|| ScaleError::Kind {
            kind: owner.kind.clone(),
            api_version: owner.api_version.clone(),
        })?;
        let path = format!("{}/{}/scale", served.path(Some(namespace)), owner.name);
        let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        match self.client.request::<Scale>(request).await {
            Ok(scale) => {
                let replicas = scale.spec.and_then(|s| s.replicas).unwrap_or(0);
                Ok(is(&scale.metadata.uid, owner).then(|| (owner.uid.clone(), replicas)))
            }
            Err(error)
                if client::is_not_found(&error) && served.subresources.iter().any(|s| s == "scale") =>
            {
                Ok(None)
            }
            Err(error) if client::is_not_found(&error) => {
                Err(ScaleError::NotScalable(served.group_resource()))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn is(uid: &Option<String>, owner: &OwnerReference) -> bool {
    uid.as_deref() == Some(owner.uid.as_str())
}
