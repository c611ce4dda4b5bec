//! Roles of people and of every caller: admin, edit, view, discovery, public information.

use component_base::features::Gate;

use super::{ALL, BINDING, Binding, READ, ROLE, Role, Subject, WRITE, on, paths};

pub(super) const ROLES: &[Role] = &[
    Role { name: "admin", aggregates: "admin", rules: &[], ..ROLE },
    Role { name: "cluster-admin", rules: &[on(ALL, "*", "*"), paths(ALL, "*")], ..ROLE },
    Role { name: "edit", aggregate_to: "admin", aggregates: "edit", rules: &[], ..ROLE },
    Role {
        name: "system:aggregate-to-admin",
        aggregate_to: "admin",
        rules: &[
            on("create", "authorization.k8s.io", "localsubjectaccessreviews"),
            on(
                "create delete deletecollection get list patch update watch",
                "rbac.authorization.k8s.io",
                "rolebindings roles",
            ),
        ],
        ..ROLE
    },
    Role {
        name: "system:aggregate-to-edit",
        aggregate_to: "edit",
        rules: &[
            on(READ, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
            on("impersonate", "core", "serviceaccounts"),
            on(WRITE, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
            on("create", "core", "pods/eviction"),
            on(
                WRITE,
                "core",
                "configmaps persistentvolumeclaims replicationcontrollers \
             replicationcontrollers/scale secrets serviceaccounts services services/proxy",
            ),
            on("create", "core", "serviceaccounts/token"),
            on(WRITE, "core events.k8s.io", "events"),
            on(
                WRITE,
                "apps",
                "daemonsets deployments deployments/rollback deployments/scale replicasets \
             replicasets/scale statefulsets statefulsets/scale",
            ),
            on(WRITE, "autoscaling", "horizontalpodautoscalers"),
            on(WRITE, "batch", "cronjobs jobs"),
            on(
                WRITE,
                "extensions",
                "daemonsets deployments deployments/rollback deployments/scale ingresses \
             networkpolicies replicasets replicasets/scale replicationcontrollers/scale",
            ),
            on(WRITE, "policy", "poddisruptionbudgets"),
            on(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
            on("create delete deletecollection get list patch update watch", "coordination.k8s.io", "leases"),
            on(WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
            on(WRITE, "scheduling.k8s.io", "podgroups workloads").behind(Gate::GenericWorkload),
        ],
        ..ROLE
    },
    Role {
        name: "system:aggregate-to-view",
        aggregate_to: "view",
        rules: &[
            on(
                READ,
                "core",
                "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods \
             replicationcontrollers replicationcontrollers/scale serviceaccounts services \
             services/status",
            ),
            on(
                READ,
                "core",
                "bindings limitranges namespaces/status pods/log pods/status \
             replicationcontrollers/status resourcequotas resourcequotas/status",
            ),
            on(READ, "core", "namespaces"),
            on(READ, "core events.k8s.io", "events"),
            on(READ, "discovery.k8s.io", "endpointslices"),
            on(
                READ,
                "apps",
                "controllerrevisions daemonsets daemonsets/status deployments deployments/scale \
             deployments/status replicasets replicasets/scale replicasets/status statefulsets \
             statefulsets/scale statefulsets/status",
            ),
            on(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
            on(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
            on(
                READ,
                "extensions",
                "daemonsets daemonsets/status deployments deployments/scale deployments/status \
             ingresses ingresses/status networkpolicies replicasets replicasets/scale \
             replicasets/status replicationcontrollers/scale",
            ),
            on(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
            on(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
            on(READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
            on(READ, "scheduling.k8s.io", "podgroups podgroups/status workloads")
                .behind(Gate::GenericWorkload),
        ],
        ..ROLE
    },
    Role {
        name: "system:auth-delegator",
        rules: &[
            on("create", "authentication.k8s.io", "tokenreviews"),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
        ],
        ..ROLE
    },
    Role {
        name: "system:basic-user",
        rules: &[
            on("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            on("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
        ..ROLE
    },
    Role {
        name: "system:discovery",
        rules: &[paths(
            "get",
            "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version \
             /version/",
        )],
        ..ROLE
    },
    Role {
        name: "system:monitoring",
        rules: &[
            paths(
                "get",
                "/flagz /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/* \
             /statusz",
            ),
            on("get", "core", "nodes/metrics"),
        ],
        ..ROLE
    },
    Role {
        name: "system:public-info-viewer",
        rules: &[paths("get", "/healthz /livez /readyz /version /version/")],
        ..ROLE
    },
    Role {
        name: "system:service-account-issuer-discovery",
        rules: &[paths(
            "get",
            "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks \
             /openid/v1/jwks/",
        )],
        ..ROLE
    },
    Role { name: "view", aggregate_to: "edit", aggregates: "view", rules: &[], ..ROLE },
];

pub(super) const BINDINGS: &[Binding] = &[
    Binding {
        namespace: "",
        name: "cluster-admin",
        role: "cluster-admin",
        subjects: &[Subject::Group("system:masters")],
        ..BINDING
    },
    Binding {
        namespace: "",
        name: "system:basic-user",
        role: "system:basic-user",
        subjects: &[Subject::Group("system:authenticated")],
        ..BINDING
    },
    Binding {
        namespace: "",
        name: "system:discovery",
        role: "system:discovery",
        subjects: &[Subject::Group("system:authenticated")],
        ..BINDING
    },
    Binding {
        namespace: "",
        name: "system:monitoring",
        role: "system:monitoring",
        subjects: &[Subject::Group("system:monitoring")],
        ..BINDING
    },
    Binding {
        namespace: "",
        name: "system:public-info-viewer",
        role: "system:public-info-viewer",
        subjects: &[Subject::Group("system:authenticated"), Subject::Group("system:unauthenticated")],
        ..BINDING
    },
    Binding {
        namespace: "",
        name: "system:service-account-issuer-discovery",
        role: "system:service-account-issuer-discovery",
        subjects: &[Subject::Group("system:serviceaccounts")],
        ..BINDING
    },
];
