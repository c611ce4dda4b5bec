//! What types and fields are for, in the words of the API reference: read off k8s-openapi's JSON schemas.
//!
//! The schemas are made when a document is built and dropped after it; nothing of them stays in memory.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

/// The descriptions of all built-in types, by definition name.
pub(super) struct Descriptions(Map<String, Value>);

macro_rules! add {
    ($generator:ident, $($module:ident)::+: $($kind:ident),+) => {{
        use $($module)::+ as module;
        $( $generator.subschema_for::<module::$kind>(); )+
    }};
}

impl Descriptions {
    /// Of what all kinds have.
    pub(super) fn common() -> &'static Self {
        static COMMON: LazyLock<Descriptions> = LazyLock::new(|| {
            let mut generator = SchemaGenerator::default();
            add!(generator, k8s_openapi::api::core::v1: ConfigMap);
            Descriptions(generator.take_definitions(false))
        });
        &COMMON
    }

    /// What a field that all kinds have is for.
    pub(super) fn of_common_field(&self, field: &str) -> &str {
        self.of_field("io.k8s.api.core.v1.ConfigMap", field).unwrap_or_default()
    }

    /// Reads them.
    pub(super) fn read() -> Self {
        let mut generator = SchemaGenerator::default();
        kinds(&mut generator);
        Self(generator.take_definitions(false))
    }

    /// Of a type.
    pub(super) fn of(&self, definition: &str) -> Option<&str> {
        self.0.get(definition)?.get("description")?.as_str()
    }

    /// Of a field.
    pub(super) fn of_field(&self, definition: &str, field: &str) -> Option<&str> {
        self.0.get(definition)?.get("properties")?.get(field)?.get("description")?.as_str()
    }
}

/// The kinds whose schemas lead to all types.
fn kinds(generator: &mut SchemaGenerator) {
    add!(generator, k8s_openapi::api::admissionregistration::v1: MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration);
    add!(generator, k8s_openapi::api::admissionregistration::v1alpha1: MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding);
    add!(generator, k8s_openapi::api::admissionregistration::v1beta1: MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding);
    add!(generator, k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1: CustomResourceDefinition);
    add!(generator, k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1: APIService);
    add!(generator, k8s_openapi::api::apiserverinternal::v1alpha1: StorageVersion);
    add!(generator, k8s_openapi::api::apps::v1: ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet);
    add!(generator, k8s_openapi::api::authentication::v1: SelfSubjectReview, TokenRequest, TokenReview);
    add!(generator, k8s_openapi::api::authorization::v1: LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview);
    add!(generator, k8s_openapi::api::autoscaling::v1: HorizontalPodAutoscaler, Scale);
    add!(generator, k8s_openapi::api::autoscaling::v2: HorizontalPodAutoscaler);
    add!(generator, k8s_openapi::api::batch::v1: CronJob, Job);
    add!(generator, k8s_openapi::api::certificates::v1: CertificateSigningRequest);
    add!(generator, k8s_openapi::api::certificates::v1alpha1: ClusterTrustBundle);
    add!(generator, k8s_openapi::api::certificates::v1beta1: ClusterTrustBundle, PodCertificateRequest);
    add!(generator, k8s_openapi::api::coordination::v1: Lease);
    add!(generator, k8s_openapi::api::coordination::v1alpha2: LeaseCandidate);
    add!(generator, k8s_openapi::api::coordination::v1beta1: LeaseCandidate);
    add!(generator, k8s_openapi::api::core::v1: Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount);
    add!(generator, k8s_openapi::api::discovery::v1: EndpointSlice);
    add!(generator, k8s_openapi::api::events::v1: Event);
    add!(generator, k8s_openapi::api::flowcontrol::v1: FlowSchema, PriorityLevelConfiguration);
    add!(generator, k8s_openapi::apimachinery::pkg::apis::meta::v1: APIGroup, APIVersions, DeleteOptions, Status);
    add!(generator, k8s_openapi::api::networking::v1: IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR);
    add!(generator, k8s_openapi::api::networking::v1beta1: IPAddress, ServiceCIDR);
    add!(generator, k8s_openapi::api::node::v1: RuntimeClass);
    add!(generator, k8s_openapi::api::policy::v1: Eviction, PodDisruptionBudget);
    add!(generator, k8s_openapi::api::rbac::v1: ClusterRole, ClusterRoleBinding, Role, RoleBinding);
    add!(generator, k8s_openapi::api::resource::v1: DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice);
    add!(generator, k8s_openapi::api::resource::v1alpha3: DeviceTaintRule, ResourcePoolStatusRequest);
    add!(generator, k8s_openapi::api::resource::v1beta1: DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice);
    add!(generator, k8s_openapi::api::resource::v1beta2: DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice);
    add!(generator, k8s_openapi::api::scheduling::v1: PriorityClass);
    add!(generator, k8s_openapi::api::scheduling::v1alpha2: PodGroup, Workload);
    add!(generator, k8s_openapi::api::storage::v1: CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass);
    add!(generator, k8s_openapi::api::storage::v1beta1: VolumeAttributesClass);
    add!(generator, k8s_openapi::api::storagemigration::v1beta1: StorageVersionMigration);
}
