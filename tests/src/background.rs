//! Programs that go on while a test looks at what they say, with pipes or with a terminal.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::pty::{Winsize, openpty};

/// The size of a terminal that programs are started on: 40 lines of 100 characters.
const WINDOW: Winsize = Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };

/// A running program whose lines are read as they come; killed when dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    input: Option<File>,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Background {
    /// Starts a program with pipes; both its outputs are read.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let input = child.stdin.take().map(|i| File::from(std::os::fd::OwnedFd::from(i)));
        let (say, lines) = channel();
        let (out, err) = (child.stdout.take().context("a pipe")?, child.stderr.take().context("a pipe")?);
        for stream in [Box::new(out) as Box<dyn Read + Send>, Box::new(err)] {
            let say = say.clone();
            thread::spawn(move || {
                let lines = BufReader::new(stream).lines().map_while(Result::ok);
                // Ends with the stream or with the one who listens.
                lines.map(|line| say.send(line)).take_while(Result::is_ok).for_each(drop);
            });
        }
        Ok(Self { child, input, lines, said: Vec::new() })
    }

    /// Starts a program on a terminal of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn on_terminal(mut command: Command) -> Result<Self> {
        let pty = openpty(Some(&WINDOW), None)?;
        let (input, output) = (File::from(pty.master.try_clone()?), File::from(pty.master));
        command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(pty.slave);
        let child = command.spawn()?;
        // The command holds the slave's ends; the master is told of the end only when all are closed.
        drop(command);
        let (say, lines) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.map(|line| say.send(line)).take_while(Result::is_ok).for_each(drop);
        });
        Ok(Self { child, input: Some(input), lines, said: Vec::new() })
    }

    /// Types a line.
    ///
    /// # Errors
    /// When nobody reads.
    pub fn type_line(&mut self, text: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        Ok(writeln!(input, "{text}")?)
    }

    /// Closes its input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits for a line that contains a text and returns it.
    ///
    /// # Errors
    /// When it does not come within `seconds`, with what was said.
    pub fn line(&mut self, text: &str, seconds: u64) -> Result<String> {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no line with {text:?} within {seconds} s but {:?}", self.said)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("it ended without a line with {text:?}: {:?}", self.said)
                }
            }
        }
    }

    /// The lines that came before the last one that was waited for.
    pub fn said(&self) -> &[String] {
        &self.said
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it goes on for more than `seconds`.
    #[expect(clippy::disallowed_methods, reason = "no runtime is there to be blocked")]
    pub fn end(&mut self, seconds: u64) -> Result<ExitStatus> {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("it goes on: {:?}", self.said);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // One that has ended needs no more than being waited for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
