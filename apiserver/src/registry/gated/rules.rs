//! What is wrong with an object only because a gate is off. What is wrong already may stay.
//!
//! Contract: the options that upstream's `pkg/api/pod` makes of gates, as `pkg/apis/core/validation` follows them.

use component_base::features::{Gate, Gates};
use serde_json::Value;

use super::{PODS, steps};
use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        kit::{at::At, items, semantic, text},
        pod_spec,
    },
    validate,
};

/// Adds what is wrong with an object, or with what an update through a view makes of it.
pub(in crate::registry) fn check(
    (group, plural): (&str, &str),
    new: &Object,
    (old, view): (Option<&Object>, &str),
    gates: Gates,
    errors: &mut ErrorList,
) {
    match (group, plural, view) {
        ("", "services", "") if old.is_none() && !gates.has(Gate::RelaxedServiceNameValidation) => {
            check_service_name(new, errors);
        }
        ("networking.k8s.io", "ingresses", "") if !gates.has(Gate::RelaxedServiceNameValidation) => {
            check_backends(new, old, errors);
        }
        ("", "pods", "status") if gates.has(Gate::ClearingNominatedNodeNameAfterBinding) => {
            check_nominated(new, old, errors);
        }
        _ => {}
    }
    let Some((.., root)) = PODS.iter().find(|(of, kind, _)| *of == group && *kind == plural) else { return };
    let pointer = format!("/{root}");
    let Some(spec) = new.pointer(&pointer) else { return };
    let before = old.and_then(|old| old.pointer(&pointer));
    let path = steps(root, "").iter().fold(Path::root(), |path, step| path.child(step));
    match view {
        "resize" => check_resize(spec, before.unwrap_or(&Value::Null), &path, gates, errors),
        "" => {
            if !gates.has(Gate::UserNamespacesHostNetworkSupport)
                && on_host_network_with_own_users(spec)
                && !before.is_some_and(on_host_network_with_own_users)
            {
                errors.push(Error::forbidden(&path.child("hostNetwork"), "when `hostUsers` is false"));
            }
            if !gates.has(Gate::RestartAllContainersOnContainerExits) && !before.is_some_and(restarts_all) {
                check_restarts(spec, &path, errors);
            }
            let tolerations = |spec| At::new(spec, path.clone()).get("tolerations");
            let compares = before.is_some_and(|old| pod_spec::compares(&tolerations(old)));
            let allowed = compares || gates.has(Gate::TaintTolerationComparisonOperators);
            pod_spec::check_comparing(&tolerations(spec), allowed, errors);
            let merges = Gate::MatchLabelKeysInPodTopologySpreadSelectorMerge;
            if !gates.has(merges) && before.is_none_or(|old| twice(old).next().is_none()) {
                let at = path.child("topologySpreadConstraints");
                for (i, j, key) in twice(spec) {
                    let at = at.index(i).child("matchLabelKeys").index(j);
                    errors.push(Error::invalid(&at, key, "exists in both matchLabelKeys and labelSelector"));
                }
            }
        }
        _ => {}
    }
}

/// Names of services as they were for long: with a letter in front.
fn check_service_name(service: &Object, errors: &mut ErrorList) {
    let name = service.name();
    if is_relaxed(name) {
        let path = Path::new("metadata").child("name");
        validate::dns_1035_label(name)
            .into_iter()
            .for_each(|why| errors.push(Error::invalid(&path, name, why)));
    }
}

/// Whether a name is one that services have only since there is less to names.
fn is_relaxed(name: &str) -> bool {
    validate::dns_label(name, false).is_empty() && !validate::dns_1035_label(name).is_empty()
}

/// Services an ingress leads to have such names, unless one of them had another already.
fn check_backends(new: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    if old.is_some_and(|old| backends(old).iter().any(|name| is_relaxed(name.text()))) {
        return;
    }
    for name in backends(new).into_iter().filter(|name| is_relaxed(name.text())) {
        name.check_format(errors, validate::dns_1035_label);
    }
}

