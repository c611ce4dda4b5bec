//! Which events upstream's controllers record, and where ours are. Read from the sources: a reason that is renamed or lost
//! shows here.

use std::{fs, path::Path};

/// Reasons of events, by the files of who records them.
const TOLD: &[(&[&str], &[&str])] = &[
    (&["attach_detach"], &["FailedAttachVolume", "SuccessfulAttachVolume"]),
    (
        &["cronjob"],
        &[
            "FailedCreate",
            "FailedDelete",
            "InvalidSchedule",
            "JobAlreadyActive",
            "MissSchedule",
            "MissingJob",
            "SawCompletedJob",
            "SuccessfulCreate",
            "SuccessfulDelete",
            "TooManyMissedTimes",
            "UnParseableCronJobSchedule",
            "UnexpectedJob",
            "UnknownTimeZone",
            "UnparseableSchedule",
            "UnsupportedSchedule",
        ],
    ),
    (&["daemonset"], &["FailedDaemonPod", "SelectingAll", "SucceededDaemonPod"]),
    (
        &["deployment"],
        &[
            "DeploymentRollback",
            "DeploymentRollbackRevisionNotFound",
            "DeploymentRollbackTemplateUnchanged",
            "ReplicaSetCreateError",
            "ScalingReplicaSet",
            "SelectingAll",
        ],
    ),
    (&["device_taint_eviction"], &["DeviceTaintManagerEviction"]),
    (
        &["disruption"],
        &[
            "CalculateExpectedPodCountFailed",
            "MultiplePodDisruptionBudgets",
            "NoPods",
            "NotDeleted",
            "UnmanagedPods",
        ],
    ),
    (&["endpoints"], &["FailedToCreateEndpoint", "FailedToUpdateEndpoint"]),
    (
        &["endpointslice"],
        &["FailedToUpdateEndpointSlices", "TopologyAwareHintsDisabled", "TopologyAwareHintsEnabled"],
    ),
    (&["endpointslice_mirroring"], &["InvalidIPAddress", "TooManyAddressesToMirror"]),
    (&["ephemeral_volume"], &["FailedBinding"]),
    (&["garbage_collector"], &["OwnerRefInvalidNamespace"]),
    (
        &["horizontalpodautoscaler"],
        &[
            "AmbiguousSelector",
            "FailedComputeMetricsReplicas",
            "FailedGetContainerResourceMetric",
            "FailedGetExternalMetric",
            "FailedGetObjectMetric",
            "FailedGetPodsMetric",
            "FailedGetResourceMetric",
            "FailedGetScale",
            "FailedRescale",
            "FailedUpdateStatus",
            "InvalidMetricSourceType",
            "InvalidSelector",
            "SelectorRequired",
            "SuccessfulRescale",
        ],
    ),
    (
        &["job"],
        &[
            "Completed",
            "Resumed",
            "Suspended",
            "TooManySucceededPods",
            "UnknownCompletionMode",
            "WorkloadCreated",
        ],
    ),
    (&["node_ipam"], &["CIDRAssignmentFailed", "CIDRNotAvailable"]),
    (&["node_lifecycle"], &["NodeNotReady", "RegisteredNode", "RemovingNode"]),
    (
        &["persistentvolume_binder"],
        &[
            "ClaimLost",
            "ClaimMisbound",
            "ExternalProvisioning",
            "FailedBinding",
            "ProvisioningFailed",
            "ProvisioningSucceeded",
            "RecyclerPod",
            "VolumeFailedDelete",
            "VolumeFailedRecycle",
            "VolumeMismatch",
            "VolumeRecycled",
            "VolumeUnknownReclaimPolicy",
            "WaitForFirstConsumer",
            "WaitForPodScheduled",
        ],
    ),
    (&["persistentvolume_expander"], &["ExternalExpanding"]),
    // Of pods that are made and deleted for whoever owns them; the first half of the reason says how it went.
    (&["pod_control"], &["Create", "Delete", "Failed", "Successful", "Update"]),
    (&["resource_claim"], &["FailedResourceClaimCreation"]),
    (&["selinux_warning"], &["MultipleSELinuxLabels", "SELinuxLabelConflict", "SELinuxChangePolicyConflict"]),
    (&["service_cidr"], &["KubernetesServiceCIDRError"]),
    (&["statefulset"], &["ConflictingController", "FailedCreate", "SuccessfulCreate"]),
    (&["taint_eviction"], &["TaintManagerEviction"]),
];

/// What upstream records and nothing here does, and why.
const UNTOLD: &[(&str, &[&str], &str)] = &[
    ("cronjob", &["FailedGet"], "jobs to be replaced are taken from the cache, not asked for"),
    ("endpointslice", &["FailedToListPods", "FailedToListEndpointSlices"], "caches do not fail"),
    (
        "persistentvolume_binder",
        &["ProvisioningCleanupFailed", "VolumeDelete"],
        "a path that was made is its claim's own and is found again; deleting one is never put off",
    ),
];

/// The program text of a controller, without its tests.
fn source(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/controllers");
    let (mut all, mut folders) = (String::new(), vec![folder.join(name)]);
    let mut files = vec![folder.join(format!("{name}.rs"))];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|file| file != "tests.rs") {
                files.push(path);
            }
        }
    }
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        all.push_str(text.split("\nmod tests {").next().unwrap());
    }
    all
}

#[test]
fn events_have_upstreams_reasons() {
    for (files, reasons) in TOLD {
        let written: String = files.iter().map(|file| source(file)).collect();
        for reason in *reasons {
            assert!(written.contains(&format!("\"{reason}\"")), "{files:?} never says {reason}");
        }
    }
}

#[test]
fn what_is_said_to_be_missing_is() {
    for (file, reasons, why) in UNTOLD {
        let written = source(file);
        for reason in *reasons {
            assert!(
                !written.contains(&format!("\"{reason}\"")),
                "{file} says {reason}, and is said not to: {why}"
            );
        }
    }
}
