//! Entry point of `hack/bench`.

use std::{io::Write, process::ExitCode};

use tests::bench;

/// What is measured in this process has the allocator it has in its daemon.
#[global_allocator]
static ALLOCATOR: component_base::memory::Allocator = component_base::memory::Allocator;

const USAGE: &str = "usage: hack/bench [--json] [--no-build] [--list] [NAME...]";

fn main() -> ExitCode {
    let mut options = bench::Options::default();
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--json" => options.json = true,
            "--no-build" => options.no_build = true,
            "--list" | "--help" | "-h" => {
                say(USAGE);
                bench::ALL.iter().for_each(|b| say(&format!("  {:10} {}", b.name, b.about)));
                return ExitCode::SUCCESS;
            }
            name if bench::ALL.iter().any(|b| b.name == name) => options.names.push(name.to_owned()),
            other => {
                say(&format!("unknown benchmark or option {other:?}; --list shows what there is\n{USAGE}"));
                return ExitCode::from(64);
            }
        }
    }
    match bench::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            hack::screen::failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    // A closed standard output must not be an error.
    drop(writeln!(std::io::stdout(), "{text}"));
}
