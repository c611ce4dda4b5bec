use serde_json::json;

use super::*;
use crate::auth::User;

fn object(value: serde_json::Value) -> Arc<Object> {
    Arc::new(Object::from_value(value).unwrap())
}

fn request(user: &str, groups: &[&str], verb: &str, resource: &str, namespace: &str) -> Attributes {
    Attributes {
        user: Arc::new(User {
            name: user.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..User::default()
        }),
        verb: verb.into(),
        resource: resource.into(),
        namespace: namespace.into(),
        is_resource: true,
        ..Attributes::default()
    }
}

fn level(name: &str, limited: serde_json::Value) -> Arc<Object> {
    object(json!({"metadata": {"name": name, "uid": format!("{name}-uid")},
        "spec": {"type": "Limited", "limited": limited}}))
}

fn schema(name: &str, level: &str, precedence: u32, subject: serde_json::Value) -> Arc<Object> {
    let rule = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["pods", "*/status"], "namespaces": ["a"],
        "clusterScope": false});
    object(json!({"metadata": {"name": name, "uid": format!("{name}-uid")}, "spec": {
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [subject], "resourceRules": [rule]}]}}))
}

fn named(user: &str) -> serde_json::Value {
    json!({"kind": "User", "user": {"name": user}})
}

#[test]
fn the_first_schema_that_matches_counts() {
    let filter = FlowControl::new(600, Duration::from_secs(60));
    let rejecting = json!({"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}});
    let account = json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "a", "name": "*"}});
    filter.take(
        &[
            schema("late", "l", 900, named("*")),
            schema("early", "l", 100, named("jane")),
            schema("accounts", "l", 200, account),
            schema("dangling", "gone", 1, named("*")),
        ],
        &[level("l", rejecting)],
    );
    let of = |request: &Attributes| filter.classify(request).told;
    let told = |schema: &str, level: &str| Flow { schema: schema.into(), level: level.into() };
    let authenticated = &["system:authenticated"][..];
    for (request, expected) in [
        (request("jane", authenticated, "get", "pods", "a"), told("early-uid", "l-uid")),
        (request("joe", authenticated, "get", "pods", "a"), told("late-uid", "l-uid")),
        (
            request("system:serviceaccount:a:x", authenticated, "get", "pods", "a"),
            told("accounts-uid", "l-uid"),
        ),
        (request("jane", authenticated, "get", "pods", "b"), told("", "")),
        (request("jane", authenticated, "get", "secrets", "a"), told("", "")),
        (request("jane", authenticated, "get", "pods", ""), told("", "")),
        (request("jane", &["system:masters"], "get", "pods", "b"), told("", "")),
    ] {
        assert_eq!(of(&request), expected, "{request:?}");
    }
    assert_eq!(
        *filter.classify(&request("jane", &["system:masters"], "get", "x", "b")).level.name,
        *"exempt"
    );
    assert_eq!(*filter.classify(&request("jane", authenticated, "get", "x", "b")).level.name, *"catch-all");
}

