//! Memory that is free goes back to the system.
//!
//! The allocator gives pages back when it is asked for others. A daemon that has read a whole cluster in a second and
//! then has little to do would keep for days what it needed in that second.

use std::time::Duration;

use crate::task::Tasks;

/// How often what is free is given back; the first time soon after the start, which needs most.
const EVERY: Duration = Duration::from_secs(10);

/// Gives back, from time to time, what this daemon does not use. For those whose heap is small: each round looks at all
/// of the pages of one thread.
pub fn give_back(tasks: &Tasks) {
    let drain = tasks.drain();
    tasks.spawn("memory", async move {
        while drain.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            collect();
        }
    });
}

#[expect(unsafe_code, reason = "the allocator is a library of C without a safe wrapper for this")]
fn collect() {
    // SAFETY: mi_collect has no precondition: it looks at the pages of the calling thread and of threads that have
    // ended, and at regions nobody uses.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
