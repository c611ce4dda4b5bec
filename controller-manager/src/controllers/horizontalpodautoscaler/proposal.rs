//! The size one metric asks for. Pure.
//!
//! Contract: upstream's `pkg/controller/podautoscaler/replica_calculator.go`: pods that are not ready or tell nothing count
//! so that they never make a change larger, and no change of direction follows from them.

mod failure;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use component_base::quantity::{Format, Quantity};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        autoscaling::v2::{
            ContainerResourceMetricStatus, CrossVersionObjectReference, ExternalMetricStatus,
            HorizontalPodAutoscaler, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget,
            MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
        },
        core::v1::{Container, Pod},
    },
    apimachinery::pkg::{api::resource::Quantity as ApiQuantity, apis::meta::v1::LabelSelector},
};

pub(super) use self::failure::Failure;
use super::{
    plan::Target,
    readings::{Reading, Sample},
};
use crate::{
    controllers::{pod_disruption::phase, replicaset::is_ready},
    settings::AutoscalerSettings,
};

/// A metric's name and which of its series are meant.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MetricName {
    pub(super) name: String,
    pub(super) selector: Option<LabelSelector>,
}

/// What a metric is read from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    /// Use of a resource by pods, or by one container of each.
    Resource { name: String, container: Option<String> },
    /// A value per pod.
    Pods(MetricName),
    /// A value of one object.
    Object { metric: MetricName, object: CrossVersionObjectReference },
    /// A value from outside the cluster.
    External(MetricName),
}

/// A size, and what it was computed from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// For messages.
    pub(super) name: String,
    pub(super) status: MetricStatus,
}

/// What metrics are weighed with.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) target: Target,
    /// The target's pods.
    pub(super) pods: &'a [Arc<Pod>],
    /// By how much use may be (below, above) the target's without consequence.
    pub(super) tolerance: (f64, f64),
    pub(super) settings: &'a AutoscalerSettings,
    pub(super) now: Timestamp,
}

/// The autoscaler's tolerances (down, up); the cluster's where it has none or they do not count.
pub(super) fn tolerance(autoscaler: &HorizontalPodAutoscaler, settings: &AutoscalerSettings) -> (f64, f64) {
    let default = settings.tolerance;
    let behavior = autoscaler.spec.behavior.as_ref().filter(|_| settings.own_tolerance);
    let own = |tolerance: Option<&ApiQuantity>| {
        tolerance.and_then(Quantity::from_api).map_or(default, Quantity::as_f64)
    };
    (
        own(behavior.and_then(|b| b.scale_down.as_ref()).and_then(|r| r.tolerance.as_ref())),
        own(behavior.and_then(|b| b.scale_up.as_ref()).and_then(|r| r.tolerance.as_ref())),
    )
}

// === impl Source ===

impl Source {
    /// What a metric is read from.
    pub(super) fn of(spec: &MetricSpec) -> Result<Source, Failure> {
        let metric = |m: &MetricIdentifier| MetricName { name: m.name.clone(), selector: m.selector.clone() };
        let found = match spec.type_.as_str() {
            "Resource" => {
                let of = |r: &k8s_openapi::api::autoscaling::v2::ResourceMetricSource| Source::Resource {
                    name: r.name.clone(),
                    container: None,
                };
                spec.resource.as_ref().map(of)
            }
            "ContainerResource" => {
                let of = |r: &k8s_openapi::api::autoscaling::v2::ContainerResourceMetricSource| {
                    Source::Resource { name: r.name.clone(), container: Some(r.container.clone()) }
                };
                spec.container_resource.as_ref().map(of)
            }
            "Pods" => spec.pods.as_ref().map(|p| Source::Pods(metric(&p.metric))),
            "Object" => spec
                .object
                .as_ref()
                .map(|o| Source::Object { metric: metric(&o.metric), object: o.described_object.clone() }),
            "External" => spec.external.as_ref().map(|e| Source::External(metric(&e.metric))),
            _ => None,
        };
        found.ok_or_else(|| {
            let why = format!("unknown metric source type {:?}", spec.type_);
            Failure::of_unknown(why)
        })
    }
}

/// The size a metric asks for.
pub(super) fn propose(
    spec: &MetricSpec,
    source: &Source,
    reading: Reading,
    view: &View<'_>,
) -> Result<Proposal, Failure> {
    let (replicas, name, current) =
        weigh(spec, source, reading, view).map_err(|why| Failure::of_metric(spec, source, why))?;
    Ok(Proposal { replicas, name, status: status(spec, source, current) })
}

type Weighed = (i32, String, MetricValueStatus);

