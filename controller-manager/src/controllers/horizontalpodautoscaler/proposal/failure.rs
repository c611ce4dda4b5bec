//! What is said where a metric asks for nothing: each layer that could not go on puts its words in front.
//!
//! Contract: the texts of upstream's `pkg/controller/podautoscaler`, which people search for.

use k8s_openapi::{
    api::autoscaling::v2::MetricSpec, apimachinery::pkg::apis::meta::v1::LabelSelector as ApiSelector,
};

use super::{MetricName, Source, target};

/// Why a metric asks for nothing.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Failure {
    /// Of the event.
    pub(in super::super) event: String,
    pub(in super::super) note: String,
    /// Of the condition.
    pub(in super::super) reason: String,
    pub(in super::super) message: String,
    /// The failure as one of several metrics'; none if it is that of all together.
    pub(in super::super) of_one: Option<String>,
}

impl Failure {
    /// Of a metric that could not be weighed.
    pub(super) fn of_metric(spec: &MetricSpec, source: &Source, why: String) -> Self {
        let wanted = target(spec);
        let per_pod = wanted.is_some_and(|target| target.average_value.is_some());
        let total = wanted.is_some_and(|target| target.value.is_some());
        let of_one = match source {
            Source::Resource { name, container: None } => {
                format!("failed to get {name} resource metric value: {why}")
            }
            Source::Resource { container: Some(container), .. } => {
                format!("failed to get {container} container metric value: {why}")
            }
            Source::Pods(_) => format!("failed to get pods metric value: {why}"),
            Source::Object { metric, .. } if per_pod && !total => {
                format!(
                    "failed to get object metric value: failed to get {} object metric: {why}",
                    metric.name
                )
            }
            Source::Object { .. } => format!("failed to get object metric value: {why}"),
            Source::External(MetricName { name, .. }) => {
                let inner = match (per_pod, total) {
                    (true, _) => format!("failed to get {name} external metric: {why}"),
                    (false, true) => format!("failed to get external metric {name}: {why}"),
                    (false, false) => why.clone(),
                };
                format!("failed to get {name} external metric value: {inner}")
            }
        };
        Self::new(reason(source), why, of_one)
    }

    /// Of a metric in `namespace` that could not be read.
    pub(in super::super) fn of_reading(
        spec: &MetricSpec,
        source: &Source,
        namespace: &str,
        why: &str,
    ) -> Self {
        let what = match source {
            Source::Resource { name, .. } => {
                let per_pod = target(spec).is_some_and(|target| target.average_value.is_some());
                let word = if per_pod { "usage" } else { "utilization" };
                format!("failed to get {name} {word}: unable to get metrics for resource {name}: {why}")
            }
            Source::Pods(metric) => format!("unable to get metric {}: {why}", metric.name),
            Source::Object { metric, object } => {
                format!(
                    "unable to get metric {}: {} on {namespace} {}/{why}",
                    metric.name, object.kind, object.name
                )
            }
            Source::External(MetricName { name, selector }) => {
                let selector = shown(selector.as_ref());
                format!("unable to get external metric {namespace}/{name}/{selector}: {why}")
            }
        };
        Self::of_metric(spec, source, what)
    }

    /// Of a metric of a type that is none.
    pub(super) fn of_unknown(why: String) -> Self {
        Self::new("InvalidMetricSourceType", why.clone(), why)
    }

    fn new(reason: &str, why: String, of_one: String) -> Self {
        let message = format!("the HPA was unable to compute the replica count: {why}");
        Self { event: reason.into(), note: why, reason: reason.into(), message, of_one: Some(of_one) }
    }
}

fn reason(source: &Source) -> &'static str {
    match source {
        Source::Resource { container: None, .. } => "FailedGetResourceMetric",
        Source::Resource { .. } => "FailedGetContainerResourceMetric",
        Source::Pods(_) => "FailedGetPodsMetric",
        Source::Object { .. } => "FailedGetObjectMetric",
        Source::External(_) => "FailedGetExternalMetric",
    }
}

impl MetricName {
    /// The name, with what selects its series.
    pub(super) fn shown(&self) -> String {
        format!("{}({})", self.name, shown(self.selector.as_ref()))
    }
}

/// A selector as messages show it.
fn shown(selector: Option<&ApiSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels = selector.match_labels.iter().flatten();
    let labels: String = labels.map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions: String = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|e| {
            let values = e.values.as_deref().unwrap_or_default().join(" ");
            format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", e.key, e.operator)
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},\
         MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(spec: Value) -> (String, String) {
        let spec: MetricSpec = serde_json::from_value(spec).unwrap();
        let failure = Failure::of_reading(&spec, &Source::of(&spec).unwrap(), "d", "no");
        assert_eq!(
            failure.message,
            format!("the HPA was unable to compute the replica count: {}", failure.note)
        );
        assert_eq!(failure.event, failure.reason);
        (format!("{}: {}", failure.event, failure.note), failure.of_one.unwrap())
    }

    #[test]
    fn layers_put_their_words_in_front() {
        let percent = json!({"type": "Utilization", "averageUtilization": 50});
        let (each, total) =
            (json!({"type": "AverageValue", "averageValue": "1"}), json!({"type": "Value", "value": "1"}));
        let metric = json!({"name": "qps"});
        let selected = json!({"name": "qps", "selector": {"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]}});
        let object = json!({"kind": "Service", "name": "web"});
        for (spec, note, of_one) in [
            (
                json!({"type": "Resource", "resource": {"name": "cpu", "target": percent}}),
                "FailedGetResourceMetric: failed to get cpu utilization: unable to get metrics for resource cpu: no",
                "failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: no",
            ),
            (
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "target": each}}),
                "FailedGetContainerResourceMetric: failed to get cpu usage: unable to get metrics for resource cpu: no",
                "failed to get c container metric value: failed to get cpu usage: unable to get metrics for resource cpu: no",
            ),
            (
                json!({"type": "Pods", "pods": {"metric": metric, "target": each}}),
                "FailedGetPodsMetric: unable to get metric qps: no",
                "failed to get pods metric value: unable to get metric qps: no",
            ),
            (
                json!({"type": "Object", "object": {"metric": metric, "describedObject": object, "target": total}}),
                "FailedGetObjectMetric: unable to get metric qps: Service on d web/no",
                "failed to get object metric value: unable to get metric qps: Service on d web/no",
            ),
            (
                json!({"type": "Object", "object": {"metric": metric, "describedObject": object, "target": each}}),
                "FailedGetObjectMetric: unable to get metric qps: Service on d web/no",
                "failed to get object metric value: failed to get qps object metric: unable to get metric qps: Service on d web/no",
            ),
            (
                json!({"type": "External", "external": {"metric": metric, "target": each}}),
                "FailedGetExternalMetric: unable to get external metric d/qps/nil: no",
                "failed to get qps external metric value: failed to get qps external metric: unable to get external metric d/qps/nil: no",
            ),
            (
                json!({"type": "External", "external": {"metric": selected, "target": total}}),
                "FailedGetExternalMetric: unable to get external metric d/qps/&LabelSelector{MatchLabels:map[string]string{a: b,},\
                 MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:c,Operator:In,Values:[d e],},},}: no",
                "failed to get qps external metric value: failed to get external metric qps: unable to get external metric \
                 d/qps/&LabelSelector{MatchLabels:map[string]string{a: b,},\
                 MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:c,Operator:In,Values:[d e],},},}: no",
            ),
        ] {
            assert_eq!(told(spec.clone()), (note.to_owned(), of_one.to_owned()), "{spec}");
        }
    }
}
