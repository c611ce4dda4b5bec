//! What is wrong with a job's spec, a change of it, and its status.

use component_base::features::{Gate, Gates};
use serde_json::Value;

use super::indexes;
use crate::{
    field::{Error, ErrorList},
    object::Object,
    registry::{
        kit::{at::At, format, shape, workload},
        pod_spec,
    },
    validate,
};

const MAX_PARALLELISM: i64 = 100_000;
const MAX_FAILED_INDEXES: i64 = 100_000;
/// Above so many completions, limits per index have limits of their own.
const MANY_COMPLETIONS: i64 = 100_000;
const MAX_WITH_MANY: i64 = 10_000;
const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const MODES: [&str; 2] = ["NonIndexed", "Indexed"];
/// Labels of a job's pods with a prefix: its uid, its name.
const PREFIXED: [&str; 2] = ["batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"];
const CONDITION_STATUSES: [&str; 3] = ["False", "True", "Unknown"];

/// A job, new or changed: its selector is its own, and its pods have names.
pub(super) fn object(obj: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let (at, was) = (At::spec(obj), old.map(At::spec));
    generated_selector(obj, &at, was.as_ref(), errors);
    spec(&at, was.as_ref(), errors);
    let (selector, template) = (at.get("selector"), at.get("template"));
    if selector.check_there(errors) {
        let broken = was.is_some_and(|was| {
            pod_spec::breaks_selectors(&was.get("template").get("spec"))
                || !was.get("selector").selects_by_labels()
        });
        selector.check_selector_after(broken, errors);
        if selector.selects() {
            workload::check_selects_template(&selector, &template, errors);
        }
    }
    let completions = at.get("completions").int();
    if at.get("completionMode").text() == "Indexed" && completions > 0 {
        let host = format!("{}-{}", obj.name(), completions - 1);
        if !format::dns_label(&host).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {host}");
            At::field(obj, "metadata").get("name").invalid(errors, detail);
        }
    }
}

/// The selector and the labels a job was given. Jobs of before labels had a prefix need none with it.
fn generated_selector(obj: &Object, spec: &At<'_>, was: Option<&At<'_>>, errors: &mut ErrorList) {
    let selector = spec.get("selector");
    if spec.get("manualSelector").is_true() || !selector.is_set() {
        return;
    }
    let meta = spec.get("template").get("metadata");
    let prefixed = was.is_none_or(|was| {
        let labels = was.get("template").get("metadata").get("labels");
        PREFIXED.iter().all(|label| labels.has(label))
    });
    let mut labels = vec![("controller-uid", obj.uid()), ("job-name", obj.name())];
    if prefixed {
        labels.extend(PREFIXED.iter().copied().zip([obj.uid(), obj.name()]));
    }
    for (key, want) in labels.iter().copied() {
        let at = meta.path().child("labels");
        match meta.value().get("labels").and_then(|labels| labels.get(key)).and_then(Value::as_str) {
            None => errors.push(Error::required(&at.key(key), format!("must be '{want}'"))),
            Some(found) if found != want => {
                errors.push(Error::invalid(&at.key(key), found, format!("must be '{want}'")));
            }
            Some(_) => {}
        }
    }
    let expected = Value::from_iter(labels);
    if selector.selects() && !selector.matches(&At::new(&expected, meta.path().clone())) {
        selector.invalid(errors, "`selector` not auto-generated");
    }
}

