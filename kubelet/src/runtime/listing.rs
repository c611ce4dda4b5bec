//! Lists of the runtime: in one piece, or where that is asked for and the runtime can, piece by piece, since the lists of a
//! large node are longer than one message may be.
//!
//! Contract: KEP-5825 (`CRIListStreaming`). A piece is a message of the same shape as the list in one piece, and so are the
//! questions, which is why both are read as the same type here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::uri::PathAndQuery;
use prost::Message;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::{MAX_MESSAGE, RuntimeError, cri, measured::Measured};

/// A list, by its two calls.
pub(super) struct Call {
    whole: &'static str,
    streamed: &'static str,
}

pub(super) const SANDBOXES: Call = Call {
    whole: "/runtime.v1.RuntimeService/ListPodSandbox",
    streamed: "/runtime.v1.RuntimeService/StreamPodSandboxes",
};
pub(super) const CONTAINERS: Call = Call {
    whole: "/runtime.v1.RuntimeService/ListContainers",
    streamed: "/runtime.v1.RuntimeService/StreamContainers",
};
pub(super) const STATS: Call = Call {
    whole: "/runtime.v1.RuntimeService/ListContainerStats",
    streamed: "/runtime.v1.RuntimeService/StreamContainerStats",
};
pub(super) const IMAGES: Call =
    Call { whole: "/runtime.v1.ImageService/ListImages", streamed: "/runtime.v1.ImageService/StreamImages" };

/// A list that can go on.
pub(super) trait Pieces: Message + Default + 'static {
    /// Takes in the next piece.
    fn join(&mut self, more: Self);
}

impl Pieces for cri::ListPodSandboxResponse {
    fn join(&mut self, more: Self) {
        self.items.extend(more.items);
    }
}

impl Pieces for cri::ListContainersResponse {
    fn join(&mut self, more: Self) {
        self.containers.extend(more.containers);
    }
}

impl Pieces for cri::ListContainerStatsResponse {
    fn join(&mut self, more: Self) {
        self.stats.extend(more.stats);
    }
}

impl Pieces for cri::ListImagesResponse {
    fn join(&mut self, more: Self) {
        self.images.extend(more.images);
    }
}

/// Lists of one service.
#[derive(Clone, Debug)]
pub(super) struct Lists {
    calls: tonic::client::Grpc<Measured>,
    timeout: Duration,
    /// They come in streams, as far as is known.
    streams: Arc<AtomicBool>,
}

impl Lists {
    pub(super) fn new(channel: Measured, timeout: Duration, streams: bool) -> Self {
        let calls = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Self { calls, timeout, streams: Arc::new(AtomicBool::new(streams)) }
    }

    /// A list. A runtime that has no streams is not asked for them again.
    pub(super) async fn get<Q, A>(&self, call: &Call, question: Q) -> Result<A, RuntimeError>
    where
        Q: Message + Clone + 'static,
        A: Pieces,
    {
        if self.streams.load(Ordering::Relaxed) {
            match self.streamed(call.streamed, question.clone()).await {
                Err(status) if status.code() == Code::Unimplemented => {
                    tracing::info!(
                        call = call.streamed,
                        "the runtime has no such stream, it is asked for lists"
                    );
                    self.streams.store(false, Ordering::Relaxed);
                }
                answer => return Ok(answer?),
            }
        }
        Ok(self.whole(call.whole, question).await?)
    }

    async fn ready(&self) -> Result<tonic::client::Grpc<Measured>, Status> {
        let mut calls = self.calls.clone();
        calls.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(calls)
    }

    fn request<Q>(&self, question: Q) -> Request<Q> {
        let mut request = Request::new(question);
        request.set_timeout(self.timeout);
        request
    }

