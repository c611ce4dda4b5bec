//! The lease that says this server lives: `apiserver-<hash of its host name>` in kube-system (KEP-1965).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Facts;
use crate::{
    object::Object,
    objects::{LEASES, Objects, micro, new_object},
    status::{Reason, Status},
};

/// The label of such leases, and what it says of servers of this kind.
const IDENTITY: &str = "apiserver.kubernetes.io/identity";
const SERVER: &str = "kube-apiserver";
/// Seconds after which others may take the lease for dead.
const DURATION: i64 = 3600;

/// Creates or renews the lease.
pub async fn renew(objects: &dyn Objects, facts: &Facts, now: Timestamp) -> Result<(), Status> {
    let name = lease_name(&facts.hostname);
    let done = match objects.get_latest(LEASES, "kube-system", &name).await? {
        None => {
            let mut lease = new_object("coordination.k8s.io/v1", "Lease", "kube-system", &name, now);
            let labels = json!({
                IDENTITY: SERVER,
                "kubernetes.io/hostname": facts.hostname,
            });
            lease.metadata_mut().insert("labels".to_owned(), labels);
            lease.set("spec", spec(None, facts, now));
            objects.create(LEASES, lease).await
        }
        Some(current) => {
            let mut lease = (*current).clone();
            lease.set("spec", spec(Some(&current), facts, now));
            objects.update(LEASES, lease).await
        }
    };
    match done {
        Err(status) if !matches!(status.reason, Reason::Conflict | Reason::AlreadyExists) => Err(status),
        _ => Ok(()),
    }
}

/// Whether a lease is one of an API server.
pub fn is_of_server(lease: &Object) -> bool {
    lease.meta_pairs("labels").any(|(key, value)| key == IDENTITY && value == SERVER)
}

/// Removes the leases of servers that have not renewed them for as long as they promised to.
pub async fn collect(objects: &dyn Objects, now: Timestamp) -> Result<(), Status> {
    let is_over = |lease: &Object| {
        let spec = lease.get("spec");
        let renewed = spec.and_then(|s| s.get("renewTime")?.as_str()?.parse::<Timestamp>().ok());
        let seconds = spec.and_then(|s| s.get("leaseDurationSeconds")?.as_i64());
        let told = renewed.zip(seconds);
        told.is_none_or(|(renewed, seconds)| now.duration_since(renewed) > SignedDuration::from_secs(seconds))
    };
    let known = objects.list(LEASES, Some("kube-system")).await?;
    for lease in known.iter().filter(|lease| is_of_server(lease) && is_over(lease)) {
        let latest = objects.get_latest(LEASES, "kube-system", lease.name()).await?;
        if let Some(latest) = latest.filter(|latest| is_over(latest)) {
            objects.delete(LEASES, &latest).await?;
        }
    }
    Ok(())
}

/// `apiserver-` and 26 letters of the host name's hash, as upstream builds it.
pub fn lease_name(hostname: &str) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = Sha256::digest(hostname.as_bytes());
    let mut name = String::from("apiserver-");
    // Base 32 (RFC 4648) of the first 16 bytes, lower case, without padding.
    let bits = digest[..16].iter().flat_map(|byte| (0..8).rev().map(move |i| byte >> i & 1));
    let bits: Vec<u8> = bits.collect();
    for chunk in bits.chunks(5) {
        let value = chunk.iter().fold(0_usize, |v, bit| v << 1 | usize::from(*bit)) << (5 - chunk.len());
        name.push(char::from(LETTERS[value]));
    }
    name
}

fn spec(current: Option<&Object>, facts: &Facts, now: Timestamp) -> Value {
    let old = |field: &str| current.and_then(|l| l.get("spec")?.get(field).cloned());
    let held = old("holderIdentity") == Some(json!(facts.identity));
    let mut spec = json!({
        "holderIdentity": facts.identity,
        "leaseDurationSeconds": DURATION,
        "renewTime": micro(now),
    });
    if let (true, Some(since)) = (held, old("acquireTime")) {
        spec["acquireTime"] = since;
    }
    spec
}
