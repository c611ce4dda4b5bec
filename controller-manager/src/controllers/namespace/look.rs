//! What there is in namespaces that go, found out at once for all that ask.
//!
//! ```text
//! all that go → round: one list per resource, across all namespaces where it is short → what is in each
//! ```
//! Who asks says how old the answer may be. A round answers for all namespaces that go, whether somebody has asked about
//! them yet or not: those whose turn comes later mostly need none of their own.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use component_base::{client, workqueue::chain};
use futures::StreamExt;
use http::Request;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{
    sync::{Mutex as Turn, watch},
    time::Instant,
};

use crate::served::{Discovery, Served};

/// Lists of different resources that are on their way at once.
const AT_ONCE: usize = 8;
/// Lists of different namespaces that are on their way at once for a resource.
const NAMESPACES_AT_ONCE: usize = 8;
/// A list of all namespaces is read whole if it is not longer; otherwise each namespace is looked at by itself.
const SHORT: usize = 500;
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Looks into namespaces.
pub(super) struct Looks {
    client: kube::Client,
    discovery: Discovery,
    /// Names those that go.
    going: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    gathering: Mutex<Gathering>,
    /// The round that ended last.
    last: Mutex<Arc<Round>>,
    /// Held by the round on its way.
    turn: Turn<()>,
}

/// Who asks for the next round.
#[derive(Default)]
struct Gathering {
    names: BTreeSet<String>,
    answer: watch::Sender<Option<Arc<Round>>>,
}

/// What a round found.
#[derive(Debug)]
pub(super) struct Round {
    /// When it began to look.
    pub(super) began: Instant,
    /// The namespaces it looked at.
    names: BTreeSet<String>,
    /// What could not be asked for.
    pub(super) discovery: Option<String>,
    found: HashMap<String, Found>,
}

/// What is in a namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Resources that have objects in it, pods first.
    pub(super) resources: Vec<Arc<Served>>,
    /// What could not be listed, and why.
    pub(super) failures: Vec<String>,
}

/// The namespaces with objects of one resource, and those of which this could not be found out.
#[derive(Default)]
struct Places {
    with: BTreeSet<String>,
    failures: Vec<(String, String)>,
}

/// Where the objects of a list are.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Default, Deserialize)]
struct PageMeta {
    #[serde(default, rename = "continue")]
    rest: String,
}

#[derive(Deserialize)]
struct Item {
    metadata: Place,
}

#[derive(Deserialize)]
struct Place {
    #[serde(default)]
    namespace: String,
}

// === impl Round ===

impl Round {
    fn new(names: BTreeSet<String>) -> Round {
        Round { began: Instant::now(), names, discovery: None, found: HashMap::new() }
    }

    /// Whether it says what is in a namespace, then or later.
    fn answers(&self, namespace: &str, since: Instant) -> bool {
        self.began >= since && self.names.contains(namespace)
    }

    /// What is in a namespace.
    pub(super) fn of(&self, namespace: &str) -> Found {
        self.found.get(namespace).cloned().unwrap_or_default()
    }

    fn add(&mut self, resource: &Arc<Served>, places: Places) {
        for namespace in places.with {
            self.found.entry(namespace).or_default().resources.push(resource.clone());
        }
        for (namespace, failure) in places.failures {
            self.found.entry(namespace).or_default().failures.push(failure);
        }
    }
}

/// What is said where nobody can tell what some groups serve.
fn partly_discovered(stale: &[String]) -> Option<String> {
    let mut groups: Vec<String> =
        stale.iter().map(|gv| format!("{gv}: stale GroupVersion discovery: {gv}")).collect();
    groups.sort();
    (!groups.is_empty()).then(|| {
        format!(
            "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
            groups.len(),
            groups.join(", ")
        )
    })
}

// === impl Looks ===

impl Looks {
    /// `going` names the namespaces that go.
    pub(super) fn new(
        client: kube::Client,
        going: impl Fn() -> Vec<String> + Send + Sync + 'static,
    ) -> Looks {
        Looks {
            discovery: Discovery::new(client.clone()),
            client,
            going: Box::new(going),
            gathering: Mutex::default(),
            last: Mutex::new(Arc::new(Round::new(BTreeSet::new()))),
            turn: Turn::default(),
        }
    }

