//! What is wrong with the rules of a schema: whether they compile, and what they may cost.
//!
//! Contract: KEP-2876; upstream's limits for one rule and for all rules of a schema.

use api_rules::shape;
use serde_json::Value;

use super::members;
use crate::{
    apiextensions::rules::{self, Rule},
    field::{Error, ErrorList, Path},
};

/// Most that one rule may cost by the sizes its schema allows, however often it is run.
const RULE_LIMIT: u64 = 10_000_000;
/// Most that all rules of a schema may cost.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// Rules that are named when all together cost too much.
const NAMED: usize = 4;
/// Bytes of the largest request.
const MAX_REQUEST: u64 = 3 * 1024 * 1024;
const RULES: &str = "x-kubernetes-validations";

/// Errors of the rules of a schema that stands at `path`, but those of places that something is wrong at or below; of a
/// schema that did not change single rules may cost what they do.
pub(super) fn check(document: &Value, path: &Path, wrong: &ErrorList, unchanged: bool) -> ErrorList {
    let mut walk = Walk { errors: ErrorList::new(), costs: Vec::new(), wrong, unchanged };
    walk.node(document, path, Place { cardinality: Some(1), uncorrelatable: None, root: true });
    walk.total(path);
    walk.errors
}

/// Where a node stands.
#[derive(Clone)]
struct Place {
    /// How often the node is in an object at most; `None` for without bound.
    cardinality: Option<u64>,
    /// The list around it whose members have no past.
    uncorrelatable: Option<Path>,
    root: bool,
}

struct Walk<'w> {
    errors: ErrorList,
    /// What is wrong with the schema.
    wrong: &'w ErrorList,
    costs: Vec<(Path, u64)>,
    unchanged: bool,
}

impl Walk<'_> {
    fn node(&mut self, node: &Value, path: &Path, place: Place) {
        if !node.is_object() {
            return;
        }
        let below = Place {
            cardinality: place.cardinality.zip(most(node)).map(|(times, most)| times.saturating_mul(most)),
            uncorrelatable: place.uncorrelatable.clone(),
            root: false,
        };
        self.node(&node["additionalProperties"], &path.child("additionalProperties"), below.clone());
        for (name, schema) in members(&node["properties"]) {
            self.node(schema, &path.child("properties").key(name), below.clone());
        }
        let mut items = below;
        if node["x-kubernetes-list-type"] != "map" {
            items.uncorrelatable = items.uncorrelatable.or_else(|| Some(path.clone()));
        }
        self.node(&node["items"], &path.child("items"), items);
        self.own(node, path, &place);
    }

    fn own(&mut self, node: &Value, path: &Path, place: &Place) {
        let said = node[RULES].as_array().map(Vec::as_slice).unwrap_or_default();
        if said.is_empty() {
            return;
        }
        let place_of = path.to_string();
        let is_here = |field: &str| {
            field.strip_prefix(&place_of).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        if self.wrong.iter().any(|error| is_here(&error.field)) {
            return;
        }
        let Some(decl) = rules::declared(node, place.root) else {
            let why = "internal error: failed to construct type information for x-kubernetes-validations rules: unable \
                       to convert structural schema to CEL declarations";
            return self.errors.push(Error::internal(&path.child(RULES), why));
        };
        // Without a bound, as often as there is room in a request.
        let times = place.cardinality.unwrap_or(MAX_REQUEST / (decl.min_serialized_size + 1));
        for (at, (said, rule)) in said.iter().zip(Rule::compile_all(node, &decl)).enumerate() {
            self.rule(said, &rule, &path.child(RULES).index(at), times, place);
        }
    }

    fn rule(&mut self, said: &Value, rule: &Rule, path: &Path, times: u64, place: &Place) {
        let at = path.child("rule");
        match &rule.program {
            None => {}
            Some(Err(why)) => self
                .errors
                .push(Error::invalid(&at, said.clone(), why.as_str()).shown_as(&shape::VALIDATION_RULE)),
            Some(Ok(program)) => {
                let cost = program.estimated_cost().max.saturating_mul(times);
                self.cost(&at, "estimated rule cost", cost);
            }
        }
        let at_message = path.child("messageExpression");
        match &rule.message_program {
            None => {}
            Some(Err(why)) => self.errors.push(
                Error::invalid(&at_message, said.clone(), why.as_str()).shown_as(&shape::VALIDATION_RULE),
            ),
            Some(Ok(program)) => {
                self.cost(&at_message, "estimated messageExpression cost", program.estimated_cost().max);
            }
        }
        if rule.uses_old {
            if let Some(list) = &place.uncorrelatable {
                let why = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {list}"
                );
                self.errors.push(Error::invalid(&at, said["rule"].clone(), why));
            }
        } else if let Some(optional) = rule.optional_old {
            let why = "may not be set if oldSelf is not used in rule";
            self.errors.push(Error::invalid(&path.child("optionalOldSelf"), optional, why));
        }
    }

    fn cost(&mut self, at: &Path, what: &str, cost: u64) {
        if !self.unchanged && cost > RULE_LIMIT {
            self.errors.push(Error::forbidden(at, exceeds(what, cost, RULE_LIMIT)));
        }
        self.costs.push((at.clone(), cost));
    }

    fn total(&mut self, path: &Path) {
        let total = self.costs.iter().fold(0_u64, |sum, (_, cost)| sum.saturating_add(*cost));
        if total <= SCHEMA_LIMIT {
            return;
        }
        self.costs.retain(|(_, cost)| *cost >= SCHEMA_LIMIT / 100);
        self.costs.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (at, _) in self.costs.iter().take(NAMED) {
            let why =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            self.errors.push(Error::forbidden(at, why));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        self.errors.push(Error::forbidden(path, exceeds(what, total, SCHEMA_LIMIT)));
    }
}

/// How many of what is below a node there are in it at most.
fn most(node: &Value) -> Option<u64> {
    let bound = |name: &str| node[name].as_i64().map(|most| u64::try_from(most).unwrap_or(0));
    match node["type"].as_str() {
        Some("array") => bound("maxItems"),
        Some("object") if !node["additionalProperties"].is_null() => bound("maxProperties"),
        _ => Some(1),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a factor in words")]
fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}
