//! Roles within kube-system and kube-public.

use super::{BINDING, Binding, EVENTS, READ, ROLE, Role, Subject, named, on};

pub(super) const ROLES: &[Role] = &[
    Role {
        namespace: "kube-public",
        name: "system:controller:bootstrap-signer",
        rules: &[
            on(READ, "core", "configmaps"),
            named("update", "core", "configmaps", "cluster-info"),
            EVENTS,
        ],
        ..ROLE
    },
    Role {
        namespace: "kube-system",
        name: "extension-apiserver-authentication-reader",
        rules: &[named(READ, "core", "configmaps", "extension-apiserver-authentication")],
        ..ROLE
    },
    Role {
        namespace: "kube-system",
        name: "system::leader-locking-kube-controller-manager",
        rules: &[
            on("create get list update watch", "coordination.k8s.io", "leases"),
            on("create get list update watch", "coordination.k8s.io", "leasecandidates"),
        ],
        ..ROLE
    },
    Role {
        namespace: "kube-system",
        name: "system::leader-locking-kube-scheduler",
        rules: &[
            on("create get list update watch", "coordination.k8s.io", "leases"),
            on("create get list update watch", "coordination.k8s.io", "leasecandidates"),
        ],
        ..ROLE
    },
    Role {
        namespace: "kube-system",
        name: "system:controller:bootstrap-signer",
        rules: &[on(READ, "core", "secrets")],
        ..ROLE
    },
    Role {
        namespace: "kube-system",
        name: "system:controller:cloud-provider",
        rules: &[on("create get list watch", "core", "configmaps")],
        ..ROLE
    },
    Role {
        namespace: "kube-system",
        name: "system:controller:token-cleaner",
        rules: &[on("delete get list watch", "core", "secrets"), EVENTS],
        ..ROLE
    },
];

pub(super) const BINDINGS: &[Binding] = &[
    Binding {
        namespace: "kube-public",
        name: "system:controller:bootstrap-signer",
        role: "system:controller:bootstrap-signer",
        subjects: &[Subject::ServiceAccount("kube-system", "bootstrap-signer")],
        ..BINDING
    },
    Binding {
        namespace: "kube-system",
        name: "system::extension-apiserver-authentication-reader",
        role: "extension-apiserver-authentication-reader",
        subjects: &[Subject::User("system:kube-controller-manager"), Subject::User("system:kube-scheduler")],
        ..BINDING
    },
    Binding {
        namespace: "kube-system",
        name: "system::leader-locking-kube-controller-manager",
        role: "system::leader-locking-kube-controller-manager",
        subjects: &[
            Subject::User("system:kube-controller-manager"),
            Subject::ServiceAccount("kube-system", "kube-controller-manager"),
            Subject::ServiceAccount("kube-system", "leader-election-controller"),
        ],
        ..BINDING
    },
    Binding {
        namespace: "kube-system",
        name: "system::leader-locking-kube-scheduler",
        role: "system::leader-locking-kube-scheduler",
        subjects: &[
            Subject::User("system:kube-scheduler"),
            Subject::ServiceAccount("kube-system", "kube-scheduler"),
        ],
        ..BINDING
    },
    Binding {
        namespace: "kube-system",
        name: "system:controller:bootstrap-signer",
        role: "system:controller:bootstrap-signer",
        subjects: &[Subject::ServiceAccount("kube-system", "bootstrap-signer")],
        ..BINDING
    },
    Binding {
        namespace: "kube-system",
        name: "system:controller:cloud-provider",
        role: "system:controller:cloud-provider",
        subjects: &[Subject::ServiceAccount("kube-system", "cloud-provider")],
        ..BINDING
    },
    Binding {
        namespace: "kube-system",
        name: "system:controller:token-cleaner",
        role: "system:controller:token-cleaner",
        subjects: &[Subject::ServiceAccount("kube-system", "token-cleaner")],
        ..BINDING
    },
];