#[test]
fn paths_match_as_a_whole_or_below_a_folder() {
    let rule = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/logs/*"]});
    let spec = json!({"priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 5,
        "rules": [{"subjects": [{"kind": "Group", "group": {"name": "*"}}], "nonResourceRules": [rule]}]});
    let schema = FlowSchema::of(&object(json!({"metadata": {"name": "s"}, "spec": spec})));
    for (verb, path, expected) in [
        ("get", "/healthz", true),
        ("get", "/healthz/etcd", true),
        ("get", "/healthzy", false),
        ("get", "/logs/a/b", true),
        ("post", "/healthz", false),
    ] {
        let request = Attributes { verb: verb.into(), path: path.to_owned(), ..Attributes::default() };
        assert_eq!(schema.matches(&request), expected, "{verb} {path}");
    }
}

#[tokio::test]
async fn seats_are_waited_for_in_queues_and_refused_without_them() {
    // The longest wait is a quarter of this.
    let filter = FlowControl::new(2, Duration::from_millis(80));
    let queue = json!({"queues": 1, "handSize": 1, "queueLengthLimit": 1});
    let limited = |response| json!({"nominalConcurrencyShares": 1, "limitResponse": response});
    let queued = level("q", limited(json!({"type": "Queue", "queuing": queue})));
    let rejecting = level("r", limited(json!({"type": "Reject"})));
    let schemas = [schema("qs", "q", 1, named("queued")), schema("rs", "r", 2, named("rejected"))];
    filter.take(&schemas, &[queued, rejecting]);
    let ask = |user: &str| filter.classify(&request(user, &[], "get", "pods", "a"));
    let (queued_request, other) =
        (request("queued", &[], "get", "pods", "a"), request("rejected", &[], "get", "pods", "a"));
    let table = |name: &str, details: &str| {
        let text = filter.dump(&format!("/debug/api_priority_and_fairness/{name}"), details).unwrap();
        let cells = |line: &str| line.split(",").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        text.lines().map(cells).collect::<Vec<_>>()
    };
    let of = |rows: Vec<Vec<String>>, level: &str| {
        rows.into_iter().filter(|row| row[0] == level).collect::<Vec<_>>()
    };
    // A level has a seat of its own at least.
    let first = filter.admit(ask("queued"), Need::Seats(1), &queued_request).await.unwrap();
    let mut second = Box::pin(filter.admit(ask("queued"), Need::Seats(1), &queued_request));
    assert!(futures::poll!(&mut second).is_pending());
    let [row] = &of(table("dump_requests", "1"), "q")[..] else { panic!("one request waits") };
    assert_eq!((&row[1..5], &row[6]), (&["qs", "0", "0", "queued"].map(str::to_owned)[..], &"1".to_owned()));
    assert_eq!(row[10..12], ["queued", "get"]);
    assert_eq!(of(table("dump_requests", ""), "q")[0].len(), 10);
    assert_eq!(of(table("dump_priority_levels", ""), "q")[0][1..7], ["1", "false", "false", "1", "1", "1"]);
    let [queue] = &of(table("dump_queues", ""), "q")[..] else { panic!("there is one queue") };
    assert_eq!(queue[1..5], ["0", "1", "1", "1"]);
    assert_eq!(of(table("dump_queues", ""), "r"), Vec::<Vec<String>>::new());
    assert_eq!(filter.admit(ask("queued"), Need::Seats(1), &queued_request).await.unwrap_err().code, 429);
    drop(first);
    let second = second.await.unwrap();
    // Who waits too long is refused, and leaves no trace.
    assert_eq!(filter.admit(ask("queued"), Need::Seats(1), &queued_request).await.unwrap_err().code, 429);
    let mut third = Box::pin(filter.admit(ask("queued"), Need::Seats(1), &queued_request));
    assert!(futures::poll!(&mut third).is_pending());
    drop(third);
    drop(second);
    drop(filter.admit(ask("queued"), Need::Seats(1), &queued_request).await.unwrap());
    let held = filter.admit(ask("rejected"), Need::Seats(1), &other).await.unwrap();
    assert_eq!(filter.admit(ask("rejected"), Need::Seats(1), &other).await.unwrap_err().code, 429);
    drop(held);
    let counts = |level: &str| of(table("dump_priority_levels", ""), level)[0][6..].to_vec();
    assert_eq!(counts("q"), ["3", "1", "1", "1"], "served, turned away, too late, gone");
    assert_eq!(
        (counts("r"), filter.dump("/debug/api_priority_and_fairness/x", "")),
        (["1", "1", "0", "0"].map(str::to_owned).to_vec(), None)
    );
    drop(filter.admit(ask("rejected"), Need::Seats(1), &other).await.unwrap());
    let masters = || filter.classify(&request("root", &["system:masters"], "get", "pods", "a"));
    let many =
        futures::future::join_all((0..100).map(|_| filter.admit(masters(), Need::Seats(1), &other))).await;
    assert!(many.iter().all(Result::is_ok));
}

#[test]
fn lists_take_seats_by_what_they_load() {
    let listed = Listed { objects: 5_000, bytes: 5_000 * 4_000, ..Listed::default() };
    for (listed, by_size, by_count) in [
        (Listed::default(), 1, 1),
        (Listed { objects: 10, bytes: 10_000, ..listed }, 1, 1),
        (Listed { objects: 250, bytes: 250_000, ..listed }, 3, 3),
        (Listed { limit: 50, ..listed }, 2, 10),
        (Listed { limit: 500, ..listed }, 10, 10),
        (listed, 10, 10),
        (Listed { single: true, ..listed }, 1, 1),
        (Listed { objects: 1, bytes: 1_400_000, single: true, ..listed }, 10, 1),
    ] {
        assert_eq!(
            (seats_of_list(listed, true), seats_of_list(listed, false)),
            (by_size, by_count),
            "{listed:?}"
        );
    }
}

#[test]
fn writes_take_seats_by_who_watches_and_keep_them_for_a_while() {
    let ms = Duration::from_millis;
    for (watches, widest, last, linger) in [
        (0, 100, 0, ms(0)),
        (9, 100, 0, ms(0)),
        (10, 100, 1, ms(5)),
        (25, 100, 3, ms(5)),
        (100, 100, 10, ms(5)),
        (1_000, 100, 10, ms(50)),
        (25, 1, 1, ms(15)),
        (5_000, u32::MAX, 10, ms(250)),
    ] {
        let work = Need::Telling(watches).within(widest);
        assert_eq!(work, Work { initial: 1, last, linger }, "{watches} of {widest}");
    }
    let work = Need::Seats(20).within(9);
    assert_eq!((work.seats(), work.linger), (9, ms(0)));
    // As much is charged as was used: one seat for the write, three for telling of it.
    assert_eq!(Need::Telling(25).within(9).evened(ms(30)), (ms(30) + ms(15)) / 3);
}

#[tokio::test]
async fn seats_linger_and_are_free_again() {
    let filter = Arc::new(FlowControl::new(1, Duration::from_secs(60)));
    let limited = json!({"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}});
    filter.take(&[schema("s", "l", 1, named("w"))], &[level("l", limited)]);
    let asked = request("w", &[], "update", "pods", "a");
    let enter = || filter.admit(filter.classify(&asked), Need::Telling(1_000), &asked);
    let ticket = enter().await.unwrap();
    assert_eq!(enter().await.unwrap_err().code, 429);
    let over = Instant::now();
    drop(ticket);
    // The write is answered; those who watch are still being told, for half a second with one seat.
    assert_eq!(enter().await.unwrap_err().code, 429);
    let next = filter.lingering.free(over).unwrap();
    assert!(next >= over + Duration::from_millis(500));
    assert_eq!(enter().await.unwrap_err().code, 429);
    assert_eq!(filter.lingering.free(next), None);
    drop(enter().await.unwrap());
}
