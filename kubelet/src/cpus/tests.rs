//! Who gets which processors on machines of several shapes, and what a restarted kubelet knows of it.

use serde_json::json;

use super::{
    pick::take,
    plan::{Refusal, Wanted},
    topology::Place,
    *,
};
use crate::testing;

/// Sockets with cores of two threads, numbered as the kernel does: first threads of all cores, then the second ones.
fn machine(sockets: u32, cores: u32) -> Topology {
    let total = sockets * cores;
    (0..total * 2)
        .map(|cpu| {
            let core = cpu % total;
            (cpu, Place { numa: core / cores, socket: core / cores, cache: core / cores, core })
        })
        .collect()
}

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

fn taken(topology: &Topology, free: &str, count: usize) -> Option<String> {
    take(topology, &set(free), count, Options::default()).map(|cpus| cpus.to_string())
}

#[test]
fn whole_parts_come_first_and_leftovers_next() {
    let two = machine(2, 4);
    // Socket 0 has 0-3 and 8-11, socket 1 the others.
    for (free, count, expected) in [
        ("0-15", 0, Some("")),
        ("0-15", 1, Some("0")),
        ("0-15", 2, Some("0,8")),
        ("0-15", 3, Some("0-1,8")),
        ("0-15", 8, Some("0-3,8-11")),
        ("0-15", 10, Some("0-4,8-12")),
        ("0-15", 16, Some("0-15")),
        ("0-15", 17, None),
        // A thread without its sibling is used up before a core is broken.
        ("1-15", 1, Some("8")),
        // Fewer are free on socket 0, so it is filled up first.
        ("1-7,9-15", 2, Some("1,9")),
        ("4-7,9-15", 2, Some("4,12")),
        // A whole socket is free and wanted, though the other has fewer free.
        ("2-7,12-15", 8, Some("4-7,12-15")),
        ("", 1, None),
    ] {
        assert_eq!(taken(&two, free, count).as_deref(), expected, "{count} of {free:?}");
    }
}

/// One socket of four cores of two threads, with a cache for each two cores: 0-1 and 4-5, 2-3 and 6-7.
fn cached() -> Topology {
    (0..8).map(|cpu| (cpu, Place { numa: 0, socket: 0, cache: cpu % 4 / 2, core: cpu % 4 })).collect()
}

/// Sockets of two memory nodes with one core of two threads each: node 0 has 0 and 4, node 1 has 1 and 5.
fn split() -> Topology {
    (0..8)
        .map(|cpu| (cpu, Place { numa: cpu % 4, socket: cpu % 4 / 2, cache: cpu % 4 / 2, core: cpu % 4 }))
        .collect()
}

#[test]
fn nodes_of_a_socket_are_taken_with_it() {
    let take = |free: &str, count| taken(&split(), free, count).unwrap();
    assert_eq!(take("0-7", 4), "0-1,4-5");
    // Node 0 is broken, so its socket cannot be had as a whole, and comes first for what is smaller.
    assert_eq!(take("1-7", 4), "2-3,6-7");
    assert_eq!(take("1-7", 2), "1,5");
    assert_eq!(take("1-7", 1), "4");
}

#[test]
fn caches_are_filled_before_cores_are_taken_from_others() {
    let options = Options { by_cache: true, ..Options::default() };
    let take = |free: &str, count| take(&cached(), &set(free), count, options).unwrap().to_string();
    assert_eq!(take("0-7", 4), "0-1,4-5");
    // Three fit behind the one cache, where by cores they would come from both.
    assert_eq!(take("1-7", 3), "1,4-5");
    assert_eq!(take("1-3,5-7", 4), "2-3,6-7", "a whole cache");
    assert_eq!(take("1-3,5-7", 2), "1,5", "the one of which less is free");
    assert_eq!(take("1,3,5,7", 4), "1,3,5,7", "no cache has as many");
    assert_eq!(take("0-7", 6), "0-2,4-6");
}