/// A job's spec, or that of a cron job's template; what is wrong with the template of pods it replaces may stay.
pub(in crate::registry::batch) fn spec(spec: &At<'_>, was: Option<&At<'_>>, errors: &mut ErrorList) {
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    spec.check_counts(&counts, errors);
    let per_index = spec.get("backoffLimitPerIndex");
    if spec.get("maxFailedIndexes").is_set() && !per_index.is_set() {
        per_index.required(errors, "when maxFailedIndexes is specified");
    }
    managed_by(&spec.get("managedBy"), errors);
    let mode = spec.get("completionMode");
    if mode.is_set() && !MODES.contains(&mode.text()) {
        mode.not_among(errors, &MODES);
    }
    match mode.text() {
        "Indexed" => indexed(spec, errors),
        "" | "NonIndexed" => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"].map(|name| spec.get(name)) {
                if field.is_set() {
                    field.invalid(errors, "requires indexed completion mode");
                }
            }
        }
        _ => {}
    }
    failure_policy(spec, errors);
    success_policy(spec, errors);
    let replacement = spec.get("podReplacementPolicy");
    if spec.get("podFailurePolicy").is_set() {
        replacement.check_option_of(errors, &["Failed"]);
    } else {
        replacement.check_option_of(errors, &["Failed", "TerminatingOrFailed"]);
    }
    workload::check_template(&spec.get("template"), was.map(|was| was.get("template")).as_ref(), errors);
    restart_policy(spec, errors);
}

fn managed_by(by: &At<'_>, errors: &mut ErrorList) {
    if !by.is_set() {
        return;
    }
    if by.check_required(errors) {
        for (part, why) in validate::domain_prefixed_path(by.text()) {
            errors.push(Error::invalid(by.path(), part, why));
        }
    }
    by.check_length(errors, 63);
}

fn indexed(spec: &At<'_>, errors: &mut ErrorList) {
    let (completions, parallelism) = (spec.get("completions"), spec.get("parallelism"));
    let failed = spec.get("maxFailedIndexes");
    if !completions.is_set() {
        completions.required(errors, "when completion mode is Indexed");
    }
    if parallelism.int() > MAX_PARALLELISM {
        let detail =
            format!("must be less than or equal to {MAX_PARALLELISM} when completion mode is Indexed");
        parallelism.invalid(errors, detail);
    }
    if completions.is_set() && failed.int() > completions.int() {
        failed.invalid(errors, "must be less than or equal to completions");
    }
    if failed.int() > MAX_FAILED_INDEXES {
        failed.invalid(errors, format!("must be less than or equal to {MAX_FAILED_INDEXES}"));
    }
    if completions.int() > MANY_COMPLETIONS && spec.get("backoffLimitPerIndex").is_set() {
        if !failed.is_set() {
            failed
                .required(errors, format!("must be specified when completions is above {MANY_COMPLETIONS}"));
        }
        for field in [parallelism, failed].iter().filter(|field| field.int() > MAX_WITH_MANY) {
            let detail = format!(
                "must be less than or equal to {MAX_WITH_MANY} when completions are above {MANY_COMPLETIONS} and used \
                 with backoff limit per index"
            );
            field.invalid(errors, detail);
        }
    }
}

