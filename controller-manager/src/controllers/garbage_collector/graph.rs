//! The graph of owners and dependents, as plain data, and what follows from it for one object.
//!
//! Nodes are known by uid alone. An owner that a dependent names but no watch has shown yet is *virtual*: it may
//! be on its way, or gone for good, and only the server can tell. Nothing is ever deleted on the graph's word
//! that an owner is missing.
//!
//! Contract: the garbage collection page of the documentation (owners, foreground, background, orphan) and
//! upstream's `pkg/controller/garbagecollector`.

mod dot;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use component_base::{informer::version_of, meta};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use sha2::{Digest, Sha256};

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";
/// Owners known to be gone that are remembered; when full, all are asked for again.
const ABSENT_LIMIT: usize = 8192;

/// An object's uid in 16 bytes: a UUID as it is, any other text by its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Uid(u128);

impl Uid {
    pub(super) fn new(text: &str) -> Uid {
        if let Ok(uuid) = text.parse::<uuid::Uuid>() {
            return Uid(uuid.as_u128());
        }
        let digest = Sha256::digest(text.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Uid(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", uuid::Uuid::from_u128(self.0))
    }
}

/// A group and kind, interned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct KindId(u32);

/// What it takes to ask the server for an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Coordinates {
    pub(super) kind: KindId,
    /// Empty for cluster-scoped kinds.
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    /// As the server writes it.
    pub(super) uid: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    uid: Uid,
    at: Coordinates,
    blocks: bool,
}

#[derive(Clone, Debug)]
struct Node {
    at: Coordinates,
    owners: Vec<Owner>,
    version: u64,
    /// No watch has shown it.
    is_virtual: bool,
    /// It has owners besides those here which cannot be checked, and count as there.
    is_puzzling: bool,
    is_deleting: bool,
    foreground: bool,
    orphan: bool,
}

impl Node {
    /// Deleted in the foreground: it stays until the dependents that block it are gone.
    fn awaits_dependents(&self) -> bool {
        self.is_deleting && self.foreground
    }
}

/// Something to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Task {
    /// Whether this object must go, or may lose a finalizer.
    Examine(Uid),
    /// Its dependents lose it as an owner.
    Orphan(Uid),
}

impl fmt::Display for Task {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Task::Examine(uid) => write!(out, "examine {uid}"),
            Task::Orphan(uid) => write!(out, "orphan {uid}"),
        }
    }
}

/// How an object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Orphan,
    Foreground,
    Background,
}

/// What follows for one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It stays as it is.
    Nothing,
    /// Does this owner exist? [`Graph::is_absent`] afterwards, or a watch, has the answer.
    Verify(Vec<Coordinates>),
    /// Delete it, if it still is at this version.
    Delete { at: Coordinates, version: u64, policy: Policy },
    /// Owners that are gone or going leave its list: others are there.
    DropOwners { at: Coordinates, uids: Vec<Arc<str>> },
    /// It stops blocking its owners' deletion: two that wait for each other would wait for ever.
    Unblock { at: Coordinates, then: Box<Decision> },
    /// Nobody blocks its deletion any more.
    RemoveFinalizer { at: Coordinates, finalizer: &'static str },
    /// Its deletion waits for these.
    Await(Vec<Uid>),
    /// These lose it as an owner, then it loses the finalizer.
    Release { at: Coordinates, dependents: Vec<Coordinates> },
}

/// What is known of a kind.
#[derive(Clone, Debug)]
struct Kind {
    group: String,
    kind: String,
    namespaced: bool,
}

/// Owners and dependents of everything that can be deleted.
#[derive(Debug, Default)]
pub(super) struct Graph {
    kinds: Vec<Kind>,
    kind_ids: HashMap<(String, String), KindId>,
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, HashSet<Uid>>,
    /// What is known not to be there. Another reference to the same uid may be right where one is wrong.
    absent: HashSet<Coordinates>,
    /// Objects with owners of kinds that nobody has served yet.
    puzzling: HashSet<Uid>,
    namespaces: HashSet<Arc<str>>,
    /// Found since somebody asked.
    misplaced: Vec<Misplaced>,
}

