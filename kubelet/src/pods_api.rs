//! `<root>/pods-api/pods-api.sock`: the pods of the node with their newest statuses, for programs on it that should not have
//! to ask the API server.
//!
//! Contract: KEP-4188 (`PodsAPI`), version v1alpha1; pods are written as v1.Pod messages. Who watches and does not read is
//! left behind and told so.

use std::{io, path::Path, pin::Pin, sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use component_base::task::Tasks;
use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use proto::{
    codec::{self, EncodeError, Envelope},
    pods::v1alpha1::{
        EventType, GetPodRequest, GetPodResponse, ListPodsRequest, ListPodsResponse, WatchPodsEvent,
        WatchPodsRequest,
        pods_server::{Pods as Service, PodsServer},
    },
};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    metrics, pod,
    pods::Pods,
    sockets::{self, Limiter},
    status::{Change, Statuses},
};

/// Where the pods come from.
struct Api {
    pods: Arc<Pods>,
    statuses: Arc<Statuses>,
    limiter: Limiter,
}

/// Serves the socket below `root` until the drain.
///
/// # Errors
/// When the socket cannot be made.
pub fn run(root: &Path, pods: Arc<Pods>, statuses: Arc<Statuses>, tasks: &Tasks) -> io::Result<()> {
    let listener = sockets::bind(&root.join("pods-api"), "pods-api.sock")?;
    let limiter = Limiter::new(Instant::now());
    let (service, drain) = (PodsServer::new(Api { pods, statuses, limiter }), tasks.drain());
    tasks.spawn("pods-api", async move {
        let server = Server::builder().add_service(service);
        if let Err(error) = server.serve_with_incoming_shutdown(listener, drain.cancelled_owned()).await {
            tracing::error!(%error, "cannot serve pods");
        }
    });
    Ok(())
}

/// A pod as a message.
fn encoded(pod: &Pod) -> Result<Bytes, Status> {
    let wrong = |error: EncodeError| Status::internal(format!("failed to marshal pod: {error}"));
    let json = serde_json::to_vec(pod).map_err(|error| wrong(error.into()))?;
    let whole = codec::from_json_as(&json, "v1", "Pod").map_err(wrong)?;
    // What has just been encoded can be opened.
    let opened = Envelope::open(&whole).map_err(|error| Status::internal(error.to_string()))?;
    Ok(whole.slice_ref(opened.message))
}

