//! Sockets on which programs of the node are served: they are made anew, and nobody may ask without end.
//!
//! Contract: upstream's `pkg/kubelet/apis/grpc`, which limits calls that are answered at once.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;

/// From call to call, where they come without end.
const GAP: Duration = Duration::from_millis(10);
/// Calls that may come together.
const BURST: u32 = 10;

/// A socket of this name in the folder, in place of one that may be there.
///
/// # Errors
/// When it cannot be made.
pub fn bind(folder: &Path, name: &str) -> io::Result<UnixListenerStream> {
    fs::create_dir_all(folder)?;
    let path = folder.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(UnixListenerStream::new(UnixListener::bind(path)?))
}

/// When all calls would have come that were let in, had they come one after the other.
#[derive(Debug)]
pub struct Limiter(Mutex<Instant>);

impl Limiter {
    /// Nobody has called yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(now))
    }

    /// Lets a call in.
    ///
    /// # Errors
    /// When there were too many.
    pub fn enter(&self, now: Instant) -> Result<(), Status> {
        let mut due = self.0.lock();
        let next = now.max(*due) + GAP;
        if next.saturating_duration_since(now) > GAP * BURST {
            return Err(Status::resource_exhausted("rejected by rate limit"));
        }
        *due = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_come_in_at_once_and_more_as_time_goes_by() {
        let begun = Instant::now();
        let limiter = Limiter::new(begun);
        let entered = |at: u64| {
            let now = begun + Duration::from_millis(at);
            (0..1000).take_while(|_| limiter.enter(now).is_ok()).count()
        };
        assert_eq!((entered(0), entered(9), entered(10), entered(60), entered(10_000)), (10, 0, 1, 5, 10));
        let refused = limiter.enter(begun).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    }
}
