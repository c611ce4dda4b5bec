//! The informer's cache: objects ordered by namespace and name, with indexes by computed values.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    fmt,
    ops::Bound,
    sync::Arc,
};

use parking_lot::RwLock;

use super::Cached;
use crate::meta::ObjectKey;

/// Cached objects of one informer. Reads take a short shared lock and return `Arc`s.
pub struct Store<K> {
    state: RwLock<State<K>>,
}

struct State<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    /// One shared copy of each namespace's name.
    namespaces: HashSet<Arc<str>>,
    indexes: Vec<Index<K>>,
}

struct Index<K> {
    name: &'static str,
    values: fn(&K) -> Vec<String>,
    keys: HashMap<String, Keys>,
}

/// Keys of objects: most values have one, and a tree for one is large.
enum Keys {
    One(ObjectKey),
    Many(BTreeSet<ObjectKey>),
}

impl<K> Default for Store<K> {
    fn default() -> Store<K> {
        let state = State { objects: BTreeMap::new(), namespaces: HashSet::new(), indexes: Vec::new() };
        Store { state: RwLock::new(state) }
    }
}

impl<K> fmt::Debug for Store<K> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Store").field("len", &self.state.read().objects.len()).finish_non_exhaustive()
    }
}

impl<K> Store<K> {
    /// The object of a key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.state.read().objects.get(key).cloned()
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// The objects of a namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let Some(name) = state.namespaces.get(namespace) else { return Vec::new() };
        let first = ObjectKey { namespace: name.clone(), name: "".into() };
        state
            .objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(|(key, _)| key.namespace == *name)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The objects that an index holds under a value, by namespace and name; empty for an index that was never added.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let Some(index) = state.indexes.iter().find(|own| own.name == index) else { return Vec::new() };
        let of = |key: &ObjectKey| state.objects.get(key).cloned();
        match index.keys.get(value) {
            None => Vec::new(),
            Some(Keys::One(key)) => of(key).into_iter().collect(),
            Some(Keys::Many(keys)) => keys.iter().filter_map(of).collect(),
        }
    }

    /// How many objects.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Cached> Store<K> {
    /// A store filled by hand, for tests of what reads one.
    pub fn of(objects: impl IntoIterator<Item = K>) -> Store<K> {
        let store = Store::default();
        for object in objects {
            store.insert(object);
        }
        store
    }

    pub(super) fn keys(&self) -> HashSet<ObjectKey> {
        self.state.read().objects.keys().cloned().collect()
    }

    pub(super) fn add_index(&self, name: &'static str, values: fn(&K) -> Vec<String>) {
        let mut state = self.state.write();
        if state.indexes.iter().any(|index| index.name == name) {
            return;
        }
        let mut index = Index { name, values, keys: HashMap::new() };
        for (key, object) in &state.objects {
            index.insert(key, object);
        }
        state.indexes.push(index);
    }

    /// Stores an object and returns it with the one it replaces.
    pub(super) fn insert(&self, mut object: K) -> (Arc<K>, Option<Arc<K>>) {
        let mut state = self.state.write();
        let mut key = object.key();
        match (state.objects.get_key_value(&key), state.namespaces.get(&key.namespace)) {
            (Some((known, _)), _) => key = known.clone(),
            (None, Some(shared)) => key.namespace = shared.clone(),
            (None, None) => drop(state.namespaces.insert(key.namespace.clone())),
        }
        object.settle(&key);
        let object = Arc::new(object);
        let old = state.objects.insert(key.clone(), object.clone());
        for index in &mut state.indexes {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &object);
        }
        (object, old)
    }

    pub(super) fn remove(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let mut state = self.state.write();
        let old = state.objects.remove(key)?;
        for index in &mut state.indexes {
            index.remove(key, &old);
        }
        Some(old)
    }
}

impl<K> Index<K> {
    fn insert(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values)(object) {
            match self.keys.entry(value) {
                Entry::Vacant(entry) => drop(entry.insert(Keys::One(key.clone()))),
                Entry::Occupied(mut entry) => entry.get_mut().insert(key),
            }
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values)(object) {
            if let Entry::Occupied(mut entry) = self.keys.entry(value)
                && entry.get_mut().remove(key)
            {
                entry.remove();
            }
        }
    }
}

impl Keys {
    fn insert(&mut self, key: &ObjectKey) {
        match self {
            Self::One(one) if one == key => {}
            Self::One(one) => *self = Self::Many(BTreeSet::from([one.clone(), key.clone()])),
            Self::Many(keys) => drop(keys.insert(key.clone())),
        }
    }

    /// Whether there are none then.
    fn remove(&mut self, key: &ObjectKey) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Many(keys) => {
                keys.remove(key);
                keys.is_empty()
            }
        }
    }
}
