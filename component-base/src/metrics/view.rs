//! How metrics are shown otherwise than they are measured: some not at all, some without their rarer labels.
//!
//! Contract: upstream's `--disabled-metrics`, `--allow-metric-labels` and `--allow-metric-labels-manifest`: a label value
//! that is not allowed reads `unexpected`, and what then looks the same adds up.

use std::collections::{BTreeMap, BTreeSet};

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use serde::Deserialize;

const UNEXPECTED: &str = "unexpected";

/// Values allowed of a metric's label, by both their names.
type Allowed = BTreeMap<(String, String), BTreeSet<String>>;

/// What is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Names of metrics that are not.
    pub disabled: BTreeSet<String>,
    allowed: Allowed,
}

/// Why a list of allowed values is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// Not `metric,label=value,..`.
    #[error("{0:?} must be formatted as metric,label=value,value")]
    Malformed(String),
    /// The manifest is no YAML of the wanted shape.
    #[error("failed to parse allow list: {0}")]
    Manifest(String),
}

/// The manifest's shape.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    allow_list_mapping: BTreeMap<String, String>,
}

impl View {
    /// Adds what a value of `--allow-metric-labels` says: `metric,label=value,value`, or several of these, quoted, with
    /// commas between them.
    ///
    /// # Errors
    /// When it says something else.
    pub fn allow(&mut self, text: &str) -> Result<(), ViewError> {
        let is_one = text.matches('=').count() <= 1;
        let many = if is_one { vec![text.trim_matches('"').to_owned()] } else { quoted(text) };
        for one in many {
            let (key, values) = one.split_once('=').ok_or_else(|| ViewError::Malformed(one.clone()))?;
            self.allow_values(key, values)?;
        }
        Ok(())
    }

    /// Adds what a manifest says, where the flag says nothing.
    ///
    /// # Errors
    /// When it is none.
    pub fn allow_manifest(&mut self, text: &str) -> Result<(), ViewError> {
        let manifest: Manifest =
            serde_saphyr::from_str(text).map_err(|error| ViewError::Manifest(error.to_string()))?;
        let said = std::mem::take(&mut self.allowed);
        for (key, values) in &manifest.allow_list_mapping {
            self.allow_values(key, values)?;
        }
        self.allowed.extend(said);
        Ok(())
    }

    fn allow_values(&mut self, key: &str, values: &str) -> Result<(), ViewError> {
        let names = key.split_once(',').map(|(metric, label)| (metric.trim(), label.trim()));
        let (metric, label) = names
            .filter(|(metric, label)| !metric.is_empty() && !label.is_empty() && !label.contains(','))
            .ok_or_else(|| ViewError::Malformed(format!("{key}={values}")))?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        self.allowed.insert((metric.to_owned(), label.to_owned()), values);
        Ok(())
    }

    /// Makes of what was gathered what is shown.
    pub(super) fn apply(&self, families: &mut Vec<MetricFamily>) {
        families.retain(|family| !self.disabled.contains(family.name()));
        for family in families {
            let name = family.name().to_owned();
            let rules: BTreeMap<&str, &BTreeSet<String>> = self
                .allowed
                .iter()
                .filter(|((metric, _), _)| *metric == name)
                .map(|((_, label), values)| (label.as_str(), values))
                .collect();
            if rules.is_empty() {
                continue;
            }
            let kind = family.get_field_type();
            let metrics = family.take_metric();
            family.set_metric(restricted(metrics, &rules, kind));
        }
    }
}

/// Elements between commas, of which those in quotes may have commas.
fn quoted(text: &str) -> Vec<String> {
    let (mut all, mut one, mut is_quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => all.push(std::mem::take(&mut one)),
            c => one.push(c),
        }
    }
    all.push(one);
    all
}

fn restricted(
    metrics: Vec<Metric>,
    rules: &BTreeMap<&str, &BTreeSet<String>>,
    kind: MetricType,
) -> Vec<Metric> {
    let mut shown: Vec<Metric> = Vec::with_capacity(metrics.len());
    let mut by_labels: BTreeMap<Vec<(String, String)>, usize> = BTreeMap::new();
    for mut metric in metrics {
        for label in metric.mut_label() {
            let refused = rules.get(label.name()).is_some_and(|allowed| !allowed.contains(label.value()));
            if refused {
                label.set_value(UNEXPECTED.to_owned());
            }
        }
        let pair = |label: &LabelPair| (label.name().to_owned(), label.value().to_owned());
        let labels = metric.get_label().iter().map(pair).collect();
        match by_labels.get(&labels) {
            Some(at) => add(&mut shown[*at], &metric, kind),
            None => {
                by_labels.insert(labels, shown.len());
                shown.push(metric);
            }
        }
    }
    shown
}

