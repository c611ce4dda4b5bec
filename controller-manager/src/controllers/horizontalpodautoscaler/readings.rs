//! Metrics, as the three metrics APIs give them.
//!
//! Contract: `metrics.k8s.io/v1beta1` (pods), `custom.metrics.k8s.io/v1beta2` or `v1beta1` (pods and objects),
//! `external.metrics.k8s.io/v1beta1`. All values are thousandths.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use component_base::{client, goduration, quantity::Quantity, selector::LabelSelector};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use kube::Client;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, de::DeserializeOwned};

use super::proposal::{MetricName, Source};
use crate::served::Directory;

/// How long values of custom metrics were measured where they do not say.
const MINUTE: Duration = Duration::from_secs(60);
const CUSTOM: [&str; 2] = ["v1beta2", "v1beta1"];

/// One pod's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    /// Thousandths.
    pub(super) value: i64,
    /// End of the measurement.
    pub(super) at: Timestamp,
    /// Its length.
    pub(super) window: Duration,
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reading {
    /// A value per pod, by name.
    Pods(BTreeMap<String, Sample>),
    /// One value, thousandths.
    Total(i64),
}

/// Why nothing was read. Texts are upstream's: they stand in conditions.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("unable to fetch metrics from {0} metrics API")]
    Api(&'static str, #[source] kube::Error),
    #[error("no metrics returned from {0} metrics API")]
    Empty(&'static str),
    #[error("no matches for kind {0:?}")]
    Kind(String),
    #[error("the metric's selector")]
    Selector(#[from] component_base::selector::SelectorError),
}

/// Reads metrics.
pub(super) struct Readings {
    client: Client,
    directory: Arc<Directory>,
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Named,
    timestamp: Timestamp,
    #[serde(default)]
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, ApiQuantity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    described_object: Named,
    timestamp: Timestamp,
    /// `windowSeconds` in both versions; `window` in old drafts.
    window_seconds: Option<u64>,
    value: ApiQuantity,
}

#[derive(Deserialize)]
struct ExternalValue {
    value: ApiQuantity,
}

impl Readings {
    pub(super) fn new(client: Client, directory: Arc<Directory>) -> Readings {
        Readings { client, directory }
    }

    /// Reads what a metric is about, for the pods a selector takes.
    pub(super) async fn read(
        &self,
        namespace: &str,
        selector: &str,
        source: &Source,
    ) -> Result<Reading, ReadError> {
        match source {
            Source::Resource { name, container } => {
                let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
                let query = format!("{path}?labelSelector={}", encoded(selector));
                let list: List<PodMetrics> =
                    self.get(&query).await.map_err(|e| ReadError::Api("resource", e))?;
                if list.items.is_empty() {
                    return Err(ReadError::Empty("resource"));
                }
                Ok(Reading::Pods(of_resource(&list.items, name, container.as_deref())))
            }
            Source::Pods(metric) => {
                let path = format!("namespaces/{namespace}/pods/*/{}", metric.name);
                let values = self.custom(&path, Some(selector), metric).await?;
                let sample = |v: MetricValue| {
                    let window = v.window_seconds.map_or(MINUTE, Duration::from_secs);
                    (v.described_object.name, Sample { value: milli(&v.value), at: v.timestamp, window })
                };
                Ok(Reading::Pods(values.into_iter().map(sample).collect()))
            }
            Source::Object { metric, object } => {
                let path = self.object_path(namespace, object, &metric.name).await?;
                let values = self.custom(&path, None, metric).await?;
                Ok(Reading::Total(values.first().map_or(0, |v| milli(&v.value))))
            }
            Source::External(metric) => {
                let of = utf8_percent_encode(&metric.name, NON_ALPHANUMERIC);
                let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{of}");
                let query = format!("{path}?labelSelector={}", encoded(&text(metric)?));
                let list: List<ExternalValue> =
                    self.get(&query).await.map_err(|e| ReadError::Api("external", e))?;
                if list.items.is_empty() {
                    return Err(ReadError::Empty("external"));
                }
                let sum = list.items.iter().fold(0, |sum: i64, v| sum.saturating_add(milli(&v.value)));
                Ok(Reading::Total(sum))
            }
        }
    }

    async fn object_path(
        &self,
        namespace: &str,
        object: &k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference,
        metric: &str,
    ) -> Result<String, ReadError> {
        let group =
            object.api_version.as_deref().and_then(|v| v.rsplit_once('/')).map_or("", |(group, _)| group);
        let found = self.directory.find(|s| s.group == group && s.kind == object.kind).await;
        let served = found.map_err(|e| ReadError::Api("custom", e))?;
        let served = served.ok_or_else(|| ReadError::Kind(object.kind.clone()))?;
        let resource = served.group_resource();
        Ok(match (resource.as_str(), served.namespaced) {
            ("namespaces", _) => format!("namespaces/{}/metrics/{metric}", object.name),
            (_, true) => format!("namespaces/{namespace}/{resource}/{}/{metric}", object.name),
            (_, false) => format!("{resource}/{}/{metric}", object.name),
        })
    }

    /// Asks the custom metrics API, in the newest version that is served.
    async fn custom(
        &self,
        path: &str,
        selector: Option<&str>,
        metric: &MetricName,
    ) -> Result<Vec<MetricValue>, ReadError> {
        let mut query = format!("?metricLabelSelector={}", encoded(&text(metric)?));
        if let Some(selector) = selector {
            query.push_str(&format!("&labelSelector={}", encoded(selector)));
        }
        let [newest, before] =
            CUSTOM.map(|version| format!("/apis/custom.metrics.k8s.io/{version}/{path}{query}"));
        let answer = match self.get::<List<MetricValue>>(&newest).await {
            Err(error) if client::is_not_found(&error) => self.get(&before).await,
            answer => answer,
        };
        let list = answer.map_err(|e| ReadError::Api("custom", e))?;
        if list.items.is_empty() { Err(ReadError::Empty("custom")) } else { Ok(list.items) }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, kube::Error> {
        self.client.request(Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?).await
    }
}

fn encoded(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// A metric's own selector as text; empty for all its values.
fn text(metric: &MetricName) -> Result<String, ReadError> {
    match &metric.selector {
        None => Ok(String::new()),
        Some(selector) => Ok(LabelSelector::from_api(Some(selector))?.to_string()),
    }
}

fn milli(quantity: &ApiQuantity) -> i64 {
    Quantity::from_api(quantity).map_or(0, Quantity::milli_value)
}

/// Each pod's use of a resource, in all its containers or one; pods that do not tell all of it are left out.
fn of_resource(pods: &[PodMetrics], resource: &str, container: Option<&str>) -> BTreeMap<String, Sample> {
    let mut out = BTreeMap::new();
    for pod in pods {
        let listed = pod.containers.iter().filter(|c| container.is_none_or(|name| c.name == name));
        let uses: Option<Vec<i64>> = listed.map(|c| c.usage.get(resource).map(milli)).collect();
        if let Some(uses) = uses.filter(|u| !u.is_empty()) {
            let value = uses.iter().fold(0, |sum: i64, v| sum.saturating_add(*v));
            let window = goduration::parse(&pod.window).unwrap_or(MINUTE);
            out.insert(pod.metadata.name.clone(), Sample { value, at: pod.timestamp, window });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_use_is_that_of_its_containers() {
        let pods: List<PodMetrics> = serde_json::from_value(json!({"items": [
            {"metadata": {"name": "a"}, "timestamp": "2026-01-01T00:00:00Z", "window": "30s", "containers": [
                {"name": "x", "usage": {"cpu": "100m", "memory": "1Mi"}}, {"name": "y", "usage": {"cpu": "1500u"}}]},
            {"metadata": {"name": "none"}, "timestamp": "2026-01-01T00:00:00Z", "window": "30s"},
        ]}))
        .unwrap();
        let cpu = of_resource(&pods.items, "cpu", None);
        assert_eq!(cpu.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!((cpu["a"].value, cpu["a"].window), (102, Duration::from_secs(30)));
        assert!(of_resource(&pods.items, "memory", None).is_empty(), "one container does not tell");
        let one = of_resource(&pods.items, "cpu", Some("x"));
        assert_eq!(one.iter().map(|(pod, s)| (pod.as_str(), s.value)).collect::<Vec<_>>(), [("a", 100)]);
        assert!(of_resource(&pods.items, "cpu", Some("z")).is_empty(), "no pod has it");
        assert!(of_resource(&pods.items, "memory", Some("y")).is_empty());
    }
}
