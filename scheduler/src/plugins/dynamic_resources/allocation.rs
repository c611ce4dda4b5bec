//! Which devices claims get on a node: the first choice that satisfies all of them, found by trying. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::{
    features::Gate,
    meta::{ObjectKey, object_key},
    quantity::Quantity,
};
use k8s_openapi::api::{
    core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm},
    resource::v1::{
        AllocationResult, CapacityRequirements, Counter, Device, DeviceAllocationConfiguration,
        DeviceAllocationResult, DeviceAttribute, DeviceCapacity, DeviceClass, DeviceConstraint,
        DeviceRequest, DeviceRequestAllocationResult, DeviceSelector, DeviceTaint, DeviceToleration,
        ResourceClaim, ResourceSlice,
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
/// What is said where nothing was found and some pool cannot be used.
pub(super) const INVALID: &str = "invalid resource pools were encountered";
/// Most devices of one claim.
const MAX_DEVICES: usize = 32;
/// Driver, pool and name of a device.
type Id = (String, String, String);
/// Driver and name of a pool.
type Pool = (String, String);

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// Everything has its devices.
    Done,
    /// Other devices may do.
    Failed,
    /// The claim would have more devices than a claim can have, whichever they are: only fewer of them may do.
    TooMany,
}

/// A claim without devices, its requests made ready.
pub(super) struct Wanted {
    pub(super) claim: Arc<ResourceClaim>,
    requests: Vec<Vec<Request>>,
    /// Why nothing can be tried on any node.
    refused: Option<Reason>,
}

/// One way to satisfy a request.
struct Request {
    /// `request`, or `request/subrequest`.
    name: String,
    /// Whether it is one of a list.
    is_listed: bool,
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
    /// The first pool that the node reaches but cannot be used, and why: not all of its slices are there, or it contradicts
    /// itself.
    unusable: Option<(Pool, &'static str)>,
    /// Whether some pool that the node reaches contradicts itself.
    is_invalid: bool,
    /// What is left of counters by pool, set and name, with what devices that somebody has take, those that the node does
    /// not reach among them. It may be less than nothing.
    counters: BTreeMap<Pool, BTreeMap<(&'a str, &'a str), Quantity>>,
    /// The candidates of ways that want all there are, by claim, request and alternative.
    all: BTreeMap<(usize, usize, usize), Vec<usize>>,
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
        let key = object_key(claim.as_ref());
        let lists = devices.has(Gate::DRAPrioritizedList);
        if let Some(list) = all.iter().filter(|_| !lists).find(|r| r.first_available.is_some()) {
            let name = &list.name;
            return Err(format!(
                "resource claim {key}, request {name}: has subrequests, but the DRAPrioritizedList feature is disabled"
            )
            .into());
        }
        let requests: Vec<Vec<Request>> =
            all.iter().map(|request| alternatives(request, &key, devices)).collect::<Result<_, _>>()?;
        let mut out = Wanted { claim: claim.clone(), requests, refused: None };
        let why = all.iter().find_map(|request| unknown(request, devices));
        let why = why.or_else(|| out.too_many(|_, _| 0)).or_else(|| out.unknown_constraint());
        out.refused = why.map(|why| Reason::Owned(format!("claim {key}{why}")));
        Ok(out)
    }

    /// What is said where even the ways with the fewest devices have more than a claim can have; `all` counts those of a
    /// way that wants all there are.
    fn too_many(&self, all: impl Fn(usize, usize) -> usize) -> Option<String> {
        let fewest = |(request, ways): (usize, &Vec<Request>)| {
            let count = |(way, of): (usize, &Request)| of.count.unwrap_or_else(|| all(request, way));
            ways.iter().enumerate().map(count).min().unwrap_or(0)
        };
        let least = self.requests.iter().enumerate().map(fewest).fold(0, usize::saturating_add);
        (least > MAX_DEVICES).then(|| {
            format!(": number of requested devices {least} exceeds the claim limit of {MAX_DEVICES}")
        })
    }

    fn unknown_constraint(&self) -> Option<String> {
        let is_unknown = |c: &DeviceConstraint| c.match_attribute.is_none() && c.distinct_attribute.is_none();
        let at = self.constraints().iter().position(is_unknown)?;
        Some(format!(", constraint #{at}: empty constraint (unsupported constraint type?)"))
    }

