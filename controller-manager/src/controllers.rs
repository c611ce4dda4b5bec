//! The controllers, one file each, one line each in [`ALL`].

mod attach_detach;
mod attachable;
mod bootstrap_token;
mod certificatesigningrequest;
mod clusterrole_aggregation;
mod clustertrustbundle;
mod cronjob;
mod daemonset;
mod deployment;
mod device_taint_eviction;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod ephemeral_volume;
#[cfg(test)]
mod faults;
mod garbage_collector;
mod history;
mod horizontalpodautoscaler;
mod job;
mod legacy_token;
mod namespace;
mod node_fit;
mod node_ipam;
mod node_lifecycle;
mod ownership;
mod persistentvolume_binder;
mod persistentvolume_expander;
mod pod_control;
mod pod_disruption;
mod pod_garbage_collector;
mod podcertificaterequest;
mod podgroup_protection;
mod published;
mod replicaset;
mod replicationcontroller;
mod resource_claim;
mod resourcepoolstatusrequest;
mod resourcequota;
mod retry;
mod root_ca;
mod selinux_warning;
mod service_ca;
mod service_cidr;
mod service_pods;
mod serviceaccount;
mod serviceaccount_token;
mod statefulset;
mod storage_version_migrator;
mod storageversion_garbage_collector;
mod taint_eviction;
#[cfg(test)]
mod told;
mod ttl;
mod ttl_after_finished;
mod validatingadmissionpolicy_status;
mod volume_protection;

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use component_base::{
    clock::SharedClock,
    events::Recorder,
    features::{Gate, Gates},
    informer::{Event, Informer, Informers, ListWatch, Object},
    meta::{ObjectKey, object_key},
    serving::Site,
    task::Tasks,
    workqueue::{WorkQueue, chain},
};
use k8s_openapi::api::core::v1::Pod;

pub use crate::settings::Settings;

/// What every controller gets.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: kube::Client,
    /// Shared caches; started after all controllers have subscribed.
    pub informers: Informers,
    /// The leader's tasks: they end with the leadership.
    pub tasks: Tasks,
    /// Time.
    pub clock: SharedClock,
    /// What flags say.
    pub settings: Arc<Settings>,
    /// What the daemon serves.
    pub site: Site,
}

/// One controller.
#[derive(Clone, Copy)]
pub struct Controller {
    /// Upstream's name, for `--controllers`.
    pub name: &'static str,
    /// Without these it is not there.
    pub gates: &'static [Gate],
    /// Subscribes to caches and starts workers; called before the caches start.
    pub start: fn(&Context),
}

const fn on(name: &'static str, start: fn(&Context)) -> Controller {
    with(&[], name, start)
}

const fn with(gates: &'static [Gate], name: &'static str, start: fn(&Context)) -> Controller {
    Controller { name, gates, start }
}

