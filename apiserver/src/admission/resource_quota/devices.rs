//! What a claim of devices uses of extended resources, which its pod may have been charged for already (KEP-5004).
//!
//! Contract: upstream `pkg/quota/v1/evaluator/core/resource_claims.go`.

use std::{collections::BTreeMap, sync::Arc};

use component_base::quota::{self, Amounts};
use jiff::Timestamp;

use crate::{
    object::Object,
    objects::{DEVICE_CLASSES, Objects, PODS, RESOURCE_CLAIMS},
    status::Status,
};

/// On claims that were made for the extended resources of a pod.
const EXTENDED: &str = "resource.kubernetes.io/extended-resource-claim";

/// Adds it to what the claim uses otherwise.
pub(super) async fn add(objects: &dyn Objects, claim: &Object, used: &mut Amounts) -> Result<(), Status> {
    let classes = objects.list(DEVICE_CLASSES, None).await?;
    let named = |class: &Arc<Object>| {
        let resource = class.pointer("/spec/extendedResourceName")?.as_str()?;
        Some((class.name().to_owned(), resource.to_owned()))
    };
    let names: BTreeMap<String, String> = classes.iter().filter_map(named).collect();
    let of_pod = match pod_of(objects, claim).await? {
        Some(pod) => quota::usage("", "pods", &*pod, Some(Timestamp::now())),
        None => Amounts::new(),
    };
    quota::devices::extended(used, |class| names.get(class).cloned(), &of_pod);
    Ok(())
}

/// The pod for whose extended resources a claim was made; of several such claims of a pod that names none yet, it is the
/// oldest one's.
async fn pod_of(objects: &dyn Objects, claim: &Object) -> Result<Option<Arc<Object>>, Status> {
    let Some((name, uid)) = owner(claim) else { return Ok(None) };
    let found = objects.get(PODS, claim.namespace(), &name).await?;
    let Some(pod) = found.filter(|pod| pod.uid() == uid) else { return Ok(None) };
    let named = pod.pointer("/status/extendedResourceClaimStatus").filter(|named| !named.is_null());
    let is_it = match named {
        Some(named) => {
            named.get("resourceClaimName").and_then(|name| name.as_str()).unwrap_or_default() == claim.name()
        }
        None => {
            let age = |claim: &Object| {
                (claim.meta_str("creationTimestamp").parse::<Timestamp>().ok(), claim.name().to_owned())
            };
            let claims = objects.list(RESOURCE_CLAIMS, Some(claim.namespace())).await?;
            let of_pod = |other: &&Arc<Object>| owner(other).is_some_and(|(_, of)| of == uid);
            claims.iter().filter(of_pod).all(|other| age(claim) <= age(other))
        }
    };
    Ok(is_it.then_some(pod))
}

/// The name and uid of the pod that a claim says it was made for.
fn owner(claim: &Object) -> Option<(String, String)> {
    if claim.annotation(EXTENDED) != Some("true") {
        return None;
    }
    let owners = claim.metadata()?.get("ownerReferences")?.as_array()?;
    let controls = |owner: &&serde_json::Value| owner.get("controller").is_some_and(|is| is == true);
    let owner = owners.iter().find(controls)?;
    let text = |field: &str| owner.get(field).and_then(|value| value.as_str()).unwrap_or_default();
    (text("kind") == "Pod" && text("apiVersion") == "v1")
        .then(|| (text("name").to_owned(), text("uid").to_owned()))
}