#[test]
fn threads_are_spread_over_cores() {
    let options = Options { across_cores: true, ..Options::default() };
    let take = |free: &str, count| take(&machine(2, 4), &set(free), count, options).unwrap().to_string();
    assert_eq!(take("0-15", 4), "0-3");
    assert_eq!(take("0-15", 5), "0-3,8");
    assert_eq!(take("2-15", 3), "2-3,8", "the socket of which less is free");
    assert_eq!(take("0-15", 8), "0-3,8-11", "a whole socket is taken as one");
}

#[test]
fn nodes_give_as_much_each_and_are_left_even() {
    let nodes = |full_cores| Options { across_nodes: true, full_cores, ..Options::default() };
    let take = |free: &str, count, options| {
        take(&machine(4, 2), &set(free), count, options).map(|cpus| cpus.to_string())
    };
    // Node 0 has 0-1 and 8-9, node 1 has 2-3 and 10-11, and so on.
    assert_eq!(take("0-15", 4, nodes(false)).as_deref(), Some("0-1,8-9"), "one is enough");
    assert_eq!(take("0-15", 6, nodes(false)).as_deref(), Some("0-3,8,10"));
    assert_eq!(take("0-15", 9, nodes(false)).map(|cpus| set(&cpus).len()), Some(9));
    // Two nodes have three each; together they give two each before a third node is asked.
    assert_eq!(take("0-2,8,10-11", 4, nodes(false)).as_deref(), Some("0,2,8,10"));
    // Of whole cores there is one on each.
    assert_eq!(take("0,2,8,10", 4, nodes(true)).as_deref(), Some("0,2,8,10"));
    assert_eq!(take("0-15", 3, nodes(true)).as_deref(), Some("0-1,8"), "no whole cores are asked for");
    assert_eq!(take("0-3", 5, nodes(false)), None);
    // Each gives three, and node 0 a fourth: that does not take a second core from it as a whole.
    let free = set("0-2,4-6,9-10,13-14");
    let chosen = pick::take(&machine(2, 4), &free, 7, nodes(false)).unwrap();
    assert_eq!(chosen, set("0-2,4-5,9,13"));
}

#[test]
fn a_socket_is_near_enough_where_that_is_asked_for() {
    let four = split();
    let options = Options { by_socket: true, ..Options::default() };
    let near = [0].into_iter().collect();
    let chosen = plan::choose(&four, &set("1-7"), &set(""), 3, Some(near), options).unwrap();
    assert_eq!(chosen, set("1,4-5"), "node 1 is on the socket of node 0");
    let hints = |options| {
        let text = |h: Hint| format!("{}{}", h.nodes.unwrap(), if h.preferred { "!" } else { "" });
        let all = plan::hints(&four, &set("0-7"), &set(""), 2, options).into_iter().map(text);
        all.take(6).collect::<Vec<_>>()
    };
    assert_eq!(hints(Options::default()), ["0!", "1!", "2!", "3!", "0,1", "0,2"]);
    assert_eq!(hints(options), ["0!", "1!", "2!", "3!", "0,1!", "0,2"]);
}

fn want(name: &str, count: usize, passes: bool) -> Wanted {
    Wanted { name: name.into(), count, passes }
}

#[test]
fn init_containers_pass_theirs_on() {
    let one = machine(1, 4);
    let given = |wanted: &[Wanted], free: &str, options| {
        let mut given: Vec<(CpuSet, bool)> = Vec::new();
        for want in wanted {
            let all = given.iter().fold(CpuSet::default(), |all, (own, _)| all.plus(own));
            let reusable = plan::reusable(given.iter().map(|(own, passes)| (own, *passes)));
            let free = set(free).minus(&all);
            given.push((plan::choose(&one, &free, &reusable, want.count, None, options)?, want.passes));
        }
        Ok(wanted
            .iter()
            .zip(given)
            .map(|(want, (own, _))| format!("{}={own}", want.name))
            .collect::<Vec<_>>())
    };
    let none = Options::default();
    let pod = [want("init", 4, true), want("side", 2, false), want("main", 2, false)];
    assert_eq!(
        given(&pod, "0-7", none),
        Ok(vec!["init=0-1,4-5".into(), "side=0,4".into(), "main=1,5".into()])
    );
    let pod = [want("init", 2, true), want("main", 4, false)];
    assert_eq!(given(&pod, "1-3,5-7", none), Ok(vec!["init=1,5".into(), "main=1-2,5-6".into()]));
    let pod = [want("a", 2, false), want("b", 1, false)];
    assert_eq!(given(&pod, "6-7", none), Err(Refusal::NotEnough { requested: 1, available: 0 }));
    let full = Options { full_cores: true, ..none };
    let odd = given(&[want("a", 3, false)], "0-7", full);
    assert_eq!(odd, Err(Refusal::Alignment { requested: 3, per_core: 2 }));
    let broken = given(&[want("a", 2, false)], "0-3", full);
    assert_eq!(broken, Err(Refusal::Cores { requested: 2, available: 0, per_core: 2 }));
    assert_eq!(given(&[want("a", 2, false)], "0-4", full), Ok(vec!["a=0,4".into()]));
}

