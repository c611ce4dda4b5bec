//! The two priority classes of system pods.

use jiff::Timestamp;
use serde_json::json;

use crate::{
    objects::{Objects, PRIORITY_CLASSES, ensure as ensure_object, new_object},
    status::Status,
};

/// Name, value, what it is for. Values above one billion are the system's.
const CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "For pods their node cannot do without; never evicted for others.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "For pods the cluster cannot do without; they may move to other nodes.",
    ),
];

/// Creates the missing ones.
pub async fn ensure(objects: &dyn Objects, now: Timestamp) -> Result<(), Status> {
    for (name, value, description) in CLASSES {
        let mut class = new_object("scheduling.k8s.io/v1", "PriorityClass", "", name, now);
        class.metadata_mut().insert("generation".to_owned(), json!(1));
        class.set("value", value);
        class.set("description", description);
        class.set("preemptionPolicy", "PreemptLowerPriority");
        ensure_object(objects, PRIORITY_CLASSES, class).await?;
    }
    Ok(())
}
