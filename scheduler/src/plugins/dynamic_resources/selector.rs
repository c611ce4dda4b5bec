//! CEL expressions that select devices, and what they see of one.
//!
//! Contract: `device.driver`, `device.attributes["domain"].name`, `device.capacity["domain"].name` and
//! `device.allowMultipleAllocations`; versions are semver values, capacities quantities.

use std::{collections::BTreeMap, sync::Arc};

use cel_engine::{Env, MadeMap, Map, Program, Type, Value};
use component_base::features::Gate;
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceSelector};

use crate::{framework::Reason, model::Devices};

/// Expressions; all must be true.
#[derive(Clone, Default)]
pub(super) struct Selectors(Vec<Selector>);

/// One of them: what it is called in errors, and the expression or why it is none. That is told by who asks: where there
/// is no device nobody does.
#[derive(Clone)]
struct Selector {
    name: Arc<str>,
    program: Result<Arc<Program>, Arc<str>>,
}

/// Makes the values that have no literal of their own.
pub(super) struct Maker {
    quantity: Option<Program>,
    semver: Option<Program>,
    /// Whether attributes may be lists.
    lists: bool,
    /// Whether devices say that several claims may share them.
    shares: bool,
}

impl Selectors {
    /// Compiles all selectors of a class or a request, named by `of` in errors; `lists` is whether attributes may be lists.
    pub(super) fn compile(all: &[DeviceSelector], of: &str, lists: bool) -> Selectors {
        let env = Env::new().with_bindings().variable("device", Type::Dyn);
        let env = if lists { env.with_function("includes") } else { env };
        let compiled = |selector: &DeviceSelector| match &selector.cel {
            None => Err("CEL expression empty (unsupported selector type?)".into()),
            Some(cel) => match env.compile(&cel.expression) {
                Ok(program) => Ok(Arc::new(program)),
                Err(error) => Err(format!("CEL compile error: {error}").into()),
            },
        };
        let one = |(at, selector): (usize, &DeviceSelector)| Selector {
            name: format!("{of}: selector #{at}").into(),
            program: compiled(selector),
        };
        Selectors(all.iter().enumerate().map(one).collect())
    }

    /// Both.
    pub(super) fn and(&self, other: &Selectors) -> Selectors {
        Selectors(self.0.iter().chain(&other.0).cloned().collect())
    }

