//! For whom a node may ask for tokens of its pods' service accounts: for whom a volume of the pod does, or whom RBAC lets it.
//!
//! ```text
//! pod ─► projected volume ─► audience
//!  ├───► CSI volume ─────────────────────────► driver ─► tokenRequests ─► audience
//!  └───► claim (or ephemeral volume) ─► volume ──┘
//! ```
//!
//! Contract: KEP-4412, gate `ServiceAccountNodeAudienceRestriction`; volumes of drivers that were part of Kubernetes count
//! as those of the CSI drivers that took over (`csi-translation-lib`).

use serde_json::Value;

use super::super::{items, text};
use crate::{
    auth::{Attributes, Authorizer},
    object::Object,
    objects::{CSI_DRIVERS, Kind, Objects, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES},
};

/// What one has to be allowed to do; the audience is the resource, the service account its name.
const VERB: &str = "request-serviceaccounts-token-audience";

/// The driver that took over, by the field of a volume.
const MIGRATED: [(&str, &str); 7] = [
    ("gcePersistentDisk", "pd.csi.storage.gke.io"),
    ("awsElasticBlockStore", "ebs.csi.aws.com"),
    ("cinder", "cinder.csi.openstack.org"),
    ("azureDisk", "disk.csi.azure.com"),
    ("azureFile", "file.csi.azure.com"),
    ("vsphereVolume", "csi.vsphere.vmware.com"),
    ("portworxVolume", "pxd.portworx.com"),
];

/// Whether a node may ask for a token for the audience that a request names.
pub(super) async fn check(
    objects: &dyn Objects,
    authorizer: &dyn Authorizer,
    asked: &Attributes,
    pod: &Object,
    body: &Object,
) -> Result<(), String> {
    let audiences: Vec<&str> = items(body, "/spec/audiences").filter_map(Value::as_str).collect();
    let audience = match audiences.as_slice() {
        [] => "",
        [one] => one,
        _ => return Err("node may only request 0 or 1 audiences".to_owned()),
    };
    let named = names(objects, pod, audience).await;
    if named.map_err(|why| format!("error validating audience {audience:?}: {why}"))? {
        return Ok(());
    }
    let wanted = Attributes {
        user: asked.user.clone(),
        verb: VERB.into(),
        namespace: asked.namespace.clone(),
        version: "v1".into(),
        resource: audience.into(),
        name: asked.name.clone(),
        is_resource: true,
        ..Attributes::default()
    };
    authorizer.authorize(&wanted).await.allowed().map(drop).map_err(|_| {
        format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this \
             audience",
            asked.user.name
        )
    })
}

/// Whether a volume of the pod wants tokens for an audience. Volumes that cannot be looked into matter only if none does.
async fn names(objects: &dyn Objects, pod: &Object, audience: &str) -> Result<bool, String> {
    let mut errors = Vec::new();
    for volume in items(pod, "/spec/volumes") {
        if projects(volume, audience) {
            return Ok(true);
        }
        let wants = async {
            match driver(objects, pod, volume).await? {
                Some(driver) => {
                    let driver = found(objects, CSI_DRIVERS, "", &driver).await?;
                    Ok(items(&driver, "/spec/tokenRequests").any(|one| said(one) == audience))
                }
                None => Ok::<_, String>(false),
            }
        };
        match wants.await {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(why) => errors.push(why),
        }
    }
    match errors.as_slice() {
        [] => Ok(false),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn projects(volume: &Value, audience: &str) -> bool {
    let sources = volume.pointer("/projected/sources").and_then(Value::as_array);
    sources
        .into_iter()
        .flatten()
        .filter_map(|source| source.get("serviceAccountToken"))
        .any(|token| said(token) == audience)
}

/// The audience something states, none being the API server itself.
fn said(of: &Value) -> &str {
    of.get("audience").and_then(Value::as_str).unwrap_or_default()
}

/// The CSI driver of a pod's volume.
async fn driver(objects: &dyn Objects, pod: &Object, volume: &Value) -> Result<Option<String>, String> {
    let name = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let claim = if volume.pointer("/ephemeral/volumeClaimTemplate").is_some() {
        format!("{}-{}", pod.name(), name("/name"))
    } else if volume.get("persistentVolumeClaim").is_some() {
        name("/persistentVolumeClaim/claimName").to_owned()
    } else {
        return Ok(in_place(volume));
    };
    let claim = found(objects, PERSISTENT_VOLUME_CLAIMS, pod.namespace(), &claim).await?;
    let volume = found(objects, PERSISTENT_VOLUMES, "", text(&claim, "/spec/volumeName")).await?;
    Ok(volume.get("spec").and_then(in_place))
}

/// The driver that a volume names itself.
fn in_place(volume: &Value) -> Option<String> {
    let csi = volume.pointer("/csi/driver").and_then(Value::as_str);
    let migrated =
        || MIGRATED.iter().find(|(field, _)| volume.get(field).is_some()).map(|(_, driver)| *driver);
    csi.or_else(migrated).map(str::to_owned)
}

async fn found(
    objects: &dyn Objects,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<std::sync::Arc<Object>, String> {
    let object = objects.get(kind, namespace, name).await.map_err(|status| status.to_string())?;
    // Upstream's index speaks of one.
    let one = kind.resource.trim_end_matches('s');
    let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
    object.ok_or_else(|| format!("{one}{group} {name:?} not found"))
}
