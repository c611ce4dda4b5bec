//! The drivers on this node: registered by their sockets, told of in the CSINode and the node's labels.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    time::{Duration, Instant},
};

use super::measured::Measured;
use crate::{
    api::ObjectSource,
    plugin::{Introduction, PluginKind, channel},
};
use async_trait::async_trait;
use k8s_openapi::{
    api::{
        core::v1::Node,
        storage::v1::{CSIDriverSpec, CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use proto::csi::v1::{
    NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodeGetInfoResponse,
    node_client::NodeClient,
    node_service_capability::{Type, rpc},
};
use serde_json::json;
use tokio::sync::Notify;

/// How long a driver may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long to wait after the CSINode could not be made: the node may not be registered yet.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two looks at which drivers are to be asked again: less than that no object may say.
const LEAST_PERIOD: Duration = Duration::from_secs(10);
/// The kinds of volumes of earlier versions that drivers have taken over.
const MIGRATED: [&str; 7] =
    ["aws-ebs", "azure-disk", "azure-file", "cinder", "gce-pd", "portworx-volume", "vsphere-volume"];
/// The annotation that says so.
const MIGRATED_ANNOTATION: &str = "storage.alpha.kubernetes.io/migrated-plugins";
/// Writes of the CSINode that meet another's are tried again so often.
const CONFLICTS: usize = 5;

/// What a driver can do on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Volumes are staged before they are published.
    pub stage: bool,
    /// Volumes can grow here.
    pub expand: bool,
    /// It says what volumes hold.
    pub stats: bool,
    /// It knows the modes of a single node.
    pub single_node_modes: bool,
    /// It sees to the group of a volume's files itself.
    pub mount_group: bool,
    /// It says how volumes are.
    pub condition: bool,
}

/// The drivers on this node.
pub struct Drivers {
    client: Option<Client>,
    node: String,
    known: Mutex<HashMap<String, PathBuf>>,
    /// Those that have attached as many volumes as they can.
    full: Mutex<BTreeSet<String>>,
    changed: Notify,
}

impl Drivers {
    /// None yet.
    #[must_use]
    pub fn new(client: Option<Client>, node: &str) -> Self {
        let (known, full, changed) = (Mutex::default(), Mutex::default(), Notify::new());
        Self { client, node: node.to_owned(), known, full, changed }
    }

    /// A connection to a registered driver.
    #[must_use]
    pub fn client(&self, driver: &str) -> Option<NodeClient<Measured>> {
        let endpoint = self.known.lock().get(driver).cloned()?;
        Some(NodeClient::new(Measured::new(channel(&endpoint), driver)))
    }

    /// Makes a driver known without asking it.
    pub fn add(&self, driver: &str, endpoint: PathBuf) {
        self.known.lock().insert(driver.to_owned(), endpoint);
    }

    /// Sees to it that the node has its CSINode, before any driver comes: schedulers and controllers read from it which
    /// volumes go through drivers. Tries until that is done.
    pub async fn ensure_node(&self) {
        while let Err(error) = self.write(|_| false).await {
            tracing::debug!(%error, "no CSINode yet");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The driver has attached as many volumes as it can: it is asked how many that are.
    pub fn look_again(&self, driver: &str) {
        self.full.lock().insert(driver.to_owned());
        self.changed.notify_one();
    }

    /// Asks drivers how many volumes they can attach, as often as their objects say and when they are full, for good.
    pub async fn keep_counts(&self, objects: &dyn ObjectSource) {
        let mut asked: HashMap<String, Instant> = HashMap::new();
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(LEAST_PERIOD) => {}
            }
            let full = std::mem::take(&mut *self.full.lock());
            let known: Vec<String> = self.known.lock().keys().cloned().collect();
            asked.retain(|name, _| known.contains(name));
            for name in known {
                let Ok(Some(driver)) = objects.csi_driver(&name).await else { continue };
                let before = *asked.entry(name.clone()).or_insert_with(Instant::now);
                let due = period(&driver.spec).is_some_and(|period| before.elapsed() >= period);
                if due || full.contains(&name) {
                    asked.insert(name.clone(), Instant::now());
                    self.count_again(&name).await;
                }
            }
        }
    }

    async fn count_again(&self, driver: &str) {
        let Some(mut client) = self.client(driver) else { return };
        let asked = tokio::time::timeout(PATIENCE, client.node_get_info(NodeGetInfoRequest {})).await;
        let told = match asked {
            Ok(Ok(info)) => self.announce(driver, &info.into_inner()).await.map_err(|e| e.to_string()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err("no answer".to_owned()),
        };
        if let Err(error) = told {
            tracing::warn!(driver, error, "cannot bring the driver's count of volumes up to date");
        }
    }

    async fn announce(&self, driver: &str, info: &NodeGetInfoResponse) -> Result<(), kube::Error> {
        let Some(client) = &self.client else { return Ok(()) };
        let segments: BTreeMap<String, String> =
            info.accessible_topology.clone().unwrap_or_default().segments.into_iter().collect();
        if !segments.is_empty() {
            let nodes: Api<Node> = Api::all(client.clone());
            let labels = json!({ "metadata": { "labels": segments } });
            nodes.patch(&self.node, &PatchParams::default(), &Patch::Strategic(&labels)).await?;
        }
        let entry = entry(driver, info, segments.into_keys().collect());
        self.write(|drivers| put(drivers, entry.clone())).await
    }

    /// Changes the list of drivers in the CSINode; one that is not there is made, in the name of the node.
    async fn write(&self, change: impl Fn(&mut Vec<CSINodeDriver>) -> bool) -> Result<(), kube::Error> {
        let Some(client) = &self.client else { return Ok(()) };
        let api: Api<CSINode> = Api::all(client.clone());
        let mut left = CONFLICTS;
        loop {
            let result = match api.get_opt(&self.node).await? {
                Some(mut object) => {
                    if !change(&mut object.spec.drivers) {
                        return Ok(());
                    }
                    api.replace(&self.node, &PostParams::default(), &object).await
                }
                None => {
                    let nodes: Api<Node> = Api::all(client.clone());
                    let mut object = fresh(&nodes.get(&self.node).await?);
                    change(&mut object.spec.drivers);
                    api.create(&PostParams::default(), &object).await
                }
            };
            match result {
                Err(kube::Error::Api(status)) if status.code == 409 && left > 0 => left -= 1,
                other => return other.map(drop),
            }
        }
    }
}

/// How often a driver is asked how many volumes it can attach; never, where its object does not say.
#[must_use]
pub fn period(spec: &CSIDriverSpec) -> Option<Duration> {
    let seconds = u64::try_from(spec.node_allocatable_update_period_seconds?).ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// What a driver can do.
///
/// # Errors
/// When it does not answer.
pub async fn capabilities(client: &mut NodeClient<Measured>) -> Result<Capabilities, tonic::Status> {
    let answer = client.node_get_capabilities(NodeGetCapabilitiesRequest {}).await?.into_inner();
    let types: Vec<i32> =
        answer.capabilities.iter().filter_map(|c| c.r#type.as_ref()).map(|Type::Rpc(r)| r.r#type).collect();
    let has = |wanted: rpc::Type| types.contains(&(wanted as i32));
    Ok(Capabilities {
        stage: has(rpc::Type::StageUnstageVolume),
        expand: has(rpc::Type::ExpandVolume),
        stats: has(rpc::Type::GetVolumeStats),
        single_node_modes: has(rpc::Type::SingleNodeMultiWriter),
        mount_group: has(rpc::Type::VolumeMountGroup),
        condition: has(rpc::Type::VolumeCondition),
    })
}

/// The CSINode of a node that has none.
fn fresh(node: &Node) -> CSINode {
    let mut object = CSINode { spec: CSINodeSpec::default(), ..CSINode::default() };
    object.metadata.name.clone_from(&node.metadata.name);
    let migrated: Vec<String> = MIGRATED.iter().map(|kind| format!("kubernetes.io/{kind}")).collect();
    object.metadata.annotations =
        Some(BTreeMap::from([(MIGRATED_ANNOTATION.to_owned(), migrated.join(","))]));
    object.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }]);
    object
}

fn entry(driver: &str, info: &NodeGetInfoResponse, topology: Vec<String>) -> CSINodeDriver {
    let most = i32::try_from(info.max_volumes_per_node).unwrap_or(i32::MAX);
    CSINodeDriver {
        name: driver.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: (!topology.is_empty()).then_some(topology),
        allocatable: (most > 0).then_some(VolumeNodeResources { count: Some(most) }),
    }
}

/// Puts the entry in the list; false when it is there already.
fn put(drivers: &mut Vec<CSINodeDriver>, entry: CSINodeDriver) -> bool {
    if drivers.contains(&entry) {
        return false;
    }
    drivers.retain(|d| d.name != entry.name);
    drivers.push(entry);
    true
}

#[async_trait]
impl PluginKind for Drivers {
    fn kind(&self) -> &'static str {
        "CSIPlugin"
    }

    async fn register(&self, plugin: &Introduction) -> Result<(), String> {
        if !plugin.versions.iter().any(|v| v.trim_start_matches('v').starts_with("1.")) {
            return Err(format!("none of the CSI versions {:?} is supported", plugin.versions));
        }
        let mut client = NodeClient::new(channel(&plugin.endpoint));
        let asked = tokio::time::timeout(PATIENCE, client.node_get_info(NodeGetInfoRequest {})).await;
        let info = asked.map_err(|_| "NodeGetInfo: no answer".to_owned())?;
        let info = info.map_err(|e| format!("NodeGetInfo: {}", e.message()))?.into_inner();
        self.announce(&plugin.name, &info).await.map_err(|e| format!("cannot write the CSINode: {e}"))?;
        self.add(&plugin.name, plugin.endpoint.clone());
        Ok(())
    }

    async fn deregister(&self, plugin: &Introduction) {
        let name = plugin.name.as_str();
        self.known.lock().remove(name);
        let gone = |drivers: &mut Vec<CSINodeDriver>| {
            let before = drivers.len();
            drivers.retain(|d| d.name != name);
            drivers.len() != before
        };
        if let Err(error) = self.write(gone).await {
            tracing::warn!(driver = name, %error, "cannot take the driver out of the CSINode");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_listed_once_as_it_is_now() {
        let info = |most| NodeGetInfoResponse {
            node_id: "i-1".into(),
            max_volumes_per_node: most,
            ..Default::default()
        };
        let mut list = vec![entry("other", &info(0), vec![])];
        assert!(put(&mut list, entry("d", &info(7), vec!["zone".into()])));
        assert!(!put(&mut list, entry("d", &info(7), vec!["zone".into()])));
        assert!(put(&mut list, entry("d", &info(8), vec!["zone".into()])));
        assert_eq!(list.len(), 2);
        assert_eq!(list[1].allocatable.as_ref().unwrap().count, Some(8));
        assert_eq!((list[0].allocatable.clone(), list[0].topology_keys.clone()), (None, None));
    }

    #[test]
    fn a_new_csinode_belongs_to_its_node() {
        let mut node = Node::default();
        (node.metadata.name, node.metadata.uid) = (Some("n".into()), Some("u".into()));
        let object = fresh(&node);
        let migrated = &object.metadata.annotations.unwrap()[MIGRATED_ANNOTATION];
        assert!(migrated.starts_with("kubernetes.io/aws-ebs,kubernetes.io/azure-disk,"), "{migrated}");
        let owner = &object.metadata.owner_references.unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.uid.as_str()), ("Node", "n", "u"));
    }

    #[tokio::test]
    async fn a_driver_of_another_age_is_refused() {
        let drivers = Drivers::new(None, "n");
        let plugin = Introduction {
            kind: "CSIPlugin".into(),
            name: "d".into(),
            endpoint: "/none".into(),
            versions: vec!["0.3.0".into()],
        };
        assert!(drivers.register(&plugin).await.unwrap_err().contains("0.3.0"));
        assert!(drivers.client("d").is_none());
    }
}
