//! Expressions that select devices: compiled where they are written, so that a wrong one never gets to a scheduler.
//!
//! Contract: resource.k8s.io/v1 `CELDeviceSelector`: `device.driver`, `device.attributes`, `device.capacity` and
//! `device.allowMultipleAllocations`; the result is true or false, or known only when it runs.

use std::sync::{Arc, LazyLock};

use cel_engine::{DeclKind, DeclType, Env, Type};
use component_base::features::{Gate, Gates};

use crate::{
    field::{Error, ErrorList},
    registry::kit::at::At,
};

/// Bytes of an expression.
const MAX_LENGTH: usize = 10 * 1024;
/// What an expression may cost by estimate.
const MAX_COST: u64 = 1_000_000;
/// Attributes and capacities of a device together.
const MAX_ENTRIES: u64 = 32;
/// Characters of a driver's name and of a domain.
const MAX_DOMAIN: u64 = 63;
/// Characters of the value of an attribute.
const MAX_VALUE: u64 = 64;

/// Values of an attribute that is a list.
const MAX_VALUES: u64 = 48;

/// What expressions know, by the gates there are: with shares of devices, with lists as attributes.
static ENVIRONMENTS: LazyLock<[Env; 4]> =
    LazyLock::new(|| [(false, false), (true, false), (false, true), (true, true)].map(environment));

/// The one device.
fn environment((shares, lists): (bool, bool)) -> Env {
    let sized = |decl: DeclType, max_elements: u64| DeclType { max_elements, ..decl };
    let by_domain =
        |value: DeclType| sized(DeclType::map_of(sized(DeclType::map_of(value), MAX_ENTRIES)), MAX_ENTRIES);
    let quantity = DeclType::simple(DeclKind::Opaque(Type::Opaque("kubernetes.Quantity".into())));
    let longest = if lists { MAX_VALUE.max(MAX_VALUES) } else { MAX_VALUE };
    let fields = [
        ("driver", sized(DeclType::simple(DeclKind::String), MAX_DOMAIN)),
        ("attributes", by_domain(sized(DeclType::any(), longest))),
        ("capacity", by_domain(quantity)),
    ];
    let shared = shares.then(|| ("allowMultipleAllocations", DeclType::simple(DeclKind::Bool)));
    let device = DeclType::object("kubernetes.DRADevice", fields.into_iter().chain(shared));
    let env = Env::new().with_bindings().declared("device", &Arc::new(device));
    if lists { env.with_function("includes") } else { env }
}

/// What is wrong with an expression. One that is `stored` already may speak of what gates have taken away since.
pub(super) fn check(expression: &At<'_>, stored: bool, gates: Gates, errors: &mut ErrorList) {
    let source = expression.text();
    if source.len() > MAX_LENGTH {
        return errors.push(Error::too_long(expression.path(), MAX_LENGTH));
    }
    let on = |gate: Gate| stored || gates.has(gate);
    let (shares, lists) = (on(Gate::DRAConsumableCapacity), on(Gate::DRAListTypeAttributes));
    let environment = &ENVIRONMENTS[usize::from(shares) + 2 * usize::from(lists)];
    let (kind, cost) = match environment.check(source) {
        Ok(checked) => checked,
        Err(error) => return expression.invalid_as(errors, source, format!("compilation failed: {error}")),
    };
    if !matches!(kind, Type::Bool | Type::Dyn) {
        let why = format!("must evaluate to bool or the unknown type, not {kind}");
        expression.invalid_as(errors, source, why);
    } else if cost.max > MAX_COST {
        expression.forbidden(errors, "too complex, exceeds cost limit");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::field::Path;

    fn found(source: &str) -> Vec<String> {
        with(Gates::default(), false, source)
    }

    fn with(gates: Gates, stored: bool, source: &str) -> Vec<String> {
        let (value, mut errors) = (Value::from(source), ErrorList::new());
        check(&At::new(&value, Path::new("e")), stored, gates, &mut errors);
        errors.iter().map(|error| error.detail.lines().next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn what_selects_devices_compiles() {
        for source in [
            "device.driver == 'd.io'",
            "device.attributes['d.io'].model == 'a' && device.attributes['d.io'].numa < 2",
            "device.capacity['d.io'].memory.compareTo(quantity('1Gi')) >= 0",
            "device.capacity['d.io'].memory.isGreaterThan(quantity('1Gi'))",
            "device.attributes['d.io'].version.isGreaterThan(semver('1.2.3'))",
            "device.attributes['d.io'].healthy",
            "!device.allowMultipleAllocations",
            "cel.bind(d, device.attributes['d.io'], d.a && d.b)",
            "'d.io' in device.attributes && device.attributes['d.io'].exists(k, k == 'x')",
        ] {
            assert_eq!(found(source), Vec::<String>::new(), "{source}");
        }
    }

    #[test]
    fn what_does_not_is_told() {
        for (source, why) in [
            (
                "abc",
                "compilation failed: ERROR: <input>:1:1: undeclared reference to 'abc' (in container '')",
            ),
            ("device.nothing", "compilation failed: ERROR: <input>:1:7: undefined field 'nothing'"),
            ("device.driver", "must evaluate to bool or the unknown type, not string"),
            ("1 + 1", "must evaluate to bool or the unknown type, not int"),
            (
                "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, \
                 a + b + c + d != ''))))",
                "too complex, exceeds cost limit",
            ),
        ] {
            assert_eq!(found(source), [why], "{source}");
        }
        assert_eq!(found(&"x".repeat(MAX_LENGTH + 1)).len(), 1);
        assert!(found("")[0].starts_with("compilation failed: ERROR: <input>:1:"));
    }

    #[test]
    fn gates_say_what_expressions_know() {
        let (plain, good) = (Gates::default(), Vec::<String>::new());
        let (shares, lists) =
            ("device.allowMultipleAllocations", "device.attributes['d.io'].a.includes('x')");
        let wrong = |error: &str| vec![format!("compilation failed: ERROR: <input>:1:{error}")];
        assert_eq!(with(plain.with(Gate::DRAConsumableCapacity, true), false, shares), good);
        let off = plain.with(Gate::DRAConsumableCapacity, false);
        assert_eq!(with(off, false, shares), wrong("7: undefined field 'allowMultipleAllocations'"));
        assert_eq!(with(off, true, shares), good, "it is there already");
        assert_eq!(with(plain.with(Gate::DRAListTypeAttributes, true), false, lists), good);
        let undeclared = wrong("37: undeclared reference to 'includes' (in container '')");
        assert_eq!(with(plain.with(Gate::DRAListTypeAttributes, false), false, lists), undeclared);
    }
}
