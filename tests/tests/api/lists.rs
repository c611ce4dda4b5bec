//! Lists and watches: pages, revisions, bookmarks, selectors.
//!
//! Contract: the API concepts page, "Efficient detection of changes" to "Resource versions".

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Client, ControlPlane, client::MERGE_PATCH, runner::Test};

use crate::config_maps;

pub(crate) const TESTS: &[Test<ControlPlane>] = &[
    ("pages of a list show one moment across writes", pages),
    ("a page of a moment that is gone is expired, and goes on if asked", expired_page),
    ("lists at a revision, not older than one, and of a future", revisions),
    ("label and field selectors choose", selectors),
    ("a watch tells every change once and in order", ordered_watch),
    ("a watch of a selection tells what enters and leaves it", transitions),
    ("a watch starts with what is there when asked", initial_events),
    ("a watch from a revision that is gone is told so", expired_watch),
    ("bookmarks tell how far a watch is", bookmarks),
    ("a watch of one object by name", one_object),
    ("a watch ends when its time is over", timeouts),
    ("many watchers see the same", many_watchers),
];

fn make(client: &Client, ns: &str, name: &str, labels: &Value) -> Result<Value> {
    client.post(&config_maps(ns, ""), &json!({"metadata": {"name": name, "labels": labels}}))?.ok()
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items.iter().filter_map(|i| Some(i["metadata"]["name"].as_str()?.to_owned())).collect()
}

fn version(object: &Value) -> Result<u64> {
    Ok(object["metadata"]["resourceVersion"].as_str().context("it has a version")?.parse()?)
}

fn pages(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    for at in 0..10 {
        make(&admin, ns, &format!("m{at}"), &json!({}))?;
    }
    let first = admin.get(&format!("{}?limit=4", config_maps(ns, "")))?.ok()?;
    ensure!(names(&first) == ["m0", "m1", "m2", "m3"], "{first}");
    ensure!(first["metadata"]["remainingItemCount"] == 6, "{}", first["metadata"]);
    admin.delete(&config_maps(ns, "m5"))?.ok()?;
    make(&admin, ns, "m55", &json!({}))?;
    let next = |page: &Value| -> Result<Value> {
        let token = page["metadata"]["continue"].as_str().context("there is more")?;
        admin.get(&format!("{}?limit=4&continue={token}", config_maps(ns, "")))?.ok()
    };
    let second = next(&first)?;
    ensure!(
        names(&second) == ["m4", "m5", "m6", "m7"],
        "writes show in the second page: {:?}",
        names(&second)
    );
    ensure!(
        second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"],
        "{}",
        second["metadata"]
    );
    let third = next(&second)?;
    ensure!(names(&third) == ["m8", "m9"], "{:?}", names(&third));
    ensure!(third["metadata"].get("continue").is_none(), "{}", third["metadata"]);
    // With a selector nobody can say how many remain.
    let chosen = admin.get(&format!("{}?limit=4&labelSelector=!colour", config_maps(ns, "")))?.ok()?;
    ensure!(chosen["metadata"].get("remainingItemCount").is_none(), "{}", chosen["metadata"]);
    ensure!(chosen["metadata"]["continue"].is_string(), "{}", chosen["metadata"]);
    // A token of another place is none here.
    let token = first["metadata"]["continue"].as_str().context("there is more")?;
    let elsewhere = format!("/api/v1/namespaces/{ns}/secrets?limit=4&continue={token}");
    ensure!(matches!(admin.get(&elsewhere)?.code, 200 | 400), "a token of another kind");
    let both = format!("{}?limit=4&continue={token}&resourceVersion=5", config_maps(ns, ""));
    admin.get(&both)?.refused(400, "BadRequest")?;
    Ok(())
}

fn compact(plane: &ControlPlane, at: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut etcd = etcd_client::Client::connect([plane.etcd_url()], None).await?;
        match etcd.compact(i64::try_from(at)?, None).await {
            // Another test was ahead.
            Err(etcd_client::Error::GRpcStatus(status))
                if status.message().contains("has been compacted") =>
            {
                Ok(())
            }
            done => done.map(drop).map_err(Into::into),
        }
    })
}