fn weigh(spec: &MetricSpec, source: &Source, reading: Reading, view: &View<'_>) -> Result<Weighed, String> {
    let target = target(spec).ok_or("the metric has no target")?;
    let milli = |quantity: &Option<ApiQuantity>| {
        quantity.as_ref().and_then(Quantity::from_api).map(Quantity::milli_value).filter(|v| *v > 0)
    };
    let (value, average) = (milli(&target.value), milli(&target.average_value));
    match (source, reading) {
        (Source::Resource { name, container }, Reading::Pods(samples)) => {
            match (average, target.average_utilization) {
                (Some(average), _) => {
                    let (replicas, used) = of_pods(samples, average, Some(name), view)
                        .map_err(|why| format!("failed to get {name} usage: {why}"))?;
                    Ok((replicas, format!("{name} resource"), averages(None, Some(resource(name, used)))))
                }
                (None, Some(percent)) => {
                    let (replicas, used, raw) =
                        of_requests(samples, percent, name, container.as_deref(), view)
                            .map_err(|why| format!("failed to get {name} utilization: {why}"))?;
                    let word = if container.is_some() { "container resource" } else { "resource" };
                    let label = format!("{name} {word} utilization (percentage of request)");
                    Ok((replicas, label, averages(Some(used), Some(resource(name, raw)))))
                }
                (None, None) => {
                    Err("invalid resource metric source: neither an average utilization target nor an \
                                 average value (usage) target was set"
                        .into())
                }
            }
        }
        (Source::Pods(metric), Reading::Pods(samples)) => {
            let average = average.ok_or("the metric has no target")?;
            let (replicas, used) = of_pods(samples, average, None, view)?;
            Ok((replicas, format!("pods metric {}", metric.name), averages(None, Some(plain(used)))))
        }
        (Source::Object { metric, object }, Reading::Total(total)) => {
            let label = match value {
                Some(_) => format!("{} metric {}", object.kind, metric.name),
                None => format!("external metric {}", metric.shown()),
            };
            of_total(total, value, average, view, label).ok_or(
                "invalid object metric source: neither a value target nor an average value target was set",
            )?
        }
        (Source::External(metric), Reading::Total(total)) => {
            let label = format!("external metric {}", metric.shown());
            of_total(total, value, average, view, label).ok_or(
                "invalid external metric source: neither a value target nor an average value target was set",
            )?
        }
        _ => Err("the metric was read in another form than it is defined in".into()),
    }
}

fn target(spec: &MetricSpec) -> Option<&MetricTarget> {
    let resource = spec.resource.as_ref().map(|r| &r.target);
    let container = spec.container_resource.as_ref().map(|r| &r.target);
    let pods = spec.pods.as_ref().map(|p| &p.target);
    let object = spec.object.as_ref().map(|o| &o.target);
    resource.or(container).or(pods).or(object).or(spec.external.as_ref().map(|e| &e.target))
}

fn averages(utilization: Option<i32>, value: Option<ApiQuantity>) -> MetricValueStatus {
    MetricValueStatus { average_utilization: utilization, average_value: value, value: None }
}

fn plain(milli: i64) -> ApiQuantity {
    Quantity::from_milli(milli, Format::DecimalSI).to_api()
}

fn resource(name: &str, milli: i64) -> ApiQuantity {
    let format = if name == "memory" { Format::BinarySI } else { Format::DecimalSI };
    Quantity::from_milli(milli, format).to_api()
}

fn status(spec: &MetricSpec, source: &Source, current: MetricValueStatus) -> MetricStatus {
    let mut out = MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() };
    let metric = |m: &MetricName| MetricIdentifier { name: m.name.clone(), selector: m.selector.clone() };
    match source.clone() {
        Source::Resource { name, container: None } => {
            out.resource = Some(ResourceMetricStatus { name, current })
        }
        Source::Resource { name, container: Some(container) } => {
            out.container_resource = Some(ContainerResourceMetricStatus { container, name, current });
        }
        Source::Pods(m) => out.pods = Some(PodsMetricStatus { metric: metric(&m), current }),
        Source::Object { metric: m, object } => {
            out.object = Some(ObjectMetricStatus { described_object: object, metric: metric(&m), current });
        }
        Source::External(m) => out.external = Some(ExternalMetricStatus { metric: metric(&m), current }),
    }
    out
}

fn tolerated(ratio: f64, (down, up): (f64, f64)) -> bool {
    (1.0 - down..=1.0 + up).contains(&ratio)
}

/// A whole number of pods, rounded up; the type's bounds hold for what is beyond them.
fn pods_for(count: f64) -> i32 {
    count.ceil().clamp(0.0, f64::from(i32::MAX)) as i32
}

// Values are thousandths and counts of pods: far below what a float holds exactly.
#[allow(clippy::cast_precision_loss)]
fn ratio(used: i64, wanted: i64) -> f64 {
    used as f64 / wanted as f64
}

