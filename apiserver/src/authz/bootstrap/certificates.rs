//! Roles of those who request and approve certificates, by signer.

use super::{ROLE, Role, named, on};

pub(super) const ROLES: &[Role] = &[
    Role {
        name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        rules: &[on("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")],
        ..ROLE
    },
    Role {
        name: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        rules: &[on("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")],
        ..ROLE
    },
    Role {
        name: "system:certificates.k8s.io:kube-apiserver-client-approver",
        rules: &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client")],
        ..ROLE
    },
    Role {
        name: "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        rules: &[named(
            "approve",
            "certificates.k8s.io",
            "signers",
            "kubernetes.io/kube-apiserver-client-kubelet",
        )],
        ..ROLE
    },
    Role {
        name: "system:certificates.k8s.io:kubelet-serving-approver",
        rules: &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving")],
        ..ROLE
    },
    Role {
        name: "system:certificates.k8s.io:legacy-unknown-approver",
        rules: &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/legacy-unknown")],
        ..ROLE
    },
];
