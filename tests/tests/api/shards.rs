//! Lists and watches of a part of all objects (KEP-5866), under their gate.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Client, ControlPlane, control_plane::Options, runner::Test};

use crate::config_maps;

pub(crate) const TESTS: &[Test<()>] = &[
    ("shards are parts of a list that make up the whole", lists),
    ("watches of shards see what is theirs", watches),
    ("shards by namespace keep its objects together", namespaces),
    ("selectors that make no sense are refused", refused),
];

const UID: &str = "object.metadata.uid";
const MIDDLE: &str = "0x8000000000000000";

fn start() -> Result<(ControlPlane, Client)> {
    let flags = vec!["--feature-gates=ShardedListAndWatch=true".to_owned()];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let admin = plane.admin()?;
    Ok((plane, admin))
}

fn range(path: &str, start: &str, end: &str) -> String {
    format!("shardRange({path}, '{start}', '{end}')")
}

/// The lower and the upper half of all hashes.
fn halves(path: &str) -> [String; 2] {
    [range(path, "0x0000000000000000", MIDDLE), range(path, MIDDLE, "0x10000000000000000")]
}

/// A selector as a parameter.
fn parameter(selector: &str) -> String {
    let escaped: String = selector.bytes().map(|b| format!("%{b:02X}")).collect();
    format!("shardSelector={escaped}")
}

fn names(list: &Value) -> Result<BTreeSet<String>> {
    let items = list["items"].as_array().with_context(|| list.to_string())?;
    Ok(items.iter().filter_map(|item| Some(item["metadata"]["name"].as_str()?.to_owned())).collect())
}

/// Which half an object belongs to: 64-bit FNV-1a, looked at from its first bit.
fn half(text: &str) -> usize {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    usize::from(text.bytes().fold(0xcbf2_9ce4_8422_2325, step) >> 63 == 1)
}

/// Config maps of these names, each with its half.
fn make(admin: &Client, ns: &str, prefix: &str, count: usize) -> Result<[BTreeSet<String>; 2]> {
    let mut halves = [BTreeSet::new(), BTreeSet::new()];
    for i in 0..count {
        let name = format!("{prefix}{i:02}");
        let labels = json!({"parity": if i % 2 == 0 { "even" } else { "odd" }, "of": "shards"});
        let made =
            admin.post(&config_maps(ns, ""), &json!({"metadata": {"name": name, "labels": labels}}))?.ok()?;
        halves[half(made["metadata"]["uid"].as_str().context("no uid")?)].insert(name);
    }
    Ok(halves)
}

fn lists(_: &(), _: &str) -> Result<()> {
    let (plane, admin) = start()?;
    plane.namespace("lists")?;
    let expected = make(&admin, "lists", "m", 24)?;
    let path = config_maps("lists", "");
    for (selector, mine) in halves(UID).iter().zip(&expected) {
        let own = "labelSelector=of%3Dshards";
        let list = admin.get(&format!("{path}?{own}&{}", parameter(selector)))?.ok()?;
        ensure!(names(&list)? == *mine, "{selector}: {list}");
        ensure!(list["metadata"]["shardInfo"]["selector"] == *selector, "{}", list["metadata"]);
        // Labels and shards both have to fit.
        let even = admin.get(&format!("{path}?labelSelector=parity%3Deven&{}", parameter(selector)))?.ok()?;
        let wanted = mine.iter().filter(|name| name[1..].parse::<u32>().is_ok_and(|i| i % 2 == 0));
        ensure!(names(&even)? == wanted.cloned().collect(), "{even}");
        // Pages go on in the same part.
        let (mut paged, mut token) = (BTreeSet::new(), String::new());
        loop {
            let page = format!("{path}?{own}&limit=3&{}&continue={token}", parameter(selector));
            let page = admin.get(&page)?.ok()?;
            ensure!(page["items"].as_array().is_some_and(|items| items.len() <= 3), "{page}");
            ensure!(page["metadata"]["shardInfo"]["selector"] == *selector, "{}", page["metadata"]);
            paged.extend(names(&page)?);
            match page["metadata"]["continue"].as_str() {
                Some(next) if !next.is_empty() => token = next.to_owned(),
                _ => break,
            }
        }
        ensure!(paged == *mine, "{paged:?}");
        let table = admin.with_header("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")?;
        let table = table.get(&format!("{path}?{own}&{}", parameter(selector)))?.ok()?;
        ensure!(table["rows"].as_array().map(Vec::len) == Some(mine.len()), "{table}");
    }
    // However it is written, the answer names it in its one form; all of it is all there is.
    let whole = format!("{}||{}", halves(UID)[1], halves(UID)[0]);
    let list = admin.get(&format!("{path}?labelSelector=of%3Dshards&{}", parameter(&whole)))?.ok()?;
    ensure!(names(&list)?.len() == 24, "{list}");
    ensure!(list["metadata"]["shardInfo"]["selector"] == whole.replace("||", " || "), "{}", list["metadata"]);
    let plain = admin.get(&path)?.ok()?;
    ensure!(plain["metadata"].get("shardInfo").is_none(), "{}", plain["metadata"]);
    // What is deleted together is of one part too.
    let gone = format!("{path}?labelSelector=of%3Dshards&{}", parameter(&halves(UID)[0]));
    admin.delete(&gone)?.ok()?;
    let left = names(&admin.get(&format!("{path}?labelSelector=of%3Dshards"))?.ok()?)?;
    ensure!(left == expected[1], "{left:?}");
    Ok(())
}

