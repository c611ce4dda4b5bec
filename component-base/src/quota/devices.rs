//! What claims of devices use of a quota: by the class of the devices, and by the extended resource that a class stands for
//! (KEP-4381, KEP-5004).

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Amounts, Fields, add, items};
use crate::quantity::{Format, Quantity};

/// What limits on devices of a class end in.
pub const OF_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// What limits on the extended resource that is named after a class begin with.
const AFTER_CLASS: &str = "requests.deviceclass.resource.kubernetes.io/";
/// Most devices of one request, which is what "all" may come to.
const MOST: i64 = 32;

/// How many devices a claim may get, by class: of alternatives the one that takes most of a class.
pub(super) fn claim(object: &impl Fields, used: &mut Amounts) {
    for request in items(object, "/spec/devices/requests") {
        let alternatives =
            request.get("firstAvailable").and_then(Value::as_array).filter(|all| !all.is_empty());
        let mut most: BTreeMap<String, i64> = BTreeMap::new();
        for way in alternatives
            .into_iter()
            .flatten()
            .chain(request.get("exactly").filter(|_| alternatives.is_none()))
        {
            let Some(class) = way.get("deviceClassName").and_then(Value::as_str) else { continue };
            let count = match way.get("allocationMode").and_then(Value::as_str) {
                Some("ExactCount") => way.get("count").and_then(Value::as_i64).unwrap_or(0),
                Some("All") => MOST,
                // A mode of a later version counts nothing.
                _ => 0,
            };
            let so_far = most.entry(format!("{class}{OF_CLASS}")).or_default();
            *so_far = count.max(*so_far);
        }
        // An alternative that takes nothing is no use; a request that does is one of nothing.
        let counts = |(_, count): &(String, i64)| alternatives.is_none() || *count > 0;
        let more =
            most.into_iter().filter(counts).map(|(name, n)| (name, Quantity::new(n, Format::DecimalSI)));
        add(used, &more.collect());
    }
}

/// Adds what the devices of a claim are of extended resources, beyond what the claim's pod, for whose extended resources it
/// was made, uses of them already. `resource` is the extended resource that a class stands for.
pub fn extended(used: &mut Amounts, resource: impl Fn(&str) -> Option<String>, of_pod: &Amounts) {
    let mut more = Amounts::new();
    for (name, amount) in &*used {
        let Some(class) = name.strip_suffix(OF_CLASS).filter(|class| !class.is_empty()) else { continue };
        more.insert(format!("{AFTER_CLASS}{class}"), *amount);
        if let Some(resource) = resource(class) {
            more.insert(format!("requests.{resource}"), *amount);
        }
    }
    for (name, amount) in more {
        let rest = of_pod.get(&name).map_or(amount, |known| amount - *known);
        if rest.sign() > 0 {
            used.insert(name, rest);
        }
    }
}

/// Whether devices may be among what a limit is about.
pub fn may_count(limit: &str) -> bool {
    limit.ends_with(OF_CLASS) || limit.strip_prefix("requests.").is_some_and(|name| name.contains('/'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::quota::usage;

    fn print(used: &Amounts) -> String {
        used.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    }

    fn exact(class: &str, count: i64) -> Value {
        json!({"name": "r", "exactly": {"deviceClassName": class, "allocationMode": "ExactCount", "count": count}})
    }

    fn of(requests: Value) -> Amounts {
        let claim = json!({"spec": {"devices": {"requests": requests}}});
        usage("resource.k8s.io", "resourceclaims", &claim, None)
    }

    #[test]
    fn devices_count_for_their_class() {
        let all = json!({"name": "r", "exactly": {"deviceClassName": "net", "allocationMode": "All"}});
        let way = |class: &str, mode: &str, count: i64| json!({"name": "s", "deviceClassName": class, "allocationMode": mode, "count": count});
        let list = json!({"name": "r", "firstAvailable": [
            way("gpu", "ExactCount", 2), way("gpu", "ExactCount", 5), way("tpu", "ExactCount", 1), way("new", "Later", 9)]});
        let count = "count/resourceclaims.resource.k8s.io=1";
        assert_eq!(print(&of(json!([]))), count);
        assert_eq!(print(&of(json!([exact("gpu", 2), exact("gpu", 1)]))), format!("{count} gpu{OF_CLASS}=3"));
        assert_eq!(print(&of(json!([all]))), format!("{count} net{OF_CLASS}=32"));
        assert_eq!(
            print(&of(json!([list, exact("gpu", 1)]))),
            format!("{count} gpu{OF_CLASS}=6 tpu{OF_CLASS}=1")
        );
    }

    #[test]
    fn extended_resources_count_beyond_what_the_pod_uses() {
        let resource = |class: &str| (class == "gpu").then(|| "d.io/gpu".to_owned());
        let with = |of_pod: &[(&str, i64)]| {
            let of_pod = of_pod.iter().map(|(k, v)| ((*k).to_owned(), Quantity::new(*v, Format::DecimalSI)));
            let mut used = of(json!([exact("gpu", 3), exact("net", 1)]));
            extended(&mut used, resource, &of_pod.collect());
            used.retain(|name, _| name.starts_with("requests."));
            print(&used)
        };
        let after = |class: &str, n: i64| format!("requests.deviceclass.resource.kubernetes.io/{class}={n}");
        assert_eq!(with(&[]), format!("requests.d.io/gpu=3 {} {}", after("gpu", 3), after("net", 1)));
        assert_eq!(
            with(&[("requests.d.io/gpu", 3), (&after("gpu", 0)[..after("gpu", 0).len() - 2], 1)]),
            format!("{} {}", after("gpu", 2), after("net", 1))
        );
        for (limit, may) in [
            ("gpu.deviceclass.resource.k8s.io/devices", true),
            ("requests.d.io/gpu", true),
            ("requests.cpu", false),
            ("cpu", false),
        ] {
            assert_eq!(may_count(limit), may, "{limit}");
        }
    }
}