fn restart_policy(spec: &At<'_>, errors: &mut ErrorList) {
    let policy = spec.get("template").get("spec").get("restartPolicy");
    match policy.text() {
        "" | "Always" => policy.required(errors, "valid values: \"OnFailure\", \"Never\""),
        "Never" => {}
        "OnFailure" if !spec.get("podFailurePolicy").is_set() => {}
        "OnFailure" => {
            policy.invalid(errors, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        _ => policy.not_among(errors, &["OnFailure", "Never"]),
    }
}

fn failure_policy(spec: &At<'_>, errors: &mut ErrorList) {
    let rules = spec.get("podFailurePolicy").get("rules");
    rules.check_members(errors, MAX_RULES);
    for rule in rules.items() {
        let action = rule.get("action");
        match action.text() {
            "" => action.required(errors, format!("valid values: {}", quoted(&ACTIONS))),
            "FailIndex" if !spec.get("backoffLimitPerIndex").is_set() => {
                action.invalid(errors, "requires the backoffLimitPerIndex to be set");
            }
            other if ACTIONS.contains(&other) => {}
            _ => action.not_supported(errors, &ACTIONS),
        }
        let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
        if codes.is_set() {
            exit_codes(&codes, spec, errors);
        }
        pod_conditions(&conditions, errors);
        match (codes.is_set(), !conditions.is_empty()) {
            (true, true) => rule
                .invalid_omitted(errors, "specifying both OnExitCodes and OnPodConditions is not supported"),
            (false, false) => {
                rule.invalid_omitted(errors, "specifying one of OnExitCodes and OnPodConditions is required")
            }
            _ => {}
        }
    }
}

fn pod_conditions(conditions: &At<'_>, errors: &mut ErrorList) {
    conditions.check_members(errors, MAX_RULES);
    for pattern in conditions.items() {
        pattern.get("type").check_format(errors, format::qualified_name);
        let status = pattern.get("status");
        match status.text() {
            "" => status.required(errors, format!("valid values: {}", quoted(&CONDITION_STATUSES))),
            _ => status.check_option_of(errors, &CONDITION_STATUSES),
        }
    }
}

fn exit_codes(codes: &At<'_>, spec: &At<'_>, errors: &mut ErrorList) {
    let operator = codes.get("operator");
    match operator.text() {
        "" => operator.required(errors, "valid values: [\"In\" \"NotIn\"]"),
        _ => operator.check_option_of(errors, &["In", "NotIn"]),
    }
    let (name, pod) = (codes.get("containerName"), spec.get("template").get("spec"));
    let known = ["containers", "initContainers"]
        .iter()
        .any(|list| pod.get(list).items().any(|c| c.get("name").text() == name.text()));
    if name.is_set() && !known {
        name.invalid(errors, "must be one of the container or initContainer names in the pod template");
    }
    let values = codes.get("values");
    if values.is_empty() {
        values.invalid(errors, "at least one value is required");
    }
    values.check_members(errors, MAX_EXIT_CODES);
    let mut before: Vec<i64> = Vec::new();
    let mut ordered = true;
    for value in values.items() {
        if operator.text() == "In" && value.int() == 0 {
            value.invalid(errors, "must not be 0 for the In operator");
        }
        if before.contains(&value.int()) {
            value.duplicate(errors);
        }
        ordered &= before.last().is_none_or(|last| *last <= value.int());
        before.push(value.int());
    }
    if !ordered {
        values.invalid(errors, "must be ordered");
    }
}

fn success_policy(spec: &At<'_>, errors: &mut ErrorList) {
    let policy = spec.get("successPolicy");
    if !policy.is_set() {
        return;
    }
    if spec.get("completionMode").text() != "Indexed" {
        return policy.invalid(errors, "requires indexed completion mode");
    }
    let rules = policy.get("rules");
    if rules.is_empty() {
        rules.required(errors, "at least one rules must be specified when the successPolicy is specified");
    }
    rules.check_members(errors, MAX_RULES);
    let completions = spec.get("completions").int();
    for rule in rules.items() {
        let (count, indexes) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
        if !count.is_set() && !indexes.is_set() {
            rule.required(errors, "at least one of succeededCount or succeededIndexes must be specified");
        }
        indexes.check_length(errors, 64 * 1024);
        let total = match indexes::parse(indexes.text(), completions) {
            Ok(all) => indexes::count(&all),
            Err(why) => {
                indexes.invalid(errors, format!("error parsing succeededIndexes: {why}"));
                0
            }
        };
        count.check_non_negative(errors);
        for (limit, what, is_limit) in [
            (completions, "the number of specified completions", true),
            (total, "the number of indexes in the specified succeededIndexes field", indexes.is_set()),
        ] {
            if is_limit && count.int() > limit {
                count.invalid(errors, format!("must be less than or equal to {limit} ({what})"));
            }
        }
    }
}

/// A change of a job.
pub(super) fn change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (now, was) = (At::spec(new), At::spec(old));
    let completions = now.get("completions");
    if now.get("completionMode").text() != "Indexed" {
        completions.check_unchanged(&was.get("completions"), errors);
    } else if completions.is_set()
        && completions.value() != was.get("completions").value()
        && completions.value() != now.get("parallelism").value()
    {
        completions.invalid(errors, "can only be modified in tandem with spec.parallelism");
    }
    workload::keeps_selector(&now, &was, errors);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        now.get(field).check_unchanged(&was.get(field), errors);
    }
}