/// The size for one value of all pods together: an absolute target, or one for each pod.
fn of_total(
    total: i64,
    value: Option<i64>,
    average: Option<i64>,
    view: &View<'_>,
    label: String,
) -> Option<Result<Weighed, String>> {
    if let Some(wanted) = value {
        let ratio = ratio(total, wanted);
        let status = MetricValueStatus { value: Some(plain(total)), ..MetricValueStatus::default() };
        let current = view.target.wanted;
        let replicas = if current == 0 {
            pods_for(ratio)
        } else if tolerated(ratio, view.tolerance) {
            current
        } else if view.pods.is_empty() {
            return Some(Err("unable to calculate ready pods: no pods returned by selector while calculating replica count".into()));
        } else {
            let ready = view.pods.iter().filter(|p| phase(p) == "Running" && is_ready(p)).count();
            pods_for(ratio * f64::from(u32::try_from(ready).unwrap_or(u32::MAX)))
        };
        return Some(Ok((replicas, label, status)));
    }
    let wanted = average?;
    let there = view.target.there;
    let all = i64::from(there).saturating_mul(wanted);
    let replicas = match there {
        0 => pods_for(ratio(total, wanted)),
        _ if tolerated(ratio(total, all), view.tolerance) => there,
        _ => pods_for(ratio(total, wanted)),
    };
    let share = if there > 0 { total.div_ceil_of(i64::from(there)) } else { total };
    Some(Ok((replicas, label, averages(None, Some(plain(share))))))
}

/// Division of whole numbers, rounded up.
trait DivCeil {
    fn div_ceil_of(self, by: i64) -> i64;
}

impl DivCeil for i64 {
    fn div_ceil_of(self, by: i64) -> i64 {
        self.div_euclid(by) + i64::from(self.rem_euclid(by) != 0)
    }
}

/// Pods by what their samples are worth.
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
}

/// Sorts pods and leaves only samples that count.
fn group(samples: &mut BTreeMap<String, Sample>, is_cpu: bool, view: &View<'_>) -> Result<Groups, String> {
    if view.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let mut out = Groups { ready: 0, unready: BTreeSet::new(), missing: BTreeSet::new() };
    for pod in view.pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() || phase(pod) == "Failed" {
            samples.remove(&name);
        } else if phase(pod) == "Pending" {
            samples.remove(&name);
            out.unready.insert(name);
        } else {
            match samples.get(&name) {
                None => drop(out.missing.insert(name)),
                Some(sample) if is_cpu && is_starting(pod, sample, view) => {
                    samples.remove(&name);
                    out.unready.insert(name);
                }
                Some(_) => out.ready += 1,
            }
        }
    }
    match samples.is_empty() {
        true => Err("did not receive metrics for targeted pods (pods might be unready)".into()),
        false => Ok(out),
    }
}

/// Whether a pod's CPU says nothing yet: it is starting, or has never been ready.
fn is_starting(pod: &Pod, sample: &Sample, view: &View<'_>) -> bool {
    let Some(status) = &pod.status else { return true };
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
    let (Some(ready), Some(started)) = (ready, &status.start_time) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    let after = |from: Timestamp, wait: std::time::Duration| {
        SignedDuration::try_from(wait).ok().and_then(|w| from.checked_add(w).ok()).unwrap_or(Timestamp::MAX)
    };
    if after(started.0, view.settings.cpu_initialization) > view.now {
        // Measured, in part, before it became ready.
        ready.status == "False" || sample.at < after(changed, sample.window)
    } else {
        ready.status == "False" && after(started.0, view.settings.initial_readiness) > changed
    }
}

/// The change that ready pods ask for, tempered by the others: `weigh` gives the ratio for samples, `assumed` what a
/// silent pod counts for when the others are below their target.
fn temper(
    samples: &mut BTreeMap<String, Sample>,
    groups: &Groups,
    view: &View<'_>,
    ratio: f64,
    weigh: impl Fn(&BTreeMap<String, Sample>) -> Result<f64, String>,
    assumed: impl Fn(&str) -> i64,
) -> Result<i32, String> {
    let current = view.target.wanted;
    let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    let growing_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !growing_unready && groups.missing.is_empty() {
        return Ok(if tolerated(ratio, view.tolerance) {
            current
        } else {
            pods_for(ratio * count(groups.ready))
        });
    }
    let mut add = |name: &String, value: i64| {
        let sample = Sample { value, at: view.now, window: std::time::Duration::ZERO };
        samples.insert(name.clone(), sample);
    };
    match ratio {
        r if r < 1.0 => groups.missing.iter().for_each(|name| add(name, assumed(name))),
        r if r > 1.0 => groups.missing.iter().for_each(|name| add(name, 0)),
        _ => {}
    }
    if growing_unready {
        groups.unready.iter().for_each(|name| add(name, 0));
    }
    let tempered = weigh(samples)?;
    let turned = (ratio < 1.0 && tempered > 1.0) || (ratio > 1.0 && tempered < 1.0);
    if tolerated(tempered, view.tolerance) || turned {
        return Ok(current);
    }
    let replicas = pods_for(tempered * count(samples.len()));
    let against = (tempered < 1.0 && replicas > current) || (tempered > 1.0 && replicas < current);
    Ok(if against { current } else { replicas })
}

