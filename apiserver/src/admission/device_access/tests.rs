//! Claims on devices through the guard, by who writes them and in which namespace.

use serde_json::json;

use super::*;
use crate::{
    admission::{
        Chain, PLUGINS,
        testing::{Write, parts},
    },
    auth::Decision,
    objects::memory::Memory,
};

/// Allows exactly these: verb, resource with subresource, namespace, name.
struct Allows(&'static [(&'static str, &'static str, &'static str, &'static str)]);

#[async_trait]
impl Authorizer for Allows {
    async fn authorize(&self, asked: &Attributes) -> Decision {
        let resource = format!("{}/{}", asked.resource, asked.subresource);
        let asked = (&*asked.verb, &*resource, &*asked.namespace, &*asked.name);
        if self.0.contains(&asked) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }
}

fn guard(permissions: &'static [(&'static str, &'static str, &'static str, &'static str)]) -> Chain {
    let namespace =
        |name: &str, labels: Value| (NAMESPACES, json!({"metadata": {"name": name, "labels": labels}}));
    let objects = Memory::with(vec![
        namespace("open", json!({ADMIN_LABEL: "true"})),
        namespace("closed", json!({ADMIN_LABEL: "True"})),
    ]);
    let all: Vec<String> = PLUGINS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    crate::admission::chain(&parts(objects, Arc::new(Allows(permissions))), &[], &all, &Default::default())
        .unwrap()
}

fn asking(namespace: &str, admin: bool) -> Value {
    let requests = json!([{"name": "a", "exactly": {"deviceClassName": "c"}},
        {"name": "b", "exactly": {"deviceClassName": "c", "adminAccess": admin}}]);
    json!({"metadata": {"name": "c", "namespace": namespace}, "spec": {"devices": {"requests": requests}}})
}

fn claim(status: Value) -> Value {
    json!({"metadata": {"name": "c", "namespace": "closed"}, "status": status})
}

fn causes(outcome: Result<Value, Status>) -> Vec<String> {
    let status = match outcome {
        Ok(_) => return Vec::new(),
        Err(status) => status,
    };
    assert_eq!(status.code, 422, "{status:?}");
    let causes = status.details.map(|details| details.causes).unwrap_or_default();
    causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

#[tokio::test]
async fn administrators_devices_are_for_labelled_namespaces() {
    let chain = guard(&[]);
    let label = "Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on \
                 the containing namespace";
    let path = "spec.devices.requests[1].adminAccess";
    for (namespace, admin, wrong) in [
        ("open", true, None),
        ("closed", false, None),
        ("closed", true, Some(format!("{path}: {label}"))),
        (
            "gone",
            true,
            Some(format!(
                "{path}: Internal error: could not retrieve namespace to verify admin access: namespaces \"gone\" not \
                 found"
            )),
        ),
    ] {
        let template = json!({"metadata": {"name": "t", "namespace": namespace},
            "spec": {"spec": asking(namespace, admin)["spec"]}});
        let wrong: Vec<String> = wrong.into_iter().collect();
        for (kind, object) in [(RESOURCE_CLAIMS, asking(namespace, admin)), (TEMPLATES, template)] {
            assert_eq!(causes(Write::create(kind, object).through_chain(&chain).await), wrong, "{namespace}");
        }
    }
    // What a claim asks for does not change, so that nobody asks again.
    let update = Write::update(RESOURCE_CLAIMS, asking("closed", true), asking("closed", true));
    assert_eq!(causes(update.through_chain(&chain).await), Vec::<String>::new());
}

#[tokio::test]
async fn allocation_needs_permission_to_bind_and_a_label_for_administrators() {
    let allocated = |admin: bool| {
        json!({"allocation": {"devices": {"results": [{"request": "a", "driver": "d", "pool": "p", "device": "x",
            "adminAccess": admin}]}}})
    };
    let reserved = json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]});
    let denied = "status.allocation: Forbidden: changing status.allocation or status.reservedFor requires \
                  resource=\"resourceclaims/binding\", verb=\"update\" permission: resourceclaims.resource.k8s.io is \
                  forbidden: User \"ann\" cannot update resource \"resourceclaims/binding\" in API group \
                  \"resource.k8s.io\" at the cluster scope";
    let admin = "status.allocation.devices.results[0].adminAccess: Forbidden: admin access to devices requires the \
                 `resource.kubernetes.io/admin-access: true` label on the containing namespace";
    let binds = &[("update", "resourceclaims/binding", "", "")];
    for (permissions, old, new, wrong) in [
        (&[][..], json!({}), json!({"reservedFor": []}), vec![]),
        (&[][..], json!({}), allocated(false), vec![denied]),
        (&[][..], json!({}), reserved.clone(), vec![denied]),
        (&[][..], reserved, json!({}), vec![denied]),
        (&binds[..], json!({}), allocated(false), vec![]),
        (&binds[..], json!({}), allocated(true), vec![admin]),
        (&binds[..], allocated(true), allocated(true), vec![]),
        (&binds[..], allocated(true), json!({}), vec![]),
    ] {
        let write = Write::update(RESOURCE_CLAIMS, claim(old.clone()), claim(new.clone())).through("status");
        let write = Write { user: write.user.clone(), ..write };
        let chain = guard(permissions);
        assert_eq!(causes(verb(write, &chain).await), wrong, "{old} to {new}");
    }
}

