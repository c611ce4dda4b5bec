//! kube-dns' process.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: component_base::memory::Allocator = component_base::memory::Allocator;

fn main() -> ExitCode {
    component_base::daemon::main::<dns::run::Dns>()
}