#[test]
fn those_near_the_memory_come_first() {
    let two = machine(2, 2);
    // Socket 0 has 0-1 and 4-5, socket 1 has 2-3 and 6-7.
    let near = |nodes: &[u32], free: &str, reusable: &str, count| {
        let nodes = Some(nodes.iter().copied().collect());
        let chosen = plan::choose(&two, &set(free), &set(reusable), count, nodes, Options::default());
        chosen.map(|cpus| cpus.to_string())
    };
    assert_eq!(near(&[1], "0-7", "", 2), Ok("2,6".into()));
    assert_eq!(near(&[1], "0-6", "", 4), Ok("0,2-3,6".into()), "three are near");
    assert_eq!(near(&[0, 1], "0-7", "", 2), Ok("0,4".into()));
    assert_eq!(near(&[1], "2-3", "0,6", 2), Ok("2,6".into()), "what it has near comes first");
    assert_eq!(near(&[0], "2-3", "", 3), Err(Refusal::NotEnough { requested: 3, available: 2 }));
}

#[test]
fn hints_tell_where_processors_could_come_from() {
    let two = machine(2, 2);
    let hints = |free: &str, reusable: &str, count| {
        let text = |h: Hint| format!("{}{}", h.nodes.unwrap(), if h.preferred { "!" } else { "" });
        let all = plan::hints(&two, &set(free), &set(reusable), count, Options::default());
        all.into_iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(hints("0-7", "", 2), ["0!", "1!", "0,1"]);
    assert_eq!(hints("0-7", "", 6), ["0,1!"]);
    assert_eq!(hints("0,2-3", "", 2), ["1!", "0,1"]);
    assert_eq!(hints("0,2", "", 2), ["0,1"], "one node would do if it were free");
    assert_eq!(hints("0-3", "4", 2), ["0!", "0,1"], "the pod's own are among them");
    assert!(hints("0", "", 2).is_empty());
}

#[test]
fn refusals_are_told_as_upstream_does() {
    let verdict = Refusal::NotEnough { requested: 2, available: 1 }.verdict();
    assert_eq!(verdict.reason, "UnexpectedAdmissionError");
    assert_eq!(
        verdict.message,
        "Allocate failed due to not enough cpus available to satisfy request: requested=2, available=1, which is unexpected"
    );
    let verdict = Refusal::Alignment { requested: 1, per_core: 2 }.verdict();
    assert_eq!(verdict.reason, "SMTAlignmentError");
    assert_eq!(verdict.message, "SMT Alignment Error: requested 1 cpus not multiple cpus per core = 2");
}

#[test]
fn only_whole_processors_of_guaranteed_pods_are_their_own() {
    let of = |cpu: &str, memory: bool| {
        let mut list = json!({ "cpu": cpu });
        if memory {
            list["memory"] = "1Mi".into();
        }
        let pod =
            testing::pod("a").container("c").resources(json!({ "requests": list, "limits": list })).build();
        wanted(&pod).into_iter().map(|w| (w.name, w.count, w.passes)).collect::<Vec<_>>()
    };
    assert_eq!(of("2", true), [("c".to_owned(), 2, false)]);
    assert_eq!(of("2000m", true), [("c".to_owned(), 2, false)]);
    assert_eq!(of("1500m", true), []);
    assert_eq!(of("2", false), [], "the pod is not Guaranteed");
}

/// A machine of four processors that tell nothing of themselves.
fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("sys/devices/system/cpu");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("online"), "0-3\n").unwrap();
    dir
}