/// All controllers.
pub const ALL: &[Controller] = &[
    on("serviceaccount-controller", serviceaccount::start),
    on("serviceaccount-token-controller", serviceaccount_token::start),
    on("legacy-serviceaccount-token-cleaner-controller", legacy_token::start),
    on("bootstrap-signer-controller", bootstrap_token::start_signer),
    on("token-cleaner-controller", bootstrap_token::start_cleaner),
    on("root-ca-certificate-publisher-controller", root_ca::start),
    on("service-ca-certificate-publisher-controller", service_ca::start),
    with(
        &[Gate::ClusterTrustBundle],
        "kube-apiserver-serving-clustertrustbundle-publisher-controller",
        clustertrustbundle::start,
    ),
    on("garbage-collector-controller", garbage_collector::start),
    on("namespace-controller", namespace::start),
    on("node-ipam-controller", node_ipam::start),
    on("node-lifecycle-controller", node_lifecycle::start),
    on("taint-eviction-controller", taint_eviction::start),
    with(&[Gate::DRADeviceTaints], "device-taint-eviction-controller", device_taint_eviction::start),
    on("pod-garbage-collector-controller", pod_garbage_collector::start),
    on("clusterrole-aggregation-controller", clusterrole_aggregation::start),
    on("ttl-controller", ttl::start),
    on("ttl-after-finished-controller", ttl_after_finished::start),
    on("resourcequota-controller", resourcequota::start),
    on("certificatesigningrequest-signing-controller", certificatesigningrequest::start_signing),
    on("certificatesigningrequest-approving-controller", certificatesigningrequest::start_approving),
    on("certificatesigningrequest-cleaner-controller", certificatesigningrequest::start_cleaning),
    with(
        &[Gate::PodCertificateRequest],
        "podcertificaterequest-cleaner-controller",
        podcertificaterequest::start,
    ),
    on("persistentvolumeclaim-protection-controller", volume_protection::start_claims),
    on("persistentvolume-protection-controller", volume_protection::start_volumes),
    on("persistentvolume-binder-controller", persistentvolume_binder::start),
    on("volumeattributesclass-protection-controller", volume_protection::start_classes),
    on("persistentvolume-expander-controller", persistentvolume_expander::start),
    on("persistentvolume-attach-detach-controller", attach_detach::start),
    on("resourceclaim-controller", resource_claim::start),
    on("ephemeral-volume-controller", ephemeral_volume::start),
    on("replicaset-controller", replicaset::start),
    on("replicationcontroller-controller", replicationcontroller::start),
    on("daemonset-controller", daemonset::start),
    on("deployment-controller", deployment::start),
    on("job-controller", job::start),
    on("cronjob-controller", cronjob::start),
    on("statefulset-controller", statefulset::start),
    on("disruption-controller", disruption::start),
    on("horizontal-pod-autoscaler-controller", horizontalpodautoscaler::start),
    on("service-cidr-controller", service_cidr::start),
    on("endpoints-controller", endpoints::start),
    on("endpointslice-controller", endpointslice::start),
    on("endpointslice-mirroring-controller", endpointslice_mirroring::start),
    on("validatingadmissionpolicy-status-controller", validatingadmissionpolicy_status::start),
    with(&[Gate::GenericWorkload], "podgroup-protection-controller", podgroup_protection::start),
    with(
        &[Gate::DRAResourcePoolStatus],
        "resourcepoolstatusrequest-controller",
        resourcepoolstatusrequest::start,
    ),
    on("selinux-warning-controller", selinux_warning::start),
    with(
        &[Gate::StorageVersionMigrator],
        "storage-version-migrator-controller",
        storage_version_migrator::start,
    ),
    with(
        &[Gate::APIServerIdentity, Gate::StorageVersionAPI],
        "storageversion-garbage-collector-controller",
        storageversion_garbage_collector::start,
    ),
];

