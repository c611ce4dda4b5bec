//! Variables from a file of one of the pod's volumes: `NAME='value'`, as a POSIX shell would read it.
//!
//! Contract: core/v1 FileKeySelector (KEP-3721).

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Bytes of a file that are read at most; more is a mistake, or an attempt to fill the kubelet's memory.
const LARGEST: u64 = 1 << 20;

/// Why a file of variables is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Neither a variable nor a comment.
    #[error("line {0}: missing '='")]
    NoValue(usize),
    /// Nothing stands before the sign.
    #[error("line {0}: empty variable name")]
    NoName(usize),
    /// A space before the sign.
    #[error("line {0}: whitespace before '=' is not allowed")]
    Space(usize),
    /// Values stand in single quotes.
    #[error("line {0}: value must be enclosed in single quotes")]
    Unquoted(usize),
    /// Something but a comment after the value.
    #[error("line {0}: unexpected content after closing quote")]
    Behind(usize),
    /// The file ends within a value.
    #[error("starting at line {0}: unclosed single quote")]
    Unclosed(usize),
}

/// The value of a name, empty where it has none. What stands behind it is not looked at.
///
/// # Errors
/// When the file is wrong up to there.
pub fn value(text: &str, wanted: &str) -> Result<String, FileError> {
    let blank = [' ', '\t'];
    let mut lines = text.lines().zip(1..);
    while let Some((line, at)) = lines.next() {
        let line = line.trim_start_matches(blank);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or(FileError::NoValue(at))?;
        match name.trim_end_matches(blank) {
            "" => return Err(FileError::NoName(at)),
            trimmed if trimmed != name => return Err(FileError::Space(at)),
            _ => {}
        }
        if value.starts_with(blank) {
            // To a shell the value ends before the space.
            if name == wanted {
                return Ok(String::new());
            }
            continue;
        }
        let mut rest = value.strip_prefix('\'').ok_or(FileError::Unquoted(at))?;
        let mut found = String::new();
        let behind = loop {
            if let Some((last, behind)) = rest.split_once('\'') {
                found.push_str(last);
                break behind.trim_start_matches(blank);
            }
            found.push_str(rest);
            found.push('\n');
            rest = lines.next().ok_or(FileError::Unclosed(at))?.0;
        };
        if !behind.is_empty() && !behind.starts_with('#') {
            return Err(FileError::Behind(at));
        }
        if name == wanted {
            return Ok(found);
        }
    }
    Ok(String::new())
}

/// Reads a file of a volume. Its links lead nowhere but into the volume, and only a plain file is waited for.
///
/// # Errors
/// When there is none, or it is too large.
pub fn read(volume: &Path, path: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let file = File::from(rustix::fs::openat2(&root, path, flags, Mode::empty(), inside)?);
    let about = file.metadata()?;
    if !about.is_file() || about.len() > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no plain file of at most a megabyte"));
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_a_shell_reads_them() {
        let text = "# of the program\n\n  A='1'\n\tB='two # no comment'   # one\nC='a\n  b\n'\nE= 'x'\nF=''\nA='2'\n";
        for (name, value) in
            [("A", "1"), ("B", "two # no comment"), ("C", "a\n  b\n"), ("E", ""), ("F", ""), ("G", "")]
        {
            assert_eq!(super::value(text, name).as_deref(), Ok(value), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_before_the_name_is_told() {
        for (text, error) in [
            ("A", FileError::NoValue(1)),
            ("A='1'\n='2'", FileError::NoName(2)),
            ("A ='1'", FileError::Space(1)),
            ("A=1", FileError::Unquoted(1)),
            ("A=\"1\"", FileError::Unquoted(1)),
            ("A='1' 2", FileError::Behind(1)),
            ("\nA='1\n2\n", FileError::Unclosed(2)),
        ] {
            assert_eq!(value(text, "B"), Err(error), "{text:?}");
        }
        assert_eq!(value("B='1'\nrubbish", "B").as_deref(), Ok("1"), "what comes after is nobody's business");
    }

    #[test]
    fn files_are_looked_for_in_their_volume_only() {
        let (volume, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| volume.path().join(name);
        std::fs::create_dir(at("..1")).unwrap();
        std::fs::write(at("..1/env"), "A='1'").unwrap();
        std::os::unix::fs::symlink("..1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/env", at("env")).unwrap();
        assert_eq!(read(volume.path(), "env").unwrap(), "A='1'");
        std::fs::write(outside.path().join("env"), "A='2'").unwrap();
        std::os::unix::fs::symlink(outside.path().join("env"), at("away")).unwrap();
        std::fs::write(at("large"), vec![b'#'; (LARGEST + 1).try_into().unwrap()]).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for bad in ["away", "none", "large", "pipe", "..1"] {
            assert!(read(volume.path(), bad).is_err(), "{bad}");
        }
    }
}