    async fn whole<Q: Message + 'static, A: Pieces>(
        &self,
        path: &'static str,
        question: Q,
    ) -> Result<A, Status> {
        let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::<Q, A>::default());
        let answer = self.ready().await?.unary(self.request(question), path, codec).await?;
        Ok(answer.into_inner())
    }

    async fn streamed<Q: Message + 'static, A: Pieces>(
        &self,
        path: &'static str,
        question: Q,
    ) -> Result<A, Status> {
        let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::<Q, A>::default());
        let answer = self.ready().await?.server_streaming(self.request(question), path, codec).await?;
        let (mut pieces, mut all) = (answer.into_inner(), A::default());
        while let Some(piece) = pieces.message().await? {
            all.join(piece);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
    };

    use parking_lot::Mutex;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{
        Response,
        body::Body,
        server::{NamedService, ServerStreamingService, UnaryService},
    };

    use super::*;

    /// A runtime that lists containers, in as many pieces as it has.
    #[derive(Clone)]
    struct Fake {
        pieces: Vec<Vec<&'static str>>,
        streams: bool,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl NamedService for Fake {
        const NAME: &'static str = "runtime.v1.RuntimeService";
    }

    impl Fake {
        fn list(names: &[&str]) -> cri::ListContainersResponse {
            let one = |id: &&str| cri::Container { id: (*id).to_owned(), ..Default::default() };
            cri::ListContainersResponse { containers: names.iter().map(one).collect() }
        }
    }

    type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

    impl UnaryService<cri::ListContainersRequest> for Fake {
        type Response = cri::ListContainersResponse;
        type Future = Answer<Self::Response>;
        fn call(&mut self, _: Request<cri::ListContainersRequest>) -> Self::Future {
            let all = Self::list(&self.pieces.concat());
            Box::pin(async move { Ok(Response::new(all)) })
        }
    }

    impl ServerStreamingService<cri::ListContainersRequest> for Fake {
        type Response = cri::ListContainersResponse;
        type ResponseStream = Pin<Box<dyn futures::Stream<Item = Result<Self::Response, Status>> + Send>>;
        type Future = Answer<Self::ResponseStream>;
        fn call(&mut self, _: Request<cri::ListContainersRequest>) -> Self::Future {
            let pieces: Vec<_> = self.pieces.iter().map(|names| Ok(Self::list(names))).collect();
            let answer: Self::ResponseStream = Box::pin(futures::stream::iter(pieces));
            let streams = self.streams;
            Box::pin(async move {
                if streams { Ok(Response::new(answer)) } else { Err(Status::unimplemented("unknown method")) }
            })
        }
    }

    impl tower::Service<http::Request<Body>> for Fake {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            let (this, path) = (self.clone(), request.uri().path().to_owned());
            self.asked.lock().push(path.rsplit('/').next().unwrap_or_default().to_owned());
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
            Box::pin(async move {
                Ok(match path.as_str() {
                    path if path == CONTAINERS.streamed => grpc.server_streaming(this, request).await,
                    _ => grpc.unary(this, request).await,
                })
            })
        }
    }

    #[tokio::test]
    async fn lists_come_in_pieces_where_the_runtime_has_streams() {
        for (wanted, streams, expected) in [
            (true, true, vec!["StreamContainers", "StreamContainers"]),
            (true, false, vec!["StreamContainers", "ListContainers", "ListContainers"]),
            (false, true, vec!["ListContainers", "ListContainers"]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let socket = dir.path().join("runtime.sock");
            let listener = UnixListenerStream::new(tokio::net::UnixListener::bind(&socket).unwrap());
            let asked = Arc::<Mutex<Vec<String>>>::default();
            let pieces = vec![vec!["a", "b"], vec![], vec!["c"]];
            let fake = Fake { pieces, streams, asked: Arc::clone(&asked) };
            let tasks = component_base::task::Tasks::new();
            tasks.spawn("runtime", async move {
                let server = tonic::transport::Server::builder().add_service(fake);
                server.serve_with_incoming(listener).await.unwrap();
            });
            let channel = super::super::channel(&socket.to_string_lossy()).unwrap();
            let lists = Lists::new(channel, Duration::from_secs(60), wanted);
            for _ in 0..2 {
                let question = cri::ListContainersRequest::default();
                let all: cri::ListContainersResponse = lists.get(&CONTAINERS, question).await.unwrap();
                let ids: Vec<&str> = all.containers.iter().map(|c| c.id.as_str()).collect();
                assert_eq!(ids, ["a", "b", "c"]);
            }
            assert_eq!(*asked.lock(), expected, "{wanted} {streams}");
            tasks.shutdown(Duration::ZERO).await;
        }
    }
}