fn pod(name: &str, cpu: &str) -> Pod {
    let list = json!({ "cpu": cpu, "memory": "1Mi" });
    testing::pod(name).container("c").resources(json!({ "requests": list, "limits": list })).build()
}

#[test]
fn what_was_given_survives_a_restart_and_comes_back() {
    let dir = root();
    let settings = Settings { exclusive: true, reserved_milli: 500, ..Settings::default() };
    let new = |settings: &Settings| Cpus::new(settings, dir.path(), dir.path());
    let place = |cpus: &Cpus, uid: &str| cpus.place(uid, "c").map(|set| set.to_string());
    let cpus = new(&settings).unwrap();
    assert_eq!(cpus.allocatable(), set("1-3"));
    assert_eq!(place(&cpus, "uid-b").as_deref(), Some("0-3"));
    cpus.allocate(&pod("a", "2"), "c", None).unwrap();
    cpus.allocate(&pod("b", "500m"), "c", None).unwrap();
    assert_eq!(place(&cpus, "uid-a").as_deref(), Some("1-2"));
    assert_eq!(place(&cpus, "uid-b").as_deref(), Some("0,3"));
    assert!(cpus.allocate(&pod("c", "2"), "c", None).is_err());
    let cpus = new(&settings).unwrap();
    cpus.allocate(&pod("a", "2"), "c", None).unwrap();
    assert_eq!((cpus.own("uid-a", "c"), cpus.own("uid-b", "c")), (set("1-2"), set("")));
    let error = new(&Settings::default()).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(
        error.contains("configured policy \"none\" differs from state checkpoint policy \"static\""),
        "{error}"
    );
    std::fs::write(dir.path().join("sys/devices/system/cpu/online"), "0-1\n").unwrap();
    assert!(new(&settings).is_err(), "the machine has shrunk");
    cpus.release("uid-a");
    assert_eq!(place(&cpus, "uid-b").as_deref(), Some("0-3"));
    assert!(new(&settings).is_err(), "nothing is given, but more is shared than there is");
    std::fs::write(dir.path().join(state::FILE), "{").unwrap();
    assert!(new(&settings).is_err());
}

#[test]
fn who_has_other_than_it_asks_for_can_have_nothing_else() {
    let dir = root();
    let settings = Settings { exclusive: true, reserved_milli: 500, ..Settings::default() };
    let cpus = Cpus::new(&settings, dir.path(), dir.path()).unwrap();
    cpus.allocate(&pod("a", "2"), "c", None).unwrap();
    let count = |hints: Hints| hints.get("cpu").cloned().flatten().map(|hints| hints.len());
    assert_eq!(count(cpus.hints(&pod("a", "2"), "c")), Some(1));
    assert_eq!(count(cpus.pod_hints(&pod("a", "2"))), Some(1));
    for cpu in ["1", "3"] {
        assert_eq!(count(cpus.hints(&pod("a", cpu), "c")), Some(0), "{cpu}");
        assert_eq!(count(cpus.pod_hints(&pod("a", cpu))), Some(0), "{cpu}");
    }
}

#[test]
fn settings_have_to_fit_the_machine() {
    let dir = root();
    let new = |settings: &Settings| Cpus::new(settings, dir.path(), dir.path());
    let settings = Settings { exclusive: true, ..Settings::default() };
    assert!(matches!(new(&settings), Err(CpuError::NothingReserved)));
    let reserved = Settings { reserved: set("3-4"), ..settings.clone() };
    assert!(matches!(new(&reserved), Err(CpuError::Reserved { .. })));
    let options = Options { strict_reservation: true, ..Options::default() };
    let strict = new(&Settings { reserved: set("3"), options, ..settings }).unwrap();
    assert_eq!(strict.place("u", "c"), Some(set("0-2")));
    let none = new(&Settings::default()).unwrap();
    assert_eq!((none.place("u", "c"), none.are_exclusive()), (None, false));
}