/// An object that names an owner which lives in another namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misplaced {
    /// The object.
    pub(super) at: Coordinates,
    /// What it names, in its own namespace.
    pub(super) owner: Coordinates,
}

impl Graph {
    /// Makes a kind known.
    pub(super) fn add_kind(&mut self, group: &str, kind: &str, namespaced: bool) -> KindId {
        if let Some(id) = self.kind_ids.get(&(group.to_owned(), kind.to_owned())) {
            return *id;
        }
        // Far fewer kinds exist than fit.
        let id = KindId(u32::try_from(self.kinds.len()).unwrap_or(u32::MAX));
        self.kinds.push(Kind { group: group.to_owned(), kind: kind.to_owned(), namespaced });
        self.kind_ids.insert((group.to_owned(), kind.to_owned()), id);
        id
    }

    /// Whether an object has owners that were not understood, and has to be shown again when a kind comes.
    pub(super) fn is_puzzled(&self, object: &ObjectMeta) -> bool {
        let Some(uid) = object.uid.as_deref().filter(|_| !self.puzzling.is_empty()).map(Uid::new) else {
            return false;
        };
        let is_newest = |node: &Node| node.version <= version_of(object);
        self.puzzling.contains(&uid) && self.nodes.get(&uid).is_some_and(is_newest)
    }

    fn intern(&mut self, namespace: &str) -> Arc<str> {
        if let Some(known) = self.namespaces.get(namespace) {
            return known.clone();
        }
        let new: Arc<str> = namespace.into();
        self.namespaces.insert(new.clone());
        new
    }

    /// Whether every owner's kind is known; a custom resource may come later.
    fn owners_of(&mut self, meta: &ObjectMeta, namespace: &Arc<str>) -> Vec<Owner> {
        let references = meta.owner_references.as_deref().unwrap_or_default();
        references.iter().filter_map(|reference| self.owner(reference, namespace)).collect()
    }

    /// An owner whose kind nobody serves, or one that cannot be because a cluster-scoped object does not live in
    /// a namespace, owns nothing: such an object is never collected on its account.
    fn owner(&mut self, reference: &OwnerReference, namespace: &Arc<str>) -> Option<Owner> {
        let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
        let kind = *self.kind_ids.get(&(group.to_owned(), reference.kind.clone()))?;
        let namespaced = self.kinds.get(kind.0 as usize)?.namespaced;
        if namespaced && namespace.is_empty() {
            return None;
        }
        let at = Coordinates {
            kind,
            namespace: if namespaced { namespace.clone() } else { self.intern("") },
            name: reference.name.as_str().into(),
            uid: reference.uid.as_str().into(),
        };
        Some(Owner {
            uid: Uid::new(&reference.uid),
            at,
            blocks: reference.block_owner_deletion == Some(true),
        })
    }

    /// Notes owners of a cluster-scoped object that were seen in a namespace.
    fn note_misplaced(&mut self, node: &Node, object: &ObjectMeta) {
        if !node.at.namespace.is_empty() {
            return;
        }
        for reference in object.owner_references.iter().flatten() {
            let Some(owner) = self.nodes.get(&Uid::new(&reference.uid)) else { continue };
            if is_elsewhere(owner, node) {
                let named = Coordinates { namespace: node.at.namespace.clone(), ..owner.at.clone() };
                self.misplaced.push(Misplaced { at: node.at.clone(), owner: named });
            }
        }
    }

    /// Whether an object has owners that the graph did not understand.
    fn holds_unknown_owners(node: &Node, meta: &ObjectMeta) -> bool {
        node.owners.len() < meta.owner_references.as_ref().map_or(0, Vec::len)
    }

