//! The store against a real etcd.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::strategy::{Strategy, ValueTree};
use serde_json::json;
use tokio::time::timeout;

use super::{
    Entry, FieldRequirement, LabelOperator, LabelRequirement, ListPoint, ListRequest, Listing, ResourceId,
    Selection, StorageError, Store, StoreConfig, StoredResource, TlsFiles, WatchEvent, WatchFrom, WatchKind,
    WatchRequest, WatchStream,
    compaction::Turn,
    testing::{EtcdServer, Running, pods},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn id() -> ResourceId {
    pods().id
}

fn pod(name: &str, app: &str, node: &str) -> Vec<u8> {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "labels": {"app": app}},
        "spec": {"nodeName": node},
    })
    .to_string()
    .into_bytes()
}

async fn start(etcd: &EtcdServer, edit: impl FnOnce(&mut StoreConfig)) -> Running {
    let nodes = StoredResource {
        id: ResourceId::new("", "nodes"),
        prefix: "minions".to_owned(),
        namespaced: false,
        kind: "Node".to_owned(),
        selectable: Vec::new(),
        ..pods()
    };
    let mut config = StoreConfig::new(vec![etcd.url()], vec![pods(), nodes]);
    edit(&mut config);
    Running::start(config).await
}

async fn create(store: &Store, name: &str) -> Arc<Entry> {
    store.create(&id(), "ns", name, pod(name, "x", "n1"), None).await.unwrap()
}

async fn list(store: &Store, point: ListPoint, limit: usize, token: &str) -> Result<Listing, StorageError> {
    let selection = Selection::default();
    let request =
        ListRequest { namespace: Some("ns"), selection: &selection, point, limit, continue_token: token };
    store.list(&id(), request).await
}

fn names(listing: &Listing) -> Vec<&str> {
    listing.entries.iter().map(|entry| entry.name()).collect()
}

async fn watch(store: &Store, selection: Selection, from: WatchFrom) -> WatchStream {
    let request =
        WatchRequest { namespace: Some("ns".to_owned()), selection, from, bookmarks: false, timeout: None };
    store.watch(&id(), request).await.unwrap()
}

async fn event(watch: &mut WatchStream) -> WatchEvent {
    timeout(PATIENCE, watch.next()).await.expect("an event in time").unwrap().expect("the watch goes on")
}

async fn kinds(watch: &mut WatchStream, count: usize) -> Vec<(WatchKind, String, u64)> {
    let mut seen = Vec::new();
    for _ in 0..count {
        let event = event(watch).await;
        let name = event.entry.as_ref().map(|entry| entry.name().to_owned()).unwrap_or_default();
        seen.push((event.kind, name, event.rev));
    }
    seen
}

fn app(value: &str) -> Selection {
    let labels = vec![LabelRequirement {
        key: "app".to_owned(),
        operator: LabelOperator::In,
        values: vec![value.to_owned()],
    }];
    Selection { labels, ..Selection::default() }
}

