//! Sees when others take our tables away (`nft flush ruleset`), so that they come back within a second; and that
//! a war with another agent over them is fought seldom.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{Kernel, KernelError};
use crate::tables::Family;

/// Time between looks.
const LOOK: Duration = Duration::from_millis(500);
/// Time between two losses from which on they have nothing to do with each other.
const PEACE: Duration = Duration::from_secs(60);
/// Longest time without a look.
const LONGEST: Duration = Duration::from_secs(30);

/// What is known of the tables of one name.
#[derive(Debug)]
pub struct Guard {
    /// A chain that always has rules.
    entry: &'static str,
    /// The tables that were made.
    handles: BTreeMap<Family, u64>,
    truce: Truce,
}

/// When tables that were lost are looked at again.
#[derive(Debug, Default)]
struct Truce {
    /// How long the last one was.
    pause: Duration,
    until: Option<Instant>,
}

/// Returns after `rest`, with a change, or when `lost`, asked from time to time, says that others have taken tables away.
pub async fn something_to_do(rest: Duration, changed: &Notify, mut lost: impl FnMut() -> bool) {
    let rest = tokio::time::sleep(rest);
    tokio::pin!(rest);
    loop {
        tokio::select! {
            () = &mut rest => return,
            () = changed.notified() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        if lost() {
            return;
        }
    }
}

impl Guard {
    /// Nothing is known yet.
    pub fn new(entry: &'static str) -> Self {
        Self { entry, handles: BTreeMap::new(), truce: Truce::default() }
    }

    /// A family's table was made.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn made(&mut self, kernel: &mut Kernel, family: Family) -> Result<(), KernelError> {
        // What was done until now is known by the handle alone.
        kernel.others_changed()?;
        match kernel.handle(family)? {
            Some(handle) => drop(self.handles.insert(family, handle)),
            None => drop(self.handles.remove(&family)),
        }
        Ok(())
    }

    /// The families whose tables are gone, or empty, or others' since the last look; none during a truce.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn lost(&mut self, kernel: &mut Kernel, now: Instant) -> Result<Vec<Family>, KernelError> {
        if self.truce.holds(now) || !kernel.others_changed()? {
            return Ok(Vec::new());
        }
        let mut lost = Vec::new();
        for (family, handle) in &self.handles {
            if kernel.handle(*family)? != Some(*handle) || kernel.rules(*family, self.entry)? == 0 {
                lost.push(*family);
            }
        }
        if !lost.is_empty() {
            self.truce.broken(now);
        }
        Ok(lost)
    }
}

impl Truce {
    fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Tables were lost again: the first time they are looked after as before, then twice as long each time.
    fn broken(&mut self, now: Instant) {
        let at_war = self.until.is_some_and(|until| now < until + PEACE);
        self.pause = if at_war { (self.pause * 2).min(LONGEST) } else { LOOK };
        self.until = Some(now + self.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_war_is_fought_ever_less_often_and_peace_ends_it() {
        let mut truce = Truce::default();
        let mut now = Instant::now();
        assert!(!truce.holds(now));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            truce.broken(now);
            assert!(truce.holds(now));
            now += truce.pause;
            assert!(!truce.holds(now));
            pauses.push(truce.pause.as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        now += PEACE;
        truce.broken(now);
        assert_eq!(truce.pause, LOOK);
    }
}