fn event(kind: EventType, pod: &Pod) -> Result<WatchPodsEvent, Status> {
    Ok(WatchPodsEvent { r#type: kind.into(), pod: encoded(pod)? })
}

/// What a change is told as; of a pod that is gone only who it was.
fn told(change: &Change) -> Result<WatchPodsEvent, Status> {
    match change {
        Change::Set { pod, status, added } => {
            let mut pod = Pod::clone(pod);
            pod.status = Some((**status).clone());
            event(if *added { EventType::Added } else { EventType::Modified }, &pod)
        }
        Change::Gone(pod) => {
            let mut gone = Pod::default();
            gone.metadata.name.clone_from(&pod.metadata.name);
            gone.metadata.namespace.clone_from(&pod.metadata.namespace);
            gone.metadata.uid.clone_from(&pod.metadata.uid);
            event(EventType::Deleted, &gone)
        }
    }
}

/// All changes from now on, until one was missed.
fn changes(receiver: Receiver<Change>) -> impl Stream<Item = Result<WatchPodsEvent, Status>> + Send {
    stream::unfold(Some(receiver), |state| async move {
        let mut receiver = state?;
        match receiver.recv().await {
            Ok(change) => Some((told(&change), Some(receiver))),
            Err(RecvError::Lagged(missed)) => {
                metrics::get().pod_watch_dropped.inc_by(missed);
                Some((Err(Status::resource_exhausted("watch client channel closed")), None))
            }
            Err(RecvError::Closed) => None,
        }
    })
}

/// What is there, that this was all of it, then what changes.
fn watched(
    pods: &[Pod],
    receiver: Receiver<Change>,
) -> impl Stream<Item = Result<WatchPodsEvent, Status>> + Send + use<> {
    let there: Vec<_> = pods.iter().map(|pod| event(EventType::Added, pod)).collect();
    let complete = WatchPodsEvent { r#type: EventType::InitialSyncComplete.into(), pod: Bytes::new() };
    stream::iter(there).chain(stream::once(async move { Ok(complete) })).chain(changes(receiver))
}

impl Api {
    /// All pods, by uid.
    fn all(&self) -> Vec<Pod> {
        let mut all = self.pods.list();
        all.sort_by(|a, b| pod::uid(a).cmp(pod::uid(b)));
        all
    }
}

#[async_trait]
impl Service for Api {
    type WatchPodsStream = Pin<Box<dyn Stream<Item = Result<WatchPodsEvent, Status>> + Send>>;

    async fn watch_pods(
        &self,
        _: Request<WatchPodsRequest>,
    ) -> Result<Response<Self::WatchPodsStream>, Status> {
        // What changes while the list is made is told twice rather than not at all.
        let receiver = self.statuses.watch();
        Ok(Response::new(Box::pin(watched(&self.all(), receiver))))
    }

    async fn list_pods(&self, _: Request<ListPodsRequest>) -> Result<Response<ListPodsResponse>, Status> {
        self.limiter.enter(Instant::now())?;
        let pods = self.all().iter().map(encoded).collect::<Result<_, _>>()?;
        Ok(Response::new(ListPodsResponse { pods }))
    }

    async fn get_pod(&self, request: Request<GetPodRequest>) -> Result<Response<GetPodResponse>, Status> {
        self.limiter.enter(Instant::now())?;
        let uid = request.into_inner().pod_uid;
        let found = self.all().into_iter().find(|pod| pod::uid(pod) == uid);
        let pod = found.ok_or_else(|| Status::not_found(format!("pod with UID {uid} not found")))?;
        Ok(Response::new(GetPodResponse { pod: encoded(&pod)? }))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodStatus;
    use tonic::Code;

    use super::*;
    use crate::testing;

    /// What kind of event, of whom, in which phase.
    fn read(event: Result<WatchPodsEvent, Status>) -> (EventType, String, String) {
        let event = event.unwrap();
        // As any client reads the message of a pod: its metadata is field 1, its status field 3.
        let json = if event.pod.is_empty() {
            serde_json::Value::Null
        } else {
            let envelope = Envelope { api_version: "v1".into(), kind: "Pod".into(), message: &event.pod };
            serde_json::from_slice(&envelope.to_json().unwrap()).unwrap()
        };
        let text = |path: &str| {
            json.pointer(path).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
        };
        (event.r#type(), text("/metadata/uid"), text("/status/phase"))
    }

    fn phase(phase: &str) -> Arc<PodStatus> {
        Arc::new(PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() })
    }

    #[tokio::test]
    async fn who_watches_is_told_what_is_there_and_what_becomes_of_it() {
        let statuses = Statuses::default();
        let (a, b) = (testing::pod("a").container("c").build(), Arc::new(testing::pod("b").build()));
        let mut events = Box::pin(watched(&[a], statuses.watch()));
        statuses.set(&b, phase("Pending"));
        statuses.set(&b, phase("Pending"));
        statuses.set(&b, phase("Running"));
        statuses.forget(&b);
        let of = |kind, uid: &str, phase: &str| (kind, uid.to_owned(), phase.to_owned());
        for expected in [
            of(EventType::Added, "uid-a", ""),
            of(EventType::InitialSyncComplete, "", ""),
            of(EventType::Added, "uid-b", "Pending"),
            of(EventType::Modified, "uid-b", "Running"),
            of(EventType::Deleted, "uid-b", ""),
        ] {
            assert_eq!(read(events.next().await.unwrap()), expected);
        }
    }

    #[tokio::test]
    async fn who_does_not_read_is_left_behind() {
        let statuses = Statuses::default();
        let mut events = Box::pin(watched(&[], statuses.watch()));
        let pod = Arc::new(testing::pod("a").build());
        (0..1000).for_each(|i| statuses.set(&pod, phase(&i.to_string())));
        assert_eq!(read(events.next().await.unwrap()).0, EventType::InitialSyncComplete);
        let refused = events.next().await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(events.next().await.is_none());
    }
}