/// The names of services an ingress leads to.
fn backends(ingress: &Object) -> Vec<At<'_>> {
    let spec = At::spec(ingress);
    let paths = spec.get("rules").items().flat_map(|rule| rule.get("http").get("paths").items());
    let all = [spec.get("defaultBackend")].into_iter().chain(paths.map(|path| path.get("backend")));
    all.map(|backend| backend.get("service").get("name")).filter(At::is_set).collect()
}

fn check_nominated(new: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let Some(old) = old.filter(|old| !At::spec(*old).text_of("nodeName").is_empty()) else { return };
    let node = At::status(new).get("nominatedNodeName");
    if !node.is_empty() && node.text() != At::status(old).text_of("nominatedNodeName") {
        node.forbidden(errors, "may not be set on pods that are already bound to a node");
    }
}

/// Whether users in a pod are its own, and its network is its node's.
fn on_host_network_with_own_users(spec: &Value) -> bool {
    spec.get("hostUsers") == Some(&Value::Bool(false)) && spec.get("hostNetwork") == Some(&Value::Bool(true))
}

const ALL: &str = "RestartAllContainers";
const LISTS: [&str; 2] = ["initContainers", "containers"];

fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

/// Whether containers of a pod have the others restarted, or sidecars have rules.
fn restarts_all(spec: &Value) -> bool {
    LISTS.iter().any(|list| {
        items(spec.get(*list)).any(|container| {
            let mut rules = items(container.get("restartPolicyRules")).peekable();
            (*list == "initContainers" && is_sidecar(container) && rules.peek().is_some())
                || rules.any(|rule| text(rule, "/action") == ALL)
        })
    })
}

fn check_restarts(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for list in LISTS {
        for (i, container) in items(spec.get(list)).enumerate() {
            let at = path.child(list).index(i).child("restartPolicyRules");
            let rules = items(container.get("restartPolicyRules"));
            if list == "initContainers" && is_sidecar(container) {
                if rules.count() > 0 {
                    let why =
                        "restartPolicyRules are not allowed for init containers with restart policy Always";
                    errors.push(Error::forbidden(&at, why));
                }
                continue;
            }
            for (j, _) in rules.enumerate().filter(|(_, rule)| text(rule, "/action") == ALL) {
                errors.push(Error::not_supported(&at.index(j).child("action"), ALL, &["Restart"]));
            }
        }
    }
}

/// Keys that a constraint has as such and in its selector: its place, theirs, and what they are.
fn twice(spec: &Value) -> impl Iterator<Item = (usize, usize, &str)> {
    items(spec.get("topologySpreadConstraints")).enumerate().flat_map(|(i, constraint)| {
        let selector = constraint.get("labelSelector");
        let in_labels = move |key: &str| {
            let labels = selector.and_then(|selector| selector.get("matchLabels")?.as_object());
            labels.is_some_and(|labels| labels.contains_key(key))
                || items(selector.and_then(|selector| selector.get("matchExpressions")))
                    .any(|expression| text(expression, "/key") == key)
        };
        let keys = items(constraint.get("matchLabelKeys")).enumerate();
        keys.filter_map(move |(j, key)| Some((i, j, key.as_str().filter(|key| in_labels(key))?)))
    })
}