/// (size, average use in thousandths) for a target per pod.
fn of_pods(
    mut samples: BTreeMap<String, Sample>,
    wanted: i64,
    resource: Option<&str>,
    view: &View<'_>,
) -> Result<(i32, i64), String> {
    let groups = group(&mut samples, resource == Some("cpu"), view)?;
    let used = average(&samples);
    let weigh = |samples: &BTreeMap<String, Sample>| Ok(ratio(average(samples), wanted));
    let replicas = temper(&mut samples, &groups, view, ratio(used, wanted), weigh, |_| wanted)?;
    Ok((replicas, used))
}

fn sum<'s>(samples: impl IntoIterator<Item = &'s Sample>) -> i64 {
    samples.into_iter().fold(0, |sum: i64, s| sum.saturating_add(s.value))
}

fn average(samples: &BTreeMap<String, Sample>) -> i64 {
    sum(samples.values()) / i64::try_from(samples.len().max(1)).unwrap_or(i64::MAX)
}

/// (size, percent used, average use in thousandths) for a target in percent of what pods request.
fn of_requests(
    mut samples: BTreeMap<String, Sample>,
    percent: i32,
    resource: &str,
    container: Option<&str>,
    view: &View<'_>,
) -> Result<(i32, i32, i64), String> {
    let groups = group(&mut samples, resource == "cpu", view)?;
    let mut requests = BTreeMap::new();
    for pod in view.pods {
        requests.insert(
            pod.metadata.name.clone().unwrap_or_default(),
            request(pod, resource, container, view.settings.pod_level)?,
        );
    }
    let (ratio, used, raw) = utilization(&samples, &requests, percent)?;
    let weigh = |samples: &BTreeMap<String, Sample>| Ok(utilization(samples, &requests, percent)?.0);
    let assumed =
        |name: &str| requests.get(name).map_or(0, |r| r.saturating_mul(i64::from(percent.max(100))) / 100);
    let replicas = temper(&mut samples, &groups, view, ratio, weigh, assumed)?;
    Ok((replicas, used, raw))
}

/// (share of the target, percent used, average use in thousandths).
fn utilization(
    samples: &BTreeMap<String, Sample>,
    requests: &BTreeMap<String, i64>,
    percent: i32,
) -> Result<(f64, i32, i64), String> {
    let known: Vec<(&Sample, i64)> =
        samples.iter().filter_map(|(name, s)| Some((s, *requests.get(name)?))).collect();
    let total = sum(known.iter().map(|(s, _)| *s));
    let requested: i64 = known.iter().fold(0, |sum: i64, (_, r)| sum.saturating_add(*r));
    if requested == 0 || percent <= 0 {
        return Err("no metrics returned matched known pods".into());
    }
    let used = i32::try_from(total.saturating_mul(100) / requested).unwrap_or(i32::MAX);
    let raw = total / i64::try_from(known.len()).unwrap_or(i64::MAX);
    Ok((f64::from(used) / f64::from(percent), used, raw))
}

/// What a pod, or one of its containers, requests, in thousandths; `pod_level` is whether a pod may say it as a whole.
fn request(pod: &Pod, resource: &str, container: Option<&str>, pod_level: bool) -> Result<i64, String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = &pod.spec else { return Err(format!("missing request for {resource} in Pod {name}")) };
    let milli = |quantity: &ApiQuantity| Quantity::from_api(quantity).map_or(0, Quantity::milli_value);
    let of_pod = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).filter(|r| !r.is_empty());
    if let Some(requests) = of_pod.filter(|_| pod_level && container.is_none()) {
        let own = requests.get(resource).map(milli);
        return own.ok_or_else(|| format!("missing pod-level request for {resource} in Pod {name}"));
    }
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let mut total: i64 = 0;
    let mut found = container.is_none();
    for c in spec.containers.iter().chain(sidecars).filter(|c| container.is_none_or(|name| c.name == name)) {
        found = true;
        let own = c.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get(resource));
        let own = own
            .ok_or_else(|| format!("missing request for {resource} in container {} of Pod {name}", c.name))?;
        total = total.saturating_add(milli(own));
    }
    match found {
        true => Ok(total),
        false => Err(format!("container {} not found in Pod {name}", container.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests;