/// Adds what a metric measured to another one of the same labels.
fn add(sum: &mut Metric, more: &Metric, kind: MetricType) {
    match kind {
        MetricType::COUNTER => {
            let mut counter = Counter::default();
            counter.set_value(sum.get_counter().get_value() + more.get_counter().get_value());
            sum.set_counter(counter);
        }
        MetricType::GAUGE => {
            let mut gauge = Gauge::default();
            gauge.set_value(sum.get_gauge().get_value() + more.get_gauge().get_value());
            sum.set_gauge(gauge);
        }
        MetricType::HISTOGRAM => {
            let (a, b) = (sum.get_histogram(), more.get_histogram());
            let mut both = Histogram::default();
            both.set_sample_count(a.get_sample_count() + b.get_sample_count());
            both.set_sample_sum(a.get_sample_sum() + b.get_sample_sum());
            let bucket = |(a, b): (&Bucket, &Bucket)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(a.upper_bound());
                bucket.set_cumulative_count(a.cumulative_count() + b.cumulative_count());
                bucket
            };
            both.set_bucket(a.get_bucket().iter().zip(b.get_bucket()).map(bucket).collect());
            sum.set_histogram(both);
        }
        // Nothing here makes these, and their parts do not add up.
        MetricType::SUMMARY | MetricType::UNTYPED => {}
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{
        Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
        core::Collector,
    };

    use super::*;

    fn shown(view: &View) -> String {
        let registry = Registry::new();
        let requests = IntCounterVec::new(Opts::new("requests", "Requests."), &["code", "verb"]).unwrap();
        let open = IntGaugeVec::new(Opts::new("open", "Open."), &["verb"]).unwrap();
        let times = HistogramOpts::new("times", "Times.").buckets(vec![1.0, 2.0]);
        let times = HistogramVec::new(times, &["verb"]).unwrap();
        let all: [Box<dyn Collector>; 3] =
            [Box::new(requests.clone()), Box::new(open.clone()), Box::new(times.clone())];
        all.into_iter().for_each(|one| registry.register(one).unwrap());
        for (code, verb, n) in [("200", "get", 1), ("200", "odd", 2), ("200", "odder", 4), ("500", "odd", 8)]
        {
            requests.with_label_values(&[code, verb]).inc_by(n);
            open.with_label_values(&[verb]).set(i64::try_from(n).unwrap());
        }
        for (verb, seconds) in [("get", 0.5), ("odd", 1.5), ("odder", 3.0)] {
            times.with_label_values(&[verb]).observe(seconds);
        }
        let mut families = registry.gather();
        view.apply(&mut families);
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn values_that_are_not_allowed_add_up_and_disabled_metrics_are_not_shown() {
        let mut view = View::default();
        view.allow("requests,verb=get,list").unwrap();
        view.allow("\"times,verb=get\",\"other,label=a,b\"").unwrap();
        view.disabled.insert("open".to_owned());
        let text = shown(&view);
        for line in [
            "requests{code=\"200\",verb=\"get\"} 1",
            "requests{code=\"200\",verb=\"unexpected\"} 6",
            "requests{code=\"500\",verb=\"unexpected\"} 8",
            "times_bucket{verb=\"unexpected\",le=\"1\"} 0",
            "times_bucket{verb=\"unexpected\",le=\"2\"} 1",
            "times_bucket{verb=\"unexpected\",le=\"+Inf\"} 2",
            "times_sum{verb=\"unexpected\"} 4.5",
            "times_count{verb=\"get\"} 1",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
        }
        assert!(!text.contains("odd") && !text.contains("open"), "{text}");
    }

    #[test]
    fn the_flag_outdoes_the_manifest() {
        let mut view = View::default();
        view.allow("m,a=1").unwrap();
        view.allow_manifest("allowListMapping:\n  \"m,a\": \"2\"\n  \"m,b\": \"3,4\"\n").unwrap();
        let mut expected = View::default();
        expected.allow("m,a=1").unwrap();
        expected.allow("m,b=3,4").unwrap();
        assert_eq!(view, expected);
        for wrong in ["m=1", "m,=1", ",a=1", "m,a,b=1", "m,a", "\"m,a=1\",\"m\",b=2"] {
            assert!(view.allow(wrong).is_err(), "{wrong}");
        }
        assert!(view.allow_manifest("other: {}").is_err());
    }
}