/// Shorter names that older configurations use for controllers.
const ALIASES: &[(&str, &str)] = &[
    ("attachdetach", "persistentvolume-attach-detach-controller"),
    ("bootstrapsigner", "bootstrap-signer-controller"),
    ("cloud-node-lifecycle", "cloud-node-lifecycle-controller"),
    ("clusterrole-aggregation", "clusterrole-aggregation-controller"),
    ("cronjob", "cronjob-controller"),
    ("csrapproving", "certificatesigningrequest-approving-controller"),
    ("csrcleaner", "certificatesigningrequest-cleaner-controller"),
    ("csrsigning", "certificatesigningrequest-signing-controller"),
    ("daemonset", "daemonset-controller"),
    ("deployment", "deployment-controller"),
    ("disruption", "disruption-controller"),
    ("endpoint", "endpoints-controller"),
    ("endpointslice", "endpointslice-controller"),
    ("endpointslicemirroring", "endpointslice-mirroring-controller"),
    ("ephemeral-volume", "ephemeral-volume-controller"),
    ("garbagecollector", "garbage-collector-controller"),
    ("horizontalpodautoscaling", "horizontal-pod-autoscaler-controller"),
    ("job", "job-controller"),
    ("legacy-service-account-token-cleaner", "legacy-serviceaccount-token-cleaner-controller"),
    ("namespace", "namespace-controller"),
    ("nodeipam", "node-ipam-controller"),
    ("nodelifecycle", "node-lifecycle-controller"),
    ("persistentvolume-binder", "persistentvolume-binder-controller"),
    ("persistentvolume-expander", "persistentvolume-expander-controller"),
    ("podgc", "pod-garbage-collector-controller"),
    ("pv-protection", "persistentvolume-protection-controller"),
    ("pvc-protection", "persistentvolumeclaim-protection-controller"),
    ("replicaset", "replicaset-controller"),
    ("replicationcontroller", "replicationcontroller-controller"),
    ("resourcequota", "resourcequota-controller"),
    ("root-ca-cert-publisher", "root-ca-certificate-publisher-controller"),
    ("route", "node-route-controller"),
    ("service", "service-lb-controller"),
    ("service-ca-cert-publisher", "service-ca-certificate-publisher-controller"),
    ("serviceaccount", "serviceaccount-controller"),
    ("serviceaccount-token", "serviceaccount-token-controller"),
    ("statefulset", "statefulset-controller"),
    ("storage-version-gc", "storageversion-garbage-collector-controller"),
    ("svm", "storage-version-migrator-controller"),
    ("tokencleaner", "token-cleaner-controller"),
    ("ttl", "ttl-controller"),
    ("ttl-after-finished", "ttl-after-finished-controller"),
];

/// Controllers that `*` does not include.
const OFF_BY_DEFAULT: &[&str] = &[
    "bootstrap-signer-controller",
    "selinux-warning-controller",
    "service-ca-certificate-publisher-controller",
    "token-cleaner-controller",
];

/// A controller's name, whether it or its alias is given.
pub fn canonical(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, canonical)| canonical)
}

impl Context {
    /// How many workers a `--concurrent-*-syncs` flag asks for; one where there is no such flag.
    pub fn workers(&self, flag: &str) -> usize {
        self.settings.concurrency.get(flag).copied().unwrap_or(1)
    }

    /// An event recorder for a controller.
    pub fn recorder(&self, controller: &str) -> Recorder {
        Recorder::new(self.client.clone(), self.clock.clone(), controller, "", &self.tasks)
    }
}

/// Queues the key of every object that changes.
pub fn enqueue_changes<K: Object>(informer: &Informer<K>, queue: &WorkQueue<ObjectKey>) {
    let queue = queue.clone();
    informer.on_event(move |event: Event<K>| queue.add(object_key(event.object().as_ref())));
}

/// Runs `pass` now and then every `period` after it has ended, until the leadership ends. A pass that fails is
/// logged; the next one tries again.
pub(crate) fn run_every<F, Fut, E>(tasks: &Tasks, name: &'static str, period: Duration, mut pass: F)
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), E>> + Send,
    E: std::error::Error + Send + 'static,
{
    let drain = tasks.drain();
    tasks.spawn(name, async move {
        let passes = async {
            loop {
                if let Err(error) = pass().await {
                    tracing::error!(
                        controller = name,
                        error = chain(&error),
                        "a pass failed, the next tries again"
                    );
                }
                tokio::time::sleep(period).await;
            }
        };
        drain.run_until_cancelled(passes).await;
    });
}

/// Queues everything anew now and then every `period`, so that what no event told of is looked at as well.
pub(crate) fn queue_every(
    tasks: &Tasks,
    name: &'static str,
    period: Duration,
    queue_all: impl Fn() + Send + 'static,
) {
    run_every(tasks, name, period, move || {
        queue_all();
        std::future::ready(Ok::<(), Infallible>(()))
    });
}

/// The index of pods by the node they are bound to.
pub(crate) const PODS_BY_NODE: &str = "node";

