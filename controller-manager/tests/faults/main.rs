//! The fault harness: every controller is disturbed at everything it writes, and must come to the end it comes to when
//! it is left alone.
//!
//! The real controllers run against an API server in memory ([`api`], [`store`]), with kubelets that do what they are
//! told ([`kubelet`]), on one thread and in a time that passes only when nobody has anything to do: no run depends on
//! the machine it runs on. For every write the process is killed before and after it, the answer is lost, somebody
//! else was faster, the caches lag behind it, or the controller is connected anew to an older view; for every change its event is hidden until the caches list anew; and
//! once everything that is listed is next to something that does not decode.
//!
//! Besides, every controller is given states it never came to itself, and must come to rest from them ([`states`]).
//!
//! A controller is one line in [`scenarios`].

#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

mod api;
mod kubelet;
mod queues;
mod scenarios;
mod states;
mod store;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use component_base::{
    clock::TokioClock, daemon::Daemon, flags::Parsed, informer::Informers, serving::Site, task::Tasks,
};
use controller_manager::{
    controllers::{self, Context, Settings},
    run::ControllerManager,
};
use serde_json::{Map, Value};

use crate::{
    api::{Api, Caller, Fault},
    store::{Change, RESOURCES, Store, TOUCHED},
};

/// When the runs begin: half a minute before noon.
const BEGIN: &str = "2026-03-02T11:59:30Z";
/// Nothing happens any more when nothing has changed for so long: longer than anything most controllers wait for.
pub(crate) const QUIET: Duration = Duration::from_secs(330);
/// No run takes longer.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a process takes to be there again.
const RESTART: Duration = Duration::from_secs(1);

/// What a controller is to do while it is disturbed.
pub(crate) struct Scenario {
    pub(crate) controller: &'static str,
    /// Controllers it works with, which are left alone.
    pub(crate) with: &'static [&'static str],
    /// Flags of the daemon.
    pub(crate) flags: &'static [&'static str],
    /// What there is at the beginning.
    pub(crate) objects: Vec<Value>,
    /// Resources of which it does not matter what is left of them.
    pub(crate) except: &'static [&'static str],
    /// What somebody does, each once everything is quiet.
    pub(crate) then: &'static [fn(&mut Store, &str)],
    /// How long nothing must have changed before nothing happens any more.
    pub(crate) quiet: Duration,
}

// === impl Scenario ===

impl Scenario {
    /// Whether the end is the same with this fault. What is named by chance is made again by a process that does not see
    /// it and remembers nothing: a job counts all of its pods that end, and a claim made twice stays with its pod. Only a
    /// list that is not older keeps controllers from that, which is what informers ask for.
    fn bears(&self, fault: Fault) -> bool {
        let by_chance = ["job-controller", "resourceclaim-controller"].contains(&self.controller);
        !by_chance || !matches!(fault, Fault::KilledOlder(_))
    }
}

/// How a run ended.
pub(crate) struct End {
    objects: String,
    writes: usize,
    /// Everything that became of every object.
    pub(crate) history: Vec<Change>,
}

/// Runs a scenario undisturbed and with every fault, and compares the ends.
pub(crate) fn survives(scenario: &Scenario) {
    let undisturbed = run(scenario, None);
    assert!(undisturbed.writes > 0, "{}: there is something to disturb", scenario.controller);
    let at_writes = (0..undisturbed.writes).flat_map(|at| {
        type Make = fn(usize) -> Fault;
        const KINDS: [Make; 7] = [
            Fault::KilledBefore,
            Fault::KilledAfter,
            Fault::Unanswered,
            Fault::Conflict,
            Fault::Lagging,
            Fault::Older,
            Fault::KilledOlder,
        ];
        KINDS.map(|of| of(at)).into_iter().filter(|fault| scenario.bears(*fault))
    });
    let begun = scenario.objects.len();
    let at_changes = (begun..undisturbed.history.len()).map(Fault::Hidden);
    let mut failures = String::new();
    for fault in at_writes.chain(at_changes).chain([Fault::Broken]) {
        let disturbed = run(scenario, Some(fault));
        if disturbed.objects != undisturbed.objects {
            failures
                .push_str(&format!("\n{fault:?}\n{}", differences(&undisturbed.objects, &disturbed.objects)));
        }
    }
    assert!(failures.is_empty(), "{}: {failures}", scenario.controller);
}

/// The lines that only one of the ends has, `-` for the undisturbed one.
fn differences(undisturbed: &str, disturbed: &str) -> String {
    let only = |one: &str, other: &str, sign: char| {
        let mut rest: Vec<&str> = other.lines().collect();
        let mut out = String::new();
        for line in one.lines() {
            match rest.iter().position(|l| *l == line) {
                Some(at) => drop(rest.swap_remove(at)),
                None => out.push_str(&format!("{sign}{line}\n")),
            }
        }
        out
    };
    only(undisturbed, disturbed, '-') + &only(disturbed, undisturbed, '+')
}

