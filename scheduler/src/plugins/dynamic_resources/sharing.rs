//! Devices that several claims share: how much of a device's capacity a request takes. Pure.
//!
//! Contract: KEP-5075 (consumable capacity). What a request does not ask for is taken by the policy's default, or whole;
//! what it asks for is rounded up to what the policy allows.

use std::collections::BTreeMap;

use component_base::{
    hash::{fnv64, fnv64a},
    quantity::{Format, Quantity},
};
use k8s_openapi::{
    api::resource::v1::{
        CapacityRequestPolicy, CapacityRequestPolicyRange, CapacityRequirements, DeviceCapacity,
    },
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};

/// Amounts by the name of the capacity.
pub(super) type Amounts = BTreeMap<String, Quantity>;
type Capacity = BTreeMap<String, DeviceCapacity>;

/// What a request takes of a device; nothing if the device cannot be asked for that.
pub(super) fn taken(asked: Option<&CapacityRequirements>, capacity: &Capacity) -> Option<Amounts> {
    let asked = asked.and_then(|asked| asked.requests.as_ref());
    if asked.is_some_and(|asked| asked.keys().any(|name| !capacity.contains_key(name))) {
        return None;
    }
    let mut out = Amounts::new();
    for (name, has) in capacity {
        let amount = amount(asked.and_then(|asked| asked.get(name)), has)?;
        out.insert(name.clone(), amount);
    }
    Some(out)
}

/// Whether a device has that much beside what others take of it.
pub(super) fn fits<'a>(
    capacity: &Capacity,
    others: impl Iterator<Item = &'a Amounts>,
    more: &Amounts,
) -> bool {
    let mut sum = more.clone();
    for (name, amount) in others.flatten() {
        if let Some(so_far) = sum.get_mut(name) {
            *so_far = *so_far + *amount;
        }
    }
    let has = |name: &String| Quantity::from_api(&capacity.get(name)?.value);
    sum.iter().all(|(name, amount)| has(name).is_some_and(|has| *amount <= has))
}

/// What tells one share of a device from the others: the same words are the same share.
pub(super) fn id(words: &[&str]) -> String {
    let text = words.join("\n");
    let (high, low) = (fnv64(text.as_bytes()), fnv64a(text.as_bytes()));
    // RFC 9562, version 8: the bits are the maker's, but for version and variant.
    let (high, low) = (high & !0xf000 | 0x8000, low & !(0b11 << 62) | 0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// The amount of one capacity, if the policy allows it.
fn amount(asked: Option<&ApiQuantity>, has: &DeviceCapacity) -> Option<Quantity> {
    let policy = has.request_policy.as_ref();
    let default = policy.and_then(|policy| policy.default.as_ref());
    let Some(asked) = asked else { return Quantity::from_api(default.unwrap_or(&has.value)) };
    let asked = Quantity::from_api(asked)?;
    let Some(policy) = policy else { return Some(asked) };
    let rounded = rounded(asked, policy)?;
    let is_default = default.and_then(Quantity::from_api) == Some(rounded);
    (is_default || is_allowed(rounded, policy)).then_some(rounded)
}

/// The next amount that the policy has. More than it has stays as it is.
fn rounded(asked: Quantity, policy: &CapacityRequestPolicy) -> Option<Quantity> {
    if let Some(range) = &policy.valid_range {
        let min = Quantity::from_api(&range.min)?;
        if asked < min {
            return Some(min);
        }
        let Some(step) = step(range) else { return Some(asked) };
        let over = asked.value().checked_sub(min.value())?;
        let steps = over.checked_add(step - 1)? / step;
        return Some(Quantity::new(min.value().checked_add(steps.checked_mul(step)?)?, Format::BinarySI));
    }
    let values = policy.valid_values.iter().flatten().filter_map(Quantity::from_api);
    Some({ values }.find(|value| asked <= *value).unwrap_or(asked))
}

fn step(range: &CapacityRequestPolicyRange) -> Option<i64> {
    range.step.as_ref().and_then(Quantity::from_api).map(Quantity::value).filter(|step| *step > 0)
}

fn is_allowed(amount: Quantity, policy: &CapacityRequestPolicy) -> bool {
    if let Some(range) = &policy.valid_range {
        let max = range.max.as_ref().and_then(Quantity::from_api);
        return max.is_none_or(|max| amount <= max);
    }
    let values = policy.valid_values.as_deref().unwrap_or_default();
    values.is_empty() || values.iter().any(|value| Quantity::from_api(value) == Some(amount))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn capacity(policy: Value) -> Capacity {
        serde_json::from_value(json!({"memory": {"value": "10Gi", "requestPolicy": policy}})).unwrap()
    }

    fn takes(asked: Value, policy: Value) -> Option<String> {
        let asked: CapacityRequirements = serde_json::from_value(json!({"requests": asked})).unwrap();
        taken(Some(&asked), &capacity(policy)).map(|amounts| amounts["memory"].to_string())
    }

    #[test]
    fn requests_take_what_the_policy_makes_of_them() {
        let range = json!({"default": "1Gi", "validRange": {"min": "2Gi", "max": "8Gi", "step": "2Gi"}});
        let open = json!({"default": "1Gi", "validRange": {"min": "2Gi"}});
        let values = json!({"default": "3Gi", "validValues": ["1Gi", "4Gi"]});
        let nothing = json!({});
        let of = |amount: &str| json!({"memory": amount});
        let table = [
            (nothing.clone(), Value::Null, Some("10Gi")),
            (nothing.clone(), range.clone(), Some("1Gi")),
            (nothing.clone(), values.clone(), Some("3Gi")),
            (of("3Gi"), Value::Null, Some("3Gi")),
            (of("20Gi"), Value::Null, Some("20Gi")),
            (of("1Gi"), range.clone(), Some("2Gi")),
            (of("3Gi"), range.clone(), Some("4Gi")),
            (of("8Gi"), range.clone(), Some("8Gi")),
            (of("9Gi"), range.clone(), None),
            (of("3Gi"), open, Some("3Gi")),
            (of("2Gi"), values.clone(), Some("4Gi")),
            (of("5Gi"), values, None),
            (json!({"cores": "1"}), range, None),
        ];
        for (asked, policy, expected) in table {
            assert_eq!(takes(asked.clone(), policy.clone()).as_deref(), expected, "{asked} of {policy}");
        }
        assert_eq!(taken(None, &Capacity::new()), Some(Amounts::new()));
    }

    #[test]
    fn what_others_take_is_not_left() {
        let amounts = |text: &str| Amounts::from([("memory".to_owned(), text.parse().unwrap())]);
        let (four, six, seven) = (amounts("4Gi"), amounts("6Gi"), amounts("7Gi"));
        let capacity = capacity(Value::Null);
        assert!(fits(&capacity, [].into_iter(), &seven));
        assert!(fits(&capacity, [&four].into_iter(), &six));
        assert!(!fits(&capacity, [&four].into_iter(), &seven));
        assert!(!fits(&capacity, [&four, &four].into_iter(), &four));
    }

    #[test]
    fn shares_have_names_of_their_own() {
        let one = id(&["uid", "r", "gpu"]);
        assert_eq!((one.len(), &one[14..15]), (36, "8"));
        assert!(matches!(&one[19..20], "8" | "9" | "a" | "b"), "{one}");
        assert_eq!(one, id(&["uid", "r", "gpu"]));
        assert_ne!(one, id(&["uid", "s", "gpu"]));
    }
}