/// All pods, with an index by node.
pub(crate) fn pods_by_node(ctx: &Context) -> Informer<Pod> {
    let pods = ctx.informers.get::<Pod>(ListWatch::default());
    pods.add_index(PODS_BY_NODE, |pod| pod.spec.iter().filter_map(|s| s.node_name.clone()).collect());
    pods
}

/// Upstream's controllers that are the cloud's manager's here: they may be named, and do nothing.
const OF_CLOUDS: &[&str] =
    &["cloud-node-lifecycle-controller", "node-route-controller", "service-lb-controller"];

/// Whether an entry of `--controllers` is a good one: all of them, or one to switch on or off.
pub fn is_known(entry: &str) -> bool {
    let name = canonical(entry.strip_prefix('-').unwrap_or(entry));
    entry == "*" || ALL.iter().any(|c| c.name == name) || OF_CLOUDS.contains(&name)
}

/// The controllers that run with a selection and these gates.
pub fn chosen(selection: &[String], gates: Gates) -> impl Iterator<Item = &'static Controller> {
    let is_there = move |c: &&Controller| c.gates.iter().all(|gate| gates.has(*gate));
    ALL.iter().filter(is_there).filter(|c| is_enabled(c.name, selection))
}

/// Whether `--controllers` switches a controller on. The first entry that names it decides; where none does, `*` means all
/// but those that are off by default.
pub fn is_enabled(name: &str, selection: &[String]) -> bool {
    let said = selection.iter().find_map(|entry| match entry.strip_prefix('-') {
        Some(off) => (canonical(off) == name).then_some(false),
        None => (canonical(entry) == name).then_some(true),
    });
    said.unwrap_or_else(|| !OFF_BY_DEFAULT.contains(&name) && selection.iter().any(|entry| entry == "*"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_controller_is_listed_once() {
        let names: BTreeSet<&str> = ALL.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn controllers_of_features_that_are_off_do_not_run() {
        let all = ["*".to_owned(), "device-taint-eviction-controller".to_owned()];
        let running = |gates: Gates, name: &str| chosen(&all, gates).any(|c| c.name == name);
        for controller in ALL.iter().filter(|c| !OFF_BY_DEFAULT.contains(&c.name)) {
            let needed = controller.gates.iter().fold(Gates::default(), |g, gate| g.with(*gate, true));
            assert!(running(needed, controller.name), "{}", controller.name);
            for gate in controller.gates {
                assert!(!running(needed.with(*gate, false), controller.name), "{} {gate}", controller.name);
            }
        }
    }

    #[test]
    fn controllers_are_named_or_called_by_their_aliases() {
        for entry in ["*", "ttl", "-ttl-controller", "service-ca-cert-publisher"] {
            assert!(is_known(entry), "{entry}");
        }
        assert!(!is_known("nothing") && !is_known("-nothing") && !is_known("-*"));
        assert!(ALIASES.iter().all(|(alias, name)| is_known(name) && is_known(alias)));
        assert!(OF_CLOUDS.iter().all(|name| ALL.iter().all(|c| c.name != *name)));
    }

    #[test]
    fn the_selection_follows_upstreams_rules() {
        let of = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_enabled("a", &of("*")));
        assert!(!is_enabled("a", &of("*,-a")));
        assert!(is_enabled("a", &of("a")));
        assert!(!is_enabled("b", &of("a")));
        assert!(is_enabled("a", &of("a,-a")) && !is_enabled("a", &of("-a,*,a")), "the first entry decides");
        assert!(!is_enabled("pod-garbage-collector-controller", &of("*,-podgc")));
        assert!(is_enabled("pod-garbage-collector-controller", &of("podgc")));
        assert!(!is_enabled("token-cleaner-controller", &of("*")));
        assert!(is_enabled("token-cleaner-controller", &of("*,tokencleaner")));
    }
}
