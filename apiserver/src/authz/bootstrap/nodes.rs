//! Roles of kubelets. The Node authorizer, not a binding, grants `system:node` to nodes.

use component_base::features::Gate;

use super::{BINDING, Binding, EVENTS, READ, ROLE, Role, on};

pub(super) const ROLES: &[Role] = &[
    Role {
        name: "system:node",
        rules: &[
            on("create", "authentication.k8s.io", "tokenreviews"),
            on("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
            on(READ, "core", "services"),
            on("create get list watch", "core", "nodes"),
            on("patch update", "core", "nodes/status"),
            on("patch update", "core", "nodes"),
            EVENTS,
            on(READ, "core", "pods"),
            on("create delete", "core", "pods"),
            on("patch update", "core", "pods/status"),
            on("create", "core", "pods/eviction"),
            on(READ, "core", "configmaps secrets"),
            on("get", "core", "persistentvolumeclaims persistentvolumes"),
            on("get", "core", "endpoints"),
            on("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            on("create delete get patch update", "coordination.k8s.io", "leases"),
            on("get", "storage.k8s.io", "volumeattachments"),
            on("create", "core", "serviceaccounts/token"),
            on("get patch update", "core", "persistentvolumeclaims/status"),
            on(READ, "storage.k8s.io", "csidrivers"),
            on("create delete get patch update", "storage.k8s.io", "csinodes"),
            on(READ, "node.k8s.io", "runtimeclasses"),
            on("get", "resource.k8s.io", "resourceclaims"),
            on("deletecollection", "resource.k8s.io", "resourceslices"),
            on(READ, "certificates.k8s.io", "clustertrustbundles").behind(Gate::ClusterTrustBundle),
            on("get", "core", "serviceaccounts")
                .behind(Gate::KubeletServiceAccountTokenForCredentialProviders),
            on("create get list watch", "certificates.k8s.io", "podcertificaterequests")
                .behind(Gate::PodCertificateRequest),
        ],
        ..ROLE
    },
    Role {
        name: "system:node-bootstrapper",
        rules: &[on("create get list watch", "certificates.k8s.io", "certificatesigningrequests")],
        ..ROLE
    },
];

pub(super) const BINDINGS: &[Binding] =
    &[Binding { namespace: "", name: "system:node", role: "system:node", subjects: &[], ..BINDING }];