fn check_resize(new: &Value, old: &Value, path: &Path, gates: Gates, errors: &mut ErrorList) {
    let has_own = |spec: &Value| {
        let of = |field: &str| {
            spec.pointer(&format!("/resources/{field}"))
                .and_then(Value::as_object)
                .is_some_and(|all| !all.is_empty())
        };
        of("requests") || of("limits")
    };
    if !gates.has(Gate::InPlacePodLevelResourcesVerticalScaling) && (has_own(new) || has_own(old)) {
        let why = "resize of pods with pod-level resources is forbidden when \
                   InPlacePodLevelResourcesVerticalScalingEnabled feature gate is disabled";
        errors.push(Error::forbidden(&Path::new(""), why));
    }
    if !gates.has(Gate::InPlacePodVerticalScalingInitContainers) {
        let both = items(new.get("initContainers")).zip(items(old.get("initContainers")));
        for _ in both.filter(|(new, old)| !is_sidecar(new) && !semantic::same(new, old)) {
            errors.push(Error::forbidden(path, "resources for non-sidecar init containers are immutable"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::testing::{Kind, changed};

    #[test]
    fn services_have_letters_in_front_where_names_are_not_relaxed() {
        let old = || Kind::new("", "services").without(&[Gate::RelaxedServiceNameValidation]);
        let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 1}]}});
        let told = old().errors(service("1a"));
        assert!(
            told.len() == 1 && told[0].starts_with("metadata.name: Invalid value: \"1a\": a DNS-1035 label")
        );
        assert!(old().errors(service("a1")).is_empty());
        assert!(Kind::new("", "services").errors(service("1a")).is_empty());
        let ingress = |name: &str| json!({"metadata": {"name": "i"}, "spec": {"defaultBackend": {"service": {"name": name, "port": {"number": 1}}}}});
        let ingresses = Kind::new("networking.k8s.io", "ingresses");
        let (known, good) = ingresses.create(ingress("1a"));
        assert!(good.is_empty(), "{good:?}");
        let strict = ingresses.without(&[Gate::RelaxedServiceNameValidation]);
        let told = strict.errors(ingress("1a"));
        assert!(
            told.len() == 1 && told[0].starts_with("spec.defaultBackend.service.name: Invalid value: \"1a\"")
        );
        let other = changed(&known, &[("/spec/defaultBackend/service/name", json!("2b"))]);
        assert!(strict.update(other, known, "").1.is_empty(), "it had such a name");
    }

    #[test]
    fn users_of_pods_are_kept_from_networks_of_nodes() {
        let pods = || Kind::new("", "pods");
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"hostUsers": false, "hostNetwork": true,
            "containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(pods().errors(pod.clone()), ["spec.hostNetwork: Forbidden: when `hostUsers` is false"]);
        let open = pods().with(&[Gate::UserNamespacesHostNetworkSupport]);
        let (there, good) = open.create(pod);
        assert!(good.is_empty(), "{good:?}");
        let labelled = changed(&there, &[("/metadata/labels", json!({"a": "b"}))]);
        assert!(pods().update(labelled, there, "").1.is_empty(), "it is there already");
    }

    #[test]
    fn tolerations_compare_numbers_where_there_are_such_operators() {
        let pods = || Kind::new("", "pods");
        let open = || pods().with(&[Gate::TaintTolerationComparisonOperators]);
        let pod = |value: &str| {
            json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
                "containers": [{"name": "c", "image": "i"}],
                "tolerations": [{"key": "k", "operator": "Gt", "value": value}]}})
        };
        let unsupported = r#"spec.tolerations[0].operator: Unsupported value: "Gt": supported values: "Equal", "Exists", "Lt", "Gt""#;
        assert_eq!(pods().errors(pod("many")), [unsupported]);
        let told = open().errors(pod("many"));
        assert!(
            !told.is_empty() && told.iter().all(|e| e.starts_with("spec.tolerations[0].value: ")),
            "{told:?}"
        );
        let (there, good) = open().create(pod("-5"));
        assert!(good.is_empty(), "{good:?}");
        let more = json!([{"key": "k", "operator": "Gt", "value": "-5"}, {"key": "l", "operator": "Lt", "value": "1"}]);
        let changed = changed(&there, &[("/spec/tolerations", more)]);
        assert!(pods().update(changed, there, "").1.is_empty(), "there are such tolerations already");
    }

    #[test]
    fn bound_pods_are_nominated_where_nobody_forgets() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
            "containers": [{"name": "c", "image": "i"}]}});
        let (pod, _) = Kind::new("", "pods").create(pod);
        let bound = changed(&pod, &[("/spec/nodeName", json!("m"))]);
        let nominated = changed(&bound, &[("/status/nominatedNodeName", json!("o"))]);
        let told = |kind: Kind| kind.update(nominated.clone(), bound.clone(), "status").1;
        assert_eq!(
            told(Kind::new("", "pods")),
            ["status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"]
        );
        let off = Kind::new("", "pods").without(&[Gate::ClearingNominatedNodeNameAfterBinding]);
        assert_eq!(told(off), Vec::<String>::new());
    }
}
