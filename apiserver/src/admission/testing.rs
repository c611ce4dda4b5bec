//! Requests for the tests of plugins.

use std::sync::Arc;

use arc_swap::ArcSwap;
use component_base::features::{Gate, Gates};
use serde_json::{Value, json};

use super::{Chain, Configurations, Operation, Parts, Reinvocation, Request, chain};
use crate::{
    auth::{Attributes, Authorizer, User},
    authz::{Mode, build},
    object::Object,
    objects::{Kind, NAMESPACES, memory::Memory},
    registry::{Resource, Strategy, catalog::Catalog},
    status::Status,
};

struct Plain;

impl Strategy for Plain {}

/// One write as a test states it.
pub(crate) struct Write {
    pub(crate) user: User,
    pub(crate) operation: Operation,
    pub(crate) kind: Kind,
    pub(crate) subresource: &'static str,
    pub(crate) verb: &'static str,
    pub(crate) object: Value,
    pub(crate) old: Value,
}

impl Write {
    pub(crate) fn create(kind: Kind, object: Value) -> Self {
        let user = User { name: "ann".to_owned(), ..User::default() };
        Self { user, operation: Operation::Create, kind, subresource: "", verb: "", object, old: Value::Null }
    }

    pub(crate) fn update(kind: Kind, old: Value, object: Value) -> Self {
        Self { operation: Operation::Update, old, ..Self::create(kind, object) }
    }

    pub(crate) fn delete(kind: Kind, old: Value) -> Self {
        Self { operation: Operation::Delete, old, ..Self::create(kind, Value::Null) }
    }

    pub(crate) fn by_node(self, node: &str) -> Self {
        let user = User {
            name: format!("system:node:{node}"),
            groups: vec!["system:nodes".to_owned()],
            ..User::default()
        };
        Self { user, ..self }
    }

    pub(crate) fn through(self, subresource: &'static str) -> Self {
        Self { subresource, ..self }
    }

    /// Runs the named plugins, mutation then validation; the object as it came out.
    pub(crate) async fn run(self, objects: &Arc<Memory>, plugins: &[&str]) -> Result<Value, Status> {
        self.through_chain(&configured_over(objects, plugins, &Configurations::default()).unwrap()).await
    }

    /// As [`Write::run`], through plugins made before.
    pub(crate) async fn through_chain(self, chain: &Chain) -> Result<Value, Status> {
        let of = |v: Value| (!v.is_null()).then(|| Object::from_value(v).unwrap());
        let (mut object, old) = (of(self.object), of(self.old));
        let shown = object.as_ref().or(old.as_ref()).unwrap();
        let attributes = Attributes {
            user: Arc::new(self.user),
            verb: self.verb.into(),
            namespace: shown.namespace().into(),
            group: self.kind.group.into(),
            resource: self.kind.resource.into(),
            subresource: self.subresource.into(),
            name: shown.name().into(),
            is_resource: true,
            ..Attributes::default()
        };
        let resource = Arc::new(resource(self.kind));
        let options = Object::new();
        let mut warnings = Vec::new();
        let mut request = Request {
            attributes: &attributes,
            resource: &resource,
            operation: self.operation,
            object: object.as_mut(),
            old: old.as_ref(),
            options: &options,
            dry_run: false,
            warnings: &mut warnings,
            reinvocation: Reinvocation::default(),
        };
        chain.admit(&mut request).await?;
        chain.validate(&mut request).await?;
        Ok(object.map(Object::into_value).unwrap_or_default())
    }
}

/// A namespace with annotations.
pub(crate) fn namespace(name: &str, annotations: Value) -> (Kind, Value) {
    (NAMESPACES, json!({"metadata": {"name": name, "annotations": annotations}}))
}

/// The named plugins with configurations, over no objects.
pub(crate) fn configured(plugins: &[&str], configurations: &Configurations) -> Result<Chain, String> {
    configured_over(&Memory::with(Vec::new()), plugins, configurations)
}

/// The named plugins with configurations.
pub(crate) fn configured_over(
    objects: &Arc<Memory>,
    plugins: &[&str],
    configurations: &Configurations,
) -> Result<Chain, String> {
    let parts = parts(objects.clone(), build(&[Mode::AlwaysDeny]).authorizer);
    let wanted: Vec<String> = plugins.iter().map(|p| (*p).to_owned()).collect();
    let others: Vec<String> =
        super::PLUGINS.iter().map(|(n, ..)| (*n).to_owned()).filter(|n| !wanted.contains(n)).collect();
    chain(&parts, &wanted, &others, configurations)
}

/// Parts without RBAC.
pub(crate) fn parts(objects: Arc<Memory>, authorizer: Arc<dyn Authorizer>) -> Parts {
    let webhooks = Arc::new(crate::webhook::Clients::new(
        objects.clone(),
        false,
        "admission",
        crate::egress::Egress::default(),
    ));
    let catalog = Arc::new(ArcSwap::from_pointee(Catalog::default()));
    // Plugins of kinds behind gates have something to do.
    let gates = [
        Gate::GenericWorkload,
        Gate::GangScheduling,
        Gate::PodCertificateRequest,
        Gate::WorkloadAwarePreemption,
    ];
    let gates = gates.into_iter().fold(Gates::default(), |all, gate| all.with(gate, true));
    Parts {
        objects,
        authorizer,
        rbac: None,
        catalog,
        webhooks,
        toleration_seconds: (300, 300),
        gates,
        directories: super::Directories::default(),
    }
}

fn resource(kind: Kind) -> Resource {
    Resource {
        group: kind.group,
        versions: &["v1"],
        storage_version: "v1",
        kind: "Thing",
        plural: kind.resource,
        singular: "thing",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: &[],
        subresources: &[],
        storage_prefix: kind.resource,
        selectable: &[],
        columns: &[],
        gate: None,
        returns_deleted: false,
        strategy: Arc::new(Plain),
    }
}