    /// Whether all are true of a device; the error it was made with is that of the first expression that sees it.
    pub(super) fn select(&self, device: &Result<Value<'_>, String>) -> Result<bool, Reason> {
        for Selector { name, program } in &self.0 {
            let failed = |why: &dyn std::fmt::Display| Reason::Owned(format!("{name}: {why}"));
            let program = program.as_ref().map_err(|why| failed(why))?;
            let at_run_time = |why: &dyn std::fmt::Display| failed(&format_args!("CEL runtime error: {why}"));
            let device = device.as_ref().map_err(|why| at_run_time(why))?;
            let seen: &[(&str, Value<'_>)] = &[("device", device.clone())];
            match program.eval(seen).result {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(other) => {
                    return Err(failed(&format_args!(
                        "CEL expression of type {:?}, not bool",
                        other.type_of()
                    )));
                }
                Err(error) => return Err(at_run_time(&error)),
            }
        }
        Ok(true)
    }
}

impl Maker {
    /// The conversions that expressions have, for values that come from devices.
    pub(super) fn new(devices: &Devices) -> Maker {
        let env = Env::new().variable("text", Type::String);
        // Both functions are there: without them no device would have versions or capacities.
        Maker {
            quantity: env.compile("quantity(text)").ok(),
            semver: env.compile("semver(text)").ok(),
            lists: devices.has(Gate::DRAListTypeAttributes),
            shares: devices.has(Gate::DRAConsumableCapacity),
        }
    }

    fn make(program: Option<&Program>, text: &str) -> Option<Value<'static>> {
        let value = Value::text(text);
        let seen: &[(&str, Value<'_>)] = &[("text", value)];
        match program?.eval(seen).result.ok()? {
            Value::Opaque(opaque) => Some(Value::Opaque(opaque)),
            _ => None,
        }
    }

    /// What expressions see of a device. Attributes and capacities of `domains` are there, if empty, whether the device
    /// has any or not. A device with an attribute of no known kind cannot be seen: better no pod gets it than one that
    /// must not.
    pub(super) fn device(
        &self,
        driver: &str,
        device: &Device,
        domains: &[String],
    ) -> Result<Value<'static>, String> {
        let empty = || domains.iter().map(|d| (d.clone(), MadeMap::default())).collect::<BTreeMap<_, _>>();
        let (mut attributes, mut capacity) = (empty(), empty());
        for (name, attribute) in device.attributes.iter().flatten() {
            let value = self.attribute(attribute);
            let value = value.ok_or_else(|| format!("attribute {name}: unsupported attribute value"))?;
            put(&mut attributes, driver, name, Some(value));
        }
        for (name, amount) in device.capacity.iter().flatten() {
            put(&mut capacity, driver, name, Maker::make(self.quantity.as_ref(), &amount.value.0));
        }
        let mut out = MadeMap::default();
        let shares = Value::Bool(device.allow_multiple_allocations == Some(true));
        let members = [
            ("driver", Some(Value::text(driver))),
            ("attributes", Some(by_domain(attributes))),
            ("capacity", Some(by_domain(capacity))),
            ("allowMultipleAllocations", Some(shares).filter(|_| self.shares)),
        ];
        for (name, value) in members.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            insert(&mut out, name, value);
        }
        Ok(Value::Map(Map::Made(Arc::new(out))))
    }

    fn attribute(&self, attribute: &DeviceAttribute) -> Option<Value<'static>> {
        if self.lists
            && let Some(values) = self.list(attribute)
        {
            return Some(values);
        }
        if let Some(text) = &attribute.version {
            return Maker::make(self.semver.as_ref(), text);
        }
        attribute
            .bool
            .map(Value::Bool)
            .or(attribute.int.map(Value::Int))
            .or_else(|| attribute.string.as_ref().map(Value::text))
    }
}

impl Maker {
    fn list(&self, attribute: &DeviceAttribute) -> Option<Value<'static>> {
        let of = Value::list;
        let version = |text: &String| Maker::make(self.semver.as_ref(), text);
        let ints = attribute.ints.as_ref().map(|all| all.iter().map(|v| Value::Int(*v)).collect());
        let bools = || Some(attribute.bools.as_ref()?.iter().map(|v| Value::Bool(*v)).collect());
        let strings = || Some(attribute.strings.as_ref()?.iter().map(Value::text).collect());
        let versions = || Some(attribute.versions.as_ref()?.iter().filter_map(version).collect());
        ints.or_else(bools).or_else(strings).or_else(versions).map(of)
    }
}

/// The domain of a name, the driver's where it has none, and the name in it.
pub(super) fn qualified<'n>(driver: &'n str, name: &'n str) -> (&'n str, &'n str) {
    name.split_once('/').unwrap_or((driver, name))
}

fn put(
    domains: &mut BTreeMap<String, MadeMap<'static>>,
    driver: &str,
    name: &str,
    value: Option<Value<'static>>,
) {
    let (domain, name) = qualified(driver, name);
    if let Some(value) = value {
        insert(domains.entry(domain.to_owned()).or_default(), name, value);
    }
}

fn by_domain(domains: BTreeMap<String, MadeMap<'static>>) -> Value<'static> {
    let mut out = MadeMap::default();
    for (domain, map) in domains {
        insert(&mut out, &domain, Value::Map(Map::Made(Arc::new(map))));
    }
    Value::Map(Map::Made(Arc::new(out)))
}

/// Inserts under a text, which is always a good key.
fn insert(map: &mut MadeMap<'static>, key: &str, value: Value<'static>) {
    if let Err(error) = map.insert(Value::text(key), value) {
        tracing::debug!(key, %error, "a member of a device was left out");
    }
}