    /// Takes in an object as a watch shows it; returns what must be looked at because of it.
    pub(super) fn observe(&mut self, kind: KindId, object: &ObjectMeta) -> Vec<Task> {
        let uid = Uid::new(object.uid.as_deref().unwrap_or_default());
        let namespace = self.intern(object.namespace.as_deref().unwrap_or_default());
        let owners = self.owners_of(object, &namespace);
        let mut node = Node {
            at: Coordinates {
                kind,
                namespace,
                name: object.name.as_deref().unwrap_or_default().into(),
                uid: object.uid.as_deref().unwrap_or_default().into(),
            },
            owners,
            version: version_of(object),
            is_virtual: false,
            is_puzzling: false,
            is_deleting: meta::is_deleting(object),
            foreground: meta::has_finalizer(object, FOREGROUND),
            orphan: meta::has_finalizer(object, ORPHAN),
        };
        if Self::holds_unknown_owners(&node, object) {
            node.is_puzzling = true;
            if self.puzzling.insert(uid) {
                self.note_misplaced(&node, object);
            }
        } else {
            self.puzzling.remove(&uid);
        }
        let old = self.nodes.insert(uid, node.clone());
        let mut tasks = self.link(uid, &node, old.as_ref());
        if old.as_ref().is_some_and(|old| old.is_virtual && old.at != node.at) {
            tasks.extend(self.mistaken(uid, &node));
        }
        let was = |f: fn(&Node) -> bool| old.as_ref().is_some_and(f);
        if node.awaits_dependents() && !was(Node::awaits_dependents) {
            tasks.push(Task::Examine(uid));
            tasks.extend(self.dependents_of(uid).map(Task::Examine));
        } else if node.awaits_dependents() {
            tasks.push(Task::Examine(uid));
        }
        if node.is_deleting && node.orphan && !was(|n| n.is_deleting && n.orphan) {
            tasks.push(Task::Orphan(uid));
        }
        // A dependent that shows up after its owner was found to be gone would wait for nobody.
        if node.owners.iter().any(|owner| self.is_known_absent(owner)) {
            tasks.push(Task::Examine(uid));
        }
        tasks
    }