/// The write with the verb of an update, which permissions are asked for.
async fn verb(write: Write, chain: &Chain) -> Result<Value, Status> {
    Write { verb: "update", ..write }.through_chain(chain).await
}

#[tokio::test]
async fn drivers_tell_of_their_own_devices() {
    let allocation = json!({
        "nodeSelector": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]},
        "devices": {"results": []}});
    let told = |devices: Value| claim(json!({"allocation": allocation, "devices": devices}));
    let device =
        |driver: &str, data: i64| json!({"driver": driver, "pool": "p", "device": "x", "data": data});
    let account = |node: &str| User {
        name: "system:serviceaccount:closed:driver".to_owned(),
        extra: BTreeMap::from([(NODE_NAME.to_owned(), vec![node.to_owned()])]),
        ..User::default()
    };
    let any = &[("arbitrary-node:update", "resourceclaims/driver", "closed", "d.io")][..];
    let own = &[("associated-node:update", "resourceclaims/driver", "closed", "d.io")][..];
    let (none, one) = (json!([]), json!([device("d.io", 1)]));
    let (other, both) = (json!([device("d.io", 2)]), json!([device("d.io", 1), device("e.io", 1)]));
    for (permissions, user, old, new, refused) in [
        (any, User::default(), &none, &one, 0),
        (any, User::default(), &one, &other, 0),
        (any, User::default(), &one, &none, 0),
        (any, User::default(), &one, &both, 1),
        (&[][..], User::default(), &both, &both, 0),
        (&[][..], User::default(), &none, &both, 2),
        (own, account("n1"), &none, &one, 0),
        (own, account("n2"), &none, &one, 1),
        (own, User { name: "ann".to_owned(), ..account("n1") }, &none, &one, 1),
        (any, account("n2"), &none, &one, 0),
    ] {
        let write = Write::update(RESOURCE_CLAIMS, told(old.clone()), told(new.clone())).through("status");
        let wrong = causes(verb(Write { user, ..write }, &guard(permissions)).await);
        assert_eq!(wrong.len(), refused, "{old} to {new}: {wrong:?}");
        assert!(
            wrong.iter().all(|cause| cause.starts_with("status.devices: Forbidden: changing status.devices"))
        );
    }
    // Devices of a claim that is given back are dropped, whoever gives it back.
    let back = Write::update(RESOURCE_CLAIMS, told(one), claim(json!({}))).through("status");
    let binds = guard(&[("update", "resourceclaims/binding", "", "")]);
    assert_eq!(causes(verb(back, &binds).await), Vec::<String>::new());
}
