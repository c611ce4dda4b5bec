//! Where other API servers of the cluster reach this one: a record under `/registry/peerserverleases/<identity>` that etcd
//! drops when it is not renewed. Contract: upstream's `reconcilers/peer_endpoint_lease.go`, so that servers of both kinds
//! find each other.

use jiff::Timestamp;
use serde_json::json;

use super::{Facts, identity};
use crate::{
    objects::{Objects, PEER_LEASES, new_object},
    status::{Reason, Status},
};

/// Label with the server's identity.
const IDENTITY: &str = "apiserverIdentity";
/// Servers of one host collide at most a few times.
const ATTEMPTS: usize = 8;

/// Writes the record anew, which renews its lease.
pub async fn renew(objects: &dyn Objects, facts: &Facts, now: Timestamp) -> Result<(), Status> {
    let name = identity::lease_name(&facts.hostname);
    let (host, port) = &facts.peer_address;
    let subsets =
        json!([{"addresses": [{"ip": host}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]);
    for _ in 0..ATTEMPTS {
        let current = objects.get_latest(PEER_LEASES, "", &name).await?;
        let is_new = current.is_none();
        let mut record = match current {
            Some(current) => (*current).clone(),
            None => new_object("v1", "Endpoints", "", &name, now),
        };
        record.set("subsets", subsets.clone());
        // Only a value that differs is written.
        let generation = record.generation() + 1;
        record.metadata_mut().insert("generation".to_owned(), generation.into());
        record.metadata_mut().insert("labels".to_owned(), json!({IDENTITY: name}));
        let written = match is_new {
            true => objects.create(PEER_LEASES, record).await,
            false => objects.update(PEER_LEASES, record).await,
        };
        match written {
            // The lease ran out between reading and writing, or another server has the same name.
            Err(s) if matches!(s.reason, Reason::Conflict | Reason::AlreadyExists | Reason::NotFound) => {}
            written => return written.map(drop),
        }
    }
    Err(Status::internal(format!("the record of {name} changes all the time")))
}

/// Removes the record.
pub async fn leave(objects: &dyn Objects, facts: &Facts) -> Result<(), Status> {
    let name = identity::lease_name(&facts.hostname);
    for _ in 0..ATTEMPTS {
        let Some(current) = objects.get_latest(PEER_LEASES, "", &name).await? else { return Ok(()) };
        match objects.delete(PEER_LEASES, &current).await {
            Err(status) if status.reason == Reason::Conflict => {}
            done => return done,
        }
    }
    Ok(())
}
