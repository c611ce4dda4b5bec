//! What all streams of an HTTP/2 connection write goes out together.
//!
//! An HTTP/2 connection flushes after every message of some size: thirty requests under way are as many system calls
//! and TLS records, here and at the other side. A corked stream takes such a flush as a wish: it holds the bytes and has
//! the connection polled once more, behind the tasks that are ready now; what they have written by then goes out in one
//! piece. An idle connection loses one turn of the scheduler.
//!
//! ```text
//! turn 1   read: nothing    write, flush, write, flush    held
//! turn 2   read: nothing    write, flush                  all of it is sent
//! ```
//! For connections whose task polls reading in every turn, and flushing after it, as HTTP/2 does; one that only reads
//! in its next turn (a TLS handshake does) has its bytes sent then.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};

/// Bytes held at the most: a TLS record.
const ROOM: usize = 16 * 1024;

/// A stream that holds what is written until the next turn of its task.
#[derive(Debug)]
pub(crate) struct Cork<T> {
    io: T,
    /// Off, everything goes through as it comes.
    is_on: bool,
    held: Vec<u8>,
    /// So much of it is sent.
    sent: usize,
    wish: Wish,
}

/// How far a flush is that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Nobody wants one.
    None,
    /// In this turn.
    New,
    /// In an earlier turn, or nothing more was to be read in this one.
    Due,
}

impl<T> Cork<T> {
    /// Corks a stream.
    pub(crate) fn new(io: T) -> Self {
        Self { io, is_on: true, held: Vec::new(), sent: 0, wish: Wish::None }
    }

    /// The stream as it is, unless it `is_on`.
    pub(crate) fn only_if(is_on: bool, io: T) -> Self {
        Self { is_on, ..Self::new(io) }
    }
}

impl<T: Write + Unpin> Cork<T> {
    /// Sends what is held.
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            match ready!(Pin::new(&mut self.io).poll_write(context, &self.held[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        // Most connections are idle most of the time: none keeps its room.
        (self.held, self.sent, self.wish) = (Vec::new(), 0, Wish::None);
        Poll::Ready(Ok(()))
    }
}

impl<T: Write + Unpin> Write for Cork<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let size = parts.iter().map(|part| part.len()).sum::<usize>();
        if self.held.len() + size > ROOM {
            ready!(self.drain(context))?;
        }
        if !self.is_on || size > ROOM {
            return Pin::new(&mut self.io).poll_write_vectored(context, parts);
        }
        parts.iter().for_each(|part| self.held.extend_from_slice(part));
        Poll::Ready(Ok(size))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            match self.wish {
                Wish::Due => ready!(self.drain(context))?,
                Wish::New => return Poll::Ready(Ok(())),
                Wish::None => {
                    self.wish = Wish::New;
                    context.waker().wake_by_ref();
                    return Poll::Ready(Ok(()));
                }
            }
        }
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(context))?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

