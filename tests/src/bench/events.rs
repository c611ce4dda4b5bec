//! Waiting for what a watch shows.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinSet};

use super::http::Client;

const PATIENCE: Duration = Duration::from_secs(300);

/// A watch of one kind, from what there is when it is opened. It is read as it comes, whatever else is done meanwhile:
/// a server ends watches that are not.
pub(super) struct Events {
    lines: mpsc::UnboundedReceiver<Result<Bytes>>,
    /// Keeps the connection as long as the watch.
    _client: Client,
    _reader: JoinSet<()>,
}

impl Events {
    /// Watches a list's path, which may end in a query, from now on.
    pub(super) async fn open(client: &Client, path: &str) -> Result<Events> {
        let mut client = client.share().context("watching needs HTTP/2")?;
        let and = if path.contains('?') { '&' } else { '?' };
        let list = client.json("GET", &format!("{path}{and}limit=1"), Bytes::new()).await?;
        let list: Value = serde_json::from_slice(&list)?;
        let now = list["metadata"]["resourceVersion"].as_str().context("a list without resourceVersion")?;
        let path = format!("{path}{and}watch=true&timeoutSeconds=3000&resourceVersion={now}");
        let answer = client.send("GET", &path, &[("accept", "application/json")], Bytes::new()).await?;
        ensure!(answer.status().is_success(), "watch: {}", answer.status());
        let (sender, lines) = mpsc::unbounded_channel();
        let mut reader = JoinSet::new();
        reader.spawn(read(answer.into_body(), sender));
        Ok(Events { lines, _client: client, _reader: reader })
    }

    /// Reads until as many different objects as asked for have had an event that counts.
    pub(super) async fn until(&mut self, count: usize, counts: impl Fn(&str, &Value) -> bool) -> Result<()> {
        let mut seen: HashMap<String, ()> = HashMap::new();
        let all = async {
            while seen.len() < count {
                let event = self.next().await?;
                let object = &event["object"];
                if counts(event["type"].as_str().unwrap_or_default(), object) {
                    let meta = &object["metadata"];
                    let text = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
                    seen.insert(format!("{}/{}", text("namespace"), text("name")), ());
                }
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(result) => result,
            Err(_) => bail!("the watch showed {} of {count} in {PATIENCE:?}", seen.len()),
        }
    }

    /// How many events come until none has come for `quiet`.
    pub(super) async fn count(&mut self, quiet: Duration) -> Result<usize> {
        let mut count = 0;
        while let Ok(event) = tokio::time::timeout(quiet, self.next()).await {
            event?;
            count += 1;
        }
        Ok(count)
    }

    async fn next(&mut self) -> Result<Value> {
        let line = self.lines.recv().await.context("the watch ended")??;
        Ok(serde_json::from_slice(&line)?)
    }
}

/// Passes a body on line by line, until it ends or nobody listens.
async fn read(mut body: Incoming, lines: mpsc::UnboundedSender<Result<Bytes>>) {
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => rest.extend_from_slice(frame.data_ref().map_or(&[][..], AsRef::as_ref)),
            // Nobody listens any more where this does not arrive.
            Err(error) => return drop(lines.send(Err(error.into()))),
        }
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            if lines.send(Ok(rest.split_to(end + 1).freeze())).is_err() {
                return;
            }
        }
    }
}
