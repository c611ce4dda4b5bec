//! Which devices claims get on a node: the first choice that satisfies all of them, found by trying. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::quantity::Quantity;
use k8s_openapi::api::{
    core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm},
    resource::v1::{
        AllocationResult, CapacityRequirements, Device, DeviceAllocationConfiguration,
        DeviceAllocationResult, DeviceAttribute, DeviceCapacity, DeviceClass, DeviceConstraint,
        DeviceRequest, DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim,
        ResourceSlice,
    },
};

use super::{
    selector::{Maker, Selectors, qualified},
    sharing::{self, Amounts},
};
use crate::{
    framework::Reason,
    model::{Devices, NodeInfo, NodeSelectorTerms},
};

/// What is said when there was no time to find out.
pub(super) const TIMED_OUT: &str = "timed out trying to allocate devices";
/// Most devices of one claim.
const MAX_DEVICES: usize = 32;
/// Driver, pool and name of a device.
type Id = (String, String, String);

/// A claim without devices, its requests made ready.
pub(super) struct Wanted {
    pub(super) claim: Arc<ResourceClaim>,
    requests: Vec<Vec<Request>>,
}

/// One way to satisfy a request.
struct Request {
    /// `request`, or `request/subrequest`.
    name: String,
    class: Arc<DeviceClass>,
    selectors: Selectors,
    /// How many; `None` for all there are.
    count: Option<usize>,
    admin: bool,
    tolerations: Vec<DeviceToleration>,
    /// How much of each device.
    capacity: Option<CapacityRequirements>,
}

/// A device that the node reaches.
struct Candidate<'a> {
    slice: &'a ResourceSlice,
    device: &'a Device,
    id: Id,
    /// Whether a claim has all of it.
    in_use: bool,
    /// What claims have of it that share it.
    shares: Vec<Amounts>,
}

/// A device given to a request.
#[derive(Clone, Copy)]
struct Choice {
    claim: usize,
    request: usize,
    alternative: usize,
    candidate: usize,
}

/// A device given, and how much of it.
struct Chosen {
    choice: Choice,
    amounts: Amounts,
}

/// What claims hold, what is held for administration aside.
#[derive(Default)]
pub(super) struct Held {
    whole: BTreeSet<Id>,
    shares: BTreeMap<Id, Vec<Amounts>>,
}

struct Search<'a> {
    wanted: &'a [&'a Wanted],
    candidates: Vec<Candidate<'a>>,
    /// Pools whose slices are not all there.
    incomplete: BTreeSet<(String, String)>,
    devices: &'a Devices,
    maker: Maker,
    domains: Vec<String>,
    chosen: Vec<Chosen>,
    matches: HashMap<(usize, usize, usize, usize), bool>,
    patience: Patience,
}

/// Until when devices are tried; for ever by default.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience(Option<(Instant, Now)>);

/// Tells the time.
pub(super) type Now = fn() -> Instant;

impl Patience {
    /// So long from now on; for ever where that is nothing.
    pub(super) fn new(timeout: Duration, now: Now) -> Self {
        let limited = Some(timeout).filter(|timeout| !timeout.is_zero());
        Self(limited.and_then(|timeout| now().checked_add(timeout)).map(|until| (until, now)))
    }

    fn is_over(self) -> bool {
        self.0.is_some_and(|(until, now)| now() >= until)
    }
}

impl Wanted {
    /// Makes a claim's requests ready; the error says why it cannot be satisfied anywhere.
    pub(super) fn new(claim: &Arc<ResourceClaim>, devices: &Devices) -> Result<Wanted, Reason> {
        let all = claim.spec.devices.as_ref().and_then(|d| d.requests.as_deref()).unwrap_or_default();
        let requests = all.iter().map(|request| alternatives(request, devices)).collect::<Result<_, _>>()?;
        Ok(Wanted { claim: claim.clone(), requests })
    }

    fn constraints(&self) -> &[DeviceConstraint] {
        self.claim.spec.devices.as_ref().and_then(|d| d.constraints.as_deref()).unwrap_or_default()
    }
}