    fn constraints(&self) -> &[DeviceConstraint] {
        self.claim.spec.devices.as_ref().and_then(|d| d.constraints.as_deref()).unwrap_or_default()
    }
}

/// What a request says that this scheduler does not know, or that its gates do not let it know.
fn unknown(request: &DeviceRequest, devices: &Devices) -> Option<String> {
    let unknown = |what: &str,
                   name: &str,
                   capacity: bool,
                   selectors: Option<&Vec<DeviceSelector>>,
                   mode: Option<&str>| {
        if capacity && !devices.has(Gate::DRAConsumableCapacity) {
            let why = "has capacity requests, but the DRAConsumableCapacity feature is disabled";
            return Some(format!(", {what} {name}: {why}"));
        }
        if let Some(at) = selectors.and_then(|all| all.iter().position(|selector| selector.cel.is_none())) {
            let why = "CEL expression empty (unsupported selector type?)";
            return Some(format!(", request {name}, selector #{at}: {why}"));
        }
        let mode = mode.filter(|mode| !matches!(*mode, "" | "All" | "ExactCount"))?;
        Some(format!(", request {name}: unsupported count mode {mode}"))
    };
    if let Some(exact) = &request.exactly {
        let (selectors, mode) = (exact.selectors.as_ref(), exact.allocation_mode.as_deref());
        return unknown("request", &request.name, exact.capacity.is_some(), selectors, mode);
    }
    request.first_available.iter().flatten().find_map(|sub| {
        let (selectors, mode) = (sub.selectors.as_ref(), sub.allocation_mode.as_deref());
        unknown("subrequest", &sub.name, sub.capacity.is_some(), selectors, mode)
    })
}

