//! Sees when others take our tables away (`nft flush ruleset`), so that they come back within a second; when they
//! change what is inside, which takes a look at all of it and is noticed within seconds; and that a war with another
//! agent over them is fought seldom.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{Content, Kernel, KernelError};
use crate::tables::Family;

/// Time between looks.
const LOOK: Duration = Duration::from_millis(500);
/// Time between two losses from which on they have nothing to do with each other.
const PEACE: Duration = Duration::from_secs(60);
/// Least time between comparisons of contents, and how many times as long as one takes.
const AUDIT: Duration = Duration::from_secs(2);
const SHARE: u32 = 100;
/// How many times in a row a table nobody touched may be wrong.
const STRIKES: u32 = 3;
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
    audit: Audit,
}

/// When the contents of tables are compared: others have changed something, though it may be only theirs.
#[derive(Debug, Default)]
struct Audit {
    due: bool,
    /// Not before.
    not_before: Option<Instant>,
    /// Families whose contents were others', until they have been seen to be right.
    altered: BTreeSet<Family>,
    /// Whether others have changed anything since a table was made.
    touched: bool,
    /// How many times in a row a table was wrong that nobody had touched since it was made: the kernel says things in
    /// other words than we do then, and comparing leads nowhere.
    strikes: u32,
}

/// When tables that were lost are looked at again.
#[derive(Debug, Default)]
struct Truce {
    /// How long the last one was.
    pause: Duration,
    until: Option<Instant>,
}

/// Returns after `rest`, with a change, or when `lost`, asked from time to time however many changes there are, says that
/// others have taken tables away. `looked` is when it was asked last.
pub async fn something_to_do(
    rest: Duration,
    changed: &Notify,
    looked: &mut Instant,
    mut lost: impl FnMut() -> bool,
) {
    let rest = tokio::time::sleep(rest);
    tokio::pin!(rest);
    loop {
        if looked.elapsed() >= LOOK {
            *looked = Instant::now();
            if lost() {
                return;
            }
        }
        tokio::select! {
            () = &mut rest => return,
            () = changed.notified() => return,
            () = tokio::time::sleep(LOOK.saturating_sub(looked.elapsed())) => {}
        }
    }
}

impl Guard {
    /// Nothing is known yet.
    pub fn new(entry: &'static str) -> Self {
        Self { entry, handles: BTreeMap::new(), truce: Truce::default(), audit: Audit::default() }
    }

    /// A family's table was made.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn made(&mut self, kernel: &mut Kernel, family: Family) -> Result<(), KernelError> {
        // What was done until now is known by the handle alone.
        kernel.others_changed()?;
        self.audit.touched = false;
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
        (self.audit.due, self.audit.touched) = (true, true);
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

impl Guard {
    /// The families whose tables hold something else than `planned` says; looked at when others have changed something,
    /// and seldom enough to cost next to nothing.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn altered(
        &mut self,
        kernel: &mut Kernel,
        now: Instant,
        mut planned: impl FnMut(Family) -> Content,
    ) -> Result<Vec<Family>, KernelError> {
        if self.truce.holds(now) || !self.audit.is_due(now) {
            return Ok(Vec::new());
        }
        let began = Instant::now();
        let (mut altered, mut whole) = (Vec::new(), true);
        for family in self.handles.keys() {
            let planned = planned(*family);
            match kernel.content(*family, &planned)? {
                Some(found) if found != planned => altered.push(*family),
                Some(_) => drop(self.audit.altered.remove(family)),
                None => whole = false,
            }
        }
        self.audit.done(now, began.elapsed(), whole);
        if altered.iter().any(|family| self.audit.altered.contains(family)) && !self.audit.touched {
            self.audit.strikes += 1;
            if self.audit.strikes == STRIKES {
                tracing::warn!("the kernel lists our tables in other words; their contents are not compared");
                return Ok(Vec::new());
            }
        } else {
            self.audit.strikes = 0;
        }
        self.audit.altered.extend(&altered);
        if !altered.is_empty() {
            // What is made anew is looked at once more.
            self.audit.due = true;
            self.truce.broken(now);
        }
        Ok(altered)
    }
}

impl Audit {
    fn is_due(&self, now: Instant) -> bool {
        self.due && self.strikes < STRIKES && self.not_before.is_none_or(|at| now >= at)
    }

    /// A look that took so long is over; one that was disturbed is taken again.
    fn done(&mut self, now: Instant, took: Duration, whole: bool) {
        self.due = !whole;
        self.not_before = Some(now + (took * SHARE).max(AUDIT));
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

    #[tokio::test]
    async fn changes_that_never_end_do_not_keep_from_looking() {
        let (changed, mut looked) = (Notify::new(), Instant::now() + PEACE);
        changed.notify_one();
        something_to_do(Duration::MAX, &changed, &mut looked, || panic!("it is not time yet")).await;
        looked = Instant::now() - LOOK;
        let mut looks = 0;
        let mut lost = || {
            looks += 1;
            false
        };
        for _ in 0..3 {
            changed.notify_one();
            something_to_do(Duration::MAX, &changed, &mut looked, &mut lost).await;
        }
        assert!(looks >= 1, "it was time");
        looked -= LOOK;
        something_to_do(Duration::MAX, &changed, &mut looked, || true).await;
    }

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