fn expired_page(_: &ControlPlane, ns: &str) -> Result<()> {
    // Others page through this etcd, so this one has its own.
    let plane = ControlPlane::start(tests::control_plane::Options::default())?;
    plane.namespace(ns)?;
    let admin = plane.admin()?;
    for at in 0..6 {
        make(&admin, ns, &format!("m{at}"), &json!({}))?;
    }
    let first = admin.get(&format!("{}?limit=3", config_maps(ns, "")))?.ok()?;
    let token = first["metadata"]["continue"].as_str().context("there is more")?.to_owned();
    let last = make(&admin, ns, "m6", &json!({}))?;
    compact(&plane, version(&last)?)?;
    // What the server remembers it may still tell; a new one remembers nothing.
    plane.kill_api()?;
    plane.start_api()?;
    let admin = plane.admin()?;
    let status =
        admin.get(&format!("{}?limit=3&continue={token}", config_maps(ns, "")))?.refused(410, "Expired")?;
    let again = status["metadata"]["continue"].as_str().context("a token to go on with")?;
    let rest = admin.get(&format!("{}?limit=30&continue={again}", config_maps(ns, "")))?.ok()?;
    ensure!(names(&rest) == ["m3", "m4", "m5", "m6"], "{:?}", names(&rest));
    let old = version(&first)?;
    let exact = format!("{}?resourceVersion={old}&resourceVersionMatch=Exact", config_maps(ns, ""));
    admin.get(&exact)?.refused(410, "Expired")?;
    Ok(())
}

fn revisions(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let first = version(&make(&admin, ns, "a", &json!({}))?)?;
    make(&admin, ns, "b", &json!({}))?;
    let list = |query: &str| admin.get(&format!("{}?{query}", config_maps(ns, "")));
    let exact = list(&format!("resourceVersion={first}&resourceVersionMatch=Exact"))?.ok()?;
    ensure!(names(&exact) == ["a"] && version(&exact)? == first, "{exact}");
    let paged = list(&format!("resourceVersion={first}&limit=500"))?.ok()?;
    ensure!(names(&paged) == ["a"], "a page of a revision: {paged}");
    let newer = list(&format!("resourceVersion={first}&resourceVersionMatch=NotOlderThan"))?.ok()?;
    ensure!(version(&newer)? >= first && names(&newer).contains(&"a".to_owned()), "{newer}");
    // The newest is what one gets without asking, right after a write.
    for at in 0..20 {
        let name = format!("fresh-{at}");
        let made = version(&make(&admin, ns, &name, &json!({}))?)?;
        let now = list("")?.ok()?;
        ensure!(names(&now).contains(&name) && version(&now)? >= made, "{name} is not in {:?}", names(&now));
    }
    let future = list("resourceVersion=900000000")?;
    future.refused_with(504, "Timeout", "Too large resource version")?;
    ensure!(!future.header("retry-after").is_empty(), "{:?}", future.headers);
    // One object as fresh as asked.
    let one = |version: &str| admin.get(&format!("{}?resourceVersion={version}", config_maps(ns, "b")));
    for at_least in ["0".to_owned(), first.to_string(), version(&newer)?.to_string()] {
        ensure!(one(&at_least)?.ok()?["metadata"]["name"] == "b", "{at_least}");
    }
    one("900000000")?.refused_with(504, "Timeout", "Too large resource version")?;
    let none = one("latest")?;
    ensure!(none.code == 500 && none.text().contains("strconv.ParseUint"), "{}", none.text());
    Ok(())
}

fn selectors(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    for (name, labels) in [
        ("a", json!({"colour": "red", "size": "1"})),
        ("b", json!({"colour": "blue", "size": "2"})),
        ("c", json!({"colour": "green"})),
        ("d", json!({})),
    ] {
        make(&admin, ns, name, &labels)?;
    }
    for (query, want) in [
        ("labelSelector=colour", vec!["a", "b", "c"]),
        ("labelSelector=!colour", vec!["d"]),
        ("labelSelector=colour%3Dred", vec!["a"]),
        ("labelSelector=colour%3D%3Dred", vec!["a"]),
        ("labelSelector=colour!%3Dred", vec!["b", "c", "d"]),
        ("labelSelector=colour%20in%20(red,blue)", vec!["a", "b"]),
        ("labelSelector=colour%20notin%20(red,blue)", vec!["c", "d"]),
        ("labelSelector=size%3E1", vec!["b"]),
        ("labelSelector=size%3C2,colour%3Dred", vec!["a"]),
        ("fieldSelector=metadata.name%3Dc", vec!["c"]),
        ("fieldSelector=metadata.name!%3Dc", vec!["a", "b", "d"]),
        ("fieldSelector=metadata.name%3Dc&labelSelector=colour%3Dred", vec![]),
    ] {
        let list = admin.get(&format!("{}?{query}", config_maps(ns, "")))?.ok()?;
        ensure!(names(&list) == want, "{query}: {:?}", names(&list));
    }
    let pods = format!("/api/v1/namespaces/{ns}/pods");
    for (name, node) in [("p", "one"), ("q", "two")] {
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "i"}]});
        admin.post(&pods, &json!({"metadata": {"name": name}, "spec": spec}))?.ok()?;
    }
    let on = admin.get(&format!("{pods}?fieldSelector=spec.nodeName%3Dtwo,status.phase!%3DRunning"))?.ok()?;
    ensure!(names(&on) == ["q"], "{:?}", names(&on));
    Ok(())
}