fn alternatives(request: &DeviceRequest, devices: &Devices) -> Result<Vec<Request>, Reason> {
    let find = |name: &str| {
        devices.class(name).cloned().ok_or_else(|| {
            Reason::Owned(format!("request {}: device class {name} does not exist", request.name))
        })
    };
    let make =
        |name: String,
         class: &str,
         selectors: &[_],
         mode: Option<&str>,
         count: Option<i64>,
         admin: Option<bool>,
         (tolerations, capacity): (Option<&Vec<DeviceToleration>>, Option<&CapacityRequirements>)| {
            let class = find(class)?;
            let of_class = class.spec.selectors.as_deref().unwrap_or_default();
            let class_name = class.metadata.name.clone().unwrap_or_default();
            let of_class = Selectors::compile(of_class, &format!("class {class_name}"))?;
            let own = Selectors::compile(selectors, &format!("request {name}"))?;
            let count = match mode {
                Some("All") => None,
                _ => Some(count.and_then(|n| usize::try_from(n).ok()).unwrap_or(1)),
            };
            Ok::<Request, Reason>(Request {
                name,
                selectors: of_class.and(&own),
                class,
                count,
                admin: admin == Some(true),
                tolerations: tolerations.cloned().unwrap_or_default(),
                capacity: capacity.cloned(),
            })
        };
    if let Some(exact) = &request.exactly {
        let selectors = exact.selectors.as_deref().unwrap_or_default();
        return Ok(vec![make(
            request.name.clone(),
            &exact.device_class_name,
            selectors,
            exact.allocation_mode.as_deref(),
            exact.count,
            exact.admin_access,
            (exact.tolerations.as_ref(), exact.capacity.as_ref()),
        )?]);
    }
    let sub = request.first_available.as_deref().unwrap_or_default();
    if sub.is_empty() {
        return Err(format!("request {}: unknown request type", request.name).into());
    }
    sub.iter()
        .map(|sub| {
            make(
                format!("{}/{}", request.name, sub.name),
                &sub.device_class_name,
                sub.selectors.as_deref().unwrap_or_default(),
                sub.allocation_mode.as_deref(),
                sub.count,
                None,
                (sub.tolerations.as_ref(), sub.capacity.as_ref()),
            )
        })
        .collect()
}

/// The devices that claims get on a node, in their order; nothing if the node does not have them.
pub(super) fn allocate(
    wanted: &[&Wanted],
    devices: &Devices,
    node: &NodeInfo,
    patience: Patience,
) -> Result<Option<Vec<AllocationResult>>, Reason> {
    let mut search = Search::new(wanted, devices, node, patience);
    if !search.claim(0)? {
        return Ok(None);
    }
    Ok(Some((0..wanted.len()).map(|claim| search.result(claim, node)).collect()))
}

/// Devices that claims hold.
pub(super) fn held(devices: &Devices) -> Held {
    let results = devices
        .claims()
        .filter_map(|claim| claim.status.as_ref()?.allocation.as_ref()?.devices.as_ref()?.results.as_ref());
    let mut out = Held::default();
    for result in results.flatten().filter(|result| result.admin_access != Some(true)) {
        let id = (result.driver.clone(), result.pool.clone(), result.device.clone());
        if result.share_id.is_none() {
            out.whole.insert(id);
            continue;
        }
        let amounts = result.consumed_capacity.iter().flatten();
        let amounts = amounts.filter_map(|(name, amount)| Some((name.clone(), Quantity::from_api(amount)?)));
        out.shares.entry(id).or_default().push(amounts.collect());
    }
    out
}

impl Held {
    /// Whether somebody has a device, or some of it.
    pub(super) fn has(&self, driver: &str, pool: &str, device: &str) -> bool {
        let id = (driver.to_owned(), pool.to_owned(), device.to_owned());
        self.whole.contains(&id) || self.shares.contains_key(&id)
    }
}

