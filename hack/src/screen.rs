//! What the user sees: steps, waits with their reason, failures with what to do.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Announces a step.
pub fn step(text: &str) {
    line(&format!("==> {text}"));
}

/// A detail of the current step.
pub fn detail(text: &str) {
    line(&format!("    {text}"));
}

/// A failure, with its causes.
pub fn failure(error: &anyhow::Error) {
    line(&format!("\nFAILED: {error}"));
    for cause in error.chain().skip(1) {
        line(&format!("  because: {cause}"));
    }
}

/// Prints one line to standard output.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed standard output must not stop the work.
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}

/// Polls `ready` until it says yes. Shows what it waits for, and why it is not there yet.
///
/// `ready` returns `Ok(None)` when done, `Ok(Some(reason))` to go on waiting, and an error to stop at once.
pub fn wait(
    what: &str,
    timeout: Duration,
    mut ready: impl FnMut() -> Result<Option<String>>,
) -> Result<Duration> {
    let start = Instant::now();
    let (mut shown, mut last_shown) = (String::new(), start);
    let tty = std::io::stdout().is_terminal();
    loop {
        let Some(reason) = ready()? else {
            detail(&format!("{what}: {:.1}s", start.elapsed().as_secs_f64()));
            return Ok(start.elapsed());
        };
        if start.elapsed() > timeout {
            bail!("{what}: not after {}s: {reason}", timeout.as_secs());
        }
        let due = if tty { 1 } else { 5 };
        if (reason != shown && last_shown.elapsed().as_secs() >= 1) || last_shown.elapsed().as_secs() >= due {
            detail(&format!(
                "waiting: {what} ({}s of {}s): {reason}",
                start.elapsed().as_secs(),
                timeout.as_secs()
            ));
            (shown, last_shown) = (reason, Instant::now());
        }
        pause(Duration::from_millis(50));
    }
}

/// Blocks this thread; the tooling is synchronous and polls foreign processes.
#[expect(clippy::disallowed_methods, reason = "no runtime thread here")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
