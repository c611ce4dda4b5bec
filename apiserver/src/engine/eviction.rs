//! `pods/eviction`: a deletion that asks the pod's disruption budget first.
//!
//! Contract: policy/v1 Eviction, "API-initiated eviction"; upstream's `EvictionREST`: terminal, pending and terminating pods
//! go without a budget; of others the one budget that selects the pod is charged under its resourceVersion.

use std::time::Duration;

use component_base::selector::LabelSelector;
use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Call, delete_options};
use crate::{
    admission::Operation,
    field::{Error, ErrorList, Path},
    object::Object,
    objects::{POD_DISRUPTION_BUDGETS, PODS, rfc3339},
    response::Body,
    status::{Cause, GroupName, Reason, Status},
};

/// Tries of a write that meets others, and the time between them.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);
/// Evictions a budget's controller may be behind with.
const MAX_DISRUPTED: usize = 2000;
const CAUSE: &str = "DisruptionBudget";
const VIOLATION: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// How a deletion is done.
struct Order {
    options: Object,
    dry_run: bool,
}

impl Call {
    pub(super) async fn evict(&mut self) -> Result<Response<Body>, Status> {
        let mut eviction = self.decode_eviction()?;
        let order = order(&eviction, self.dry_run()?)?;
        let options = self.write_options("CreateOptions");
        self.admit(Operation::Create, Some(&mut eviction), None, &options, true).await?;
        self.admit(Operation::Create, Some(&mut eviction), None, &options, false).await?;
        if let Some(pod) = self.evict_unguarded(&order).await? {
            self.evict_guarded(&order, &pod).await?;
        }
        self.respond_done()
    }

    fn decode_eviction(&mut self) -> Result<Object, Status> {
        let mut eviction = self.read_object("policy/v1", "Eviction")?;
        let (version, kind) = (eviction.api_version(), eviction.kind());
        if !matches!(version, "" | "policy/v1" | "policy/v1beta1") || !matches!(kind, "" | "Eviction") {
            return Err(Status::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a Eviction: no kind {kind:?} is registered for \
                 version {version:?}"
            )));
        }
        self.is_of_path(&mut eviction, "Eviction")?;
        let broken = "/deleteOptions/ignoreStoreReadErrorWithClusterBreakingPotential";
        if eviction.pointer(broken) == Some(&Value::Bool(true)) {
            let path = Path::new("deleteOptions").child("ignoreStoreReadErrorWithClusterBreakingPotential");
            let mut errors = ErrorList::new();
            let why = "can not be set for pod eviction, try after removing the option";
            errors.push(Error::invalid(&path, true, why));
            return Err(Status::invalid(&GroupName::new("policy", "Eviction"), &self.info.name, &errors));
        }
        Ok(eviction)
    }

    /// Deletes a pod that needs no budget. Returns any other.
    async fn evict_unguarded(&mut self, order: &Order) -> Result<Option<Object>, Status> {
        for attempt in 1..=TRIES {
            let pod = self.pod_now().await?;
            if !needs_no_budget(&pod) {
                return Ok(Some(pod));
            }
            let pin = !runs_no_more(&pod) && pinned(&order.options).is_none();
            let removed = if pin { self.remove(&order.pin(&pod)).await } else { self.remove(order).await };
            match removed {
                Err(status)
                    if status.reason == Reason::Conflict
                        && pinned(&order.options).is_none()
                        && attempt < TRIES =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other.map(|()| None),
            }
        }
        Ok(None)
    }

    /// Deletes a pod if its budget allows that.
    async fn evict_guarded(&mut self, order: &Order, pod: &Object) -> Result<(), Status> {
        let all = self.server.objects.list(POD_DISRUPTION_BUDGETS, Some(&self.info.namespace)).await?;
        let budgets: Vec<String> =
            all.iter().filter(|b| selects(b, pod)).map(|b| b.name().to_owned()).collect();
        let budget = match budgets.as_slice() {
            [] => return self.remove(order).await,
            [one] => one,
            _ => {
                let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not \
                           support.";
                return Err(Status::new(500, Reason::Unknown, why));
            }
        };
        let is_spare = !is_ready(pod) && all.iter().any(|b| b.name() == budget && spares_unready(b));
        if !is_spare {
            self.charge(budget, order.dry_run).await?;
            return self.remove(order).await;
        }
        // Not ready was the reason: it must still be true when the pod goes.
        match self.remove(&order.pin(pod)).await {
            Err(status) if status.reason == Reason::Conflict && pinned(&order.options).is_none() => {
                Err(busy(budget))
            }
            other => other,
        }
    }

    async fn pod_now(&self) -> Result<Object, Status> {
        let found = self.server.objects.get_latest(PODS, &self.info.namespace, &self.info.name).await?;
        let found = found.ok_or_else(|| Status::not_found(&PODS.group_name(), &self.info.name))?;
        Ok((*found).clone())
    }

    /// Takes one disruption from a budget.
    async fn charge(&self, name: &str, dry_run: bool) -> Result<(), Status> {
        let namespace = self.info.namespace.as_str();
        for attempt in 1..=TRIES {
            let budget = self.server.objects.get_latest(POD_DISRUPTION_BUDGETS, namespace, name).await?;
            let budget =
                budget.ok_or_else(|| Status::not_found(&POD_DISRUPTION_BUDGETS.group_name(), name))?;
            let charged = charged(&budget, &self.info.name, Timestamp::now())?;
            if dry_run {
                return Ok(());
            }
            match self.server.objects.update(POD_DISRUPTION_BUDGETS, charged).await {
                Ok(_) => return Ok(()),
                Err(status) if status.reason == Reason::Conflict && attempt < TRIES => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(status) => return Err(status),
            }
        }
        let why = format!("couldn't update PodDisruptionBudget {name:?} due to conflicts");
        Err(Status::timeout(why).with_retry_after(10))
    }

    /// Says on the pod why it goes, and deletes it.
    async fn remove(&mut self, order: &Order) -> Result<(), Status> {
        if order.dry_run {
            return delete_options::check_preconditions(
                &order.options,
                &self.pod_now().await?,
                &self.resource,
            );
        }
        let mut options = order.options.clone();
        for attempt in 1..=TRIES {
            let pod = self.pod_now().await?;
            delete_options::check_preconditions(&order.options, &pod, &self.resource)?;
            match self.server.objects.update(PODS, targeted(&pod, Timestamp::now())).await {
                Ok(pod) if pinned(&options).is_some() => {
                    let mut preconditions = options.get("preconditions").cloned().unwrap_or_default();
                    preconditions["resourceVersion"] = pod.resource_version().into();
                    options.set("preconditions", preconditions);
                    break;
                }
                Ok(_) => break,
                Err(status) if status.reason == Reason::Conflict && attempt < TRIES => {}
                Err(status) => return Err(status),
            }
        }
        let name = self.info.name.clone();
        self.delete_named(&name, &options).await.map(drop)
    }
}