pub(crate) fn run(scenario: &Scenario, fault: Option<Fault>) -> End {
    in_made_up_time(async {
        let world = World::new(scenario);
        world
            .api
            .with(|store, now| scenario.objects.iter().for_each(|object| seed(store, object.clone(), now)));
        world.api.disturb(fault);
        let others = world.start(scenario.with, false);
        let mut process = world.start(&[scenario.controller], true);
        let mut steps = scenario.then.iter();
        let until = tokio::time::Instant::now() + LONGEST;
        loop {
            assert!(tokio::time::Instant::now() < until, "{}: no rest, {fault:?}", scenario.controller);
            tokio::select! {
                () = process.caller.died() => {
                    process.tasks.shutdown(Duration::ZERO).await;
                    tokio::time::sleep(RESTART).await;
                    process = world.start(&[scenario.controller], true);
                }
                () = quiet(&world.api, scenario.quiet) => {
                    assert_eq!(process.tasks.failure(), None, "{}: {fault:?}", scenario.controller);
                    // What was hidden is found before anything else happens.
                    if world.api.show_hidden() {
                        continue;
                    }
                    match steps.next() {
                        Some(step) => world.api.with(step),
                        None => break,
                    }
                }
            }
        }
        for tasks in [process.tasks, others.tasks, world.kubelets] {
            tasks.shutdown(Duration::ZERO).await;
        }
        let (objects, history) =
            world.api.with(|store, _| (told(store, scenario.except), store.history.clone()));
        End { objects, writes: world.api.writes(), history }
    })
}

/// Runs something in a time that passes only when nobody has anything to do.
pub(crate) fn in_made_up_time<T>(what: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(what)
}

/// A server, kubelets, and what controllers are told.
pub(crate) struct World {
    pub(crate) api: Arc<Api>,
    pub(crate) kubelets: Tasks,
    clock: TokioClock,
    settings: Arc<Settings>,
}

/// Controllers of one process.
pub(crate) struct Process {
    caller: Caller,
    pub(crate) tasks: Tasks,
}

impl World {
    /// Without any object.
    pub(crate) fn new(scenario: &Scenario) -> World {
        let clock = TokioClock::new(BEGIN.parse().unwrap());
        let (api, kubelets) = (Api::new(clock.clone()), Tasks::new());
        kubelet::start(&api, &kubelets);
        World { api, kubelets, clock, settings: settings(scenario.flags) }
    }

    /// Starts controllers, which are disturbed or not.
    pub(crate) fn start(&self, names: &[&str], disturbed: bool) -> Process {
        let caller = Caller::new(disturbed);
        let (client, tasks) = (self.api.client(caller.clone()), Tasks::new());
        let ctx = Context {
            informers: Informers::new(client.clone(), &tasks),
            client,
            tasks: tasks.clone(),
            clock: Arc::new(self.clock.clone()),
            settings: self.settings.clone(),
            site: Site::empty(),
        };
        for name in names {
            let found = controllers::ALL.iter().find(|c| c.name == *name);
            (found.unwrap_or_else(|| panic!("no controller {name}")).start)(&ctx);
        }
        ctx.informers.start();
        Process { caller, tasks }
    }
}

fn settings(flags: &[&str]) -> Arc<Settings> {
    let keys = scenarios::keys::files();
    let given = flags.iter().map(|flag| flag.replace(scenarios::keys::PLACE, &keys.to_string_lossy()));
    match ControllerManager::flags().parse(given).unwrap() {
        Parsed::Run(values) => Arc::new(Settings::from_values(&values).unwrap()),
        Parsed::Print(_) => panic!("flags that only print"),
    }
}

/// Adds an object by its kind.
pub(crate) fn seed(store: &mut Store, object: Value, now: &str) {
    let resource = RESOURCES.iter().find(|r| object["kind"] == r.kind);
    let resource = resource.unwrap_or_else(|| panic!("no kind {}", object["kind"]));
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("d").to_owned();
    let namespace = if resource.namespaced { namespace } else { String::new() };
    store.create(resource, &namespace, object, now).unwrap();
}

/// Returns once nothing has changed for long.
pub(crate) async fn quiet(api: &Api, long: Duration) {
    let mut versions = api.versions();
    loop {
        versions.borrow_and_update();
        match tokio::time::timeout(long, versions.changed()).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}

/// The objects without what differs from run to run: made-up names, uids, versions and times. What is empty counts as
/// absent, as it does on the wire.
fn told(store: &Store, except: &[&str]) -> String {
    let mut out = Vec::new();
    for (key, object) in store.all().filter(|(key, _)| !except.contains(&key.resource.plural)) {
        let mut object = object.clone();
        object["is"] = format!("{} {}/{}", key.resource.plural, key.namespace, key.name).into();
        settle(&mut object);
        let mut text = serde_json::to_string_pretty(&object).unwrap();
        for (name, stem) in store.made_up.iter().rev() {
            text = text.replace(name.as_str(), &format!("{stem}*"));
        }
        out.push(text);
    }
    out.sort();
    out.join("\n")
}

const DIFFER: &[&str] =
    &["resourceVersion", "generation", "observedGeneration", "uid", "podIP", "podIPs", "timeAdded", TOUCHED];

/// What is made with keys is another every time, and so is the day on which something is found.
const MADE: &[&str] = &["token", "certificate", "kubernetes.io/legacy-token-invalid-since"];

fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let differs = |name: &str| {
                let lower = name.to_lowercase();
                DIFFER.contains(&name) || lower.ends_with("time") || lower.ends_with("timestamp")
            };
            let all = std::mem::take(fields);
            let kept: BTreeMap<String, Value> = all.into_iter().filter(|(name, _)| !differs(name)).collect();
            fields.extend(kept);
            let made =
                fields.iter_mut().filter(|(name, value)| MADE.contains(&name.as_str()) && value.is_string());
            made.for_each(|(_, value)| *value = "made".into());
            fields.values_mut().for_each(settle);
            let empty = |value: &Value| {
                value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
            };
            fields.retain(|_, value| !empty(value));
        }
        Value::Array(items) => {
            items.iter_mut().for_each(settle);
            items.sort_by_key(Value::to_string);
        }
        Value::String(text) => {
            while let Some(at) = text.find("uid-") {
                let end = text[at + 4..].find('-').map_or(text.len(), |end| at + 4 + end + 1);
                text.replace_range(at..end, "UID");
            }
        }
        _ => {}
    }
}
