//! Any state there can be, not only those that a controller comes to by itself: some of the objects of a scenario are
//! missing, others are as they were at some moment of it, whoever wrote them. The controller must come to rest from
//! there, and a process that starts then, and sees it all for the first time, must find nothing to do.

use std::{collections::BTreeMap, time::Duration};

use proptest::{
    collection::vec,
    prelude::any,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use serde_json::Value;

use crate::{
    LONGEST, Scenario, World, in_made_up_time, quiet, run,
    store::{Change, Key, Store},
};

/// States that are tried of each scenario, the same ones every time.
const CASES: u32 = 24;

/// What there may be of an object: first what there is of it at the end, then all that there was, and nothing.
type Choices = BTreeMap<Key, Vec<Option<Value>>>;

/// Tries states of a scenario. One that fails is brought nearer to the end of the scenario as far as it still fails.
pub(crate) fn settles(scenario: &Scenario) {
    let choices = choices(&run(scenario, None).history);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let picks = vec(any::<usize>(), choices.len());
    let tried = runner.run(&picks, |picks| {
        let picked = choices.iter().zip(picks).map(|((key, all), pick)| (key, &all[pick % all.len()]));
        let state: Vec<(&Key, &Value)> =
            picked.filter_map(|(key, object)| Some((key, object.as_ref()?))).collect();
        rests(scenario, &state).map_err(|why| TestCaseError::fail(format!("{why}\nfrom {}", shown(&state))))
    });
    if let Err(error) = tried {
        panic!("{}: {error}", scenario.controller);
    }
}

fn choices(history: &[Change]) -> Choices {
    let mut out = Choices::new();
    for change in history {
        let all = out.entry(change.key.clone()).or_insert_with(|| vec![None, None]);
        let there = (change.what != "DELETED").then(|| change.object.clone());
        all[0].clone_from(&there);
        all.extend(there.map(Some));
    }
    out
}

/// Lets the controller come to rest from a state, and other processes after it.
fn rests(scenario: &Scenario, state: &[(&Key, &Value)]) -> Result<(), String> {
    in_made_up_time(async {
        let world = World::new(scenario);
        world.api.with(|store, _| state.iter().for_each(|(key, object)| store.put(key, object)));
        let others = world.start(scenario.with, false);
        // One that says what it alone remembers has that unsaid by the one after it.
        let forgiven = 1 + usize::from(SAYS_WHAT_IT_REMEMBERS.contains(&scenario.controller));
        let mut outcome = Ok(());
        for number in 0..=forgiven {
            let before = (world.api.writes(), world.api.with(|store, _| store.version()));
            let process = world.start(&[scenario.controller], true);
            let rested = tokio::time::timeout(LONGEST, quiet(&world.api, scenario.quiet)).await.is_ok();
            let failure = process.tasks.failure();
            process.tasks.shutdown(Duration::ZERO).await;
            let again = world.api.writes() - before.0;
            outcome = match failure {
                Some(failure) => Err(format!("process {number} failed: {failure:?}")),
                None if !rested => Err(format!("process {number} finds no rest")),
                None if number == forgiven && again > 0 => {
                    let told = |store: &mut Store, _: &str| {
                        store.history[before.1..].iter().map(told).collect::<String>()
                    };
                    Err(format!("process {number} writes {again} times more: {}", world.api.with(told)))
                }
                None => Ok(()),
            };
            if outcome.is_err() {
                break;
            }
        }
        for tasks in [others.tasks, world.kubelets] {
            tasks.shutdown(Duration::ZERO).await;
        }
        outcome
    })
}

/// How many pods went because of a rule since the process began.
const SAYS_WHAT_IT_REMEMBERS: &[&str] = &["device-taint-eviction-controller"];

fn told(change: &Change) -> String {
    format!("\n{} {} {}: {}", change.what, change.key.resource.plural, change.key.name, change.object)
}

fn shown(state: &[(&Key, &Value)]) -> String {
    state.iter().map(|(key, object)| format!("\n{} {}: {object}", key.resource.plural, key.name)).collect()
}