    /// What is in a namespace at `since` or later.
    pub(super) async fn look(&self, namespace: &str, since: Instant) -> Arc<Round> {
        let known = || Some(self.last.lock().clone()).filter(|last| last.answers(namespace, since));
        if let Some(last) = known() {
            return last;
        }
        let answer = {
            let mut gathering = self.gathering.lock();
            gathering.names.insert(namespace.to_owned());
            gathering.answer.subscribe()
        };
        let _turn = self.turn.lock().await;
        // Whoever has the first turn goes for all that gathered.
        if let Some(round) = answer.borrow().clone() {
            return round;
        }
        // The one that was on its way may have been late enough.
        if let Some(last) = known() {
            return last;
        }
        let Gathering { mut names, answer } = std::mem::take(&mut *self.gathering.lock());
        // Those this one gathered with may have been given up, and their round with them.
        names.insert(namespace.to_owned());
        names.extend((self.going)());
        let round = Arc::new(self.round(names).await);
        *self.last.lock() = round.clone();
        answer.send_replace(Some(round.clone()));
        round
    }

    async fn round(&self, names: BTreeSet<String>) -> Round {
        let mut round = Round::new(names);
        let catalog = match self.discovery.ask().await {
            Ok(catalog) => catalog,
            Err(error) => {
                round.discovery = Some(chain(&error));
                return round;
            }
        };
        round.discovery = partly_discovered(&catalog.stale);
        let deletable = catalog.resources.into_iter().filter(|r| r.namespaced && r.can(&["delete", "list"]));
        let mut resources: Vec<Arc<Served>> = deletable.map(Arc::new).collect();
        resources.sort_by_key(|resource| !is_pods(resource));
        let names = &round.names;
        let lists = resources.into_iter().map(|resource| async move {
            let places = self.find(&resource, names).await;
            (resource, places)
        });
        let found: Vec<(Arc<Served>, Places)> =
            futures::stream::iter(lists).buffered(AT_ONCE).collect().await;
        for (resource, places) in found {
            round.add(&resource, places);
        }
        round
    }

    /// Which of the namespaces have objects of a resource.
    async fn find(&self, resource: &Served, names: &BTreeSet<String>) -> Places {
        let mut places = Places::default();
        if names.len() > 1 {
            // What cannot be listed so may still be listed by namespace.
            if let Ok(page) = self.list(&resource.path(None), SHORT).await {
                let all = page.items.into_iter().map(|item| item.metadata.namespace);
                places.with = all.filter(|namespace| names.contains(namespace)).collect();
                if page.metadata.rest.is_empty() {
                    return places;
                }
            }
        }
        // At once, so that the server finds out for many of them together what the newest state is.
        let unknown: Vec<String> =
            names.iter().filter(|name| !places.with.contains(*name)).cloned().collect();
        let lists = unknown.into_iter().map(|name| async move {
            let page = self.list(&resource.path(Some(&name)), 1).await;
            (name, page)
        });
        let mut lists = futures::stream::iter(lists).buffered(NAMESPACES_AT_ONCE);
        while let Some((name, page)) = lists.next().await {
            match page {
                Ok(page) if page.items.is_empty() => {}
                Ok(_) => drop(places.with.insert(name)),
                // The resource went away meanwhile: so did its objects.
                Err(error) if client::is_not_found(&error) => {}
                Err(error) => {
                    places.failures.push((name, format!("{}: {}", resource.resource, chain(&error))))
                }
            }
        }
        places
    }

    async fn list(&self, path: &str, limit: usize) -> Result<Page, kube::Error> {
        let request = Request::get(format!("{path}?limit={limit}"))
            .header(http::header::ACCEPT, METADATA)
            .body(Vec::new());
        self.client.request(request.map_err(kube::Error::HttpError)?).await
    }
}

/// Whether the resource is pods, which go first.
pub(super) fn is_pods(resource: &Served) -> bool {
    resource.group.is_empty() && resource.resource == "pods"
}

#[cfg(test)]
mod tests;