fn ordered_watch(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let start = version(&admin.get(&config_maps(ns, ""))?.ok()?)?;
    let mut watch = admin.watch(&format!("{}?watch=true&resourceVersion={start}", config_maps(ns, "")))?;
    let writer = plane.admin()?;
    for at in 0..10 {
        let name = format!("m{at}");
        make(&writer, ns, &name, &json!({}))?;
        writer.patch(&config_maps(ns, &name), MERGE_PATCH, &json!({"data": {"n": at.to_string()}}))?.ok()?;
        writer.delete(&config_maps(ns, &name))?.ok()?;
    }
    let mut last = start;
    for at in 0..10 {
        for kind in ["ADDED", "MODIFIED", "DELETED"] {
            let object = watch.expect(kind)?;
            ensure!(object["metadata"]["name"] == format!("m{at}").as_str(), "{kind}: {object}");
            ensure!(object["kind"] == "ConfigMap" && object["apiVersion"] == "v1", "{object}");
            let now = version(&object)?;
            ensure!(now > last, "{kind} of m{at} at {now} after {last}");
            last = now;
        }
    }
    // The same again from the past.
    let mut watch = admin.watch(&format!("{}?watch=true&resourceVersion={start}", config_maps(ns, "")))?;
    for _ in 0..10 {
        for kind in ["ADDED", "MODIFIED", "DELETED"] {
            watch.expect(kind)?;
        }
    }
    Ok(())
}

fn transitions(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let start = version(&admin.get(&config_maps(ns, ""))?.ok()?)?;
    let path =
        format!("{}?watch=true&resourceVersion={start}&labelSelector=colour%3Dred", config_maps(ns, ""));
    let mut watch = admin.watch(&path)?;
    let writer = plane.admin()?;
    let paint = |colour: &str| {
        let labels = json!({"metadata": {"labels": {"colour": colour}}});
        writer.patch(&config_maps(ns, "a"), MERGE_PATCH, &labels)?.ok()
    };
    make(&writer, ns, "a", &json!({"colour": "blue"}))?;
    paint("red")?;
    ensure!(watch.expect("ADDED")?["metadata"]["labels"]["colour"] == "red", "it entered");
    writer.patch(&config_maps(ns, "a"), MERGE_PATCH, &json!({"data": {"a": "b"}}))?.ok()?;
    watch.expect("MODIFIED")?;
    let left = version(&paint("green")?)?;
    let gone = watch.expect("DELETED")?;
    ensure!(gone["metadata"]["labels"]["colour"] == "red", "as it was last seen: {gone}");
    ensure!(version(&gone)? == left, "with the revision it left at: {gone}");
    writer.delete(&config_maps(ns, "a"))?.ok()?;
    // What it does not select it does not tell: the next is another's.
    make(&writer, ns, "b", &json!({"colour": "red"}))?;
    ensure!(watch.expect("ADDED")?["metadata"]["name"] == "b", "only b is red");
    Ok(())
}

fn initial_events(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    for name in ["a", "b"] {
        make(&admin, ns, name, &json!({}))?;
    }
    let query =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = admin.watch(&format!("{}?{query}", config_maps(ns, "")))?;
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        seen.insert(watch.expect("ADDED")?["metadata"]["name"].to_string());
    }
    ensure!(seen.len() == 2, "{seen:?}");
    let mark = watch.expect("BOOKMARK")?;
    ensure!(mark["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true", "{mark}");
    ensure!(mark["kind"] == "ConfigMap" && version(&mark)? > 0, "{mark}");
    make(&plane.admin()?, ns, "c", &json!({}))?;
    ensure!(watch.expect("ADDED")?["metadata"]["name"] == "c", "then what happens");
    // Without asking, a watch from nowhere starts with what is there, too.
    let mut old = admin.watch(&format!("{}?watch=true", config_maps(ns, "")))?;
    for _ in 0..3 {
        old.expect("ADDED")?;
    }
    let bad = admin.get(&format!("{}?watch=true&sendInitialEvents=true", config_maps(ns, "")))?;
    bad.refused_with(
        422,
        "Invalid",
        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    )?;
    Ok(())
}

