//! Mutations that are made again because a later one changed the object.
//!
//! Contract: `reinvocationPolicy: IfNeeded`; upstream's reinvocation context: all mutating plugins run at most twice, and
//! in the second round only those members of a plugin (webhooks, policies) are called again that asked for it and ran
//! before something changed. Pure.

use std::collections::{BTreeSet, HashMap};

use crate::object::Object;

/// What is known of the rounds of one write.
#[derive(Debug, Default)]
pub struct Reinvocation {
    round: u32,
    is_wanted: bool,
    plugins: HashMap<&'static str, Invoked>,
}

/// One plugin's members.
#[derive(Debug, Default)]
struct Invoked {
    /// Called since the last change, and to be called again after the next one.
    eligible: BTreeSet<String>,
    /// To be called in the second round.
    again: BTreeSet<String>,
    /// The object as the plugin left it.
    output: Option<Object>,
}

impl Reinvocation {
    /// 0, or 1 when plugins run again.
    pub fn round(&self) -> u32 {
        self.round
    }

    /// A plugin begins: in the second round, what others did meanwhile counts as a change.
    pub fn begin(&mut self, plugin: &'static str, object: Option<&Object>) {
        let Some(invoked) = self.plugins.get_mut(plugin) else { return };
        if self.round > 0 && invoked.output.as_ref() != object {
            invoked.require();
        }
    }

    /// Whether a member of a plugin is called in this round.
    pub fn calls(&self, plugin: &'static str, member: &str) -> bool {
        self.round == 0 || self.plugins.get(plugin).is_some_and(|invoked| invoked.again.contains(member))
    }

    /// A member was called: whether it changed the object, and whether it wants to see what others change later.
    pub fn called(&mut self, plugin: &'static str, member: &str, changed: bool, if_needed: bool) {
        let invoked = self.plugins.entry(plugin).or_default();
        if changed {
            invoked.require();
            self.is_wanted = true;
        }
        if if_needed {
            invoked.eligible.insert(member.to_owned());
        }
    }

    /// A plugin ends, leaving the object so.
    pub fn end(&mut self, plugin: &'static str, object: Option<&Object>) {
        if let Some(invoked) = self.plugins.get_mut(plugin) {
            invoked.output = object.cloned();
        }
    }

    /// Goes on to the second round, if there is to be one.
    pub fn next_round(&mut self) -> bool {
        let is_next = self.round == 0 && self.is_wanted;
        self.round += u32::from(is_next);
        is_next
    }
}

impl Invoked {
    fn require(&mut self) {
        self.again.append(&mut self.eligible);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLUGIN: &str = "P";

    #[test]
    fn members_that_asked_run_again_after_a_later_change() {
        let mut known = Reinvocation::default();
        known.begin(PLUGIN, None);
        known.called(PLUGIN, "asks", true, true);
        known.called(PLUGIN, "never", true, false);
        known.called(PLUGIN, "last", true, true);
        known.end(PLUGIN, Some(&Object::new()));
        assert!(known.next_round() && known.round() == 1);
        known.begin(PLUGIN, Some(&Object::new()));
        for (member, is_called) in [("asks", true), ("never", false), ("last", false), ("new", false)] {
            assert_eq!(known.calls(PLUGIN, member), is_called, "{member}");
        }
        known.called(PLUGIN, "asks", true, true);
        assert!(!known.next_round(), "there are two rounds at most");
    }

    #[test]
    fn what_other_plugins_change_counts_and_no_change_is_no_round() {
        let mut known = Reinvocation::default();
        known.called(PLUGIN, "asks", false, true);
        assert!(!known.next_round());
        known.end(PLUGIN, Some(&Object::new()));
        known.called("Other", "changes", true, false);
        assert!(known.next_round());
        let mut changed = Object::new();
        changed.set("kind", "Changed");
        known.begin(PLUGIN, Some(&changed));
        assert!(known.calls(PLUGIN, "asks"));
    }
}
