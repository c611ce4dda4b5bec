//! What is told of a pod that empties a volume is told of the volume as well: the pod is gone once the volume is empty.
//!
//! Events that cannot be followed are not told again; nothing else depends on them.

use std::collections::HashSet;

use component_base::{
    events::{EventType, Recorder, reference},
    task::Tasks,
    workqueue::chain,
};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Event, ObjectReference, PersistentVolume, Pod};
use kube::{
    Api, Client,
    api::{WatchEvent, WatchParams},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The server ends a watch after so many seconds, and it is taken up again.
const SECONDS: u32 = 290;

/// Follows what is told of a pod until the guard is dropped or the leadership ends.
pub(super) fn follow(
    tasks: &Tasks,
    client: Client,
    recorder: Recorder,
    volume: &PersistentVolume,
    pod: &Pod,
) -> DropGuard {
    let (until, drain) = (CancellationToken::new(), tasks.drain());
    let ended = until.clone();
    let (about, meta) = (reference(volume), pod.metadata.clone());
    tasks.spawn("events of a recycler pod", async move {
        let following = async {
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            let (name, uid) = (meta.name.unwrap_or_default(), meta.uid.unwrap_or_default());
            if let Err(error) =
                relay(Api::namespaced(client, namespace), (&name, &uid), &recorder, &about).await
            {
                tracing::info!(pod = name, error = chain(&error), "events of a recycler pod are not told");
            }
        };
        drain.run_until_cancelled(ended.run_until_cancelled(following)).await;
    });
    until.drop_guard()
}

async fn relay(
    api: Api<Event>,
    (name, uid): (&str, &str),
    recorder: &Recorder,
    about: &ObjectReference,
) -> Result<(), kube::Error> {
    let params = WatchParams::default().fields(&format!("involvedObject.name={name}")).timeout(SECONDS);
    // A watch that is taken up again shows them anew.
    let mut told = HashSet::new();
    loop {
        let events = api.watch(&params, "0").await?;
        futures::pin_mut!(events);
        while let Some(seen) = events.try_next().await? {
            let WatchEvent::Added(event) = seen else { continue };
            if let Some((kind, note)) = passed_on(&event, uid)
                && told.insert(event.metadata.uid.clone())
            {
                recorder.event(about, kind, "RecyclerPod", "Binding", note, None);
            }
        }
    }
}

/// What of an event is told of the volume; nothing of one about another pod of the name.
fn passed_on(event: &Event, uid: &str) -> Option<(EventType, String)> {
    if event.involved_object.uid.as_deref() != Some(uid) {
        return None;
    }
    let kind = match event.type_.as_deref() {
        Some("Warning") => EventType::Warning,
        _ => EventType::Normal,
    };
    Some((kind, format!("Recycler pod: {}", event.message.as_deref().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_told_of_the_pod_is_told_of_the_volume() {
        let event = |uid: &str, kind: &str| -> Event {
            let about = json!({"kind": "Pod", "name": "recycler-for-v", "uid": uid});
            let event = json!({"metadata": {}, "involvedObject": about, "type": kind, "message": "Pulled"});
            serde_json::from_value(event).unwrap()
        };
        let told = |kind| Some((kind, "Recycler pod: Pulled".to_owned()));
        assert_eq!(passed_on(&event("1", "Normal"), "1"), told(EventType::Normal));
        assert_eq!(passed_on(&event("1", "Warning"), "1"), told(EventType::Warning));
        assert_eq!(passed_on(&event("2", "Normal"), "1"), None, "that pod is another");
    }
}
