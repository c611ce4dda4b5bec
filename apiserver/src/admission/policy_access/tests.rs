//! Policies and bindings through the guard, by who writes them and what he may read.

use serde_json::json;

use super::*;
use crate::{
    admission::{
        Chain, PLUGINS,
        testing::{Write, parts},
    },
    objects::memory::Memory,
    registry::catalog,
};

/// Allows exactly these: verb, group, version, resource, namespace, name.
struct Allows(&'static [[&'static str; 6]]);

#[async_trait]
impl Authorizer for Allows {
    async fn authorize(&self, a: &Attributes) -> Decision {
        let asked: [&str; 6] = [&a.verb, &a.group, &a.version, &a.resource, &a.namespace, &a.name];
        if self.0.contains(&asked) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }
}

fn guard(permissions: &'static [[&'static str; 6]]) -> Chain {
    let policy = |name: &str, kind: Value| {
        (validating::POLICIES, json!({"metadata": {"name": name}, "spec": {"paramKind": kind}}))
    };
    let objects = Memory::with(vec![
        policy("maps", json!({"apiVersion": "v1", "kind": "ConfigMap"})),
        policy("odd", json!({"apiVersion": "a/b/c", "kind": "ConfigMap"})),
        policy("strange", json!({"apiVersion": "example.com/v1", "kind": "Widget"})),
    ]);
    let all: Vec<String> = PLUGINS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let parts = parts(objects, Arc::new(Allows(permissions)));
    parts.catalog.store(Arc::new(catalog::builtin()));
    crate::admission::chain(&parts, &[], &all, &Default::default()).unwrap()
}

fn user(groups: &[&str]) -> User {
    User {
        name: "ann".to_owned(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        ..User::default()
    }
}

async fn refusal(chain: &Chain, write: Write) -> Option<String> {
    let write = Write { user: user(&["dev"]), ..write };
    let status = write.through_chain(chain).await.err()?;
    assert_eq!(status.code, 422, "{status:?}");
    let cause = status.details.and_then(|details| details.causes.into_iter().next()).unwrap();
    Some(format!("{}: {}", cause.field, cause.message))
}

#[tokio::test]
async fn who_makes_a_policy_may_read_all_its_parameters() {
    let policy = |kind: Value| json!({"metadata": {"name": "p"}, "spec": {"paramKind": kind}});
    let maps = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let widgets = json!({"apiVersion": "example.com/v1", "kind": "Widget"});
    let refused = |kind: &str, version: &str| {
        Some(format!(
            "spec.paramKind: Forbidden: user &{{ann  [dev] map[]}} must have \"get\" permission on all objects of the \
             referenced paramKind (kind={kind}, apiVersion={version})"
        ))
    };
    let nothing = guard(&[]);
    let maps_only = guard(&[["get", "", "v1", "configmaps", "*", "*"]]);
    let any_widget = guard(&[["get", "example.com", "v1", "*", "*", "*"]]);
    for kind in [validating::POLICIES, mutating::POLICIES] {
        let made = |of: &Value| Write::create(kind, policy(of.clone()));
        assert_eq!(refusal(&nothing, made(&maps)).await, refused("ConfigMap", "v1"));
        assert_eq!(refusal(&nothing, made(&Value::Null)).await, None);
        assert_eq!(refusal(&maps_only, made(&maps)).await, None);
        assert_eq!(refusal(&maps_only, made(&widgets)).await, refused("Widget", "example.com/v1"));
        assert_eq!(refusal(&any_widget, made(&widgets)).await, None, "what it is called is not known");
        // Who changes something else reads nothing new.
        let same = Write::update(kind, policy(widgets.clone()), policy(widgets.clone()));
        assert_eq!(refusal(&nothing, same).await, None);
        let other = Write::update(kind, policy(maps.clone()), policy(widgets.clone()));
        assert_eq!(refusal(&maps_only, other).await, refused("Widget", "example.com/v1"));
        let superuser = Write { user: user(&["system:masters"]), ..made(&maps) };
        superuser.through_chain(&nothing).await.unwrap();
    }
}

#[tokio::test]
async fn who_makes_a_binding_may_read_what_it_refers_to() {
    let binding = |policy: &str, parameters: Value| json!({"metadata": {"name": "b"}, "spec": {"policyName": policy, "paramRef": parameters}});
    let (one, all) = (json!({"name": "a", "namespace": "ns"}), json!({"selector": {}}));
    let nothing = guard(&[]);
    let reader =
        guard(&[["get", "", "v1", "configmaps", "ns", "a"], ["list", "", "v1", "configmaps", "", ""]]);
    let lacks = |verb: &str| format!("user &{{ann  [dev] map[]}} does not have \"{verb}\" permission");
    let on_object = |verb: &str| {
        Some(format!("spec.paramRef: Forbidden: {} on the object referenced by paramRef", lacks(verb)))
    };
    let without = |what: &str| {
        Some(format!(
            "spec.paramRef: Forbidden: unable to {what} to determine minimum required permissions and {} for all \
             groups, versions and resources",
            lacks("get")
        ))
    };
    let made = |policy: &str, parameters: &Value| {
        Write::create(validating::BINDINGS, binding(policy, parameters.clone()))
    };
    assert_eq!(refusal(&nothing, made("maps", &one)).await, on_object("get"));
    assert_eq!(refusal(&nothing, made("maps", &all)).await, on_object("list"));
    assert_eq!(refusal(&nothing, made("gone", &one)).await, without("get policy gone"));
    let kind =
        |name: &str, version: &str| format!("paramKind &ParamKind{{Kind:{name},APIVersion:{version},}}");
    let parse = without(&format!("parse {}", kind("ConfigMap", "a/b/c")));
    assert_eq!(refusal(&nothing, made("odd", &one)).await, parse);
    let resolve = without(&format!("resolve {}", kind("Widget", "example.com/v1")));
    assert_eq!(refusal(&nothing, made("strange", &one)).await, resolve);
    assert_eq!(refusal(&reader, made("maps", &one)).await, None);
    assert_eq!(refusal(&reader, made("maps", &all)).await, None);
    assert_eq!(refusal(&nothing, made("maps", &Value::Null)).await, None);
    let change = |from: Value, to: Value| Write::update(validating::BINDINGS, from, to);
    let (here, elsewhere) = (binding("maps", one.clone()), binding("strange", one.clone()));
    assert_eq!(refusal(&nothing, change(here.clone(), here.clone())).await, None);
    assert_eq!(refusal(&nothing, change(here, elsewhere)).await, resolve);
}