impl<'a> Search<'a> {
    fn new(
        wanted: &'a [&'a Wanted],
        devices: &'a Devices,
        node: &NodeInfo,
        patience: Patience,
    ) -> Search<'a> {
        let mut pools: BTreeMap<(String, String), Vec<&'a ResourceSlice>> = BTreeMap::new();
        for slice in devices.slices() {
            let pool = (slice.spec.driver.clone(), slice.spec.pool.name.clone());
            pools.entry(pool).or_default().push(slice);
        }
        let mut held = held(devices);
        let (mut candidates, mut incomplete) = (Vec::new(), BTreeSet::new());
        let mut domains: BTreeSet<String> = BTreeSet::new();
        // Devices that must be made ready first are taken where there are no others.
        let slow = |slices: &[&ResourceSlice]| {
            let devices = slices.iter().flat_map(|slice| slice.spec.devices.iter().flatten());
            devices.into_iter().any(|device| device.binding_conditions.is_some())
        };
        let (last, first): (Vec<_>, Vec<_>) = pools.into_iter().partition(|(_, slices)| slow(slices));
        for (pool, mut slices) in first.into_iter().chain(last) {
            let newest = slices.iter().map(|s| s.spec.pool.generation).max().unwrap_or_default();
            slices.retain(|slice| slice.spec.pool.generation == newest);
            slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
            let expected = slices.first().map_or(0, |slice| slice.spec.pool.resource_slice_count);
            let mut here = false;
            for slice in &slices {
                for device in slice.spec.devices.iter().flatten() {
                    domains.extend(domains_of(&pool.0, device));
                    if !reaches(slice, device, node) {
                        continue;
                    }
                    here = true;
                    let id = (pool.0.clone(), pool.1.clone(), device.name.clone());
                    let in_use = held.whole.contains(&id);
                    let shares = held.shares.remove(&id).unwrap_or_default();
                    candidates.push(Candidate { slice, device, id, in_use, shares });
                }
            }
            if here && i64::try_from(slices.len()).unwrap_or(i64::MAX) != expected {
                incomplete.insert(pool);
            }
        }
        Search {
            wanted,
            candidates,
            incomplete,
            devices,
            maker: Maker::new(),
            domains: domains.into_iter().collect(),
            chosen: Vec::new(),
            matches: HashMap::new(),
            patience,
        }
    }

    fn claim(&mut self, claim: usize) -> Result<bool, Reason> {
        if claim == self.wanted.len() { Ok(true) } else { self.request(claim, 0) }
    }

    /// Tries the ways to satisfy a request, then everything after it.
    fn request(&mut self, claim: usize, request: usize) -> Result<bool, Reason> {
        let wanted = self.wanted;
        let Some(alternatives) = wanted[claim].requests.get(request) else { return self.claim(claim + 1) };
        for (alternative, way) in alternatives.iter().enumerate() {
            let choice = Choice { claim, request, alternative, candidate: 0 };
            let before = self.chosen.len();
            let done = match way.count {
                Some(count) => self.some(choice, count, 0)?,
                None => self.all(choice)?,
            };
            if done {
                return Ok(true);
            }
            self.chosen.truncate(before);
        }
        Ok(false)
    }

    /// Takes `left` more devices from the candidates that come after the last one taken.
    fn some(&mut self, choice: Choice, left: usize, from: usize) -> Result<bool, Reason> {
        if left == 0 {
            return self.request(choice.claim, choice.request + 1);
        }
        for candidate in from..self.candidates.len() {
            if self.patience.is_over() {
                return Err(TIMED_OUT.into());
            }
            let choice = Choice { candidate, ..choice };
            if !self.is_matching(choice)? {
                continue;
            }
            let Some(amounts) = self.available(choice) else { continue };
            self.chosen.push(Chosen { choice, amounts });
            // More may be left of a device that is shared.
            let next = if is_shared(self.candidates[candidate].device) { candidate } else { candidate + 1 };
            if self.constraints_hold(choice.claim) && self.some(choice, left - 1, next)? {
                return Ok(true);
            }
            self.chosen.pop();
        }
        Ok(false)
    }

    /// Takes all devices that match, if there are any and all of them are free.
    fn all(&mut self, choice: Choice) -> Result<bool, Reason> {
        if !self.incomplete.is_empty() {
            return Ok(false);
        }
        let mut any = false;
        for candidate in 0..self.candidates.len() {
            let choice = Choice { candidate, ..choice };
            if !self.is_matching(choice)? {
                continue;
            }
            // Those that do not have as much are not among all there are.
            let Candidate { device, shares, .. } = &self.candidates[candidate];
            let amounts = sharing::taken(self.way(choice).capacity.as_ref(), capacity(device));
            if !amounts.is_some_and(|amounts| sharing::fits(capacity(device), shares.iter(), &amounts)) {
                continue;
            }
            let Some(amounts) = self.available(choice) else { return Ok(false) };
            any = true;
            self.chosen.push(Chosen { choice, amounts });
        }
        Ok(any && self.constraints_hold(choice.claim) && self.request(choice.claim, choice.request + 1)?)
    }

    fn way(&self, choice: Choice) -> &'a Request {
        &self.wanted[choice.claim].requests[choice.request][choice.alternative]
    }

    fn is_matching(&mut self, choice: Choice) -> Result<bool, Reason> {
        let key = (choice.claim, choice.request, choice.alternative, choice.candidate);
        if let Some(known) = self.matches.get(&key) {
            return Ok(*known);
        }
        let candidate = &self.candidates[choice.candidate];
        let seen = self.maker.device(&candidate.id.0, candidate.device, &self.domains);
        let selected = self.way(choice).selectors.select(&seen)?;
        self.matches.insert(key, selected);
        Ok(selected)
    }

    /// How much of the device is given, if it can be: nobody else has it, nothing keeps it back, the claim is not full.
    fn available(&self, choice: Choice) -> Option<Amounts> {
        let (way, candidate) = (self.way(choice), &self.candidates[choice.candidate]);
        let device = candidate.device;
        let pool = (candidate.id.0.clone(), candidate.id.1.clone());
        let in_claim = self.chosen.iter().filter(|other| other.choice.claim == choice.claim).count();
        if in_claim >= MAX_DEVICES || self.incomplete.contains(&pool) {
            return None;
        }
        let taints = device.taints.as_deref().unwrap_or_default();
        let mut ruled = self.devices.rule_taints(&pool.0, &pool.1, &device.name);
        if taints.iter().any(|taint| keeps_off(taint, &way.tolerations))
            || ruled.any(|taint| keeps_off(&taint, &way.tolerations))
        {
            return None;
        }
        let of_device = |c: &&Chosen| c.choice.candidate == choice.candidate;
        let chosen = || self.chosen.iter().filter(of_device);
        let shared = is_shared(device);
        let free = match (way.admin, shared) {
            (true, true) => true,
            (true, false) => !chosen().any(|c| c.choice.claim == choice.claim),
            (false, _) if candidate.in_use => false,
            // Its counters are taken once, whoever shares it.
            (false, true) if !candidate.shares.is_empty() || chosen().next().is_some() => true,
            (false, true) => self.counters_suffice(choice),
            (false, false) => !chosen().any(|c| !self.way(c.choice).admin) && self.counters_suffice(choice),
        };
        let amounts = sharing::taken(way.capacity.as_ref(), capacity(device)).filter(|_| free)?;
        let others = candidate.shares.iter().chain(chosen().filter(|_| shared).map(|c| &c.amounts));
        sharing::fits(capacity(device), others, &amounts).then_some(amounts)
    }

    /// Whether what the device takes of counters that it shares with others is left.
    fn counters_suffice(&self, choice: Choice) -> bool {
        let candidate = &self.candidates[choice.candidate];
        let Some(needs) = candidate.device.consumes_counters.as_ref() else { return true };
        let same_pool = |other: &&Candidate<'_>| other.id.0 == candidate.id.0 && other.id.1 == candidate.id.1;
        let taken =
            |at: usize| self.chosen.iter().any(|c| c.choice.candidate == at && !self.way(c.choice).admin);
        let busy: Vec<&Device> = self
            .candidates
            .iter()
            .enumerate()
            .filter(|(at, other)| same_pool(other) && (other.is_held() || taken(*at)))
            .map(|(_, other)| other.device)
            .collect();
        needs.iter().all(|need| {
            need.counters.iter().all(|(name, counter)| {
                let amount = |q: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| {
                    Quantity::from_api(q).map_or(0, Quantity::value)
                };
                let used: i64 = busy
                    .iter()
                    .flat_map(|device| device.consumes_counters.iter().flatten())
                    .filter(|other| other.counter_set == need.counter_set)
                    .filter_map(|other| other.counters.get(name))
                    .map(|counter| amount(&counter.value))
                    .sum();
                let has = self.counter(candidate, &need.counter_set, name).unwrap_or(0);
                used.saturating_add(amount(&counter.value)) <= has
            })
        })
    }

    /// What a pool has of a counter.
    fn counter(&self, candidate: &Candidate<'_>, set: &str, name: &str) -> Option<i64> {
        let of_pool = self.devices.slices().filter(|slice| {
            slice.spec.driver == candidate.id.0
                && slice.spec.pool.name == candidate.id.1
                && slice.spec.pool.generation == candidate.slice.spec.pool.generation
        });
        let mut sets = of_pool.flat_map(|slice| slice.spec.shared_counters.iter().flatten());
        let found = sets.find(|s| s.name == set)?.counters.get(name)?;
        Quantity::from_api(&found.value).map(Quantity::value)
    }

    fn constraints_hold(&self, claim: usize) -> bool {
        self.wanted[claim].constraints().iter().all(|constraint| {
            let names = constraint.requests.as_deref().unwrap_or_default();
            let concerned = self.chosen.iter().map(|c| &c.choice).filter(|c| {
                let name = &self.way(**c).name;
                let main = name.split_once('/').map_or(name.as_str(), |(main, _)| main);
                c.claim == claim && (names.is_empty() || names.iter().any(|n| n == name || n == main))
            });
            let (attribute, distinct) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
                (Some(name), _) => (name, false),
                (None, Some(name)) => (name, true),
                (None, None) => return false,
            };
            let mut seen: Vec<&DeviceAttribute> = Vec::new();
            for choice in concerned {
                let candidate = &self.candidates[choice.candidate];
                let Some(value) = attribute_of(candidate, attribute) else { return false };
                let fits = match distinct {
                    true => !seen.contains(&value),
                    false => seen.first().is_none_or(|first| *first == value),
                };
                if !fits {
                    return false;
                }
                seen.push(value);
            }
            true
        })
    }

    fn result(&self, claim: usize, node: &NodeInfo) -> AllocationResult {
        let of_claim = |c: &&Chosen| c.choice.claim == claim;
        let given = self.chosen.iter().filter(of_claim);
        let chosen: Vec<Choice> = given.clone().map(|c| c.choice).collect();
        let results = given.enumerate().map(|(at, Chosen { choice, amounts })| {
            let published = self.candidates[choice.candidate].device;
            let shared = is_shared(published);
            let consumed = amounts.iter().map(|(name, amount)| (name.clone(), amount.to_api()));
            let (way, (driver, pool, device)) = (self.way(*choice), &self.candidates[choice.candidate].id);
            DeviceRequestAllocationResult {
                request: way.name.clone(),
                driver: driver.clone(),
                pool: pool.clone(),
                device: device.clone(),
                admin_access: way.admin.then_some(true),
                tolerations: (!way.tolerations.is_empty()).then(|| way.tolerations.clone()),
                binding_conditions: published.binding_conditions.clone(),
                binding_failure_conditions: published.binding_failure_conditions.clone(),
                share_id: shared.then(|| self.share(claim, at, device)),
                consumed_capacity: Some(consumed.collect::<BTreeMap<_, _>>())
                    .filter(|consumed| shared && !consumed.is_empty()),
            }
        });
        let slices = chosen.iter().map(|choice| &self.candidates[choice.candidate]);
        AllocationResult {
            allocation_timestamp: None,
            node_selector: node_selector(slices, node),
            devices: Some(DeviceAllocationResult {
                results: Some(results.collect()),
                config: Some(self.config(claim, &chosen)).filter(|all| !all.is_empty()),
            }),
        }
    }

    /// The name of a share: of this version of the claim, and of the place among its devices.
    fn share(&self, claim: usize, at: usize, device: &str) -> String {
        let meta = &self.wanted[claim].claim.metadata;
        let uid = meta.uid.as_deref().unwrap_or_default();
        let version = meta.resource_version.as_deref().unwrap_or_default();
        sharing::id(&[uid, version, &at.to_string(), device])
    }

    /// What classes, then the claim, tell drivers.
    fn config(&self, claim: usize, chosen: &[Choice]) -> Vec<DeviceAllocationConfiguration> {
        let mut out = Vec::new();
        let ways: BTreeMap<usize, &Request> = chosen.iter().map(|c| (c.request, self.way(*c))).collect();
        for way in ways.values() {
            for config in way.class.spec.config.iter().flatten() {
                out.push(DeviceAllocationConfiguration {
                    source: "FromClass".into(),
                    requests: Some(vec![way.name.clone()]),
                    opaque: config.opaque.clone(),
                });
            }
        }
        let spec = self.wanted[claim].claim.spec.devices.as_ref();
        for config in spec.iter().flat_map(|d| d.config.iter().flatten()) {
            out.push(DeviceAllocationConfiguration {
                source: "FromClaim".into(),
                requests: config.requests.clone(),
                opaque: config.opaque.clone(),
            });
        }
        out
    }
}

