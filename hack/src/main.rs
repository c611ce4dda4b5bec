//! Entry point of the tooling; the scripts `hack/up`, `hack/down` and `hack/test` call it.

use clap::{Parser, Subcommand};
use hack::{down, layout::Layout, suite, up};

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
    /// Run the whole suite.
    Test(suite::Args),
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let result = Layout::from_env().and_then(|layout| match args.command {
        Command::Up(args) => up::run(&layout, &args),
        Command::Down(args) => down::run(&layout, &args),
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