/// A suspended job that runs nothing may be scheduled otherwise and ask for other resources, as gates say.
pub(super) fn template_change(new: &Object, old: Option<&Object>, gates: Gates, errors: &mut ErrorList) {
    let Some(old) = old else { return };
    let (now, was, status) = (At::spec(new), At::spec(old), At::status(old));
    let (suspended, unstarted) = (was.get("suspend").is_true(), !status.get("startTime").is_set());
    let idle = suspended && status.get("active").int() == 0 && (unstarted || has(&status, "Suspended"));
    let placed = match gates.has(Gate::MutableSchedulingDirectivesForSuspendedJobs) {
        true => idle,
        false => suspended && unstarted,
    };
    let resized = idle && gates.has(Gate::MutablePodResourcesForSuspendedJobs);
    let template = now.get("template");
    if !placed && !resized {
        template.check_unchanged(&was.get("template"), errors);
        return;
    }
    let fixed = |template: &At<'_>| {
        let mut fixed = template.value().clone();
        if placed {
            take_placement(&mut fixed);
        }
        if resized {
            take_resources(&mut fixed);
        }
        // Who may ask for other resources may label pods otherwise as well.
        if resized { fixed["spec"].take() } else { fixed }
    };
    if fixed(&template) != fixed(&was.get("template")) {
        let told = if resized { template.get("spec") } else { template };
        told.invalid(errors, "field is immutable");
    }
}

fn take_placement(template: &mut Value) {
    if let Some(meta) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("labels");
        meta.remove("annotations");
    }
    if template.get("metadata").and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
        && let Some(template) = template.as_object_mut()
    {
        template.remove("metadata");
    }
    let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) else { return };
    ["nodeSelector", "tolerations", "schedulingGates"].iter().for_each(|field| drop(pod.remove(*field)));
    if let Some(affinity) = pod.get_mut("affinity").and_then(Value::as_object_mut) {
        affinity.remove("nodeAffinity");
        if affinity.is_empty() {
            pod.remove("affinity");
        }
    }
}