impl Candidate<'_> {
    fn is_held(&self) -> bool {
        self.in_use || !self.shares.is_empty()
    }
}

/// Whether several claims may have some of a device each.
fn is_shared(device: &Device) -> bool {
    device.allow_multiple_allocations == Some(true)
}

fn capacity(device: &Device) -> &BTreeMap<String, DeviceCapacity> {
    static NONE: BTreeMap<String, DeviceCapacity> = BTreeMap::new();
    device.capacity.as_ref().unwrap_or(&NONE)
}

/// The domains that attributes and capacities of a device are of, the driver's own among them.
pub(super) fn domains_of<'a>(driver: &'a str, device: &'a Device) -> impl Iterator<Item = String> + 'a {
    let names = device.attributes.iter().flat_map(BTreeMap::keys);
    let names = names.chain(device.capacity.iter().flat_map(BTreeMap::keys));
    names.map(|name| qualified(driver, name).0.to_owned()).chain([driver.to_owned()])
}

/// Whether a node reaches a device.
pub(super) fn reaches(slice: &ResourceSlice, device: &Device, node: &NodeInfo) -> bool {
    let spec = &slice.spec;
    let (name, selector, all) = match spec.per_device_node_selection {
        Some(true) => (&device.node_name, &device.node_selector, device.all_nodes),
        _ => (&spec.node_name, &spec.node_selector, spec.all_nodes),
    };
    let is_it = name.as_deref().is_some_and(|name| !name.is_empty() && name == node.name);
    let selects = |s: &NodeSelector| NodeSelectorTerms::new(s).matches(&node.name, &node.labels);
    is_it || all == Some(true) || selector.as_ref().is_some_and(selects)
}

