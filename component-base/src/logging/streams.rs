//! Where lines of the log go: all to standard error, or, with split streams, those that are no errors to standard output,
//! where they may wait until there are enough of them to be written together.

use std::{
    io::{self, Write},
    time::Duration,
};

use parking_lot::Mutex;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::Format;

/// No buffer is larger.
const MOST: usize = 2 * 1024 * 1024 * 1024;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    /// Lines that are no errors go to standard output.
    pub split: bool,
    /// Bytes of those lines that may wait; 0 for none, and without a split none do.
    pub buffer: usize,
    /// The longest they wait.
    pub flush: Duration,
}

impl Default for Streams {
    fn default() -> Self {
        Self { split: false, buffer: 0, flush: Duration::from_secs(5) }
    }
}

impl Streams {
    /// How often somebody has to [`flush`], if at all.
    fn period(self) -> Option<Duration> {
        (self.split && self.buffer > 0).then_some(self.flush)
    }
}

/// Lines that wait for company; a line is never written in parts.
#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    size: usize,
    period: Option<Duration>,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { lines: Vec::new(), size: 0, period: None });

impl Waiting {
    fn add(&mut self, line: &[u8], out: &mut impl Write) -> io::Result<()> {
        if self.lines.len() + line.len() > self.size {
            self.flush(out)?;
        }
        if line.len() > self.size {
            return out.write_all(line);
        }
        self.lines.extend_from_slice(line);
        Ok(())
    }

    /// What cannot be written is gone: lines do not pile up behind a closed stream.
    fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        let written = out.write_all(&self.lines);
        self.lines.clear();
        written
    }
}

/// Writes what waits.
pub fn flush() {
    let mut waiting = WAITING.lock();
    // There is nowhere to tell that a log cannot be written.
    let _written = waiting.flush(&mut io::stdout().lock()).is_ok();
}

/// How often [`flush`] has to be called; not at all where nothing waits.
pub fn flush_period() -> Option<Duration> {
    WAITING.lock().period
}

/// Picks the stream of each line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Router {
    format: Format,
    split: bool,
}

impl Router {
    pub(super) fn new(format: Format, streams: Streams) -> Self {
        let size = if streams.split { streams.buffer.min(MOST) } else { 0 };
        *WAITING.lock() = Waiting { lines: Vec::new(), size, period: streams.period() };
        Self { format, split: streams.split }
    }

    /// Whether lines of a level are no errors. In text only what begins with an I is none.
    fn is_info(self, level: Level) -> bool {
        self.split && level > Level::ERROR && (self.format == Format::Json || level > Level::WARN)
    }
}

/// A stream for one line.
#[derive(Debug)]
pub(super) enum Stream {
    Errors(io::Stderr),
    Infos,
}

impl Write for Stream {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Self::Errors(stream) => stream.write(line),
            Self::Infos => WAITING.lock().add(line, &mut io::stdout().lock()).map(|()| line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Errors(stream) => stream.flush(),
            Self::Infos => Ok(()),
        }
    }
}

impl MakeWriter<'_> for Router {
    type Writer = Stream;

    fn make_writer(&self) -> Stream {
        Stream::Errors(io::stderr())
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> Stream {
        if self.is_info(*metadata.level()) { Stream::Infos } else { self.make_writer() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_infos_leave_the_stream_of_errors() {
        for (format, split, infos) in [
            (Format::Text, false, [false, false, false, false]),
            (Format::Text, true, [false, false, true, true]),
            (Format::Json, true, [false, true, true, true]),
        ] {
            let router = Router { format, split };
            let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG];
            assert_eq!(levels.map(|level| router.is_info(level)), infos, "{format:?} {split}");
        }
    }

    #[test]
    fn lines_wait_whole_until_there_is_no_room() {
        let mut out = Vec::new();
        let mut waiting = Waiting { size: 8, ..Waiting::default() };
        for (line, written) in [
            ("one\n", ""),
            ("two\n", ""),
            ("three\n", "one\ntwo\n"),
            ("longer than all\n", "one\ntwo\nthree\nlonger than all\n"),
        ] {
            waiting.add(line.as_bytes(), &mut out).unwrap();
            assert_eq!(String::from_utf8_lossy(&out), written, "{line}");
        }
        waiting.add(b"a\n", &mut out).unwrap();
        waiting.flush(&mut out).unwrap();
        assert!(out.ends_with(b"all\na\n") && waiting.lines.is_empty());
        let mut at_once = Waiting::default();
        at_once.add(b"b\n", &mut out).unwrap();
        assert!(out.ends_with(b"a\nb\n"));
    }

    #[test]
    fn only_what_waits_is_flushed() {
        let of = |split, buffer| Streams { split, buffer, ..Streams::default() }.period();
        assert_eq!(of(true, 1), Some(Duration::from_secs(5)));
        assert_eq!((of(false, 1), of(true, 0)), (None, None));
    }
}
