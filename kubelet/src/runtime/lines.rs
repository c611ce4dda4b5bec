//! What the relist reads of the runtime's lists. They tell all that there is of every sandbox and container, annotations
//! and images too, and are asked for each second: of a hundred pods that is most of a megabyte in thousands of strings
//! that nobody reads. These messages have the fields that are read; the rest of an answer is passed over.
//!
//! Contract: CRI v1, `ListPodSandboxResponse` and `ListContainersResponse`; the numbers are theirs.

use super::{Glimpse, PodLabels, cri, listing::Pieces, observed};

/// Sandboxes.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Sandboxes {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Sandbox>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<cri::PodSandboxMetadata>,
    #[prost(enumeration = "cri::PodSandboxState", tag = "3")]
    state: i32,
    #[prost(int64, tag = "4")]
    created_at: i64,
    #[prost(message, repeated, tag = "5")]
    labels: Vec<Label>,
}

impl Pieces for Sandboxes {
    fn join(&mut self, more: Self) {
        self.items.extend(more.items);
    }
}

impl Pieces for Containers {
    fn join(&mut self, more: Self) {
        self.containers.extend(more.containers);
    }
}

/// Containers.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Containers {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Container>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    pod_sandbox_id: String,
    #[prost(enumeration = "cri::ContainerState", tag = "6")]
    state: i32,
    #[prost(int64, tag = "7")]
    created_at: i64,
    #[prost(message, repeated, tag = "8")]
    labels: Vec<Label>,
}

/// An entry of a map (Protocol Buffers, "Maps": the wire form of repeated pairs).
#[derive(Clone, PartialEq, prost::Message)]
struct Label {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

fn take(labels: &mut [Label], key: &str) -> String {
    labels.iter_mut().find(|l| l.key == key).map(|l| std::mem::take(&mut l.value)).unwrap_or_default()
}

impl Sandboxes {
    /// Those that a kubelet made.
    pub(super) fn glimpses(self) -> impl Iterator<Item = Glimpse> {
        let ours = self.items.into_iter().filter(|s| s.labels.iter().any(|l| l.key == observed::POD_UID));
        ours.filter_map(|sandbox| {
            let meta = sandbox.metadata?;
            Some(Glimpse {
                pod: PodLabels { uid: meta.uid, namespace: meta.namespace, name: meta.name },
                id: sandbox.id,
                sandbox_id: None,
                name: String::new(),
                state: sandbox.state,
                created_at: sandbox.created_at,
            })
        })
    }
}

impl Containers {
    /// Those that a kubelet made.
    pub(super) fn glimpses(self) -> impl Iterator<Item = Glimpse> {
        self.containers.into_iter().filter_map(|mut container| {
            let mut label = |key| take(&mut container.labels, key);
            let pod = PodLabels {
                uid: label(observed::POD_UID),
                namespace: label(observed::POD_NAMESPACE),
                name: label(observed::POD_NAME),
            };
            let name = label(observed::CONTAINER_NAME);
            (!pod.uid.is_empty()).then_some(Glimpse {
                pod,
                name,
                id: container.id,
                sandbox_id: Some(container.pod_sandbox_id),
                state: container.state,
                created_at: container.created_at,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use prost::Message;

    use super::*;

    fn labels(uid: &str) -> HashMap<String, String> {
        let pair = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        [
            (observed::POD_UID, uid),
            (observed::POD_NAMESPACE, "ns"),
            (observed::POD_NAME, "web-0"),
            (observed::CONTAINER_NAME, "web"),
            ("team", "sea"),
        ]
        .map(pair)
        .into()
    }

    #[test]
    fn the_fields_are_those_of_the_whole_messages() {
        let text = str::to_owned;
        let meta = cri::PodSandboxMetadata {
            name: text("web-0"),
            uid: text("u1"),
            namespace: text("ns"),
            attempt: 3,
        };
        let sandbox = cri::PodSandbox {
            id: text("s1"),
            metadata: Some(meta),
            state: cri::PodSandboxState::SandboxNotready as i32,
            created_at: 7,
            labels: labels("u1"),
            annotations: labels("other"),
            runtime_handler: text("kata"),
        };
        let foreign = cri::PodSandbox { labels: HashMap::new(), id: text("s2"), ..sandbox.clone() };
        let whole = cri::ListPodSandboxResponse { items: vec![sandbox, foreign] };
        let read = Sandboxes::decode(whole.encode_to_vec().as_slice()).unwrap();
        let pod = PodLabels { uid: text("u1"), namespace: text("ns"), name: text("web-0") };
        let expected = Glimpse {
            pod: pod.clone(),
            id: text("s1"),
            sandbox_id: None,
            name: String::new(),
            state: cri::PodSandboxState::SandboxNotready as i32,
            created_at: 7,
        };
        assert_eq!(read.glimpses().collect::<Vec<_>>(), std::slice::from_ref(&expected));

        let container = cri::Container {
            id: text("c1"),
            pod_sandbox_id: text("s1"),
            state: cri::ContainerState::ContainerExited as i32,
            created_at: 9,
            labels: labels("u1"),
            annotations: labels("other"),
            image_ref: text("sha256:1"),
            ..cri::Container::default()
        };
        let foreign = cri::Container { labels: HashMap::new(), ..container.clone() };
        let whole = cri::ListContainersResponse { containers: vec![foreign, container] };
        let read = Containers::decode(whole.encode_to_vec().as_slice()).unwrap();
        let expected = Glimpse {
            id: text("c1"),
            sandbox_id: Some(text("s1")),
            name: text("web"),
            state: cri::ContainerState::ContainerExited as i32,
            created_at: 9,
            ..expected
        };
        assert_eq!(read.glimpses().collect::<Vec<_>>(), [expected]);
    }
}