fn watches(_: &(), _: &str) -> Result<()> {
    let (plane, admin) = start()?;
    plane.namespace("watches")?;
    let before = make(&admin, "watches", "a", 12)?;
    let path = config_maps("watches", "");
    let initial = "watch=true&labelSelector=of%3Dshards&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut open = Vec::new();
    for selector in halves(UID) {
        open.push(admin.watch(&format!("{path}?{initial}&{}", parameter(&selector)))?);
    }
    let metrics = admin.get("/metrics")?.text();
    let counted = "apiserver_watch_shards_total{group=\"\",resource=\"configmaps\"} 2";
    ensure!(metrics.contains(counted), "the watches of shards are not counted");
    for (watch, mine) in open.iter_mut().zip(&before) {
        let mut seen = BTreeSet::new();
        loop {
            let event = watch.next()?;
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            match event["type"].as_str() {
                Some("ADDED") => drop(seen.insert(name)),
                Some("BOOKMARK") => break,
                _ => anyhow::bail!("{event}"),
            }
        }
        ensure!(seen == *mine, "{seen:?}");
    }
    let after = make(&admin, "watches", "b", 12)?;
    for name in after.iter().flatten() {
        admin
            .patch(&config_maps("watches", name), tests::client::MERGE_PATCH, &json!({"data": {"k": "v"}}))?
            .ok()?;
        admin.delete(&config_maps("watches", name))?.ok()?;
    }
    for (watch, mine) in open.iter_mut().zip(&after) {
        let mut seen = Vec::new();
        while seen.len() < 3 * mine.len() {
            let event = watch.next()?;
            ensure!(
                mine.contains(event["object"]["metadata"]["name"].as_str().unwrap_or_default()),
                "{event}"
            );
            seen.push(event["type"].as_str().unwrap_or_default().to_owned());
        }
        for kind in ["ADDED", "MODIFIED", "DELETED"] {
            ensure!(seen.iter().filter(|k| *k == kind).count() == mine.len(), "{kind}: {seen:?}");
        }
    }
    Ok(())
}

fn namespaces(_: &(), _: &str) -> Result<()> {
    let (plane, admin) = start()?;
    for i in 0..6 {
        plane.namespace(&format!("ns{i}"))?;
        make(&admin, &format!("ns{i}"), "m", 2)?;
    }
    let mut seen = 0;
    for (at, selector) in halves("object.metadata.namespace").iter().enumerate() {
        let query = format!("labelSelector=of%3Dshards&{}", parameter(selector));
        let list = admin.get(&format!("/api/v1/configmaps?{query}"))?.ok()?;
        for item in list["items"].as_array().context("no items")? {
            seen += 1;
            ensure!(half(item["metadata"]["namespace"].as_str().unwrap_or_default()) == at, "{item}");
        }
    }
    ensure!(seen == 12, "{seen} of 12 are in one half or the other");
    Ok(())
}

fn refused(_: &(), _: &str) -> Result<()> {
    let (_plane, admin) = start()?;
    let path = config_maps("default", "");
    for (selector, why) in [
        ("true", "unexpected expression kind"),
        ("shardRange(object.metadata.uid, '0x00', '0x80')", "0x-prefixed 16-digit hex value"),
        (
            "shardRange(object.metadata.name, '0x0000000000000000', '0x8000000000000000')",
            "unsupported field path",
        ),
        (
            "shardRange(object.metadata.uid, '0x8000000000000000', '0x0000000000000000')",
            "must be less than end",
        ),
    ] {
        for watch in ["", "watch=true&"] {
            let answer = admin.get(&format!("{path}?{watch}{}", parameter(selector)))?;
            let status = answer.json()?;
            let message = status["message"].as_str().unwrap_or_default();
            ensure!(
                answer.code == 500
                    && message.starts_with("invalid shard selector: ")
                    && message.contains(why),
                "{selector}: {status}"
            );
        }
    }
    Ok(())
}
