//! Two servers over one real etcd: bootstrap, authorization's indexes, quotas' conflicts and allocation.

use std::collections::BTreeSet;

use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::{
    alloc::ServiceAllocator,
    auth::{Attributes, Decision, User},
    authz,
    bootstrap::{self, Facts, identity::lease_name},
    objects::{CLUSTER_ROLES, CONFIG_MAPS, ENDPOINTS, PODS},
    registry::{SideEffects, catalog},
    status::Reason,
    storage::{
        StoreConfig,
        testing::{EtcdServer, Running},
    },
};

struct TwoServers {
    _etcd: EtcdServer,
    _running: [Running; 2],
    objects: [Arc<dyn Objects>; 2],
}

async fn two_servers() -> TwoServers {
    let etcd = EtcdServer::start();
    let resources: Vec<StoredResource> = catalog::builtin().iter().map(|r| StoredResource::of(r)).collect();
    let config = || StoreConfig::new(vec![etcd.url()], resources.clone());
    let running = [Running::start(config()).await, Running::start(config()).await];
    let objects = [0, 1].map(|i| Arc::new(StoreObjects::new(running[i].store.clone())) as Arc<dyn Objects>);
    for server in &running {
        server.store.wait_ready().await;
    }
    TwoServers { _etcd: etcd, _running: running, objects }
}

