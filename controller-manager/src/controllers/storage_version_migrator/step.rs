//! What comes next for the migrations of a resource, and what their statuses say of it. Pure.

use std::{cmp::Ordering, fmt, sync::Arc};

use component_base::meta::{condition, is_condition_true};
use k8s_openapi::{
    api::storagemigration::v1beta1::StorageVersionMigration,
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time},
};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) const RUNNING: &str = "Running";
pub(super) const SUCCEEDED: &str = "Succeeded";
pub(super) const FAILED: &str = "Failed";
/// The condition of a CustomResourceDefinition whose objects are being migrated.
const MIGRATING: &str = "StorageMigrating";

/// What is migrated, in whatever version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Resource {
    pub(super) group: String,
    pub(super) resource: String,
}

/// One thing to do.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// It is this migration's turn.
    Begin(Arc<StorageVersionMigration>),
    /// Find the version to migrate up to.
    Locate(Arc<StorageVersionMigration>),
    /// Write the objects up to this version; `None` when what the status says is none.
    Migrate(Arc<StorageVersionMigration>, Option<u64>),
    /// It has succeeded or failed, and is not running any more.
    Finish(Arc<StorageVersionMigration>),
}

/// What matters of a CustomResourceDefinition.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Definition {
    pub(super) metadata: ObjectMeta,
    spec: DefinitionSpec,
    status: DefinitionStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DefinitionSpec {
    versions: Vec<Version>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Version {
    name: String,
    storage: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DefinitionStatus {
    conditions: Vec<DefinitionCondition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DefinitionCondition {
    #[serde(rename = "type")]
    type_: String,
    observed_generation: Option<i64>,
}

// === impl Resource ===

impl Resource {
    /// The name of the CustomResourceDefinition, if it can have one.
    pub(super) fn definition(&self) -> Option<String> {
        (!self.group.is_empty()).then(|| format!("{}.{}", self.resource, self.group))
    }
}

/// `pods`, `deployments.apps`.
impl fmt::Display for Resource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group.is_empty() {
            true => out.write_str(&self.resource),
            false => write!(out, "{}.{}", self.resource, self.group),
        }
    }
}

/// What a migration is about.
pub(super) fn resource_of(migration: &StorageVersionMigration) -> Resource {
    let resource = migration.spec.as_ref().map(|spec| spec.resource.clone()).unwrap_or_default();
    Resource { group: resource.group, resource: resource.resource }
}

pub(super) fn conditions(migration: &StorageVersionMigration) -> &[Condition] {
    migration.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

/// A resource version as a number that can be compared.
pub(super) fn version(text: &str) -> Option<u64> {
    text.parse().ok().filter(|version| *version > 0)
}

/// What comes next: those that have ended make way, one that runs goes on, and only then the oldest begins.
pub(super) fn next(all: &[Arc<StorageVersionMigration>]) -> Step {
    let is = |migration: &StorageVersionMigration, kind: &str| is_condition_true(conditions(migration), kind);
    let mut sorted: Vec<&Arc<StorageVersionMigration>> = all.iter().collect();
    sorted.sort_by(|a, b| by_age(a, b));
    let (ended, open): (Vec<_>, Vec<_>) =
        sorted.into_iter().partition(|migration| is(migration, SUCCEEDED) || is(migration, FAILED));
    if let Some(migration) = ended.into_iter().find(|migration| is(migration, RUNNING)) {
        return Step::Finish(migration.clone());
    }
    if let Some(migration) = open.iter().copied().find(|migration| is(migration, RUNNING)) {
        let located = migration.status.as_ref().and_then(|s| s.resource_version.as_deref());
        return match located.filter(|text| !text.is_empty()) {
            None => Step::Locate(migration.clone()),
            Some(text) => Step::Migrate(migration.clone(), version(text)),
        };
    }
    open.first().map_or(Step::Nothing, |migration| Step::Begin((*migration).clone()))
}

fn by_age(a: &StorageVersionMigration, b: &StorageVersionMigration) -> Ordering {
    let made = |m: &StorageVersionMigration| m.metadata.creation_timestamp.as_ref().map(|time| time.0);
    made(a).cmp(&made(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

/// Says that a migration runs, or does not any more.
pub(super) fn run(conditions: &mut Vec<Condition>, runs: bool, generation: Option<i64>) {
    let (reason, message) = match runs {
        true => ("MigrationRunning", "The migration is running"),
        false => ("MigrationCompleted", "Migration completed"),
    };
    set(conditions, RUNNING, runs, reason, message.to_owned(), generation);
}

/// Says that a migration has succeeded.
pub(super) fn succeed(conditions: &mut Vec<Condition>) {
    end(conditions, SUCCEEDED, String::new());
}

/// Says how a migration has ended; what has been said stays.
pub(super) fn end(conditions: &mut Vec<Condition>, how: &str, message: String) {
    if condition(conditions, how).is_none() {
        set(conditions, how, true, &format!("StorageVersionMigration{how}"), message, None);
    }
}

fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    holds: bool,
    reason: &str,
    message: String,
    generation: Option<i64>,
) {
    let new = Condition {
        type_: type_.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
    };
    match conditions.iter_mut().find(|there| there.type_ == type_) {
        Some(there) => *there = new,
        None => conditions.push(new),
    }
}

/// Sets the times of the conditions that are others than before.
pub(super) fn stamp(before: &StorageVersionMigration, conditions_now: &mut [Condition], now: &Time) {
    for new in conditions_now {
        let old = condition(conditions(before), &new.type_).filter(|old| old.status == new.status);
        new.last_transition_time = old.map_or_else(|| now.clone(), |old| old.last_transition_time.clone());
    }
}

/// What a definition's status says while its objects are migrated.
pub(super) fn begun(definition: &Definition, migration: &str) -> Value {
    let message = format!("Migration {migration} is running");
    json!({"conditions": [migrating(definition, true, "MigrationRunning", &message)]})
}

/// What it says afterwards. The versions the objects were stored in before are forgotten, unless the definition has
/// changed since the migration began: it may be others then.
pub(super) fn ended(definition: &Definition, succeeded: bool) -> Value {
    let mut conditions = definition.status.conditions.iter();
    let begun = conditions.find(|c| c.type_ == MIGRATING).and_then(|c| c.observed_generation);
    let unchanged = begun.is_some() && begun == definition.metadata.generation;
    let (reason, message) = match (succeeded, unchanged) {
        (true, true) => {
            ("MigrationSucceeded", "The migration has succeeded and the stored versions have been updated")
        }
        (true, false) => (
            "MigrationSucceeded",
            "The migration has succeeded but the stored versions have not been updated due to a generation mismatch",
        ),
        (false, _) => ("MigrationFailed", "The migration has failed"),
    };
    let mut status = json!({"conditions": [migrating(definition, false, reason, message)]});
    let stored = definition.spec.versions.iter().find(|version| version.storage);
    if let Some(stored) = stored.filter(|_| succeeded && unchanged) {
        status["storedVersions"] = json!([stored.name]);
    }
    status
}

fn migrating(definition: &Definition, runs: bool, reason: &str, message: &str) -> Value {
    json!({"type": MIGRATING, "status": if runs { "True" } else { "False" }, "reason": reason, "message": message,
        "observedGeneration": definition.metadata.generation})
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T00:00:00Z";

    fn migration(
        name: &str,
        made: u8,
        conditions: &[(&str, &str)],
        version: &str,
    ) -> Arc<StorageVersionMigration> {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, status)| {
                json!({"type": kind, "status": status, "reason": "", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{made:02}Z")},
                "spec": {"resource": {"group": "apps", "resource": "deployments"}},
                "status": {"conditions": conditions, "resourceVersion": version},
            }))
            .unwrap(),
        )
    }

    fn told(step: Step) -> (&'static str, String) {
        let (what, migration) = match step {
            Step::Nothing => return ("nothing", String::new()),
            Step::Begin(migration) => ("begin", migration),
            Step::Locate(migration) => ("locate", migration),
            Step::Migrate(migration, Some(_)) => ("migrate", migration),
            Step::Migrate(migration, None) => ("refuse", migration),
            Step::Finish(migration) => ("finish", migration),
        };
        (what, migration.metadata.name.clone().unwrap_or_default())
    }

    #[test]
    fn one_migration_of_a_resource_runs_at_a_time() {
        const RUNS: (&str, &str) = (RUNNING, "True");
        let (old, new) = (migration("z", 1, &[], ""), migration("a", 2, &[], ""));
        let same = migration("b", 2, &[], "");
        let (running, located) = (migration("r", 3, &[RUNS], ""), migration("l", 3, &[RUNS], "7"));
        let odd = migration("o", 3, &[RUNS], "seven");
        let succeeded = migration("s", 0, &[RUNS, (SUCCEEDED, "True")], "7");
        let failed = migration("f", 9, &[RUNS, (FAILED, "True")], "");
        let finished = migration("d", 0, &[(RUNNING, "False"), (SUCCEEDED, "True")], "7");
        for (all, what, which) in [
            (vec![], "nothing", ""),
            (vec![&new, &old], "begin", "z"),
            (vec![&same, &new], "begin", "a"),
            (vec![&old, &running], "locate", "r"),
            (vec![&old, &located], "migrate", "l"),
            (vec![&odd], "refuse", "o"),
            (vec![&old, &located, &succeeded], "finish", "s"),
            (vec![&old, &failed], "finish", "f"),
            (vec![&finished], "nothing", ""),
            (vec![&finished, &new], "begin", "a"),
        ] {
            let all: Vec<_> = all.into_iter().cloned().collect();
            assert_eq!(told(next(&all)), (what, which.to_owned()));
        }
    }

    #[test]
    fn conditions_say_how_it_goes() {
        let mut all = Vec::new();
        run(&mut all, true, None);
        end(&mut all, FAILED, "why".into());
        // What has been said stays said.
        end(&mut all, FAILED, "other".into());
        succeed(&mut all);
        run(&mut all, false, Some(2));
        let rows: Vec<[&str; 4]> =
            all.iter().map(|c| [c.type_.as_str(), &c.status, &c.reason, &c.message]).collect();
        assert_eq!(
            rows,
            [
                ["Running", "False", "MigrationCompleted", "Migration completed"],
                ["Failed", "True", "StorageVersionMigrationFailed", "why"],
                ["Succeeded", "True", "StorageVersionMigrationSucceeded", ""],
            ]
        );
        assert_eq!(all[0].observed_generation, Some(2));
    }

    #[test]
    fn times_move_with_the_status() {
        let before = migration("m", 0, &[(RUNNING, "True"), (SUCCEEDED, "True")], "7");
        let mut after = conditions(&before).to_vec();
        run(&mut after, false, None);
        end(&mut after, FAILED, String::new());
        stamp(&before, &mut after, &Time(NOW.parse().unwrap()));
        let times: Vec<String> = after.iter().map(|c| c.last_transition_time.0.to_string()).collect();
        assert_eq!(times, [NOW, "2026-01-01T00:00:00Z", NOW]);
    }

    #[test]
    fn a_definition_forgets_what_it_was_stored_in_when_nothing_has_changed() {
        let definition = |begun: Value| -> Definition {
            serde_json::from_value(json!({
                "metadata": {"name": "things.g", "generation": 4},
                "spec": {"versions": [{"name": "v1", "storage": false}, {"name": "v2", "storage": true}]},
                "status": {"conditions": [{"type": "Established"}, begun]},
            }))
            .unwrap()
        };
        let same = definition(json!({"type": MIGRATING, "observedGeneration": 4}));
        let condition = |status: &Value| status["conditions"][0].clone();
        let first = begun(&same, "m");
        assert_eq!(condition(&first)["message"], "Migration m is running");
        assert_eq!(
            (&condition(&first)["status"], &condition(&first)["observedGeneration"]),
            (&json!("True"), &json!(4))
        );
        assert_eq!(ended(&same, true)["storedVersions"], json!(["v2"]));
        assert_eq!(ended(&same, false)["storedVersions"], Value::Null);
        assert_eq!(condition(&ended(&same, false))["reason"], "MigrationFailed");
        for other in
            [json!({"type": MIGRATING, "observedGeneration": 3}), json!({"type": MIGRATING}), json!({})]
        {
            let status = ended(&definition(other), true);
            assert_eq!(status["storedVersions"], Value::Null);
            assert_eq!(
                (&condition(&status)["status"], &condition(&status)["reason"]),
                (&json!("False"), &json!("MigrationSucceeded"))
            );
        }
    }

    #[test]
    fn resources_have_names() {
        let of = |group: &str| Resource { group: group.into(), resource: "things".into() };
        assert_eq!((of("").to_string(), of("g").to_string()), ("things".into(), "things.g".into()));
        assert_eq!((of("").definition(), of("g").definition()), (None, Some("things.g".into())));
        assert_eq!([version("7"), version("0"), version(""), version("x")], [Some(7), None, None, None]);
        assert_eq!(resource_of(&migration("m", 0, &[], "")).to_string(), "deployments.apps");
        assert_eq!(resource_of(&StorageVersionMigration::default()).to_string(), "");
    }
}