impl Order {
    /// The same for this version of the pod only.
    fn pin(&self, pod: &Object) -> Self {
        let mut options = self.options.clone();
        let mut preconditions = options.get("preconditions").cloned().unwrap_or_else(|| json!({}));
        preconditions["resourceVersion"] = pod.resource_version().into();
        options.set("preconditions", preconditions);
        Self { options, dry_run: self.dry_run }
    }
}

/// The deletion an eviction asks for; a dry run may be asked for by the request or inside.
fn order(eviction: &Object, asked: bool) -> Result<Order, Status> {
    let options = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
    let options = Object::from_value(options)?;
    let inside: Vec<&str> = options
        .get("dryRun")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let dry_run = match inside.as_slice() {
        [] => asked,
        ["All"] => true,
        other if asked => {
            return Err(Status::internal(format!(
                "Non-matching dry-run options in request and content: [All] and [{}]",
                other.join(" ")
            )));
        }
        _ => {
            let (mut errors, path) = (ErrorList::new(), Path::new("dryRun"));
            errors.push(Error::not_supported(&path, json!(inside), &["All"]));
            return Err(Status::invalid(&GroupName::new("", "DeleteOptions"), "", &errors));
        }
    };
    Ok(Order { options, dry_run })
}

fn pinned(options: &Object) -> Option<&str> {
    options.pointer("/preconditions/resourceVersion").and_then(Value::as_str)
}

fn phase(pod: &Object) -> &str {
    pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default()
}

fn runs_no_more(pod: &Object) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed") || pod.is_terminating()
}

/// Pods whose end disrupts nothing.
fn needs_no_budget(pod: &Object) -> bool {
    runs_no_more(pod) || phase(pod) == "Pending"
}

fn condition<'a>(object: &'a Object, kind: &str) -> Option<&'a Value> {
    let all = object.pointer("/status/conditions").and_then(Value::as_array)?;
    all.iter().find(|c| c.get("type").and_then(Value::as_str) == Some(kind))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn is_ready(pod: &Object) -> bool {
    condition(pod, "Ready").is_some_and(|c| text(c, "status") == "True")
}