impl<T: Read + Write + Unpin> Read for Cork<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.wish == Wish::Due && self.drain(context)?.is_ready() {
            // Whether or not that is done at once: the stream below wakes this task when it can go on.
            let _later = Pin::new(&mut self.io).poll_flush(context)?;
        }
        let read = Pin::new(&mut self.io).poll_read(context, room);
        if read.is_pending() && self.wish == Wish::New {
            self.wish = Wish::Due;
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use hyper::rt::ReadBuf;

    use super::*;

    /// What went out, write by write, and what there is to be read.
    #[derive(Debug, Default)]
    struct Wire {
        writes: Vec<Vec<u8>>,
        /// Bytes taken by the coming writes; then everything is.
        takes: VecDeque<usize>,
        reads: usize,
        ended: bool,
    }

    impl Write for Wire {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = self.takes.pop_front().unwrap_or(bytes.len()).min(bytes.len());
            if taken == 0 {
                return Poll::Pending;
            }
            self.writes.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.ended = true;
            Poll::Ready(Ok(()))
        }
    }

    impl Read for Wire {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            if self.reads == 0 {
                return Poll::Pending;
            }
            self.reads -= 1;
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Task {
        cork: Cork<Wire>,
        woken: Arc<Woken>,
    }

    impl Task {
        fn new(is_on: bool) -> Self {
            Self { cork: Cork::only_if(is_on, Wire::default()), woken: Arc::default() }
        }

        fn with<O>(&mut self, poll: impl FnOnce(Pin<&mut Cork<Wire>>, &mut Context<'_>) -> O) -> O {
            let waker = self.woken.clone().into();
            poll(Pin::new(&mut self.cork), &mut Context::from_waker(&waker))
        }

        /// Reads all there is.
        fn read(&mut self) {
            let mut room = [0; 8];
            let mut buffer = ReadBuf::new(&mut room);
            while self.with(|cork, context| cork.poll_read(context, buffer.unfilled())).is_ready() {}
        }

        fn write(&mut self, bytes: &[u8]) -> bool {
            self.with(|cork, context| cork.poll_write(context, bytes)).is_ready()
        }

        fn flush(&mut self) -> bool {
            self.with(|cork, context| cork.poll_flush(context)).is_ready()
        }

        fn woken(&self) -> usize {
            self.woken.0.load(Ordering::Relaxed)
        }

        fn writes(&mut self) -> Vec<Vec<u8>> {
            std::mem::take(&mut self.cork.io.writes)
        }
    }

    #[test]
    fn what_two_turns_write_goes_out_at_once() {
        let mut task = Task::new(true);
        task.read();
        for part in [b"a", b"b"] {
            assert!(task.write(part) && task.flush());
        }
        assert_eq!((task.writes(), task.woken()), (vec![], 1), "asked to be polled again, once");
        task.cork.io.reads = 2;
        task.read();
        assert!(task.write(b"c"));
        assert_eq!(task.writes(), Vec::<Vec<u8>>::new());
        assert!(task.flush());
        assert_eq!((task.writes(), task.woken()), (vec![b"abc".to_vec()], 1));
        task.read();
        assert!(task.flush());
        assert_eq!((task.writes(), task.woken()), (vec![], 1), "nothing is left");
    }

    #[test]
    fn who_only_reads_then_has_it_sent_too() {
        let mut task = Task::new(true);
        assert!(task.write(b"hello") && task.flush());
        task.read();
        assert_eq!((task.writes(), task.woken()), (vec![], 1));
        task.read();
        assert_eq!(task.writes(), vec![b"hello".to_vec()]);
    }

    #[test]
    fn a_slow_wire_gets_all_in_order() {
        let mut task = Task::new(true);
        assert!(task.write(b"abcdef") && task.flush());
        task.read();
        task.cork.io.takes = [2, 0, 3, 0].into();
        assert!(!task.flush());
        assert!(task.write(b"gh"));
        assert!(!task.flush());
        assert!(task.flush());
        assert_eq!(task.writes().concat(), b"abcdefgh");
    }

    #[test]
    fn much_is_not_held() {
        let mut task = Task::new(true);
        let large = vec![b'x'; ROOM + 1];
        assert!(task.write(b"head") && task.write(&large));
        assert_eq!(task.writes(), vec![b"head".to_vec(), large.clone()]);
        for _ in 0..3 {
            assert!(task.write(&large[..ROOM / 2]));
        }
        assert_eq!(task.writes(), vec![large[..ROOM].to_vec()]);
    }

    #[test]
    fn nothing_is_held_at_the_end_or_when_it_is_off() {
        let mut task = Task::new(true);
        assert!(task.write(b"bye"));
        assert!(task.with(|cork, context| cork.poll_shutdown(context)).is_ready());
        assert!(task.cork.io.ended);
        assert_eq!(task.writes(), vec![b"bye".to_vec()]);
        let mut task = Task::new(false);
        assert!(task.write(b"a") && task.flush() && task.write(b"b"));
        assert_eq!((task.writes(), task.woken()), (vec![b"a".to_vec(), b"b".to_vec()], 0));
    }
}