fn on_node(value: &str) -> Selection {
    let fields =
        vec![FieldRequirement { field: "spec.nodeName".to_owned(), value: value.to_owned(), negate: false }];
    Selection { fields, ..Selection::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_guarded_and_read_back() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |_| {}).await;
    let store = &running.store;
    let created = create(store, "a").await;
    assert!(matches!(
        store.create(&id(), "ns", "a", pod("a", "x", ""), None).await,
        Err(StorageError::AlreadyExists(_))
    ));
    let got = store.get(&id(), "ns", "a").await.unwrap().unwrap();
    assert_eq!((got.rev(), got.json()), (created.rev(), created.json()));
    let updated = store.update(&id(), "ns", "a", created.rev(), pod("a", "y", ""), None).await.unwrap();
    assert!(updated.rev() > created.rev());
    match store.update(&id(), "ns", "a", created.rev(), pod("a", "z", ""), None).await {
        Err(StorageError::Conflict { current: Some(current), .. }) => {
            assert_eq!((current.rev(), current.label("app")), (updated.rev(), Some("y")));
        }
        other => panic!("{other:?}"),
    }
    match store.delete(&id(), "ns", "a", created.rev()).await {
        Err(StorageError::Conflict { current: Some(current), .. }) => {
            assert_eq!(current.rev(), updated.rev())
        }
        other => panic!("{other:?}"),
    }
    let deleted = store.delete(&id(), "ns", "a", updated.rev()).await.unwrap();
    assert!(deleted.rev() > updated.rev());
    assert_eq!(deleted.label("app"), Some("y"));
    assert!(store.get(&id(), "ns", "a").await.unwrap().is_none());
    assert!(store.get_latest(&id(), "ns", "a").await.unwrap().is_none());
    match store.delete(&id(), "ns", "a", updated.rev()).await {
        Err(StorageError::Conflict { current: None, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(matches!(store.get(&id(), "ns", "../a").await, Err(StorageError::NotFound(_))));
    let large = vec![b' '; 3 << 20];
    let value = [b"{}".to_vec(), large].concat();
    assert!(matches!(store.create(&id(), "ns", "big", value, None).await, Err(StorageError::TooLarge(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_is_reached_over_tls_and_by_any_member() {
    let etcd = EtcdServer::start_secure();
    let running = start(&etcd, |config| {
        config.tls = etcd.tls();
        // The first member is down.
        config.servers.insert(0, "https://127.0.0.1:1".to_owned());
    })
    .await;
    let created = create(&running.store, "a").await;
    assert_eq!(running.store.get(&id(), "ns", "a").await.unwrap().unwrap().rev(), created.rev());
    // Without a client certificate, etcd refuses.
    let mut config = StoreConfig::new(vec![etcd.url()], vec![pods()]);
    config.tls = TlsFiles { ca: etcd.tls().ca, ..TlsFiles::default() };
    assert!(Store::open(config).unwrap().ping(0).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_one_moment_whatever_is_written() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |_| {}).await;
    let store = &running.store;
    let mut revs = BTreeMap::new();
    for name in ["a", "b", "c", "d", "e"] {
        revs.insert(name, create(store, name).await.rev());
    }
    let first = list(store, ListPoint::Consistent, 2, "").await.unwrap();
    assert_eq!((names(&first), first.remaining), (vec!["a", "b"], Some(3)));
    store.delete(&id(), "ns", "c", revs["c"]).await.unwrap();
    store.update(&id(), "ns", "d", revs["d"], pod("d", "new", ""), None).await.unwrap();
    create(store, "bb").await;
    let second = list(store, ListPoint::Consistent, 2, &first.continue_token).await.unwrap();
    assert_eq!((names(&second), second.rev, second.remaining), (vec!["c", "d"], first.rev, Some(1)));
    assert_eq!(second.entries[1].rev(), revs["d"]);
    let third = list(store, ListPoint::Consistent, 2, &second.continue_token).await.unwrap();
    assert_eq!((names(&third), third.continue_token.as_str()), (vec!["e"], ""));
    let now = list(store, ListPoint::Consistent, 0, "").await.unwrap();
    assert_eq!(names(&now), ["a", "b", "bb", "d", "e"]);
    let before = list(store, ListPoint::Exact(revs["b"]), 0, "").await.unwrap();
    assert_eq!((names(&before), before.rev), (vec!["a", "b"], revs["b"]));
    assert!(matches!(
        list(store, ListPoint::NotOlderThan(now.rev + 1_000_000), 0, "").await,
        Err(StorageError::TooLargeResourceVersion { .. })
    ));
    let selection = app("new");
    let request = ListRequest {
        namespace: None,
        selection: &selection,
        point: ListPoint::Consistent,
        limit: 0,
        continue_token: "",
    };
    assert_eq!(names(&store.list(&id(), request).await.unwrap()), ["d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_serves_what_the_cache_forgot_until_it_is_compacted() {
    let etcd = EtcdServer::start();
    let first = start(&etcd, |_| {}).await;
    for name in ["a", "b", "c"] {
        create(&first.store, name).await;
    }
    let page = list(&first.store, ListPoint::Consistent, 1, "").await.unwrap();
    let bb = create(&first.store, "bb").await;
    drop(first);

    // A new store knows no history from before its start.
    let second = start(&etcd, |_| {}).await;
    let store = &second.store;
    let rest = list(store, ListPoint::Consistent, 1, &page.continue_token).await.unwrap();
    assert_eq!((names(&rest), rest.rev, rest.remaining), (vec!["b"], page.rev, Some(1)));
    let old = list(store, ListPoint::Exact(page.rev), 0, "").await.unwrap();
    assert_eq!(names(&old), ["a", "b", "c"]);

    store.main.etcd.compact(&id(), bb.rev()).await.unwrap();
    let restart = match list(store, ListPoint::Consistent, 1, &page.continue_token).await {
        Err(StorageError::ExpiredContinue { restart }) => restart,
        other => panic!("{other:?}"),
    };
    let rest = list(store, ListPoint::Consistent, 0, &restart).await.unwrap();
    assert_eq!(names(&rest), ["b", "bb", "c"]);
    assert!(matches!(
        list(store, ListPoint::Exact(page.rev), 0, "").await,
        Err(StorageError::TooOldResourceVersion { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_replay_history_and_expire_without_it() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |config| {
        config.limits.history_age = Duration::ZERO;
        config.limits.history_floor = 3;
    })
    .await;
    let store = &running.store;
    let a = create(store, "a").await;
    let b = create(store, "b").await;
    let gone = store.delete(&id(), "ns", "a", a.rev()).await.unwrap();
    let mut replay = watch(store, Selection::default(), WatchFrom::Rev(a.rev())).await;
    let want =
        vec![(WatchKind::Added, "b".to_owned(), b.rev()), (WatchKind::Deleted, "a".to_owned(), gone.rev())];
    assert_eq!(kinds(&mut replay, 2).await, want);
    let c = create(store, "c").await;
    let live = event(&mut replay).await;
    assert_eq!((live.kind, live.rev), (WatchKind::Added, c.rev()));
    assert!(live.frame.starts_with(br#"{"type":"ADDED","object":{"#) && live.frame.ends_with(b"}}\n"));
    for name in ["d", "e", "f"] {
        create(store, name).await;
    }
    store.get(&id(), "ns", "f").await.unwrap();
    let request = WatchRequest {
        namespace: None,
        selection: Selection::default(),
        from: WatchFrom::Rev(b.rev()),
        bookmarks: false,
        timeout: None,
    };
    assert!(matches!(store.watch(&id(), request).await, Err(StorageError::TooOldResourceVersion { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_enter_and_leave_a_selection() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |_| {}).await;
    let store = &running.store;
    let from = WatchFrom::Initial { point: ListPoint::Consistent, mark_end: false };
    let mut by_label = watch(store, app("x"), from).await;
    let mut by_node = watch(store, on_node("n2"), from).await;
    let one = create(store, "a").await;
    let two = store.update(&id(), "ns", "a", one.rev(), pod("a", "x", "n2"), None).await.unwrap();
    let three = store.update(&id(), "ns", "a", two.rev(), pod("a", "y", "n2"), None).await.unwrap();
    let four = store.update(&id(), "ns", "a", three.rev(), pod("a", "x", "n3"), None).await.unwrap();
    let five = store.delete(&id(), "ns", "a", four.rev()).await.unwrap();
    let at = |kind, entry: &Arc<Entry>| (kind, "a".to_owned(), entry.rev());
    let want = vec![
        at(WatchKind::Added, &one),
        at(WatchKind::Modified, &two),
        at(WatchKind::Deleted, &three),
        at(WatchKind::Added, &four),
        at(WatchKind::Deleted, &five),
    ];
    assert_eq!(kinds(&mut by_label, 5).await, want);
    let want =
        vec![at(WatchKind::Added, &two), at(WatchKind::Modified, &three), at(WatchKind::Deleted, &four)];
    assert_eq!(kinds(&mut by_node, 3).await, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_object_sent_on_leaving_is_the_last_one_selected() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |_| {}).await;
    let store = &running.store;
    let one = create(store, "a").await;
    let mut selected = watch(store, app("x"), WatchFrom::Rev(one.rev())).await;
    let two = store.update(&id(), "ns", "a", one.rev(), pod("a", "y", "n1"), None).await.unwrap();
    let left = event(&mut selected).await;
    let object: serde_json::Value = serde_json::from_slice(&left.frame).unwrap();
    assert_eq!(object["type"], "DELETED");
    assert_eq!(object["object"]["metadata"]["labels"]["app"], "x");
    assert_eq!(object["object"]["metadata"]["resourceVersion"], two.rev().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_events_end_with_a_bookmark_and_bookmarks_follow() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |config| config.limits.bookmark_interval = Duration::from_millis(20)).await;
    let store = &running.store;
    create(store, "b").await;
    let a = create(store, "a").await;
    let request = WatchRequest {
        namespace: None,
        selection: Selection::default(),
        from: WatchFrom::Initial { point: ListPoint::Consistent, mark_end: true },
        bookmarks: true,
        timeout: None,
    };
    let mut stream = store.watch(&id(), request).await.unwrap();
    let seen = kinds(&mut stream, 2).await;
    assert_eq!(seen.iter().map(|(_, name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let end = event(&mut stream).await;
    assert_eq!((end.kind, end.rev >= a.rev()), (WatchKind::InitialEventsEnd, true));
    let object: serde_json::Value = serde_json::from_slice(&end.frame).unwrap();
    assert_eq!(object["type"], "BOOKMARK");
    assert_eq!(object["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    // Another kind's writes move the bookmarks of this one.
    let nodes = ResourceId::new("", "nodes");
    let node = store.create(&nodes, "", "n1", b"{}".to_vec(), None).await.unwrap();
    loop {
        let bookmark = event(&mut stream).await;
        assert_eq!(bookmark.kind, WatchKind::Bookmark);
        if bookmark.rev >= node.rev() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_consistent_under_foreign_writes() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |_| {}).await;
    let store = &running.store;
    for round in 0..20_u64 {
        // A write outside the prefix: no event will bring its revision.
        let foreign = store.main.etcd.put(&id(), "elsewhere/key", b"x").await.unwrap();
        let listing = list(store, ListPoint::Consistent, 0, "").await.unwrap();
        assert!(listing.rev >= foreign, "round {round}");
    }
    // A write by another server, straight into the prefix.
    let key = "/registry/pods/ns/other";
    for round in 0..20 {
        let value = pod("other", &format!("v{round}"), "");
        store.main.etcd.put(&id(), key, &value).await.unwrap();
        let got = store.get(&id(), "ns", "other").await.unwrap().unwrap();
        assert_eq!(got.label("app"), Some(format!("v{round}").as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_upstream_wrote_are_read() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |_| {}).await;
    let store = &running.store;
    create(store, "a").await;
    let theirs =
        br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b","namespace":"ns","labels":{"app":"x"}},
        "spec":{"nodeName":"n1"}}"#;
    let value = proto::codec::from_json(theirs).unwrap();
    store.main.etcd.put(&id(), "/registry/pods/ns/b", &value).await.unwrap();
    let got = store.get(&id(), "ns", "b").await.unwrap().unwrap();
    let json: serde_json::Value = serde_json::from_slice(got.json()).unwrap();
    assert_eq!((&json["kind"], &json["spec"]["nodeName"]), (&"Pod".into(), &"n1".into()));
    assert_eq!(json["metadata"]["resourceVersion"], got.rev().to_string());
    assert_eq!(got.label("app"), Some("x"));
    let second = start(&etcd, |_| {}).await;
    assert_eq!(names(&list(&second.store, ListPoint::Consistent, 0, "").await.unwrap()), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_value_harms_no_other() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |_| {}).await;
    let store = &running.store;
    let first = create(store, "a").await;
    store.main.etcd.put(&id(), "/registry/pods/ns/a", b"k8s\0\x0a").await.unwrap();
    store.main.etcd.put(&id(), "/registry/pods/odd", b"{}").await.unwrap();
    create(store, "b").await;
    assert!(matches!(store.get(&id(), "ns", "a").await, Err(StorageError::Undecodable { .. })));
    assert_eq!(names(&list(store, ListPoint::Consistent, 0, "").await.unwrap()), ["b"]);
    let mut stream = watch(store, Selection::default(), WatchFrom::Rev(first.rev())).await;
    assert_eq!(event(&mut stream).await.kind, WatchKind::Deleted);
    // A store that starts on such data serves the rest as well.
    let second = start(&etcd, |_| {}).await;
    assert_eq!(names(&list(&second.store, ListPoint::Consistent, 0, "").await.unwrap()), ["b"]);
    assert!(matches!(second.store.get(&id(), "ns", "a").await, Err(StorageError::Undecodable { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_etcd_is_told_quickly_and_survived() {
    let mut etcd = EtcdServer::start();
    let running = start(&etcd, |_| {}).await;
    let store = &running.store;
    let a = create(store, "a").await;
    let mut stream = watch(store, Selection::default(), WatchFrom::Rev(a.rev())).await;
    // A consistent read: afterwards the cache has the object.
    assert!(store.get(&id(), "ns", "a").await.unwrap().is_some());
    etcd.kill();
    let failed = timeout(PATIENCE, store.get(&id(), "ns", "a")).await.unwrap();
    assert!(matches!(failed, Err(StorageError::Unavailable(_) | StorageError::Timeout(_))), "{failed:?}");
    let failed = timeout(PATIENCE, store.create(&id(), "ns", "x", pod("x", "x", ""), None)).await.unwrap();
    assert!(matches!(failed, Err(StorageError::Unavailable(_) | StorageError::Timeout(_))), "{failed:?}");
    let stale = store.get_at(&id(), "ns", "a", ListPoint::Any).await.unwrap().unwrap();
    assert_eq!(stale.rev(), a.rev());
    etcd.restart();
    let b = timeout(PATIENCE, async {
        loop {
            if let Ok(entry) = store.create(&id(), "ns", "b", pod("b", "x", ""), None).await {
                break entry;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    // The same watch goes on: nothing was lost.
    assert_eq!(kinds(&mut stream, 1).await, vec![(WatchKind::Added, "b".to_owned(), b.rev())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_compacted_away_starts_over() {
    let mut etcd = EtcdServer::start();
    let running = start(&etcd, |_| {}).await;
    let store = &running.store;
    let a = create(store, "a").await;
    let mut stream = watch(store, Selection::default(), WatchFrom::Rev(a.rev())).await;
    store.get(&id(), "ns", "a").await.unwrap();
    let other = start(&etcd, |_| {}).await;
    let b = create(&other.store, "b").await;
    other.store.main.etcd.compact(&id(), b.rev()).await.unwrap();
    store.get(&id(), "ns", "b").await.unwrap();
    // As if the store had been cut off since the beginning.
    store.main.applied.send_replace(1);
    etcd.kill();
    etcd.restart();
    let expired = timeout(PATIENCE, async {
        loop {
            match stream.next().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        }
    })
    .await
    .unwrap();
    assert!(matches!(expired, Err(StorageError::TooOldResourceVersion { .. })), "{expired:?}");
    let listing = timeout(PATIENCE, async {
        loop {
            if let Ok(listing) = list(store, ListPoint::Consistent, 0, "").await {
                break listing;
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(names(&listing), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_is_closed_and_a_bursty_one_is_not() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |config| {
        config.limits.watcher_queue = 2;
        config.limits.history_age = Duration::ZERO;
        config.limits.history_floor = 8;
    })
    .await;
    let store = &running.store;
    let first = create(store, "a").await;
    let mut slow = watch(store, Selection::default(), WatchFrom::Rev(first.rev())).await;
    let mut bursty = watch(store, Selection::default(), WatchFrom::Rev(first.rev())).await;
    for round in 0..30 {
        create(store, &format!("p{round}")).await;
        if round % 6 == 5 {
            store.get(&id(), "ns", "a").await.unwrap();
            assert_eq!(kinds(&mut bursty, 6).await.len(), 6, "more than its queue holds, less than history");
        }
    }
    let end = timeout(PATIENCE, async { while slow.next().await.unwrap().is_some() {} }).await;
    assert!(end.is_ok(), "the slow watch ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_come_and_go_at_run_time() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |_| {}).await;
    let store = &running.store;
    let widgets = StoredResource {
        id: ResourceId::new("example.com", "widgets"),
        prefix: "example.com/widgets".to_owned(),
        ..pods()
    };
    assert!(matches!(store.get(&widgets.id, "ns", "w").await, Err(StorageError::NotFound(_))));
    store.main.etcd.put(&id(), "/registry/example.com/widgets/ns/old", b"{}").await.unwrap();
    store.register(widgets.clone());
    let new = store.create(&widgets.id, "ns", "new", b"{}".to_vec(), None).await.unwrap();
    assert!(store.get(&widgets.id, "ns", "old").await.unwrap().is_some());
    assert_eq!(store.get(&widgets.id, "ns", "new").await.unwrap().unwrap().rev(), new.rev());
    let request = WatchRequest {
        namespace: None,
        selection: Selection::default(),
        from: WatchFrom::Rev(new.rev()),
        bookmarks: false,
        timeout: None,
    };
    let mut stream = store.watch(&widgets.id, request).await.unwrap();
    store.unregister(&widgets.id);
    assert!(timeout(PATIENCE, stream.next()).await.unwrap().unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_expire_and_share_leases() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |_| {}).await;
    let store = &running.store;
    let ttl = Some(Duration::from_secs(1));
    let created = store.create(&id(), "ns", "a", pod("a", "x", ""), ttl).await.unwrap();
    let mut stream = watch(store, Selection::default(), WatchFrom::Rev(created.rev())).await;
    let gone = event(&mut stream).await;
    assert_eq!((gone.kind, gone.entry.unwrap().name()), (WatchKind::Deleted, "a"));
    let hour = Duration::from_secs(3600);
    let leases = &store.main.leases;
    let one = leases.lease(&store.main.etcd, &id(), hour).await.unwrap();
    assert_eq!(leases.lease(&store.main.etcd, &id(), hour).await.unwrap(), one);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_take_turns_at_compaction() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |_| {}).await;
    let store = &running.store.main;
    let old = create(&running.store, "a").await;
    let (one, two) = (Turn::default(), Turn::default());
    let one = store.compact_once(one).await.unwrap();
    // The second server sees that the first was here, and waits.
    let two = store.compact_once(two).await.unwrap();
    for name in ["b", "c"] {
        create(&running.store, name).await;
    }
    assert!(store.etcd.range(&id(), "/registry/pods/", "/registry/pods0", old.rev(), 10).await.is_ok());
    store.compact_once(one).await.unwrap();
    let lost = store.compact_once(two).await.unwrap();
    assert_ne!(lost, two);
    assert!(store.etcd.range(&id(), "/registry/pods/", "/registry/pods0", old.rev(), 10).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_begun_before_the_last_compaction_expires_on_every_server() {
    let etcd = EtcdServer::start();
    let servers = [start(&etcd, |_| {}).await, start(&etcd, |_| {}).await];
    for name in ["a", "b"] {
        create(&servers[0].store, name).await;
    }
    let page = list(&servers[0].store, ListPoint::Consistent, 1, "").await.unwrap();
    create(&servers[0].store, "c").await;
    let next =
        async |at: usize| list(&servers[at].store, ListPoint::Consistent, 1, &page.continue_token).await;
    let mut turns = [Turn::default(); 2];
    for round in 0..2 {
        for (at, turn) in turns.iter_mut().enumerate() {
            if round == 0 {
                assert_eq!(names(&next(at).await.unwrap()), ["b"]);
            }
            *turn = servers[at].store.main.compact_once(*turn).await.unwrap();
        }
    }
    // Both caches still know what was there, and nothing has changed since.
    for (at, server) in servers.iter().enumerate() {
        let restart = match next(at).await {
            Err(StorageError::ExpiredContinue { restart }) => restart,
            other => panic!("server {at}: {other:?}"),
        };
        let rest = list(&server.store, ListPoint::Consistent, 0, &restart).await.unwrap();
        assert_eq!(names(&rest), ["b", "c"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_equals_etcd_after_random_operations() {
    let etcd = EtcdServer::start();
    let running = start(&etcd, |config| config.limits.load_page = 3).await;
    let store = &running.store;
    let operation = (0_u8..3, "[ab]-?[ab]", "[abc]{1,2}", 0_u8..3);
    let script = proptest::collection::vec(operation, 40..80);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..4 {
        let script = script.new_tree(&mut runner).unwrap().current();
        let began = list(store, ListPoint::Consistent, 0, "").await.unwrap();
        let mut model: BTreeMap<String, u64> = state(store).await;
        let request = WatchRequest {
            namespace: None,
            selection: Selection::default(),
            from: WatchFrom::Rev(began.rev),
            bookmarks: false,
            timeout: None,
        };
        let mut stream = store.watch(&id(), request).await.unwrap();
        let mut events = 0;
        for (operation, namespace, name, app) in script {
            let current = store.get(&id(), &namespace, &name).await.unwrap();
            let value = pod(&name, &app.to_string(), "");
            events += usize::from(match (operation, current) {
                (0 | 1, None) => store.create(&id(), &namespace, &name, value, None).await.is_ok(),
                (0 | 1, Some(old)) => {
                    store.update(&id(), &namespace, &name, old.rev(), value, None).await.is_ok()
                }
                (_, Some(old)) => store.delete(&id(), &namespace, &name, old.rev()).await.is_ok(),
                (_, None) => false,
            });
        }
        for _ in 0..events {
            let event = event(&mut stream).await;
            let entry = event.entry.unwrap();
            match event.kind {
                WatchKind::Deleted => drop(model.remove(&**entry.key())),
                _ => drop(model.insert(entry.key().to_string(), entry.rev())),
            }
        }
        let cached = state(store).await;
        assert_eq!(model, cached, "the watch tells the same as the cache");
        let page = store.main.etcd.range(&id(), "/registry/pods/", "/registry/pods0", 0, 1000).await.unwrap();
        let stored: Vec<_> = page
            .stored
            .iter()
            .map(|s| (s.key.trim_start_matches("/registry/pods/").to_owned(), s.rev))
            .collect();
        assert_eq!(stored, cached.into_iter().collect::<Vec<_>>(), "the same objects");
        let order: Vec<_> = store.list_cached(&id(), None).iter().map(|e| e.key().to_string()).collect();
        assert_eq!(order, stored.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), "in etcd's order");
    }
}

async fn state(store: &Store) -> BTreeMap<String, u64> {
    let selection = Selection::default();
    let request = ListRequest {
        namespace: None,
        selection: &selection,
        point: ListPoint::Consistent,
        limit: 0,
        continue_token: "",
    };
    let listing = store.list(&id(), request).await.unwrap();
    listing.entries.iter().map(|entry| (entry.key().to_string(), entry.rev())).collect()
}
