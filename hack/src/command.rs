//! Running other programs, with errors that show what was run and what it said.

use std::{
    ffi::OsStr,
    io::Write,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

/// A command from a program and arguments.
pub fn command<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut c = Command::new(program);
    c.args(args);
    c
}

/// Runs to success and returns standard output.
pub fn output(c: &mut Command) -> Result<String> {
    let out = try_output(c)?;
    if !out.status.success() {
        bail!("{}: {}: {}", show(c), out.status, tail(&String::from_utf8_lossy(&out.stderr), 12));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs and returns whatever came of it.
pub fn try_output(c: &mut Command) -> Result<Output> {
    c.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", show(c)))
}

/// Runs with `input` on standard input, to success.
pub fn feed(c: &mut Command, input: &str) -> Result<String> {
    let mut child = c
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", show(c)))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("cannot write to {}", show(c)))?;
    }
    let out = child.wait_with_output()?;
    if !out.status.success() {
        bail!("{}: {}: {}", show(c), out.status, tail(&String::from_utf8_lossy(&out.stderr), 12));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs to success with the user's terminal.
pub fn interactive(c: &mut Command) -> Result<()> {
    let status = c.stdin(Stdio::null()).status().with_context(|| format!("cannot run {}", show(c)))?;
    if !status.success() {
        bail!("{}: {status}", show(c));
    }
    Ok(())
}

/// The command line as a user would type it.
pub fn show(c: &Command) -> String {
    let mut text = c.get_program().to_string_lossy().into_owned();
    for arg in c.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// The last `n` lines of a text.
pub fn tail(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}
