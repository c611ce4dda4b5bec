//! The names of work queues, as metrics show them: dashboards and alerts go by upstream's.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use component_base::{clock::TokioClock, informer::Informers, metrics, serving::Site, task::Tasks};
use controller_manager::controllers::{self, Context};

use crate::{
    BEGIN,
    api::{Api, Caller},
    settings,
};

/// Upstream's queues that are ours as well.
const SAME: &[&str] = &[
    "ClusterRoleAggregator",
    "bootstrap_signer_queue",
    "ca_cert_publisher_cluster_trust_bundles",
    "certificate",
    "cidrallocator_node",
    "claims",
    "cronjob",
    "daemonset",
    "deployment",
    "device-taint-eviction-controller",
    "disruption",
    "endpoint",
    "endpoint_slice",
    "endpoint_slice_mirroring",
    "ephemeral_volume",
    "garbage_collector_attempt_to_delete",
    "garbage_collector_attempt_to_orphan",
    "horizontalpodautoscaler",
    "ipaddresses",
    "job",
    "job_orphan_pod",
    "namespace",
    "node_lifecycle_controller",
    "noexec_taint_pod",
    "podgroupprotection",
    "pvcprotection",
    "pvcs",
    "pvprotection",
    "replicaset",
    "replicationmanager",
    "resource_claim",
    "resourcequota_primary",
    "resourcequota_priority",
    "root_ca_cert_publisher",
    "selinux_warning",
    "service_ca_cert_publisher",
    "serviceaccount",
    "serviceaccount_tokens_service",
    "stale_pod_disruption",
    "statefulset",
    "storage-version-migrator-controller",
    "storage_version_garbage_collector_leases",
    "storage_version_garbage_collector_storageversions",
    "token_cleaner",
    "ttl_jobs_to_delete",
    "ttlcontroller",
    "vacprotection",
    "validatingadmissionpolicy-status",
    "volume_expand",
    "volumes",
];

/// Queues of ours whose twins have no name, and so no metrics.
const NAMED: &[&str] = &["resourcepoolstatusrequest"];

#[test]
fn queues_have_upstreams_names() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let clock = TokioClock::new(BEGIN.parse().unwrap());
        let (api, tasks) = (Api::new(clock.clone()), Tasks::new());
        let client = api.client(Caller::new(false));
        let ctx = Context {
            informers: Informers::new(client.clone(), &tasks),
            client,
            tasks: tasks.clone(),
            clock: Arc::new(clock),
            settings: settings(&[
                "--allocate-node-cidrs",
                "--cluster-cidr=10.4.0.0/16",
                "--root-ca-file=KEYS/ca.crt",
                "--service-account-private-key-file=KEYS/ca.key",
                "--cluster-signing-cert-file=KEYS/ca.crt",
                "--cluster-signing-key-file=KEYS/ca.key",
                "--feature-gates=ClusterTrustBundle=true,DRADeviceTaintRules=true,DRAResourcePoolStatus=true,\
                 GenericWorkload=true,PodCertificateRequest=true,StorageVersionAPI=true,StorageVersionMigrator=true",
            ]),
            site: Site::empty(),
        };
        controllers::ALL.iter().for_each(|controller| (controller.start)(&ctx));
        tasks.shutdown(Duration::ZERO).await;
    });
    let text = String::from_utf8(metrics::encode().unwrap()).unwrap();
    let name = |line: &str| {
        let labels = line.strip_prefix("workqueue_adds_total{")?;
        Some(labels.split_once("name=\"")?.1.split_once('"')?.0.to_owned())
    };
    let found: BTreeSet<String> = text.lines().filter_map(name).collect();
    let expected: BTreeSet<String> = SAME.iter().chain(NAMED).map(|name| (*name).to_owned()).collect();
    assert_eq!(found, expected);
}