fn expired_watch(_: &ControlPlane, ns: &str) -> Result<()> {
    // A server that starts after the compaction knows nothing of what was before.
    let plane = ControlPlane::start(tests::control_plane::Options::default())?;
    plane.namespace(ns)?;
    let admin = plane.admin()?;
    let old = version(&make(&admin, ns, "a", &json!({}))?)?;
    let last = make(&admin, ns, "b", &json!({}))?;
    compact(&plane, version(&last)?)?;
    plane.kill_api()?;
    plane.start_api()?;
    let admin = plane.admin()?;
    let path = format!("{}?watch=true&resourceVersion={}", config_maps(ns, ""), old - 1);
    let status = match admin.watch(&path) {
        Ok(mut watch) => watch.expect("ERROR")?,
        Err(_) => admin.get(&path)?.json()?,
    };
    ensure!(
        status["code"] == 410 && matches!(status["reason"].as_str(), Some("Expired" | "Gone")),
        "{status}"
    );
    Ok(())
}

fn bookmarks(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let start = version(&admin.get(&config_maps(ns, ""))?.ok()?)?;
    // Near its end a watch is told how far it is, though nothing of its own happened.
    let query = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds=3&resourceVersion={start}");
    let mut watch = admin.watch(&format!("{}?{query}", config_maps(ns, "")))?;
    let last = version(&make(&plane.admin()?, "default", &format!("{ns}-far"), &json!({}))?)?;
    let mut marked = 0;
    while let Some(event) = watch.more()? {
        ensure!(event["type"] == "BOOKMARK", "{event}");
        let object = &event["object"];
        ensure!(object["kind"] == "ConfigMap" && object["metadata"].get("name").is_none(), "{object}");
        marked = version(object)?;
    }
    ensure!(marked >= last, "the last bookmark is at {marked}, the last write at {last}");
    Ok(())
}

fn one_object(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    make(&admin, ns, "a", &json!({}))?;
    make(&admin, ns, "b", &json!({}))?;
    let mut watches = vec![
        admin.watch(&format!("/api/v1/watch/namespaces/{ns}/configmaps/b"))?,
        admin.watch(&format!("{}?watch=true&fieldSelector=metadata.name%3Db", config_maps(ns, "")))?,
    ];
    let writer = plane.admin()?;
    for name in ["a", "b"] {
        writer.patch(&config_maps(ns, name), MERGE_PATCH, &json!({"data": {"a": "b"}}))?.ok()?;
    }
    for watch in &mut watches {
        ensure!(watch.expect("ADDED")?["metadata"]["name"] == "b", "it is b");
        ensure!(watch.expect("MODIFIED")?["metadata"]["name"] == "b", "it is b");
    }
    Ok(())
}

fn timeouts(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    make(&admin, ns, "a", &json!({}))?;
    let mut watch = admin.watch(&format!("{}?watch=true&timeoutSeconds=1", config_maps(ns, "")))?;
    watch.expect("ADDED")?;
    ensure!(watch.more()?.is_none(), "it goes on");
    Ok(())
}

fn many_watchers(plane: &ControlPlane, ns: &str) -> Result<()> {
    let start = version(&plane.admin()?.get(&config_maps(ns, ""))?.ok()?)?;
    let path = format!("{}?watch=true&resourceVersion={start}", config_maps(ns, ""));
    let clients = (0..8).map(|_| plane.admin()).collect::<Result<Vec<_>>>()?;
    let mut watches = Vec::new();
    for client in &clients {
        for _ in 0..5 {
            watches.push(client.watch(&path)?);
        }
    }
    let writer = plane.admin()?;
    let mut want = Vec::new();
    for at in 0..25 {
        want.push(version(&make(&writer, ns, &format!("m{at}"), &json!({"big": "x".repeat(60)}))?)?);
    }
    for watch in &mut watches {
        let mut seen = Vec::new();
        for _ in 0..25 {
            seen.push(version(&watch.expect("ADDED")?)?);
        }
        ensure!(seen == want, "{seen:?} is not {want:?}");
    }
    Ok(())
}