fn take_resources(template: &mut Value) {
    for list in ["containers", "initContainers"] {
        let containers = template["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        containers.filter_map(Value::as_object_mut).for_each(|c| drop(c.remove("resources")));
    }
}

/// Whether a condition is true.
fn has(status: &At<'_>, kind: &str) -> bool {
    status.get("conditions").items().any(|c| c.get("type").text() == kind && c.get("status").text() == "True")
}

/// A change of the status.
pub(super) fn status(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (now, was) = (At::status(new), At::status(old));
    now.check_counts(&["active", "succeeded", "failed", "ready", "terminating"], errors);
    uncounted(&now.get("uncountedTerminatedPods"), errors);
    outcome(&now, &was, errors);
    index_lists(&At::spec(new), &now, errors);
    let conditions = now.get("conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if has(&was, kind) && !has(&now, kind) {
            conditions.invalid_omitted(errors, format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    for counter in ["failed", "succeeded"] {
        if now.get(counter).int() < was.get(counter).int() {
            now.get(counter).invalid(errors, format!("cannot decrease the {counter} counter"));
        }
    }
    let (end, ended) = (now.get("completionTime"), was.get("completionTime"));
    if end.is_set() && ended.is_set() && end.value() != ended.value() {
        end.invalid(errors, "field is immutable");
    }
    let (start, started) = (now.get("startTime"), was.get("startTime"));
    if started.is_set() && start.value() != started.value() && !At::spec(new).get("suspend").is_true() {
        start.invalid(errors, "field is immutable for unsuspended job once set");
    }
    if has(&was, "SuccessCriteriaMet") && !has(&now, "SuccessCriteriaMet") {
        conditions.invalid_omitted(errors, "cannot disable the SuccessCriteriaMet=True condition");
    }
}

fn uncounted(pods: &At<'_>, errors: &mut ErrorList) {
    let mut seen = Vec::new();
    for uid in ["succeeded", "failed"].iter().flat_map(|list| pods.get(list).items()) {
        if uid.is_empty() {
            uid.invalid(errors, "must not be empty");
        } else if seen.contains(&uid.text()) {
            uid.duplicate(errors);
        }
        seen.push(uid.text());
    }
}

/// Conditions fit each other, and a finished job has ended.
fn outcome(now: &At<'_>, was: &At<'_>, errors: &mut ErrorList) {
    let conditions = now.get("conditions");
    let (complete, failed) = (has(now, "Complete"), has(now, "Failed"));
    let (met, target) = (has(now, "SuccessCriteriaMet"), has(now, "FailureTarget"));
    for (wrong, why) in [
        (complete && failed, "cannot set Complete=True and Failed=true conditions"),
        (complete && target, "cannot set Complete=True and FailureTarget=true conditions"),
        (
            failed && !has(was, "Failed") && !target,
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            complete && !has(was, "Complete") && !met,
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
    ] {
        if wrong {
            conditions.invalid_omitted(errors, why);
        }
    }
    let (start, end) = (now.get("startTime"), now.get("completionTime"));
    if end.is_set() && !complete {
        end.invalid(errors, "cannot set completionTime when there is no Complete=True condition");
    }
    if !end.is_set() && complete {
        end.required(errors, "completionTime is required for Complete jobs");
    }
    if let (Some(start), Some(finish)) = (start.time(), end.time())
        && finish < start
    {
        end.invalid(errors, "must be equal to or after `startTime`");
    }
    if !(complete || failed) || has(was, "Complete") || has(was, "Failed") {
        return;
    }
    for running in ["active", "terminating"].map(|name| (name, now.get(name))) {
        if running.1.int() > 0 {
            running.1.invalid(errors, format!("{}>0 is invalid for finished job", running.0));
        }
    }
    if !start.is_set() {
        start.required(errors, "startTime is required for finished job");
    }
    let pods = now.get("uncountedTerminatedPods");
    if !pods.get("succeeded").is_empty() || !pods.get("failed").is_empty() {
        pods.invalid_go(errors, &shape::UNCOUNTED_TERMINATED_PODS, "must be empty for finished job");
    }
}

fn index_lists(spec: &At<'_>, now: &At<'_>, errors: &mut ErrorList) {
    let (done, failed) = (now.get("completedIndexes"), now.get("failedIndexes"));
    let completions = spec.get("completions");
    if completions.is_set() {
        let read = |list: &At<'_>| indexes::parse(list.text(), completions.int());
        if let Err(why) = read(&done) {
            done.invalid(errors, format!("error parsing completedIndexes: {why}"));
        }
        if let Err(why) = read(&failed) {
            failed.invalid(errors, format!("error parsing failedIndexes: {why}"));
        }
        if let (Ok(done), Ok(lost)) = (read(&done), read(&failed))
            && let Some(index) = indexes::shared(&done, &lost)
        {
            let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
            failed.invalid(errors, detail);
        }
    }
    if !done.is_empty() && spec.get("completionMode").text() != "Indexed" {
        done.invalid(errors, "cannot set non-empty completedIndexes when non-indexed completion mode");
    }
    if failed.is_set() && !spec.get("backoffLimitPerIndex").is_set() {
        failed.invalid(errors, "cannot set non-null failedIndexes when backoffLimitPerIndex is null");
    }
    if now.get("ready").int() > now.get("active").int() {
        now.get("ready").invalid(errors, "cannot set more ready pods than active");
    }
}

/// A list of texts as Go prints it with quotes.
fn quoted(all: &[&str]) -> String {
    format!("[{}]", all.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" "))
}