fn alternatives(
    request: &DeviceRequest,
    claim: &ObjectKey,
    devices: &Devices,
) -> Result<Vec<Request>, Reason> {
    let make =
        |name: String,
         class: &str,
         selectors: &[_],
         mode: Option<&str>,
         count: Option<i64>,
         admin: Option<bool>,
         (tolerations, capacity): (Option<&Vec<DeviceToleration>>, Option<&CapacityRequirements>)| {
            let Some(class) = devices.class(class).cloned() else {
                return Err(Reason::Owned(format!("request {name}: device class {class} does not exist")));
            };
            let of_class = class.spec.selectors.as_deref().unwrap_or_default();
            let class_name = class.metadata.name.clone().unwrap_or_default();
            let lists = devices.has(Gate::DRAListTypeAttributes);
            let of_class = Selectors::compile(of_class, &format!("class {class_name}"), lists);
            let own = Selectors::compile(selectors, &format!("claim {claim}"), lists);
            let count = match mode {
                Some("All") => None,
                _ => Some(count.and_then(|n| usize::try_from(n).ok()).unwrap_or(1)),
            };
            Ok::<Request, Reason>(Request {
                is_listed: request.exactly.is_none(),
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
        return Err(format!("resource claim {claim}, request {}: unknown request type", request.name).into());
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
    if let Some(refused) = wanted.iter().find_map(|wanted| wanted.refused.clone()) {
        return Err(refused);
    }
    let mut search = Search::new(wanted, devices, node, patience);
    search.list_all()?;
    if search.claim(0)? != Attempt::Done {
        return if search.is_invalid { Err(INVALID.into()) } else { Ok(None) };
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
        if result.share_id.is_none() || !devices.has(Gate::DRAConsumableCapacity) {
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
        let mut pools: BTreeMap<Pool, Vec<&'a ResourceSlice>> = BTreeMap::new();
        for slice in devices.slices() {
            let pool = (slice.spec.driver.clone(), slice.spec.pool.name.clone());
            pools.entry(pool).or_default().push(slice);
        }
        let partitions = devices.has(Gate::DRAPartitionableDevices);
        let mut held = held(devices);
        let (mut unusable, mut is_invalid, mut counters) = (None, false, BTreeMap::new());
        let mut domains: BTreeSet<String> = BTreeSet::new();
        // Devices that must be made ready first are taken where there are no others.
        let (mut candidates, mut slow) = (Vec::new(), Vec::new());
        for (pool, mut slices) in pools {
            let newest = slices.iter().map(|s| s.spec.pool.generation).max().unwrap_or_default();
            slices.retain(|slice| slice.spec.pool.generation == newest);
            slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
            for device in devices_of(&slices) {
                domains.extend(domains_of(&pool.0, device));
            }
            let expected = slices.first().map_or(0, |slice| slice.spec.pool.resource_slice_count);
            let is_complete = i64::try_from(slices.len()) == Ok(expected);
            let known = slices.iter().filter(|slice| partitions || !is_partitioned(slice));
            let here: Vec<&'a ResourceSlice> = known.filter(|slice| matters(slice, node)).copied().collect();
            if here.is_empty() {
                continue;
            }
            if !is_complete {
                unusable.get_or_insert((pool, "being updated"));
                continue;
            }
            if contradicts(&here, &slices, partitions) {
                is_invalid = true;
                unusable.get_or_insert((pool, "invalid"));
                continue;
            }
            if here.iter().any(|slice| has_counters(slice)) {
                let busy = devices_of(&slices).filter(|device| held.has(&pool.0, &pool.1, &device.name));
                counters.insert(pool.clone(), left(&here, busy));
            }
            let is_slow = devices_of(&here).any(|device| device.binding_conditions.is_some());
            let into = if is_slow { &mut slow } else { &mut candidates };
            for slice in here {
                for device in slice.spec.devices.iter().flatten().filter(|d| reaches(slice, d, node)) {
                    let id = (pool.0.clone(), pool.1.clone(), device.name.clone());
                    let in_use = held.whole.contains(&id);
                    let shares = held.shares.remove(&id).unwrap_or_default();
                    into.push(Candidate { slice, device, id, in_use, shares });
                }
            }
        }
        candidates.append(&mut slow);
        Search {
            wanted,
            candidates,
            unusable,
            is_invalid,
            counters,
            all: BTreeMap::new(),
            devices,
            maker: Maker::new(devices),
            domains: domains.into_iter().collect(),
            chosen: Vec::new(),
            matches: HashMap::new(),
            patience,
        }
    }

    /// Finds out what ways that want all devices come to; the error says that it cannot be known, or that it is too much.
    fn list_all(&mut self) -> Result<(), Reason> {
        let wanted = self.wanted;
        for (claim, of_claim) in wanted.iter().enumerate() {
            let key = || object_key(of_claim.claim.as_ref());
            for (request, ways) in of_claim.requests.iter().enumerate() {
                for (alternative, way) in ways.iter().enumerate().filter(|(_, way)| way.count.is_none()) {
                    if let Some(((driver, pool), why)) = &self.unusable {
                        let name = way.name.rsplit('/').next().unwrap_or_default();
                        let pool = format!("resource pool {driver}/{pool} is currently {why}");
                        return Err(format!(
                            "claim {}, request {name}: asks for all devices, but {pool}",
                            key()
                        )
                        .into());
                    }
                    let mut found = Vec::new();
                    for candidate in 0..self.candidates.len() {
                        let choice = Choice { claim, request, alternative, candidate };
                        // Those that do not have as much are not among all there are.
                        let shares = |search: &Self| {
                            search.amounts(choice, search.candidates[candidate].shares.iter()).is_some()
                        };
                        if self.is_matching(choice)? && shares(self) {
                            found.push(candidate);
                        }
                    }
                    self.all.insert((claim, request, alternative), found);
                }
            }
            let count = |request, way| self.all.get(&(claim, request, way)).map_or(0, Vec::len);
            if let Some(why) = of_claim.too_many(count) {
                return Err(format!("claim {}{why}", key()).into());
            }
        }
        Ok(())
    }

    fn claim(&mut self, claim: usize) -> Result<Attempt, Reason> {
        if claim == self.wanted.len() { Ok(Attempt::Done) } else { self.request(claim, 0) }
    }

    /// Tries the ways to satisfy a request, then everything after it.
    fn request(&mut self, claim: usize, request: usize) -> Result<Attempt, Reason> {
        let wanted = self.wanted;
        let Some(ways) = wanted[claim].requests.get(request) else {
            // What is too much for the next claim may be less after another choice for this one.
            let next = self.claim(claim + 1)?;
            return Ok(if next == Attempt::TooMany { Attempt::Failed } else { next });
        };
        let mut all = Attempt::TooMany;
        for (alternative, way) in ways.iter().enumerate() {
            let choice = Choice { claim, request, alternative, candidate: 0 };
            let before = self.chosen.len();
            let attempt = match way.count {
                Some(count) => self.some(choice, count, 0)?,
                None => self.all(choice)?,
            };
            if attempt == Attempt::Done {
                return Ok(attempt);
            }
            self.chosen.truncate(before);
            if attempt == Attempt::Failed || !way.is_listed {
                all = attempt;
            }
        }
        Ok(all)
    }

    /// Whether a claim cannot have so many devices more.
    fn is_full(&self, claim: usize, more: usize) -> bool {
        let has = self.chosen.iter().filter(|other| other.choice.claim == claim).count();
        has.saturating_add(more) > MAX_DEVICES
    }

    /// Takes `left` more devices from the candidates that come after the last one taken.
    fn some(&mut self, choice: Choice, left: usize, from: usize) -> Result<Attempt, Reason> {
        if left == 0 {
            return self.request(choice.claim, choice.request + 1);
        }
        if self.is_full(choice.claim, left) {
            return Ok(Attempt::TooMany);
        }
        for candidate in from..self.candidates.len() {
            if self.patience.is_over() {
                return Err(TIMED_OUT.into());
            }
            let choice = Choice { candidate, ..choice };
            if self.is_taken(choice) || !self.is_matching(choice)? {
                continue;
            }
            let Some(amounts) = self.available(choice) else { continue };
            self.chosen.push(Chosen { choice, amounts });
            if self.constraints_hold(choice.claim) {
                let attempt = self.some(choice, left - 1, candidate + 1)?;
                if attempt != Attempt::Failed {
                    return Ok(attempt);
                }
            }
            self.chosen.pop();
        }
        Ok(Attempt::Failed)
    }

    /// Takes all devices that match, if there are any and all of them are free. A constraint that does not hold for all of
    /// them makes no sense: that is an error.
    fn all(&mut self, choice: Choice) -> Result<Attempt, Reason> {
        let all = self.all.get(&(choice.claim, choice.request, choice.alternative)).cloned();
        let all = all.unwrap_or_default();
        if all.is_empty() {
            return Ok(Attempt::Failed);
        }
        if self.is_full(choice.claim, all.len()) {
            return Ok(Attempt::TooMany);
        }
        for candidate in all {
            let choice = Choice { candidate, ..choice };
            let Some(amounts) = self.available(choice) else { return Ok(Attempt::Failed) };
            self.chosen.push(Chosen { choice, amounts });
            if !self.constraints_hold(choice.claim) {
                let (driver, pool, device) = &self.candidates[candidate].id;
                let name = self.way(choice).name.rsplit('/').next().unwrap_or_default();
                return Err(format!(
                    "claim {}, request {name}: cannot add device {driver}/{pool}/{device} because a claim constraint would \
                     not be satisfied",
                    object_key(self.wanted[choice.claim].claim.as_ref())
                )
                .into());
            }
        }
        self.request(choice.claim, choice.request + 1)
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
        let is_slow = candidate.device.binding_conditions.as_ref().is_some_and(|c| !c.is_empty());
        if is_slow && !self.devices.have_conditions() {
            return Ok(false);
        }
        let seen = self.maker.device(&candidate.id.0, candidate.device, &self.domains);
        let selected = self.way(choice).selectors.select(&seen)?;
        self.matches.insert(key, selected);
        Ok(selected)
    }

    /// Whether a device cannot be given because somebody has all of it: another claim of the pod as well, be it for
    /// administration. Who wants it for that has it beside all but the same claim.
    fn is_taken(&self, choice: Choice) -> bool {
        let candidate = &self.candidates[choice.candidate];
        let chosen = || self.chosen.iter().map(|c| &c.choice).filter(|c| c.candidate == choice.candidate);
        let shared = self.is_shared(candidate.device);
        match self.way(choice).admin {
            true => !shared && chosen().any(|other| other.claim == choice.claim),
            false => candidate.in_use || (!shared && chosen().next().is_some()),
        }
    }

    /// How much of the device is given, if it can be: nobody else has it, and nothing keeps it back.
    fn available(&self, choice: Choice) -> Option<Amounts> {
        let (way, candidate) = (self.way(choice), &self.candidates[choice.candidate]);
        let device = candidate.device;
        let takes_counters = device.consumes_counters.as_ref().is_some_and(|all| !all.is_empty());
        if self.is_taken(choice) || (takes_counters && !self.devices.has(Gate::DRAPartitionableDevices)) {
            return None;
        }
        let shared = self.is_shared(device);
        let chosen = || self.chosen.iter().filter(|c| c.choice.candidate == choice.candidate);
        // Its counters are taken once, whoever shares it.
        let is_counted = shared && (!candidate.shares.is_empty() || chosen().next().is_some());
        if takes_counters && !is_counted && !self.counters_suffice(choice) {
            return None;
        }
        let taints = device.taints.as_deref().unwrap_or_default();
        let mut ruled = self.devices.rule_taints(&candidate.id.0, &candidate.id.1, &device.name);
        if self.devices.has(Gate::DRADeviceTaints)
            && (taints.iter().any(|taint| keeps_off(taint, &way.tolerations))
                || ruled.any(|taint| keeps_off(&taint, &way.tolerations)))
        {
            return None;
        }
        self.amounts(choice, candidate.shares.iter().chain(chosen().filter(|_| shared).map(|c| &c.amounts)))
    }

    /// How much of a device a request takes, if that is left beside what others take.
    fn amounts<'o>(&self, choice: Choice, others: impl Iterator<Item = &'o Amounts>) -> Option<Amounts> {
        if !self.devices.has(Gate::DRAConsumableCapacity) {
            return Some(Amounts::new());
        }
        let capacity = capacity(self.candidates[choice.candidate].device);
        let amounts = sharing::taken(self.way(choice).capacity.as_ref(), capacity)?;
        sharing::fits(capacity, others, &amounts).then_some(amounts)
    }

    /// Whether several claims may have some of a device each.
    fn is_shared(&self, device: &Device) -> bool {
        self.devices.has(Gate::DRAConsumableCapacity) && device.allow_multiple_allocations == Some(true)
    }

    /// Whether what the device takes of counters that it shares with others is left, and nothing of its pool's is owed.
    fn counters_suffice(&self, choice: Choice) -> bool {
        let candidate = &self.candidates[choice.candidate];
        let pool = |of: &Candidate<'_>| (of.id.0.clone(), of.id.1.clone());
        let pool = pool(candidate);
        let Some(counters) = self.counters.get(&pool) else { return false };
        let mut counted = BTreeSet::new();
        let chosen = self.chosen.iter().map(|c| c.choice.candidate).filter(|at| {
            let other = &self.candidates[*at];
            let is_shared = self.is_shared(other.device);
            (&other.id.0, &other.id.1) == (&pool.0, &pool.1)
                && (!is_shared || (other.shares.is_empty() && counted.insert(*at)))
        });
        let mut left = counters.clone();
        for device in chosen.map(|at| self.candidates[at].device).chain([candidate.device]) {
            take(&mut left, device);
        }
        left.values().all(|left| left.sign() >= 0)
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
            let lists = self.devices.has(Gate::DRAListTypeAttributes);
            let mut seen: Vec<Values> = Vec::new();
            for choice in concerned {
                let candidate = &self.candidates[choice.candidate];
                let Some(attribute) = attribute_of(candidate, attribute) else { return false };
                let values = Values::of(attribute, lists);
                // The first one may be of any kind, where that is not compared as a set.
                if values == Values::Unknown && (!seen.is_empty() || (lists && !distinct)) {
                    return false;
                }
                if distinct && seen.iter().any(|other| other.common(&values).is_some()) {
                    return false;
                }
                if distinct || seen.is_empty() {
                    seen.push(values);
                    continue;
                }
                // What all so far have in common.
                let Some(common) = seen[0].common(&values) else { return false };
                seen[0] = common;
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
            let shared = self.is_shared(published);
            let conditions =
                |all: &Option<Vec<String>>| all.clone().filter(|_| self.devices.have_conditions());
            let consumed = amounts.iter().map(|(name, amount)| (name.clone(), amount.to_api()));
            let (way, (driver, pool, device)) = (self.way(*choice), &self.candidates[choice.candidate].id);
            DeviceRequestAllocationResult {
                request: way.name.clone(),
                driver: driver.clone(),
                pool: pool.clone(),
                device: device.clone(),
                admin_access: way.admin.then_some(true),
                tolerations: (!way.tolerations.is_empty()).then(|| way.tolerations.clone()),
                binding_conditions: conditions(&published.binding_conditions),
                binding_failure_conditions: conditions(&published.binding_failure_conditions),
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

    /// What classes tell drivers, each once for all of its requests, and what the claim tells about requests and the ways
    /// that were chosen.
    fn config(&self, claim: usize, chosen: &[Choice]) -> Vec<DeviceAllocationConfiguration> {
        let mut out: Vec<DeviceAllocationConfiguration> = Vec::new();
        let ways: BTreeMap<usize, &Request> = chosen.iter().map(|c| (c.request, self.way(*c))).collect();
        let mut of_classes: BTreeMap<Option<&str>, std::ops::Range<usize>> = BTreeMap::new();
        for way in ways.values() {
            let class = way.class.metadata.name.as_deref();
            if let Some(known) = of_classes.get(&class) {
                for config in &mut out[known.clone()] {
                    config.requests.get_or_insert_default().push(way.name.clone());
                }
                continue;
            }
            let from = out.len();
            out.extend(way.class.spec.config.iter().flatten().map(|config| DeviceAllocationConfiguration {
                source: "FromClass".into(),
                requests: Some(vec![way.name.clone()]),
                opaque: config.opaque.clone(),
            }));
            of_classes.insert(class, from..out.len());
        }
        let spec = self.wanted[claim].claim.spec.devices.as_ref();
        for config in spec.iter().flat_map(|d| d.config.iter().flatten()) {
            let names = config.requests.as_deref().unwrap_or_default();
            let concerns =
                |way: &&&Request| names.iter().any(|name| *name == way.name || *name == way.main());
            // Once for each request it is about, as upstream has it.
            let times = if names.is_empty() { 1 } else { ways.values().filter(concerns).count() };
            for _ in 0..times {
                out.push(DeviceAllocationConfiguration {
                    source: "FromClaim".into(),
                    requests: config.requests.clone(),
                    opaque: config.opaque.clone(),
                });
            }
        }
        out
    }
}

impl Request {
    /// The name of the request as a whole.
    fn main(&self) -> &str {
        self.name.split_once('/').map_or(&self.name, |(main, _)| main)
    }
}

/// The values of an attribute: one, or those of a list.
#[derive(Clone, Debug, PartialEq)]
enum Values {
    /// None that is known.
    Unknown,
    Ints(BTreeSet<i64>),
    Bools(BTreeSet<bool>),
    Strings(BTreeSet<String>),
    Versions(BTreeSet<String>),
}

impl Values {
    /// The values; `lists` is whether there may be several.
    fn of(attribute: &DeviceAttribute, lists: bool) -> Values {
        fn all<T: Clone + Ord>(many: Option<&Vec<T>>, lists: bool) -> Option<BTreeSet<T>> {
            many.filter(|all| lists && !all.is_empty()).map(|all| all.iter().cloned().collect())
        }
        fn one<T: Clone + Ord>(one: Option<&T>) -> Option<BTreeSet<T>> {
            one.map(|value| BTreeSet::from([value.clone()]))
        }
        let a = attribute;
        let many = all(a.ints.as_ref(), lists).map(Values::Ints);
        let many = many.or_else(|| all(a.bools.as_ref(), lists).map(Values::Bools));
        let many = many.or_else(|| all(a.strings.as_ref(), lists).map(Values::Strings));
        many.or_else(|| all(a.versions.as_ref(), lists).map(Values::Versions))
            .or_else(|| one(a.int.as_ref()).map(Values::Ints))
            .or_else(|| one(a.bool.as_ref()).map(Values::Bools))
            .or_else(|| one(a.string.as_ref()).map(Values::Strings))
            .or_else(|| one(a.version.as_ref()).map(Values::Versions))
            .unwrap_or(Values::Unknown)
    }

    /// What both have, where that is anything.
    fn common(&self, other: &Values) -> Option<Values> {
        fn both<T: Clone + Ord>(a: &BTreeSet<T>, b: &BTreeSet<T>) -> Option<BTreeSet<T>> {
            Some(a.intersection(b).cloned().collect::<BTreeSet<T>>()).filter(|common| !common.is_empty())
        }
        match (self, other) {
            (Values::Ints(a), Values::Ints(b)) => both(a, b).map(Values::Ints),
            (Values::Bools(a), Values::Bools(b)) => both(a, b).map(Values::Bools),
            (Values::Strings(a), Values::Strings(b)) => both(a, b).map(Values::Strings),
            (Values::Versions(a), Values::Versions(b)) => both(a, b).map(Values::Versions),
            _ => None,
        }
    }
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

/// Whether a slice says what only partitions of devices need.
fn is_partitioned(slice: &ResourceSlice) -> bool {
    slice.spec.per_device_node_selection.is_some() || has_counters(slice)
}

fn has_counters(slice: &ResourceSlice) -> bool {
    slice.spec.shared_counters.as_ref().is_some_and(|all| !all.is_empty())
}

fn devices_of<'a>(slices: &[&'a ResourceSlice]) -> impl Iterator<Item = &'a Device> {
    slices.iter().flat_map(|slice| slice.spec.devices.iter().flatten())
}

/// What slices have of counters, less what devices take.
fn left<'a>(
    slices: &[&'a ResourceSlice],
    busy: impl Iterator<Item = &'a Device>,
) -> BTreeMap<(&'a str, &'a str), Quantity> {
    let sets = slices.iter().flat_map(|slice| slice.spec.shared_counters.iter().flatten());
    let all = sets.flat_map(|set| set.counters.iter().map(|(name, has)| (set.name.as_str(), name, has)));
    let amount = |(set, name, has): (&'a str, &'a String, &Counter)| {
        Some(((set, name.as_str()), Quantity::from_api(&has.value)?))
    };
    let mut out = all.filter_map(amount).collect();
    busy.for_each(|device| take(&mut out, device));
    out
}

/// Takes from counters what a device needs of them.
fn take<'d>(left: &mut BTreeMap<(&'d str, &'d str), Quantity>, device: &'d Device) {
    for need in device.consumes_counters.iter().flatten() {
        for (name, counter) in &need.counters {
            let left = left.get_mut(&(need.counter_set.as_str(), name.as_str()));
            if let (Some(left), Some(amount)) = (left, Quantity::from_api(&counter.value)) {
                *left = *left - amount;
            }
        }
    }
}

/// Whether a node has to do with a slice: it reaches some of its devices, or the slice has the counters of its pool.
fn matters(slice: &ResourceSlice, node: &NodeInfo) -> bool {
    let spec = &slice.spec;
    if has_counters(slice) {
        return true;
    }
    match spec.per_device_node_selection {
        Some(true) => spec.devices.iter().flatten().any(|device| reaches(slice, device, node)),
        _ => is_at(spec.node_name.as_deref(), spec.node_selector.as_ref(), spec.all_nodes, node),
    }
}

/// Whether a pool contradicts itself: devices or counters of one name, or devices that take of counters there are none of.
fn contradicts(here: &[&ResourceSlice], all: &[&ResourceSlice], partitions: bool) -> bool {
    let mut names = BTreeSet::new();
    let mut devices = here.iter().flat_map(|slice| slice.spec.devices.iter().flatten());
    if devices.any(|device| !names.insert(&device.name)) {
        return true;
    }
    if !partitions {
        return false;
    }
    let mut counters = BTreeMap::new();
    for set in here.iter().flat_map(|slice| slice.spec.shared_counters.iter().flatten()) {
        if counters.insert(&set.name, &set.counters).is_some() {
            return true;
        }
    }
    let devices = all.iter().flat_map(|slice| slice.spec.devices.iter().flatten());
    let mut needs = devices.flat_map(|device| device.consumes_counters.iter().flatten());
    needs.any(|need| {
        let known = counters.get(&need.counter_set);
        !known.is_some_and(|known| need.counters.keys().all(|name| known.contains_key(name)))
    })
}

/// Whether a node reaches a device.
pub(super) fn reaches(slice: &ResourceSlice, device: &Device, node: &NodeInfo) -> bool {
    let spec = &slice.spec;
    let (name, selector, all) = match spec.per_device_node_selection {
        Some(true) => (&device.node_name, &device.node_selector, device.all_nodes),
        _ => (&spec.node_name, &spec.node_selector, spec.all_nodes),
    };
    is_at(name.as_deref(), selector.as_ref(), all, node)
}

fn is_at(name: Option<&str>, selector: Option<&NodeSelector>, all: Option<bool>, node: &NodeInfo) -> bool {
    let selects = |s: &NodeSelector| NodeSelectorTerms::new(s).matches(&node.name, &node.labels);
    match name.filter(|name| !name.is_empty()) {
        Some(name) => name == node.name,
        None => all == Some(true) || selector.is_some_and(selects),
    }
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