/// Whether a taint keeps new users off a device.
fn keeps_off(taint: &DeviceTaint, tolerations: &[DeviceToleration]) -> bool {
    let tolerates = |t: &DeviceToleration| {
        let effect = t.effect.as_deref().unwrap_or_default();
        let key = t.key.as_deref().unwrap_or_default();
        let value = match t.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => {
                t.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
            "Exists" => true,
            _ => false,
        };
        (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key) && value
    };
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerations.iter().any(tolerates)
}

/// An attribute by its full name; the driver's own may be named without domain.
fn attribute_of<'a>(candidate: &Candidate<'a>, name: &str) -> Option<&'a DeviceAttribute> {
    let attributes = candidate.device.attributes.as_ref()?;
    let (domain, short) = qualified(&candidate.id.0, name);
    attributes.get(name).or_else(|| attributes.get(short).filter(|_| domain == candidate.id.0))
}

/// Where all devices can be reached: this node, where one of them is its own; else what their slices say.
fn node_selector<'a>(
    candidates: impl Iterator<Item = &'a Candidate<'a>>,
    node: &NodeInfo,
) -> Option<NodeSelector> {
    let mut term = NodeSelectorTerm::default();
    for candidate in candidates {
        let (slice, device) = (&candidate.slice.spec, candidate.device);
        let per_device = slice.per_device_node_selection == Some(true);
        let name = if per_device { &device.node_name } else { &slice.node_name };
        let selector = if per_device { &device.node_selector } else { &slice.node_selector };
        if device.binds_to_node == Some(true) || name.as_deref().is_some_and(|name| !name.is_empty()) {
            let field = NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec![node.name.to_string()]),
            };
            term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
            return Some(NodeSelector { node_selector_terms: vec![term] });
        }
        for more in selector.iter().flat_map(|s| &s.node_selector_terms) {
            let join = |into: &mut Option<Vec<NodeSelectorRequirement>>, from: &Option<Vec<_>>| {
                for requirement in from.iter().flatten() {
                    let all = into.get_or_insert_default();
                    if !all.contains(requirement) {
                        all.push(NodeSelectorRequirement::clone(requirement));
                    }
                }
            };
            join(&mut term.match_expressions, &more.match_expressions);
            join(&mut term.match_fields, &more.match_fields);
        }
    }
    let any = term.match_expressions.is_some() || term.match_fields.is_some();
    any.then(|| NodeSelector { node_selector_terms: vec![term] })
}
