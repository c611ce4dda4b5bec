//! Entry point: everything else is in the library.

#[global_allocator]
static ALLOCATOR: component_base::memory::Allocator = component_base::memory::Allocator;

fn main() -> std::process::ExitCode {
    component_base::daemon::main::<scheduler::run::Scheduler>()
}
