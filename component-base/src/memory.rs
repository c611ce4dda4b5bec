//! Memory that is not needed goes back to the system.
//!
//! The allocator gives pages back when it is asked for others. A daemon that has read a whole cluster in a second and
//! then has little to do would keep for days what it needed in that second. So it is with its program: the kernel maps
//! sixteen pages around each that is touched, and keeps those of code that only the start needs.

use std::{ffi::c_void, fs, num::NonZeroUsize, ops::Range, path::Path, ptr::NonNull, time::Duration};

use nix::sys::mman::{MmapAdvise, madvise};

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

/// Lets go, from time to time, of the program's code; what still runs is mapped again from the system's cache of files
/// as it is touched, a few hundred faults of a microsecond each.
pub(crate) fn let_go_of_code(tasks: &Tasks) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_default();
    let code = code_of(&maps, &program);
    let drain = tasks.drain();
    tasks.spawn("code", async move {
        while drain.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            for range in &code {
                unmap(range);
            }
        }
    });
}

/// Where a program's code is mapped: what may be run and not written, and comes from its file (proc_pid_maps(5)).
fn code_of(maps: &str, program: &Path) -> Vec<Range<usize>> {
    let of = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (range, rights) = (words.next()?, words.next()?);
        let file = words.nth(3)?;
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        (rights == "r-xp" && Path::new(file) == program).then_some(address(start)?..address(end)?)
    };
    maps.lines().filter_map(of).collect()
}

#[expect(unsafe_code, reason = "what the system is told of memory has no safe wrapper")]
fn unmap(code: &Range<usize>) {
    let start = NonZeroUsize::new(code.start).map(NonNull::<c_void>::with_exposed_provenance);
    let Some(start) = start else { return };
    // SAFETY: the range is a whole private mapping of a file that cannot be written and never was: pages that are let
    // go of come back from the file with the same bytes.
    let told = unsafe { madvise(start, code.len(), MmapAdvise::MADV_DONTNEED) };
    if let Err(error) = told {
        tracing::debug!(%error, "code that is not needed stays mapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of a mapping that are resident.
    fn resident(of: &Range<usize>) -> u64 {
        let all = fs::read_to_string("/proc/self/smaps").unwrap();
        let begins = format!("{:x}-{:x} ", of.start, of.end);
        let ours = all.split_once(&begins).unwrap().1;
        let line = ours.lines().find(|line| line.starts_with("Rss:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn code_that_is_let_go_of_is_not_resident_and_runs_again() {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let code = code_of(&maps, &std::env::current_exe().unwrap());
        let [code] = code.as_slice() else { panic!("{maps}") };
        let here = code_of as fn(&str, &Path) -> Vec<Range<usize>> as usize;
        assert!(code.contains(&here));
        // All of it, so that what other tests run in between makes no difference.
        for page in code.clone().step_by(4096) {
            let byte = NonNull::<u8>::with_exposed_provenance(NonZeroUsize::new(page).unwrap());
            touch(byte);
        }
        let before = resident(code);
        unmap(code);
        let after = resident(code);
        assert!(after < before / 2, "{before} kB, then {after} kB");
        assert!(code_of(&maps, Path::new("/nowhere")).is_empty());
    }

    #[expect(unsafe_code, reason = "a byte of the program itself is read")]
    fn touch(byte: NonNull<u8>) {
        // SAFETY: it lies in a mapping of this program's that may be read.
        let _seen = unsafe { byte.as_ptr().read_volatile() };
    }

    #[test]
    fn only_what_may_be_run_and_comes_from_the_file_is_code() {
        let maps = "1000-2000 r--p 00000000 fe:00 7 /bin/one\n2000-5000 r-xp 00001000 fe:00 7 /bin/one\n\
                    5000-6000 rw-p 00004000 fe:00 7 /bin/one\n7000-8000 r-xp 00000000 fe:00 9 /lib/other.so\n\
                    8000-9000 rw-p 00000000 00:00 0\n9000-a000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(code_of(maps, Path::new("/bin/one")), std::slice::from_ref(&(0x2000..0x5000)));
    }
}