fn number(object: &Object, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn selects(budget: &Object, pod: &Object) -> bool {
    // A budget without a usable selector guards nothing.
    let api = budget.pointer("/spec/selector").cloned().and_then(|s| serde_json::from_value(s).ok());
    let Ok(selector) = LabelSelector::from_api(api.as_ref()) else { return false };
    let labels: std::collections::BTreeMap<String, String> =
        pod.meta_pairs("labels").map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    selector.matches(&labels)
}

/// Whether a pod that is not ready may go without being charged.
fn spares_unready(budget: &Object) -> bool {
    let policy = budget.pointer("/spec/unhealthyPodEvictionPolicy").and_then(Value::as_str);
    let desired = number(budget, "/status/desiredHealthy");
    policy == Some("AlwaysAllow") || (number(budget, "/status/currentHealthy") >= desired && desired > 0)
}

fn too_many(seconds: u32, cause: String) -> Status {
    let mut status = Status::too_many_requests(VIOLATION, seconds);
    let causes = &mut status.details.get_or_insert_default().causes;
    causes.push(Cause { kind: CAUSE.to_owned(), message: cause, field: String::new() });
    status
}

fn busy(budget: &str) -> Status {
    too_many(10, format!("The disruption budget {budget} is still being processed by the server."))
}

/// The budget after one more disruption, or why there may be none. Pure.
fn charged(budget: &Object, pod: &str, now: Timestamp) -> Result<Object, Status> {
    let name = budget.name();
    let forbidden =
        |why: &str| Err(Status::forbidden(&GroupName::new("policy", "poddisruptionbudget"), name, why));
    let allowed = number(budget, "/status/disruptionsAllowed");
    let disrupted = budget.pointer("/status/disruptedPods").and_then(Value::as_object);
    if number(budget, "/status/observedGeneration") < budget.generation() {
        return Err(busy(name));
    }
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if disrupted.is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(too_many(0, refusal(budget)));
    }
    let mut status = budget.get("status").cloned().unwrap_or_else(|| json!({}));
    status["disruptionsAllowed"] = (allowed - 1).into();
    if allowed == 1 {
        let mut conditions = status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        set_condition(&mut conditions, insufficient(budget.generation()), now);
        status["conditions"] = conditions.into();
    }
    if !status.get("disruptedPods").is_some_and(Value::is_object) {
        status["disruptedPods"] = json!({});
    }
    status["disruptedPods"][pod] = rfc3339(now).into();
    let mut charged = budget.clone();
    charged.set("status", status);
    Ok(charged)
}

fn insufficient(generation: i64) -> Value {
    json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "observedGeneration": generation})
}

/// Why a budget is used up, in upstream's words.
fn refusal(budget: &Object) -> String {
    let name = budget.name();
    let (desired, current) =
        (number(budget, "/status/desiredHealthy"), number(budget, "/status/currentHealthy"));
    let no = condition(budget, "DisruptionAllowed").filter(|c| text(c, "status") == "False");
    let no = no.filter(|c| !text(c, "message").is_empty());
    match no {
        Some(c) if text(c, "reason") == "SyncFailed" => {
            let why = text(c, "message");
            format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}"
            )
        }
        _ if current <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
        }
        Some(c) => {
            let (reason, why) = (text(c, "reason"), text(c, "message"));
            format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {why}")
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// The pod with the reason of its end on it. Pure.
fn targeted(pod: &Object, now: Timestamp) -> Object {
    let mut status = pod.get("status").cloned().unwrap_or_else(|| json!({}));
    let mut conditions = status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let evicting = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting"});
    set_condition(&mut conditions, evicting, now);
    status["conditions"] = conditions.into();
    let mut pod = pod.clone();
    pod.set("status", status);
    pod
}

/// Puts a condition in its place; the time of an unchanged status stays.
fn set_condition(conditions: &mut Vec<Value>, mut condition: Value, now: Timestamp) {
    let old = conditions.iter_mut().find(|c| c.get("type") == condition.get("type"));
    let kept = old.as_ref().filter(|c| c.get("status") == condition.get("status"));
    let since = kept.and_then(|c| c.get("lastTransitionTime").cloned());
    condition["lastTransitionTime"] = since.unwrap_or_else(|| rfc3339(now).into());
    match old {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests;
