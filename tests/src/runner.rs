//! Runs lists of tests against one subject, several at a time, and reports as `cargo test` does.

use std::{
    env,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Result, anyhow};

/// A test: what it shows, as a sentence, and how. It gets the subject and a namespace of its own.
pub type Test<C> = (&'static str, fn(&C, &str) -> Result<()>);

/// What is tested and how a test is prepared and its failure explained.
#[derive(Debug)]
pub struct Runner<'a, C> {
    /// Shared by all tests.
    pub subject: &'a C,
    /// Tests that run at the same time.
    pub parallel: usize,
    /// Makes the namespace of a test.
    pub prepare: fn(&C, &str) -> Result<()>,
    /// Takes the namespace of a test that passed away, so that later ones have room.
    pub clean: fn(&C, &str),
    /// What helps to understand a failure in a namespace.
    pub explain: fn(&C, &str) -> String,
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
}

impl<C: Sync> Runner<'_, C> {
    /// Runs the tests of a list that [are wanted](is_wanted).
    ///
    /// # Panics
    /// Never: a test that panics has failed.
    pub fn run(&self, prefix: &str, tests: &[Test<C>]) -> Outcome {
        let chosen: Vec<_> = tests.iter().filter(|(name, _)| is_wanted(prefix, name)).collect();
        let (next, outcome) = (AtomicUsize::new(0), Mutex::new(Outcome::default()));
        let work = || {
            while let Some((name, test)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                let at = tests.iter().position(|(n, _)| n == name).unwrap_or_default();
                // The process makes it another one for each run on a cluster that stays.
                let namespace = format!("{prefix}-{at}-{}", std::process::id());
                let passed = self.one(&namespace, name, *test);
                let mut outcome = outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if passed { outcome.passed += 1 } else { outcome.failed += 1 }
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.parallel.min(chosen.len()) {
                scope.spawn(work);
            }
        });
        outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn one(&self, namespace: &str, name: &str, test: fn(&C, &str) -> Result<()>) -> bool {
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            (self.prepare)(self.subject, namespace)?;
            test(self.subject, namespace)
        }))
        .unwrap_or_else(|_| Err(anyhow!("it panicked")));
        let took = start.elapsed().as_secs_f32();
        match &result {
            Ok(()) => {
                say(&format!("test {name} ... ok ({took:.1}s)"));
                (self.clean)(self.subject, namespace);
            }
            Err(error) => {
                let more = (self.explain)(self.subject, namespace);
                say(&format!("test {name} ... FAILED ({took:.1}s) in {namespace}\n{error:#}\n{more}"));
            }
        }
        result.is_ok()
    }
}

// === impl Outcome ===

impl Outcome {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Outcome) -> Outcome {
        Outcome { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }

    /// Says the result and turns it into the process's.
    pub fn exit(self) -> ExitCode {
        let word = if self.failed == 0 { "ok" } else { "FAILED" };
        say(&format!("\ntest result: {word}. {} passed; {} failed; 0 ignored", self.passed, self.failed));
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Why nothing runs: fine on a developer's machine, a failure in CI.
pub fn skip(why: &str) -> ExitCode {
    say(&format!("skipped: {why}"));
    if env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Prints a line.
pub fn say(text: &str) {
    // Output that cannot be written says nothing about the tests.
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

/// Whether a test is to run: the command line names its list or a part of its name, or nothing.
pub fn is_wanted(list: &str, name: &str) -> bool {
    let mut asked = env::args().skip(1).filter(|a| !a.starts_with('-')).peekable();
    asked.peek().is_none() || asked.any(|a| a == list || name.contains(&a))
}
