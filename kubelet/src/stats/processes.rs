//! What processes hold, from /proc.

use std::path::Path;

/// What some processes hold, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// How many there are.
    pub processes: usize,
    /// Open files.
    pub files: usize,
    /// Those of them that are sockets.
    pub sockets: usize,
    /// Open files that the first one may have; -1 is no limit.
    pub most_files: Option<i64>,
}

/// Looks at these processes; `proc` is `/proc` but in tests. One that has ended meanwhile holds nothing.
#[must_use]
pub fn held(proc: &Path, ids: &[u32]) -> Held {
    let mut held = Held { processes: ids.len(), ..Held::default() };
    for id in ids {
        let folder = proc.join(id.to_string());
        for entry in std::fs::read_dir(folder.join("fd")).into_iter().flatten().filter_map(Result::ok) {
            held.files += 1;
            let target = std::fs::read_link(entry.path());
            let is_socket = target.is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
            held.sockets += usize::from(is_socket);
        }
    }
    held.most_files = ids.iter().min().and_then(|first| {
        most_files(&std::fs::read_to_string(proc.join(first.to_string()).join("limits")).ok()?)
    });
    held
}

/// The soft limit of the line `Max open files            1024                 4096                 files`.
fn most_files(limits: &str) -> Option<i64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(-1),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn open_files_sockets_and_the_first_ones_limit_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        for (id, limit) in [("7", "1024"), ("9", "unlimited")] {
            let folder = dir.path().join(id);
            std::fs::create_dir_all(folder.join("fd")).unwrap();
            let limits = format!("Limit          Soft Limit\nMax open files {limit}   4096   files\n");
            std::fs::write(folder.join("limits"), limits).unwrap();
            symlink("/dev/null", folder.join("fd/0")).unwrap();
            symlink("socket:[12]", folder.join("fd/1")).unwrap();
        }
        let held = held(dir.path(), &[9, 7, 11]);
        assert_eq!(held, Held { processes: 3, files: 4, sockets: 2, most_files: Some(1024) });
        assert_eq!(super::held(dir.path(), &[9]).most_files, Some(-1));
        assert_eq!(super::held(dir.path(), &[]), Held::default());
    }
}