    /// Ties a node to its owners; owners never seen become virtual and are to be verified.
    fn link(&mut self, uid: Uid, node: &Node, old: Option<&Node>) -> Vec<Task> {
        let mut tasks = Vec::new();
        for gone in old.map(|o| o.owners.as_slice()).unwrap_or_default() {
            let stays = node.owners.iter().find(|o| o.uid == gone.uid);
            if stays.is_none() {
                self.unlink(gone.uid, uid);
            }
            if stays.is_none_or(|o| gone.blocks && !o.blocks) && self.awaits_dependents(gone.uid) {
                tasks.push(Task::Examine(gone.uid));
            }
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid).or_default().insert(uid);
            match self.nodes.get(&owner.uid) {
                None => {
                    let stand_in = Node {
                        at: owner.at.clone(),
                        owners: Vec::new(),
                        version: 0,
                        is_virtual: true,
                        is_puzzling: false,
                        is_deleting: false,
                        foreground: false,
                        orphan: false,
                    };
                    self.nodes.insert(owner.uid, stand_in);
                    tasks.push(Task::Examine(owner.uid));
                }
                // The reference does not mean the object that has this uid.
                Some(known) if known.at != owner.at => {
                    tasks.push(Task::Examine(uid));
                    let is_new = old.is_none_or(|old| old.owners.iter().all(|o| o.uid != owner.uid));
                    if is_new && is_elsewhere(known, node) {
                        let named = Coordinates { namespace: node.at.namespace.clone(), ..owner.at.clone() };
                        self.misplaced.push(Misplaced { at: node.at.clone(), owner: named });
                    }
                }
                Some(known) if known.awaits_dependents() => tasks.push(Task::Examine(uid)),
                Some(_) => {}
            }
        }
        tasks
    }

    /// Those that named an owner before it was seen, and named it wrongly.
    fn mistaken(&mut self, owner: Uid, seen: &Node) -> Vec<Task> {
        let mut tasks = Vec::new();
        for uid in self.dependents.get(&owner).into_iter().flatten() {
            let Some(node) = self.nodes.get(uid) else { continue };
            let Some(named) = node.owners.iter().find(|o| o.uid == owner && o.at != seen.at) else {
                continue;
            };
            tasks.push(Task::Examine(*uid));
            if is_elsewhere(seen, node) {
                let named = Coordinates { namespace: node.at.namespace.clone(), ..named.at.clone() };
                self.misplaced.push(Misplaced { at: node.at.clone(), owner: named });
            }
        }
        tasks.sort_unstable();
        tasks
    }

    /// Objects found to name owners of other namespaces.
    pub(super) fn take_misplaced(&mut self) -> Vec<Misplaced> {
        std::mem::take(&mut self.misplaced)
    }

    fn unlink(&mut self, owner: Uid, dependent: Uid) {
        let Some(all) = self.dependents.get_mut(&owner) else { return };
        all.remove(&dependent);
        if all.is_empty() {
            self.dependents.remove(&owner);
            if self.nodes.get(&owner).is_some_and(|n| n.is_virtual) {
                self.nodes.remove(&owner);
            }
        }
    }

    fn dependents_of(&self, uid: Uid) -> impl Iterator<Item = Uid> + '_ {
        self.dependents.get(&uid).into_iter().flatten().copied()
    }

    fn awaits_dependents(&self, uid: Uid) -> bool {
        self.nodes.get(&uid).is_some_and(Node::awaits_dependents)
    }

    /// Forgets an object that is gone; its dependents and those it blocked must be looked at.
    pub(super) fn forget(&mut self, uid: Uid) -> Vec<Task> {
        self.puzzling.remove(&uid);
        let Some(node) = self.nodes.remove(&uid) else { return Vec::new() };
        let mut tasks: Vec<Task> = self.dependents_of(uid).map(Task::Examine).collect();
        self.remember_absent(&node.at);
        for owner in &node.owners {
            self.unlink(owner.uid, uid);
            if self.awaits_dependents(owner.uid) {
                tasks.push(Task::Examine(owner.uid));
            }
        }
        tasks.sort_unstable();
        tasks
    }

    /// Whether no watch has shown an object of this uid.
    pub(super) fn is_unseen(&self, at: &Coordinates) -> bool {
        self.nodes.get(&Uid::new(&at.uid)).is_none_or(|node| node.is_virtual)
    }

    /// The server has no such object at these coordinates. Its dependents must be looked at.
    pub(super) fn mark_absent(&mut self, at: &Coordinates) -> Vec<Task> {
        let uid = Uid::new(&at.uid);
        self.remember_absent(at);
        match self.nodes.get(&uid) {
            Some(node) if node.is_virtual && node.at == *at => {
                self.nodes.remove(&uid);
            }
            _ => {}
        }
        let mut tasks: Vec<Task> = self.dependents_of(uid).map(Task::Examine).collect();
        tasks.sort_unstable();
        tasks
    }

    fn remember_absent(&mut self, at: &Coordinates) {
        if self.absent.len() >= ABSENT_LIMIT {
            self.absent.clear();
        }
        self.absent.insert(at.clone());
    }

    fn is_known_absent(&self, owner: &Owner) -> bool {
        self.absent.contains(&owner.at)
    }

    /// Whether the coordinates lead to an object a watch has shown.
    fn is_solid(&self, owner: &Owner) -> bool {
        self.nodes.get(&owner.uid).is_some_and(|n| !n.is_virtual && n.at == owner.at)
    }

    /// What follows for an object from what is known now.
    pub(super) fn decide(&self, task: Task) -> Decision {
        match task {
            Task::Examine(uid) => self.examine(uid),
            Task::Orphan(uid) => self.release(uid),
        }
    }

    fn release(&self, uid: Uid) -> Decision {
        let Some(node) = self.nodes.get(&uid).filter(|n| n.is_deleting && n.orphan) else {
            return Decision::Nothing;
        };
        let dependents = self.dependents_of(uid).filter_map(|d| self.nodes.get(&d)).map(|n| n.at.clone());
        let mut dependents: Vec<Coordinates> = dependents.collect();
        dependents.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Decision::Release { at: node.at.clone(), dependents }
    }

    fn examine(&self, uid: Uid) -> Decision {
        let Some(node) = self.nodes.get(&uid) else { return Decision::Nothing };
        if node.is_virtual {
            return Decision::Verify(vec![node.at.clone()]);
        }
        if node.awaits_dependents() {
            return self.await_dependents(uid, node);
        }
        if node.is_deleting || node.owners.is_empty() || node.is_puzzling {
            return Decision::Nothing;
        }
        self.weigh_owners(uid, node)
    }

    fn await_dependents(&self, uid: Uid, node: &Node) -> Decision {
        let blocks =
            |d: &Uid| self.nodes.get(d).is_some_and(|n| n.owners.iter().any(|o| o.uid == uid && o.blocks));
        let mut blocking: Vec<Uid> = self.dependents_of(uid).filter(blocks).collect();
        if blocking.is_empty() {
            return Decision::RemoveFinalizer { at: node.at.clone(), finalizer: FOREGROUND };
        }
        blocking.retain(|d| !self.awaits_dependents(*d));
        blocking.sort_unstable();
        Decision::Await(blocking)
    }

    fn weigh_owners(&self, uid: Uid, node: &Node) -> Decision {
        let (solid, unseen): (Vec<&Owner>, Vec<&Owner>) = node.owners.iter().partition(|o| self.is_solid(o));
        let (dangling, unknown): (Vec<&Owner>, Vec<&Owner>) =
            unseen.into_iter().partition(|o| self.is_known_absent(o));
        let (waiting, solid): (Vec<&Owner>, Vec<&Owner>) =
            solid.into_iter().partition(|o| self.awaits_dependents(o.uid));
        if !solid.is_empty() {
            let uids: Vec<Arc<str>> =
                dangling.iter().chain(&waiting).map(|owner| owner.at.uid.clone()).collect();
            return if uids.is_empty() {
                Decision::Nothing
            } else {
                Decision::DropOwners { at: node.at.clone(), uids }
            };
        }
        if !unknown.is_empty() {
            return Decision::Verify(unknown.iter().map(|o| o.at.clone()).collect());
        }
        let has_dependents = self.dependents.contains_key(&uid);
        if !waiting.is_empty() && has_dependents {
            let delete = self.delete(node, Policy::Foreground);
            let in_cycle = self.dependents_of(uid).any(|d| self.awaits_dependents(d));
            let blocks = node.owners.iter().any(|o| o.blocks);
            return if in_cycle && blocks {
                Decision::Unblock { at: node.at.clone(), then: Box::new(delete) }
            } else {
                delete
            };
        }
        // A finalizer put there before says what its owner meant.
        let policy = match (node.orphan, node.foreground) {
            (true, _) => Policy::Orphan,
            (false, true) => Policy::Foreground,
            (false, false) => Policy::Background,
        };
        self.delete(node, policy)
    }

    fn delete(&self, node: &Node, policy: Policy) -> Decision {
        Decision::Delete { at: node.at.clone(), version: node.version, policy }
    }

    /// Group and kind, for messages.
    pub(super) fn kind_name(&self, kind: KindId) -> (&str, &str) {
        self.kinds.get(kind.0 as usize).map_or(("", ""), |k| (k.group.as_str(), k.kind.as_str()))
    }

    /// Number of objects.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
}

/// Whether an owner that has been seen lives in another namespace than its dependent.
fn is_elsewhere(owner: &Node, dependent: &Node) -> bool {
    !owner.is_virtual && !owner.at.namespace.is_empty() && owner.at.namespace != dependent.at.namespace
}

#[cfg(test)]
mod tests;
