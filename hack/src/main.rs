//! Entry point of the tooling; the scripts `hack/up`, `hack/join`, `hack/down` and `hack/test` call it.

use clap::{Parser, Subcommand};
use hack::{down, join, layout::Layout, suite, up};

#[derive(Parser)]
#[command(name = "hack", about = "Builds, runs, tests and removes a Keelson cluster on this machine")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster, or bring a running one back to what it should be.
    Up(up::Args),
    /// Take away everything `up` made.
    Down(down::Args),
    /// Make this machine a node of a cluster elsewhere, or print how another one becomes a node here.
    Join(join::Args),
    /// Run the whole suite.
    Test(suite::Args),
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let result = Layout::from_env().and_then(|layout| match args.command {
        Command::Up(args) => up::run(&layout, &args),
        Command::Down(args) => down::run(&layout, &args),
        Command::Join(args) => join::run(&layout, &args),
        Command::Test(args) => suite::run(&layout, &args),
    });
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            hack::screen::failure(&error);
            std::process::ExitCode::FAILURE
        }
    }
}