fn facts(i: usize) -> Facts {
    Facts {
        peer_address: ("127.0.0.1".to_owned(), 6443),
        publishes: true,
        service_ranges: vec!["10.0.0.0/24".parse().unwrap()],
        advertise: format!("192.0.2.{}", i + 1).parse().unwrap(),
        port: 6443,
        node_port: 0,
        client_ca: None,
        request_header: None,
        gates: component_base::features::Gates::default(),
        hostname: format!("host{i}"),
        identity: lease_name("x"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_starting_together_agree() {
    let cluster = two_servers().await;
    let now = Timestamp::now();
    let starts = [0, 1].map(|i| {
        let objects = cluster.objects[i].clone();
        async move { bootstrap::ensure(&objects, &facts(i), true, now).await }
    });
    for done in join_all(starts).await {
        done.unwrap();
    }
    let found = cluster.objects[0].get_latest(ENDPOINTS, "default", "kubernetes").await.unwrap().unwrap();
    let addresses = found.pointer("/subsets/0/addresses").unwrap().as_array().unwrap();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    assert!(cluster.objects[1].get_latest(CLUSTER_ROLES, "", "cluster-admin").await.unwrap().is_some());

    let mut authorization = authz::build(&[authz::Mode::Rbac]);
    let mut tasks = tokio::task::JoinSet::new();
    let feeds = std::sync::Mutex::new(Vec::new());
    let sink = |_: &'static str, task: BoxFuture<'static, ()>| feeds.lock().unwrap().push(task);
    let started = authorization.start(&cluster.objects[1], &sink);
    let mut started = Box::pin(started);
    // The first poll hands the feeds over; the rest waits for them.
    assert!(started.as_mut().now_or_never().is_none());
    for feed in feeds.lock().unwrap().drain(..) {
        tasks.spawn(feed);
    }
    started.await;
    let attributes = Attributes {
        user: Arc::new(User { name: "system:kube-scheduler".to_owned(), ..User::default() }),
        verb: "create".into(),
        namespace: "a".into(),
        resource: "pods".into(),
        subresource: "binding".into(),
        is_resource: true,
        ..Attributes::default()
    };
    let decision = authorization.authorizer.authorize(&attributes).await;
    assert!(matches!(decision, Decision::Allow(_)), "{decision:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_ports_are_given_out_once() {
    let cluster = two_servers().await;
    let allocators = [0, 1].map(|i| {
        let range = "10.0.0.0/25".parse().unwrap();
        ServiceAllocator::new(vec![range], 30000..=30079, cluster.objects[i].clone()).0
    });
    let writes = (0..80).map(|n| {
        let allocator = allocators[n % 2].clone();
        async move {
            let mut service =
                Object::from_value(json!({"metadata": {"namespace": "a", "name": format!("s{n}")},
                "spec": {"type": "NodePort", "ports": [{"port": 80}]}}))
                .unwrap();
            allocator.before_write(&mut service, None, false).await.unwrap().commit();
            service
        }
    });
    let services = join_all(writes).await;
    for pointer in ["/spec/clusterIP", "/spec/ports/0/nodePort"] {
        let given: BTreeSet<String> =
            services.iter().map(|s| s.pointer(pointer).unwrap().to_string()).collect();
        assert_eq!(given.len(), 80, "{pointer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guarded_writes_see_each_other() {
    let cluster = two_servers().await;
    let [one, two] = &cluster.objects;
    let map = Object::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "a", "name": "m", "uid": "u"}}))
    .unwrap();
    let first = one.create(CONFIG_MAPS, map.clone()).await.unwrap();
    assert_eq!(two.create(CONFIG_MAPS, map).await.unwrap_err().reason, Reason::AlreadyExists);
    let change = |object: &Object, value: &str| {
        let mut next = object.clone();
        next.set("data", json!({"k": value}));
        next
    };
    two.update(CONFIG_MAPS, change(&first, "two")).await.unwrap();
    assert_eq!(one.update(CONFIG_MAPS, change(&first, "one")).await.unwrap_err().reason, Reason::Conflict);
    assert_eq!(one.delete(CONFIG_MAPS, &first).await.unwrap_err().reason, Reason::Conflict);
    let latest = one.get_latest(CONFIG_MAPS, "a", "m").await.unwrap().unwrap();
    one.delete(CONFIG_MAPS, &latest).await.unwrap();
    assert_eq!(two.get_latest(CONFIG_MAPS, "a", "m").await.unwrap(), None);
    assert_eq!(two.update(CONFIG_MAPS, change(&latest, "x")).await.unwrap_err().reason, Reason::NotFound);
    two.delete(CONFIG_MAPS, &latest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_the_changes_they_look_at() {
    let servers = two_servers().await;
    let objects = &servers.objects[0];
    let relevant = Relevant { having: Some("spec.nodeName"), parts: &["/spec", "/status/claims"] };
    let pod = |name: &str, node: &str, phase: &str| {
        let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "a", "name": name, "uid": name},
            "spec": {"nodeName": node}, "status": {"phase": phase}});
        Object::from_value(value).unwrap()
    };
    let store = async |mut object: Object, old: Option<Arc<Object>>| match old {
        None => objects.create(PODS, object).await.unwrap(),
        Some(old) => {
            object.set_meta_str("resourceVersion", old.resource_version());
            objects.update(PODS, object).await.unwrap()
        }
    };
    let early = store(pod("early", "n", ""), None).await;
    store(pod("waiting", "", ""), None).await;
    let mut changes = objects.watch_relevant(PODS, relevant).await.unwrap();

    let pending = store(pod("late", "", ""), None).await;
    let running = store(pod("early", "n", "Running"), Some(early)).await;
    store(pod("late", "n", ""), Some(pending)).await;
    let moved = store(pod("early", "m", "Running"), Some(running)).await;
    let mut claiming = pod("early", "m", "Running");
    claiming.set("status", json!({"claims": [{}]}));
    let claiming = store(claiming, Some(moved)).await;
    objects.delete(PODS, &claiming).await.unwrap();

    let mut seen = Vec::new();
    for _ in 0..6 {
        let step = changes.next().await.unwrap();
        let of = |o: &Object| {
            format!("{} on {}", o.name(), o.pointer("/spec/nodeName").unwrap().as_str().unwrap())
        };
        seen.push(match step {
            Change::Applied(object) => of(&object),
            Change::Deleted(object) => format!("{} gone", object.name()),
            Change::Synced => "synced".to_owned(),
        });
    }
    // What is no node's yet and what only reports a phase is not among them.
    assert_eq!(seen, ["early on n", "synced", "late on n", "early on m", "early on m", "early gone"]);
}
