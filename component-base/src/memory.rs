//! Memory that is not needed goes back to the system.
//!
//! The allocator gives pages back when it is asked for others. A daemon that has read a whole cluster in a second and
//! then has little to do would keep for days what it needed in that second. So it is with its program: the kernel maps
//! sixteen pages around each that is touched, and keeps those of code that only the start needs.

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    ffi::c_void,
    fs,
    num::NonZeroUsize,
    ops::Range,
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use libmimalloc_sys as mimalloc;
use nix::sys::mman::{MmapAdvise, madvise};

use crate::task::Tasks;

/// The allocator of daemons whose heap is large or changes fast: mimalloc.
///
/// Its call for aligned blocks takes the long way, with a block of the next size, for nearly every size that is no power of
/// two; its plain call aligns all of a block's first sixteen bytes as well.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

/// What every block of at least that size is aligned to, in bytes.
const ALIGNED: usize = 16;

/// Whether the plain call aligns such a block.
const fn is_plain(layout: Layout) -> bool {
    layout.align() <= ALIGNED && layout.align() <= layout.size()
}

#[expect(unsafe_code, reason = "this is what an allocator is")]
// SAFETY: mimalloc's blocks are of the size asked for, its calls for aligned ones align as asked, its plain ones as
// `is_plain` says; every block may be given to `mi_free` and the `mi_realloc`s. Nothing here unwinds.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: no precondition but that the alignment is a power of two, as a layout's is.
        let block = unsafe {
            if is_plain(layout) {
                mimalloc::mi_malloc(size)
            } else {
                mimalloc::mi_malloc_aligned(size, align)
            }
        };
        block.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as for `alloc`.
        let block = unsafe {
            if is_plain(layout) {
                mimalloc::mi_zalloc(size)
            } else {
                mimalloc::mi_zalloc_aligned(size, align)
            }
        };
        block.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller's block comes from here.
        unsafe { mimalloc::mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let is_plain = layout.align() <= ALIGNED && layout.align() <= size;
        // SAFETY: the caller's block comes from here.
        let block = unsafe {
            match is_plain {
                true => mimalloc::mi_realloc(block.cast(), size),
                false => mimalloc::mi_realloc_aligned(block.cast(), size, layout.align()),
            }
        };
        block.cast()
    }
}

/// How often what is free is given back; the first time soon after the start, which needs most.
const EVERY: Duration = Duration::from_secs(10);

/// Rounds of giving back that have begun; none in daemons that do not ask for them.
static ROUNDS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// The rounds that this thread has taken part in.
    static TAKEN: Cell<u32> = const { Cell::new(0) };
}

/// Gives back, from time to time, what this daemon does not use. For those whose heap is small: each round looks at all
/// of its pages.
pub fn give_back(tasks: &Tasks) {
    now_and_then(tasks, "memory", || {
        ROUNDS.fetch_add(1, Ordering::Relaxed);
    });
}

/// The same for a daemon that has the system's allocator, whose every round looks at all arenas.
pub fn trim(tasks: &Tasks) {
    now_and_then(tasks, "memory", trim_now);
}

fn now_and_then(tasks: &Tasks, name: &'static str, act: impl Fn() + Send + 'static) {
    let drain = tasks.drain();
    tasks.spawn(name, async move {
        while drain.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            act();
        }
    });
}

/// One arena of the system's allocator for all threads, where it would make eight a processor. For a daemon that waits
/// more than it computes: what a thread has freed, every other one can use. Before the first thread is made.
pub fn one_arena() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the allocator's settings have no safe wrapper")]
    // SAFETY: mallopt(3) takes two numbers and changes nothing that is in use.
    let told = unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1) };
    #[cfg(target_env = "gnu")]
    debug_assert_eq!(told, 1, "mallopt(3) knows the setting");
}

fn trim_now() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the allocator's trimming has no safe wrapper")]
    // SAFETY: malloc_trim(3) may be called at any time by any thread.
    let _whether_there_was_any = unsafe { nix::libc::malloc_trim(0) };
}

/// What a thread of the runtime does before it sleeps: a heap is a thread's, and nobody else can look at it.
pub(crate) fn before_sleep() {
    let begun = ROUNDS.load(Ordering::Relaxed);
    if TAKEN.replace(begun) != begun {
        collect();
    }
}

#[expect(unsafe_code, reason = "the allocator is a library of C without a safe wrapper for this")]
fn collect() {
    // SAFETY: mi_collect has no precondition: it looks at the pages of the calling thread and of threads that have
    // ended, and at regions nobody uses.
    unsafe { mimalloc::mi_collect(true) }
}

