//! SIGTERM and SIGINT: the first drains the daemon, a second one ends it at once with exit code 1 (as upstream does).

use tokio::signal::unix::{Signal, SignalKind, signal as listen};

use crate::task::Tasks;

/// Starts listening for signals. Must be called inside the runtime, once per process.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn signal(tasks: &Tasks) -> std::io::Result<()> {
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let drained = tasks.clone();
    tasks.spawn_contained("signals", async move {
        let drain = drained.drain();
        if drain.run_until_cancelled(next(&mut terminate, &mut interrupt)).await.is_some() {
            tracing::info!("received a signal, draining");
            drained.cancel();
        }
    });
    spawn_abort_on_second()
}

fn spawn_abort_on_second() -> std::io::Result<()> {
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    // Outside the task group on purpose: it must outlive the drain it may have to cut short.
    #[allow(clippy::disallowed_methods, reason = "must not be waited for by the drain")]
    tokio::spawn(async move {
        next(&mut terminate, &mut interrupt).await;
        next(&mut terminate, &mut interrupt).await;
        std::process::exit(1);
    });
    Ok(())
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
