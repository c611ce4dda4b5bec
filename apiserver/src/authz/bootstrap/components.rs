//! Roles of the daemons and add-ons that are not controllers.

use component_base::features::Gate;

use super::{ALL, BINDING, Binding, EVENTS, READ, ROLE, Role, Subject, named, on};

pub(super) const ROLES: &[Role] = &[
    Role {
        name: "system:cluster-trust-bundle-discovery",
        rules: &[on(READ, "certificates.k8s.io", "clustertrustbundles")],
        gate: Some(Gate::ClusterTrustBundle),
        ..ROLE
    },
    Role {
        name: "system:heapster",
        rules: &[on(READ, "core", "events namespaces nodes pods"), on(READ, "extensions", "deployments")],
        ..ROLE
    },
    Role { name: "system:kube-aggregator", rules: &[on(READ, "core", "endpoints services")], ..ROLE },
    Role {
        name: "system:kube-controller-manager",
        rules: &[
            EVENTS,
            on("create", "coordination.k8s.io", "leases"),
            named("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
            on("create", "core", "secrets serviceaccounts"),
            on("delete", "core", "secrets"),
            on("get", "core", "configmaps namespaces secrets serviceaccounts"),
            on("update", "core", "secrets serviceaccounts"),
            on("create", "authentication.k8s.io", "tokenreviews"),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
            on("list watch", "*", "*"),
            on("create", "core", "serviceaccounts/token"),
        ],
        ..ROLE
    },
    Role { name: "system:kube-dns", rules: &[on("list watch", "core", "endpoints services")], ..ROLE },
    Role {
        name: "system:kube-scheduler",
        rules: &[
            EVENTS,
            on("create", "coordination.k8s.io", "leases"),
            named("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
            on(
                "create delete deletecollection get list patch update watch",
                "coordination.k8s.io",
                "leasecandidates",
            ),
            on(READ, "core", "nodes"),
            on("delete get list watch", "core", "pods"),
            on("create", "core", "bindings pods/binding"),
            on("patch update", "core", "pods/status"),
            on(READ, "core", "replicationcontrollers services"),
            on(READ, "apps extensions", "replicasets"),
            on(READ, "apps", "statefulsets"),
            on(READ, "policy", "poddisruptionbudgets"),
            on(READ, "core", "persistentvolumeclaims persistentvolumes"),
            on("create", "authentication.k8s.io", "tokenreviews"),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
            on(READ, "storage.k8s.io", "csinodes"),
            on(READ, "storage.k8s.io", "volumeattachments"),
            on(READ, "core", "namespaces"),
            on(READ, "storage.k8s.io", "csidrivers"),
            on(READ, "storage.k8s.io", "csistoragecapacities"),
            on(READ, "resource.k8s.io", "deviceclasses"),
            on("get list patch update watch", "resource.k8s.io", "resourceclaims"),
            on("get list patch update watch", "resource.k8s.io", "resourceclaims/status"),
            on("update", "core", "pods/finalizers"),
            on(READ, "resource.k8s.io", "resourceslices"),
            on("create delete", "resource.k8s.io", "resourceclaims").behind(Gate::DRAExtendedResource),
            on(READ, "resource.k8s.io", "devicetaintrules").behind(Gate::DRADeviceTaintRules),
            on("patch update", "resource.k8s.io", "resourceclaims/binding")
                .behind(Gate::DRAResourceClaimGranularStatusAuthorization),
            on(READ, "scheduling.k8s.io", "podgroups").behind(Gate::GenericWorkload),
            on("patch update", "scheduling.k8s.io", "podgroups/status").behind(Gate::GenericWorkload),
        ],
        ..ROLE
    },
    Role {
        name: "system:kubelet-api-admin",
        rules: &[
            on(READ, "core", "nodes"),
            on("proxy", "core", "nodes"),
            on(ALL, "core", "nodes/log nodes/metrics nodes/proxy nodes/stats"),
            on(ALL, "core", "nodes/configz nodes/healthz nodes/pods"),
        ],
        ..ROLE
    },
    Role {
        name: "system:node-problem-detector",
        rules: &[on("get", "core", "nodes"), on("patch", "core", "nodes/status"), EVENTS],
        ..ROLE
    },
    Role {
        name: "system:node-proxier",
        rules: &[
            on("list watch", "core", "endpoints services"),
            on(READ, "core", "nodes"),
            EVENTS,
            on("list watch", "networking.k8s.io", "servicecidrs"),
            on("list watch", "discovery.k8s.io", "endpointslices"),
        ],
        ..ROLE
    },
    Role {
        name: "system:persistent-volume-provisioner",
        rules: &[
            on("create delete get list watch", "core", "persistentvolumes"),
            on("get list update watch", "core", "persistentvolumeclaims"),
            on(READ, "storage.k8s.io", "storageclasses"),
            on("watch", "core", "events"),
            EVENTS,
        ],
        ..ROLE
    },
    Role {
        name: "system:volume-scheduler",
        rules: &[
            on("get list patch update watch", "core", "persistentvolumes"),
            on(READ, "storage.k8s.io", "storageclasses"),
            on("get list patch update watch", "core", "persistentvolumeclaims"),
        ],
        ..ROLE
    },
];

pub(super) const BINDINGS: &[Binding] = &[
    Binding {
        name: "system:cluster-trust-bundle-discovery",
        role: "system:cluster-trust-bundle-discovery",
        subjects: &[Subject::Group("system:serviceaccounts")],
        gate: Some(Gate::ClusterTrustBundle),
        ..BINDING
    },
    Binding {
        namespace: "",
        name: "system:kube-controller-manager",
        role: "system:kube-controller-manager",
        subjects: &[Subject::User("system:kube-controller-manager")],
        ..BINDING
    },
    Binding {
        namespace: "",
        name: "system:kube-dns",
        role: "system:kube-dns",
        subjects: &[Subject::ServiceAccount("kube-system", "kube-dns")],
        ..BINDING
    },
    Binding {
        namespace: "",
        name: "system:kube-scheduler",
        role: "system:kube-scheduler",
        subjects: &[Subject::User("system:kube-scheduler")],
        ..BINDING
    },
    Binding {
        namespace: "",
        name: "system:node-proxier",
        role: "system:node-proxier",
        subjects: &[Subject::User("system:kube-proxy")],
        ..BINDING
    },
    Binding {
        namespace: "",
        name: "system:volume-scheduler",
        role: "system:volume-scheduler",
        subjects: &[Subject::User("system:kube-scheduler")],
        ..BINDING
    },
];