/// Lets go, from time to time, of the program's code and constants; what still runs is mapped again from the system's cache of files
/// as it is touched, a few hundred faults of a microsecond each.
pub(crate) fn let_go_of_code(tasks: &Tasks) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_default();
    let code = code_of(&maps, &program);
    now_and_then(tasks, "code", move || code.iter().for_each(unmap));
}

/// Where code is mapped, the program's and its libraries': what may be run and not written, and comes from a file; and
/// the program's constants, with which its file begins (proc_pid_maps(5)). Other parts that may only be read were
/// written when the program was loaded.
fn code_of(maps: &str, program: &Path) -> Vec<Range<usize>> {
    let of = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (range, rights, offset) = (words.next()?, words.next()?, words.next()?);
        let file = Path::new(words.nth(2)?);
        let number = |text| usize::from_str_radix(text, 16).ok();
        let is_code = match rights {
            "r-xp" => file.is_absolute(),
            "r--p" => file == program && number(offset) == Some(0),
            _ => false,
        };
        let (start, end) = range.split_once('-')?;
        is_code.then_some(number(start)?..number(end)?)
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

    #[test]
    #[expect(unsafe_code, reason = "blocks are taken and given back by hand")]
    fn blocks_are_aligned_zeroed_and_keep_what_is_in_them() {
        for align in [1, 2, 4, 8, 16, 32, 64, 128, 4096] {
            for size in (1..3000).step_by(7).chain([1 << 16, 3 << 20]) {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: blocks are written within their size, and given back with the layout they have.
                unsafe {
                    let block = Allocator.alloc_zeroed(layout);
                    assert!(block.addr().is_multiple_of(align), "{layout:?}");
                    assert!(
                        std::slice::from_raw_parts(block, size).iter().all(|byte| *byte == 0),
                        "{layout:?}"
                    );
                    block.write_bytes(7, size);
                    let block = Allocator.realloc(block, layout, size * 2);
                    assert!(block.addr().is_multiple_of(align), "{layout:?}");
                    assert!(
                        std::slice::from_raw_parts(block, size).iter().all(|byte| *byte == 7),
                        "{layout:?}"
                    );
                    Allocator.dealloc(block, Layout::from_size_align(size * 2, align).unwrap());
                    let block = Allocator.alloc(layout);
                    assert!(block.addr().is_multiple_of(align), "{layout:?}");
                    Allocator.dealloc(block, layout);
                }
            }
        }
    }

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
        let program = std::env::current_exe().unwrap();
        let here = code_of as fn(&str, &Path) -> Vec<Range<usize>> as usize;
        let all = code_of(&maps, &program);
        let code = all.iter().find(|range| range.contains(&here)).unwrap();
        // All of it, so that what other tests run in between makes no difference.
        for page in code.clone().step_by(4096) {
            let byte = NonNull::<u8>::with_exposed_provenance(NonZeroUsize::new(page).unwrap());
            touch(byte);
        }
        let before = resident(code);
        unmap(code);
        let after = resident(code);
        assert!(after < before / 2, "{before} kB, then {after} kB");
    }

    #[test]
    fn what_was_freed_between_what_is_used_goes_back_to_the_system() {
        let used = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            line.split_ascii_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        one_arena();
        let mut all: Vec<Option<Box<[u8]>>> = (0..64 << 10).map(|_| Some(vec![1; 1 << 10].into())).collect();
        let kept = 100;
        all.iter_mut().enumerate().filter(|(at, _)| at % kept != 0).for_each(|(_, one)| *one = None);
        let before = used();
        trim_now();
        let after = used();
        assert!(after + (32 << 10) < before, "{before} kB, then {after} kB");
    }

    #[expect(unsafe_code, reason = "a byte of the program itself is read")]
    fn touch(byte: NonNull<u8>) {
        // SAFETY: it lies in a mapping of this program's that may be read.
        let _seen = unsafe { byte.as_ptr().read_volatile() };
    }

    #[test]
    fn only_what_comes_from_files_and_was_never_written_is_code() {
        let maps = "1000-2000 r--p 00000000 fe:00 7 /bin/one\n2000-5000 r-xp 00001000 fe:00 7 /bin/one\n\
                    5000-5800 r--p 00004000 fe:00 7 /bin/one\n5800-6000 rw-p 00004800 fe:00 7 /bin/one\n\
                    6000-7000 r--p 00000000 fe:00 9 /lib/other.so\n7000-8000 r-xp 00001000 fe:00 9 /lib/other.so\n\
                    8000-9000 rw-p 00000000 00:00 0\n9000-a000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(code_of(maps, Path::new("/bin/one")), [0x1000..0x2000, 0x2000..0x5000, 0x7000..0x8000]);
    }
}
