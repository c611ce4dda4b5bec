//! The kubelet's process.

use std::process::ExitCode;

// The system's allocator: others keep pages of their own for every thread and every size, which for the few megabytes
// of a kubelet is half as much again.
fn main() -> ExitCode {
    component_base::memory::one_arena();
    component_base::daemon::main::<kubelet::run::Kubelet>()
}
