//! The commands that turn one state of a table into another, in an order the kernel accepts.
//!
//! Things come into being before anything leads to them and go after nothing does any more.

use smol_str::SmolStr;

use super::{Chain, Key, Set, Table, Value};

/// One change of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make sure the table exists.
    AddTable,
    /// Delete the table with all it holds.
    DeleteTable,
    /// Make a set or map.
    AddSet(String, Set),
    /// Delete a set or map.
    DeleteSet(String),
    /// Make a chain, empty.
    AddChain(String, Chain),
    /// Delete a chain.
    DeleteChain(String),
    /// Empty a chain.
    FlushChain(String),
    /// Append a chain's rules.
    AddRules(String, Chain),
    /// Add elements.
    AddElements(SmolStr, Vec<(Key, Value)>),
    /// Delete elements.
    DeleteElements(SmolStr, Vec<(Key, Value)>),
}

/// Commands from `old` (`None`: unknown, so the table is made anew) to `new`.
pub fn diff(old: Option<&Table>, new: &Table) -> Vec<Command> {
    let nothing = Table::default();
    let mut out = Vec::new();
    let old = old.unwrap_or_else(|| {
        // Deleting needs an existing table, hence the first command; one batch is atomic.
        out.extend([Command::AddTable, Command::DeleteTable, Command::AddTable]);
        &nothing
    });
    // A set whose shape changed is made anew under the same name; none of ours ever does, but a wrong
    // table would be worse than a short gap.
    let reshaped = |name: &String| match (old.sets.get(name), new.sets.get(name)) {
        (Some(a), Some(b)) => (&a.key, &a.data, a.timeout) != (&b.key, &b.data, b.timeout),
        _ => false,
    };
    if old.sets.keys().any(reshaped)
        || old.chains.iter().any(|(n, c)| new.chains.get(n).is_some_and(|d| d.hook != c.hook))
    {
        return diff(None, new);
    }
    for (name, set) in new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name)) {
        out.push(Command::AddSet(name.clone(), Set { elements: Default::default(), ..set.clone() }));
    }
    for (name, chain) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
        out.push(Command::AddChain(name.clone(), Chain { rules: vec![], ..chain.clone() }));
    }
    elements_gone(old, new, &mut out);
    elements_come(old, new, &mut out);
    for (name, chain) in &new.chains {
        let had = old.chains.get(name);
        if had.is_none_or(|had| had.rules != chain.rules) {
            if had.is_some_and(|had| !had.rules.is_empty()) {
                out.push(Command::FlushChain(name.clone()));
            }
            if !chain.rules.is_empty() {
                out.push(Command::AddRules(name.clone(), chain.clone()));
            }
        }
    }
    let gone: Vec<&String> = old.chains.keys().filter(|name| !new.chains.contains_key(*name)).collect();
    out.extend(gone.iter().map(|name| Command::FlushChain((*name).clone())));
    out.extend(gone.iter().map(|name| Command::DeleteChain((*name).clone())));
    out.extend(old.sets.keys().filter(|n| !new.sets.contains_key(*n)).map(|n| Command::DeleteSet(n.clone())));
    out
}

/// Elements that are gone or lead elsewhere now.
fn elements_gone(old: &Table, new: &Table, out: &mut Vec<Command>) {
    for (name, had) in &old.sets {
        let Some(set) = new.sets.get(name) else { continue };
        let stale = had.elements.iter().filter(|(key, value)| set.elements.get(*key) != Some(*value));
        let stale: Vec<(Key, Value)> = stale.map(|(k, v)| (k.clone(), v.clone())).collect();
        if !stale.is_empty() {
            out.push(Command::DeleteElements(name.into(), stale));
        }
    }
}

/// Elements that are new or lead elsewhere now.
fn elements_come(old: &Table, new: &Table, out: &mut Vec<Command>) {
    for (name, set) in &new.sets {
        let had = old.sets.get(name).map(|s| &s.elements);
        let fresh = set.elements.iter().filter(|(key, value)| had.and_then(|h| h.get(*key)) != Some(*value));
        let fresh: Vec<(Key, Value)> = fresh.map(|(k, v)| (k.clone(), v.clone())).collect();
        if !fresh.is_empty() {
            out.push(Command::AddElements(name.into(), fresh));
        }
    }
}
