//! How many watches a write is told to: each costs something after the write is answered.
//!
//! Contract: upstream's `util/flowcontrol/watch_tracker.go`.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::request_path::info::RequestInfo;

/// Watches that are open, by what they look at: a resource, what of it is in a namespace, or one object.
#[derive(Debug, Default)]
pub(super) struct Watches {
    hasher: RandomState,
    /// By the hash of what is looked at: two of one hash make an estimate worse, and nothing else.
    open: Mutex<HashMap<u64, u32>>,
}

/// A watch that is open as long as this lives.
#[derive(Debug)]
pub struct Watched {
    among: Arc<Watches>,
    key: u64,
}

impl Watches {
    /// Counts a watch; none is one of the pods of a node, which hears of few writes.
    pub(super) fn open(self: &Arc<Self>, info: &RequestInfo) -> Option<Watched> {
        if info.resource == "pods" && of_node(info.query.get("fieldSelector")) {
            return None;
        }
        let key = self.key(info, &info.namespace, &info.name);
        *self.open.lock().entry(key).or_default() += 1;
        Some(Watched { among: self.clone(), key })
    }

    /// How many watches may have to be told of a write.
    pub(super) fn interested(&self, info: &RequestInfo) -> u32 {
        let (namespace, name) = (info.namespace.as_str(), info.name.as_str());
        let wider = [("", ""), (namespace, ""), (namespace, name)];
        let keys =
            wider.into_iter().enumerate().filter(|(at, place)| wider[..*at].iter().all(|p| p != place));
        let keys: Vec<u64> = keys.map(|(_, (namespace, name))| self.key(info, namespace, name)).collect();
        let open = self.open.lock();
        keys.iter().filter_map(|key| open.get(key)).sum()
    }

    fn key(&self, info: &RequestInfo, namespace: &str, name: &str) -> u64 {
        self.hasher.hash_one((info.group.as_str(), info.resource.as_str(), namespace, name))
    }
}

/// Whether a selector takes only the pods of one node.
fn of_node(selector: &str) -> bool {
    let node = |term: &str| {
        let value = term.trim().strip_prefix("spec.nodeName=")?;
        Some(!value.strip_prefix('=').unwrap_or(value).is_empty())
    };
    selector.split(',').find_map(node).unwrap_or(false)
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut open = self.among.open.lock();
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn of(method: &Method, path: &str) -> RequestInfo {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        RequestInfo::new(method, path, query)
    }

    #[test]
    fn a_write_is_told_to_those_who_look_there() {
        let all = Arc::new(Watches::default());
        let watch = |path: &str| all.open(&of(&Method::GET, path));
        let told = |path: &str| all.interested(&of(&Method::PUT, path));
        let open = [
            watch("/api/v1/configmaps?watch=true"),
            watch("/api/v1/namespaces/a/configmaps?watch=true"),
            watch("/api/v1/namespaces/a/configmaps?watch=true&fieldSelector=metadata.name%3Dm"),
            watch("/api/v1/pods?watch=true"),
            watch("/apis/apps/v1/deployments?watch=true"),
        ];
        assert!(open.iter().all(Option::is_some));
        assert_eq!(told("/api/v1/namespaces/a/configmaps/m"), 3);
        assert_eq!(told("/api/v1/namespaces/a/configmaps/n"), 2);
        assert_eq!(told("/api/v1/namespaces/b/configmaps/m"), 1);
        assert_eq!(told("/apis/apps/v1/namespaces/a/deployments/d/status"), 1);
        assert_eq!(told("/api/v1/nodes/n"), 0);
        assert!(watch("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn").is_none());
        let unbound = watch("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3D");
        assert_eq!((unbound.is_some(), told("/api/v1/namespaces/a/pods/p")), (true, 2));
        drop((open, unbound));
        assert_eq!(told("/api/v1/namespaces/a/configmaps/m"), 0);
        assert!(all.open.lock().is_empty());
    }
}
